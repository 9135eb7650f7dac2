"""The public API as its users write it, with the type that each expression must have. Read by checkers, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, Future, as_completed
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from penstock import (
    AnyJob,
    App,
    Context,
    ExecutorPool,
    Handle,
    Incomplete,
    Job,
    JobDropped,
    JobState,
    NoResult,
    ProcessPool,
    Progress,
    Report,
    Retry,
    Stats,
    Task,
    ThreadPool,
    WorkerDied,
    current_context,
    current_job,
    graceful,
    lifespan,
)


def label(number: int, suffix: str = "") -> str:
    return f"{number}{suffix}"


def half(number: int) -> float:
    return number / 2


def processes_are_the_same(pool: ProcessPool) -> None:
    job = pool.submit(label, 1, suffix="st")
    assert_type(job, Job[str])
    assert_type([*pool.map(half, [1, 2], chunksize=2)], list[float])
    assert_type(pool.options(retry=Retry(3, on=(WorkerDied,))).submit(half, 1), Job[float])
    executor: Executor = ProcessPool(2, initializer=print, initargs=(1,), max_tasks_per_child=5, preload=["json"])
    with graceful(pool, ThreadPool(2)), executor:
        pass
    try:
        job.result()
    except WorkerDied as died:
        assert_type(died.exitcode, int | None)


def any_executor_will_do(executor: Executor) -> None:
    pool = ExecutorPool(executor, 4, timeout=5, shutdown_executor=True)
    assert_type(pool.submit(label, 1, suffix="st"), Job[str])
    assert_type(pool.options(retry=Retry(2, on=(JobDropped,))).submit(half, 1), Job[float])
    with graceful(pool), pool as entered:
        assert_type(entered, ExecutorPool)


def jobs_know_what_their_function_returns(pool: ThreadPool) -> None:
    job = pool.submit(label, 1, suffix="st")
    assert_type(job, Job[str])
    assert_type(job.result(), str)
    assert_type(job.result(timeout=1.5), str)
    assert_type(job.exception(), BaseException | None)
    assert_type(pool.submit(lambda: 3).result(), int)


def jobs_tell_about_themselves(job: Job[str]) -> None:
    assert_type(job.state, JobState)
    assert_type(job.name, str)
    assert_type(job.attempt, int)
    assert_type(job.waited, float | None)
    assert_type(job.ran, float | None)
    assert_type(job.worker, str | None)
    assert_type(job.stack(), str)
    assert_type(job.context, Context)
    assert_type(job.cancel(), bool)
    assert_type(job.done(), bool)


def a_pool_is_an_executor_and_a_job_is_a_future(pool: ThreadPool, loop: asyncio.AbstractEventLoop) -> None:
    executor: Executor = pool
    future: Future[str] = pool.submit(label, 1)
    for done in as_completed([pool.submit(label, n) for n in range(3)]):
        assert_type(done.result(), str)
    loop.run_in_executor(executor, label, 1)
    asyncio.wrap_future(future)


def maps_and_streams(pool: ThreadPool) -> None:
    assert_type(pool.map(half, [1, 2, 3], timeout=5, chunksize=2), Iterator[float])
    assert_type(pool.map(label, [1, 2], ["st", "nd"]), Iterator[str])
    for job in pool.stream(half, range(3), ordered=True, buffersize=10):
        assert_type(job, Job[float])
        assert_type(job.result(), float)
    for doubled in pool.stream(lambda n: n * 2, range(3)):
        assert_type(doubled.result(), int)
    for labelled in pool.stream(label, [1]):
        assert_type(labelled, Job[str])


async def from_a_coroutine(pool: ThreadPool) -> None:
    assert_type(await pool.run(label, 1, suffix="st"), str)
    job = await pool.asubmit(half, 1)
    assert_type(job, Job[float])
    assert_type(await job, float)


async def options_keep_the_types(pool: ThreadPool) -> None:
    soon = pool.options(timeout=2.5, retry=Retry(3, on=(OSError,)), name="labels", when_full="block", submit_timeout=1)
    executor: Executor = soon
    executor.submit(label, 1)
    assert_type(soon.submit(label, 1), Job[str])
    assert_type(soon.map(half, [1]), Iterator[float])
    assert_type(await soon.run(half, 1), float)
    assert_type(await soon.asubmit(half, 1), Job[float])
    for job in soon.stream(half, [1]):
        assert_type(job, Job[float])
    pool.options(context=None).submit(label, 1)
    pool.options(context=Context(timeout=1), id="first").submit(label, 1)


def inside_a_job() -> None:
    assert_type(current_job(), Job[Any] | None)
    context = current_context()
    assert_type(context, Context)
    assert_type(context.remaining(), float)
    assert_type(context.deadline, float | None)
    assert_type(context.cancelled, bool)
    assert_type(context.reason, str | None)
    context.check()
    context.sleep(0.5)
    undo = context.on_cancel(lambda: None)
    undo()


def contexts_nest() -> None:
    with Context(timeout=5, values={"user": 7}) as outer, Context(parent=outer) as inner:
        assert_type(outer, Context)
        assert_type(inner, Context)
        inner.cancel()
        inner.cancel("nobody waits any more")


def the_life_of_a_pool() -> None:
    pool = ThreadPool(
        3, "worker", print, ("hello",), backlog=10, when_full="reject", timeout=1, grace=5, retry=Retry(2)
    )
    assert_type(pool.start(), ThreadPool)
    with pool as entered:
        assert_type(entered, ThreadPool)
    pool.close()
    assert_type(pool.wait(2.5), Report)
    assert_type(pool.wait(), Report)
    assert_type(pool.shutdown(wait=True, cancel_futures=False, timeout=2), Report)
    assert_type(pool.report, Report)
    assert_type(pool.stats(), Stats)
    stop_watching = pool.observe(print)
    stop_watching()


def what_a_stop_tells(report: Report, failed: Incomplete) -> int:
    assert_type(failed.report, Report)
    assert_type(report.ok, bool)
    assert_type(report.accepted - report.done, int)
    assert_type(report.seconds, float)
    for stuck in report.stuck:
        assert_type(stuck.stack, str)
    return report.exit_code


def failures_are_grouped(pool: ThreadPool) -> None:
    assert_type(len(pool.failures), int)
    assert_type(pool.failures.total, int)
    for failure in pool.failures:
        assert_type(failure.count, int)
        assert_type(failure.message, str)


def signals(pool: ThreadPool) -> int:
    with graceful(pool, ThreadPool(), timeout=5) as shutdown:
        assert_type(shutdown.signal, int | None)
        shutdown.requested.wait(1)
        assert_type(shutdown.requested.is_set(), bool)
    return shutdown.exit_code


def servers(pool: ThreadPool) -> None:
    lifespan(pool, timeout=5)


app = App("memory://", name="shop")


@app.task
def pack(order: int, gift: bool = False) -> str:
    """A task is still the function."""
    return f"order {order}{' as a gift' if gift else ''}"


@app.task(name="shop.fetch", timeout=30, retry=Retry(5), queue="web", priority=2)
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(process=True)
def crunch(numbers: list[float]) -> float:
    return sum(numbers)


def tasks_are_still_their_functions() -> None:
    assert_type(pack(1), str)
    assert_type(crunch([1.5]), float)
    assert_type(pack.name, str)
    assert_type(pack.timeout, float | None)


async def and_so_are_coroutines() -> None:
    assert_type(await fetch("a"), bytes)


def enqueued_jobs_know_what_their_task_returns() -> None:
    handle = pack.enqueue(1, gift=True)
    assert_type(handle, Handle[str])
    assert_type(handle.result(), str)
    assert_type(handle.result(timeout=5), str)
    assert_type(handle.exception(), NoResult | None)
    assert_type(handle.state, JobState)
    assert_type(handle.done(), bool)
    assert_type(handle.cancel(), bool)
    assert_type(handle.cancel("nobody waits any more"), bool)
    assert_type(handle.retry(), bool)
    assert_type(handle.progress, Progress | None)
    assert_type(handle.id, str)
    assert_type(fetch.enqueue("a"), Handle[bytes])
    assert_type(fetch.enqueue("a").result(), bytes)
    assert_type(crunch.enqueue([1, 2.5]).result(), float)
    assert_type(pack.enqueue_many([(1,), (2, True), {"order": 3, "gift": True}]), list[Handle[str]])
    assert_type(fetch.enqueue_many((f"page {n}",) for n in range(3)), list[Handle[bytes]])
    assert_type(app.handle("0190").result(), Any)


async def enqueued_from_coroutines() -> None:
    assert_type(await pack.aenqueue(1), Handle[str])
    assert_type(await pack.enqueue(1), str)
    assert_type(await (await fetch.aenqueue("a")), bytes)
    assert_type(await fetch.aenqueue_many([("a",), {"url": "b"}]), list[Handle[bytes]])
    handle = await fetch.options(priority=9).aenqueue("a")
    assert_type(await handle.aresult(timeout=5), bytes)
    assert_type(await handle.acancel("too late"), bool)


def options_keep_the_types_of_a_task() -> None:
    later = pack.options(delay=60, queue="night", headers={"traceparent": "00-…"}, timeout=2)
    assert_type(later.enqueue(1), Handle[str])
    assert_type(later.options(at=datetime.now(UTC)).enqueue(1, gift=True), Handle[str])
    assert_type(fetch.options(id="front page", delay=timedelta(minutes=5)).enqueue("a"), Handle[bytes])


def any_job_will_do(job: AnyJob[str]) -> str:
    assert_type(job.id, int | str)
    assert_type(job.state, JobState)
    assert_type(job.exception(5), BaseException | None)
    if not job.done():
        job.cancel("nobody waits any more")
    return job.result(timeout=5)


async def and_can_be_awaited(job: AnyJob[str]) -> None:
    assert_type(await job, str)


def jobs_of_a_pool_and_durable_ones_share_their_words(pool: ThreadPool) -> None:
    any_job_will_do(pool.submit(label, 1))
    any_job_will_do(pack.enqueue(1))


def tasks_can_be_handed_around(task: Task[[str], bytes]) -> None:
    assert_type(task.enqueue("a"), Handle[bytes])
    found: Handle[object] = task.enqueue("a")
    tasks_can_be_handed_around(fetch)
    assert found.done()
