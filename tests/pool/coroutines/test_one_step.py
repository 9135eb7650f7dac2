"""Jobs that end with their first step share a task that nobody has seen; to whoever looks, each has one of its own."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from penstock import AsyncPool, JobCancelled, JobState
from penstock.pool.coroutines.onestep import CAN_SHARE
from penstock.pool.coroutines.slots import PROVES, Slots
from tests.gates import GUARD
from tests.pool.coroutines import looping
from tests.pool.coroutines.looping import Oops, double, looped, turns

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="each job has a task of its own there")

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)

WARM = PROVES + 10  # some of them begin in another way: the first, and one after each turn of the loop


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def call(fn: Callable[[], Any]) -> Any:
    """A job that calls *fn* and ends."""
    return fn()


async def become(fn: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """A job that awaits *fn*."""
    return await fn()


async def none() -> None:
    pass


async def expect_one_step(pool: AsyncPool, fn: Callable[..., Any], arg: Any) -> Slots:
    """Run jobs that end with their first step, so that the pool expects it of the next one."""
    for _ in range(WARM):
        await pool.run(fn, arg)
    slots = pool._crew.staff
    if looping.kind == "asyncio" or sys.version_info >= (3, 12):
        assert not slots.to_prove
        assert slots.one_step._task is not None
    else:
        pytest.skip("no job begins at once on this loop")
    return slots


@looped
async def test_jobs_that_do_not_look_share_a_task_which_nobody_finds_between_them() -> None:
    async with AsyncPool(2) as pool:
        slots = await expect_one_step(pool, double, 1)
        shared = id(slots.one_step._task)
        for value in range(20):
            job = await pool.asubmit(double, value)
            assert job.done()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert id(slots.one_step._task) == shared
    assert pool.report.done == WARM + 20


@looped
async def test_a_pool_that_is_dropped_leaves_no_complaint_about_its_task() -> None:
    pool = AsyncPool(2)
    slots = await expect_one_step(pool, double, 1)
    gone = weakref.ref(slots.one_step._task)
    await pool.shutdown()
    del slots, pool
    gc.collect()
    await turns()
    assert gone() is None  # `looped` looks for complaints


kept: list[Any] = []
weakly: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
called: list[bool] = []


def cancel() -> None:
    current().cancel()


def rename() -> None:
    current().set_name("another")


def remember() -> None:
    current().remembered = 1  # type: ignore[attr-defined]


def keep() -> None:
    kept.append(current())


def refer() -> None:
    weakly[current()] = 1


def wait_for_its_end() -> None:
    current().add_done_callback(lambda task: called.append(task.done()))


LOOKS = [cancel, rename, remember, keep, refer, wait_for_its_end]


@pytest.mark.parametrize("look", LOOKS)
@looped
async def test_a_task_that_was_seen_is_its_jobs_alone(look: Callable[[], None]) -> None:
    kept.clear()
    called.clear()

    def check() -> None:
        task = current()
        assert task in asyncio.all_tasks()
        assert not task.done()
        assert task.get_loop() is asyncio.get_running_loop()
        assert (task.get_name(), task.cancelling()) == (call.__qualname__, 0)
        assert not hasattr(task, "remembered")
        assert task not in kept
        assert task not in weakly

    async with AsyncPool(2) as pool:
        await expect_one_step(pool, call, int)
        for _ in range(3):
            await pool.run(call, look)
            if look is keep:
                assert kept[-1].done()  # and the next task is made while this one is held
            for _ in range(3):
                await pool.run(call, check)
        await turns()
        assert len(called) == (3 if look is wait_for_its_end else 0)
        assert all(called)
        assert all(task.done() for task in kept)
        assert len(set(kept)) == len(kept)
        assert pool.report.done == pool.report.accepted


@looped
async def test_a_task_that_is_kept_is_cancelled_if_it_was_asked_to_be_in_its_only_step() -> None:
    def cancel_and_keep() -> None:
        cancel()
        keep()

    kept.clear()
    async with AsyncPool(2) as pool:
        await expect_one_step(pool, call, int)
        assert await pool.run(call, cancel_and_keep) is None
        assert kept[-1].cancelled()


# What goes on after its first step does so as in any task: each of these tells what it saw.


async def looks_around() -> list[Any]:
    before: Any = current()
    number.set(number.get() + 1)
    await asyncio.sleep(0)
    coroutine = before.get_coro()
    context = before.get_context().get(number) if sys.version_info >= (3, 12) else number.get()
    found = before in asyncio.all_tasks(), before.done(), before.get_loop() is asyncio.get_running_loop()
    return [current() is before, number.get(), context, *found, hasattr(coroutine, "cr_frame"), before.cancelling()]


async def is_out_of_time() -> list[Any]:
    seen: list[Any] = []
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError as error:
        seen.append(type(error.__cause__))
    await asyncio.sleep(0)
    return [*seen, current().cancelling()]


async def has_a_group_that_fails() -> list[Any]:
    async def fail() -> None:
        raise Oops

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.Event().wait()
    except ExceptionGroup as errors:
        return [errors.exceptions[0].__class__, current().cancelling()]
    return []


async def cancels_itself_and_then(what: Callable[[], Any]) -> list[Any]:
    waited_for = what()
    current().cancel("enough")
    try:
        if isinstance(waited_for, asyncio.Future | Done):
            await waited_for
        else:
            await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        try:
            raise Oops
        except Oops as inner:
            told = [error.args, type(inner.__context__)]
        cancelled = isinstance(waited_for, asyncio.Future) and waited_for.cancelled()
        return [*told, cancelled, current().cancelling(), current().uncancel()]
    return ["not cancelled"]


async def cancels_itself_and_waits() -> list[Any]:
    return await cancels_itself_and_then(asyncio.get_running_loop().create_future)


async def cancels_itself_and_yields() -> list[Any]:
    return await cancels_itself_and_then(int)


class Done:
    """Suspends with a future that is done already, which can't be cancelled."""

    def __await__(self) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        future._asyncio_future_blocking = True
        yield future


async def cancels_itself_and_asks_what_is_done() -> list[Any]:
    return await cancels_itself_and_then(Done)


async def handles_one_error_and_raises_another() -> list[Any]:
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waiting.set_exception, Oops())
    try:
        await waiting
    except Oops:
        pass
    try:
        raise ValueError
    except ValueError as error:
        return [type(error.__context__)]


async def awaits_what_nobody_can() -> list[Any]:
    class Odd:
        def __await__(self) -> Any:
            yield self

    try:
        await Odd()
    except RuntimeError as error:
        return [str(error).split(":")[0]]
    return []


GOING_ON = [
    looks_around, is_out_of_time, has_a_group_that_fails, cancels_itself_and_waits, cancels_itself_and_yields,
    cancels_itself_and_asks_what_is_done, handles_one_error_and_raises_another, awaits_what_nobody_can,
]  # fmt: skip


@pytest.mark.parametrize("fn", GOING_ON)
@looped
async def test_a_job_that_goes_on_all_the_same_does_so_as_in_any_task(fn: Callable[[], Any]) -> None:
    number.set(1)
    expected = await asyncio.create_task(become(fn))
    async with AsyncPool(2) as pool:
        for _ in range(2):
            slots = await expect_one_step(pool, become, none)
            job = await pool.asubmit(become, fn)
            assert slots.one_step._task is None  # it was this job's
            assert await job == expected
            assert slots.busy == 0
    assert number.get() == 1


@looped
async def test_a_job_that_goes_on_is_seen_and_cancelled_like_any_other() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    async with AsyncPool(2) as pool:
        await expect_one_step(pool, become, none)
        job = await pool.asubmit(become, waits)
        stack = job.stack()
        assert "in become" in stack
        assert "in waits" in stack
        (task,) = asyncio.all_tasks() - {current()}
        assert become.__qualname__ in repr(task)
        assert [frame.f_code.co_name for frame in task.get_stack()]
        job.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await job
        await turns()
        assert task.done()


@looped
async def test_a_job_that_is_asked_to_stop_in_its_first_step_heeds_it_in_the_second() -> None:
    async def asks_and_waits() -> None:
        (job,) = pool._crew.attempts.running
        job.cancel("itself")
        await asyncio.Event().wait()

    async with AsyncPool(2) as pool:
        await expect_one_step(pool, become, none)
        job = await pool.asubmit(become, asks_and_waits)
        with pytest.raises(JobCancelled, match="itself"):
            await job


@pytest.mark.parametrize("error", [Oops, SystemExit, GeneratorExit])
@looped
async def test_a_job_that_fails_in_its_only_step_leaves_the_task_to_the_next(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    async with AsyncPool(2, unobserved="ignore") as pool:
        slots = await expect_one_step(pool, call, int)
        shared = id(slots.one_step._task)
        outer = asyncio.current_task()
        for _ in range(3):
            job = await pool.asubmit(call, fail)
            assert (job.state, asyncio.current_task()) == (JobState.FAILED, outer)
            with pytest.raises(error):
                await job
            del job
            assert await pool.run(call, int) == 0
        assert id(slots.one_step._task) == shared


@looped
async def test_a_keyboard_interrupt_goes_to_the_loop_by_way_of_the_submitter() -> None:
    def interrupt() -> None:
        keep()
        raise KeyboardInterrupt

    kept.clear()
    async with AsyncPool(2, unobserved="ignore") as pool:
        await expect_one_step(pool, call, int)
        outer = asyncio.current_task()
        with pytest.raises(KeyboardInterrupt):
            await pool.asubmit(call, interrupt)
        assert asyncio.current_task() is outer
        assert isinstance(kept.pop().exception(), KeyboardInterrupt)
        assert await pool.run(call, int) == 0


@looped
async def test_it_makes_first_steps_also_when_no_task_submits() -> None:
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async with AsyncPool(2) as pool:
        await expect_one_step(pool, become, none)

        def submit(fn: Callable[[], Any]) -> Any:
            with pytest.raises(StopIteration) as returned:
                pool.asubmit(become, fn).send(None)
            assert asyncio.current_task() is None
            return returned.value.value

        asyncio.get_running_loop().call_soon(lambda: ended.set_result([submit(none), submit(looks_around)]))
        async with asyncio.timeout(GUARD):
            first, second = await ended
            assert await first is None
            assert (await second)[0]


@looped
async def test_what_a_job_had_in_its_variables_is_let_go_with_it() -> None:
    class Large:
        pass

    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    def fill() -> weakref.ref[Large]:
        large = Large()
        variable.set(large)
        return weakref.ref(large)

    async with AsyncPool(2) as pool:
        await expect_one_step(pool, call, int)
        gone = await pool.run(call, fill)
        gc.collect()
        assert gone() is None
