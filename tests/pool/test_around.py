"""`around`: what is entered before each job and left after it, in its worker."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType

import pytest

from penstock import Cancelled, JobCancelled, Retry, ThreadPool, current_context, current_job
from tests.gates import GUARD, Gate
from tests.pool.watching import full_pool

inside: contextvars.ContextVar[str] = contextvars.ContextVar("inside", default="outside")


class Around:
    """Notes what it goes around: the job and the thread at its begin, how the job ended at its end."""

    def __init__(self) -> None:
        self.entered: list[tuple[int | str, str]] = []
        self.left: list[BaseException | None] = []

    def __call__(self) -> AbstractContextManager[None]:
        return self.span()

    @contextlib.contextmanager
    def span(self) -> Iterator[None]:
        job = current_job()
        assert job is not None
        self.entered.append((job.id, threading.current_thread().name))
        inside.set("inside")
        try:
            yield
        except BaseException as error:
            self.left.append(error)
            raise
        else:
            self.left.append(None)


def test_it_is_entered_and_left_around_each_job_in_its_worker() -> None:
    around = Around()

    with ThreadPool(1, around=around, name="wrapped") as pool:
        assert [job.result() for job in pool.stream(abs, [-1, -2, -3], ordered=True)] == [1, 2, 3]

    assert around.entered == [(1, "wrapped_0"), (2, "wrapped_0"), (3, "wrapped_0")]
    assert around.left == [None, None, None]


def test_the_job_sees_the_contextvars_that_it_sets_and_the_next_job_does_not() -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        seen.append(inside.get())
        inside.set("inside")
        yield

    with ThreadPool(1, around=around) as pool:
        assert list(pool.map(lambda _: inside.get(), range(2))) == ["inside"] * 2

    assert seen == ["outside"] * 2


def test_the_context_of_the_job_is_there_in_it() -> None:
    left: list[float] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        left.append(current_context().remaining())
        yield

    with ThreadPool(1, around=around, timeout=60) as pool:
        pool.submit(int).result(GUARD)

    assert 0 < left[0] <= 60


def test_it_sees_the_error_of_the_job() -> None:
    around = Around()

    with ThreadPool(1, around=around) as pool:
        error = pool.submit(divmod, 1, 0).exception(GUARD)

    assert around.left == [error]


def test_it_sees_a_job_that_was_asked_to_stop() -> None:
    around, began = Around(), threading.Event()

    def rest() -> None:
        began.set()
        current_context().sleep(GUARD)

    with ThreadPool(1, around=around) as pool:
        job = pool.submit(rest)
        assert began.wait(GUARD)
        job.cancel()
        assert isinstance(job.exception(GUARD), JobCancelled)

    assert isinstance(around.left[0], Cancelled)


def test_it_is_entered_for_every_attempt() -> None:
    around = Around()

    def fail_once() -> None:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError

    with ThreadPool(1, around=around, retry=Retry(2, wait=0)) as pool:
        pool.submit(fail_once).result(GUARD)

    assert [type(error) for error in around.left] == [ValueError, type(None)]


class Failing:
    def __init__(self, at: str) -> None:
        self.at = at

    def __enter__(self) -> None:
        if self.at == "entering":
            raise LookupError(self.at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.at == "leaving":
            raise LookupError(self.at)


@pytest.mark.parametrize("at", ["making", "entering", "leaving"])
def test_its_error_fails_the_job_and_not_the_worker(at: str) -> None:
    failing = True
    ran: list[int] = []

    def around() -> AbstractContextManager[None]:
        if failing and at == "making":
            raise LookupError(at)
        return Failing(at if failing else "never")

    with ThreadPool(1, around=around) as pool:
        job = pool.submit(ran.append, 1)
        with pytest.raises(LookupError, match=at):
            job.result(GUARD)
        failing = False
        again = pool.submit(ran.append, 2)
        again.result(GUARD)

        assert again.worker == job.worker
    assert ran == ([1, 2] if at == "leaving" else [2])
    assert pool.failures.total == 1


def test_it_may_swallow_the_error_of_the_job_which_then_has_no_result() -> None:
    with ThreadPool(1, around=lambda: contextlib.suppress(ZeroDivisionError)) as pool:
        assert pool.submit(divmod, 1, 0).result(GUARD) is None


def test_it_is_not_entered_for_a_job_that_does_not_run() -> None:
    around = Around()
    gate = Gate()

    with ThreadPool(1, around=around) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(int).cancel()
        gate.open()

    assert len(around.entered) == 1


def test_it_is_entered_in_the_caller_too() -> None:
    around = Around()

    with full_pool(when_full="caller", around=around) as full:
        job = full.pool.submit(int)

        assert around.entered[-1] == (job.id, threading.current_thread().name)
        assert inside.get() == "outside"
