"""A backlog with no place left: the bound is strict, and each policy does what it says."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import time
from typing import Any

import pytest

from penstock import (
    BacklogFull,
    Cancelled,
    Context,
    DeadlineExceeded,
    Job,
    JobCancelled,
    JobState,
    PoolClosed,
    Retry,
    ThreadPool,
    current_job,
)
from penstock.events import Event, JobAccepted
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, full_pool, held_pool

# The bound


@pytest.mark.parametrize("backlog", [1, 100])
def test_no_more_than_the_backlog_is_accepted_however_many_submit_at_once(backlog: int) -> None:
    def submit_many(start: threading.Barrier) -> int:
        start.wait(GUARD)
        refused = 0
        for _ in range(backlog):
            try:
                pool.submit(int)
            except BacklogFull:
                refused += 1
        return refused

    with held_pool(backlog=backlog, when_full="reject") as (pool, _gate):
        start = threading.Barrier(8)
        submitters = [in_thread(submit_many, start) for _ in range(8)]
        refused = sum(submitter.result(GUARD) for submitter in submitters)

        assert refused == 7 * backlog
        assert pool.stats().queued == backlog


@pytest.mark.parametrize("backlog", [1, 100])
def test_no_moment_sees_more_waiting_than_the_backlog_while_many_submit_and_many_run(backlog: int) -> None:
    most = 0

    def look(_event: Event) -> None:
        nonlocal most
        most = max(most, pool.stats().queued)

    def submit_many() -> None:
        for _ in range(60):
            pool.submit(int)

    with ThreadPool(3, backlog=backlog) as pool:
        pool.observe(look)
        submitters = [in_thread(submit_many) for _ in range(6)]
        for submitter in submitters:
            submitter.result(GUARD)

    assert 1 <= most <= backlog
    assert pool.report.done == 360


def test_a_job_that_runs_holds_no_place() -> None:
    with held_pool(backlog=1, when_full="reject") as (pool, _gate):
        assert pool.submit(int).state is JobState.READY


# Block


@pytest.mark.parametrize("when_full", [None, "block"])
def test_submit_waits_for_a_place(when_full: Any) -> None:
    with full_pool(when_full=when_full) as full:
        submitting = in_thread(full.pool.submit, abs, -1)
        full.line.wait_for_one_more()
        assert not submitting.done()

        full.gate.open()

        assert submitting.result(GUARD).result(GUARD) == 1


def test_those_who_wait_get_their_places_in_the_order_in_which_they_came() -> None:
    with full_pool(backlog=3) as full:
        submitting = []
        for name in "abc":
            submitting.append(in_thread(full.pool.options(name=name).submit, int))
            full.line.wait_for_one_more()

        for number, job in enumerate(full.waiting):
            job.cancel()
            accepted = submitting[number].result(GUARD)

            assert accepted.name == "abc"[number]
            assert not any(later.done() for later in submitting[number + 1 :])


def test_a_cancelled_job_gives_its_place_to_who_waits() -> None:
    with full_pool() as full:
        submitting = in_thread(full.pool.submit, int)
        full.line.wait_for_one_more()

        assert full.waiting[0].cancel()

        assert submitting.result(GUARD).state is JobState.READY


def test_submit_timeout_ends_the_wait_with_what_is_full() -> None:
    with full_pool(submit_timeout=0.05) as full:
        with pytest.raises(BacklogFull, match="1 jobs wait") as caught:
            full.pool.submit(int)

        assert caught.value.backlog == 1
        assert 0.05 <= caught.value.waited < GUARD
        assert full.pool.report.accepted == 2


def test_a_submit_timeout_of_zero_does_not_wait() -> None:
    with full_pool() as full, pytest.raises(BacklogFull):
        full.pool.options(submit_timeout=0).submit(int)


def test_who_gave_up_waiting_takes_no_place() -> None:
    with full_pool(submit_timeout=0.05) as full:
        with pytest.raises(BacklogFull):
            full.pool.submit(int)
        full.waiting[0].cancel()

        assert full.pool.options(when_full="reject").submit(int).state is JobState.READY


def test_submit_waits_no_longer_than_its_callers_own_time() -> None:
    with full_pool() as full:
        with pytest.raises(DeadlineExceeded), Context(timeout=0.05):
            full.pool.submit(int)

        assert full.pool.report.accepted == 2


def test_submit_timeout_counts_if_it_is_earlier_than_the_callers_own_time() -> None:
    with full_pool(submit_timeout=0.05) as full, Context(timeout=60):
        with pytest.raises(BacklogFull):
            full.pool.submit(int)


def test_submit_ends_when_its_callers_context_is_cancelled() -> None:
    def submit_within() -> None:
        with context:
            full.pool.submit(int)

    context = Context()
    with full_pool() as full:
        submitting = in_thread(submit_within)
        full.line.wait_for_one_more()

        context.cancel("no longer wanted")

        with pytest.raises(JobCancelled, match="no longer wanted"):
            submitting.result(GUARD)
        assert not full.line, "it has left the line"
        assert full.pool.report.accepted == 2


def test_submit_in_a_context_that_is_cancelled_already_does_not_wait() -> None:
    context = Context()
    context.cancel("before")

    with full_pool() as full:
        with pytest.raises(JobCancelled, match="before"), context:
            full.pool.submit(int)


def test_a_job_that_waits_in_a_full_submit_of_another_pool_is_woken_by_its_own_cancel() -> None:
    caught: list[BaseException] = []

    def submit_there() -> None:
        try:
            full.pool.submit(int)
        except BaseException as error:
            caught.append(error)
            raise

    with full_pool() as full, ThreadPool(1) as other:
        job = other.submit(submit_there)
        full.line.wait_for_one_more()

        assert not job.cancel()

        assert isinstance(job.exception(GUARD), JobCancelled)
        assert isinstance(caught[0], Cancelled)


def test_close_wakes_those_who_wait_for_a_place() -> None:
    with full_pool() as full:
        submitting = []
        for _ in range(3):
            submitting.append(in_thread(full.pool.submit, int))
            full.line.wait_for_one_more()

        full.pool.close()

        for submitter in submitting:
            with pytest.raises(PoolClosed):
                submitter.result(GUARD)
        assert full.running.running(), "no place became free meanwhile"
        assert full.pool.report.accepted == 2


# Reject


def test_reject_refuses_at_once() -> None:
    with full_pool(when_full="reject") as full:
        with pytest.raises(BacklogFull, match="1 jobs wait") as caught:
            full.pool.submit(int)

        assert caught.value.waited == 0
        assert not full.line
        assert full.pool.report.accepted == 2


def test_reject_refuses_at_once_in_a_coroutine_too() -> None:
    async def main() -> None:
        with pytest.raises(BacklogFull):
            await full.pool.asubmit(int)

    with full_pool(when_full="reject") as full:
        asyncio.run(main())


# Caller


def test_caller_runs_the_job_in_the_thread_that_submits() -> None:
    with full_pool(when_full="caller") as full:
        job = full.pool.submit(threading.get_ident)

        assert job.done()
        assert job.result() == threading.get_ident()
        assert job.worker == threading.current_thread().name
        assert (job.attempt, job.state) == (1, JobState.DONE)
        assert full.pool.report.done == 1


def test_caller_gets_the_error_in_the_handle_and_not_from_submit() -> None:
    with full_pool(when_full="caller") as full:
        job = full.pool.submit(divmod, 1, 0)

        assert job.state is JobState.FAILED
        assert isinstance(job.exception(), ZeroDivisionError)
        assert full.pool.failures.total == 1


def test_caller_runs_it_as_a_job_and_is_itself_again_after_it() -> None:
    color = contextvars.ContextVar("color", default="none")

    def paint() -> Job[Any] | None:
        color.set("red")
        return current_job()

    with full_pool(when_full="caller") as full:
        job = full.pool.submit(paint)

        assert job.result() is job
        assert color.get() == "none"
        assert current_job() is None


def test_a_job_that_failed_in_the_caller_is_tried_again_by_a_worker() -> None:
    ran_in: list[str] = []

    def fail_once() -> None:
        ran_in.append(threading.current_thread().name)
        if len(ran_in) == 1:
            raise ValueError("first")

    with full_pool(when_full="caller", thread_name_prefix="crew", retry=Retry(2, wait=0)) as full:
        job = full.pool.submit(fail_once)
        assert not job.done()
        full.gate.open()

        assert job.result(GUARD) is None
        assert ran_in == [threading.current_thread().name, "crew_0"]


def test_ctrl_c_in_a_job_that_the_main_thread_runs_is_the_programs_too() -> None:
    seen: list[Job[Any]] = []

    def interrupted() -> None:
        job = current_job()
        assert job is not None
        seen.append(job)
        signal.raise_signal(signal.SIGINT)

    with full_pool(when_full="caller") as full:
        with pytest.raises(KeyboardInterrupt):
            full.pool.submit(interrupted)

        assert isinstance(seen[0].exception(GUARD), KeyboardInterrupt)


def test_a_job_in_the_caller_fails_at_its_deadline_even_if_it_goes_on() -> None:
    ended = threading.Event()

    def overrun() -> str:
        job = current_job()
        assert job is not None
        job.add_done_callback(lambda _: ended.set())
        assert ended.wait(GUARD)
        return "too late"

    with full_pool(when_full="caller") as full:
        job = full.pool.options(timeout=0.05).submit(overrun)

        assert isinstance(job.exception(GUARD), DeadlineExceeded)


def test_a_job_in_the_caller_of_a_map_is_not_needed_as_its_inputs_wait_outside() -> None:
    with full_pool(when_full="caller") as full:
        results = full.pool.map(lambda n: (n, threading.current_thread().name), range(5))
        full.gate.open()

        assert {name for _, name in results} == {full.running.worker}


@pytest.mark.parametrize("when_full", ["reject", "block"])
def test_a_refusal_tells_nothing_of_how_it_was_found(when_full: Any) -> None:
    with full_pool(when_full=when_full, submit_timeout=0) as full:
        with pytest.raises(BacklogFull) as caught:
            full.pool.submit(int)

        assert caught.value.__context__ is None


def test_the_error_of_a_job_in_the_caller_is_its_own_and_has_no_other_before_it() -> None:
    with full_pool(when_full="caller") as full:
        error = full.pool.submit(divmod, 1, 0).exception()

        assert error is not None
        assert error.__context__ is None


# On the thread of an event loop


def test_a_full_backlog_is_refused_on_the_thread_of_a_loop_with_a_hint() -> None:
    async def main() -> None:
        with pytest.raises(BacklogFull, match=r"await pool\.asubmit") as caught:
            full.pool.submit(int)
        assert caught.value.waited == 0

    with full_pool() as full:
        asyncio.run(main())

        assert full.pool.report.accepted == 2


def test_a_free_place_is_taken_on_the_thread_of_a_loop() -> None:
    async def main() -> int:
        return await pool.submit(abs, -1)

    with ThreadPool(1, backlog=1) as pool:
        assert asyncio.run(main()) == 1


def test_a_thread_beside_the_loop_waits_as_ever() -> None:
    async def main() -> int:
        submitting = asyncio.create_task(asyncio.to_thread(full.pool.submit, abs, -1))
        await asyncio.to_thread(full.line.wait_for_one_more)
        full.gate.open()
        return await (await submitting)

    with full_pool() as full:
        assert asyncio.run(main()) == 1


def test_an_explicit_block_blocks_even_the_thread_of_a_loop() -> None:
    def let_one_out() -> None:
        full.line.wait_for_one_more()
        full.gate.open()

    async def main() -> int:
        return await full.pool.submit(abs, -1)

    with full_pool(when_full="block") as full:
        letting_out = in_thread(let_one_out)

        assert asyncio.run(main()) == 1
        letting_out.result(GUARD)


def test_asubmit_waits_without_blocking_its_loop() -> None:
    async def main() -> int:
        submitting = asyncio.create_task(full.pool.asubmit(abs, -1))
        await asyncio.sleep(0)  # one turn of the loop: the task goes as far as it can
        assert len(full.line) == 1
        assert not submitting.done()

        full.gate.open()  # by the loop's own thread: a blocked loop would never come here
        return await (await submitting)

    with full_pool() as full:
        assert asyncio.run(main()) == 1


def test_asubmit_and_submit_stand_in_one_line() -> None:
    async def main() -> None:
        first = asyncio.create_task(full.pool.options(name="first").asubmit(int))
        await asyncio.sleep(0)
        full.line.wait_for_one_more()
        second = in_thread(full.pool.options(name="second").submit, int)
        await asyncio.to_thread(full.line.wait_for_one_more)

        full.waiting[0].cancel()
        assert (await first).name == "first"
        assert not second.done()

        full.gate.open()
        assert (await asyncio.wrap_future(second)).name == "second"

    with full_pool() as full:
        asyncio.run(main())


def test_asubmit_gives_up_after_submit_timeout() -> None:
    async def main() -> None:
        with pytest.raises(BacklogFull) as caught:
            await full.pool.asubmit(int)
        assert 0 < caught.value.waited < GUARD

    with full_pool(submit_timeout=0.05) as full:
        asyncio.run(main())


def test_asubmit_waits_no_longer_than_its_callers_own_time() -> None:
    async def main() -> None:
        with pytest.raises(DeadlineExceeded), Context(timeout=0.05):
            await full.pool.asubmit(int)

    with full_pool() as full:
        asyncio.run(main())


def test_asubmit_is_woken_by_close() -> None:
    async def main() -> None:
        submitting = asyncio.create_task(full.pool.asubmit(int))
        await asyncio.sleep(0)
        full.pool.close()
        with pytest.raises(PoolClosed):
            await submitting
        assert full.running.running(), "no place became free meanwhile"

    with full_pool() as full:
        asyncio.run(main())


def test_an_asubmit_that_is_cancelled_leaves_the_line() -> None:
    async def main() -> None:
        submitting = asyncio.create_task(full.pool.asubmit(int))
        await asyncio.sleep(0)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting

    with full_pool() as full:
        asyncio.run(main())

        assert not full.line
        full.waiting[0].cancel()
        assert full.pool.options(when_full="reject").submit(int).state is JobState.READY
        assert full.pool.report.accepted == 3


def test_an_asubmit_that_is_cancelled_just_when_it_gets_a_place_gives_the_place_back() -> None:
    async def main() -> None:
        submitting = asyncio.create_task(full.pool.asubmit(int))
        await asyncio.sleep(0)
        full.waiting[0].cancel()  # the place goes to the coroutine, whose loop has not run since
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting

    with full_pool() as full:
        asyncio.run(main())

        assert full.pool.options(when_full="reject").submit(int).state is JobState.READY
        assert full.pool.report.accepted == 3


def test_a_run_that_is_cancelled_while_it_waits_for_a_place_runs_nothing() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(full.pool.run(int), 0.05)

    with full_pool() as full:
        asyncio.run(main())

        assert full.pool.report.accepted == 2


def test_places_survive_many_submitters_that_give_up() -> None:
    def submit_some() -> None:
        for number in range(100):
            try:
                pool.options(submit_timeout=number % 3 * 0.0005).submit(int)
            except BacklogFull:
                pass

    with ThreadPool(2, backlog=2) as pool:
        submitters = [in_thread(submit_some) for _ in range(4)]
        for submitter in submitters:
            submitter.result(GUARD)
        gate = Gate()
        try:
            view = pool.options(when_full="block", submit_timeout=GUARD)
            held = [view.submit(gate) for _ in range(2)]
            gate.wait_entered(2)
            for _ in range(2):
                pool.options(when_full="reject").submit(int)
            with pytest.raises(BacklogFull):
                pool.options(when_full="reject").submit(int)
        finally:
            gate.open()
        assert [job.result(GUARD) for job in held] == [None, None]


def test_a_job_is_told_as_accepted_only_once_it_has_its_place() -> None:
    with full_pool() as full:
        seen = Seen(full.pool)
        submitting = in_thread(full.pool.submit, int)
        full.line.wait_for_one_more()
        assert seen.of(JobAccepted) == []

        full.gate.open()

        job = submitting.result(GUARD)
        assert seen.wait_for(JobAccepted).id == job.id


def test_waiting_for_a_place_takes_no_more_than_a_moment_of_the_processor() -> None:
    with full_pool(submit_timeout=0.2) as full:
        before = time.thread_time()
        with pytest.raises(BacklogFull):
            full.pool.submit(int)

        assert time.thread_time() - before < 0.1
