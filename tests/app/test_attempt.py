"""What the end of a call means for its job, where no store would take it as it is."""

from __future__ import annotations

import pytest

from penstock import App, Discard, JobFailed, Snooze, testing
from penstock.engines.records import Failed


@pytest.fixture
def app() -> App:
    return App("memory://")


def test_the_error_of_a_job_may_hold_what_is_no_unicode(app: App) -> None:
    """As an error does that tells of a file with an odd name."""

    @app.task
    def read() -> None:
        raise FileNotFoundError("no such file: caf\udce9.txt")

    with testing.in_memory(app):
        handle = read.enqueue()
        testing.run_all(app)

        with pytest.raises(JobFailed, match=r"caf\\udce9\.txt"):
            handle.result(0)


def test_failures_that_no_line_of_the_users_code_tells_apart_are_kinds_of_their_tasks(
    app: App,
) -> None:
    @app.task
    def count() -> int:
        return "many"  # type: ignore[return-value]

    @app.task
    def draw() -> bytes:
        return "a lamp"  # type: ignore[return-value]

    with testing.in_memory(app):
        for task in (count, draw):
            task.enqueue()
        testing.run_all(app)

        kinds = app.store.find(Failed())
    assert sorted((kind.task, kind.count) for kind in kinds) == [(count.name, 1), (draw.name, 1)]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Snooze(1e300), "delay"),
        (Discard("caf\udce9"), "Unicode"),
        (Discard(7), "text"),  # type: ignore[arg-type]
    ],
    ids=["a snooze for ever", "a reason that is no Unicode", "a reason that is no text"],
)
def test_a_job_that_asks_for_what_no_store_takes_fails_and_holds_nobody_up(
    app: App, asked: Exception, why: str
) -> None:
    @app.task
    def ask() -> None:
        raise asked

    @app.task
    def work() -> str:
        return "done"

    with testing.in_memory(app):
        asking, working = ask.enqueue(), work.enqueue()
        testing.run_all(app)

        with pytest.raises(JobFailed, match=why):
            asking.result(0)
        assert working.result(0) == "done"
