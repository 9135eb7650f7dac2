"""What surrounds a job: context variables, `around`, observers, stats, and where a job stands."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock import AsyncPool, current_job, events
from tests.gates import GUARD, in_thread
from tests.pool.coroutines.looping import Door, Oops, double, fail, full_pool, late_double, looped, turns, until
from tests.pool.watching import Seen

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@looped
async def test_a_job_sees_its_submitters_context_variables_and_keeps_its_own_to_itself() -> None:
    async def set_it(value: str) -> tuple[str, str]:
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return before, variable.get()

    variable.set("the submitter's")
    async with AsyncPool(1) as pool:
        assert await pool.run(set_it, "one") == ("the submitter's", "one")
        assert await pool.run(set_it, "two") == ("the submitter's", "two")
    assert variable.get() == "the submitter's"


@looped
async def test_each_job_runs_inside_of_around_async_or_not() -> None:
    story: list[Any] = []

    @contextlib.asynccontextmanager
    async def around_async() -> AsyncIterator[None]:
        story.append(("in", current_job()))
        variable.set("inside")
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0)
            story.append("out")

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        story.append(("in", current_job()))
        variable.set("inside")
        try:
            yield
        finally:
            story.append("out")

    async def look() -> str:
        story.append("job")
        return variable.get()

    for kind in (around_async, around):
        story.clear()
        async with AsyncPool(1, around=kind, unobserved="ignore") as pool:
            job = await pool.asubmit(look)
            assert await job == "inside"
            assert story == [("in", job), "job", "out"]
            with pytest.raises(Oops):
                await pool.run(fail)
            assert story[-1] == "out"


@looped
async def test_what_around_raises_is_the_jobs_failure_and_it_may_swallow_the_jobs() -> None:
    def broken() -> contextlib.AbstractContextManager[None]:
        raise Oops("no connection")

    async with AsyncPool(1, around=broken, unobserved="ignore") as pool:
        with pytest.raises(Oops, match="no connection"):
            await pool.run(double, 1)
    async with AsyncPool(1, around=lambda: contextlib.suppress(Oops)) as pool:
        job = await pool.asubmit(fail)
        await job
        assert job.result() is None


@looped
async def test_cancelling_reaches_the_way_in_of_around() -> None:
    door = Door()

    @contextlib.asynccontextmanager
    async def around() -> AsyncIterator[None]:
        await door()
        yield

    async with AsyncPool(1, around=around) as pool:
        job = await pool.asubmit(double, 1)
        await door.wait_entered()
        job.cancel()
        await until(job.done)
    assert pool.report.cancelled == 1


@looped
async def test_observers_hear_of_every_step_in_order() -> None:
    pool = AsyncPool(1, unobserved="ignore")
    seen = Seen(pool)
    stop = pool.observe(seen)
    stop()
    async with pool:
        job = await pool.asubmit(late_double, 1)
        await job
    kinds = [type(event).__name__ for event in seen.events]
    assert kinds == [
        "JobAccepted", "WorkerStarted", "JobStarted", "JobEnded", "PoolStopping", "WorkerStopped", "PoolStopped",
    ]  # fmt: skip
    started, ended = seen.of(events.JobStarted)[0], seen.of(events.JobEnded)[0]
    assert (started.id, started.worker, started.attempt) == (job.id, f"{pool.name}_0", 1)
    assert (ended.state, ended.error, ended.ran) == ("done", None, job.ran)


@looped
async def test_an_observer_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: events.Event) -> None:
        raise Oops(event)

    async with AsyncPool(1) as pool:
        pool.observe(broken)
        assert await pool.run(double, 1) == 2
    assert "an observer of pool" in caplog.text


@looped
async def test_stats_and_reports_may_be_asked_from_any_thread() -> None:
    async with full_pool(2) as full:
        stats = await asyncio.to_thread(full.pool.stats)
        report = await asyncio.to_thread(lambda: full.pool.report)
        assert (stats.queued, stats.running, stats.workers, stats.accepted) == (2, 1, 1, 3)
        assert stats.oldest_queued >= 0
        assert (report.waiting, report.running, report.closing) == (2, 1, False)
        full.door.open()
        await asyncio.gather(*full.waiting)
        stats = full.pool.stats()
        assert (stats.done, stats.queued) == (3, 0)
        assert stats.ran_p99 is not None
        assert stats.waited_p50 is not None


@looped
async def test_a_suspended_job_shows_the_calls_that_wait_for_one_another() -> None:
    door = Door()

    async def inner() -> None:
        await door()

    async def outer() -> None:
        await inner()

    async with AsyncPool(1) as pool:
        job = await pool.asubmit(outer)
        await door.wait_entered()
        for stack in (job.stack(), await asyncio.to_thread(job.stack)):
            places = [line.rsplit(" in ", 1)[1] for line in stack.splitlines() if line.startswith("  File")]
            assert places[:3] == ["outer", "inner", "__call__"]
            assert "await inner()" in stack
        door.open()
        await job
        assert job.stack() == ""


@looped
async def test_a_job_that_holds_up_the_loop_shows_where() -> None:
    entered, gate = threading.Event(), threading.Event()

    def holds_up() -> None:
        entered.set()
        assert gate.wait(GUARD)

    async def outer(later: bool) -> None:
        if later:
            await asyncio.sleep(0)
        holds_up()

    def look(job: Any) -> str:
        assert entered.wait(GUARD)
        try:
            return str(job().stack())
        finally:
            gate.set()

    async with AsyncPool(1) as pool:
        for later in (False, True):
            entered.clear()
            gate.clear()
            looking = in_thread(look, lambda: next(iter(pool._crew.attempts.running)))
            await pool.run(outer, later)
            stack = looking.result(GUARD)
            assert "in outer" in stack.splitlines()[0]
            assert "in holds_up" in stack
            await turns()


@looped
async def test_the_name_of_the_jobs_task_is_that_of_its_function() -> None:
    door = Door()
    async with AsyncPool(1) as pool:
        job = await pool.asubmit(door)
        await door.wait_entered()
        assert {task.get_name() for task in asyncio.all_tasks()} >= {"Door"}
        door.open()
        await job
