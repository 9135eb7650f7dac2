"""Time: in the backlog, while running, what a job may do with its cancellation, and those that swallow it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from penstock import AsyncPool, Context, DeadlineExceeded, JobState, Retry, current_context, events
from penstock.context import Cause
from tests.gates import GUARD, in_thread, slack
from tests.pool.coroutines.looping import Door, Stubborn, double, full_pool, held_pool, looped, turns, until
from tests.pool.watching import Seen


@looped
async def test_a_job_whose_time_is_over_before_it_began_is_not_run() -> None:
    ran: list[int] = []

    async def run() -> None:
        ran.append(1)

    async with held_pool(unobserved="ignore") as (pool, door):
        late = await pool.options(context=Context(0.02)).asubmit(run)
        with pytest.raises(DeadlineExceeded, match="never started") as caught:
            await late
        assert not caught.value.started
        door.open()
    assert (ran, pool.report.failed) == ([], 1)


@looped
async def test_at_its_deadline_a_job_is_cancelled_with_its_context_in_step() -> None:
    seen: list[Any] = []

    async def sleep() -> None:
        context = current_context()
        assert context.deadline is not None
        assert 0 < context.remaining() <= 0.05
        try:
            await asyncio.sleep(GUARD)
        except asyncio.CancelledError:
            seen.extend([context.cancelled, context.reason, context.remaining()])
            raise

    async with AsyncPool(1, timeout=0.05, unobserved="ignore") as pool:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"exceeded its limit of 0\.05 s") as caught:
            await pool.run(sleep)
        assert 0.05 <= time.monotonic() - begun < slack(1)
        assert caught.value.started
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert seen == [True, "its deadline passed", 0.0]
        assert await pool.run(double, 1) == 2
    assert pool.report.failed == 1


@looped
async def test_the_error_comes_once_the_jobs_clean_up_is_done() -> None:
    cleaning = Door()

    async def sleep() -> None:
        try:
            await asyncio.sleep(GUARD)
        finally:
            await cleaning()

    async with AsyncPool(1, timeout=0.02, unobserved="ignore") as pool:
        job = await pool.asubmit(sleep)
        await cleaning.wait_entered()
        await turns()
        assert job.running()
        cleaning.open()
        with pytest.raises(DeadlineExceeded):
            await job


@looped
async def test_a_job_that_returns_all_the_same_keeps_its_result() -> None:
    async def finishes() -> str:
        try:
            await asyncio.sleep(GUARD)
        except asyncio.CancelledError:
            return "half of it"
        raise AssertionError

    async with AsyncPool(1, timeout=0.02) as pool:
        assert await pool.run(finishes) == "half of it"


@looped
async def test_a_job_that_ends_in_time_is_not_disturbed_later_and_neither_is_the_next() -> None:
    async def rest() -> str:
        await asyncio.sleep(0.03)
        return "rested"

    async with AsyncPool(1) as pool:
        assert await pool.options(timeout=0.02).run(double, 2) == 4
        assert await pool.run(rest) == "rested"


@looped
async def test_the_limit_counts_from_the_begin_of_the_attempt_and_the_context_from_its_own() -> None:
    async with full_pool() as full:
        job = await full.pool.options(timeout=0.02, submit_timeout=None, when_full="caller").asubmit(double, 2)
        assert await job == 4
    async with full_pool() as full:
        waiting = asyncio.create_task(full.pool.options(timeout=5).asubmit(double, 2))
        with Context(timeout=GUARD) as context:
            pass
        await asyncio.sleep(0.03)
        full.door.open()
        assert await (await waiting) == 4
    assert context.remaining() > 1


@looped
async def test_a_job_inherits_what_is_left_of_its_submitters_time() -> None:
    async def left() -> float:
        return current_context().remaining()

    async with AsyncPool(2) as pool:

        async def parent() -> float:
            return await pool.run(left)

        assert 0 < await pool.options(timeout=5).run(parent) <= 5
        with Context(timeout=3):
            assert 0 < await pool.run(left) <= 3
            assert await pool.options(context=None).run(left) == float("inf")


@looped
async def test_a_task_that_swallows_the_cancellation_is_stuck_after_a_margin_and_its_slot_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()
    async with AsyncPool(1, timeout=0.3, stuck_after=0.05, unobserved="ignore") as pool:
        seen = Seen(pool)
        job = await pool.asubmit(stubborn)
        with pytest.raises(DeadlineExceeded):
            await job
        await until(lambda: seen.of(events.WorkerStuck))
        stuck = seen.of(events.WorkerStuck)[0]
        assert (stuck.worker, stuck.replaced) == (f"{pool.name}_0", True)
        assert "await self.door()" in stuck.stack
        await until(lambda: "is stuck" in caplog.text)
        assert "its slot is replaced by a fresh one" in caplog.text
        assert [(left.name, left.outcome) for left in pool.report.stuck] == [("Stubborn", "overran")]
        assert "await self.door()" in job.stack()
        assert await pool.options(timeout=None).run(double, 3) == 6
        assert pool._crew.staff.capacity == 2
        stubborn.let_go()
        await until(lambda: not pool.report.stuck)
        assert pool._crew.staff.capacity == 1
    assert stubborn.cancelled == 1
    assert pool.report.failed == 1


@looped
async def test_only_so_many_stuck_slots_are_replaced() -> None:
    first, second = Stubborn(), Stubborn()
    async with AsyncPool(1, timeout=0.02, stuck_after=0.02, max_stuck=1, unobserved="ignore") as pool:
        seen = Seen(pool)
        for stubborn in (first, second):
            with pytest.raises(DeadlineExceeded):
                await pool.run(stubborn)
        await until(lambda: len(seen.of(events.WorkerStuck)) == 2)
        assert [stuck.replaced for stuck in seen.of(events.WorkerStuck)] == [True, False]
        waiting = await pool.options(timeout=None).asubmit(double, 2)
        await turns()
        assert not waiting.done()
        second.let_go()
        assert await waiting == 4
        first.let_go()
        await until(lambda: not pool.report.stuck)


@looped
async def test_a_stuck_task_that_is_left_behind_keeps_nobody_waiting() -> None:
    stubborn = Stubborn()
    async with AsyncPool(1, timeout=0.02, stuck_after=0.02, unobserved="ignore") as pool:
        with pytest.raises(DeadlineExceeded):
            await pool.run(stubborn)
    assert pool.report.closed
    await until(lambda: stubborn.cancelled == 2)  # it was asked once more
    assert [left.outcome for left in pool.report.stuck] == ["overran"]
    assert asyncio.all_tasks() == {asyncio.current_task()}, "asyncio.run would wait for it"
    stubborn.let_go()
    await until(lambda: not pool.report.stuck)


@looped
async def test_a_deadline_is_another_attempt_only_if_it_is_named() -> None:
    tries: list[int] = []

    async def slow_at_first() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(GUARD)
        return "second time"

    async with AsyncPool(1, timeout=0.02, unobserved="ignore") as pool:
        with pytest.raises(DeadlineExceeded):
            await pool.options(retry=Retry(3, wait=0)).run(slow_at_first)
        tries.clear()
        job = await pool.options(retry=Retry(3, on=DeadlineExceeded, wait=0)).asubmit(slow_at_first)
        assert await job == "second time"
        assert (job.attempt, job.state) == (2, JobState.DONE)


@looped
async def test_a_stuck_attempt_is_followed_by_the_next_when_the_margin_is_over() -> None:
    stubborn = Stubborn()
    tries: list[int] = []

    async def stuck_at_first() -> str:
        tries.append(1)
        return await stubborn() if len(tries) == 1 else "second time"

    async with AsyncPool(1, timeout=0.02, stuck_after=0.02) as pool:
        job = await pool.options(retry=Retry(2, on=DeadlineExceeded, wait=0)).asubmit(stuck_at_first)
        assert await job == "second time"
        stubborn.let_go()
        await until(lambda: not pool.report.stuck)
    assert (pool.report.done, pool.report.failed) == (1, 0)


@looped
async def test_a_stuck_attempt_that_returns_while_the_next_one_runs_is_not_its_outcome() -> None:
    stubborn, door = Stubborn(), Door()

    async def stuck_at_first() -> str:
        if not stubborn.cancelled:
            return await stubborn()
        await door()
        return "second time"

    async with AsyncPool(1, stuck_after=0.01) as pool:
        job = await pool.options(timeout=3600, retry=Retry(2, on=DeadlineExceeded, wait=0)).asubmit(stuck_at_first)
        await stubborn.wait_entered()
        job.context.limit(0.0)
        await door.wait_entered()
        assert len(pool.report.stuck) == 1
        stubborn.let_go()
        await until(lambda: not pool.report.stuck)
        assert (job.state, job.attempt) == (JobState.RUNNING, 2)
        door.open()
        assert await job == "second time"


@looped
async def test_a_deadline_passes_although_the_loop_is_held_up() -> None:
    """Nothing on the loop can see it; another thread can, and the waiting job never runs."""
    ran: list[int] = []

    async def run() -> None:
        ran.append(1)

    async with held_pool(unobserved="ignore") as (pool, door):
        late = await pool.options(context=Context(0.02)).asubmit(run)
        told = in_thread(late.exception, GUARD)
        assert isinstance(told.result(GUARD), DeadlineExceeded)  # this blocks the loop
        door.open()
    assert ran == []


@looped
async def test_a_context_that_trips_while_a_job_goes_from_one_attempt_to_the_next_does_not_hit_the_next() -> None:
    """The cancellation of the first attempt, still on its way from another thread, finds the second."""
    async with AsyncPool(1) as pool:
        door = Door()
        job = await pool.asubmit(door, "kept")
        await door.wait_entered()
        worker = pool._crew.attempts.running[job]
        worker.ask_to_stop(job, Cause("late", by_deadline=False, source=Context()))  # it is not tripped
        await turns()
        door.open()
        assert await job == "kept"


@looped
async def test_the_log_says_where_a_late_job_stood(caplog: pytest.LogCaptureFixture) -> None:
    async def stands_here() -> None:
        await asyncio.sleep(GUARD)

    with caplog.at_level(logging.ERROR, "penstock.failures"):
        async with AsyncPool(1, timeout=0.02) as pool:
            await pool.asubmit(stands_here)
    failure = next(iter(pool.failures))
    assert failure.type == "DeadlineExceeded"
    assert "in stands_here" in caplog.text
