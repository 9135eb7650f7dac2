"""What a job sees of where it was submitted, and what nobody sees of it."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import Context, Job, JobCancelled, Retry, ThreadPool, current_context, current_job
from tests.gates import GUARD, Gate, in_thread
from tests.pool.script import running
from tests.pool.watching import held_pool

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


def paint(new: str) -> str:
    """Sets the color; gives the one that was there before."""
    before = color.get()
    color.set(new)
    return before


@pytest.fixture(autouse=True)
def unpainted() -> Iterator[None]:
    token = color.set("none")
    yield
    color.reset(token)


def test_a_job_sees_the_contextvars_of_the_moment_of_its_submit() -> None:
    with held_pool() as (pool, gate):
        color.set("red")
        first = pool.submit(color.get)
        color.set("blue")
        second = pool.submit(color.get)
        color.set("green")
        gate.open()

        assert (first.result(GUARD), second.result(GUARD)) == ("red", "blue")


def test_what_a_job_sets_is_seen_by_nobody_else() -> None:
    with ThreadPool(1) as pool:
        assert pool.submit(paint, "red").result(GUARD) == "none"

        assert color.get() == "none"
        assert pool.submit(color.get).result(GUARD) == "none"


@pytest.mark.parametrize("way", ["map", "stream"])
def test_the_jobs_of_one_map_or_stream_see_nothing_of_one_another(way: str) -> None:
    color.set("given")

    with ThreadPool(1, backlog=1) as pool:
        if way == "map":
            seen = list(pool.map(paint, ["red", "blue", "green"]))
        else:
            seen = [job.result() for job in pool.stream(paint, ["red", "blue", "green"])]

    assert seen == ["given"] * 3


def test_the_next_attempt_sees_nothing_of_the_one_before() -> None:
    seen: list[str] = []

    def paint_and_fail() -> None:
        seen.append(paint("red"))
        job = current_job()
        assert job is not None
        if job.attempt < 3:
            raise ValueError

    color.set("given")
    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        pool.submit(paint_and_fail).result(GUARD)

    assert seen == ["given"] * 3


def test_the_worker_itself_stays_unpainted() -> None:
    seen: list[str] = []

    def initializer() -> None:
        seen.append(color.get())

    with ThreadPool(1, initializer=initializer) as pool:
        color.set("red")
        pool.submit(paint, "blue").result(GUARD)
        assert pool.submit(color.get).result(GUARD) == "red"

    assert len(seen) == 1


def test_a_child_job_sees_the_contextvars_of_its_parent() -> None:
    def parent() -> str:
        color.set("red")
        return pool.submit(color.get).result()

    with ThreadPool(1) as pool:
        assert pool.submit(parent).result(GUARD) == "red"


def test_every_job_has_contextvars_of_its_own_even_at_the_same_time() -> None:
    together = threading.Barrier(4)

    def paint_together(new: str) -> str:
        color.set(new)
        together.wait(GUARD)
        return color.get()

    with ThreadPool(4) as pool:
        assert list(pool.map(paint_together, "abcd")) == ["a", "b", "c", "d"]


# The current job and its context


def test_current_job_is_the_running_one_and_none_outside() -> None:
    with ThreadPool(1) as pool:
        job: Job[Any] = pool.submit(current_job)

        assert job.result(GUARD) is job
        assert current_job() is None


def test_a_child_is_its_own_current_job() -> None:
    def parent() -> bool:
        child: Job[Any] = pool.submit(current_job)
        return child.result() is child and current_job() is not child

    with ThreadPool(1) as pool:
        assert pool.submit(parent).result(GUARD)


def test_a_thread_that_a_job_starts_is_part_of_no_job() -> None:
    with ThreadPool(1) as pool:
        assert pool.submit(lambda: in_thread(current_job).result(GUARD)).result(GUARD) is None


def test_a_thread_with_a_copy_of_the_contextvars_of_a_job_is_part_of_it() -> None:
    def ask_in_a_thread() -> Job[Any] | None:
        return in_thread(contextvars.copy_context().run, current_job).result(GUARD)

    with ThreadPool(1) as pool:
        for view in (pool, pool.options(timeout=60)):
            job = view.submit(ask_in_a_thread)

            assert job.result(GUARD) is job


def test_an_observer_that_asks_for_the_current_job_leaves_the_worker_as_it_was() -> None:
    gate = Gate()
    of_callbacks: list[Job[Any] | None] = []

    with ThreadPool(1) as pool:
        pool.observe(lambda event: current_job())
        pool.submit(int).result(GUARD)
        job = pool.submit(gate)
        job.add_done_callback(lambda _: of_callbacks.append(current_job()))
        gate.open()

    assert of_callbacks == [None]


def test_a_done_callback_is_part_of_no_job() -> None:
    gate = Gate()
    of_callbacks: list[Job[Any] | None] = []

    with ThreadPool(1) as pool:
        for view in (pool, pool.options(timeout=60)):
            job = view.submit(gate)
            job.add_done_callback(lambda _: of_callbacks.append(current_job()))
        gate.open()

    assert of_callbacks == [None, None]


def test_a_fresh_thread_in_the_child_of_a_fork_is_part_of_no_job_of_the_parent(tmp_path: Path) -> None:
    code = """
        with ThreadPool(2) as pool:
            inside, gate = threading.Event(), threading.Event()
            for _ in range(2):
                pool.submit(lambda: (inside.set(), gate.wait()))
            inside.wait()
            if os.fork() == 0:
                together = threading.Barrier(8)
                threads = [
                    threading.Thread(target=lambda: (together.wait(), say(current_job()))) for _ in range(8)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                os._exit(0)
            os.wait()
            gate.set()
    """
    with running(tmp_path, code) as script:
        script.expect(*["None"] * 8)
        assert script.end() == 0


def test_current_job_is_found_from_within_a_block_in_the_job() -> None:
    def in_a_block() -> Job[Any] | None:
        with Context(timeout=60):
            return current_job()

    with ThreadPool(1) as pool:
        job = pool.submit(in_a_block)

        assert job.result(GUARD) is job


def test_values_and_time_are_inherited_from_the_block_in_which_a_job_is_submitted() -> None:
    def look() -> tuple[Any, float]:
        return current_context().value("who"), current_context().remaining()

    with ThreadPool(1) as pool, Context(timeout=60, values={"who": "me"}):
        who, left = pool.submit(look).result(GUARD)

    assert who == "me"
    assert 0 < left <= 60


def test_values_are_inherited_through_generations_and_the_nearest_counts() -> None:
    def parent() -> dict[str, str]:
        with Context(values={"who": "parent", "where": "here"}):
            return pool.submit(lambda: dict(current_context().values)).result()

    with ThreadPool(1) as pool, Context(values={"who": "main", "when": "now"}):
        seen = pool.submit(parent).result(GUARD)

    assert seen == {"who": "parent", "where": "here", "when": "now"}


def test_values_and_time_are_there_for_maps_streams_and_the_next_attempt() -> None:
    seen: list[tuple[Any, bool]] = []

    def look(_: int) -> None:
        seen.append((current_context().value("who"), current_context().remaining() <= 60))
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError

    with ThreadPool(1, retry=Retry(2, wait=0)) as pool, Context(timeout=60, values={"who": "me"}):
        list(pool.map(look, [1, 2]))
        list(pool.stream(look, [1, 2]))

    assert seen == [("me", True)] * 8


def test_a_context_that_is_given_counts_in_place_of_the_callers() -> None:
    given = Context(values={"who": "given"})

    with ThreadPool(1) as pool, Context(timeout=60, values={"who": "block"}):
        view = pool.options(context=given)

        assert view.submit(lambda: current_context().value("who")).result(GUARD) == "given"
        assert view.submit(lambda: current_context().remaining()).result(GUARD) == math.inf


def test_context_none_detaches_a_job_from_its_caller() -> None:
    def look() -> tuple[Any, float]:
        return current_context().value("who"), current_context().remaining()

    with ThreadPool(1) as pool, Context(timeout=60, values={"who": "me"}) as context:
        job = pool.options(context=None).submit(look)
        context.cancel()

        assert pool.submit(int).context.cancelled
        assert in_thread(job.result, GUARD).result(GUARD) == (None, math.inf)


def test_context_none_leaves_the_contextvars() -> None:
    color.set("red")

    with ThreadPool(1) as pool:
        assert pool.options(context=None).submit(color.get).result(GUARD) == "red"


def test_a_block_that_was_left_is_not_the_context_of_later_jobs() -> None:
    with ThreadPool(1) as pool:
        with Context(timeout=60):
            pass

        assert pool.submit(lambda: current_context().remaining()).result(GUARD) == math.inf


def test_a_job_that_is_cancelled_through_its_context_while_it_waits_is_not_run() -> None:
    ran: list[int] = []

    with held_pool() as (pool, gate):
        job = pool.submit(ran.append, 1)
        job.context.cancel("through its context")
        gate.open()

        with pytest.raises(JobCancelled, match="through its context"):
            job.result(GUARD)
        assert job.cancelled()
    assert ran == []
