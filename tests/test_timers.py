"""Calls come at their time, on one thread; users' callbacks run on others, where they may block."""

from __future__ import annotations

import _thread
import contextlib
import functools
import heapq
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import clock, timers
from tests.gates import GUARD, Gate, in_thread
from tests.watched import WatchedCondition

FORKED = """
import os, threading
from penstock import clock, timers

def comes():
    "Whether both kinds of calls come in this process."
    timed, handed = threading.Event(), threading.Event()
    timers.call_at(clock.monotonic() + 0.01, timed.set)
    timers._callbacks.hand_over(handed.set)
    return timed.wait(10) and handed.wait(10)

assert comes()
timers.call_at(clock.monotonic() + 3600, lambda: None)
child = os.fork()
if child == 0:
    os._exit(0 if comes() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def nothing() -> None:
    pass


def fail() -> None:
    raise ZeroDivisionError


def without_thread() -> timers.Timers:
    """Timers that keep their calls and make none."""
    room = timers.Timers()
    room._thread = threading.current_thread()
    return room


# Timed calls


@contextlib.contextmanager
def busy_timers() -> Iterator[None]:
    """Nothing becomes due before the end of the block."""
    gate = Gate()
    timers.call_at(clock.monotonic(), gate)
    gate.wait_entered()
    try:
        yield
    finally:
        gate.open()


def test_calls_come_in_the_order_of_their_times() -> None:
    came: list[int] = []
    last = threading.Event()
    with busy_timers():
        now = clock.monotonic()
        for number in (3, 1, 4, 0, 2):
            timers.call_at(now + number / 1000, lambda number=number: came.append(number))  # type: ignore[misc]

        timers.call_at(now + 0.01, last.set)

    assert last.wait(GUARD)
    assert came == [0, 1, 2, 3, 4]


def test_a_call_never_comes_before_its_time() -> None:
    seen = queue.SimpleQueue[float]()
    when = clock.monotonic() + 0.02

    timers.call_at(when, lambda: seen.put(clock.monotonic()))

    assert seen.get(timeout=GUARD) >= when


def test_a_time_that_has_passed_is_now() -> None:
    came = threading.Event()

    timers.call_at(clock.monotonic() - 5, came.set)

    assert came.wait(GUARD)


def test_an_earlier_call_is_not_kept_waiting_by_a_later_one() -> None:
    came = threading.Event()
    later = timers.call_at(clock.monotonic() + 3600, nothing)

    timers.call_at(clock.monotonic() + 0.01, came.set)

    assert came.wait(GUARD)
    later.cancel()


def test_a_cancelled_call_is_not_made() -> None:
    cancelled, after = threading.Event(), threading.Event()
    with busy_timers():
        now = clock.monotonic()
        timer = timers.call_at(now + 0.01, cancelled.set)
        timers.call_at(now + 0.02, after.set)

        timer.cancel()
        timer.cancel()

    assert after.wait(GUARD)
    assert not cancelled.is_set()


def test_a_call_that_raises_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    after = threading.Event()
    now = clock.monotonic()

    timers.call_at(now, fail)
    timers.call_at(now + 0.001, after.set)

    assert after.wait(GUARD)
    assert [(record.name, record.levelname) for record in caplog.records] == [("penstock.timers", "ERROR")]


def test_a_finalizer_may_ask_for_a_call_while_its_thread_holds_the_lock_of_the_timers() -> None:
    seen = queue.SimpleQueue[str]()

    with timers._timers._changed:  # in a thread of its own: it would hang, not fail
        asked = in_thread(timers.call_apart, functools.partial(name_of_this_thread, seen))
        asked.result(GUARD)

    assert seen.get(timeout=GUARD) == "penstock-timers"


def test_a_finalizer_that_asks_for_a_call_when_no_thread_can_be_had_gets_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)

    timers.call_apart(fail)


def name_of_this_thread(into: queue.SimpleQueue[str]) -> None:
    into.put(threading.current_thread().name)


def test_user_code_runs_where_it_is_met_but_not_on_the_thread_that_keeps_the_time() -> None:
    seen = queue.SimpleQueue[str]()
    run = functools.partial(timers.run_user_code, functools.partial(name_of_this_thread, seen))

    run()
    assert seen.get(timeout=GUARD) == threading.current_thread().name
    timers.call_at(clock.monotonic(), run)
    assert seen.get(timeout=GUARD).startswith("penstock-callbacks")


def test_user_code_does_not_run_on_a_thread_that_may_not_block() -> None:
    seen = queue.SimpleQueue[str]()

    with timers.nothing_may_block(), timers.nothing_may_block():
        timers.run_user_code(functools.partial(name_of_this_thread, seen))
    timers.run_user_code(functools.partial(name_of_this_thread, seen))

    names = {seen.get(timeout=GUARD), seen.get(timeout=GUARD)}
    assert threading.current_thread().name in names
    assert any(name.startswith("penstock-callbacks") for name in names)


@given(st.lists(st.one_of(st.integers(1, 400), st.integers(-400, -1)), max_size=30))
def test_cancelled_entries_never_outnumber_the_live_ones_by_more_than_64(moves: list[int]) -> None:
    """A positive number makes so many calls, a negative one cancels so many of those that are left."""
    room = without_thread()
    live: list[timers.Timer] = []
    for move in moves:
        if move > 0:
            live += [room.call_at(number * 7_919 % 10_007, nothing) for number in range(move)]
        else:
            for timer in live[:-move]:
                timer.cancel()
            del live[:-move]

        kept = len(room._heap)
        assert len(live) <= kept <= 2 * len(live) + 64
        assert set(live) <= set(room._heap)
    times = [heapq.heappop(room._heap).when for _ in range(len(room._heap))]
    assert times == sorted(times), "it is no heap any more"


def test_a_long_life_of_timers_that_are_cancelled_holds_few_of_them() -> None:
    room = without_thread()

    for number in range(100_000):
        room.call_at(clock.monotonic() + 1000 + number, nothing).cancel()

    assert len(room._heap) <= 65


# Users' callbacks


def test_a_callback_runs_on_a_thread_of_its_kind() -> None:
    seen = queue.SimpleQueue[str]()

    timers._callbacks.hand_over(lambda: seen.put(threading.current_thread().name))

    assert seen.get(timeout=GUARD).startswith("penstock-callbacks")


@pytest.mark.parametrize("hung", [1, 7])
def test_a_callback_that_hangs_keeps_no_other_waiting(hung: int) -> None:
    callbacks, gate, came = timers.Callbacks(), Gate(), threading.Event()
    for _ in range(hung):
        callbacks.hand_over(gate)
    gate.wait_entered(hung)

    callbacks.hand_over(came.set)

    assert came.wait(GUARD)
    gate.open()


def test_a_callback_behind_eight_that_hang_comes_when_one_returns() -> None:
    callbacks, gate, first, came = timers.Callbacks(), Gate(), Gate(), threading.Event()
    callbacks.hand_over(first)
    for _ in range(7):
        callbacks.hand_over(gate)
    first.wait_entered()
    gate.wait_entered(7)

    callbacks.hand_over(came.set)
    assert not came.is_set()
    first.open()

    assert came.wait(GUARD)
    gate.open()


def test_a_thread_that_idles_is_woken_for_the_next_callback_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "_IDLE", 2 * GUARD)  # or it would wake by itself, and find what nobody woke it for
    callbacks, gate, came = timers.Callbacks(), Gate(), threading.Event()
    callbacks._changed = watched = WatchedCondition()
    callbacks.hand_over(nothing)
    assert watched.parked.wait(GUARD)

    callbacks.hand_over(gate)
    callbacks.hand_over(came.set)

    assert came.wait(GUARD / 2), "it waits behind the one before, which gives up in the end; or nobody was woken"
    gate.wait_entered()
    gate.open()


def test_callbacks_that_are_handed_over_by_many_threads_all_run_once() -> None:
    callbacks, ran, every = timers.Callbacks(), [0] * 400, threading.Semaphore(0)

    def count(number: int) -> Callable[[], None]:
        def run() -> None:
            ran[number] += 1
            every.release()

        return run

    def hand_over(first: int) -> None:
        for number in range(first, first + 100):
            callbacks.hand_over(count(number))

    for thread in [in_thread(hand_over, first) for first in range(0, 400, 100)]:
        thread.result(GUARD)

    for _ in ran:
        assert every.acquire(timeout=GUARD)
    assert ran == [1] * 400


def test_a_callback_that_raises_is_logged_and_the_next_one_runs() -> None:
    came, logged = threading.Event(), queue.SimpleQueue[logging.LogRecord]()
    handler = QueueHandler(logged)
    timers.log.addHandler(handler)
    try:
        timers._callbacks.hand_over(fail)
        timers._callbacks.hand_over(came.set)

        assert came.wait(GUARD)
        assert logged.get(timeout=GUARD).levelname == "ERROR"
    finally:
        timers.log.removeHandler(handler)


def test_callbacks_that_unwind_their_thread_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    callbacks, came = timers.Callbacks(), threading.Event()
    together = threading.Barrier(8)

    def unwind() -> None:
        together.wait(GUARD)  # so that each of them has a thread of its own
        raise SystemExit

    for _ in range(8):
        callbacks.hand_over(unwind)
    callbacks.hand_over(came.set)

    assert came.wait(GUARD / 4)


def test_when_no_thread_can_be_had_the_caller_runs_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran: list[threading.Thread] = []

    timers.Callbacks().hand_over(lambda: ran.append(threading.current_thread()))

    assert ran == [threading.current_thread()]


def test_when_none_could_be_had_to_stand_by_the_caller_still_runs_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    callbacks, ran = timers.Callbacks(), list[threading.Thread]()
    with pytest.raises(RuntimeError):
        callbacks.stand_by()

    callbacks.hand_over(lambda: ran.append(threading.current_thread()))

    assert ran == [threading.current_thread()]


def test_when_no_thread_can_be_had_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    room = timers.Timers()

    with pytest.raises(RuntimeError, match="thread"):
        room.call_at(clock.monotonic(), nothing)

    assert not room._heap, "or it would be made after all, when a thread can be had again"


def test_calls_come_in_the_child_of_a_fork_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORKED], timeout=4 * GUARD, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr


def test_the_loggers_name_is_as_documented() -> None:
    assert timers.log is logging.getLogger("penstock.timers")


class Raises(logging.Handler):
    """A handler that raises, which none may."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise ZeroDivisionError


@pytest.fixture
def _handler_raises() -> Iterator[None]:
    handler = Raises()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("_handler_raises")
def test_a_log_handler_that_raises_takes_no_thread_of_ours_along() -> None:
    def fail() -> None:
        raise ValueError

    done = [threading.Event(), threading.Event()]
    timers.call_at(0, fail)
    timers.call_at(0, done[0].set)
    assert done[0].wait(GUARD)
    callbacks = timers.Callbacks()
    for _ in range(20):
        callbacks.hand_over(fail)
    callbacks.hand_over(done[1].set)
    assert done[1].wait(GUARD)


@pytest.mark.usefixtures("_handler_raises")
def test_a_thing_that_can_not_be_dealt_with_holds_up_none_of_those_behind_it() -> None:
    dealt: list[int] = []
    gate = Gate()

    def deal(thing: int) -> None:
        if thing == 0:
            gate()
        if thing == 1:
            raise ValueError
        dealt.append(thing)

    in_order = timers.InOrder(deal)
    with timers.nothing_may_block():
        for thing in range(4):
            in_order.put(thing)
            gate.wait_entered()  # the others come while it is busy
    gate.open()
    in_order.wait(GUARD)

    assert dealt == [0, 2, 3]
