"""Trying again, counting failures, and those that nobody looked at."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from penstock import AsyncPool, Incomplete, JobCancelled, JobState, Retry, events
from tests.pool import crossing
from tests.pool.coroutines.looping import Door, Oops, double, fail, fail_at_once, looped, turns, until
from tests.pool.watching import Seen


class FailsAtFirst:
    """Fails so many times, then returns the number of the attempt."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls <= self.times:
            raise Oops(self.calls)
        return self.calls


@looped
async def test_a_failed_job_is_tried_again() -> None:
    async with AsyncPool(1, retry=Retry(3, on=(Oops,), wait=0)) as pool:
        seen = Seen(pool)
        job = await pool.asubmit(FailsAtFirst(2))
        assert await job == 3
        assert (job.attempt, job.state) == (3, JobState.DONE)
        with pytest.raises(Oops, match="3"):
            await pool.run(FailsAtFirst(3))
        assert [event.attempt for event in seen.of(events.JobRetried)] == [1, 2, 1, 2]
    assert (pool.report.done, pool.report.failed, pool.failures.total) == (1, 1, 1)


@pytest.mark.parametrize("kind", crossing.ODD_ERRORS)
@looped
async def test_an_error_that_is_odd_itself_ends_its_job(kind: type[Exception]) -> None:
    async def raise_one(turn: bool) -> None:
        if turn:
            await asyncio.sleep(0)
        raise kind

    async with AsyncPool(1, retry=Retry(2, wait=0)) as pool:
        for turn in (False, True):
            try:
                raise ValueError("what its submitter is dealing with")
            except ValueError:
                job = await pool.asubmit(raise_one, turn)
            with pytest.raises(kind):
                await job
        assert await pool.run(double, 2) == 4
    assert (pool.report.failed, pool.report.done, pool.failures.total) == (2, 1, 2)


@looped
async def test_a_waiting_retry_holds_no_slot_and_no_place_and_can_be_cancelled() -> None:
    async with AsyncPool(1, backlog=1, retry=Retry(3, wait=3600)) as pool:
        job = await pool.asubmit(FailsAtFirst(1))
        await until(lambda: job.state is JobState.SCHEDULED)
        assert (pool.report.retrying, pool.report.running) == (1, 0)
        assert await pool.run(double, 1) == 2
        assert job.cancel("not worth it")
        with pytest.raises(JobCancelled, match="not worth it"):
            await job


@looped
async def test_each_attempt_begins_with_the_submitters_context_variables() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    found: list[int] = []

    async def count() -> None:
        found.append(variable.get())
        variable.set(variable.get() + 1)
        await asyncio.sleep(0)
        raise Oops

    async with AsyncPool(1, unobserved="ignore") as pool:
        with pytest.raises(Oops):
            await pool.options(retry=Retry(3, wait=0)).run(count)
    assert found == [0, 0, 0]


@looped
async def test_a_stop_cuts_the_wait_for_another_attempt() -> None:
    pool = AsyncPool(1, unobserved="ignore")
    job = await pool.options(retry=Retry(2, wait=3600)).asubmit(FailsAtFirst(1))
    await until(lambda: job.state is JobState.SCHEDULED)
    report = await pool.shutdown(timeout=0.05)
    with pytest.raises(Oops) as caught:
        await job
    assert caught.value.__notes__ == ["not retried: the pool is stopping"]
    assert (report.failed, report.cut) == (1, 1)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.InvalidStateError])
@looped
async def test_whatever_a_job_raises_is_its_own_and_its_slot_goes_to_the_next(
    error: type[BaseException], waits: bool
) -> None:
    async def leave() -> None:
        if waits:
            await asyncio.sleep(0)
        raise error

    async with AsyncPool(1, unobserved="ignore") as pool:
        job = await pool.asubmit(leave)
        with pytest.raises(error):
            await job
        assert job.state is JobState.FAILED
        assert await pool.run(double, 2) == 4


@looped
async def test_failures_are_counted_by_kind_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncPool(3) as pool:
        for n in range(10):
            await pool.asubmit(fail, n)
        await pool.asubmit(fail_at_once)
    kinds = {failure.where: failure.count for failure in pool.failures}
    assert sorted(kinds.values()) == [1, 10]
    assert all("looping.py" in where for where in kinds)
    assert caplog.text.count("Traceback") == 2
    assert "coroutines/worker.py" not in caplog.text, "our own frames tell nobody anything"


@looped
async def test_failures_that_nobody_saw_leave_the_block() -> None:
    with pytest.raises(ExceptionGroup, match="1 of 3 jobs failed and nobody looked") as caught:
        async with AsyncPool(2, unobserved="raise") as pool:
            await pool.asubmit(fail, "unseen")
            seen = await pool.asubmit(fail, "awaited")
            with pytest.raises(Oops):
                await seen
            async for job in pool.stream(fail, ["streamed"]):
                assert job.state is JobState.FAILED
    assert [error.args for error in caught.value.exceptions] == [("it failed", "unseen")]
    assert caught.value.exceptions[0].__notes__ == ["raised by job 1 (fail)"]


@looped
async def test_an_error_that_leaves_already_gets_notes() -> None:
    with pytest.raises(KeyError) as caught:
        async with AsyncPool(1, unobserved="raise") as pool:
            job = await pool.asubmit(fail, "unseen")
            await until(job.done)
            raise KeyError("mine")
    assert "nobody looked at: Oops('it failed', 'unseen')" in caught.value.__notes__[0]


@looped
async def test_a_block_whose_jobs_were_cut_is_incomplete() -> None:
    door = Door()
    with pytest.raises(Incomplete) as caught:
        async with AsyncPool(1) as pool:
            await pool.asubmit(door)
            await pool.shutdown(wait=False, timeout=0.05)
            await turns()
    assert caught.value.report.cut == 1


@looped
async def test_cancelled_jobs_are_no_failures() -> None:
    door = Door()
    async with AsyncPool(1, unobserved="raise") as pool:
        job = await pool.asubmit(door)
        await door.wait_entered()
        job.cancel()
        with pytest.raises(JobCancelled):
            await job
    assert (pool.failures.total, pool.report.cancelled) == (0, 1)


@looped
async def test_an_error_keeps_its_traceback_from_the_users_code_on() -> None:
    async def deep() -> Any:
        return await fail("deep")

    async with AsyncPool(1, unobserved="ignore") as pool:
        job = await pool.asubmit(deep)
        await until(job.done)
    error = job.exception()
    assert error is not None
    names = []
    tb = error.__traceback__
    while tb is not None:
        names.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert names == ["deep", "fail"]


@looped
async def test_what_the_submitter_was_dealing_with_is_no_context_of_a_jobs_error() -> None:
    async def fails_in_turn() -> None:
        try:
            raise KeyError("the job's own")
        except KeyError:
            raise Oops("at once")  # noqa: B904 - its context is what this is about

    async with AsyncPool(1, unobserved="ignore") as pool:
        try:
            raise ValueError("the submitter's")
        except ValueError:
            job = await pool.asubmit(fails_in_turn)
        error = job.exception() if job.done() else None
        with pytest.raises(Oops):
            await job
        error = job.exception()
    assert error is not None
    assert isinstance(error.__context__, KeyError)
    assert error.__context__.__context__ is None
