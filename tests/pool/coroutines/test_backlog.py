"""A full backlog: who waits, who is refused, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import (
    AsyncPool,
    BacklogFull,
    Cancelled,
    Context,
    DeadlineExceeded,
    JobCancelled,
    JobState,
    PoolClosed,
    Retry,
)
from tests.gates import in_thread
from tests.pool.coroutines.looping import (
    Door,
    Oops,
    double,
    full_pool,
    held_pool,
    late_double,
    lines_up,
    looped,
    turns,
    until,
)


@looped
async def test_no_more_wait_than_the_backlog_takes() -> None:
    async with full_pool(3, when_full="reject") as full:
        with pytest.raises(BacklogFull, match=r"the backlog is full \(3 jobs wait\)"):
            await full.pool.asubmit(double, 1)
        report = full.pool.report
        assert (report.accepted, report.running, report.waiting) == (4, 1, 3)
        assert [job.state for job in (full.running, *full.waiting)] == [JobState.RUNNING] + [JobState.READY] * 3
    assert full.pool.report.done == 4


@looped
async def test_a_submitter_waits_while_the_loop_goes_on_until_a_place_is_free() -> None:
    async with full_pool() as full:
        submitting = asyncio.create_task(full.pool.asubmit(double, 5))
        await until(lines_up(full.pool))
        await turns()
        assert not submitting.done()
        assert full.pool.report.accepted == 2
        full.door.open()
        assert await (await submitting) == 10


@looped
async def test_submitters_are_served_in_their_order() -> None:
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async with full_pool() as full:
        submitting = []
        for n in range(5):
            submitting.append(asyncio.create_task(full.pool.asubmit(note, n)))
            await until(lines_up(full.pool, n + 1))
        full.door.open()
        await asyncio.gather(*submitting)
    assert order == [0, 1, 2, 3, 4]


@looped
async def test_a_wait_for_a_place_has_its_limit() -> None:
    async with full_pool(submit_timeout=0.02) as full:
        with pytest.raises(BacklogFull, match=r"after 0\.\d+ s of waiting"):
            await full.pool.asubmit(double, 1)
        assert not full.pool._crew.backlog.places.waiting
        with pytest.raises(BacklogFull):
            await full.pool.options(submit_timeout=0).asubmit(double, 1)
        submitting = asyncio.create_task(full.pool.options(submit_timeout=None).asubmit(double, 1))
        await until(lines_up(full.pool))
        full.door.open()
        assert await (await submitting) == 2


@looped
async def test_a_wait_for_a_place_ends_with_the_callers_context() -> None:
    async with full_pool() as full:
        with pytest.raises(DeadlineExceeded):
            with Context(timeout=0.02):
                await full.pool.asubmit(double, 1)

        context = Context()

        async def submit() -> Any:
            with context:
                return await full.pool.asubmit(double, 1)

        submitting = asyncio.create_task(submit())
        await until(lines_up(full.pool))
        context.cancel("no longer wanted")
        with pytest.raises(JobCancelled, match="no longer wanted"):
            await submitting
        assert full.pool.report.accepted == 2


@looped
async def test_a_submitter_that_is_cancelled_leaves_the_line_and_nothing_behind() -> None:
    async with full_pool() as full:
        impatient = asyncio.create_task(full.pool.asubmit(double, 1))
        patient = asyncio.create_task(full.pool.asubmit(double, 2))
        await until(lines_up(full.pool, 2))
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        full.door.open()
        assert await (await patient) == 4
    assert (full.pool.report.accepted, full.pool.report.done) == (3, 3)
    assert len(full.pool._crew.backlog.places.free) == 1


@looped
async def test_a_submitter_that_is_cancelled_with_a_place_in_hand_gives_it_back() -> None:
    async with full_pool() as full:
        first = asyncio.create_task(full.pool.asubmit(double, 1))
        second = asyncio.create_task(full.pool.asubmit(double, 2))
        await until(lines_up(full.pool, 2))
        assert full.waiting[0].cancel()  # its place is granted to the first, which has no turn yet
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await until(lambda: not full.pool._crew.backlog.places.waiting)
        full.door.open()
        assert await (await second) == 4
    assert full.pool.report.accepted == 3
    assert len(full.pool._crew.backlog.places.free) == 1


@looped
async def test_closing_the_pool_ends_the_wait_for_a_place() -> None:
    async with full_pool() as full:
        submitting = asyncio.create_task(full.pool.asubmit(double, 1))
        await until(lines_up(full.pool))
        in_thread(full.pool.close)
        with pytest.raises(PoolClosed):
            await submitting
        full.door.open()
    assert full.pool.report.done == 2


@looped
async def test_caller_runs_the_job_beside_the_slots_and_waits_for_it() -> None:
    async with full_pool(when_full="caller") as full:
        door = Door()
        submitting = asyncio.create_task(full.pool.asubmit(door, "answer"))
        await door.wait_entered()
        assert full.pool.report.running == 2
        assert not submitting.done()
        door.open()
        job = await submitting
        assert (job.done(), job.result()) == (True, "answer")
        assert job.worker == f"{full.pool.name}_caller"
        assert not full.door._opened.is_set()
        assert (await full.pool.asubmit(double, 4)).result() == 8
    assert full.pool.report.done == 4


@looped
async def test_a_caller_that_is_cancelled_cancels_the_job_it_runs() -> None:
    async with full_pool(when_full="caller") as full:
        door = Door()
        submitting = asyncio.create_task(full.pool.asubmit(door))
        await door.wait_entered()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await until(lambda: full.pool.report.cancelled == 1)
        assert door.inside == 0


@looped
async def test_a_place_that_a_cancelled_job_had_goes_to_the_next() -> None:
    async with full_pool() as full:
        submitting = asyncio.create_task(full.pool.asubmit(double, 1))
        await until(lines_up(full.pool))
        assert await asyncio.to_thread(full.waiting[0].cancel)  # from another thread
        job = await submitting
        assert full.waiting[0].cancelled()
        full.door.open()
        assert await job == 2


@looped
async def test_a_job_that_finds_a_free_slot_needs_no_place() -> None:
    door = Door()
    async with AsyncPool(10, backlog=1, when_full="reject") as pool:
        jobs = [await pool.asubmit(door) for _ in range(11)]
        with pytest.raises(BacklogFull):
            await pool.asubmit(door)
        door.open()
        await asyncio.gather(*jobs)


@looped
async def test_a_crowd_of_submitters_gets_through_a_small_backlog() -> None:
    async with AsyncPool(3, backlog=1) as pool:
        results = await asyncio.gather(*(pool.run(late_double, n) for n in range(300)))
    assert results == [2 * n for n in range(300)]
    assert len(pool._crew.backlog.places.free) == 1


@looped
async def test_a_full_asubmit_inside_a_job_lends_its_slot() -> None:
    async with AsyncPool(1, backlog=1) as pool:

        async def parent() -> list[int]:
            jobs = [await pool.asubmit(late_double, n) for n in range(4)]
            return [await job for job in jobs]

        assert await pool.run(parent) == [0, 2, 4, 6]


@looped
async def test_a_wait_for_a_place_inside_a_job_ends_with_the_job() -> None:
    seen: list[str] = []

    async with full_pool() as full:

        async def parent() -> None:
            try:
                await full.pool.asubmit(double, 1)
            except (Cancelled, asyncio.CancelledError) as error:
                seen.append(type(error).__name__)
                raise

        async with AsyncPool(1) as other:
            job = await other.asubmit(parent)
            await until(lines_up(full.pool))
            job.cancel("enough")
            with pytest.raises(JobCancelled, match="enough"):
                await job
        assert len(seen) == 1
        assert full.pool.report.accepted == 2


@looped
async def test_many_jobs_that_never_wait_keep_their_order_and_give_the_loop_its_turn() -> None:
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)
        if number == 99:  # a submitter comes while a slot is free, and others wait for it
            asyncio.get_running_loop().call_soon(lambda: late.append(asyncio.ensure_future(pool.asubmit(note, 250))))

    late: list[asyncio.Task[Any]] = []
    async with held_pool(backlog=300) as (pool, door):
        for n in range(250):
            await pool.asubmit(note, n)
        door.open()
        await until(lambda: len(order) == 251)
        await late[0]
    assert order == list(range(251))


@looped
async def test_a_due_attempt_goes_before_the_queue() -> None:
    order: list[str] = []

    async def fails_once() -> None:
        order.append("attempt")
        if order.count("attempt") == 1:
            raise Oops

    async def note(name: str) -> None:
        order.append(name)

    async with held_pool() as (pool, first):
        second = Door()
        retried = await pool.options(retry=Retry(2, wait=0)).asubmit(fails_once)
        await pool.asubmit(second)
        await pool.asubmit(note, "queued")
        first.open()
        await second.wait_entered()
        await until(lambda: len(pool._crew.backlog.due) == 1)
        second.open()
        await retried
    assert order == ["attempt", "attempt", "queued"]
