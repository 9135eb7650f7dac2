"""Another attempt: how often, how it waits, and who may stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Context, Job, JobCancelled, JobState, Retry, ThreadPool, current_job
from penstock.events import JobEnded, JobRetried, JobStarted
from penstock.pool.ladder import cancel
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, until

LONG = Retry(2, wait=3600, max_wait=3600, jitter=0)  # the next attempt is never there within a test


class FailsAtFirst:
    """Raises in its first *times* attempts, then gives the number of the attempt."""

    def __init__(self, times: int, error: type[BaseException] = ValueError) -> None:
        self.times = times
        self.error = error

    def __call__(self, *_args: Any) -> int:
        job = current_job()
        assert job is not None
        if job.attempt <= self.times:
            raise self.error(f"attempt {job.attempt}")
        return job.attempt


def test_attempts_counts_the_first_one() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        assert pool.submit(FailsAtFirst(2)).result(GUARD) == 3

        job = pool.submit(FailsAtFirst(3))
        with pytest.raises(ValueError, match="attempt 3"):
            job.result(GUARD)
        assert job.attempt == 3


def test_retry_is_off_unless_asked_for() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(FailsAtFirst(1))

        assert isinstance(job.exception(GUARD), ValueError)
        assert job.attempt == 1


def test_a_view_can_ask_for_it_and_a_view_can_take_it_back() -> None:
    with ThreadPool(1, retry=Retry(2, wait=0)) as pool:
        assert pool.options(retry=Retry(3, wait=0)).submit(FailsAtFirst(2)).result(GUARD) == 3
        assert isinstance(pool.options(retry=None).submit(FailsAtFirst(1)).exception(GUARD), ValueError)


def test_only_what_is_named_is_tried_again() -> None:
    with ThreadPool(1, retry=Retry(3, on=(OSError,), wait=0)) as pool:
        assert pool.submit(FailsAtFirst(2, ConnectionError)).result(GUARD) == 3
        assert isinstance(pool.submit(FailsAtFirst(2, ValueError)).exception(GUARD), ValueError)


def test_what_only_leaves_processes_is_not_tried_again() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        job = pool.submit(FailsAtFirst(1, SystemExit))

        assert isinstance(job.exception(GUARD), SystemExit)
        assert job.attempt == 1


def test_a_failure_that_was_made_good_is_no_failure() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0), unobserved="raise") as pool:
        pool.submit(FailsAtFirst(2))

    assert (pool.report.done, pool.report.failed, pool.failures.total) == (1, 0, 0)


def test_a_job_is_ready_scheduled_and_done_only_once() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        seen = Seen(pool)
        pool.submit(FailsAtFirst(2)).result(GUARD)

    assert [event.attempt for event in seen.of(JobStarted)] == [1, 2, 3]
    assert [(event.attempt, str(event.error)) for event in seen.of(JobRetried)] == [(1, "attempt 1"), (2, "attempt 2")]
    assert [(event.attempt, event.state) for event in seen.of(JobEnded)] == [(3, "done")]


def test_the_wait_before_another_attempt_is_that_of_the_retry() -> None:
    with ThreadPool(1) as pool:
        seen = Seen(pool)
        pool.options(retry=Retry(3, wait=0.01, factor=3, jitter=0)).submit(FailsAtFirst(2)).result(GUARD)

    assert [event.delay for event in seen.of(JobRetried)] == [0.01, 0.03]


def test_no_attempt_begins_after_max_elapsed() -> None:
    with ThreadPool(1) as pool:
        job = pool.options(retry=Retry(5, wait=60, jitter=0, max_elapsed=30)).submit(FailsAtFirst(1))

        assert isinstance(job.exception(GUARD), ValueError)
        assert job.attempt == 1


def test_the_same_arguments_are_there_in_every_attempt() -> None:
    given: list[tuple[tuple[int, ...], dict[str, int]]] = []

    def note(*args: int, **kwargs: int) -> None:
        given.append((args, kwargs))
        FailsAtFirst(2)()

    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        pool.submit(note, 1, 2, key=3).result(GUARD)

    assert given == [((1, 2), {"key": 3})] * 3


# Waiting for it


def test_a_job_that_waits_for_another_attempt_holds_no_worker_and_no_place() -> None:
    gate = Gate()
    with ThreadPool(1, backlog=1, when_full="reject") as pool:
        seen = Seen(pool)
        jobs = []
        for number in range(5):
            jobs.append(pool.options(retry=LONG).submit(FailsAtFirst(1)))
            seen.wait_for(JobRetried, number + 1)
        until(lambda: pool.report.retrying == 5)

        assert {job.state for job in jobs} == {JobState.SCHEDULED}
        assert not any(job.done() or job.running() for job in jobs)
        running = pool.submit(gate)
        gate.wait_entered()
        pool.submit(int)
        assert (pool.stats().retrying, pool.stats().queued, pool.stats().running) == (5, 1, 1)
        gate.open()
        running.result(GUARD)
        for job in jobs:
            job.cancel()


def test_a_job_whose_time_has_come_needs_no_place_in_a_full_backlog() -> None:
    gate = Gate()
    first = threading.Event()

    def fail_once() -> str:
        first.set()
        FailsAtFirst(1)()
        return "again"

    with ThreadPool(1, backlog=1) as pool:
        seen = Seen(pool)
        job = pool.options(retry=Retry(2, wait=0.05, jitter=0)).submit(fail_once)
        seen.wait_for(JobRetried)
        pool.submit(gate)
        gate.wait_entered()
        behind = pool.submit(int)
        until(lambda: job.state is JobState.READY)
        assert pool.report.waiting == 2

        gate.open()

        assert job.result(GUARD) == "again"
        assert behind.result(GUARD) == 0
    started = [event.id for event in seen.of(JobStarted)]
    assert started == [1, 2, 1, 3], "it goes before those that wait in the backlog"


def test_no_more_than_max_retrying_jobs_wait_for_another_attempt() -> None:
    with ThreadPool(1, max_retrying=2, retry=LONG) as pool:
        jobs = [pool.submit(FailsAtFirst(1)) for _ in range(4)]
        errors = [job.exception(GUARD) for job in jobs[2:]]

        assert all(isinstance(error, ValueError) for error in errors)
        assert all("max_retrying" in note for error in errors if error for note in error.__notes__)
        assert [job.state for job in jobs[:2]] == [JobState.SCHEDULED] * 2
        for job in jobs[:2]:
            job.cancel()


def test_a_max_retrying_of_zero_turns_retries_off() -> None:
    with ThreadPool(1, max_retrying=0, retry=Retry(3, wait=0)) as pool:
        job = pool.submit(FailsAtFirst(1))

        assert isinstance(job.exception(GUARD), ValueError)
        assert job.attempt == 1


def test_a_job_that_waits_for_another_attempt_can_be_cancelled() -> None:
    with ThreadPool(1, retry=LONG) as pool:
        job = pool.submit(FailsAtFirst(1))
        asking = in_thread(job.exception)
        until(lambda: job.state is JobState.SCHEDULED)

        assert job.cancel("no longer wanted")

        assert job.state is JobState.CANCELLED
        with pytest.raises(JobCancelled, match="no longer wanted"):
            asking.result(GUARD)
    assert pool.report.cancelled == 1


def test_a_job_that_waits_for_another_attempt_is_cancelled_by_its_parent_context() -> None:
    context = Context()

    with ThreadPool(1, retry=LONG) as pool:
        job = pool.options(context=context).submit(FailsAtFirst(1))
        until(lambda: job.state is JobState.SCHEDULED)

        context.cancel("all of you")

        assert job.state is JobState.CANCELLED


def test_a_job_that_was_asked_to_stop_is_not_tried_again() -> None:
    gate = Gate()

    def fail_after_the_gate() -> None:
        gate()
        raise ValueError

    with ThreadPool(1, retry=Retry(5, wait=0)) as pool:
        job = pool.submit(fail_after_the_gate)
        gate.wait_entered()
        job.cancel()
        gate.open()

        assert isinstance(job.exception(GUARD), ValueError)
        assert job.attempt == 1


# While the pool ends


def test_a_clean_end_waits_for_the_attempts_to_come() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0.05, jitter=0)) as pool:
        job = pool.submit(FailsAtFirst(2))

    assert job.result(0) == 3
    assert pool.report.ok


def test_a_stop_makes_jobs_that_wait_for_another_attempt_fail_with_the_error_they_had() -> None:
    pool = ThreadPool(1, retry=LONG)
    job = pool.submit(FailsAtFirst(1))
    until(lambda: job.state is JobState.SCHEDULED)

    report = pool.shutdown(timeout=0)

    error = job.exception(0)
    assert isinstance(error, ValueError)
    assert error.__notes__ == ["not retried: the pool is stopping"]
    assert job.state is JobState.FAILED
    assert (report.failed, report.cut, report.ok) == (1, 1, False)


def test_shutdown_with_cancel_futures_cancels_jobs_that_wait_for_another_attempt() -> None:
    pool = ThreadPool(1, retry=LONG)
    job = pool.submit(FailsAtFirst(1))
    until(lambda: job.state is JobState.SCHEDULED)

    report = pool.shutdown(cancel_futures=True)

    assert job.state is JobState.CANCELLED
    assert report.ok, "the user asked for it"


def test_a_job_that_fails_while_the_pool_stops_is_not_tried_again() -> None:
    gate = Gate()
    tries: list[int] = []

    def fail_after_the_gate() -> None:
        tries.append(1)
        gate()
        raise ValueError

    pool = ThreadPool(1, retry=Retry(5, wait=0))
    job = pool.submit(fail_after_the_gate)
    gate.wait_entered()
    asked = threading.Event()
    job.context.on_cancel(asked.set)
    stopping = in_thread(pool.shutdown, timeout=0.3)
    assert asked.wait(GUARD), "the stop has come to its cancel"
    gate.open()

    assert isinstance(job.exception(GUARD), ValueError)
    stopping.result(GUARD)
    assert tries == [1]


# Between two rooms


def overtaken(pool: ThreadPool, step: Callable[[], object]) -> None:
    """Have *step* come just before a job of *pool* is put among those that wait for another attempt."""
    backlog = pool._crew.backlog
    put_retry = backlog.put_retry

    def be_overtaken_and_put(job: Job[Any], delay: float) -> None:
        step()
        put_retry(job, delay)

    backlog.put_retry = be_overtaken_and_put  # type: ignore[method-assign]


def test_a_job_that_a_stop_overtakes_on_its_way_to_another_attempt_is_cut() -> None:
    pool = ThreadPool(1, retry=Retry(2, wait=3600))
    overtaken(pool, lambda: cancel(pool._crew))
    gate = Gate()
    job = pool.submit(lambda: divmod(1, gate(0)))
    gate.wait_entered()  # when the submit is over: it looks for a stop, too
    gate.open()

    error = job.exception(GUARD)

    assert isinstance(error, ZeroDivisionError)
    assert error.__notes__ == ["not retried: the pool is stopping"]
    assert pool.shutdown().cut == 1


def test_a_job_that_is_cancelled_on_its_way_to_another_attempt_gets_none() -> None:
    with ThreadPool(1, retry=Retry(2, wait=3600)) as pool:
        overtaken(pool, lambda: job.context.cancel("not again"))
        gate = Gate()
        job = pool.options(timeout=GUARD).submit(lambda: divmod(1, gate(0)))
        gate.wait_entered()  # so that it has a name here
        gate.open()

        with pytest.raises(JobCancelled, match="not again"):
            job.result(GUARD)

    assert job.attempt == 1
