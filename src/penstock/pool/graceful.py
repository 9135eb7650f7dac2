"""Stopping pools on SIGTERM and SIGINT, and with an ASGI server that owns the signals.

    signal ──> the interpreter: writes the signal's number to a pipe, at once, on whichever thread
                  │
                  ├──> handler (main thread, when it gets to it): calls what was there before
                  └──> watcher thread: first signal: the ladder, on a thread of its own
                                       second:       its next rung, now
                                       third:        the process exits at once, with 128 + signal

The handler does nothing else, so that it can't dead-lock with what it interrupted; and the ladder doesn't need the main
thread, which may be blocked in a full `submit`, or in a loop that has nothing to do and was not woken by the signal,
since another thread got it, or it came just before the loop fell asleep. Where somebody else has asked for that pipe
(`signal.set_wakeup_fd`, as loops do that handle signals) he is woken by it, and the handler writes to ours.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from penstock import clock, raised
from penstock.errors import Incomplete, PoolClosed
from penstock.lifecycle import Phase
from penstock.pool.crew import Crew
from penstock.pool.executor import AnyPool
from penstock.pool.ladder import Stop, apart, cancel, wait_for_all
from penstock.report import Report

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("penstock.stop")

_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def graceful(*pools: AnyPool, timeout: float = 25.0, signals: Sequence[int] = _DEFAULT_SIGNALS) -> Shutdown:
    """A block in which a signal stops *pools*, in this order, all within *timeout* seconds.

    The first signal starts the stop: no new jobs, drain, cancel, leave. A second one cancels at once, a third ends the
    process. Leaving the block closes the pools and waits for their jobs; a `PoolClosed` or `Incomplete` that a signal
    caused does not leave it. List first the pool whose jobs submit to the others.

        with graceful(pool) as shutdown:
            for item in source:
                pool.submit(work, item)
        sys.exit(shutdown.exit_code)

    In a coroutine write `async with`, which waits at its end without stopping the loop.
    Only in the main thread (RuntimeError elsewhere: Python handles signals there). Handlers that were set before are
    called too, and are put back at the end. Several may be entered at once, and left in any order.
    """
    return Shutdown(pools, timeout, signals)


class Shutdown:
    """What `graceful` gives: whether a signal came, and how the stop went."""

    def __init__(self, pools: Sequence[AnyPool], timeout: float, signals: Sequence[int]) -> None:
        for pool in pools:
            if not isinstance(pool, AnyPool):
                raise TypeError(f"graceful() takes pools, not {pool!r}")
        if not pools:
            raise TypeError("graceful() needs at least one pool")
        if clock.checked_seconds("timeout", timeout) is None:
            raise TypeError("timeout must be a number of seconds, not None")
        self._pools = pools
        self._crews: list[Crew] = [pool._crew for pool in pools]
        self._timeout = timeout
        self._signals = tuple(signal.Signals(number) for number in signals)
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._watcher: threading.Thread | None = None
        self._ladder: threading.Thread | None = None  # written by the watcher before `requested` is set
        self._stop: Stop | None = None  # written by the watcher only
        self.requested = threading.Event()
        """Set by the first signal. `requested.wait(seconds)` is a sleep that a signal ends."""
        self.signal: int | None = None
        """The first signal that came; None if none did."""
        self._wakers: list[Callable[[], None]] = []  # of coroutines that wait for the first signal
        self.reports: list[Report] = []
        """What became of every job, one report for each pool; complete when the block is left."""

    @property
    def exit_code(self) -> int:
        """For `sys.exit`: 128 + signal if one came, else 0 if every job of every pool ran to its end, else 1."""
        if self.signal is not None:
            return 128 + self.signal
        return 0 if all(report.ok for report in self.reports) else 1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("graceful() works in the main thread only: Python handles signals there")
        if self._pipe is not None:
            raise RuntimeError("this graceful() is entered already")
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._pipe = reader, writer
        self._watcher = threading.Thread(target=self._watch, args=(reader,), name="penstock-signals", daemon=True)
        self._watcher.start()
        try:
            for number in self._signals:
                self._before[number] = signal.signal(number, self._handle)
        except BaseException:  # a signal that can't be handled, such as SIGKILL
            self._put_handlers_back()
            raise
        _entered.add(self)
        others = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if others != -1:
            signal.set_wakeup_fd(others)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            self._finish(error)
        finally:
            self._put_handlers_back()
        return self._has_caused(error)

    async def arequested(self, timeout: float | None = None) -> bool:
        """As `requested.wait`, in a coroutine: wait for the first signal, at most *timeout* seconds; if it came."""
        import asyncio

        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        wake = functools.partial(_call_soon, loop, came.set)
        self._wakers.append(wake)
        try:
            if not self.requested.is_set():  # asked after the waker is there: one of the two sees the other
                async with asyncio.timeout(timeout):
                    await came.wait()
        except TimeoutError:
            pass
        finally:
            self._wakers.remove(wake)
        return self.requested.is_set()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if any(crew.lifecycle.phase is not Phase.CLOSED for crew in self._crews):
                await self._finish_apart(error)
            self.reports = [crew.report() for crew in self._crews]
        finally:
            self._put_handlers_back()
        return self._has_caused(error)

    async def _finish_apart(self, error: BaseException | None) -> None:
        try:
            _, cancelled = await apart(functools.partial(self._finish, error), (self._hurry,) if error else ())
        except BaseException as interrupt:  # the task was cancelled while it waited: the patience is over
            await apart(functools.partial(self._finish, interrupt), (self._hurry,))
            raise
        if cancelled is not None and not isinstance(error, type(cancelled)):
            raise cancelled

    def _hurry(self) -> None:
        for crew in self._crews:
            cancel(crew)

    def _has_caused(self, error: BaseException | None) -> bool:
        """Whether *error*, which leaves the block, came of the signal."""
        return self.signal is not None and isinstance(error, PoolClosed | Incomplete) and self._is_ours(error)

    def _finish(self, error: BaseException | None) -> None:
        """Wait for the pools' end; a signal that comes meanwhile still moves it on."""
        for crew in self._crews:
            crew.check_may_block()
        if not self.requested.is_set():  # else the ladder is under way
            if error is None:
                for crew in self._crews:
                    crew.close()
                    wait_for_all(crew)
            else:
                Stop(self._crews, self._timeout).climb(f"{raised.type_name(error)} left its block")
        if self.requested.is_set() and self._ladder is not None:
            self._ladder.join()
        self.reports = [crew.report() for crew in self._crews]

    def _is_ours(self, error: PoolClosed | Incomplete) -> bool:
        names = {crew.name for crew in self._crews}
        return (error.pool if isinstance(error, PoolClosed) else error.report.pool) in names

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pipe is not None and not self._is_heard():
            with contextlib.suppress(OSError):  # a full pipe: enough signals are waiting already
                os.write(self._pipe[1], bytes([number]))
        before = self._before.get(number)
        if callable(before) and not _interrupts(before):
            before(number, frame)

    def _is_heard(self) -> bool:
        """Whether the interpreter has written to the pipe by itself. In the main thread."""
        assert self._pipe is not None
        heard = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        if heard != self._pipe[1]:
            signal.set_wakeup_fd(heard)
        return heard == self._pipe[1]

    def _watch(self, reader: int) -> None:
        """The watcher thread: reads the signals' numbers until the pipe is closed."""
        count = 0
        with open(reader, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] in self._signals:
                    count += 1
                    self._heed(count, number[0])

    def _heed(self, count: int, number: int) -> None:
        name = signal.Signals(number).name
        if count == 1:
            log.info("%s: stopping, in at most %.3g s; once more to cancel", name, self._timeout)
            self._stop = Stop(self._crews, self._timeout)
            self._ladder = threading.Thread(
                target=self._stop.climb, args=(f"{name} came",), name="penstock-stop", daemon=True
            )
            self.signal = number
            self._ladder.start()
            self.requested.set()
            for wake in self._wakers.copy():
                wake()
        elif count == 2 and self._stop is not None:
            log.warning("%s again: cancelling; once more to exit at once", name)
            self._stop.hurry()
        else:
            log.warning("%s for the third time: exiting", name)
            os._exit(128 + number)

    def _put_handlers_back(self) -> None:
        others = [other for other in _entered if other is not self]  # blocks may be left in any order
        for number, before in self._before.items():
            within = next((other for other in others if other._before.get(number) == self._handle), None)
            if within is None:
                signal.signal(number, signal.SIG_DFL if before is None else before)
            else:
                within._before[number] = before
        self._before.clear()
        if self._pipe is not None and self._watcher is not None:
            if self._is_heard():
                heir = next((other._pipe for other in others if other._pipe is not None), None)
                signal.set_wakeup_fd(-1 if heir is None else heir[1], warn_on_full_buffer=False)
            os.close(self._pipe[1])
            self._watcher.join()
            self._pipe = None
        _entered.discard(self)

    def start_afresh(self) -> None:
        """In the child of a fork: a signal that it gets is not one of its parent's, whose pipe it has a copy of."""
        if self._pipe is not None:
            if self._is_heard():
                signal.set_wakeup_fd(-1)
            self._pipe = None


_entered: weakref.WeakSet[Shutdown] = weakref.WeakSet()


def _start_afresh() -> None:
    for shutdown in list(_entered):
        shutdown.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def _call_soon(loop: asyncio.AbstractEventLoop, fn: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # it was closed meanwhile
        loop.call_soon_threadsafe(fn)


def _interrupts(handler: object) -> bool:
    """Whether *handler* is what Ctrl-C does if nobody asks for anything else: in Python, or while asyncio runs."""
    asked_of = getattr(getattr(handler, "func", None), "__self__", None)
    is_asyncios = type(asked_of).__module__ == "asyncio.runners"
    return handler is signal.default_int_handler or is_asyncios


def lifespan(*pools: AnyPool, timeout: float = 25.0) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """For ASGI servers, which own the signals: `Starlette(lifespan=lifespan(pool))`, likewise FastAPI and Litestar.

    Starts all workers before the first request, and after the last one stops the pools in order, within *timeout*
    seconds, while the loop goes on.
    """
    shutdown = Shutdown(pools, timeout, ())

    @contextlib.asynccontextmanager
    async def manage(app: Any) -> AsyncIterator[None]:
        import asyncio

        try:
            for pool in pools:
                await pool._start_from_loop()
            yield
        finally:
            stop = Stop(shutdown._crews, timeout)
            await asyncio.shield(asyncio.to_thread(stop.climb, "its server is stopping"))

    return manage
