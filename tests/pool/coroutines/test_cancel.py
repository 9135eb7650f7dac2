"""Cancelling: by handle, by context, by the awaiting task, by whoever has the task; waiting jobs and running ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import AsyncPool, Cancelled, Context, JobCancelled, JobState, current_context, current_job
from tests.gates import in_thread
from tests.pool.coroutines.looping import Door, Stubborn, double, full_pool, looped, turns, until


class Watched:
    """A job that stays until it is cancelled, and keeps what it saw then."""

    def __init__(self) -> None:
        self.door = Door()
        self.seen: list[Any] = []

    async def __call__(self) -> None:
        try:
            await self.door()
        except asyncio.CancelledError as error:
            self.seen = [str(error), current_context().reason, current_context().cancelled]
            raise


@looped
async def test_a_waiting_job_that_is_cancelled_never_runs() -> None:
    async with full_pool(3) as full:
        job = full.waiting[1]
        assert job.cancel("not now")
        assert (job.cancelled(), job.state, job.attempt) == (True, JobState.CANCELLED, 0)
        with pytest.raises(JobCancelled, match="was cancelled: not now") as caught:
            await job
        assert not caught.value.started
        full.door.open()
        assert [await other for other in (full.waiting[0], full.waiting[2])] == [0, 4]
    assert (full.pool.report.cancelled, full.pool.report.done) == (1, 3)


@looped
async def test_cancel_of_a_running_job_cancels_its_task_with_the_context_in_step() -> None:
    watched = Watched()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(watched)
        await watched.door.wait_entered()
        assert not job.cancel("enough")
        with pytest.raises(JobCancelled, match="while it ran: enough") as caught:
            await job
        assert caught.value.started
        assert watched.seen == ["enough", "enough", True]
        assert (job.state, job.cancelled()) == (JobState.CANCELLED, False)
        assert await pool.run(double, 2) == 4
    assert pool.report.cancelled == 1


@looped
async def test_the_context_of_a_running_job_cancels_its_task_too() -> None:
    watched = Watched()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(watched)
        await watched.door.wait_entered()
        assert job.context.cancel("no more")
        with pytest.raises(JobCancelled, match="no more"):
            await job
        assert watched.seen[0] == "no more"


@looped
async def test_another_thread_may_cancel() -> None:
    watched = Watched()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(watched)
        waiting = await pool.asubmit(double, 1)
        await watched.door.wait_entered()
        assert await asyncio.to_thread(waiting.cancel, "by another thread")
        assert not await asyncio.to_thread(job.cancel, "by another thread")
        for one in (job, waiting):
            with pytest.raises(JobCancelled, match="by another thread"):
                await one


@looped
async def test_a_context_given_to_jobs_cancels_those_that_wait_and_those_that_run() -> None:
    watched, context = Watched(), Context()
    async with AsyncPool(1) as pool:
        view = pool.options(context=context)
        running, waiting = await view.asubmit(watched), await view.asubmit(double, 1)
        await watched.door.wait_entered()
        context.cancel("all of it")
        for job in (running, waiting):
            with pytest.raises(JobCancelled, match="all of it"):
                await job
        assert waiting.cancelled()
        assert not running.cancelled()


@looped
async def test_a_job_under_a_tripped_context_is_not_run() -> None:
    context = Context()
    context.cancel("too late")
    async with AsyncPool(1) as pool:
        job = await pool.options(context=context).asubmit(double, 1)
        with pytest.raises(JobCancelled, match="too late"):
            await job
        assert (job.attempt, job.cancelled()) == (0, True)
        assert await pool.run(double, 1) == 2


@looped
async def test_a_job_that_returns_all_the_same_keeps_its_result() -> None:
    stubborn = Stubborn()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(stubborn)
        await stubborn.wait_entered()
        job.cancel()
        await until(lambda: stubborn.cancelled == 1)
        stubborn.let_go()
        assert await job == "let go"
    assert pool.report.done == 1


@looped
async def test_what_a_cancelled_job_raises_counts_as_what_it_is() -> None:
    door = Door()

    async def clumsy() -> None:
        try:
            await door()
        except asyncio.CancelledError:
            raise KeyError("while cleaning up") from None

    async with AsyncPool(1, unobserved="ignore") as pool:
        job = await pool.asubmit(clumsy)
        await door.wait_entered()
        job.cancel()
        with pytest.raises(KeyError, match="while cleaning up"):
            await job
    assert (pool.report.failed, pool.report.cancelled) == (1, 0)


@looped
async def test_a_job_may_cancel_itself_in_its_first_step_and_later() -> None:
    async def at_once() -> None:
        job = current_job()
        assert job is not None
        job.cancel("of its own accord")
        await asyncio.sleep(10)

    async def later() -> None:
        await asyncio.sleep(0)
        current_context().cancel("of its own accord")
        await asyncio.sleep(10)

    async with AsyncPool(1) as pool:
        for fn in (at_once, later):
            with pytest.raises(JobCancelled, match="of its own accord"):
                await pool.run(fn)
        assert await pool.run(double, 1) == 2


@looped
async def test_a_job_that_cancels_itself_and_returns_without_a_wait_leaves_the_next_in_peace() -> None:
    async def at_once() -> str:
        job = current_job()
        assert job is not None
        job.cancel("too late to matter")
        return "done"

    async def rest() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "rested"

    async with AsyncPool(1) as pool:
        assert await pool.run(at_once) == "done"
        assert await pool.run(rest) == "rested"


@looped
async def test_a_cancellation_that_comes_when_its_job_has_ended_leaves_the_next_in_peace() -> None:
    stubborn, door = Stubborn(), Door()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(stubborn)
        await stubborn.wait_entered()
        worker: Any = pool._crew.attempts.running[job]
        job.cancel("for the first")
        stubborn.let_go()
        assert await job == "let go"
        following = await pool.asubmit(door, "kept")
        await door.wait_entered()
        worker._cancel(job, "for the first")  # as it crosses over from another thread
        await turns()
        door.open()
        assert await following == "kept"


@looped
async def test_check_in_a_tripped_job_unwinds_it() -> None:
    door = Door()

    async def asks() -> None:
        try:
            await door()
        except asyncio.CancelledError:
            pass
        try:
            current_context().check()
        except Exception:
            raise AssertionError("no Exception can eat it") from None

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(asks)
        await door.wait_entered()
        job.cancel("asked to")
        with pytest.raises(JobCancelled, match="asked to") as caught:
            await job
        assert isinstance(caught.value.__cause__, Cancelled)


@looped
async def test_a_task_cancelled_by_somebody_who_has_it_ends_its_job() -> None:
    tasks: list[asyncio.Task[Any]] = []
    door = Door()

    async def look() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await door()

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(look)
        await door.wait_entered()
        tasks[0].cancel()
        with pytest.raises(JobCancelled, match="its task was cancelled"):
            await job
        assert await pool.run(double, 1) == 2


@looped
async def test_a_task_cancelled_before_its_first_step_ends_its_job_and_frees_its_slot() -> None:
    async with AsyncPool(1) as pool:
        pool._crew.staff.starts_eagerly = False  # as on loops other than asyncio's own on Python 3.11
        ran: list[int] = []

        async def run() -> None:
            ran.append(1)

        job = await pool.asubmit(run)
        waiting = await pool.asubmit(double, 2)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        assert job.running()
        assert task.cancel()
        with pytest.raises(JobCancelled, match="its task was cancelled") as caught:
            await job
        assert not caught.value.started
        assert (job.cancelled(), job.attempt, ran) == (True, 0, [])
        assert await waiting == 4
    assert (pool.report.cancelled, pool.report.done) == (1, 1)


@looped
async def test_a_job_cancelled_between_its_task_and_its_first_step_does_not_run() -> None:
    async with AsyncPool(2) as pool:
        pool._crew.staff.starts_eagerly = False
        ran: list[int] = []

        async def run() -> None:
            ran.append(1)

        by_handle, by_context = await pool.asubmit(run), await pool.asubmit(run)
        assert by_handle.cancel("at once")
        assert by_context.context.cancel("at once")
        for job in (by_handle, by_context):
            with pytest.raises(JobCancelled, match="at once"):
                await job
            assert (job.cancelled(), job.attempt, ran) == (True, 0, [])
        assert await pool.run(double, 2) == 4


@looped
async def test_cancelling_the_task_that_awaits_cancels_the_job() -> None:
    watched = Watched()
    async with AsyncPool(1) as pool:
        awaiting = asyncio.create_task(pool.run(watched))
        await watched.door.wait_entered()
        waiting = asyncio.create_task(pool.run(double, 1))
        await until(lambda: pool.report.waiting == 1)
        for task in (waiting, awaiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: pool.report.cancelled == 2)
        assert watched.seen[0] == "the task that awaited it was cancelled"


@looped
async def test_wait_for_and_timeout_cancel_the_job_and_shield_does_not() -> None:
    watched, shielded = Watched(), Door()
    async with AsyncPool(2) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.run(watched), 0.02)
        await until(lambda: bool(watched.seen))
        job = await pool.asubmit(shielded, "kept")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.shield(job)
        assert job.running()
        shielded.open()
        assert await job == "kept"


@looped
async def test_forget_leaves_a_running_job_in_peace() -> None:
    async with full_pool() as full:
        assert full.waiting[0].forget()
        assert not full.running.forget()
        await turns()
        full.door.open()
        assert await full.running is None
        assert full.waiting[0].cancelled()


@looped
async def test_cancelling_an_ended_job_does_nothing() -> None:
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(double, 1)
        assert await job == 2
        assert not job.cancel()
        assert not job.context.cancel()
        assert await job == 2


@looped
async def test_a_timeout_inside_a_job_is_the_jobs_own() -> None:
    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        except TimeoutError:
            await asyncio.sleep(0)
            return "went on"
        raise AssertionError

    async with AsyncPool(1) as pool:
        assert await pool.run(impatient) == "went on"


@looped
async def test_a_cancelled_job_takes_the_tasks_of_its_group_along() -> None:
    door = Door()

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(door())

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(parent)
        await door.wait_entered(3)
        job.cancel("the whole group")
        with pytest.raises(JobCancelled, match="the whole group"):
            await job
        assert door.inside == 0


@looped
async def test_cancelling_a_parent_reaches_the_jobs_that_it_submitted() -> None:
    child = Watched()
    async with AsyncPool(2) as pool:

        async def parent() -> None:
            await pool.run(child)

        job = await pool.asubmit(parent)
        await child.door.wait_entered()
        in_thread(job.cancel, "root")
        with pytest.raises(JobCancelled, match="root"):
            await job
        await until(lambda: pool.report.cancelled == 2)
        assert child.seen[0] in ("root", "the task that awaited it was cancelled")
