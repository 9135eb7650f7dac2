"""A job that finds a slot begins before `asubmit` returns: on every Python, whatever calls and whatever it does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from penstock import AsyncPool, Incomplete, Job, JobAbandoned, JobState, PoolClosed, events
from penstock.pool.coroutines.slots import ONE_TURN
from penstock.pool.ladder import Stop
from tests.gates import GUARD, in_thread
from tests.pool.coroutines import looping
from tests.pool.coroutines.looping import Door, Oops, double, late_double, looped, turns
from tests.pool.watching import Seen

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


def begins_at_once() -> bool:
    return looping.kind == "asyncio" or sys.version_info >= (3, 12)


@looped
async def test_a_job_makes_its_first_step_before_asubmit_returns() -> None:
    ran: list[int] = []

    async def run() -> str:
        ran.append(len(ran))
        return "done"

    async with AsyncPool(2) as pool:
        for count in (1, 2, 3):
            job = await pool.asubmit(run)
            assert (len(ran), job.done()) == ((count, True) if begins_at_once() else (count - 1, False))
            assert await job == "done"
            assert (job.attempt, job.name, job.state) == (1, run.__qualname__, JobState.DONE)
    assert pool.report.done == 3


@looped
async def test_in_its_first_step_a_job_is_in_a_task_of_its_own_which_is_as_any_other() -> None:
    outer = asyncio.current_task()
    seen: list[asyncio.Task[Any] | None] = []

    async def run(value: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task in asyncio.all_tasks()
        assert task.get_loop() is asyncio.get_running_loop()
        assert task.get_name() == run.__qualname__
        seen.append(task)
        assert number.get() == 5
        number.set(value)
        async with asyncio.timeout(GUARD), asyncio.TaskGroup() as group:
            inner = group.create_task(late_double(4))
        assert inner.result() == 8
        assert (asyncio.current_task(), number.get()) == (task, value)

    number.set(5)
    async with AsyncPool(3) as pool:
        jobs = []
        for value in range(10, 15):
            jobs.append(await pool.asubmit(run, value))
            assert asyncio.current_task() is outer
        for job in jobs:
            await job
    assert number.get() == 5
    assert outer not in seen
    assert len(set(seen)) == 5


@looped
async def test_a_job_whose_first_step_waits_goes_on_as_if_the_loop_had_made_it() -> None:
    door = Door()

    async def run() -> str:
        try:
            await door()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "cancelled"
        return "opened"

    async with AsyncPool(3) as pool:
        jobs = [await pool.asubmit(run) for _ in range(3)]
        await door.wait_entered(3)
        jobs[1].cancel()
        assert await jobs[1] == "cancelled"
        door.open()
        assert [await job for job in jobs] == ["opened", "cancelled", "opened"]


@looped
async def test_it_begins_at_once_also_when_no_task_submits_it() -> None:
    ended: asyncio.Future[Job[int]] = asyncio.get_running_loop().create_future()

    async with AsyncPool(2) as pool:
        assert await pool.run(double, 1) == 2

        def submit() -> None:
            assert asyncio.current_task() is None
            submitting = pool.asubmit(double, 2)
            with pytest.raises(StopIteration) as returned:
                submitting.send(None)
            assert asyncio.current_task() is None
            ended.set_result(returned.value.value)

        asyncio.get_running_loop().call_soon(submit)
        job = await ended
        assert await job == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, Oops, SystemExit])
@looped
async def test_whatever_a_first_step_raises_the_submitter_is_in_its_own_task_again(error: type[BaseException]) -> None:
    outer = asyncio.current_task()

    async def leave(really: bool) -> bool:
        if really:
            raise error
        return really

    async with AsyncPool(1, unobserved="ignore") as pool:
        await pool.run(leave, False)
        if error is KeyboardInterrupt and begins_at_once():
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncio complains that nobody took it
            with pytest.raises(KeyboardInterrupt):  # is the loop's to deal with, which is asked by way of the submitter
                await pool.asubmit(leave, True)
        elif error is not KeyboardInterrupt:
            job = await pool.asubmit(leave, True)
            with pytest.raises(error):
                await job
        assert asyncio.current_task() is outer
        assert await pool.run(leave, False) is False
        assert await asyncio.create_task(late_double(2)) == 4


@looped
async def test_after_so_many_first_steps_the_loop_has_a_turn() -> None:
    others: list[int] = []

    async def other() -> None:
        while True:
            others.append(1)
            await asyncio.sleep(0)

    async with AsyncPool(3 * ONE_TURN) as pool:
        task = asyncio.create_task(other())
        for _ in range(3 * ONE_TURN + 1):
            await pool.asubmit(double, 1)
        assert len(others) >= 3
        task.cancel()
        await asyncio.wait([task])


@looped
async def test_two_pools_begin_jobs_inside_of_one_another() -> None:
    async def outer(value: int) -> int:
        job = await second.asubmit(double, value)
        return await job + await first.run(double, value)

    async with AsyncPool(3) as first, AsyncPool(3) as second:
        jobs = [await first.asubmit(outer, value) for value in range(5)]
        assert [await job for job in jobs] == [0, 4, 8, 12, 16]
        assert [await first.run(double, 3), await second.run(double, 4)] == [6, 8]


@looped
async def test_the_pool_knows_a_function_again_without_keeping_it() -> None:
    def made(value: int) -> Callable[[], Any]:
        async def run() -> int:
            return value

        return run

    async with AsyncPool(2) as pool:
        run = made(0)
        for value in range(4):  # functions of one code, as those that are made for each call
            run = made(value)
            assert [await pool.run(run), await pool.run(run)] == [value, value]
        gone = weakref.ref(run)
        del run
        await turns()
        gc.collect()
        assert gone() is None
        with pytest.raises(TypeError):
            await pool.asubmit(None)  # type: ignore[arg-type]  # what the pool finds in place of the last one
        assert await pool.run(double, 2) == 4


@looped
async def test_every_call_of_a_function_is_told_to_those_who_watch() -> None:
    async with AsyncPool(2) as pool:
        assert await pool.run(double, 1) == 2
        seen = Seen(pool)
        for number in range(3):
            assert await pool.run(double, number) == 2 * number
        assert [len(seen.of(kind)) for kind in (events.JobAccepted, events.JobStarted, events.JobEnded)] == [3, 3, 3]


@looped
async def test_a_job_that_finds_a_slot_free_does_not_overtake_those_that_wait() -> None:
    order: list[int] = []
    door = Door()

    async def note(place: int) -> None:
        order.append(place)

    async with AsyncPool(1, backlog=3 * ONE_TURN) as pool:
        await pool.run(note, 0)
        await pool.asubmit(door)
        for place in range(1, 2 * ONE_TURN):
            await pool.asubmit(note, place)
        door.open()
        while pool._crew.backlog.queue and not pool._crew.staff.spare:  # noqa: ASYNC110 - a moment between two turns
            await asyncio.sleep(0)
        await pool.asubmit(note, 2 * ONE_TURN)
    assert order == list(range(2 * ONE_TURN + 1))


class Hooked(dict[Any, Any]):
    """A room of running jobs that calls *hook* when a job has come in."""

    def __init__(self, room: dict[Any, Any], hook: Callable[[], object]) -> None:
        super().__init__()
        self.room, self.hook = room, hook

    def __setitem__(self, job: Any, worker: Any) -> None:
        self.room[job] = worker
        self.hook()

    def pop(self, job: Any, *default: Any) -> Any:
        return self.room.pop(job, *default)


def hook(pool: AsyncPool, fn: Callable[[], object]) -> None:
    """Have *fn* called on another thread at the moment that a job on the short way in is among the running ones."""
    door = pool._crew.intake
    door._running = Hooked(door._running, lambda: in_thread(fn).result(GUARD))


@looped
async def test_a_job_that_comes_in_while_the_pool_is_closed_is_refused() -> None:
    async with AsyncPool(1) as pool:
        assert await pool.run(double, 1) == 2
        hook(pool, pool.close)
        with pytest.raises(PoolClosed):
            await pool.asubmit(double, 2)
        assert (pool._crew.staff.busy, pool.report.accepted, pool.report.closed) == (0, 1, True)


@looped
async def test_a_job_that_a_stop_finds_while_it_comes_in_is_left_and_never_runs() -> None:
    ran: list[int] = []

    async def run() -> None:
        ran.append(1)

    with pytest.raises(Incomplete):
        async with AsyncPool(1) as pool:
            await pool.run(run)
            hook(pool, lambda: Stop([pool._crew], 0.01).climb())
            job = await pool.asubmit(run)
            with pytest.raises(JobAbandoned):
                await job
            await turns()
            assert (len(ran), pool._crew.staff.busy, pool.report.stuck) == (1, 0, ())
    assert (pool.report.done, pool.report.abandoned, pool.report.accepted) == (1, 1, 2)
