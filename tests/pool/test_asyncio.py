"""A pool of threads used from an event loop: nothing blocks the loop, and asyncio's own tools work with its jobs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from penstock import JobCancelled, JobState, PoolClosed, ThreadPool, current_context
from tests.gates import GUARD, Gate
from tests.pool.watching import full_pool, held_pool


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_run_and_await_give_the_result_while_the_loop_goes_on() -> None:
    async def main(pool: ThreadPool) -> None:
        gate = Gate()
        running = asyncio.create_task(pool.run(gate, "answer"))
        job = await pool.asubmit(gate, "another")
        while not gate.entered.is_set():  # noqa: ASYNC110 - only a loop that isn't blocked gets here
            await asyncio.sleep(0)
        assert not running.done()
        gate.open()
        assert await asyncio.wait_for(running, GUARD) == "answer"
        assert await asyncio.wait_for(job, GUARD) == "another"
        assert await job == "another", "a job may be awaited again"

    with ThreadPool(2) as pool:
        asyncio.run(main(pool))


def test_an_error_comes_out_of_await() -> None:
    async def main(pool: ThreadPool) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.run(int, "x")
        job = await pool.asubmit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            await job

    with ThreadPool(1, unobserved="ignore") as pool:
        asyncio.run(main(pool))


def test_a_full_backlog_makes_the_coroutine_wait_and_not_its_loop() -> None:
    with full_pool() as full:

        async def main() -> None:
            submitting = asyncio.create_task(full.pool.asubmit(len, "four"))
            await turns()
            assert not submitting.done()
            full.gate.open()
            job = await asyncio.wait_for(submitting, GUARD)
            assert await asyncio.wait_for(job, GUARD) == 4

        asyncio.run(main())


def test_a_coroutine_in_line_is_told_when_the_pool_is_closed() -> None:
    with full_pool() as full:

        async def main() -> None:
            submitting = asyncio.create_task(full.pool.asubmit(len, "four"))
            await asyncio.to_thread(full.line.wait_for_one_more)
            full.pool.close()
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(submitting, GUARD)
            full.gate.open()

        asyncio.run(main())


def test_several_tasks_may_await_one_job() -> None:
    with held_pool() as (pool, gate):

        async def main() -> None:
            job = await pool.asubmit(len, "four")

            async def awaits() -> int:
                return await job

            awaiting = [asyncio.create_task(awaits()) for _ in range(5)]
            await turns()
            gate.open()
            assert await asyncio.wait_for(asyncio.gather(*awaiting, job), GUARD) == [4] * 6

        asyncio.run(main())


def test_a_bare_job_is_refused_by_asyncios_wait_which_would_not_hear_of_its_end() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.submit(gate)

        async def wait() -> None:
            with pytest.raises(TypeError, match=r"give it asyncio\.ensure_future\(job\)"):
                await asyncio.wait([job], timeout=GUARD)  # type: ignore[type-var]

        asyncio.run(wait())
        gate.open()
        asyncio.run(wait())


def test_wait_takes_jobs_as_futures() -> None:
    """`asyncio.wait` takes asyncio's futures and tasks only, so a job goes through `ensure_future` or `wrap_future`."""
    with held_pool() as (pool, gate):

        async def main() -> None:
            first, second = asyncio.ensure_future(await pool.asubmit(len, "1")), pool.submit(len, "22")
            done, pending = await asyncio.wait([first, asyncio.wrap_future(second)], timeout=0.01)
            assert (len(done), len(pending)) == (0, 2)
            gate.open()
            done, pending = await asyncio.wait(pending, timeout=GUARD)
            assert not pending
            assert sorted(task.result() for task in done) == [1, 2]

        asyncio.run(main())


def test_wait_returns_at_the_first_that_ends() -> None:
    gate = Gate()
    with ThreadPool(2) as pool:

        async def main() -> None:
            slow = asyncio.ensure_future(await pool.asubmit(gate))
            quick = asyncio.ensure_future(await pool.asubmit(len, "1"))
            done, pending = await asyncio.wait([slow, quick], timeout=GUARD, return_when=asyncio.FIRST_COMPLETED)
            assert (done, pending) == ({quick}, {slow})
            gate.open()
            await asyncio.wait_for(slow, GUARD)

        asyncio.run(main())


def test_a_wait_that_times_out_leaves_the_job_in_peace() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:

        async def main() -> None:
            job = await pool.asubmit(gate, "kept")
            awaiting = asyncio.ensure_future(job)
            await asyncio.wait([awaiting], timeout=0.01)
            assert not job.context.cancelled
            gate.open()
            assert await asyncio.wait_for(awaiting, GUARD) == "kept"

        asyncio.run(main())


def test_shield_keeps_a_job_from_the_cancellation_of_its_waiter() -> None:
    with held_pool() as (pool, gate):

        async def main() -> None:
            job = await pool.asubmit(len, "four")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(job), 0.01)
            assert job.state is JobState.READY
            gate.open()
            assert await asyncio.wait_for(job, GUARD) == 4

        asyncio.run(main())


def test_a_time_out_without_a_shield_cancels_a_waiting_job_and_trips_a_running_one() -> None:
    seen = threading.Event()

    def rest() -> None:
        try:
            current_context().sleep(GUARD)
        finally:
            seen.set()

    async def main(pool: ThreadPool) -> None:
        running = await pool.asubmit(rest)
        waiting = await pool.asubmit(len, "four")
        for job in (waiting, running):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.01)
        assert waiting.cancelled()
        assert await asyncio.to_thread(seen.wait, GUARD)

    with ThreadPool(1) as pool:
        asyncio.run(main(pool))


def test_awaiting_a_job_that_somebody_cancelled_raises_an_ordinary_exception() -> None:
    """Not asyncio's CancelledError, by which the awaiting task would take itself for cancelled."""
    with held_pool() as (pool, gate):

        async def main() -> None:
            job = await pool.asubmit(len, "four")
            job.cancel("by hand")
            with pytest.raises(JobCancelled, match="by hand") as caught:
                await job
            assert isinstance(caught.value, Exception)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wrap_future(job)  # the stdlib's translation of a Future's
            gate.open()

        asyncio.run(main())


def test_as_completed_and_task_groups_take_jobs() -> None:
    async def main(pool: ThreadPool) -> None:
        jobs = [await pool.asubmit(len, "x" * n) for n in range(5)]
        assert sorted([await done for done in asyncio.as_completed(jobs, timeout=GUARD)]) == [0, 1, 2, 3, 4]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.run(len, "x" * n)) for n in range(5)]
        assert [task.result() for task in tasks] == [0, 1, 2, 3, 4]

    with ThreadPool(2) as pool:
        asyncio.run(main(pool))


def test_a_job_that_ends_on_the_loops_own_thread_wakes_its_waiter() -> None:
    with held_pool() as (pool, gate):

        async def main() -> None:
            job = await pool.asubmit(len, "four")

            async def awaits() -> Any:
                try:
                    return await job
                except JobCancelled as error:
                    return error.reason

            awaiting = asyncio.create_task(awaits())
            await turns()
            asyncio.get_running_loop().call_soon(job.cancel, "from the loop")
            assert await asyncio.wait_for(awaiting, GUARD) == "from the loop"
            gate.open()

        asyncio.run(main())
