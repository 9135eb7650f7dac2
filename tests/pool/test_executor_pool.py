"""A pool around somebody else's executor: what it hands over, what it makes of the answers, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import pickle
import queue
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    BacklogFull,
    Cancelled,
    Context,
    DeadlineExceeded,
    ExecutorPool,
    JobAbandoned,
    JobCancelled,
    JobDropped,
    JobState,
    NestedWait,
    PoolBroken,
    Retry,
    current_context,
    current_job,
    graceful,
)
from penstock.events import JobEnded, WorkerStopped, WorkerStuck
from penstock.job import Job
from penstock.pool.attempts import Runner
from penstock.pool.inner.carried import Carried
from tests.fake_time import FakeTime
from tests.gates import GUARD, Gate, in_thread
from tests.pool import crossing
from tests.pool.hands import Hands, HandsFuture, finish, pool_in_hands
from tests.pool.script import running
from tests.pool.watching import Seen, until

SHORT = 0.3  # seconds: a deadline that is meant to pass, but not before its job was handed over


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The test lets time pass; what becomes due is done by the test's own thread."""
    return FakeTime(monkeypatch)


def error_of(job: Job[Any]) -> BaseException:
    error = job.exception(GUARD)
    assert error is not None
    return error


# What it is around


def test_as_many_jobs_are_handed_over_as_the_executor_has_workers_where_it_tells(threads: ThreadPoolExecutor) -> None:
    with ExecutorPool(threads) as pool:
        assert pool.max_workers == 2
    with ExecutorPool(threads, 5) as pool:
        assert pool.max_workers == 5


def test_an_executor_that_does_not_tell_how_many_it_runs_needs_a_number() -> None:
    with pytest.raises(ValueError, match="Hands doesn't tell how many jobs it runs at once: give max_workers"):
        ExecutorPool(Hands())


class Client:
    """A stand-in for Dask's, which has the workers that `cores` says."""

    def __init__(self, cores: dict[str, int]) -> None:
        self._cores = cores

    def ncores(self) -> dict[str, int]:
        return self._cores

    def get_executor(self, **kwargs: Any) -> Executor:
        executor = Hands()
        executor._client, executor._kwargs = self, kwargs  # type: ignore[attr-defined]
        return executor


def test_of_dask_it_takes_as_many_as_the_cluster_has_cores() -> None:
    with ExecutorPool(Client({"a": 4, "b": 2}).get_executor(pure=False)) as pool:
        assert pool.max_workers == 6
    with pytest.raises(ValueError, match="no workers yet"):
        ExecutorPool(Client({}).get_executor(pure=False))


def test_an_executor_of_dask_that_would_run_equal_calls_once_is_refused() -> None:
    with pytest.raises(ValueError, match=r"client\.get_executor\(pure=False\)"):
        ExecutorPool(Client({"a": 1}).get_executor())
    ExecutorPool(Client({"a": 1}).get_executor(pure=True))  # asked for by name


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a concurrent\.futures\.Executor, not 3"):
        ExecutorPool(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"of a Dask client give client\.get_executor\(pure=False\)"):
        ExecutorPool(Client({"a": 1}))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["initializer", "around"])
def test_what_can_not_be_kept_everywhere_is_refused(option: str, threads: ThreadPoolExecutor) -> None:
    with pytest.raises(TypeError, match=f"ExecutorPool takes no {option}: the executor makes its own workers"):
        ExecutorPool(threads, **{option: print})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("max_workers", 0, ValueError),
        ("max_stuck", -1, ValueError),
        ("stuck_after", None, TypeError),
        ("carries_context", "yes", TypeError),
        ("shutdown_executor", 1, TypeError),
        ("backlog", 0, ValueError),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    option: str, value: object, error: type[Exception], threads: ThreadPoolExecutor
) -> None:
    with pytest.raises(error, match=option):
        ExecutorPool(threads, **{option: value})  # type: ignore[arg-type]


# Handing over


def test_no_more_are_in_its_hands_than_may_be_and_the_others_wait_in_the_backlog() -> None:
    with pool_in_hands(2, backlog=3, when_full="reject") as (pool, hands):
        hands_full = [pool.submit(int), pool.submit(int)]
        hands.wait_given(2)
        waiting = [pool.submit(int) for _ in range(3)]
        with pytest.raises(BacklogFull):
            pool.submit(int)

        assert [job.state for job in hands_full + waiting] == [JobState.RUNNING] * 2 + [JobState.READY] * 3
        assert (pool.stats().running, pool.stats().queued) == (2, 3)
        hands.given[1].run()
        hands.wait_given(3)
        assert waiting[0].running()
        assert not waiting[1].running()
    assert hands.most == 2
    assert pool.report.done == 5


def test_the_function_and_its_arguments_are_handed_over_as_they_are() -> None:
    thing = crossing.Thing()
    with pool_in_hands() as (pool, hands):
        pool.submit(crossing.ignore, thing, 2)
        held = hands.wait_given(1)
        assert (held.fn, held.args, held.kwargs) == (crossing.ignore, (thing, 2), {})


def test_keyword_arguments_are_the_functions_even_if_the_executor_has_the_same() -> None:
    with pool_in_hands() as (pool, hands):
        job = pool.submit(crossing.capture, 1, pure=False, priority=3)
        held = hands.wait_given(1)
        assert held.kwargs == {}
        held.run()
        assert job.result(GUARD) == ((1,), {"pure": False, "priority": 3})


def test_only_a_job_with_a_context_or_a_time_limit_is_wrapped_and_keeps_its_name() -> None:
    with pool_in_hands(3) as (pool, hands):
        pool.options(timeout=GUARD).submit(crossing.double, 2)
        assert isinstance(hands.wait_given(1).fn, Carried)
        assert hands.wait_given(1).fn.__name__ == "double"
        with Context():
            pool.submit(crossing.double, 2)
        assert isinstance(hands.wait_given(2).fn, Carried)
        pool.submit(crossing.double, 2)
        assert hands.wait_given(3).fn is crossing.double


def test_a_context_can_be_left_here_for_workers_without_penstock() -> None:
    with pool_in_hands(carries_context=False, timeout=GUARD) as (pool, hands):
        pool.submit(crossing.double, 2)
        assert hands.wait_given(1).fn is crossing.double


def test_jobs_may_end_in_any_order_on_any_thread() -> None:
    with pool_in_hands(3) as (pool, hands):
        jobs = [pool.submit(crossing.double, n) for n in range(3)]
        hands.wait_given(3)
        for number in (2, 0, 1):
            in_thread(hands.given[number].run).result(GUARD)
        assert [job.result(GUARD) for job in jobs] == [0, 2, 4]


class SaysItTwice(HandsFuture):
    def set_result(self, result: Any) -> None:
        super().set_result(result)
        self._invoke_callbacks()  # type: ignore[attr-defined]


def test_an_end_that_is_told_twice_counts_once() -> None:
    with pool_in_hands(1, SaysItTwice) as (pool, hands):
        jobs = [pool.submit(crossing.double, n) for n in range(3)]
        for number in range(3):
            hands.wait_given(number + 1).run()
            assert jobs[number].result(GUARD) == 2 * number
    assert hands.most == 1
    assert pool.report.done == 3


class Inline(Executor):
    """Runs what it is given in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_an_executor_that_is_done_at_once_does_not_pile_up_frames() -> None:
    with ExecutorPool(Inline(), 1, backlog=5_000) as pool:
        assert list(pool.map(crossing.double, range(5_000))) == [2 * n for n in range(5_000)]


class Locked(Hands):
    """Tells of ends with a lock held that `submit` takes, as CPython's process pool does when it breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self.lock:
            return super().submit(fn, *args, **kwargs)


def test_an_end_that_is_told_with_a_lock_held_that_submit_takes_is_no_deadlock() -> None:
    hands = Locked()
    with ExecutorPool(hands, 1) as pool:
        first, second = pool.submit(crossing.double, 1), pool.submit(crossing.double, 2)
        held = hands.wait_given(1)

        def end() -> None:
            with hands.lock:
                held.run()

        in_thread(end).result(GUARD)
        assert first.result(GUARD) == 2
        hands.wait_given(2).run()
        assert second.result(GUARD) == 4


def test_a_users_callback_does_not_hold_up_the_thread_that_tells_of_ends() -> None:
    gate = Gate()
    with pool_in_hands(2) as (pool, hands):
        slow, other = pool.submit(crossing.double, 1), pool.submit(crossing.double, 2)
        slow.add_done_callback(gate)
        hands.wait_given(2)

        def tell_of_both() -> None:
            hands.given[0].run()
            hands.given[1].run()

        in_thread(tell_of_both).result(GUARD)
        gate.wait_entered()
        assert other.result(GUARD) == 4
        gate.open()


# What the executor refuses


def test_an_error_of_submit_is_its_jobs_own_and_the_pool_goes_on() -> None:
    class Picky(Hands):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if args == ("bad",):
                raise pickle.PicklingError("not that")
            return super().submit(fn, *args, **kwargs)

    hands = Picky()
    with ExecutorPool(hands, 1, unobserved="ignore") as pool:
        bad, good = pool.submit(str, "bad"), pool.submit(str, "good")

        assert isinstance(error_of(bad), pickle.PicklingError)
        probe = hands.wait_given(1)  # the question whether the executor takes anything at all
        assert (probe.fn, probe.args) == (int, ())
        assert not good.running(), "the question is in its hands"
        probe.run()
        hands.wait_given(2).run()
        assert good.result(GUARD) == "good"
    assert hands.most == 1


def test_an_answer_to_the_question_that_is_told_twice_frees_one_slot() -> None:
    class Picky(Hands):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if args:
                raise pickle.PicklingError("not that")
            return super().submit(fn, *args, **kwargs)

    hands = Picky(SaysItTwice)
    with ExecutorPool(hands, 1, unobserved="ignore") as pool:
        error_of(pool.submit(str, "bad"))
        hands.wait_given(1).run()
        jobs = [pool.submit(int), pool.submit(int)]
        hands.wait_given(2).run()
        hands.wait_given(3).run()
        assert [job.result(GUARD) for job in jobs] == [0, 0]
    assert hands.most == 1


def test_a_users_callback_does_not_hold_up_the_thread_that_hands_over() -> None:
    gate = Gate()
    with pool_in_hands(1, unobserved="ignore") as (pool, hands):
        held = pool.submit(int)
        hands.wait_given(1)
        refused = pool.submit(int)
        refused.add_done_callback(gate)
        hands.refusal = queue.Full()
        hands.given[0].run()
        gate.wait_entered()
        hands.refusal = None
        after = pool.submit(crossing.double, 2)
        hands.wait_given(2).run()
        assert (held.result(GUARD), after.result(GUARD)) == (0, 4)
        gate.open()


class Snatched(deque[Job[Any]]):
    """A backlog from which somebody takes the job that the pool has just seen there."""

    snatches = False

    def popleft(self) -> Job[Any]:
        if self.snatches:
            self.snatches = False
            assert self[0].cancel()
        return super().popleft()


def test_a_job_that_is_cancelled_while_it_is_taken_costs_no_slot() -> None:
    with pool_in_hands(1) as (pool, hands):
        pool.submit(int)
        hands.wait_given(1)
        waiting = pool._crew.backlog.queue = pool._crew.intake._queue = Snatched()
        waiting.snatches = True
        taken = pool.submit(int)
        hands.given[0].run()
        until(taken.cancelled)
        pool.submit(int)
        hands.wait_given(2)


@pytest.mark.parametrize("full", [queue.Full(), BacklogFull(3)])
def test_an_executor_that_is_full_is_not_broken(full: Exception) -> None:
    with pool_in_hands(unobserved="ignore") as (pool, hands):
        hands.refusal = full
        assert error_of(pool.submit(int)) is full
        hands.refusal = None
        job = pool.submit(int)
        hands.wait_given(1).run()
        assert job.result(GUARD) == 0


def test_the_frames_of_an_error_of_submit_keep_no_job() -> None:
    with pool_in_hands(unobserved="ignore") as (pool, hands):
        hands.refusal = queue.Full()
        job = pool.submit(crossing.ignore, crossing.Thing())
        error = error_of(job)
        gone = weakref.ref(job)
        del job
        until(lambda: gc.collect() is not None and gone() is None)
        assert error.__traceback__ is not None


# An executor that is dead


def dead(error: BaseException) -> tuple[ExecutorPool, Hands, list[Job[Any]]]:
    """A pool around hands that are full, and that will take nothing more; with a job in its hands and two waiting."""
    hands = Hands()
    pool = ExecutorPool(hands, 1, unobserved="ignore")
    jobs = [pool.submit(crossing.double, n) for n in range(3)]
    hands.wait_given(1)
    hands.refusal = error
    return pool, hands, jobs


def cannot_schedule() -> RuntimeError:
    return RuntimeError("cannot schedule new futures after shutdown")


@pytest.mark.parametrize("error", [BrokenExecutor("a worker died"), cannot_schedule()], ids=["broken", "shut down"])
def test_a_dead_executor_breaks_the_pool_once_and_nothing_hangs(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pool, hands, (running, *waiting) = dead(error)

    hands.given[0].run()

    assert running.result(GUARD) == 0
    for job in waiting:
        broken = error_of(job)
        assert isinstance(broken, PoolBroken)
        assert isinstance(broken, BrokenExecutor)
        assert broken.__cause__ is error
        assert job.attempt == 0
    with pytest.raises(PoolBroken, match="its executor takes no more jobs: "):
        pool.submit(int)
    with pytest.raises(type(error)):
        pool.start()
    report = in_thread(pool.shutdown).result(GUARD)
    assert (report.done, report.failed, report.balanced, report.ok) == (1, 2, True, False)
    assert [record.name for record in caplog.records if record.levelno == logging.CRITICAL] == ["penstock.pool"]


def test_a_job_that_was_tried_before_the_executor_died_fails_with_its_own_error() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1, unobserved="ignore")
    job = pool.options(retry=Retry(3, wait=0)).submit(int)
    hands.wait_given(1)
    hands.refusal = BrokenExecutor("dead")
    hands.given[0].fail(ValueError("mine"))

    assert isinstance(error_of(job), ValueError)
    assert job.attempt == 1
    assert pool.shutdown().closed


def test_one_job_that_breaks_its_worker_does_not_break_a_pool_whose_executor_goes_on() -> None:
    with pool_in_hands(2, unobserved="ignore") as (pool, hands):
        died = pool.submit(int)
        hands.wait_given(1).fail(BrokenExecutor("one worker died"))
        assert isinstance(error_of(died), BrokenExecutor)
        well = pool.submit(int)
        hands.wait_given(2).run()
        assert well.result(GUARD) == 0


def test_if_every_result_says_that_the_executor_is_broken_it_is(caplog: pytest.LogCaptureFixture) -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 2, unobserved="ignore", backlog=10)
    jobs = [pool.submit(int) for _ in range(9)]
    hands.wait_given(2)
    for number in range(6):
        hands.wait_given(number + 1).fail(BrokenExecutor("gone"))

    kinds = [type(error_of(job)) for job in jobs]
    assert kinds == [BrokenExecutor] * 6 + [PoolBroken] * 3
    assert pool.shutdown().balanced
    assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1


def test_a_result_in_between_shows_that_the_executor_lives() -> None:
    with pool_in_hands(1, unobserved="ignore") as (pool, hands):
        for number in range(9):
            job = pool.submit(int)
            held = hands.wait_given(number + 1)
            if number % 3 == 2:
                held.run()
            else:
                held.fail(BrokenExecutor("one more"))
            until(job.done)
    assert (pool.report.done, pool.report.failed) == (3, 6)


def test_errors_that_are_named_are_tried_again() -> None:
    class KilledWorker(Exception):
        pass

    with pool_in_hands() as (pool, hands):
        job = pool.options(retry=Retry(3, on=(KilledWorker,), wait=0)).submit(crossing.double, 4)
        hands.wait_given(1).fail(KilledWorker())
        hands.wait_given(2).fail(KilledWorker())
        hands.wait_given(3).run()
        assert job.result(GUARD) == 8
        assert job.attempt == 3


def test_a_job_that_the_executor_cancels_by_itself_has_failed_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with pool_in_hands(unobserved="ignore") as (pool, hands):
        job = pool.submit(int)
        hands.wait_given(1).drop()
        error = error_of(job)
        assert isinstance(error, JobDropped)
        assert isinstance(error, CancelledError)
        assert "its executor cancelled it, and nobody had asked for that" in str(error)
        assert not job.cancelled()

        again = pool.options(retry=Retry(2, on=(JobDropped,), wait=0)).submit(int)
        hands.wait_given(2).drop()
        hands.wait_given(3).run()
        assert again.result(GUARD) == 0
    assert pool.report.failed == 1


def test_an_executor_that_has_lost_what_it_had_is_found_out_though_all_slots_are_taken(clock: FakeTime) -> None:
    """As Dask's client does that gives up on its scheduler: futures made in that moment never end."""
    hands = Hands()
    pool = ExecutorPool(hands, 1, unobserved="ignore")
    dropped, lost, waiting = (pool.submit(str) for _ in range(3))
    hands.wait_given(1).drop()
    hands.wait_given(2)
    hands.refusal = ConnectionError("the client is closed")
    clock.advance(1)

    assert isinstance(error_of(dropped), JobDropped)
    assert isinstance(error_of(waiting), PoolBroken)
    assert isinstance(error_of(lost), JobDropped)
    assert pool.shutdown().closed


def test_an_executor_that_has_dropped_a_job_is_asked_at_growing_intervals_until_something_comes_back(
    clock: FakeTime,
) -> None:
    with pool_in_hands(2, unobserved="ignore") as (pool, hands):
        pool.submit(str)
        hands.wait_given(1).drop()
        clock.advance(100)
        assert len(hands.given) == 1, "it has nothing that could be lost"

        pool.submit(str)
        pool.submit(str)
        hands.wait_given(2).drop()
        hands.wait_given(3)
        for number, seconds in ((4, 1), (5, 2), (6, 4)):
            until(lambda: clock.to_come)
            clock.advance(seconds)
            assert hands.wait_given(number).fn is int
        until(lambda: clock.to_come)
        hands.given[-1].run()
        assert not clock.to_come


def test_an_executor_that_was_shut_down_in_good_order_may_end_what_it_has(clock: FakeTime) -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 2, unobserved="ignore")
    jobs = [pool.submit(str), pool.submit(str)]
    hands.wait_given(2)
    hands.given[0].drop()
    hands.refusal = cannot_schedule()
    clock.advance(1)
    until(lambda: pool._crew.staff.broken)
    hands.given[1].run()
    assert isinstance(error_of(jobs[0]), JobDropped)
    assert jobs[1].result(GUARD) == ""
    assert pool.shutdown().closed


class Strange(HandsFuture):
    def exception(self, timeout: float | None = None) -> BaseException | None:
        raise KeyError("not even that")


def test_a_future_that_can_not_tell_how_it_ended_fails_its_job() -> None:
    with pool_in_hands(1, Strange, unobserved="ignore") as (pool, hands):
        job = pool.submit(int)
        hands.wait_given(1).end(3)
        assert isinstance(error_of(job), KeyError)


def test_what_is_no_future_fails_its_job() -> None:
    class NoFutures(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(fn, *args) if fn is int else None  # type: ignore[return-value]

    with ExecutorPool(NoFutures(), 1, unobserved="ignore") as pool:
        assert isinstance(error_of(pool.submit(str)), AttributeError)
        assert pool.submit(int).result(GUARD) == 0


# Time


def test_a_job_fails_on_time_and_its_future_is_cancelled_if_it_can_be(clock: FakeTime) -> None:
    with pool_in_hands(timeout=5, unobserved="ignore") as (pool, hands):
        late, after = pool.submit(int), pool.submit(int)
        held = hands.wait_given(1)
        clock.advance(5)
        assert isinstance(error_of(late), DeadlineExceeded)
        assert held.future.cancelled()
        hands.wait_given(2).run()  # the slot is free
        assert after.result(GUARD) == 0
        assert pool.report.stuck == ()


def test_the_time_of_an_attempt_begins_when_it_is_handed_over(clock: FakeTime) -> None:
    with pool_in_hands(timeout=5) as (pool, hands):
        first, second = pool.submit(int), pool.submit(int)
        hands.wait_given(1)
        clock.advance(4)
        hands.given[0].run()
        hands.wait_given(2)
        clock.advance(4)
        assert not second.done()
        hands.given[1].run()
        assert (first.result(GUARD), second.result(GUARD)) == (0, 0)
        assert (first.ran, second.waited, second.ran) == (4, 4, 4)


def test_a_job_that_can_not_be_cancelled_overran_until_its_future_ends(clock: FakeTime) -> None:
    with pool_in_hands(timeout=5, unobserved="ignore") as (pool, hands):
        seen = Seen(pool)
        late = pool.submit(int)
        held = hands.wait_given(1)
        held.begin()
        clock.advance(5)
        assert isinstance(error_of(late), DeadlineExceeded)
        assert "1 overran, still running" in str(pool.report)
        assert [(stuck.id, stuck.outcome, stuck.stack) for stuck in pool.report.stuck] == [(1, "overran", "")]

        held.end("too late")
        assert pool.report.stuck == ()
        assert isinstance(error_of(late), DeadlineExceeded), "what comes late is dropped"
        assert len(seen.of(JobEnded)) == 1


def test_the_slot_of_a_stuck_job_is_given_to_another_at_most_so_often(
    clock: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_in_hands(1, timeout=5, stuck_after=1, max_stuck=1, unobserved="ignore") as (pool, hands):
        seen = Seen(pool)
        pool.submit(int)
        first = hands.wait_given(1)
        first.begin()
        clock.advance(6)
        assert [stuck.replaced for stuck in seen.of(WorkerStuck)] == [True]
        pool.submit(int)
        second = hands.wait_given(2)  # in the slot that the first one lost
        second.begin()
        clock.advance(6)
        assert [stuck.replaced for stuck in seen.of(WorkerStuck)] == [True, False]
        waiting = pool.submit(int)
        assert len(hands.open()) == 2

        first.end()
        seen.wait_for(WorkerStopped)  # there was one too many
        assert not waiting.running()
        second.end()
        hands.wait_given(3)
        pool.submit(int)
        hands.given[2].run()
        hands.wait_given(4).run()
        assert waiting.result(GUARD) == 0
        assert pool.stats().workers == 1
        assert pool._crew.staff.capacity == 1
    assert "its slot is given to another job" in caplog.text
    assert "its slot is not given to another (max_stuck)" in caplog.text
    assert "It can't be seen from here" in caplog.text


AGAIN = Retry(2, on=(DeadlineExceeded,), wait=0)


def test_the_next_attempt_after_a_deadline_begins_when_the_future_has_ended(clock: FakeTime) -> None:
    with pool_in_hands(2, timeout=5, retry=AGAIN) as (pool, hands):
        job = pool.submit(crossing.double, 3)
        first = hands.wait_given(1)
        first.begin()
        clock.advance(5)
        assert (pool.report.retrying, len(hands.given)) == (1, 1)
        first.end("too late")
        clock.advance(0)  # the next attempt is due at once
        hands.wait_given(2).run()
        assert job.result(GUARD) == 6
        assert job.attempt == 2


def test_the_next_attempt_after_a_deadline_begins_at_once_if_the_future_could_be_cancelled(clock: FakeTime) -> None:
    with pool_in_hands(1, timeout=5, retry=AGAIN) as (pool, hands):
        job = pool.submit(crossing.double, 3)
        hands.wait_given(1)
        clock.advance(5)
        hands.wait_given(2).run()
        assert job.result(GUARD) == 6


def test_an_attempt_that_ends_after_the_next_one_has_begun_says_nothing(clock: FakeTime) -> None:
    with pool_in_hands(1, timeout=5, retry=AGAIN, stuck_after=1) as (pool, hands):
        job = pool.submit(crossing.double, 3)
        first = hands.wait_given(1)
        first.begin()
        clock.advance(6)  # the first one is stuck: nobody waits for it any more
        second = hands.wait_given(2)
        first.end("the first attempt's")
        assert not job.done(), "it is the second attempt that counts"
        second.run()
        assert job.result(GUARD) == 6


def test_a_job_whose_time_is_over_at_the_moment_of_handing_over_is_kept_back(clock: FakeTime) -> None:
    with pool_in_hands(timeout=5, unobserved="ignore") as (pool, hands):
        attempts = pool._crew.attempts
        begin = attempts.begin

        def begin_late(worker: Runner, job: Job[Any]) -> bool:
            begun = begin(worker, job)
            clock.advance(5)
            return begun

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attempts, "begin", begin_late)
            assert isinstance(error_of(pool.submit(int)), DeadlineExceeded)
            until(lambda: not pool.report.stuck)
        assert hands.given == []


class Slow(Hands):
    """Its `submit` takes until the gate is open."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._gate()
        return super().submit(fn, *args, **kwargs)


def test_a_job_fails_on_time_though_submit_hangs_and_is_cancelled_once_it_is_there(clock: FakeTime) -> None:
    gate = Gate()
    hands = Slow(gate)
    with ExecutorPool(hands, 1, unobserved="ignore") as pool:
        late = pool.options(timeout=1).submit(int)
        gate.wait_entered()
        clock.advance(1)
        assert isinstance(error_of(late), DeadlineExceeded)
        gate.open()
        held = hands.wait_given(1)
        until(held.future.cancelled)
        finish(pool, hands)


class CancelHangs(HandsFuture):
    """Its `cancel` asks somebody far away, who does not answer until the gate is open."""

    gate: Gate

    def cancel(self) -> bool:
        self.gate()
        return super().cancel()


def test_a_cancel_that_hangs_holds_up_no_deadline() -> None:
    CancelHangs.gate = gate = Gate()
    with pool_in_hands(2, CancelHangs, unobserved="ignore") as (pool, hands):
        first = pool.options(timeout=SHORT).submit(int)
        hands.wait_given(1)
        gate.wait_entered()
        second = pool.options(timeout=SHORT).submit(int)
        hands.wait_given(2)
        assert isinstance(error_of(second), DeadlineExceeded)
        assert isinstance(error_of(first), DeadlineExceeded)
        assert len(pool.report.stuck) == 2
        gate.open()
        until(lambda: not pool.report.stuck)


# Cancelling


def test_a_job_in_its_hands_is_cancelled_if_the_executor_says_that_it_can_be() -> None:
    with pool_in_hands() as (pool, hands):
        job = pool.submit(int)
        held = hands.wait_given(1)

        assert job.cancel("not wanted") is False, "it counts as running"
        error = error_of(job)
        assert isinstance(error, JobCancelled)
        assert (error.reason, error.started) == ("not wanted", True), "nobody can say that it has not begun"
        assert held.future.cancelled()
    assert (pool.report.cancelled, pool.report.cut) == (1, 0)


def test_a_job_that_runs_elsewhere_and_is_cancelled_keeps_its_result() -> None:
    with pool_in_hands() as (pool, hands):
        job = pool.submit(crossing.double, 4)
        held = hands.wait_given(1)
        held.begin()
        assert job.cancel() is False
        held.run()
        assert job.result(GUARD) == 8


def test_a_job_that_is_cancelled_while_submit_hangs_is_cancelled_once_it_is_there() -> None:
    gate = Gate()
    hands = Slow(gate)
    with ExecutorPool(hands, 1) as pool:
        job = pool.submit(int)
        gate.wait_entered()
        assert job.cancel() is False
        gate.open()
        assert isinstance(error_of(job), JobCancelled)
        finish(pool, hands)


class CancelRaises(HandsFuture):
    def cancel(self) -> bool:
        raise OSError("no connection")


def test_a_cancel_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with pool_in_hands(1, CancelRaises) as (pool, hands):
        job = pool.submit(crossing.double, 1)
        held = hands.wait_given(1)
        assert job.cancel() is False
        held.run()
        assert job.result(GUARD) == 2
    assert "could not be cancelled" in caplog.text


# The context's journey


def test_on_threads_of_this_process_a_job_is_itself(threads: ThreadPoolExecutor) -> None:
    kind = contextvars.ContextVar[str]("kind")

    def look() -> tuple[Job[Any] | None, Context, str]:
        return current_job(), current_context(), kind.get()

    with ExecutorPool(threads) as pool:
        kind.set("of the submitter")
        job = pool.submit(look)
        assert job.result(GUARD) == (job, job.context, "of the submitter")


def test_what_one_attempt_sets_the_next_one_does_not_see(threads: ThreadPoolExecutor) -> None:
    kind = contextvars.ContextVar("kind", default="unset")
    found: list[str] = []

    def fail_once() -> None:
        found.append(kind.get())
        kind.set("set")
        if len(found) == 1:
            raise OSError

    with ExecutorPool(threads, retry=Retry(2, wait=0)) as pool:
        pool.submit(fail_once).result(GUARD)
    assert found == ["unset", "unset"]


def test_packed_it_takes_along_what_is_left_of_the_time_and_the_values() -> None:
    with pool_in_hands() as (pool, hands):
        pool.options(context=Context(30, values={"user": "ann"})).submit(crossing.value_of, "user")
        carried = hands.wait_given(1).fn
        packed = pickle.dumps(carried)
        assert pickle.loads(packed)("user") == "ann"
        assert pickle.loads(pickle.dumps(pickle.loads(packed)))("user") == "ann", "and once more"

        pool.options(context=Context(30)).submit(left_of_it)
        hands.given[0].run()
        over_there = pickle.loads(pickle.dumps(hands.wait_given(2).fn))
        assert 20 < over_there() <= 30
        assert pickle.loads(packed).__name__ == "value_of"
    assert current_context().remaining() == float("inf"), "nothing of it stays in this thread"


def left_of_it() -> float:
    assert current_job() is None
    return current_context().remaining()


def test_what_arrives_when_its_time_is_over_is_not_called() -> None:
    with pytest.raises(Cancelled) as caught:
        pickle.loads(pickle.dumps(Carried(crossing.fail, 0.0)))()
    assert caught.value.by_deadline


def test_a_job_that_a_thread_comes_to_after_its_time_is_not_called(clock: FakeTime) -> None:
    """It was in the executor's own queue, and the executor could not be asked to forget it."""
    ran: list[int] = []
    with pool_in_hands(1, CancelRaises, unobserved="ignore") as (pool, hands):
        late = pool.options(timeout=1).submit(ran.append, 1)
        held = hands.wait_given(1)
        clock.advance(1)
        assert isinstance(error_of(late), DeadlineExceeded)
        held.run()
        assert isinstance(held.future.exception(), Cancelled)
    assert ran == []


def test_the_stack_of_a_job_on_a_thread_of_this_process_is_shown(threads: ThreadPoolExecutor, clock: FakeTime) -> None:
    gate = Gate()

    def stand_here() -> None:
        gate()

    with ExecutorPool(threads, timeout=1, unobserved="ignore") as pool:
        late = pool.submit(stand_here)
        gate.wait_entered()
        clock.advance(1)
        assert isinstance(error_of(late), DeadlineExceeded)
        stack = pool.report.stuck[0].stack
        gate.open()
    assert "in stand_here" in stack.splitlines()[0], "it begins in the user's code"


def test_the_traceback_of_a_job_on_a_thread_of_this_process_begins_in_its_function(
    threads: ThreadPoolExecutor,
) -> None:
    with ExecutorPool(threads, unobserved="ignore") as pool:
        error = error_of(pool.submit(crossing.fail))
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code.co_name == "fail"


def test_the_frames_of_a_jobs_error_keep_no_job(threads: ThreadPoolExecutor) -> None:
    with ExecutorPool(threads, unobserved="ignore") as pool:
        job = pool.options(timeout=GUARD).submit(crossing.fail)
        error_of(job)
        gone = weakref.ref(job)
        gc.disable()
        try:
            del job
            until(lambda: gone() is None)  # no collector is needed
        finally:
            gc.enable()


# Jobs that wait for jobs of their own pool


def test_a_job_may_wait_for_another_as_long_as_one_is_left_to_run_it(threads: ThreadPoolExecutor) -> None:
    with ExecutorPool(threads) as pool:

        def ask() -> int:
            return pool.submit(crossing.double, 3).result(GUARD)

        assert pool.submit(ask).result(GUARD) == 6


def test_if_all_would_wait_the_last_one_is_told_instead(threads: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)
    with ExecutorPool(threads, unobserved="ignore") as pool:

        def ask() -> int:
            both.wait(GUARD)
            return pool.submit(crossing.double, 3).result(GUARD)

        jobs = [pool.submit(ask), pool.submit(ask)]
        outcomes = [job.exception(GUARD) for job in jobs]
        refused = [error for error in outcomes if error is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], NestedWait)
    assert "every job in the executor's hands (2) would wait for pool" in str(refused[0])


def test_a_coroutine_in_a_job_may_wait_as_the_job_itself_may(threads: ThreadPoolExecutor) -> None:
    with ExecutorPool(threads, unobserved="ignore") as pool:

        async def ask_twice() -> list[int]:
            return list(await asyncio.gather(pool.run(crossing.double, 1), pool.run(crossing.double, 2)))

        assert pool.submit(lambda: asyncio.run(ask_twice())).result(GUARD) == [2, 4], "it counts as one that waits"
        for _ in range(3):  # and leaves nothing behind
            assert pool.submit(lambda: asyncio.run(ask_twice())).result(GUARD) == [2, 4]
    with ThreadPoolExecutor(1) as one, ExecutorPool(one, unobserved="ignore") as pool:

        async def ask() -> int:
            return await pool.submit(crossing.double, 1)

        assert isinstance(error_of(pool.submit(lambda: asyncio.run(ask()))), NestedWait)


def test_a_coroutine_that_its_job_left_waiting_counts_no_more(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    with ExecutorPool(threads, unobserved="ignore") as pool:
        held = pool.submit(gate)
        gate.wait_entered()
        waits: list[object] = []

        def leave_it_waiting() -> None:
            waiting = held.__await__()
            loop = asyncio.new_event_loop()

            async def begin() -> None:
                next(waiting)
                waits.append(waiting)

            loop.run_until_complete(begin())
            loop.close()

        pool.submit(leave_it_waiting).result(GUARD)
        asked = pool.submit(lambda: pool.submit(crossing.double, 2).result(GUARD))  # one waits, one is at the gate
        until(lambda: pool.report.accepted == 4)
        gate.open()
        assert asked.result(GUARD) == 4
        waits.clear()


def test_a_job_does_not_wait_for_itself_or_on_the_thread_that_hands_over() -> None:
    with ExecutorPool(Inline(), 2, unobserved="ignore") as pool:

        def ask() -> int:
            return pool.submit(int).result(GUARD)

        assert isinstance(error_of(pool.submit(ask)), NestedWait)
    with ThreadPoolExecutor(2) as threads, ExecutorPool(threads, unobserved="ignore") as pool:
        gate = Gate()
        jobs: list[Job[Any]] = []

        def wait_for_itself() -> None:
            gate()
            jobs[0].result(GUARD)

        jobs.append(pool.submit(wait_for_itself))
        gate.open()
        with pytest.raises(NestedWait, match="can't wait for itself"):
            jobs[0].result(GUARD)


def test_a_job_can_not_wait_for_its_own_pool_to_stop(threads: ThreadPoolExecutor) -> None:
    with ExecutorPool(threads, unobserved="ignore") as pool:
        with pytest.raises(RuntimeError, match="can't wait for its own pool to stop"):
            pool.submit(pool.shutdown).result(GUARD)
        assert pool.submit(int).result(GUARD) == 0


# Stopping


def test_a_stop_ends_in_time_though_nothing_comes_back() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 2)
    running = [pool.submit(int) for _ in range(2)]
    waiting = [pool.submit(int) for _ in range(3)]
    for number in (1, 2):
        hands.wait_given(number).begin()
    begun = time.monotonic()

    report = pool.shutdown(timeout=0.6)

    assert time.monotonic() - begun < GUARD
    assert (report.abandoned, report.cancelled, report.cut, report.balanced) == (2, 3, 5, True)
    assert all(isinstance(error_of(job), JobAbandoned) for job in running)
    assert all(job.cancelled() for job in waiting)
    assert [stuck.outcome for stuck in report.stuck] == ["abandoned"] * 2
    for held in hands.given:
        held.end()
    assert pool.report.stuck == ()
    assert len(hands.given) == 2


def test_a_stop_asks_the_executor_to_forget_what_it_has_not_begun() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1)
    job = pool.submit(int)
    held = hands.wait_given(1)
    report = pool.shutdown(timeout=0.6)
    assert held.future.cancelled()
    assert job.state is JobState.CANCELLED
    assert (report.cancelled, report.cut, report.abandoned) == (1, 1, 0)


def test_the_executor_is_shut_down_with_the_pool_only_if_that_is_asked_for() -> None:
    for asked in (False, True):
        with pool_in_hands(shutdown_executor=asked) as (pool, hands):
            pool.submit(int)
        assert hands.closed == [True] * asked


def test_an_executor_whose_last_end_is_being_told_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1, shutdown_executor=True)
    staff = pool._crew.staff
    release = staff.release  # type: ignore[attr-defined]

    def release_late(slot: object) -> None:
        assert hands.is_closed.wait(GUARD)
        release(slot)

    monkeypatch.setattr(staff, "release", release_late)
    pool.submit(int)
    ending = in_thread(hands.wait_given(1).run)
    pool.shutdown()
    ending.result(GUARD)
    assert hands.closed == [True]


def test_an_executor_that_was_never_used_is_shut_down_too() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1, shutdown_executor=True)
    pool.shutdown()
    assert hands.closed == [True]


def test_an_executor_that_still_has_a_job_is_not_waited_for() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1, shutdown_executor=True)
    pool.submit(int)
    held = hands.wait_given(1)
    held.begin()
    pool.shutdown(timeout=0.1)
    assert hands.is_closed.wait(GUARD)
    assert hands.closed == [False]
    held.end()


def test_an_executor_whose_shutdown_takes_long_is_not_waited_for_past_the_budget() -> None:
    gate = Gate()

    class Takes(Hands):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            gate()

    pool = ExecutorPool(Takes(), 1, shutdown_executor=True)
    begun = time.monotonic()
    report = pool.shutdown(timeout=0.1)
    assert time.monotonic() - begun < GUARD / 2, "and the gate would keep it for GUARD"
    assert report.closed
    gate.wait_entered()
    gate.open()


def test_an_executor_whose_shutdown_raises_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Hands):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            raise OSError("no connection")

    assert ExecutorPool(Raises(), 1, shutdown_executor=True).shutdown().ok
    assert "could not be shut down" in caplog.text


def test_a_pool_that_broke_stops_in_time_though_a_job_never_comes_back() -> None:
    pool, hands, (running, *_) = dead(BrokenExecutor("dead"))
    job = running
    pool._crew.staff.breaks(BrokenExecutor("dead"))  # type: ignore[attr-defined]
    assert pool.shutdown(timeout=0.3).balanced
    assert job.done()
    hands.given[0].future.cancel()


def test_a_forgotten_pool_hands_over_what_was_accepted() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1)
    jobs = [pool.submit(crossing.double, n) for n in range(3)]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    for number in range(3):
        hands.wait_given(number + 1).run()
    assert [job.result(GUARD) for job in jobs] == [0, 2, 4]


def test_a_signal_stops_it_like_any_pool() -> None:
    hands = Hands()
    pool = ExecutorPool(hands, 1)
    with graceful(pool, timeout=0.6) as shutdown:
        job = pool.submit(int)
        hands.wait_given(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert shutdown.requested.wait(GUARD)
    assert shutdown.exit_code == 143
    assert job.state is JobState.CANCELLED
    assert shutdown.reports[0].balanced


def test_nothing_of_a_job_is_kept_once_it_has_ended() -> None:
    gc.disable()
    try:
        with pool_in_hands() as (pool, hands):
            thing = crossing.Thing()
            job = pool.options(timeout=GUARD).submit(crossing.ignore, thing)
            gone = weakref.ref(thing), weakref.ref(job)
            hands.wait_given(1).run()
            job.result(GUARD)
            hands.given.clear()
            del thing, job
            until(lambda: (gone[0](), gone[1]()) == (None, None))  # no collector is needed
    finally:
        gc.enable()


# The end of the interpreter, and forks


def test_at_the_end_of_a_script_what_the_executor_does_not_take_any_more_is_told(tmp_path: Path) -> None:
    code = """
        from concurrent.futures import ThreadPoolExecutor, thread

        begun = threading.Event()

        def until_the_end():
            begun.set()
            while not thread._shutdown:
                time.sleep(0.001)

        pool = ExecutorPool(ThreadPoolExecutor(1), name="the late one")
        pool.submit(until_the_end)
        begun.wait(10)
        pool.submit(say, "never")
        say("end of script")
        """
    with running(tmp_path, code) as script:
        assert script.rest() == ["end of script"]
        assert script.end() == 0
        assert "the executor of pool 'the late one' takes no more jobs" in script.errors
        assert "job 2 (say) failed: PoolBroken" in script.errors
        assert "Fatal" not in script.errors


def test_at_the_end_of_a_script_a_block_that_was_left_has_run_all(tmp_path: Path) -> None:
    code = """
        from concurrent.futures import ThreadPoolExecutor

        with ExecutorPool(ThreadPoolExecutor(1), shutdown_executor=True) as pool:
            for n in range(20):
                pool.submit(say, n)
        """
    with running(tmp_path, code) as script:
        assert script.rest() == [str(n) for n in range(20)]
        assert (script.end(), script.errors) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_is_refused_and_the_parents_pool_goes_on(tmp_path: Path) -> None:
    code = """
        import warnings
        from concurrent.futures import ThreadPoolExecutor

        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        with ExecutorPool(ThreadPoolExecutor(1), shutdown_executor=True) as pool:
            job = pool.submit(until_told)
            child = os.fork()
            if not child:
                try:
                    pool.submit(say, "never")
                except PoolClosed as error:
                    say("after a fork" in str(error))
                os._exit(pool.shutdown().running)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            say(pool.submit(len, "four").done())
        say(job.result())
        """
    with running(tmp_path, code) as script:
        script.expect("True", "0", "False")
        script.go()
        script.expect("None")
        assert (script.end(), script.errors) == (0, "")
