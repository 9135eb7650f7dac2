"""`AsyncPool`: a pool whose workers are tasks of one event loop.

    asubmit ──> door ──────────────> slots ──> a task for each job     door.py      who may come in, and who waits
                  └──> backlog ───────^                                slots.py     which job gets a slot
                                                                       worker.py    a slot, and the life of an attempt
    home.py   the loop, and the way to it from other threads           attempts.py  how an attempt can end
    streams.py   map and stream                                        firststep.py a task that begins at once, on 3.11
                                                                       standing.py  where a coroutine stands

Everything that is a pool's alone belongs to its loop's thread. What other threads may touch (a stop, the timers,
whoever cancels) goes through the rooms that all kinds share, or crosses over by `Home.call`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from penstock import clock, raised
from penstock.context import Context
from penstock.job import Job
from penstock.lifecycle import Phase
from penstock.pool.coroutines.crew import AroundCoroutine, CoroutineCrew, CoroutineSettings
from penstock.pool.coroutines.door import Submits
from penstock.pool.coroutines.streams import map_coroutines, stream_coroutines
from penstock.pool.executor import UNCHANGED, AnyPool, Unchanged, changed_terms
from penstock.pool.ladder import Stop, apart, finished, leave, wait_for_all
from penstock.pool.terms import JobTerms, Unobserved, WhenFull
from penstock.report import Report
from penstock.retry import Retry

__all__ = ["AsyncPool"]

_numbers = itertools.count(1)
_WORKERS: Final = 100

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class SubmittingCoroutines(Submits):
    """What a pool and its views share: every way to hand in a job, under the terms of one view."""

    _crew: CoroutineCrew

    async def run(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit and await the result. Cancelling the awaiting task cancels the job."""
        return await (await self.asubmit(fn, *args, **kwargs))

    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *inputs: Iterable[Any] | AsyncIterable[Any],
        timeout: float | None = None,
        buffersize: int | None = None,
    ) -> AsyncGenerator[T, None]:
        """An async iterator over the results of *fn* for each input, in the order of the inputs.

        As `map` with several *inputs*; each may be plain or async, and endless: they are read as the caller iterates,
        so that at most *buffersize* jobs (default: the backlog, or one more than there are workers) are under way or
        wait to be taken. *timeout*: seconds from the call to the last result, then TimeoutError. A job's error is
        raised where its result would be, and ends the iteration; leaving it cancels what has not started.
        """
        return map_coroutines(self._crew, self._terms, self.asubmit, fn, inputs, timeout, buffersize)

    def stream(
        self,
        fn: Callable[[A], Coroutine[Any, Any, T]],
        inputs: Iterable[A] | AsyncIterable[A],
        /,
        *,
        ordered: bool = False,
        buffersize: int | None = None,
    ) -> AsyncGenerator[Job[T], None]:
        """An async iterator over the jobs of *fn* for each input, each once it has ended, well or not.

        *inputs*, *buffersize*: as for `map`. *ordered*: in the order of the inputs, else as they end. Leaving it
        cancels what has not started. If the pool is closed meanwhile, what is under way is still given; then
        `PoolClosed` says that inputs are left.
        """
        return stream_coroutines(self._crew, self._terms, self.asubmit, fn, inputs, ordered, buffersize)

    def options(
        self,
        *,
        timeout: float | Unchanged | None = UNCHANGED,
        retry: Retry | Unchanged | None = UNCHANGED,
        id: int | str | Unchanged | None = UNCHANGED,
        name: str | Unchanged | None = UNCHANGED,
        context: Context | Unchanged | None = UNCHANGED,
        when_full: WhenFull | Unchanged | None = UNCHANGED,
        submit_timeout: float | Unchanged | None = UNCHANGED,
    ) -> AsyncPoolView:
        """A view of the pool whose jobs have other terms.

        *timeout*: seconds that one attempt may run. *retry*: when a failed job runs again. *id*, *name*: of its jobs.
        *context*: the parent of its jobs' contexts; None detaches them from the caller's. *when_full*,
        *submit_timeout*: what `asubmit` does when the backlog is full. What is not given stays as it is.
        """
        terms = changed_terms(
            self._terms, timeout=timeout, retry=retry, id=id, name=name, context=context, when_full=when_full,
            submit_timeout=submit_timeout,
        )  # fmt: skip
        return AsyncPoolView(self, self._crew, terms)


class AsyncPoolView(SubmittingCoroutines):
    """A pool seen through other terms; made by `options`. Holding it keeps the pool open. It has no life of its own."""

    def __init__(self, pool: SubmittingCoroutines, crew: CoroutineCrew, terms: JobTerms) -> None:
        self._pool = pool
        self._crew = crew
        self._door = crew.intake
        self._terms = terms


class AsyncPool(AnyPool, SubmittingCoroutines):
    """A bounded pool of coroutines on one event loop, that always stops.

    *max_workers*: how many jobs run at once (default: 100), each in a task with context variables of its own.
    *backlog*: how many accepted ones may wait (1 to ten million). *when_full*: what `asubmit` does then: "block" or
    None (wait, at most *submit_timeout* seconds), "reject" (raise `BacklogFull`), "caller" (run it beside the others
    and wait for it).
    *timeout*: seconds that one attempt of a job may run, then its task is cancelled, and the job fails with
    `DeadlineExceeded` once it has left. *retry*: when a failed job runs again. *grace*: seconds for a stop by an
    exception that leaves the block or by the end of the interpreter.
    *unobserved*: failures that nobody looked at are logged ("log"), leave the block as an ExceptionGroup ("raise"), or
    neither ("ignore"). *around*: called for each job in its task, gives a context manager, async or not, to run it in.
    *name*: of the pool, in logs and reports.
    *stuck_after*: seconds after its deadline at which a job whose task has swallowed the cancellation fails all the
    same, is shown, and has its slot replaced, at most *max_stuck* (default: max_workers) at once. *max_lent* (default:
    1,000, or max_workers if that is more): how many jobs may wait for other jobs of the pool at once. *max_retrying*:
    how many jobs may wait for another attempt at once.

    `async with` waits at its end for all accepted jobs, as long as they take, and leaves no task behind. The pool
    belongs to the loop that first uses it. `asubmit`, `run`, `map` and `stream` are for that loop; `close`, `report`,
    `stats`, `observe` and the methods of its jobs are safe from any thread.
    """

    _crew: CoroutineCrew

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        backlog: int = 100,
        when_full: WhenFull | None = None,
        submit_timeout: float | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        grace: float = 30.0,
        unobserved: Unobserved = "log",
        around: AroundCoroutine | None = None,
        name: str | None = None,
        stuck_after: float = 5.0,
        max_stuck: int | None = None,
        max_lent: int | None = None,
        max_retrying: int = 1_000,
    ) -> None:
        workers = _WORKERS if max_workers is None else max_workers
        settings = CoroutineSettings(
            name=f"AsyncPool-{next(_numbers)}" if name is None else name,
            max_workers=workers,
            backlog=backlog,
            grace=grace,
            unobserved=unobserved,
            around=None,
            around_each=around,
            initializer=None,
            initargs=(),
            margin=stuck_after,
            max_stuck=workers if max_stuck is None else max_stuck,
            max_lent=_most_lent(workers) if max_lent is None else max_lent,
            max_retrying=max_retrying,
        )
        settings.check()
        crew = CoroutineCrew(settings)
        terms = JobTerms.checked(
            crew=crew, when_full=when_full, submit_timeout=submit_timeout, timeout=timeout, retry=retry
        )
        super().__init__(crew, terms)
        self._door = crew.intake

    async def start(self) -> Self:
        """Make the running loop the pool's, before the first job does."""
        self._crew.settle_in()
        return self

    async def wait(self, timeout: float | None = None) -> Report:
        """After `close`: return when every accepted job has ended. With *timeout*: at most so many seconds later.

        With a timeout this is a stop: waiting jobs are cancelled and the tasks of running ones too, shortly before its
        end, and what still runs then is left behind. The report says what became of every job. If the waiting task is
        cancelled, the pool is stopped within its *grace*, and that again moves it on.
        RuntimeError if the pool is open, or inside one of its own jobs.
        """
        if not self._crew.lifecycle.closing:
            raise RuntimeError("wait() is for the end: call close() first, or shutdown()")
        return await self._stop(clock.checked_seconds("timeout", timeout))

    async def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> Report:
        """Close the pool, and wait for its accepted jobs: as long as they take, or at most *timeout* seconds.

        *wait=False*: don't wait; with a *timeout*, the stop goes on in the background. *cancel_futures*: cancel what
        has not started. Safe to repeat; later calls wait for the same end.
        RuntimeError inside one of its own jobs, unless *wait* is False.
        """
        timeout = clock.checked_seconds("timeout", timeout)
        if wait:
            self._refuse_own_job()
        self._crew.close()
        if cancel_futures:
            self._crew.cancel_waiting("the pool was shut down with cancel_futures")
        if wait:
            return await self._stop(timeout)
        if timeout is not None:
            Stop([self._crew], timeout).climb_apart(f"{self.name}-stop")
        return self.report

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the accepted jobs; stop within `grace` if an exception leaves the block, CancelledError too.

        Raises `Incomplete` if a stop cut accepted jobs short, and with `unobserved="raise"` an ExceptionGroup of the
        failures that nobody looked at; if an exception is leaving already, it gets notes instead.
        """
        self._refuse_own_job()
        cancelled: BaseException | None = None
        if error is None:
            self._crew.close()
            report = await self._stop(None)
        else:
            report, cancelled = await self._climb(
                self._crew.settings.grace, f"{raised.type_name(error)} left its block"
            )
        self._tell_end(error, report)
        if cancelled is not None and not isinstance(error, type(cancelled)):
            raise cancelled

    async def _start_from_loop(self) -> None:
        await self.start()

    async def _stop(self, timeout: float | None) -> Report:
        self._refuse_own_job()
        crew = self._crew
        if crew.lifecycle.phase is Phase.CLOSED:
            return finished(crew, None)
        if timeout is not None:
            report, cancelled = await self._climb(timeout, "it is being stopped")
            if cancelled is not None:
                raise cancelled
            return report
        try:
            report, _ = await apart(functools.partial(wait_for_all, crew))
        except BaseException as interrupt:  # the patience is over, the promises hold
            await self._climb(crew.settings.grace, f"{type(interrupt).__name__} ended the wait")
            raise
        return report

    async def _climb(self, seconds: float, why: str) -> tuple[Report, BaseException | None]:
        """Stop within *seconds*; each cancellation of the calling task moves the stop on, and the last is given back.

        The ladder is climbed on a thread of its own: jobs have their outcome in time even if one of them holds up the
        loop.
        """
        stop = Stop([self._crew], seconds)
        steps = stop.hurry, functools.partial(leave, self._crew)
        reports, cancelled = await apart(functools.partial(stop.climb, why), steps)
        return reports[0], cancelled

    def _refuse_own_job(self) -> None:
        if self._crew.staff.is_here() and self._crew.lifecycle.phase is not Phase.CLOSED:
            raise RuntimeError(
                "a job can't wait for its own pool to stop, which waits for the job; "
                "use close() or shutdown(wait=False) there"
            )


def _most_lent(workers: object) -> int:
    return max(1_000, workers) if isinstance(workers, int) else 1_000
