"""Handing in coroutines: what comes back, who runs, and what is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import sys
import warnings
import weakref
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest

from penstock import AsyncPool, JobState, NestedWait, PoolClosed, current_context, current_job
from tests.gates import GUARD, in_thread
from tests.pool.coroutines.looping import (
    Door,
    Oops,
    double,
    fail,
    fail_at_once,
    late_double,
    looped,
    new_loop,
    turns,
    until,
)


@looped
async def test_asubmit_gives_a_job_whose_result_is_awaited() -> None:
    async with AsyncPool(2) as pool:
        job = await pool.asubmit(late_double, 21)
        assert await job == 42
        assert (job.state, job.attempt, job.done()) == (JobState.DONE, 1, True)
        assert job.result(0) == await job == 42
        assert job.waited is not None
        assert job.ran is not None
        assert job.ran >= 0
        assert job.worker == f"{pool.name}_0"
    assert pool.report.ok


@looped
async def test_run_is_both_in_one() -> None:
    async with AsyncPool(2) as pool:
        assert await pool.run(double, 4) == 8
        assert await pool.run(late_double, number=4) == 8


@looped
async def test_every_keyword_is_the_functions() -> None:
    async def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    async with AsyncPool(1) as pool:
        assert await pool.run(capture, 1, self=2, fn=3, timeout=4) == ((1,), {"self": 2, "fn": 3, "timeout": 4})


@looped
async def test_many_jobs_all_give_their_results() -> None:
    async with AsyncPool(7, backlog=3) as pool:
        jobs = [await pool.asubmit(late_double if n % 3 else double, n) for n in range(1_000)]
        assert [await job for job in jobs] == [2 * n for n in range(1_000)]
    assert pool.report.done == 1_000


@pytest.mark.parametrize("function", [fail, fail_at_once])
@looped
async def test_an_error_comes_out_where_the_job_is_awaited(function: Any) -> None:
    async with AsyncPool(1, unobserved="raise") as pool:
        job = await pool.asubmit(function, 7)
        with pytest.raises(Oops) as caught:
            await job
    assert caught.value.args == ("it failed", 7)
    assert caught.value.__traceback__ is not None
    assert job.state is JobState.FAILED


@looped
async def test_no_more_than_max_workers_run_at_once() -> None:
    door = Door()
    async with AsyncPool(3, backlog=100) as pool:
        jobs = [await pool.asubmit(door) for _ in range(10)]
        await door.wait_entered(3)
        await turns()
        assert (door.inside, sum(job.running() for job in jobs)) == (3, 3)
        assert (pool.stats().running, pool.stats().queued, pool.stats().workers) == (3, 7, 3)
        door.open()
        await asyncio.gather(*jobs)
    assert door.most_inside == 3


@looped
async def test_a_bound_holds_whatever_jobs_do_with_their_turns() -> None:
    inside = most = 0

    async def job(steps: int) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(steps):
            await asyncio.sleep(0)
        inside -= 1

    async with AsyncPool(5, backlog=20) as pool:
        async with asyncio.TaskGroup() as group:
            for submitter in range(10):
                for n in range(20):
                    group.create_task(pool.run(job, (submitter + n) % 4))
    assert most == 5
    assert pool.report.done == 200


@looped
async def test_each_job_has_a_task_of_its_own() -> None:
    async def look() -> Any:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is before
        return before

    async with AsyncPool(1) as pool:
        tasks = [await pool.run(look) for _ in range(3)]
    assert len({id(task) for task in tasks} | {id(asyncio.current_task())}) == 4
    assert {task.get_name() for task in tasks} == {look.__qualname__}


@looped
async def test_a_job_finds_itself_and_its_context() -> None:
    async def look() -> tuple[Any, Any]:
        await asyncio.sleep(0)
        return current_job(), current_context()

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(look)
        assert await job == (job, job.context)
    assert current_job() is None


@looped
async def test_tasks_that_a_job_makes_are_part_of_it() -> None:
    async def child() -> Any:
        return current_job(), current_context()

    async def parent() -> Any:
        return await asyncio.create_task(child())

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(parent)
        assert await job == (job, job.context)


@looped
async def test_partials_methods_callable_objects_and_mocks_are_coroutine_functions_too() -> None:
    class Doubler:
        async def method(self, number: int) -> int:
            return 2 * number

        async def __call__(self, number: int) -> int:
            return 2 * number

    async with AsyncPool(1) as pool:
        assert await pool.run(functools.partial(double, 2)) == 4
        assert await pool.run(Doubler().method, 2) == 4
        assert await pool.run(Doubler(), 2) == 4
        assert await pool.run(AsyncMock(return_value=4), 2) == 4


@looped
async def test_a_plain_function_is_refused_with_a_hint_at_threads() -> None:
    def plain() -> None: ...

    class Plain:
        def __call__(self) -> None: ...

    async with AsyncPool(1) as pool:
        for fn in (plain, len, Plain(), functools.partial(plain), lambda: double(1)):
            with pytest.raises(TypeError, match="ThreadPool"):
                await pool.asubmit(fn)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="ThreadPool"):
                pool.map(fn, [1])  # type: ignore[arg-type]
    assert pool.report.accepted == 0


@looped
async def test_a_coroutine_and_what_cannot_be_called_are_refused() -> None:
    async def generator() -> AsyncIterator[int]:
        yield 1

    async with AsyncPool(1) as pool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not a word of a coroutine that was never awaited
            with pytest.raises(TypeError, match=r"not the coroutine: asubmit\(double, …\)"):
                await pool.asubmit(double(1))  # type: ignore[arg-type]
            gc.collect()
        with pytest.raises(TypeError, match="async generator"):
            await pool.asubmit(generator)  # type: ignore[arg-type]
        for thing in (None, 7, "text"):
            with pytest.raises(TypeError, match="coroutine function"):
                await pool.asubmit(thing)  # type: ignore[arg-type]


@looped
async def test_an_exit_in_a_job_is_its_failure() -> None:
    async def leave() -> None:
        sys.exit(3)

    async with AsyncPool(1) as pool:
        with pytest.raises(SystemExit):
            await pool.run(leave)
        assert await pool.run(double, 1) == 2
    assert pool.report.failed == 1


def test_ctrl_c_in_a_job_is_its_failure_and_goes_on_to_the_loop() -> None:
    pools: list[AsyncPool] = []

    async def interrupted() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def main() -> None:
        async with AsyncPool(1, grace=0.5) as pool:
            pools.append(pool)
            await pool.asubmit(interrupted)
            await asyncio.sleep(GUARD)

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert (pools[0].report.failed, pools[0].report.closed) == (1, True)


@looped
async def test_a_pool_belongs_to_one_loop() -> None:
    async with AsyncPool(1) as pool:
        await pool.run(double, 1)

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await pool.asubmit(double, 1)

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert await pool.run(double, 2) == 4
    assert pool.report.accepted == 2


def test_a_pool_can_be_made_before_there_is_a_loop() -> None:
    pool = AsyncPool(1)

    async def main() -> None:
        async with pool:
            assert await pool.run(double, 2) == 4

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert pool.report.ok


@looped
async def test_without_a_block_close_and_wait_do_it() -> None:
    pool = AsyncPool(2)
    jobs = [await pool.asubmit(late_double, n) for n in range(5)]
    with pytest.raises(RuntimeError, match=r"call close\(\) first"):
        await pool.wait()
    pool.close()
    with pytest.raises(PoolClosed, match="it was closed"):
        await pool.asubmit(double, 1)
    report = await pool.wait()
    assert (report.done, report.ok) == (5, True)
    assert [job.result() for job in jobs] == [0, 2, 4, 6, 8]
    assert (await pool.wait()).done == (await pool.shutdown()).done == 5


@looped
async def test_asking_for_a_result_on_the_loops_thread_is_refused_rather_than_stop_the_loop() -> None:
    door = Door()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(door)
        with pytest.raises(NestedWait, match="await job"):
            job.result()
        door.open()
        assert await job is None
        assert job.result() is None


@looped
async def test_another_thread_may_wait_for_a_job() -> None:
    door = Door()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(door, "answer")
        waiting = in_thread(job.result, GUARD)
        all_of_them = in_thread(concurrent.futures.wait, [job], GUARD)
        await door.wait_entered()
        door.open()
        assert await asyncio.wrap_future(waiting) == "answer"
        assert (await asyncio.wrap_future(all_of_them)).done == {job}


@looped
async def test_several_tasks_may_await_one_job_and_the_other_ways_of_asyncio_work() -> None:
    door = Door()
    async with AsyncPool(4) as pool:
        job = await pool.asubmit(door, "answer")

        async def awaits() -> Any:
            return await job

        awaiting = asyncio.gather(awaits(), asyncio.shield(job), asyncio.wrap_future(job), asyncio.wait_for(job, GUARD))
        await turns()
        door.open()
        assert set(await awaiting) == {"answer"}


@looped
async def test_nothing_of_an_ended_job_is_kept() -> None:
    class Thing:
        pass

    async def take(thing: Thing) -> Thing:
        await asyncio.sleep(0)
        return thing

    async def raise_with(thing: Thing) -> None:
        await asyncio.sleep(0)
        local = thing
        raise Oops(local)

    async with AsyncPool(2, unobserved="ignore") as pool:
        for fn in (take, raise_with):
            thing = Thing()
            gone = weakref.ref(thing)
            job = await pool.asubmit(fn, thing)
            try:
                await job
            except Oops:
                pass
            gc.collect()
            del job, thing
            await turns()
            gc.disable()  # by counting alone: no cycles
            try:
                assert gone() is None, fn
            finally:
                gc.enable()


@looped
async def test_a_job_that_begins_others_at_once_does_not_deepen_the_stack() -> None:
    async def chain(left: int) -> int:
        if left:
            await pool.asubmit(chain, left - 1)
        return left

    async with AsyncPool(5_000, backlog=10) as pool:
        await pool.asubmit(chain, 3_000)
        await until(lambda: pool.report.done == 3_001)
    assert pool.report.ok


@looped
async def test_a_submitter_that_never_waits_lets_the_loop_go_on() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async with AsyncPool(10) as pool:
        for n in range(2_000):
            await pool.asubmit(double, n)
    ticking.cancel()
    await asyncio.wait([ticking])
    assert ticks >= 10


@looped
async def test_the_factory_of_the_loops_user_makes_the_tasks() -> None:
    made: list[str | None] = []

    def factory(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(kwargs.get("name"))
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    asyncio.get_running_loop().set_task_factory(factory)
    try:
        async with AsyncPool(1) as pool:
            assert [await pool.run(late_double, n) for n in range(3)] == [0, 2, 4]
            job = await pool.asubmit(late_double, 1)
            next(task for task in asyncio.all_tasks() if task is not asyncio.current_task()).cancel()
            with pytest.raises(concurrent.futures.CancelledError):
                await job
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert len(made) == 4
    assert pool.report.cancelled == 1


@looped
async def test_a_factory_that_fails_fails_the_job() -> None:
    def factory(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        raise Oops("no tasks today")

    async with AsyncPool(1, unobserved="ignore") as pool:
        asyncio.get_running_loop().set_task_factory(factory)
        try:
            job = await AsyncPool(1, unobserved="ignore").asubmit(double, 1)
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        with pytest.raises(Oops, match="no tasks today"):
            await job
        assert await pool.run(double, 1) == 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, TypeError, "max_workers must be a whole number"),
        ({"max_workers": True}, TypeError, "max_workers must be a whole number"),
        ({"backlog": 0}, ValueError, "backlog must be greater than 0"),
        ({"when_full": "drop"}, ValueError, "when_full must be"),
        ({"submit_timeout": -1}, ValueError, "submit_timeout"),
        ({"timeout": 0}, ValueError, "timeout must be more than zero"),
        ({"retry": 3}, TypeError, r"write retry=Retry\(3\)"),
        ({"grace": None}, TypeError, "grace must be a number of seconds"),
        ({"unobserved": "shout"}, ValueError, "unobserved must be"),
        ({"around": 3}, TypeError, "around must be a callable"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"stuck_after": -1}, ValueError, "stuck_after"),
        ({"max_stuck": -1}, ValueError, "max_stuck"),
        ({"max_lent": "x"}, TypeError, "max_lent"),
        ({"max_retrying": None}, TypeError, "max_retrying"),
    ],
)
def test_a_wrong_argument_is_named_at_the_call(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AsyncPool(**options)


def test_the_defaults() -> None:
    pool = AsyncPool()
    assert (pool.max_workers, pool._crew.settings.backlog, pool._crew.settings.max_lent) == (100, 100, 1_000)
    assert pool.name.startswith("AsyncPool-")
    assert AsyncPool(5_000)._crew.settings.max_lent == 5_000
    assert AsyncPool(name="fetch").name == "fetch"
    assert repr(AsyncPool(name="fetch")) == "<AsyncPool pool 'fetch' is open; 0 accepted: 0 done>"


@looped
async def test_a_view_has_terms_of_its_own() -> None:
    async def look() -> Any:
        job = current_job()
        assert job is not None
        return job.id, job.name, current_context().value("user")

    from penstock import Context

    async with AsyncPool(1) as pool:
        view = pool.options(id="seven", name="looking", context=Context(values={"user": "ann"}))
        assert await view.run(look) == ("seven", "looking", "ann")
        assert await view.options(id=8).run(look) == (8, "looking", "ann")
        with pytest.raises(TypeError, match="id must be a string or a number"):
            pool.options(id=1.5)  # type: ignore[arg-type]
