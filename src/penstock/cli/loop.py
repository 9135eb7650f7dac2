"""A pool of coroutines for the threads of `penstock map`: the loop has a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from penstock import AsyncPool, Failures, Job, Report, Stats
from penstock.pool.ladder import Stop

T = TypeVar("T")

_LEAVING: Final = 0.5  # seconds for the loop to end; one that a job blocks is left behind


class OnLoop:
    """*pool*, with the calls that block that the other kinds have. Any thread but the loop's may make them."""

    def __init__(self, pool: AsyncPool) -> None:
        self.inner = pool
        self._loop = asyncio.new_event_loop()
        # A daemon, as a job that blocks the loop must not hold up the exit.
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-map-loop", daemon=True)

    @property
    def name(self) -> str:
        """Its name in logs and reports."""
        return self.inner.name

    @property
    def max_workers(self) -> int:
        """How many jobs run at once."""
        return self.inner.max_workers

    @property
    def report(self) -> Report:
        """The accounts, now."""
        return self.inner.report

    @property
    def failures(self) -> Failures:
        """Which failures there were, by kind."""
        return self.inner.failures

    def stats(self) -> Stats:
        """What it is doing now."""
        return self.inner.stats()

    def submit(self, fn: Callable[..., Any], value: object) -> Job[Any]:
        """As `ThreadPool.submit`. An accepted job is given here though it blocks the loop, from its second step on."""
        submitted: Future[Job[Any]] = Future()

        async def submit() -> None:
            try:
                job = await self.inner.asubmit(fn, value)
            except BaseException as error:
                submitted.set_exception(error)
            else:
                submitted.set_result(job)  # here, and not in one of the loop's next turns

        asyncio.run_coroutine_threadsafe(submit(), self._loop)
        return submitted.result()

    def shutdown(self, *, cancel_futures: bool = False, timeout: float) -> Report:
        """As `ThreadPool.shutdown`. On the calling thread, as a job may hold up the loop for ever."""
        crew = self.inner._crew
        crew.close()
        if cancel_futures:
            crew.cancel_waiting("the pool was shut down with cancel_futures")
        return Stop([crew], timeout).climb()[0]

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self.inner.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.shutdown(timeout=0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LEAVING)
        if not self._thread.is_alive():
            self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
