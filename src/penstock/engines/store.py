"""An engine, shared by all threads and loops of a process: their requests meet in common transactions.

    threads ──ask()──┐                                      ┌─> each thread is woken
    loops ──aask()───┼─> [urgent] [waiting] ──> one thread ─┤
    worker service ──┘     in order     │       transact()  └─> each loop is called once for all of its callers
                                        └ as much as came while the commit before was under way

There is no delay to gather requests: a commit begins when the one before has returned, so that a lone caller waits for
nobody, and many share one write to the disk (group commit, as databases do it).

State: `_urgent`, `_waiting`, `_thread` and `_is_closed` are guarded by `_lock`, a leaf; `_wanted` is its condition.
What was asked is in a queue, or taken by the thread, or answered; whoever takes it out of the queue under the lock
makes the next move. The engine's `transact` is called by the thread alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from penstock import clock
from penstock.engines.bell import Bell
from penstock.engines.engine import Engine
from penstock.engines.records import Query
from penstock.engines.requests import Claim, Put, Reply, Request, Settle
from penstock.errors import OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

_ROWS: Final = 1_000  # jobs in one transaction, about: what comes behind them waits no longer than that takes
_WITHIN: Final = 30.0  # seconds that a transaction may wait for the store

Answer = Reply | Exception


class _Asked:
    """What one caller wants done in one step, and who is to be told."""

    __slots__ = ("answers", "error", "future", "lock", "loop", "requests", "until")

    def __init__(self, requests: Sequence[Request], until: float | None) -> None:
        self.requests = requests
        self.until = until  # monotonic
        self.answers: list[Answer] | None = None
        self.error: Exception | None = None
        self.lock: threading.Lock | None = None  # a thread sleeps on it
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[list[Answer]] | None = None

    @property
    def rows(self) -> int:
        return sum(_rows(request) for request in self.requests)


def _rows(request: Request) -> int:
    match request:
        case Put(jobs):
            return len(jobs)
        case Settle(settlements):
            return len(settlements)
        case Claim():
            return sum(want.limit for want in request.wants)
    return 1


class Store:
    """One process's way to an engine. Every method may be called from any thread.

    *connect* makes the engine; again in the child of a fork, which can't use its parent's.
    """

    def __init__(self, connect: Callable[[], Engine]) -> None:
        self._connect = connect
        self.engine = connect()
        self._inherited: list[Engine] = []  # of the parents of this process; to close them here would harm them there
        self._set_out()
        _stores.add(self)

    def _set_out(self) -> None:
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._urgent: deque[_Asked] = deque()
        self._waiting: deque[_Asked] = deque()
        self._thread: threading.Thread | None = None
        self._is_open = False
        self._is_closed = False

    def start_afresh(self) -> None:
        """In the child of a fork: what waited is the parent's, and so is its connection."""
        self._inherited.append(self.engine)
        self.engine = self._connect()
        self._set_out()

    # Asking

    def ask(self, *requests: Request, timeout: float | None = _WITHIN, urgent: bool = False) -> list[Reply]:
        """Do *requests* in one step, together with what others ask; the answers, durable by now.

        *urgent*: before all that isn't. Raises `StoreUnavailable` if nothing was done within *timeout* seconds,
        `OutcomeUnknown` if that can't be told, and what the first refused request was refused for.
        """
        asked = _Asked(requests, clock.deadline_after(timeout))
        asked.lock = threading.Lock()
        asked.lock.acquire()
        self._put(asked, urgent)
        if not asked.lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            self._give_up(asked)
        if asked.error is not None:
            raise asked.error
        assert asked.answers is not None
        return _all_good(asked.answers)

    async def aask(self, *requests: Request, timeout: float | None = _WITHIN, urgent: bool = False) -> list[Reply]:
        """As `ask`, for coroutines. A cancelled caller's requests are withdrawn if they haven't been taken yet."""
        asked = _Asked(requests, clock.deadline_after(timeout))
        asked.loop = asyncio.get_running_loop()
        asked.future = asked.loop.create_future()
        timer = None if timeout is None else asked.loop.call_later(timeout, self._give_up_in_loop, asked)
        self._put(asked, urgent)
        try:
            return _all_good(await asked.future)
        except asyncio.CancelledError:
            self._withdraw(asked)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def post(self, *requests: Request) -> None:
        """Ask for *requests* and don't wait: whether they are done, or refused, nobody is told."""
        self._put(_Asked(requests, clock.deadline_after(_WITHIN)), urgent=False)

    def find(self, query: Query[T], timeout: float = _WITHIN) -> T:
        """The answer to *query*, from the caller's own thread."""
        self._open()
        return self.engine.find(query, timeout)

    async def afind(self, query: Query[T], timeout: float = _WITHIN) -> T:
        """As `find`, for coroutines."""
        return await asyncio.to_thread(self.find, query, timeout)

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news; see `Engine.wait`."""
        self._open()
        self.engine.wait(bell, timeout)

    def close(self, timeout: float | None = _WITHIN) -> None:
        """Answer all that was asked, within *timeout* seconds, and let go of the engine. Safe to repeat."""
        with self._lock:
            self._is_closed = True
            self._wanted.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                return  # it is stuck in the engine, which can't be closed under it
        self.engine.close()

    def _open(self) -> None:
        if not self._is_open:
            self.engine.open()
            self._is_open = True

    def _put(self, asked: _Asked, urgent: bool) -> None:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable(self.engine.url, "it was closed here")
            (self._urgent if urgent else self._waiting).append(asked)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="penstock-store", daemon=True)
                self._thread.start()
            self._wanted.notify()

    def _give_up(self, asked: _Asked) -> None:
        """The caller's time is over. What is still in the queue will never be done; of the rest nobody knows."""
        if self._withdraw(asked):
            raise StoreUnavailable(self.engine.url, "it was too busy, or couldn't be reached in time")
        if asked.answers is None and asked.error is None:
            raise OutcomeUnknown(_ids(asked.requests))

    def _give_up_in_loop(self, asked: _Asked) -> None:
        assert asked.future is not None
        if not asked.future.done():
            try:
                self._give_up(asked)
            except (StoreUnavailable, OutcomeUnknown) as error:
                asked.future.set_exception(error)

    def _withdraw(self, asked: _Asked) -> bool:
        with self._lock:
            for queue in (self._urgent, self._waiting):
                with contextlib.suppress(ValueError):
                    queue.remove(asked)
                    return True
        return False

    # The thread

    def _serve(self) -> None:
        while batch := self._take():
            try:
                self._open()
                answers = self.engine.transact(
                    [request for asked in batch for request in asked.requests], self._within(batch)
                )
            except Exception as error:
                for asked in batch:
                    asked.error = error
            else:
                done = iter(answers)
                for asked in batch:
                    asked.answers = [next(done) for _ in asked.requests]
            _tell(batch)
            del batch

    def _take(self) -> list[_Asked]:
        """What goes into the next transaction; empty when there will be nothing more."""
        with self._lock:
            while not self._urgent and not self._waiting:
                if self._is_closed:
                    return []
                self._wanted.wait()
            batch: list[_Asked] = []
            rows = 0
            for queue in (self._urgent, self._waiting):
                while queue and (not batch or rows + queue[0].rows <= _ROWS):
                    asked = queue.popleft()
                    rows += asked.rows
                    batch.append(asked)
            return batch

    def _within(self, batch: Sequence[_Asked]) -> float:
        """As long as anybody in it would wait."""
        now = clock.monotonic()
        return max(_WITHIN if asked.until is None else max(0.0, asked.until - now) for asked in batch)


def _tell(batch: Sequence[_Asked]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}
    for asked in batch:
        if asked.lock is not None:
            asked.lock.release()
        elif asked.loop is not None:
            loops.setdefault(asked.loop, []).append(asked)
    for loop, of_loop in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell_loop, of_loop)


def _tell_loop(batch: Sequence[_Asked]) -> None:
    for asked in batch:
        future = asked.future
        if future is None or future.done():
            continue
        if asked.error is not None:
            future.set_exception(asked.error)
        else:
            future.set_result(cast(list[Answer], asked.answers))


def _all_good(answers: list[Answer]) -> list[Reply]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return cast(list[Reply], answers)


def _ids(requests: Sequence[Request]) -> tuple[str, ...]:
    return tuple(job.id for request in requests if isinstance(request, Put) for job in request.jobs)


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _start_afresh() -> None:
    for store in list(_stores):
        store.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
