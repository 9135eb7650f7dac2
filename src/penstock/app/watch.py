"""Waiting for the ends of durable jobs: all who wait in this process share one thread, and one question.

    result()  ──┐                  ┌──────── the thread, while anybody waits ────────┐
    await     ──┼──> _watched ───> │ States(all ids) -> ended? -> tell; else wait for│ ──> each thread is woken
    aresult() ──┘     by id        │ news, at most a little longer than last time    │     each loop is called once
                                   └─────────────────────────────────────────────────┘

News may be missed for up to a second (`Engine.wait`), so the thread looks again at growing intervals, however quiet it
is. However many are watched, and however often there is news, it looks for a third of the time at most.

State: `_watched`, `_thread`, `_closed` are guarded by `_lock`, a leaf. Whoever takes a waiter out of `_watched` under
the lock tells it, or is it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from penstock import clock
from penstock.context import scope
from penstock.engines.bell import Bell
from penstock.engines.records import ByIds, Record, States
from penstock.engines.rules import ENDED
from penstock.engines.store import Store
from penstock.errors import JobUnknown, StoreUnavailable

_SHORTEST: Final = 0.02  # seconds between two looks, when there is no news
_LONGEST: Final = 1.0
_BRIEF: Final = 0.001  # seconds: after a look that took longer it rests twice as long
_LINGERS: Final = 0.05  # seconds that the thread stays when nobody waits: the next may come at once

Told = Record | Exception


class _Waiter:
    """Somebody who waits for one job: a thread, or a future of a loop."""

    __slots__ = ("future", "id", "loop", "told", "woken")

    def __init__(self, id: str) -> None:
        self.id = id
        self.told: Told | None = None
        self.woken = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[Told] | None = None


class Watch:
    """Who waits for jobs of *store* in this process. Every method may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._set_out()
        _watches.add(self)

    def _set_out(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, list[_Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None  # the thread's; made by whoever starts it
        self._closed = False

    def wait(self, id: str, timeout: float | None = None) -> Record:
        """The record of the job, once it has ended.

        Raises `TimeoutError` after *timeout* seconds, `JobUnknown` if the store knows no such job, and `Cancelled` if
        the caller's own context trips meanwhile.
        """
        until = clock.deadline_after(timeout)
        record = self._store.find(ByIds((id,)))[0]
        if record is None:
            raise JobUnknown(id)
        if record.state in ENDED:
            return record
        waiter = _Waiter(id)
        self._add(waiter)
        try:
            _sleep(waiter, until)
        finally:
            if waiter.told is None:
                self._remove(waiter)
        return _record_of(waiter.told, f"job {id} has not ended within {timeout} s")

    async def await_(self, id: str, timeout: float | None = None) -> Record:
        """As `wait`, for coroutines. Never blocks their loop."""
        waiter = _Waiter(id)
        waiter.loop = asyncio.get_running_loop()
        waiter.future = waiter.loop.create_future()
        self._add(waiter)
        try:
            async with asyncio.timeout(timeout):
                told = await waiter.future
        except TimeoutError:
            return await self._last_look(id, timeout)
        finally:
            if not waiter.future.done() or waiter.future.cancelled():
                self._remove(waiter)
        return _record_of(told, "")

    async def _last_look(self, id: str, timeout: float | None) -> Record:
        """Its record if it has ended: where *timeout* is short the look-out may not have come to it."""
        late = TimeoutError(f"job {id} has not ended within {timeout} s")
        try:
            record = (await self._store.afind(ByIds((id,)), timeout=1.0))[0]
        except StoreUnavailable:
            raise late from None
        if record is None:
            raise JobUnknown(id)
        if record.state not in ENDED:
            raise late
        return record

    def close(self) -> None:
        """Whoever waits is told that the store was closed here. Safe to repeat."""
        with self._lock:
            self._closed = True
            waiters = [waiter for group in self._watched.values() for waiter in group]
            self._watched.clear()
            thread = self._thread
            if self._bell is not None:
                self._bell.ring()
        _tell([(waiter, self._over()) for waiter in waiters])
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LONGEST + 1)

    def _over(self) -> StoreUnavailable:
        return StoreUnavailable(self._store.engine.url, "it was closed here")

    # Who waits

    def _add(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._closed:
                raise self._over()
            if self._thread is None:
                self._bell, self._thread = self._started()
            elif self._bell is not None:
                self._bell.ring()
            self._watched.setdefault(waiter.id, []).append(waiter)

    def _started(self) -> tuple[Bell, threading.Thread]:
        bell = Bell()
        thread = threading.Thread(target=self._look_out, args=(bell,), name="penstock-watch", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            bell.close()
            raise StoreUnavailable(self._store.engine.url, f"no thread could be started for it: {error}") from error
        return bell, thread

    def _remove(self, waiter: _Waiter) -> None:
        with self._lock:
            group = self._watched.get(waiter.id, [])
            with contextlib.suppress(ValueError):
                group.remove(waiter)
            if not group:
                self._watched.pop(waiter.id, None)
            if not self._watched and self._bell is not None:
                self._bell.ring()

    def _take(self, ids: Sequence[str]) -> list[_Waiter]:
        with self._lock:
            return [waiter for id in ids for waiter in self._watched.pop(id, ())]

    # The thread

    def _look_out(self, bell: Bell) -> None:
        pause = _SHORTEST
        try:
            while (ids := self._ids(bell)) is not None:
                try:
                    self._look(ids)
                    if self._watched:  # else whoever comes next must not wait for the end of a pause
                        has_news = self._sleep_at_most(bell, pause)
                        pause = _SHORTEST if has_news else min(pause * 1.5, _LONGEST)
                except StoreUnavailable:
                    bell.wait(_LONGEST)  # it may be back then; those who wait know for how long they want to
                except Exception as error:
                    _tell([(waiter, error) for waiter in self._take(ids)])
        finally:
            bell.close()

    def _sleep_at_most(self, bell: Bell, pause: float) -> bool:
        """Sleep until there may be news or the bell is rung: True; or *pause* seconds have passed."""
        until = clock.monotonic() + pause
        self._store.wait(bell, pause)
        return clock.monotonic() < until

    def _ids(self, bell: Bell) -> list[str] | None:
        """What is to be watched; None if that is nothing, and the thread ends."""
        for last in (False, True):
            with self._lock:
                if self._watched:
                    return list(self._watched)
                if last or self._closed:
                    self._thread = self._bell = None
                    return None
            bell.wait(_LINGERS)
        return None

    def _look(self, ids: Sequence[str]) -> None:
        began = clock.monotonic()
        states = self._store.find(States(ids))
        over = [id for id, state in zip(ids, states, strict=True) if state is None or state in ENDED]
        if over:
            records = zip(over, self._store.find(ByIds(over)), strict=True)
            told: dict[str, Told] = {
                id: JobUnknown(id) if record is None else record
                for id, record in records
                if record is None or record.state in ENDED  # else somebody has let it run again
            }
            _tell([(waiter, told[waiter.id]) for waiter in self._take(list(told))])
        looked = clock.monotonic() - began
        if looked > _BRIEF:
            time.sleep(min(2 * looked, _LONGEST))


def _sleep(waiter: _Waiter, until: float | None) -> None:
    """Sleep until the waiter is told or the time is over; inside a job, at most until its context trips."""
    around = scope.get()
    if around is None:
        _wait_for(waiter.woken, until)
        return
    context = around.context
    deadline = context.deadline
    if deadline is not None and (until is None or deadline < until):
        until = deadline
    stop_listening = context.listen(lambda cause: waiter.woken.set(), on_time=False)
    try:
        _wait_for(waiter.woken, until)
    finally:
        stop_listening()
    if waiter.told is None:
        context.check()


def _wait_for(woken: threading.Event, until: float | None) -> None:
    woken.wait(None if until is None else min(until - clock.monotonic(), threading.TIMEOUT_MAX))


def _record_of(told: Told | None, late: str) -> Record:
    if told is None:
        raise TimeoutError(late)
    if isinstance(told, Exception):
        raise told
    return told


def _tell(told: Sequence[tuple[_Waiter, Told]]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[tuple[_Waiter, Told]]] = {}
    for waiter, what in told:
        if waiter.loop is not None:
            loops.setdefault(waiter.loop, []).append((waiter, what))
        else:
            waiter.told = what
            waiter.woken.set()
    for loop, of_loop in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell_loop, of_loop)


def _tell_loop(told: Sequence[tuple[_Waiter, Told]]) -> None:
    for waiter, what in told:
        if waiter.future is not None and not waiter.future.done():
            waiter.future.set_result(what)


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _start_afresh() -> None:
    """In the child of a fork: who waited there is not here, and neither is the thread."""
    for watch in list(_watches):
        watch._set_out()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
