"""Jobs that wait for jobs of their own pool: their slots are lent, hopeless waits are refused, and nothing stays."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from penstock import Job, NestedWait, ThreadPool, current_job
from penstock.events import WorkerStarted
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, until

Waits = Callable[[ThreadPool, Callable[[int], int], int], int]


def by_result(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    return pool.submit(fn, n).result()


def by_exception(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    job = pool.submit(fn, n)
    assert job.exception() is None
    return job.result()


def by_map(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    return sum(pool.map(fn, [n]))


def by_stream(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    return sum(job.result() for job in pool.stream(fn, [n]))


def by_ordered_stream(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    return sum(job.result() for job in pool.stream(fn, [n], ordered=True))


def by_run_in_a_loop(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    return asyncio.run(pool.run(fn, n))


def by_await_among_others(pool: ThreadPool, fn: Callable[[int], int], n: int) -> int:
    async def main() -> int:
        job = await pool.asubmit(fn, n)
        return (await asyncio.gather(job, pool.run(int), asyncio.sleep(0)))[0]

    return asyncio.run(main())


EVERY_WAY = pytest.mark.parametrize(
    "wait",
    [by_result, by_exception, by_map, by_stream, by_ordered_stream, by_run_in_a_loop, by_await_among_others],
    ids=lambda wait: wait.__name__,
)


@EVERY_WAY
def test_fifty_jobs_that_each_wait_for_the_next_end_on_one_worker(wait: Waits) -> None:
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + wait(pool, down, n - 1)

    with ThreadPool(1) as pool:
        assert pool.submit(down, 50).result(GUARD) == 50


@EVERY_WAY
def test_it_ends_with_a_backlog_of_one_too(wait: Waits) -> None:
    def tree(n: int) -> int:
        return 1 if n == 0 else wait(pool, tree, n - 1) + wait(pool, tree, n - 1)

    with ThreadPool(1, backlog=1) as pool:
        assert pool.submit(tree, 4).result(GUARD) == 16


def test_a_job_that_submits_more_than_the_backlog_to_its_own_pool_ends() -> None:
    def fan_out() -> int:
        jobs = [pool.submit(abs, -n) for n in range(20)]
        return sum(job.result() for job in jobs)

    with ThreadPool(1, backlog=1) as pool:
        assert pool.submit(fan_out).result(GUARD) == sum(range(20))


def test_a_job_that_waits_lends_its_slot_and_no_more() -> None:
    gate = Gate()

    def parent() -> int:
        child: Job[int] = pool.submit(gate, 7)
        pool.submit(gate)
        return child.result()

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        job = pool.submit(parent)
        gate.wait_entered()

        assert pool.stats().workers == 2, "one that waits, one in its place"
        assert pool.stats().queued == 1
        gate.open()
        assert job.result(GUARD) == 7
        seen.wait_for_workers(1)


def test_a_job_that_waits_in_a_full_submit_lends_its_slot() -> None:
    gate = Gate()

    def parent() -> None:
        pool.submit(gate)
        pool.submit(int)

    with ThreadPool(1, backlog=1) as pool:
        job = pool.submit(parent)

        gate.wait_entered()
        assert job.result(GUARD) is None
        gate.open()


def test_a_wait_that_ends_by_its_own_timeout_takes_the_slot_back() -> None:
    gate, timed_out, go_on = Gate(), threading.Event(), threading.Event()

    def parent() -> str:
        child: Job[str] = pool.submit(gate, "child")
        with pytest.raises(TimeoutError):
            child.result(0.05)
        timed_out.set()
        assert go_on.wait(GUARD)
        return child.result()

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        job = pool.submit(parent)
        assert timed_out.wait(GUARD)
        pool.submit(int)
        gate.open()
        go_on.set()

        assert job.result(GUARD) == "child"
        seen.wait_for_workers(1)


def test_waiting_for_a_job_that_has_ended_lends_nothing() -> None:
    def parent(child: Job[int]) -> int:
        return child.result()

    with ThreadPool(1, max_lent=0) as pool:
        child = pool.submit(abs, -1)
        child.result(GUARD)

        assert pool.submit(parent, child).result(GUARD) == 1


def test_waiting_for_another_pool_lends_nothing() -> None:
    with ThreadPool(1, max_lent=0) as pool, ThreadPool(1) as other:
        assert pool.submit(lambda: other.submit(abs, -1).result(GUARD)).result(GUARD) == 1


# In a loop that runs inside a job


def test_a_loop_lends_one_slot_however_many_of_its_coroutines_wait() -> None:
    gate = Gate()

    async def main() -> list[int]:
        results: list[int] = await asyncio.gather(*(pool.run(gate, number) for number in range(5)))
        return results

    with ThreadPool(1, max_lent=1) as pool:
        seen = Seen(pool)
        job = pool.submit(asyncio.run, main())
        gate.wait_entered()
        until(lambda: pool.stats().queued == 4)

        assert pool.stats().workers == 2, "one that waits, one in its place"
        gate.open()
        assert job.result(GUARD) == [0, 1, 2, 3, 4]
        seen.wait_for_workers(1)


def test_a_slot_is_lent_until_the_last_coroutine_of_the_loop_waits_no_more() -> None:
    first, second = Gate(), Gate()
    one_is_back = threading.Event()

    async def main() -> None:
        waiting = asyncio.create_task(pool.run(second))
        await pool.run(first)
        one_is_back.set()
        await waiting

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        job = pool.submit(asyncio.run, main())
        first.wait_entered()
        first.open()
        second.wait_entered()
        assert one_is_back.wait(GUARD)
        assert pool._crew.staff.capacity == 2
        second.open()

        job.result(GUARD)
        seen.wait_for_workers(1)
        assert pool._crew.staff.capacity == 1


def test_a_thread_that_blocks_in_its_loop_while_others_of_it_wait_lends_no_second_slot() -> None:
    gate = Gate()

    async def main() -> int:
        waiting = asyncio.create_task(pool.run(gate, 3))
        await asyncio.to_thread(gate.wait_entered)
        child = pool.submit(abs, -4)
        gate.open()
        result: int = child.result() + await waiting
        return result

    with ThreadPool(1, max_lent=1) as pool:
        assert pool.submit(asyncio.run, main()).result(GUARD) == 7


def test_an_asubmit_to_the_full_pool_whose_job_runs_the_loop_lends_the_slot() -> None:
    gate = Gate()

    async def main() -> Job[int]:
        await pool.asubmit(gate)
        return await pool.asubmit(abs, -1)

    with ThreadPool(1, backlog=1) as pool:
        job = pool.submit(asyncio.run, main())

        gate.wait_entered()
        assert isinstance(job.result(GUARD), Job)
        gate.open()


def test_a_coroutine_that_is_cancelled_as_it_waits_takes_the_slot_back() -> None:
    gate = Gate()
    impatient: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> int:
        waiting = asyncio.create_task(pool.run(gate))
        impatient.append((asyncio.get_running_loop(), waiting))
        await asyncio.wait([waiting])
        return pool._crew.staff.capacity

    with ThreadPool(1) as pool:
        job = pool.submit(asyncio.run, main())
        gate.wait_entered()
        assert pool._crew.staff.capacity == 2
        loop, task = impatient[0]
        loop.call_soon_threadsafe(task.cancel)

        assert job.result(GUARD) == 1
        gate.open()


def test_a_coroutine_that_its_job_leaves_waiting_lends_nothing_any_more() -> None:
    gate = Gate()
    left: list[Any] = []

    def leave_one_waiting() -> None:
        loop = asyncio.new_event_loop()
        left.extend([loop, loop.create_task(pool.run(gate))])
        loop.run_until_complete(asyncio.sleep(0))

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        pool.submit(leave_one_waiting).result(GUARD)
        gate.wait_entered()
        seen.wait_for_workers(1)
        assert pool._crew.staff.capacity == 1
        gate.open()

        loop, task = left
        loop.run_until_complete(task)  # it lent the slot of a worker that has other work by now
        loop.close()
        assert pool._crew.staff.capacity == 1


def test_awaiting_a_job_of_another_pool_lends_nothing() -> None:
    with ThreadPool(1, max_lent=0) as pool, ThreadPool(1) as other:
        assert pool.submit(asyncio.run, other.run(abs, -1)).result(GUARD) == 1


def test_a_job_that_awaits_itself_is_refused() -> None:
    async def await_myself() -> Any:
        job = current_job()
        assert job is not None
        return await job

    with ThreadPool(1) as pool:
        error = pool.submit(asyncio.run, await_myself()).exception(GUARD)

    assert isinstance(error, NestedWait)
    assert "a job can't wait for itself" in str(error)


def test_loops_that_await_one_another_in_a_circle_are_refused() -> None:
    jobs: list[Job[Any]] = []
    all_there = threading.Event()

    async def await_next(number: int) -> Any:
        assert all_there.wait(GUARD)
        return await asyncio.gather(jobs[(number + 1) % 3], pool.run(int), pool.run(int))

    with ThreadPool(3) as pool:
        jobs.extend(pool.options(name=f"n{number}").submit(asyncio.run, await_next(number)) for number in range(3))
        all_there.set()
        errors = [job.exception(GUARD) for job in jobs]

    assert all(isinstance(error, NestedWait) for error in errors)
    assert all(f"n{number}" in str(errors[0]) for number in range(3)), "it names all of them"


# Code that a job has started elsewhere


def wait_elsewhere(wait: Callable[[Job[Any]], Any]) -> Any:
    """What *wait* gives, called with a running job in another thread, in that job's contextvars."""
    gate = Gate()
    started: list[Future[Any]] = []

    def start_and_stay() -> str:
        me = current_job()
        assert me is not None
        started.append(in_thread(contextvars.copy_context().run, wait, me))
        return str(gate("let out"))

    with ThreadPool(1) as pool:
        job = pool.submit(start_and_stay)
        gate.wait_entered()
        until(lambda: started[0].done() or (job._bell and (job._bell.sleepers or job._bell.callbacks)))
        gate.open()
        return started[0].result(GUARD)


def test_a_thread_that_a_job_started_in_its_own_context_may_wait_for_the_job() -> None:
    assert wait_elsewhere(lambda job: job.result(GUARD)) == "let out"


def test_a_loop_elsewhere_may_await_the_job_that_sent_the_coroutine_there() -> None:
    async def wait_for(job: Job[Any]) -> Any:
        return await job

    assert wait_elsewhere(lambda job: asyncio.run(wait_for(job))) == "let out"


# Past max_lent


def test_one_wait_more_than_max_lent_is_refused_and_names_the_jobs() -> None:
    def parent() -> int:
        return pool.options(name="child").submit(child).result()

    def child() -> int:
        with pytest.raises(NestedWait) as caught:
            pool.options(name="grandchild").submit(int).result()
        errors.append(caught.value)
        return 5

    errors: list[NestedWait] = []
    with ThreadPool(1, max_lent=1, name="shop") as pool:
        assert pool.submit(parent).result(GUARD) == 5

    assert errors[0].waiter == "job 2 (child)"
    assert errors[0].target == "job 3 (grandchild)"
    assert "'shop'" in str(errors[0])
    assert "max_lent" in str(errors[0])
    assert "job 2 (child)" in errors[0].why, "what the others wait for"


@EVERY_WAY
def test_without_max_lent_no_job_may_wait_for_its_own_pool(wait: Waits) -> None:
    with ThreadPool(1, max_lent=0) as pool:
        job = pool.submit(wait, pool, abs, -1)

        assert isinstance(job.exception(GUARD), NestedWait)
        assert isinstance(job.exception(), RuntimeError)


def test_a_full_submit_past_max_lent_is_refused_and_takes_no_place() -> None:
    def parent() -> str:
        pool.submit(int)
        with pytest.raises(NestedWait, match="a place in the backlog of its own pool"):
            pool.submit(int)
        return "refused"

    with ThreadPool(1, backlog=1, max_lent=0) as pool:
        assert pool.submit(parent).result(GUARD) == "refused"
        assert pool.submit(int).result(GUARD) == 0
        assert pool.report.accepted == 3


def test_a_plain_thread_is_not_a_nested_wait() -> None:
    with ThreadPool(1, max_lent=0) as pool:
        assert pool.submit(abs, -1).result(GUARD) == 1
        assert list(pool.map(abs, [-1])) == [1]


# Hopeless waits


def test_a_job_that_waits_for_itself_is_refused() -> None:
    def wait_for_myself() -> Any:
        job = current_job()
        assert job is not None
        return job.result()

    with ThreadPool(1) as pool:
        error = pool.options(name="narcissus").submit(wait_for_myself).exception(GUARD)

    assert isinstance(error, NestedWait)
    assert str(error) == "job 1 (narcissus) can't wait for job 1 (narcissus): a job can't wait for itself"


@pytest.mark.parametrize("size", [2, 3, 7])
def test_jobs_that_wait_in_a_circle_all_fail_with_nested_wait(size: int) -> None:
    jobs: list[Job[Any]] = []
    all_there = threading.Event()

    def wait_for_next(number: int) -> Any:
        assert all_there.wait(GUARD)
        return jobs[(number + 1) % size].result()

    with ThreadPool(size) as pool:
        jobs.extend(pool.options(name=f"n{number}").submit(wait_for_next, number) for number in range(size))
        all_there.set()
        errors = [job.exception(GUARD) for job in jobs]

    assert all(isinstance(error, NestedWait) for error in errors)
    assert any("in a circle" in str(error) for error in errors)
    assert all(f"n{number}" in str(errors[0]) for number in range(size)), "it names all of them"


def test_a_job_that_waits_for_a_waiting_job_which_will_wait_for_it_is_refused_in_the_end() -> None:
    jobs: list[Job[Any]] = []
    known = threading.Event()

    def wait_for(number: int) -> Any:
        assert known.wait(GUARD)
        return jobs[number].result()

    with ThreadPool(1) as pool:
        jobs.append(pool.submit(wait_for, 1))
        jobs.append(pool.submit(wait_for, 0))
        known.set()

        assert [type(job.exception(GUARD)) for job in jobs] == [NestedWait, NestedWait]


# In the caller's thread

HANGS = 0.2  # seconds: a wait that can't end is given so long before it counts as not refused


def test_a_job_that_runs_in_its_caller_and_waits_for_itself_is_refused() -> None:
    def wait_for_myself() -> Any:
        job = current_job()
        assert job is not None
        return job.result(HANGS)

    gate = Gate()
    with ThreadPool(1, backlog=1, when_full="caller") as pool:
        try:
            pool.submit(gate)
            gate.wait_entered()
            pool.submit(int)

            assert isinstance(pool.submit(wait_for_myself).exception(GUARD), NestedWait)
        finally:
            gate.open()


def test_a_job_that_runs_in_a_worker_as_caller_and_waits_for_itself_is_refused() -> None:
    def wait_for_myself() -> Any:
        job = current_job()
        assert job is not None
        return job.result(HANGS)

    def parent() -> Any:
        pool.submit(int)
        return pool.submit(wait_for_myself).exception()

    with ThreadPool(1, backlog=1, when_full="caller") as pool:
        assert isinstance(pool.submit(parent).result(GUARD), NestedWait)


# Afterwards


def test_after_deep_nesting_no_more_workers_live_than_max_workers() -> None:
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + pool.submit(down, n - 1).result()

    with ThreadPool(2) as pool:
        seen = Seen(pool)
        pool.start()
        assert pool.submit(down, 10).result(GUARD) == 10
        seen.wait_for(WorkerStarted, 10)

        seen.wait_for_workers(2)
        assert pool.stats().workers == 2
        assert pool.submit(down, 10).result(GUARD) == 10, "and again"
        seen.wait_for_workers(2)


def test_after_full_submits_in_many_jobs_no_more_workers_live_than_max_workers() -> None:
    def spill() -> None:
        for _ in range(3):
            pool.submit(int)

    with ThreadPool(2, backlog=1) as pool:
        seen = Seen(pool)
        spills = [pool.submit(spill) for _ in range(20)]
        for job in pool.stream(int, range(20)):
            job.result()
        for spilled in spills:
            spilled.result(GUARD)

        seen.wait_for_workers(2)
    assert pool.report.done == 100
