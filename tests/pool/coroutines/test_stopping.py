"""Stopping: a clean end, a stop in so many seconds, tasks that swallow it, a loop that is held up or closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import Any

import pytest

from penstock import (
    AsyncPool,
    Incomplete,
    JobAbandoned,
    JobCancelled,
    JobState,
    PoolClosed,
    Report,
    ThreadPool,
    current_context,
)
from penstock.pool.ladder import Stop
from tests.gates import GUARD, in_thread, slack
from tests.pool.coroutines.looping import (
    Door,
    Oops,
    Stubborn,
    double,
    held_pool,
    late_double,
    lines_up,
    looped,
    new_loop,
    turns,
    until,
)


@looped
async def test_leaving_the_block_waits_for_accepted_jobs() -> None:
    door = Door()

    async def live() -> Report:
        async with AsyncPool(1) as pool:
            for _ in range(3):
                await pool.asubmit(door)
        return pool.report

    living = asyncio.create_task(live())
    await door.wait_entered()
    await turns()
    assert not living.done()
    door.open()
    report = await living
    assert (report.done, report.ok, report.closed, report.cut) == (3, True, True, 0)


@looped
async def test_leaving_a_block_whose_jobs_have_ended_needs_no_thread() -> None:
    async with AsyncPool(1) as pool:
        await pool.run(double, 1)
        before = threading.active_count()
    assert threading.active_count() == before
    assert pool.report.ok


@looped
async def test_a_stop_cancels_what_waits_and_asks_what_runs() -> None:
    seen: list[str | None] = []

    async def stays() -> None:
        try:
            await asyncio.sleep(GUARD)
        finally:
            seen.append(current_context().reason)

    pool = AsyncPool(1)
    running = await pool.asubmit(stays)
    waiting = [await pool.asubmit(double, n) for n in range(3)]
    begun = time.monotonic()
    report = await pool.shutdown(timeout=0.9)
    assert 0.5 < time.monotonic() - begun < slack(2)
    assert (report.cancelled, report.cut, report.abandoned, report.ok) == (4, 4, 0, False)
    assert (report.budget, report.closed) == (0.9, True)
    assert seen == ["the pool is stopping"]
    assert (running.state, running.cancelled()) == (JobState.CANCELLED, False)
    assert all(job.cancelled() for job in waiting)
    with pytest.raises(JobCancelled, match="the pool is stopping"):
        await running


@looped
async def test_jobs_that_end_in_time_are_not_cut() -> None:
    pool = AsyncPool(2)
    jobs = [await pool.asubmit(late_double, n) for n in range(20)]
    report = await pool.shutdown(timeout=GUARD)
    assert (report.done, report.cut, report.ok) == (20, 0, True)
    assert all(job.done() for job in jobs)


@looped
async def test_a_task_that_swallows_cancellation_is_abandoned_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    pool = AsyncPool(2, name="stubborn pool")
    job = await pool.asubmit(stubborn)
    good = await pool.asubmit(double, 2)
    await stubborn.wait_entered()
    begun = time.monotonic()
    report = await pool.shutdown(timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < slack(1.3)
    assert (report.abandoned, report.done, report.cut) == (1, 1, 1)
    assert good.result() == 4
    with pytest.raises(JobAbandoned, match="it was left behind"):
        await job
    (left,) = report.stuck
    assert (left.outcome, left.name) == ("abandoned", "Stubborn")
    assert "await self.door()" in left.stack
    assert "await self.door()" in caplog.text
    await until(lambda: stubborn.cancelled >= 2)
    stubborn.let_go()
    await until(lambda: not pool.report.stuck)
    assert job.state is JobState.ABANDONED, "an outcome never changes"


@looped
async def test_a_stop_asks_once_more_what_was_cancelled_before() -> None:
    door, asked = Door(), []

    async def heeds_the_second() -> None:
        for _ in range(2):
            try:
                await door()
            except asyncio.CancelledError:
                asked.append(current_context().reason)
        raise asyncio.CancelledError

    pool = AsyncPool(1)
    job = await pool.asubmit(heeds_the_second)
    await door.wait_entered()
    job.cancel("by hand")
    await door.wait_entered(2)
    report = await pool.shutdown(timeout=0.9)
    assert asked == ["by hand", "by hand"], "a context keeps its first cause"
    assert (report.cancelled, report.abandoned) == (1, 0)


@looped
async def test_a_job_that_nobody_else_holds_is_not_lost() -> None:
    async def waits_for_what_nobody_knows() -> None:
        await asyncio.get_running_loop().create_future()

    pool = AsyncPool(1)
    await pool.asubmit(waits_for_what_nobody_knows)
    crew = weakref.ref(pool._crew)
    del pool
    await turns()
    gc.collect()
    held = crew()
    assert held is not None
    await until(lambda: held.report().closing)
    (job,) = held.attempts.running
    job.cancel()
    await until(lambda: held.report().closed)


def test_asyncio_run_does_not_wait_for_an_abandoned_task() -> None:
    begun = time.monotonic()

    async def main() -> AsyncPool:
        stubborn = Stubborn()
        pool = AsyncPool(1)
        await pool.asubmit(stubborn)
        await stubborn.wait_entered()
        await pool.shutdown(timeout=0.1)
        return pool

    with asyncio.Runner(loop_factory=new_loop) as runner:
        pool = runner.run(main())
    assert time.monotonic() - begun < slack(3)
    gc.collect()
    assert pool.report.abandoned == 1


@looped
async def test_an_exception_that_leaves_the_block_stops_within_the_grace() -> None:
    stubborn = Stubborn()
    begun = time.monotonic()
    with pytest.raises(KeyError) as caught:
        async with AsyncPool(1, grace=0.3) as pool:
            job = await pool.asubmit(stubborn)
            await stubborn.wait_entered()
            raise KeyError("mine")
    assert 0.3 <= time.monotonic() - begun < slack(1.3)
    assert "1 accepted: 0 done, 1 abandoned" in caught.value.__notes__[0]
    assert job.state is JobState.ABANDONED
    stubborn.let_go()
    await until(lambda: not pool.report.stuck)


@looped
async def test_cancelling_the_surrounding_task_stops_within_the_grace_and_is_not_swallowed() -> None:
    door, entered = Door(), asyncio.Event()
    reports: list[Report] = []

    async def surrounding() -> None:
        async with AsyncPool(1, grace=0.9) as pool:
            try:
                await pool.asubmit(door)
                await pool.asubmit(double, 1)
                entered.set()
                await asyncio.sleep(GUARD)
            finally:
                asyncio.get_running_loop().call_later(0, lambda: reports.append(pool.report))

    task = asyncio.create_task(surrounding())
    await entered.wait()
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - begun < slack(2)
    assert door.inside == 0
    assert reports[0].closing


@looped
async def test_cancelling_the_surrounding_task_again_moves_the_stop_on() -> None:
    stubborn, entered = Stubborn(), asyncio.Event()
    pool = AsyncPool(1, grace=3600)

    async def surrounding() -> None:
        async with pool:
            await pool.asubmit(stubborn)
            entered.set()
            raise Oops("it leaves")

    task = asyncio.create_task(surrounding())
    await entered.wait()
    await until(lambda: pool.report.closing)
    task.cancel()
    await until(lambda: stubborn.cancelled == 1)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__context__, Oops)
    assert pool.report.abandoned == 1
    stubborn.let_go()
    await until(lambda: not pool.report.stuck)


@looped
async def test_cancelling_a_clean_end_makes_a_stop_of_it() -> None:
    door = Door()
    pool = AsyncPool(1, grace=0.9)

    async def surrounding() -> None:
        async with pool:
            await pool.asubmit(door)

    task = asyncio.create_task(surrounding())
    await until(lambda: pool.report.closing)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.report.cancelled, pool.report.closed) == (1, True)


@looped
async def test_wait_with_a_time_is_a_stop_and_cancelled_waits_hurry_it() -> None:
    door = Door()
    pool = AsyncPool(1)
    await pool.asubmit(door)
    pool.close()
    waiting = asyncio.create_task(pool.wait(3600))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (pool.report.cancelled, pool.report.closed) == (1, True)
    with pytest.raises(ValueError, match="timeout"):
        await pool.wait(-1)


@looped
async def test_a_shutdown_that_does_not_wait_goes_on_in_the_background() -> None:
    door = Door()
    pool = AsyncPool(1)
    job = await pool.asubmit(door)
    report = await pool.shutdown(wait=False, timeout=0.9)
    assert (report.closing, report.closed) == (True, False)
    await until(lambda: pool.report.closed)
    assert job.state is JobState.CANCELLED


@looped
async def test_shutdown_can_cancel_what_waits() -> None:
    async with held_pool() as (pool, door):
        waiting = [await pool.asubmit(double, n) for n in range(5)]
        await pool.shutdown(wait=False, cancel_futures=True)
        assert all(job.cancelled() for job in waiting)
        door.open()
        report = await pool.shutdown()
        assert (report.done, report.cancelled, report.cut) == (1, 5, 0)


@looped
async def test_many_may_stop_a_pool_at_once() -> None:
    pool = AsyncPool(2)
    jobs = [await pool.asubmit(late_double, n) for n in range(20)]
    reports = await asyncio.gather(*(pool.shutdown(timeout=GUARD) for _ in range(4)))
    assert {report.done for report in reports} == {20}
    assert all(job.done() for job in jobs)


@looped
async def test_a_job_cannot_wait_for_the_end_of_its_own_pool() -> None:
    async with AsyncPool(1) as pool:

        async def stops_itself() -> Report:
            with pytest.raises(RuntimeError, match="can't wait for its own pool"):
                await pool.shutdown()
            pool.close()
            with pytest.raises(RuntimeError, match="can't wait for its own pool"):
                await pool.wait()
            return await pool.shutdown(wait=False)

        assert (await pool.run(stops_itself)).closing


@looped
async def test_a_stop_may_come_from_any_thread_and_reaches_the_tasks() -> None:
    door = Door()
    async with held_pool() as (pool, _):
        waiting = await pool.asubmit(door)
        stopping = in_thread(Stop([pool._crew], 0.9).climb)
        (report,) = await asyncio.wrap_future(stopping)
        assert (report.cancelled, report.cut, report.abandoned) == (2, 2, 0)
        assert waiting.cancelled()
        with pytest.raises(PoolClosed, match="it is being stopped"):
            await pool.asubmit(double, 1)
        with pytest.raises(Incomplete):
            raise Incomplete(report)
        pool._crew.ledger._cut = 0  # or this block would raise it


@looped
async def test_a_stop_ends_in_time_although_the_loop_is_held_up() -> None:
    gate = threading.Event()

    async def holds_up() -> str:
        await asyncio.sleep(0)
        gate.wait(GUARD)
        return "too late"

    pool = AsyncPool(1)
    job = await pool.asubmit(holds_up)
    waiting = await pool.asubmit(double, 1)
    begun = time.monotonic()

    def stop() -> tuple[Report, float, bool]:
        try:
            (report,) = Stop([pool._crew], 0.3).climb()
            return report, time.monotonic() - begun, job.done()
        finally:
            gate.set()

    stopping = in_thread(stop)
    await asyncio.sleep(0)  # holds up this test, too
    report, took, told = await asyncio.wrap_future(stopping)
    assert 0.3 <= took < slack(1.3)
    assert told
    assert (report.abandoned, report.cancelled) == (1, 1)
    assert "in holds_up" in report.stuck[0].stack
    assert "gate.wait(GUARD)" in report.stuck[0].stack
    assert (job.state, waiting.cancelled()) == (JobState.ABANDONED, True)
    await until(lambda: not pool.report.stuck)


def test_a_pool_whose_loop_was_closed_tells_its_jobs_at_once_when_it_is_closed() -> None:
    loop = new_loop()
    pool = AsyncPool(1, grace=3600)

    async def main() -> list[Any]:
        return [await pool.asubmit(Door()), await pool.asubmit(double, 1)]

    running, waiting = loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    task = next(iter(asyncio.all_tasks(loop)))
    loop.close()
    begun = time.monotonic()
    pool.close()
    assert time.monotonic() - begun < slack(1)
    assert pool.report.closed
    assert (running.state, waiting.state) == (JobState.ABANDONED, JobState.CANCELLED)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with pytest.raises(JobAbandoned):
        running.result(0)


def test_whoever_waits_for_a_job_whose_loop_was_closed_is_told() -> None:
    loop = new_loop()
    pool = AsyncPool(1, grace=3600)

    async def main() -> Any:
        return await pool.asubmit(Door())

    running = loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    loop.close()
    with pytest.raises(JobAbandoned):
        running.result(GUARD)
    assert pool.report.closed


def test_a_job_whose_task_is_thrown_away_with_its_loop_is_told_abandoned() -> None:
    loop = new_loop()
    pool = AsyncPool(1, grace=3600)

    async def main() -> Any:
        return await pool.asubmit(Door())

    job = loop.run_until_complete(main())
    (task,) = asyncio.all_tasks(loop)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    loop.close()
    coroutine.close()  # as the collector does
    with pytest.raises(JobAbandoned):
        job.result(GUARD)
    pool.close()
    assert (pool.report.abandoned, pool.report.closed) == (1, True)


def test_asyncio_run_that_ends_under_an_open_pool_cancels_what_runs() -> None:
    pool = AsyncPool(1)

    async def main() -> Any:
        door = Door()
        job = await pool.asubmit(door)
        await door.wait_entered()
        return job

    with asyncio.Runner(loop_factory=new_loop) as runner:
        job = runner.run(main())
    assert job.state is JobState.CANCELLED
    pool.close()
    assert (pool.report.closed, pool.report.cancelled) == (True, 1)


@looped
async def test_a_forgotten_pool_does_what_was_accepted() -> None:
    pool = AsyncPool(1)
    jobs = [await pool.asubmit(late_double, n) for n in range(5)]
    crew = weakref.ref(pool._crew)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert [await job for job in jobs] == [0, 2, 4, 6, 8]
    del jobs
    while crew() is not None:  # a closed pool is held by nobody; the timers close it, and may yet do so
        await turns()
        gc.collect()


@looped
async def test_a_view_keeps_its_pool_open() -> None:
    view = AsyncPool(1).options(timeout=GUARD)
    gc.collect()
    assert await view.run(double, 2) == 4
    view._crew.close()


@looped
async def test_a_long_wait_says_what_it_waits_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pool.ladder._BETWEEN_WORDS", 0.02)
    door = Door()
    with caplog.at_level(logging.WARNING, "penstock.stop"):
        pool = AsyncPool(1)
        await pool.asubmit(door)
        closing = asyncio.create_task(pool.shutdown())
        await until(lambda: "still waiting" in caplog.text)
        door.open()
        await closing
    assert "job 1 (Door) has run for" in caplog.text
    assert "self._opened.wait()" in caplog.text


@looped
async def test_a_submitter_in_line_is_told_of_the_stop() -> None:
    async with held_pool(backlog=1, grace=0.2) as (pool, door):
        await pool.asubmit(double, 1)
        submitting = asyncio.create_task(pool.asubmit(double, 2))
        await until(lines_up(pool))
        pool.close()
        with pytest.raises(PoolClosed):
            await submitting
        door.open()


@looped
async def test_a_loop_with_threads_and_coroutines_stops_both_in_one_call() -> None:
    threads, coroutines = ThreadPool(1), AsyncPool(1)

    async def uses_a_thread() -> int:
        return await threads.run(len, "four")

    assert await coroutines.run(uses_a_thread) == 4
    stop = Stop([coroutines._crew, threads._crew], GUARD)
    reports = await asyncio.to_thread(stop.climb)
    assert [report.ok for report in reports] == [True, True]


@looped
async def test_the_accounts_balance_after_everything_at_once() -> None:
    stubborn = Stubborn()
    pool = AsyncPool(3, backlog=10, unobserved="ignore")

    async def fails() -> None:
        raise Oops

    several: list[Any] = [stubborn, fails, Door(), fails, Door(), Door()]
    jobs = [await pool.asubmit(fn) for fn in several]
    await turns()
    jobs[-1].cancel()
    report = await pool.shutdown(timeout=0.9)
    assert report.balanced
    assert report.accepted == 6
    assert (report.failed, report.abandoned, report.cancelled) == (2, 1, 3)
    stubborn.let_go()
    await until(lambda: not pool.report.stuck)
