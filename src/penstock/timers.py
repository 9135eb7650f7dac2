"""Calls at a given time, made by one daemon thread for the whole process; and a second room for users' callbacks.

    timers.call_at(when, fn)  ──> heap  ──> thread "penstock-timers"       ──> fn()   never blocks, never user code
    timers.call_apart(fn)     ──> heap  ──>         the same               ──> fn()   from a finalizer
    timers.run_user_code(fn)  ──> queue ──> threads "penstock-callbacks-N" ──> fn()   if the caller must not block
                              └────────────────────────────────────────────> fn()   else

A callback of a user must never run on the thread that keeps the time, nor on one that stops a pool in so many seconds.
Threads start when first needed.
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from penstock import clock

log = logging.getLogger("penstock.timers")

T = TypeVar("T")

_LONGEST_WAIT = 3600.0  # seconds; Condition.wait overflows on huge or infinite values
_CALLBACK_THREADS = 8  # how many users' callbacks may hang before later ones have to wait behind them
_NO_LATE_THREADS = sys.version_info[:2] == (3, 12)  # "can't create new thread at interpreter shutdown"
_IDLE = 5.0  # seconds that an idle callback thread stays


class Timer:
    """One call to come. `cancel` is safe at any time and from any thread; a call that has begun is not undone."""

    __slots__ = ("_fn", "_room", "when")

    def __init__(self, when: float, fn: Callable[[], None], room: Timers) -> None:
        self.when = when
        self._fn: Callable[[], None] | None = fn
        self._room = room

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """The call will not be made, unless it has begun."""
        if self._fn is not None:
            self._fn = None
            self._room._forget_one()

    def _take(self) -> Callable[[], None] | None:
        fn, self._fn = self._fn, None
        return fn


class Timers:
    """The heap of calls to come and the thread that makes them.

    Invariants:
      1. Cancelled entries never outnumber live ones by more than 64: the heap is rebuilt then, so its size
         follows the calls that are still to come.
      2. `fn` runs with no lock held.
    Lock: `_changed` guards every field. It is a leaf.
    """

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all, the thread and the state of the lock, too."""
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[Timer] = []  # guarded by _changed
        self._cancelled = 0  # entries of _heap that will do nothing; guarded by _changed
        self._thread: threading.Thread | None = None  # guarded by _changed

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Call *fn* on the timers' thread once the monotonic clock shows *when*. *fn* must not block or raise.

        Raises RuntimeError if the thread can't be started, as at the end of the interpreter.
        """
        timer = Timer(when, fn, self)
        with self._changed:
            self._start()
            heapq.heappush(self._heap, timer)
            if self._heap[0] is timer:
                self._changed.notify()
        return timer

    def stand_by(self) -> None:
        """Start the thread now."""
        with self._changed:
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="penstock-timers", daemon=True)
            thread.start()
            self._thread = thread

    def _forget_one(self) -> None:
        with self._changed:
            self._cancelled += 1
            if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
                self._heap = [timer for timer in self._heap if timer._fn is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _run(self) -> None:
        _here.must_not_block = True
        while True:
            due = self._wait_for_next()
            fn = due._take()
            if fn is None:
                continue
            try:
                fn()
            except Exception as error:
                _say("a timed call failed; this is a bug in Penstock", error)
            del due, fn  # hold nothing while waiting

    def _wait_for_next(self) -> Timer:
        with self._changed:
            while True:
                if not self._heap:
                    self._changed.wait()
                    continue
                left = self._heap[0].when - clock.monotonic()
                if left > 0:
                    self._changed.wait(min(left, _LONGEST_WAIT))
                    continue
                timer = heapq.heappop(self._heap)
                if timer._fn is None:
                    self._cancelled = max(0, self._cancelled - 1)
                return timer


class Callbacks:
    """Runs users' callbacks off the timers' thread, in order, on a few threads that come and go.

    Lock: `_changed` guards every field. It is a leaf.
    """

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all, the threads and the state of the lock, too."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Callable[[], None]] = deque()  # guarded by _changed
        self._idle = 0  # threads that wait for a callback; guarded by _changed
        self._threads = 0  # guarded by _changed

    def hand_over(self, fn: Callable[[], None]) -> None:
        """Run *fn* soon, on a thread of its own kind. What it raises is logged."""
        with self._changed:
            self._waiting.append(fn)
            if self._idle >= len(self._waiting):
                self._changed.notify()
                return
            if self._threads >= _CALLBACK_THREADS:
                return  # every thread is in a user's callback: the first to return takes this one
            number = self._threads
            self._threads += 1
        try:
            threading.Thread(target=self._run, name=f"penstock-callbacks-{number}", daemon=True).start()
        except RuntimeError:  # the interpreter is ending: no thread can be had, so this caller has to do it
            with self._changed:
                self._threads -= 1
                alone = self._threads == 0
            if alone:
                self._run_waiting()

    def stand_by(self) -> None:
        """Start one thread that stays, if there is none."""
        with self._changed:
            if self._threads:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._run, args=(None,), name="penstock-callbacks-0", daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._threads -= 1
            raise

    def _run(self, patience: float | None = _IDLE) -> None:
        while True:
            self._run_waiting()
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting, patience)
                self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    return

    def _run_waiting(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    return
                fn = self._waiting.popleft()
            try:
                fn()
            except BaseException as error:  # whatever it is, it must not take the thread along: there are only a few
                _say("a callback raised", error)
            del fn


class InOrder(Generic[T]):
    """Things handed over by threads that must not block, dealt with one by one in their order, elsewhere."""

    def __init__(self, deal_with: Callable[[T], None]) -> None:
        self._deal_with = deal_with
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all, the state of the lock, too."""
        self._waiting: deque[T] = deque()
        self._all_done = threading.Event()
        self._all_done.set()
        self._busy = threading.Lock()  # held by the thread that deals with them

    def put(self, thing: T) -> None:
        """Deal with *thing* after those that came before."""
        self._all_done.clear()
        self._waiting.append(thing)
        if not self._busy.locked():  # else whoever holds it looks once more after that
            run_user_code(self._deal_with_all)

    def wait(self, timeout: float) -> None:
        """Return when all is dealt with, or after *timeout* seconds."""
        self._all_done.wait(timeout)

    def _deal_with_all(self) -> None:
        while self._waiting and self._busy.acquire(blocking=False):
            try:
                while self._waiting:
                    try:
                        self._deal_with(self._waiting.popleft())
                    except Exception as error:  # those that wait behind it are none the worse for it
                        _say("what was handed over could not be dealt with", error)
            finally:
                self._busy.release()
        if not self._waiting:
            self._all_done.set()


def _say(what: str, error: BaseException) -> None:
    """Log *error*; a handler that raises, which none may, takes no thread along."""
    with contextlib.suppress(Exception):
        log.error(what, exc_info=error)


class _Here(threading.local):
    """What is so of the calling thread."""

    must_not_block = False  # set for threads that run no user code; here, for what is missing is slow to ask for


_here = _Here()
_timers = Timers()
_callbacks = Callbacks()


def call_at(when: float, fn: Callable[[], None]) -> Timer:
    """Call *fn* on the timers' thread at monotonic time *when*; see `Timers.call_at`."""
    return _timers.call_at(when, fn)


def call_apart(fn: Callable[[], None]) -> None:
    """Call *fn* on the timers' thread, soon. For finalizers: no lock is taken on the calling thread.

    The collector may run a finalizer wherever Python code runs, so in the midst of a block that holds the very lock
    which *fn* needs, or that of the timers. Starting a bare thread takes none, and that thread holds none.
    """
    with contextlib.suppress(RuntimeError):  # there are no threads any more: the interpreter is ending
        _thread.start_new_thread(_call_now, (fn,))


def _call_now(fn: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):
        _timers.call_at(0.0, fn)


def stand_by() -> None:
    """Where no thread can be started once the main thread has ended, start ours while it can be done."""
    if _NO_LATE_THREADS:
        _timers.stand_by()
        _callbacks.stand_by()


def must_not_block() -> bool:
    """Whether the calling thread must not be held up by a user's code."""
    return _here.must_not_block


def run_user_code(fn: Callable[[], None]) -> None:
    """Run the callback *fn* of a user: here, or on a thread of its own if this one must not be held up."""
    if must_not_block():
        _callbacks.hand_over(fn)
    else:
        fn()


@contextlib.contextmanager
def nothing_may_block() -> Iterator[None]:
    """While the block runs, this thread runs no user's callback itself: a stop has to end in time."""
    before = must_not_block()
    _here.must_not_block = True
    try:
        yield
    finally:
        _here.must_not_block = before


def _start_afresh() -> None:
    """A forked child has neither our threads nor a sound state of our locks: begin again with none."""
    _timers.start_afresh()
    _callbacks.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
