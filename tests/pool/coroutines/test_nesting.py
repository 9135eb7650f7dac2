"""Jobs that wait for jobs of their own pool: slots are lent, and what could never end is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import AsyncPool, Job, NestedWait, ThreadPool
from tests.pool.coroutines.looping import Door, double, late_double, looped, turns, until


@looped
async def test_jobs_that_wait_for_jobs_of_their_own_pool_do_not_deadlock() -> None:
    async with AsyncPool(1, backlog=1) as pool:

        async def sum_to(n: int) -> int:
            return 0 if n == 0 else n + await pool.run(sum_to, n - 1)

        assert await pool.run(sum_to, 40) == 820
        assert pool._crew.staff.capacity == 1
        assert pool._crew.staff.busy == 0


@looped
async def test_a_tree_of_jobs_in_tasks_of_their_own_does_not_deadlock() -> None:
    async with AsyncPool(2, backlog=5) as pool:

        async def count(depth: int) -> int:
            if not depth:
                await asyncio.sleep(0)
                return 1
            return sum(await asyncio.gather(*(pool.run(count, depth - 1) for _ in range(3))))

        assert await pool.run(count, 4) == 81
        assert pool._crew.staff.capacity == 2


@looped
async def test_a_job_lends_one_slot_whatever_the_number_of_its_tasks_that_wait() -> None:
    door = Door()
    async with AsyncPool(1) as pool:

        async def parent() -> None:
            await asyncio.gather(*(pool.run(door) for _ in range(5)))

        job = await pool.asubmit(parent)
        await door.wait_entered()
        await turns()
        assert (door.inside, pool._crew.staff.capacity) == (1, 2)
        door.open()
        await job
    assert door.most_inside == 1


@looped
async def test_the_slot_is_taken_back_however_the_wait_ends() -> None:
    door = Door()
    async with AsyncPool(1) as pool:

        async def impatient() -> str:
            child = await pool.asubmit(door)
            try:
                await asyncio.wait_for(asyncio.shield(child), 0.01)
            except TimeoutError:
                return "gave up"
            raise AssertionError

        assert await pool.run(impatient) == "gave up"
        assert pool._crew.staff.capacity == 1
        door.open()


@looped
async def test_a_job_that_ends_while_a_task_of_its_own_still_waits_lends_nothing_more() -> None:
    door, after = Door(), Door()
    left: list[asyncio.Future[Any]] = []
    async with AsyncPool(1) as pool:

        async def leaves_a_wait() -> None:
            left.append(asyncio.ensure_future(pool.run(door)))
            await door.wait_entered()  # it runs on the slot that is lent
            await pool.asubmit(after)  # and this one waits when the job ends

        await pool.run(leaves_a_wait)
        await turns()
        assert (pool._crew.staff.capacity, pool._crew.staff.busy, after.entered) == (1, 1, 0)
        door.open()
        await left[0]
        after.open()


@looped
async def test_a_slot_that_was_taken_back_is_not_given_away_again() -> None:
    parents, first, child, third = Door(), Door(), Door(), Door()
    async with AsyncPool(1) as pool:

        async def parent() -> None:
            await pool.run(first)
            await parents()

        job = await pool.asubmit(parent)
        await first.wait_entered()  # on the slot that is lent
        running, waiting = await pool.asubmit(child), await pool.asubmit(third)
        first.open()
        await child.wait_entered()  # on the same slot
        await parents.wait_entered()  # which its owner has taken back
        child.open()
        await running
        await turns()
        assert third.entered == 0
        parents.open()
        await job
        third.open()
        await waiting


@looped
async def test_a_job_that_waits_for_itself_is_refused() -> None:
    async with AsyncPool(1) as pool:
        jobs: list[Any] = []

        async def waits_for_itself() -> None:
            await asyncio.sleep(0)
            with pytest.raises(NestedWait, match="a job can't wait for itself"):
                await jobs[0]

        jobs.append(await pool.asubmit(waits_for_itself))
        await jobs[0]


@looped
async def test_jobs_that_wait_in_a_circle_are_told() -> None:
    async with AsyncPool(2, unobserved="ignore") as pool:
        jobs: list[Job[str]] = []

        async def waits_for(index: int) -> str:
            await until(lambda: len(jobs) == 2)
            try:
                return await jobs[index]
            except NestedWait as error:
                return str(error)

        jobs.append(await pool.asubmit(waits_for, 1))
        jobs.append(await pool.asubmit(waits_for, 0))
        assert "they wait in a circle" in await jobs[0]


@looped
async def test_only_so_many_wait_at_once() -> None:
    async with AsyncPool(1, max_lent=3, unobserved="ignore") as pool:

        async def deeper(n: int) -> int:
            return n if n == 0 else await pool.run(deeper, n - 1)

        assert await pool.run(deeper, 3) == 0
        with pytest.raises(NestedWait, match=r"3 jobs of pool .* wait for its own jobs already \(max_lent\)"):
            await pool.run(deeper, 4)
        assert pool._crew.staff.capacity == 1


@looped
async def test_a_job_that_outlives_its_slot_lends_nothing() -> None:
    async with AsyncPool(1) as pool:
        door = Door()
        after: list[asyncio.Task[Any]] = []

        async def leaves_a_task() -> None:
            async def later() -> int:
                await door()
                return await pool.run(late_double, 2)

            after.append(asyncio.create_task(later()))

        await pool.run(leaves_a_task)
        door.open()
        assert await after[0] == 4
        assert pool._crew.staff.capacity == 1


@looped
async def test_waiting_for_another_pool_lends_nothing() -> None:
    door = Door()
    threads = ThreadPool(1)
    async with AsyncPool(1) as pool, AsyncPool(1) as other:

        async def parent() -> int:
            return int(await other.run(door, 1)) + await threads.run(len, "four")

        job = await pool.asubmit(parent)
        await door.wait_entered()
        assert pool._crew.staff.capacity == other._crew.staff.capacity == 1
        door.open()
        assert await job == 5
    await asyncio.to_thread(threads.shutdown)


@looped
async def test_what_a_first_step_submits_is_served_when_it_has_ended() -> None:
    async with AsyncPool(1) as pool:
        children: list[Any] = []

        async def submits() -> None:
            children.append(await pool.asubmit(double, 4))

        await pool.run(submits)
        assert await children[0] == 8


@looped
async def test_a_slot_of_a_caller_is_not_lent() -> None:
    async with AsyncPool(1, backlog=1, when_full="caller") as pool:
        door = Door()
        first, second = await pool.asubmit(door), await pool.asubmit(double, 1)

        async def waits() -> int:
            return await second

        waiting = asyncio.create_task(pool.asubmit(waits))
        await until(lambda: pool.report.running == 2)
        await turns()
        assert pool._crew.staff.capacity == 1
        door.open()
        assert await (await waiting) == 2
        await first
