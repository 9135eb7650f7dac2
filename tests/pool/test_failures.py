"""Failures through a pool: grouped, told once, and not lost if nobody looked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable
from concurrent.futures import as_completed
from typing import Any

import pytest

from penstock import DeadlineExceeded, Incomplete, Job, Retry, ThreadPool, current_context
from tests.gates import GUARD, Gate
from tests.pool.watching import held_pool


def raise_value_error(text: str = "wrong") -> None:
    raise ValueError(text)


def raise_key_error() -> None:
    raise KeyError("missing")


# Grouping


def test_failures_are_grouped_by_type_and_place_most_frequent_first() -> None:
    with ThreadPool(2) as pool:
        for number in range(5):
            pool.submit(raise_value_error, f"wrong {number}")
        pool.submit(raise_key_error)

    values, keys = pool.failures
    assert (values.type, values.count) == ("ValueError", 5)
    assert (keys.type, keys.count, keys.job_ids) == ("KeyError", 1, (6,))
    assert values.where.endswith("in raise_value_error")
    assert values.where.startswith("tests/pool/test_failures.py:")
    assert set(values.job_ids) == {1, 2, 3, 4, 5}
    assert pool.failures.total == 6
    assert len(pool.failures) == 2
    assert "5 times: ValueError" in str(pool.failures)


def test_the_sample_traceback_begins_in_the_users_code() -> None:
    with ThreadPool(1) as pool:
        pool.submit(raise_value_error)

    [failure] = pool.failures
    assert "in raise_value_error" in failure.traceback
    assert "penstock/pool" not in failure.traceback


def test_each_job_that_failed_counts_once_and_an_attempt_that_was_repeated_does_not() -> None:
    with ThreadPool(1, retry=Retry(3, wait=0)) as pool:
        pool.submit(raise_value_error)

    assert pool.failures.total == 1


def test_cancelled_jobs_are_no_failures() -> None:
    with held_pool() as (pool, _gate):
        pool.submit(int).cancel()

    assert pool.failures.total == 0


def test_the_first_of_a_kind_is_logged_with_its_traceback_and_repeats_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ThreadPool(1) as pool:
        for _ in range(20):
            pool.submit(raise_value_error)

    records = [record for record in caplog.records if record.name == "penstock.failures"]
    assert len(records) == 2, "the first at once, the others together when the pool has stopped"
    assert records[0].levelno == logging.ERROR
    assert records[0].exc_info is not None
    assert "raise_value_error) failed: ValueError: wrong" in records[0].getMessage()
    assert vars(records[0])["job"] == 1
    assert vars(records[0])["worker"].endswith("_0")
    assert "19 more" in records[1].getMessage()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_whatever_a_job_raises_its_worker_goes_on(error: BaseException) -> None:
    def leave() -> None:
        raise error

    with ThreadPool(1) as pool:
        job = pool.submit(leave)

        assert job.exception(GUARD) is error
        assert pool.submit(int).result(GUARD) == 0
        again = pool.submit(int)
        again.result(GUARD)
        assert again.worker == job.worker
    assert (pool.report.failed, pool.report.done) == (1, 2)


# Nobody looked


def take_by_result(job: Job[Any]) -> None:
    with pytest.raises(ValueError, match="wrong"):
        job.result(GUARD)


def take_by_exception(job: Job[Any]) -> None:
    assert isinstance(job.exception(GUARD), ValueError)


def take_by_await(job: Job[Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="wrong"):
            await job

    asyncio.run(main())


def take_by_wrap_future(job: Job[Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="wrong"):
            await asyncio.wrap_future(job)

    asyncio.run(main())


def take_by_as_completed(job: Job[Any]) -> None:
    for ended in as_completed([job], GUARD):
        assert ended.exception() is not None


def take_in_callback(job: Job[Any]) -> None:
    job.add_done_callback(lambda ended: ended.exception())


@pytest.mark.parametrize(
    "take",
    [take_by_result, take_by_exception, take_by_await, take_by_wrap_future, take_by_as_completed, take_in_callback],
    ids=lambda take: take.__name__,
)
@pytest.mark.parametrize("when", ["before it ends", "after it has ended"])
def test_a_failure_that_somebody_took_does_not_leave_the_block(take: Callable[[Job[Any]], None], when: str) -> None:
    gate = Gate()

    def fail() -> None:
        gate()
        raise_value_error()

    with ThreadPool(1, unobserved="raise") as pool:
        job = pool.submit(fail)
        if when == "after it has ended":
            gate.open()
            concurrent.futures.wait([job], GUARD)
        elif take is take_in_callback:
            take(job)
        gate.open()
        take(job)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_that_a_stream_gave_is_taken(ordered: bool) -> None:
    with ThreadPool(1, unobserved="raise") as pool:
        states = [job.state for job in pool.stream(raise_value_error, ["a", "b"], ordered=ordered)]

    assert states == ["failed", "failed"]


def test_a_failure_that_a_map_raised_is_taken() -> None:
    with ThreadPool(1, unobserved="raise") as pool, pytest.raises(ValueError, match="a"):
        list(pool.map(raise_value_error, ["a"]))


def test_a_failure_that_run_raised_is_taken() -> None:
    async def main(pool: ThreadPool) -> None:
        with pytest.raises(ValueError, match="wrong"):
            await pool.run(raise_value_error)

    with ThreadPool(1, unobserved="raise") as pool:
        asyncio.run(main(pool))


def test_failures_that_nobody_took_leave_the_block_as_one_group() -> None:
    with pytest.raises(ExceptionGroup, match="2 of 4 jobs failed") as caught, ThreadPool(2, unobserved="raise") as pool:
        taken = pool.submit(raise_value_error, "taken")
        pool.submit(raise_value_error, "not taken")
        pool.options(id="k", name="lookup").submit(raise_key_error)
        pool.submit(int)
        assert taken.exception(GUARD) is not None

    errors = caught.value.exceptions
    assert sorted(type(error).__name__ for error in errors) == ["KeyError", "ValueError"]
    assert all(error.__traceback__ is not None for error in errors)
    [lookup] = [error for error in errors if isinstance(error, KeyError)]
    assert lookup.__notes__ == ["raised by job k (lookup)"]


def test_waiting_alone_takes_nothing() -> None:
    with pytest.raises(ExceptionGroup), ThreadPool(1, unobserved="raise") as pool:
        job = pool.submit(raise_value_error)
        concurrent.futures.wait([job], GUARD)
        assert job.done()


def test_a_deadline_that_nobody_looked_at_leaves_the_block_too() -> None:
    with pytest.raises(ExceptionGroup) as caught, ThreadPool(1, unobserved="raise", timeout=0.05) as pool:
        pool.submit(lambda: current_context().sleep(GUARD))

    assert [type(error) for error in caught.value.exceptions] == [DeadlineExceeded]


def test_what_is_no_exception_is_told_within_the_group() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(ExceptionGroup) as caught, ThreadPool(1, unobserved="raise") as pool:
        pool.submit(leave)

    assert "raised SystemExit: 3" in str(caught.value.exceptions[0])


def test_one_error_that_many_jobs_raised_is_in_the_group_for_each() -> None:
    shared = ValueError("shared")

    def fail() -> None:
        raise shared

    with pytest.raises(ExceptionGroup) as caught, ThreadPool(1, unobserved="raise") as pool:
        pool.submit(fail)
        pool.submit(fail)

    assert caught.value.exceptions == (shared, shared)
    assert shared.__notes__ == [f"raised by job {n} ({fail.__qualname__})" for n in (1, 2)]


@pytest.mark.parametrize("unobserved", ["log", "ignore"])
def test_unless_asked_for_no_failure_leaves_the_block(unobserved: Any) -> None:
    with ThreadPool(1, unobserved=unobserved) as pool:
        pool.submit(raise_value_error)

    assert pool.report.failed == 1


def test_ignore_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPool(1, unobserved="ignore") as pool:
        for _ in range(3):
            pool.submit(raise_value_error)

    assert [record for record in caplog.records if record.name == "penstock.failures"] == []
    assert pool.failures.total == 3


def test_cancelled_jobs_do_not_leave_the_block() -> None:
    with held_pool(unobserved="raise") as (pool, _gate):
        pool.submit(int).cancel()


# Notes on what is leaving already


def test_an_exception_that_leaves_the_block_gets_a_note_of_each_failure_nobody_took() -> None:
    with pytest.raises(OSError, match="my own") as caught, ThreadPool(1, unobserved="raise") as pool:
        concurrent.futures.wait([pool.submit(raise_value_error)], GUARD)
        raise OSError("my own")

    assert caught.value.__notes__ == ["and nobody looked at: ValueError('wrong')"]


def test_an_exception_that_leaves_the_block_gets_the_report_as_a_note_if_jobs_were_cut() -> None:
    gate = Gate()
    with pytest.raises(OSError, match="my own") as caught, ThreadPool(1, grace=0) as pool:
        pool.submit(lambda: current_context().sleep(GUARD))
        pool.submit(gate)
        raise OSError("my own")

    gate.open()
    [note] = caught.value.__notes__
    assert note == str(pool.report)
    assert "1 cancelled" in note


def test_an_exception_that_leaves_the_block_gets_no_note_if_every_job_ran() -> None:
    with pytest.raises(OSError, match="my own") as caught, ThreadPool(1) as pool:
        pool.submit(int)
        raise OSError("my own")

    assert not hasattr(caught.value, "__notes__")


def test_a_block_whose_jobs_were_cut_raises_incomplete_with_the_report() -> None:
    gate = Gate()
    with pytest.raises(Incomplete) as caught, ThreadPool(1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(int)
        pool.shutdown(timeout=0)
        gate.open()

    assert caught.value.report.cut == 2
    assert caught.value.report.accepted == 2
    assert str(caught.value.report) in str(caught.value)


def test_a_block_that_is_incomplete_tells_the_failures_nobody_took_as_the_cause() -> None:
    gate = Gate()
    with pytest.raises(Incomplete) as caught, ThreadPool(1, unobserved="raise") as pool:
        concurrent.futures.wait([pool.submit(raise_value_error)], GUARD)
        pool.submit(gate)
        gate.wait_entered()
        pool.shutdown(timeout=0)
        gate.open()

    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(error) for error in cause.exceptions] == [ValueError]
