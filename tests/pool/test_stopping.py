"""How a pool stops: what it waits for, what it cuts short, how long it takes, and what it says afterwards."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    BacklogFull,
    Context,
    DeadlineExceeded,
    Incomplete,
    Job,
    JobAbandoned,
    JobCancelled,
    JobState,
    PoolClosed,
    Report,
    Retry,
    ThreadPool,
    clock,
    current_context,
    events,
    timers,
)
from penstock.context import Cause
from penstock.lifecycle import Lifecycle, Phase
from penstock.pool import ladder, lines
from penstock.pool.attempts import Runner
from penstock.pool.ladder import Stop
from tests.fake_time import FakeTime
from tests.gates import GUARD, Gate, in_thread, slack
from tests.pool.script import running
from tests.pool.watching import until

BUDGET = 0.3  # seconds; what a stop gets that has to use all of it
SLACK = 0.5  # seconds that it may take beyond


class Rest:
    """A job that sleeps until it is cancelled, and then lets `Cancelled` pass."""

    def __init__(self) -> None:
        self.entered = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        current_context().sleep(2 * GUARD)
        raise AssertionError("nobody cancelled this job")


class ParkedSubmitters:
    """Tells when threads stand in the line for a place in a backlog."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._parked = threading.Semaphore(0)
        sleep = lines.SubmitterInLine.sleep

        def watched(waiter: lines.SubmitterInLine, deadline: float | None) -> None:
            self._parked.release()
            sleep(waiter, deadline)

        monkeypatch.setattr(lines.SubmitterInLine, "sleep", watched)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._parked.acquire(timeout=GUARD), "nobody came to wait for a place"


class Interrupts:
    """Stands in for Ctrl-C at a certain moment: the n-th wait of this thread for a phase does the n-th of *steps*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
        self._thread = threading.current_thread()
        self._steps = list(steps)
        wait_for = Lifecycle.wait_for

        def interrupted(life: Lifecycle, phase: Phase, timeout: float | None = None) -> bool:
            if threading.current_thread() is self._thread and self._steps:
                self._steps.pop(0)()
            return wait_for(life, phase, timeout)

        monkeypatch.setattr(Lifecycle, "wait_for", interrupted)


def ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def parked(monkeypatch: pytest.MonkeyPatch) -> ParkedSubmitters:
    return ParkedSubmitters(monkeypatch)


@pytest.fixture
def hung() -> Iterator[Gate]:
    """A job that no cancelling ends; the test's end does."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def fast_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def reached(pool: ThreadPool, phase: Phase) -> bool:
    return pool._crew.lifecycle.wait_for(phase, GUARD)


def call_hidden_in_the_stack(hung: Gate) -> None:
    hung()


# --- a clean end ----------------------------------------------------------------------------------------------------


def test_the_end_of_the_block_waits_for_the_job_that_runs_and_for_those_that_wait() -> None:
    gate = Gate()
    ended: list[object] = []

    def block() -> None:
        with ThreadPool(1) as pool:
            pools.append(pool)
            pool.submit(gate)
            for n in range(3):
                pool.submit(ended.append, n)
        ended.append("left")

    pools: list[ThreadPool] = []
    leaving = in_thread(block)
    gate.wait_entered()
    assert reached(pools[0], Phase.DRAINING)
    assert not leaving.done()
    gate.open()

    leaving.result(GUARD)
    assert ended == [0, 1, 2, "left"]


def test_a_long_wait_says_which_job_it_is_for_and_where_it_stands(monkeypatch: pytest.MonkeyPatch, hung: Gate) -> None:
    monkeypatch.setattr(ladder, "_BETWEEN_WORDS", 0.01)
    said: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                said.append(record.getMessage())
                hung.open()  # only now may the wait end

    ears, log = Ears(), logging.getLogger("penstock.stop")
    log.addHandler(ears)
    try:
        with ThreadPool(1, name="slow") as pool:
            pool.options(id="the last", name="count beans").submit(call_hidden_in_the_stack, hung)
    finally:
        log.removeHandler(ears)

    assert "still waiting: pool 'slow' is stopping; 1 accepted: 0 done, 1 running" in said[0]
    assert "job the last (count beans) has run for" in said[0]
    assert "call_hidden_in_the_stack" in said[0]


def test_a_long_wait_goes_on_after_it_has_spoken(monkeypatch: pytest.MonkeyPatch, hung: Gate) -> None:
    monkeypatch.setattr(ladder, "_BETWEEN_WORDS", 0.001)
    spoken = threading.Semaphore(0)

    def speak(*_args: object, **_kwargs: object) -> None:
        spoken.release()

    monkeypatch.setattr(ladder.log, "warning", speak)
    pool = ThreadPool(1)
    pool.submit(hung)
    stopping = in_thread(pool.shutdown)
    for _ in range(3):
        assert spoken.acquire(timeout=GUARD)
    assert not stopping.done()
    hung.open()

    assert stopping.result(GUARD).ok


def test_close_and_wait_are_the_two_halves_of_shutdown() -> None:
    gate, pool = Gate(), ThreadPool(1)
    job = pool.submit(gate, "result")
    pool.close()
    with pytest.raises(PoolClosed, match="it was closed"):
        pool.submit(gate)
    assert not job.done()
    gate.open()

    report = pool.wait()

    assert (report.done, report.ok, report.exit_code, report.budget) == (1, True, 0, None)
    assert job.result() == "result"


def test_waiting_for_an_open_pool_is_an_error_and_stops_nothing() -> None:
    with ThreadPool(1) as pool:
        with pytest.raises(RuntimeError, match=r"call close\(\) first"):
            pool.wait()
        with pytest.raises(RuntimeError, match=r"call close\(\) first"):
            pool.wait(1)

        assert pool.submit(divmod, 7, 2).result(GUARD) == (3, 1)


def test_everything_about_a_stop_can_be_repeated() -> None:
    with ThreadPool(1) as pool:
        pool.submit(int)
        first = pool.shutdown()
        pool.close()
        second = [pool.wait(), pool.wait(0), pool.shutdown(timeout=0), pool.shutdown(wait=False, cancel_futures=True)]

    assert all((report.accepted, report.done, report.ok) == (1, 1, True) for report in (first, *second, pool.report))


def test_a_pool_that_never_had_a_job_stops() -> None:
    report = ThreadPool(3).shutdown(timeout=GUARD)

    assert report.ok
    assert (report.accepted, report.seconds < GUARD) == (0, True)


def test_the_threads_have_ended_when_a_stop_returns() -> None:
    pool = ThreadPool(3, "gone").start()
    pool.shutdown()

    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gone_")]


def test_a_time_that_is_none_is_refused_before_anything_is_stopped() -> None:
    with ThreadPool(1) as pool:
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout must be zero or more seconds"):
                pool.shutdown(timeout=wrong)

        pool.submit(int).result(GUARD)


# --- the ladder -----------------------------------------------------------------------------------------------------


def test_a_stop_drains_first() -> None:
    gate, pool = Gate(), ThreadPool(1)
    jobs = [pool.submit(gate, n) for n in range(3)]
    stopping = in_thread(pool.shutdown, timeout=GUARD)
    assert reached(pool, Phase.DRAINING)
    gate.open()

    report = stopping.result(GUARD)

    assert [job.result() for job in jobs] == [0, 1, 2]
    assert (report.ok, report.done, report.cut, report.budget) == (True, 3, 0, GUARD)
    assert report.seconds < GUARD


def test_the_time_that_a_stop_takes_counts_from_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, gate, pools = FakeTime(monkeypatch), Gate(), [ThreadPool(1), ThreadPool(1)]
    pools[0].submit(gate)
    stop = Stop([pool._crew for pool in pools], 60)
    moved.advance(1)
    stopping = in_thread(stop.climb)
    assert reached(pools[0], Phase.DRAINING)
    moved.advance(4)
    gate.open()

    reports = stopping.result(GUARD)

    assert [(report.seconds, report.budget) for report in reports] == [(5, 60), (5, 60)]


def test_a_stop_then_cancels_what_waits_and_asks_what_runs() -> None:
    resting, pool = Rest(), ThreadPool(1)
    runs, waits = pool.submit(resting), pool.submit(int)
    assert resting.entered.wait(GUARD)

    report = pool.shutdown(timeout=BUDGET)

    assert (report.cancelled, report.cut, report.ok, report.exit_code) == (2, 2, False, 1)
    assert report.seconds < BUDGET, "nothing was left to abandon"
    assert (runs.state, waits.state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert (runs.cancelled(), waits.cancelled()) == (False, True)
    with pytest.raises(JobCancelled, match="while it ran: the pool is stopping") as started:
        runs.result()
    with pytest.raises(JobCancelled, match="was cancelled: the pool is stopping") as unstarted:
        waits.result()
    assert (started.value.started, unstarted.value.started) == (True, False)


def test_a_job_that_a_stop_asked_to_end_may_still_return() -> None:
    entered = threading.Event()

    def stubborn() -> str:
        entered.set()
        woken = threading.Event()
        current_context().on_cancel(woken.set)
        assert woken.wait(GUARD)
        return "saved first"

    pool = ThreadPool(1)
    job = pool.submit(stubborn)
    assert entered.wait(GUARD)

    report = pool.shutdown(timeout=BUDGET)

    assert (report.done, report.ok, job.result()) == (1, True, "saved first")


def test_a_stop_returns_in_time_and_leaves_the_hung_thread_behind(hung: Gate) -> None:
    pool = ThreadPool(1, name="pool of one")
    job = pool.options(name="hangs").submit(call_hidden_in_the_stack, hung)
    waits = pool.submit(int)
    hung.wait_entered()

    begun = time.monotonic()
    report = pool.shutdown(timeout=BUDGET)
    took = time.monotonic() - begun

    assert BUDGET <= took < slack(BUDGET + SLACK)
    assert (report.abandoned, report.cancelled, report.cut, report.accepted) == (1, 1, 2, 2)
    assert (report.balanced, report.ok, report.exit_code, report.budget, report.closed) == (
        (True, False, 1, BUDGET, True)
    )
    assert BUDGET <= report.seconds < slack(BUDGET + SLACK)
    (stuck,) = report.stuck
    assert (stuck.id, stuck.name, stuck.worker, stuck.outcome) == (1, "hangs", job.worker, "abandoned")
    assert "call_hidden_in_the_stack" in stuck.stack
    assert stuck.ran >= BUDGET
    assert str(report).startswith("pool 'pool of one' stopped in ")
    assert str(report).endswith(" of 0.3 s; 2 accepted: 0 done, 1 cancelled, 1 abandoned")
    assert waits.cancelled()
    assert job.state is JobState.ABANDONED


def test_the_handle_of_an_abandoned_job_ends_although_its_thread_does_not(hung: Gate) -> None:
    pool = ThreadPool(1)
    job = pool.submit(call_hidden_in_the_stack, hung)
    hung.wait_entered()
    waiting = in_thread(job.result)
    called = threading.Event()
    job.add_done_callback(lambda _: called.set())

    pool.shutdown(timeout=0)

    with pytest.raises(JobAbandoned, match=r"job 1 \(call_hidden_in_the_stack\) was still running after"):
        waiting.result(GUARD)
    assert isinstance(job.exception(), JobAbandoned)
    assert called.wait(GUARD)
    assert job.done()
    assert not job.running()
    assert not job.cancelled()
    assert "call_hidden_in_the_stack" in job.stack(), "it shows where the thread still is"


def test_an_abandoned_thread_that_comes_back_changes_nothing_and_leaves(hung: Gate) -> None:
    pool = ThreadPool(2, "left")
    jobs = [pool.submit(hung, 1), pool.submit(functools.partial(_raise_after, hung))]
    hung.wait_entered(2)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("left_")]
    before = pool.shutdown(timeout=0)
    assert len(before.stuck) == 2
    hung.open()

    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
    after = pool.report
    assert [job.state for job in jobs] == [JobState.ABANDONED] * 2
    assert (after.accepted, after.abandoned, after.done, after.failed) == (2, 2, 0, 0)
    assert (len(before.stuck), len(after.stuck)) == (2, 0)
    assert not after.ok, "what was cut stays cut"


def _raise_after(gate: Gate) -> None:
    gate()
    raise ValueError("too late")


def test_a_stop_without_time_asks_and_leaves_at_once(hung: Gate) -> None:
    pool = ThreadPool(1)
    pool.submit(hung)
    waits = pool.submit(int)
    hung.wait_entered()

    begun = time.monotonic()
    report = pool.shutdown(timeout=0)

    assert time.monotonic() - begun < slack(SLACK)
    assert (report.abandoned, report.cancelled) == (1, 1)
    assert waits.cancelled()


def test_wait_with_a_time_limit_is_the_same_ladder(hung: Gate) -> None:
    pool = ThreadPool(1)
    pool.submit(hung)
    hung.wait_entered()
    pool.close()

    begun = time.monotonic()
    report = pool.wait(BUDGET)

    assert BUDGET <= time.monotonic() - begun < slack(BUDGET + SLACK)
    assert (report.abandoned, report.budget) == (1, BUDGET)


@pytest.mark.parametrize("limit", [math.inf, 1e300])
def test_a_stop_may_have_all_the_time_there_is(limit: float) -> None:
    gate, pool = Gate(), ThreadPool(1, grace=limit)
    pool.submit(gate)
    gate.wait_entered()

    stopping = in_thread(pool.shutdown, timeout=limit)
    gate.open()

    assert stopping.result(GUARD).ok
    assert pool.wait(limit).done == 1


def test_an_exception_that_leaves_the_block_stops_the_pool_within_its_grace(hung: Gate) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyError) as leaving:
        with ThreadPool(1, grace=BUDGET, name="cut") as pool:
            pool.submit(hung)
            waits = pool.submit(int)
            hung.wait_entered()
            raise KeyError("lost")

    assert BUDGET <= time.monotonic() - begun < slack(BUDGET + SLACK)
    (note,) = leaving.value.__notes__
    assert note.startswith("pool 'cut' stopped in ")
    assert note.endswith("2 accepted: 0 done, 1 cancelled, 1 abandoned")
    assert waits.cancelled()
    with pytest.raises(PoolClosed, match="KeyError left its block"):
        pool.submit(int)


def test_an_exception_that_leaves_the_block_lets_accepted_jobs_end_if_there_is_time() -> None:
    gate = Gate()

    def block() -> None:
        with ThreadPool(1, grace=GUARD) as pool:
            pools.append(pool)
            jobs.extend(pool.submit(gate, n) for n in range(3))
            raise KeyError("lost")

    pools: list[ThreadPool] = []
    jobs: list[Job[int]] = []
    leaving = in_thread(block)
    gate.wait_entered()
    assert reached(pools[0], Phase.DRAINING)
    gate.open()

    with pytest.raises(KeyError) as error:
        leaving.result(GUARD)
    assert [job.result(GUARD) for job in jobs] == [0, 1, 2]
    assert not hasattr(error.value, "__notes__"), "nothing was cut"


def test_a_block_whose_jobs_were_cut_raises_incomplete_with_the_report(hung: Gate) -> None:
    with pytest.raises(Incomplete, match="not every accepted job ran to its end: pool 'half' stopped") as error:
        with ThreadPool(1, name="half") as pool:
            pool.submit(hung)
            pool.submit(int)
            hung.wait_entered()
            pool.shutdown(timeout=0)

    assert (error.value.report.abandoned, error.value.report.cancelled) == (1, 1)


def test_a_block_whose_running_job_ended_because_a_stop_asked_it_to_is_incomplete() -> None:
    rest = Rest()
    with pytest.raises(Incomplete) as error:
        with ThreadPool(1) as pool:
            pool.submit(rest)
            assert rest.entered.wait(GUARD)
            pool.shutdown(timeout=BUDGET)

    report = error.value.report
    assert (report.cancelled, report.cut, report.ok, report.exit_code) == (1, 1, False, 1)


def test_a_running_job_that_somebody_cancelled_by_hand_leaves_the_block_complete() -> None:
    rest = Rest()
    with ThreadPool(1) as pool:
        job = pool.submit(rest)
        assert rest.entered.wait(GUARD)
        job.cancel()

    assert (pool.report.cancelled, pool.report.cut, pool.report.ok) == (1, 0, True)


def test_jobs_that_somebody_cancelled_by_hand_leave_the_block_complete() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        pool.submit(gate)
        waits = pool.submit(int)
        assert waits.cancel()
        gate.open()

    assert (pool.report.cancelled, pool.report.cut, pool.report.ok) == (1, 0, True)


def test_the_log_gets_one_line_when_a_pool_has_stopped(hung: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "penstock.stop")
    ThreadPool(1, name="fine").shutdown()
    pool = ThreadPool(1, name="bad")
    pool.submit(call_hidden_in_the_stack, hung)
    hung.wait_entered()
    for _ in range(3):
        pool.shutdown(timeout=0)

    fine, bad = caplog.records
    assert (fine.levelname, fine.name) == ("INFO", "penstock.stop")
    assert fine.getMessage().startswith("pool 'fine' stopped in ")
    assert bad.levelname == "WARNING"
    assert "abandoned: job 1 (call_hidden_in_the_stack) on bad_0, for " in bad.getMessage()
    assert "in call_hidden_in_the_stack" in bad.getMessage()


# --- user code must not hold up a stop ------------------------------------------------------------------------------


def test_callbacks_that_hang_do_not_hold_up_a_stop(hung: Gate) -> None:
    blocked = Gate()
    pool = ThreadPool(1)
    runs, waits = pool.submit(hung), pool.submit(int)
    hung.wait_entered()
    runs.add_done_callback(blocked)
    waits.add_done_callback(blocked)
    runs.context.on_cancel(blocked)

    begun = time.monotonic()
    report = pool.shutdown(timeout=BUDGET)
    took = time.monotonic() - begun
    blocked.wait_entered(3)
    blocked.open()

    assert took < slack(BUDGET + SLACK)
    assert report.balanced


def test_a_callback_that_hangs_in_another_pools_job_does_not_hold_up_a_stop(hung: Gate) -> None:
    """The other pool's job waits, and its context is a child of the one that the stop trips."""
    blocked, children = Gate(), []
    with ThreadPool(1) as other:
        other.submit(hung)
        hung.wait_entered()
        rest = Rest()

        def parent() -> None:
            child = other.submit(int)
            child.add_done_callback(blocked)
            children.append(child)
            rest()

        pool = ThreadPool(1)
        pool.submit(parent)
        assert rest.entered.wait(GUARD)
        stopping = in_thread(pool.shutdown, timeout=BUDGET)
        blocked.wait_entered()
        try:
            report = stopping.result(slack(BUDGET + SLACK))  # the callback is still in there
        finally:
            blocked.open()
            hung.open()

        assert report.balanced
        assert children[0].cancelled()


def test_a_callback_that_hangs_on_a_worker_does_not_hold_up_a_stop() -> None:
    blocked, gate, pool = Gate(), Gate(), ThreadPool(1)
    job = pool.submit(gate)
    job.add_done_callback(blocked)
    gate.open()
    blocked.wait_entered()

    begun = time.monotonic()
    report = pool.shutdown(timeout=BUDGET)
    took = time.monotonic() - begun
    blocked.open()

    assert took < slack(BUDGET + SLACK)
    assert report.done == 1
    pool.shutdown()


def test_a_job_that_swallows_everything_does_not_hold_up_a_stop(hung: Gate) -> None:
    entered = threading.Event()

    def deaf() -> None:
        entered.set()
        try:
            current_context().sleep(GUARD)
        except BaseException:
            hung()

    pool = ThreadPool(1)
    pool.submit(deaf)
    assert entered.wait(GUARD)

    begun = time.monotonic()
    report = pool.shutdown(timeout=BUDGET)

    assert time.monotonic() - begun < slack(BUDGET + SLACK)
    assert report.abandoned == 1


# --- the other forms of shutdown ------------------------------------------------------------------------------------


def test_shutdown_without_waiting_closes_and_leaves_the_jobs_alone() -> None:
    gate, pool = Gate(), ThreadPool(1)
    jobs = [pool.submit(gate, n) for n in range(3)]
    gate.wait_entered()

    report = pool.shutdown(wait=False)

    assert (report.closing, report.closed, report.running, report.waiting) == (True, False, 1, 2)
    assert str(report).endswith("is stopping; 3 accepted: 0 done, 2 waiting, 1 running")
    with pytest.raises(PoolClosed):
        pool.submit(int)
    gate.open()
    assert [job.result(GUARD) for job in jobs] == [0, 1, 2]
    assert reached(pool, Phase.CLOSED)


def test_shutdown_without_waiting_and_with_a_time_limit_goes_on_in_the_background(hung: Gate) -> None:
    pool = ThreadPool(1)
    job = pool.submit(hung)
    hung.wait_entered()

    report = pool.shutdown(wait=False, timeout=BUDGET)

    assert (report.running, report.closed) == (1, False)
    with pytest.raises(JobAbandoned):
        job.result(GUARD)
    assert pool.shutdown(timeout=GUARD).abandoned == 1


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_it_goes_on_in_the_background_where_no_thread_can_be_started(
    hung: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock.stop")
    rest, pool = Rest(), ThreadPool(2, name="full house")
    polite, job = pool.submit(rest), pool.submit(hung)
    assert rest.entered.wait(GUARD)
    hung.wait_entered()
    timers._timers.stand_by()
    timers._callbacks.stand_by()
    refuse_threads(monkeypatch)

    report = pool.shutdown(wait=False, timeout=BUDGET)

    assert (report.running, report.closed) == (2, False)
    with pytest.raises(JobCancelled):
        polite.result(GUARD)
    with pytest.raises(JobAbandoned):
        job.result(GUARD)
    until(lambda: "pool 'full house' stopped" in caplog.text)
    assert "1 cancelled, 1 abandoned" in caplog.text


def test_it_asks_jobs_to_stop_now_where_nobody_can_keep_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, pool = Rest(), ThreadPool(1)
    job = pool.submit(rest)
    assert rest.entered.wait(GUARD)
    monkeypatch.setattr(timers, "_timers", timers.Timers())
    refuse_threads(monkeypatch)

    pool.shutdown(wait=False, timeout=2 * GUARD)

    with pytest.raises(JobCancelled):
        job.result(GUARD)


def test_cancel_futures_cancels_what_waits_and_lets_running_jobs_end() -> None:
    gate, pool = Gate(), ThreadPool(1)
    runs, *wait = (pool.submit(gate, n) for n in range(3))
    gate.wait_entered()
    stopping = in_thread(pool.shutdown, cancel_futures=True)
    for job in wait:
        with pytest.raises(JobCancelled, match="shut down with cancel_futures"):
            job.result(GUARD)
    assert not runs.context.cancelled
    gate.open()

    report = stopping.result(GUARD)

    assert (runs.result(), report.done, report.cancelled) == (0, 1, 2)
    assert (report.cut, report.ok) == (0, True), "the user asked for it"


def test_cancel_futures_reaches_the_inputs_of_a_map_that_found_no_place_yet() -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1)
    results = pool.map(gate, range(5))
    gate.wait_entered()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()

    assert next(results) == 0
    with pytest.raises(JobCancelled):
        next(results)
    assert pool.wait().cancelled == 4


def test_a_stop_reaches_the_inputs_of_a_map_that_found_no_place_yet(hung: Gate) -> None:
    pool = ThreadPool(1, backlog=1)
    pool.map(hung, range(5))
    hung.wait_entered()

    report = pool.shutdown(timeout=0)

    assert (report.abandoned, report.cancelled, report.cut) == (1, 4, 5)


def test_the_inputs_of_a_map_that_is_still_being_read_get_their_outcome_from_a_stop(hung: Gate) -> None:
    pool, reading, read_on = ThreadPool(1, backlog=1), threading.Event(), threading.Event()

    def inputs() -> Iterator[int]:
        yield from range(5)
        reading.set()
        assert read_on.wait(GUARD)
        yield 5

    mapping = in_thread(pool.map, hung, inputs())
    assert reading.wait(GUARD)
    hung.wait_entered()
    pool.shutdown(timeout=0)
    read_on.set()
    with pytest.raises(PoolClosed):
        mapping.result(GUARD)

    report = pool.shutdown(timeout=0)
    assert (report.accepted, report.abandoned, report.cancelled, report.waiting) == (5, 1, 4, 0)


# --- several threads, and jobs that stop their own pool -------------------------------------------------------------


def test_of_several_stops_at_once_the_shortest_wins_and_all_get_its_report(hung: Gate) -> None:
    pool = ThreadPool(1)
    pool.submit(hung)
    pool.submit(int)
    hung.wait_entered()
    begun = time.monotonic()
    stops = [
        in_thread(pool.shutdown),
        in_thread(pool.shutdown, timeout=GUARD),
        in_thread(pool.shutdown, timeout=BUDGET),
        in_thread(pool.shutdown, timeout=2 * GUARD),
    ]

    reports = [stop.result(GUARD) for stop in stops]

    assert time.monotonic() - begun < slack(BUDGET + SLACK)
    for report in reports:
        assert (report.abandoned, report.cancelled, report.cut, report.budget) == (1, 1, 2, BUDGET)


def test_a_stop_that_comes_later_with_less_time_still_wins(hung: Gate) -> None:
    pool = ThreadPool(1)
    pool.submit(hung)
    hung.wait_entered()
    patient = in_thread(pool.shutdown, timeout=2 * GUARD)
    assert reached(pool, Phase.DRAINING)

    begun = time.monotonic()
    pool.shutdown(timeout=0)

    assert patient.result(GUARD).abandoned == 1
    assert time.monotonic() - begun < slack(SLACK)


def test_a_job_that_one_stop_leaves_behind_while_another_is_about_to_ask_it_to_end_is_asked_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rest, late, pool = Rest(), Gate(), ThreadPool(1)
    job = pool.submit(rest)
    assert rest.entered.wait(GUARD)
    cancel_everything = pool._crew.cancel_everything

    def cancel_late() -> None:
        late()
        cancel_everything()

    monkeypatch.setattr(pool._crew, "cancel_everything", cancel_late)
    asking = in_thread(Stop([pool._crew], GUARD).hurry)
    late.wait_entered()
    pool.shutdown(timeout=0)
    late.open()
    asking.result(GUARD)

    assert job.state is JobState.ABANDONED
    assert job.context.cancelled, "its thread would sleep on"


@pytest.mark.usefixtures("fast_switches")
def test_many_threads_that_stop_one_pool_agree() -> None:
    for _ in range(20):
        pool = ThreadPool(3, backlog=50)
        for _ in range(30):
            pool.submit(int)
        begin = threading.Barrier(6)

        def stop(timeout: float | None, pool: ThreadPool = pool, begin: threading.Barrier = begin) -> Report:
            begin.wait(GUARD)
            return pool.shutdown(timeout=timeout)

        reports = [stopping.result(GUARD) for stopping in [in_thread(stop, t) for t in (None, 0, 0, 0.01, 0.1, None)]]

        assert len({(report.accepted, report.done, report.cancelled, report.cut) for report in reports}) == 1
        assert all(report.balanced and report.accepted == 30 for report in reports)


def test_a_job_that_waits_for_its_own_pool_gets_an_error_in_place_of_a_deadlock() -> None:
    def stop_from_inside(stop: Callable[[], object]) -> None:
        with pytest.raises(RuntimeError, match=r"a job can't wait for its own pool to stop.*shutdown\(wait=False\)"):
            stop()

    with ThreadPool(1) as pool:
        for stop in (pool.shutdown, functools.partial(pool.shutdown, timeout=1), functools.partial(_leave, pool)):
            pool.submit(stop_from_inside, stop).result(GUARD)
        assert pool.submit(int).result(GUARD) == 0, "it is still open"

        def close_and_wait() -> None:
            pool.close()
            stop_from_inside(pool.wait)
            stop_from_inside(functools.partial(pool.wait, 1))

        pool.submit(close_and_wait).result(GUARD)


def _leave(pool: ThreadPool) -> None:
    with pool:
        pass


def test_a_job_run_by_its_submitter_gets_the_same_error() -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1, when_full="caller")
    pool.submit(gate)
    gate.wait_entered()
    pool.submit(int)
    submitting = in_thread(pool.submit, pool.shutdown)
    try:
        job = submitting.result(1)  # seconds until we take it for a deadlock
    finally:
        gate.open()
        pool.shutdown(timeout=0)

    assert isinstance(job.exception(GUARD), RuntimeError)


def test_a_job_may_close_its_own_pool() -> None:
    pool = ThreadPool(1)
    for stop in (pool.close, functools.partial(pool.shutdown, wait=False), functools.partial(pool.shutdown, False)):
        if not pool.report.closing:
            pool.submit(stop).result(GUARD)

    assert reached(pool, Phase.CLOSED), "the pool ends by itself"
    assert pool.wait().ok


def test_a_job_may_have_its_own_pool_stopped_in_the_background(hung: Gate) -> None:
    pool = ThreadPool(1)
    job = pool.submit(lambda: (pool.shutdown(wait=False, timeout=BUDGET), hung()))

    with pytest.raises(JobAbandoned):
        job.result(GUARD)


def test_a_job_may_wait_for_another_pool_to_stop() -> None:
    other = ThreadPool(1)
    with ThreadPool(1) as pool:
        assert pool.submit(other.shutdown).result(GUARD).ok


def test_a_job_may_not_submit_to_its_own_pool_once_that_is_closed() -> None:
    pool = ThreadPool(1)

    def close_and_submit() -> None:
        pool.close()
        pool.submit(int)

    with pytest.raises(PoolClosed):
        pool.submit(close_and_submit).result(GUARD)
    assert pool.wait().accepted == 1


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_clean_end_still_drains_within_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, pool = Gate(), ThreadPool(1, grace=GUARD)
    jobs = [pool.submit(gate, n) for n in range(2)]
    gate.wait_entered()
    Interrupts(monkeypatch, ctrl_c, gate.open)

    with pytest.raises(KeyboardInterrupt):
        with pool:
            pass

    assert [job.result(0) for job in jobs] == [0, 1]
    assert pool.report.ok


def test_the_second_ctrl_c_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, pool = Rest(), ThreadPool(1, grace=2 * GUARD)
    runs, waits = pool.submit(rest), pool.submit(int)
    assert rest.entered.wait(GUARD)
    Interrupts(monkeypatch, ctrl_c, ctrl_c)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with pool:
            pass

    assert time.monotonic() - begun < GUARD
    assert (runs.state, waits.state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert pool.report.cut == 2


def test_the_third_ctrl_c_leaves_hung_threads_behind(monkeypatch: pytest.MonkeyPatch, hung: Gate) -> None:
    pool = ThreadPool(1, grace=2 * GUARD)
    runs = pool.submit(hung)
    hung.wait_entered()
    Interrupts(monkeypatch, ctrl_c, ctrl_c, ctrl_c)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with pool:
            pass

    assert time.monotonic() - begun < slack(2 * SLACK)
    assert runs.state is JobState.ABANDONED


def test_ctrl_c_in_a_stop_with_a_time_limit_goes_one_rung_further(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, pool = Rest(), ThreadPool(1)
    runs = pool.submit(rest)
    assert rest.entered.wait(GUARD)
    Interrupts(monkeypatch, ctrl_c)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown(timeout=2 * GUARD)

    assert time.monotonic() - begun < GUARD
    assert runs.state is JobState.CANCELLED
    assert pool.report.closed


def test_ctrl_c_in_the_stop_of_several_pools_moves_all_of_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, pools = [Rest(), Rest()], [ThreadPool(1), ThreadPool(1)]
    jobs = [pool.submit(rest) for pool, rest in zip(pools, rests, strict=True)]
    assert all(rest.entered.wait(GUARD) for rest in rests)
    wait_for, here, waits = Lifecycle.wait_for, threading.current_thread(), []

    def interrupted(life: Lifecycle, phase: Phase, timeout: float | None = None) -> bool:
        if threading.current_thread() is here:
            waits.append(life)
            if len(waits) == 1:
                raise KeyboardInterrupt
        return wait_for(life, phase, timeout)

    monkeypatch.setattr(Lifecycle, "wait_for", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Stop([pool._crew for pool in pools], 3 * GUARD).climb()

    assert time.monotonic() - begun < GUARD, "the second pool was not left to drain first"
    assert [job.state for job in jobs] == [JobState.CANCELLED] * 2


def test_a_real_ctrl_c_moves_the_end_of_a_block_on_rung_by_rung(tmp_path: Path) -> None:
    code = """
        from penstock.lifecycle import Lifecycle

        wait_for = Lifecycle.wait_for

        def told(life, phase, timeout=None):
            if life.phase is not phase:
                say("waiting")
            return wait_for(life, phase, timeout)

        Lifecycle.wait_for = told
        with ThreadPool(1, grace=60) as pool:
            pool.submit(rest)
            pool.submit(say, "never")
            until_told()
        """
    with running(tmp_path, code) as script:
        script.expect("resting")
        script.go()
        script.expect("waiting")  # as long as it takes
        script.signal(signal.SIGINT)
        script.expect("waiting")  # within the grace
        script.signal(signal.SIGINT)
        script.expect_in_any_order("waiting", "woken by Cancelled")  # for what was cancelled
        code_ = script.end()

        assert code_ == -signal.SIGINT, "as Python ends by a Ctrl-C"
        assert script.rest() == []
        assert "2 accepted: 0 done, 2 cancelled" in script.errors


# --- jobs between two attempts, and jobs that overran ---------------------------------------------------------------


class Failing:
    """Fails at its first call and returns at later ones."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed = threading.Event()

    def __call__(self) -> str:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("not yet")
        return "in the end"


def wait_until_retrying(pool: ThreadPool, submit: Callable[[], Job[Any]]) -> Job[Any]:
    """Submit, and return once the job waits for its next attempt."""
    put, there = pool._crew.backlog.put_retry, threading.Event()

    def watched(job: Job[Any], delay: float) -> None:
        put(job, delay)
        there.set()

    pool._crew.backlog.put_retry = watched  # type: ignore[method-assign]
    job = submit()
    assert there.wait(GUARD)
    return job


def test_a_clean_end_waits_for_jobs_between_two_attempts() -> None:
    failing = Failing()
    with ThreadPool(1) as pool:
        job = wait_until_retrying(pool, lambda: pool.options(retry=Retry(2, wait=0.05, jitter=0)).submit(failing))

    assert (job.result(), job.attempt) == ("in the end", 2)


def test_a_stop_fails_a_job_between_two_attempts_with_its_last_error() -> None:
    failing, pool = Failing(), ThreadPool(1)
    job = wait_until_retrying(pool, lambda: pool.options(retry=Retry(2, wait=60)).submit(failing))
    assert (job.state, pool.report.retrying) == (JobState.SCHEDULED, 1)

    report = pool.shutdown(timeout=BUDGET)

    assert (job.state, failing.calls, job.attempt) == (JobState.FAILED, 1, 1)
    assert (report.failed, report.cut, report.retrying) == (1, 1, 0)
    with pytest.raises(ConnectionError, match="not yet") as error:
        job.result()
    assert "not retried: the pool is stopping" in error.value.__notes__


def test_a_job_that_fails_during_the_cancelling_of_a_stop_is_not_tried_again() -> None:
    entered = threading.Event()

    def fail_when_asked_to_stop() -> None:
        entered.set()
        woken = threading.Event()
        current_context().on_cancel(woken.set)
        assert woken.wait(GUARD)
        raise ConnectionError("while stopping")

    pool = ThreadPool(1, retry=Retry(5, wait=0))
    job = pool.submit(fail_when_asked_to_stop)
    assert entered.wait(GUARD)

    report = pool.shutdown(timeout=BUDGET)

    assert (job.state, job.attempt, report.failed, report.retrying) == (JobState.FAILED, 1, 1, 0)
    assert isinstance(job.exception(), ConnectionError)


def test_cancel_futures_cancels_a_job_between_two_attempts() -> None:
    pool = ThreadPool(1)
    job = wait_until_retrying(pool, lambda: pool.options(retry=Retry(2, wait=60)).submit(Failing()))

    report = pool.shutdown(cancel_futures=True)

    assert (job.state, report.cancelled, report.cut) == (JobState.CANCELLED, 1, 0)


def test_a_job_that_overran_does_not_hold_up_a_clean_end_and_is_shown(hung: Gate) -> None:
    with ThreadPool(1, stuck_after=0.05) as pool:
        job = pool.options(timeout=0.01).submit(call_hidden_in_the_stack, hung)
        with pytest.raises(DeadlineExceeded):
            job.result(GUARD)
        hung.wait_entered()

    report = pool.report
    assert (report.failed, report.cut, report.ok, report.exit_code) == (1, 0, False, 1)
    (stuck,) = report.stuck
    assert stuck.outcome == "overran"
    assert "call_hidden_in_the_stack" in stuck.stack
    assert str(report).endswith("1 failed, 1 overran, still running")
    hung.open()


def test_a_job_that_overran_and_waits_for_its_thread_to_try_again_is_failed_by_a_stop(hung: Gate) -> None:
    pool = ThreadPool(1, stuck_after=GUARD)
    job = pool.options(timeout=0.01, retry=Retry(2, on=(DeadlineExceeded,), wait=0)).submit(hung)
    hung.wait_entered()
    _until_overrun_waits(pool)

    report = pool.shutdown(timeout=BUDGET)
    hung.open()

    assert (job.state, job.attempt, report.failed, report.cut, report.retrying) == (JobState.FAILED, 1, 1, 1, 0)
    assert isinstance(job.exception(), DeadlineExceeded)


def _until_overrun_waits(pool: ThreadPool) -> None:
    """Nobody is told of this moment, so ask for it until the guard."""
    patience = time.monotonic() + GUARD
    while not pool.report.retrying:
        assert time.monotonic() < patience
        threading.Event().wait(0.001)


# --- who submits while the pool closes ------------------------------------------------------------------------------


def test_a_submitter_that_waits_for_a_place_is_refused_when_the_pool_closes(parked: ParkedSubmitters) -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1)
    accepted = [pool.submit(gate)]
    gate.wait_entered()
    accepted.append(pool.submit(gate))
    submitters = [in_thread(pool.submit, int) for _ in range(3)]
    parked.wait_for(3)

    pool.close()

    for submitting in submitters:
        with pytest.raises(PoolClosed, match="takes no more jobs, it was closed"):
            submitting.result(GUARD)
    gate.open()
    report = pool.wait()
    assert (report.accepted, report.done) == (2, 2)


def test_a_job_that_waits_for_a_place_in_its_own_pool_is_refused_when_the_pool_closes(
    parked: ParkedSubmitters,
) -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1)
    begin = threading.Event()

    def fill() -> None:
        assert begin.wait(GUARD)
        pool.submit(gate)  # run by the worker to which this one lends its slot
        pool.submit(gate)
        pool.submit(gate)

    job = pool.submit(fill)
    begin.set()
    parked.wait_for()
    gate.wait_entered()
    parked.wait_for()
    pool.close()

    with pytest.raises(PoolClosed):
        job.result(GUARD)
    gate.open()
    assert pool.wait().balanced


def test_a_submit_that_has_its_place_when_the_pool_closes_is_refused_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ThreadPool(1)
    monotonic, here = clock.monotonic, threading.current_thread()
    numbers: list[int] = []

    def close_in_between() -> float:  # asked for the time of the submit, after the job's number was taken
        if threading.current_thread() is here and not numbers:
            numbers.append(pool.report.accepted)
            pool.close()
        return monotonic()

    monkeypatch.setattr(clock, "monotonic", close_in_between)

    with pytest.raises(PoolClosed):
        pool.submit(int)
    assert numbers == [1]
    assert pool.wait().accepted == 0


def test_the_report_of_a_closed_pool_does_not_count_a_job_that_is_about_to_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1)
    pool.submit(gate)
    gate.wait_entered()
    pool.submit(gate)
    sleep, monotonic, here = lines.SubmitterInLine.sleep, clock.monotonic, threading.current_thread()
    reports: list[Report] = []

    def get_a_place_and_see_the_pool_close(waiter: lines.SubmitterInLine, deadline: float | None) -> None:
        gate.open()
        sleep(waiter, deadline)
        reports.append(in_thread(pool.shutdown).result(GUARD))

    def report_in_between() -> float:  # asked for the time of the submit, after the job's number was taken
        if threading.current_thread() is here and len(reports) == 1:
            reports.append(pool.report)
        return monotonic()

    monkeypatch.setattr(lines.SubmitterInLine, "sleep", get_a_place_and_see_the_pool_close)
    monkeypatch.setattr(clock, "monotonic", report_in_between)
    with pytest.raises(PoolClosed):
        pool.submit(int)

    assert [(report.closed, report.accepted, report.done, report.ok) for report in reports] == [(True, 2, 2, True)] * 2


@pytest.mark.usefixtures("fast_switches")
@pytest.mark.parametrize("stop", ["close", "stop at once"])
def test_a_submit_that_races_with_the_end_is_either_refused_or_accounted_for(stop: str) -> None:
    for around in range(15):
        pool, ran, enough = ThreadPool(2, backlog=8), itertools.count(), threading.Semaphore(0)

        def submit_until_refused(
            pool: ThreadPool = pool, ran: Iterator[int] = ran, enough: threading.Semaphore = enough
        ) -> list[Job[int]]:
            jobs = []
            for _ in range(100_000):
                try:
                    jobs.append(pool.submit(next, ran))
                except PoolClosed:
                    return jobs
                enough.release()
            raise AssertionError("the pool was never closed")

        submitters = [in_thread(submit_until_refused) for _ in range(4)]
        for _ in range(10 * around):
            assert enough.acquire(timeout=GUARD)
        if stop == "close":
            pool.close()
            report = pool.wait()
        else:
            report = pool.shutdown(timeout=0)
        jobs = [job for submitting in submitters for job in submitting.result(GUARD)]

        assert all(job.done() for job in jobs)
        assert report.balanced
        assert report.accepted == len(jobs) == pool.report.accepted
        states = [job.state for job in jobs]
        assert (report.done, report.cancelled) == (states.count(JobState.DONE), states.count(JobState.CANCELLED))
        # A job may be abandoned as its worker takes it, and so never have run.
        assert report.done <= next(ran) <= report.done + report.abandoned
        if stop == "close":
            assert report.done == len(jobs)


def test_a_backlog_that_stays_full_while_the_pool_drains_refuses_as_closed_and_not_as_full() -> None:
    gate, pool = Gate(), ThreadPool(1, backlog=1, when_full="reject")
    pool.submit(gate)
    gate.wait_entered()
    pool.submit(gate)
    with pytest.raises(BacklogFull):
        pool.submit(int)
    pool.close()

    with pytest.raises(PoolClosed):
        pool.submit(int)
    gate.open()
    pool.wait()


# --- a worker that takes a job in the moment of its end -------------------------------------------------------------


class AsAWorkerTakes:
    """Does *act* in the moment in which the worker of a pool of one has `job` and has not begun with it.

    *moment*: "in hand" (out of the backlog, not yet among the running ones) or "among the running".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: str, act: Callable[[], object]) -> None:
        self.pool, self.acted = ThreadPool(1), False
        gate, monotonic = Gate(), clock.monotonic
        jobs: list[Job[Any]] = []

        def act_once() -> None:
            if not self.acted:
                self.acted = True
                in_thread(act).result(GUARD)

        class Running(dict[Job[Any], Runner]):
            def __setitem__(self, job: Job[Any], worker: Runner) -> None:
                super().__setitem__(job, worker)
                if moment == "among the running" and job in jobs:
                    act_once()

        def asked_for_the_time() -> float:
            if moment == "in hand" and threading.current_thread() is self._thread and first.done():
                act_once()
            return monotonic()

        self.pool._crew.attempts.running = running = Running()
        first = self.pool.submit(gate)
        gate.wait_entered()
        self._thread = running[first].thread
        self.job = self.pool.submit(int)
        jobs.append(self.job)
        monkeypatch.setattr(clock, "monotonic", asked_for_the_time)
        gate.open()

    def finish(self) -> Report:
        """The pool's last report, once its worker has ended."""
        self.pool.close()
        assert self._thread is not None
        self._thread.join(GUARD)
        assert self.acted
        return self.pool.report


MOMENTS = pytest.mark.parametrize("moment", ["in hand", "among the running"])


@MOMENTS
def test_a_job_that_a_stop_ends_as_a_worker_takes_it_stays_ended(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    taking = AsAWorkerTakes(monkeypatch, moment, lambda: taking.pool.shutdown(timeout=0))

    report = taking.finish()

    assert taking.job.state in (JobState.ABANDONED, JobState.CANCELLED)
    assert (report.accepted, report.done, report.abandoned + report.cancelled, report.stuck) == (2, 1, 1, ())
    assert (report.closed, report.cut) == (True, 1)


@MOMENTS
def test_a_job_whose_deadline_comes_as_a_worker_takes_it_stays_failed(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with Context() as context:
        cause = Cause("its deadline passed", by_deadline=True, source=context)
        taking = AsAWorkerTakes(monkeypatch, moment, lambda: context.trip(cause))

    report = taking.finish()

    assert taking.job.state is JobState.FAILED
    assert isinstance(taking.job.exception(), DeadlineExceeded)
    assert (report.accepted, report.done, report.failed, report.stuck) == (2, 1, 1, ())


@MOMENTS
def test_a_job_that_is_cancelled_as_a_worker_takes_it_does_not_run(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with Context() as context:
        taking = AsAWorkerTakes(monkeypatch, moment, context.cancel)

    report = taking.finish()

    assert (taking.job.state, taking.job.attempt) == (JobState.CANCELLED, 0)
    assert (report.accepted, report.done, report.cancelled) == (2, 1, 1)


# --- what observers and handles are told ----------------------------------------------------------------------------


def test_observers_are_told_of_the_stop_and_of_its_end_once_and_in_this_order(hung: Gate) -> None:
    told: list[events.Event] = []
    pool = ThreadPool(1, name="seen")
    pool.observe(told.append)
    pool.submit(hung)
    hung.wait_entered()
    for _ in range(2):
        pool.shutdown(timeout=0)

    of_the_pool = [event for event in told if isinstance(event, events.PoolStopping | events.PoolStopped)]
    assert of_the_pool == [events.PoolStopping("seen"), events.PoolStopped("seen")]
    (ended,) = [event for event in told if isinstance(event, events.JobEnded)]
    assert ended.state == "abandoned"
    assert told.index(of_the_pool[0]) < told.index(ended) < told.index(of_the_pool[1])


def test_hurrying_a_stop_cancels_now_and_keeps_its_budget_for_the_jobs_to_end() -> None:
    entered, cleaned_up = threading.Event(), Gate()

    def clean_up_slowly() -> None:
        entered.set()
        try:
            current_context().sleep(GUARD)
        finally:
            cleaned_up()

    pool = ThreadPool(1)
    job = pool.submit(clean_up_slowly)
    assert entered.wait(GUARD)
    stop = Stop([pool._crew], 3 * GUARD)
    stop.hurry()
    climbing = in_thread(stop.climb)
    cleaned_up.wait_entered()
    assert not job.done()
    cleaned_up.open()

    (report,) = climbing.result(GUARD)
    assert (report.cancelled, report.abandoned) == (1, 0)


# --- looking at threads ---------------------------------------------------------------------------------------------


def test_looking_where_a_job_stands_does_not_freeze_a_process_whose_collector_calls_python(tmp_path: Path) -> None:
    """Before 3.11.9, `sys._current_frames` holds a lock of the interpreter while the collector may run in it.

    What the collector calls may hand the interpreter on to a thread that needs that lock, to begin or to end.
    """
    code = """
        import gc

        def hand_on(phase, info):
            time.sleep(0.001)

        def come_and_go():
            while not over.is_set():
                thread = threading.Thread(target=int)
                thread.start()
                thread.join()

        over = threading.Event()
        for _ in range(2):
            threading.Thread(target=come_and_go, daemon=True).start()
        with ThreadPool(1) as pool:
            job = pool.submit(over.wait)
            gc.callbacks.append(hand_on)
            gc.set_threshold(1)
            for _ in range(20):
                job.stack()
            gc.callbacks.clear()
            over.set()
        say("not frozen")
        """
    with running(tmp_path, code) as script:
        script.expect("not frozen")

        assert script.end() == 0
