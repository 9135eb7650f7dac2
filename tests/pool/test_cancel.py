"""Cancelling: a waiting job never runs and everybody is told; a running one is asked through its context."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from concurrent.futures import FIRST_COMPLETED, Future, as_completed
from typing import Any

import pytest

from penstock import (
    Cancelled,
    Context,
    Job,
    JobCancelled,
    JobState,
    ThreadPool,
    current_context,
)
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import full_pool, held_pool


class Resting:
    """A job that sleeps in its context, and remembers what woke it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.woken_by: BaseException | None = None

    def __call__(self) -> None:
        self.began.set()
        try:
            current_context().sleep(GUARD)
        except BaseException as error:
            self.woken_by = error
            raise

    def wait_began(self) -> None:
        assert self.began.wait(GUARD)


# A job that waits


def test_a_waiting_job_is_cancelled_and_never_runs() -> None:
    ran: list[int] = []

    with held_pool() as (pool, gate):
        job = pool.submit(ran.append, 1)

        assert job.cancel()
        assert job.cancelled()
        assert job.done()
        assert (job.state, job.attempt) == (JobState.CANCELLED, 0)
        with pytest.raises(JobCancelled, match=r"job 2 \(list.append\) was cancelled"):
            job.result(0)
        with pytest.raises(concurrent.futures.CancelledError):  # as the stdlib's
            job.exception(0)
        gate.open()
    assert ran == []
    assert pool.report.cancelled == 1
    assert pool.report.ok, "cancelled by hand, not cut by a stop"


def test_cancelling_twice_is_still_true() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)

        assert job.cancel("first")
        assert job.cancel("second")
        with pytest.raises(JobCancelled, match="first"):
            job.result(0)


def test_a_job_that_is_done_can_not_be_cancelled() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(abs, -1)
        job.result(GUARD)

        assert not job.cancel()
        assert job.result(0) == 1
        assert job.state is JobState.DONE


def test_a_cancelled_job_gives_its_place_back() -> None:
    with full_pool(when_full="reject") as full:
        full.waiting[0].cancel()

        assert full.pool.submit(int).state is JobState.READY


def test_those_who_wait_for_a_job_are_woken_when_it_is_cancelled() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)
        asking: list[Future[Any]] = [in_thread(job.result), in_thread(job.exception)]
        waiting = in_thread(concurrent.futures.wait, [job])
        completing = in_thread(lambda: list(as_completed([job])))
        called = in_thread(wait_for_callback, job)

        job.cancel()

        for asked in asking:
            with pytest.raises(JobCancelled):
                asked.result(GUARD)
        assert waiting.result(GUARD).done == {job}
        assert completing.result(GUARD) == [job]
        assert called.result(GUARD) is job


def wait_for_callback(job: Job[Any]) -> Future[Any]:
    given: Future[Future[Any]] = Future()
    job.add_done_callback(given.set_result)
    return given.result(GUARD)


def test_wait_for_the_first_sees_the_cancelled_one() -> None:
    with held_pool() as (pool, _gate):
        jobs = [pool.submit(int), pool.submit(int)]
        waiting = in_thread(concurrent.futures.wait, jobs, None, FIRST_COMPLETED)

        jobs[1].cancel()

        assert waiting.result(GUARD).done == {jobs[1]}


def test_the_callback_of_a_cancelled_job_has_run_when_cancel_returns() -> None:
    called: list[Future[Any]] = []

    with held_pool() as (pool, _gate):
        job = pool.submit(int)
        job.add_done_callback(called.append)
        job.cancel()

        assert called == [job]


def test_an_input_of_a_map_that_waits_outside_the_backlog_can_be_cancelled_by_its_context() -> None:
    ran: list[int] = []
    context = Context()

    with held_pool(backlog=1) as (pool, gate):
        pool.options(context=context).map(ran.append, range(5))
        context.cancel()

        assert pool.report.cancelled == 5
        assert pool.report.waiting == 0
        gate.open()
    assert ran == []


def test_cancel_and_a_worker_that_takes_the_job_agree_on_who_was_first() -> None:
    ran: list[int] = []

    with ThreadPool(2) as pool:
        jobs = []
        for number in range(500):
            job = pool.submit(ran.append, number)
            jobs.append((number, job, job.cancel()))

    for number, job, cancelled in jobs:
        assert job.cancelled() is (number not in ran)
        if cancelled:
            assert number not in ran


# A job that runs


def test_a_running_job_is_not_cancelled_but_asked_to_stop() -> None:
    resting = Resting()

    with ThreadPool(1) as pool:
        job = pool.submit(resting)
        resting.wait_began()

        assert not job.cancel("enough")
        with pytest.raises(JobCancelled, match="was cancelled while it ran: enough") as caught:
            job.result(GUARD)

    assert caught.value.started
    assert isinstance(resting.woken_by, Cancelled)
    assert job.state is JobState.CANCELLED
    assert not job.cancelled(), "in the Future's words: it ran"
    assert isinstance(job.exception(), JobCancelled)
    assert caught.value.__cause__ is resting.woken_by
    assert (pool.report.cancelled, pool.report.failed) == (1, 0)
    assert pool.failures.total == 0


def test_a_job_that_is_asked_sees_it_between_its_steps() -> None:
    gate = Gate()

    def step_by_step() -> None:
        gate()
        current_context().check()

    with ThreadPool(1) as pool:
        job = pool.submit(step_by_step)
        gate.wait_entered()
        job.cancel("enough")
        assert job.running(), "it decides when"
        gate.open()

        assert isinstance(job.exception(GUARD), JobCancelled)


def test_on_cancel_is_called_in_the_thread_that_cancels() -> None:
    called_in: list[int] = []
    gate = Gate()

    def with_a_hook() -> None:
        current_context().on_cancel(lambda: called_in.append(threading.get_ident()))
        gate()

    with ThreadPool(1) as pool:
        job = pool.submit(with_a_hook)
        gate.wait_entered()
        job.cancel()

        assert called_in == [threading.get_ident()]
        gate.open()


def test_except_exception_does_not_eat_cancelled() -> None:
    eaten: list[Exception] = []
    began = threading.Event()

    def careless() -> None:
        while True:
            try:
                began.set()
                current_context().sleep(GUARD)
            except Exception as error:
                eaten.append(error)

    with ThreadPool(1) as pool:
        job = pool.submit(careless)
        assert began.wait(GUARD)
        job.cancel()

        assert isinstance(job.exception(GUARD), JobCancelled)
    assert eaten == []


def test_a_job_that_returns_all_the_same_keeps_its_result() -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        job = pool.submit(gate, "my result")
        gate.wait_entered()
        job.cancel()
        gate.open()

        assert job.result(GUARD) == "my result"
        assert job.state is JobState.DONE


def test_a_job_that_cleans_up_and_raises_something_else_has_failed_with_that() -> None:
    began = threading.Event()

    def unlucky() -> None:
        try:
            began.set()
            current_context().sleep(GUARD)
        finally:
            raise OSError("while cleaning up")

    with ThreadPool(1) as pool:
        job = pool.submit(unlucky)
        assert began.wait(GUARD)
        job.cancel()

        assert isinstance(job.exception(GUARD), OSError)
        assert job.state is JobState.FAILED


def test_cancelled_wakes_a_job_that_waits_for_another() -> None:
    gate, resting = Gate(), Resting()

    def wait_for(other: Job[Any]) -> None:
        resting.began.set()
        other.result()

    with ThreadPool(2) as pool, ThreadPool(1) as elsewhere:
        for other in (pool.submit(gate), elsewhere.submit(gate)):
            resting.began.clear()
            waiter = pool.submit(wait_for, other)
            resting.wait_began()
            waiter.cancel("enough")

            assert isinstance(waiter.exception(GUARD), JobCancelled)
            assert other.running(), "its own job is not touched"
        gate.open()


def test_cancelled_wakes_a_job_that_iterates_a_stream() -> None:
    gate, iterating = Gate(), threading.Event()

    def iterate() -> None:
        iterating.set()
        for _ in pool.options(context=None).stream(gate, [1]):
            pass

    with ThreadPool(2) as pool:
        job = pool.submit(iterate)
        gate.wait_entered()
        job.cancel("enough")

        assert isinstance(job.exception(GUARD), JobCancelled)
        gate.open()


# Parents and children


def test_cancelling_a_parent_cancels_its_waiting_children_and_asks_its_running_ones() -> None:
    children: list[Job[Any]] = []
    resting, gate, ready = Resting(), Gate(), threading.Event()
    ran: list[int] = []

    def parent() -> None:
        children.append(pool.submit(resting))
        resting.wait_began()
        children.append(pool.submit(ran.append, 1))
        ready.set()
        gate()

    with ThreadPool(2) as pool:
        job = pool.submit(parent)
        assert ready.wait(GUARD)

        assert not job.cancel("the family is over")

        assert isinstance(children[0].exception(GUARD), JobCancelled)
        assert children[1].cancelled()
        with pytest.raises(JobCancelled, match="the family is over"):
            children[1].result(0)
        gate.open()
        assert job.result(GUARD) is None, "the parent itself went on"
    assert ran == []


def test_cancelling_a_parent_reaches_grandchildren_in_other_pools() -> None:
    resting = Resting()

    def parent() -> None:
        pool.submit(child).result()

    def child() -> None:
        other.submit(resting).result()

    with ThreadPool(2) as pool, ThreadPool(1) as other:
        job = pool.submit(parent)
        resting.wait_began()
        job.cancel("all of you")

        assert isinstance(job.exception(GUARD), JobCancelled)
    assert isinstance(resting.woken_by, Cancelled)
    assert other.report.cancelled == 1


def test_the_end_of_a_parent_cancels_no_child() -> None:
    gate = Gate()

    def parent() -> Job[int]:
        return pool.submit(gate, 5)

    with ThreadPool(2) as pool:
        child = pool.submit(parent).result(GUARD)
        gate.wait_entered()
        assert not child.context.cancelled
        gate.open()

        assert child.result(GUARD) == 5


def test_cancelling_a_child_leaves_its_parent_and_siblings_alone() -> None:
    gate = Gate()
    resting = Resting()

    def parent() -> list[Job[Any]]:
        return [pool.submit(resting), pool.submit(gate, 1)]

    with ThreadPool(3) as pool:
        job = pool.submit(parent)
        first, second = job.result(GUARD)
        resting.wait_began()
        first.cancel()
        assert isinstance(first.exception(GUARD), JobCancelled)
        gate.open()

        assert second.result(GUARD) == 1


def test_one_context_cancels_all_jobs_that_were_given_it() -> None:
    context = Context()
    resting = Resting()

    with ThreadPool(1) as pool:
        view = pool.options(context=context)
        running = view.submit(resting)
        waiting = [view.submit(int) for _ in range(3)]
        other = pool.submit(int)
        resting.wait_began()

        context.cancel("all of you")

        assert all(job.cancelled() for job in waiting)
        assert isinstance(running.exception(GUARD), JobCancelled)
        assert other.result(GUARD) == 0


def test_a_job_given_a_context_that_is_cancelled_already_is_not_run() -> None:
    ran: list[int] = []
    context = Context()
    context.cancel("before")

    with ThreadPool(1) as pool:
        job = pool.options(context=context).submit(ran.append, 1)

        with pytest.raises(JobCancelled, match="before"):
            job.result(GUARD)
        assert job.cancelled()
    assert ran == []


# asyncio


def test_wait_for_around_run_in_executor_trips_the_context_of_the_function() -> None:
    resting = Resting()

    async def main() -> None:
        running = asyncio.get_running_loop().run_in_executor(pool, resting)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running, 0.1)

    with ThreadPool(1) as pool:
        asyncio.run(main())

    assert resting.woken_by is None or isinstance(resting.woken_by, Cancelled)
    assert pool.report.cancelled == 1


@pytest.mark.parametrize("way", ["run", "await", "asubmit"])
def test_cancelling_a_task_cancels_the_job_that_it_awaits(way: str) -> None:
    resting = Resting()

    async def awaits() -> None:
        if way == "run":
            await pool.run(resting)
        elif way == "await":
            await pool.submit(resting)
        else:
            await (await pool.asubmit(resting))

    async def main() -> None:
        task = asyncio.create_task(awaits())
        await asyncio.to_thread(resting.wait_began)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ThreadPool(1) as pool:
        asyncio.run(main())

    assert isinstance(resting.woken_by, Cancelled)
    assert pool.report.cancelled == 1


def test_cancelling_a_task_cancels_a_job_that_waits() -> None:
    ran: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(pool.run(ran.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with held_pool() as (pool, gate):
        asyncio.run(main())
        assert pool.report.cancelled == 1
        gate.open()
    assert ran == []


def test_a_task_that_awaits_a_job_which_is_cancelled_while_it_runs_gets_job_cancelled() -> None:
    resting = Resting()

    async def main() -> None:
        job = pool.submit(resting)
        await asyncio.to_thread(resting.wait_began)
        job.cancel("by somebody else")
        with pytest.raises(JobCancelled, match="by somebody else"):
            await job

    with ThreadPool(1) as pool:
        asyncio.run(main())


def test_a_task_that_awaits_a_job_which_somebody_else_cancels_while_it_waits_is_not_cancelled_itself() -> None:
    async def main(job: Job[int]) -> str:
        awaiting = asyncio.ensure_future(awaits(job))
        await asyncio.sleep(0)
        job.cancel("by somebody else")
        return await awaiting

    async def awaits(job: Job[int]) -> str:
        try:
            await job
        except JobCancelled as error:
            return error.reason
        raise AssertionError("it has a result")

    with held_pool() as (pool, _gate):
        assert asyncio.run(main(pool.submit(int))) == "by somebody else"


def test_a_job_that_raises_cancelled_by_itself_is_cancelled_for_its_own_reason() -> None:
    def give_up() -> None:
        raise Cancelled("nothing to do")

    with ThreadPool(1) as pool:
        job = pool.submit(give_up)
        error = job.exception(GUARD)

    assert isinstance(error, JobCancelled)
    assert (error.reason, error.started) == ("nothing to do", True)
    assert job.state is JobState.CANCELLED
