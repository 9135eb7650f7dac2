"""What every pool shows to its users, whatever runs its jobs: an Executor, its life, and the views of `options`."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from penstock import clock, raised, timers
from penstock.context import Context
from penstock.errors import Incomplete
from penstock.failures import Failures
from penstock.job import Job
from penstock.lifecycle import Phase
from penstock.pool.crew import Crew
from penstock.pool.ladder import Stop, finished, wait_for_all
from penstock.pool.ledger import Observer
from penstock.pool.mapping import map_jobs, stream_jobs
from penstock.pool.terms import JobTerms, WhenFull
from penstock.report import Report, Stats
from penstock.retry import Retry

log = logging.getLogger("penstock.stop")

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Unchanged:
    """The default of an option that a view leaves as it is."""

    def __repr__(self) -> str:
        return "<unchanged>"


UNCHANGED: Final = Unchanged()


def changed_terms(terms: JobTerms, **options: Any) -> JobTerms:
    """*terms* with those of the *options* of a view that are not `UNCHANGED`, checked."""
    changed = {key: value for key, value in options.items() if value is not UNCHANGED}
    if "context" in changed:
        changed["inherit"] = changed["context"] is not None
    return terms.but(**changed)


class Submitting(Executor):
    """What a pool and its views share: every way to hand in a job, under the terms of one view."""

    _crew: Crew
    _terms: JobTerms

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Run `fn(*args, **kwargs)` on a worker; its `Job` at once.

        While the backlog is full this blocks (`when_full`, `submit_timeout`): `BacklogFull` if no place became free in
        time, or at once on a thread that runs an event loop. `PoolClosed` (a RuntimeError) once the pool takes no more
        jobs. Inside a job of the same pool the waiting worker lends its slot. Safe from any thread.
        """
        return self._crew.intake.submit(self._terms, fn, args, kwargs)

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """As `submit`, from a coroutine: a full backlog makes this coroutine wait, not its loop.

        On a loop that runs inside a job of the same pool the worker lends its slot meanwhile.
        """
        return await self._crew.intake.submit_from_loop(self._terms, fn, args, kwargs)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit and await the result. Cancelling the awaiting task cancels the job, or trips its context."""
        return await (await self.asubmit(fn, *args, **kwargs))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """`map(fn, *iterables)` on the workers, results in the order of the inputs; returns at once.

        As `Executor.map`: all inputs are read at the call and all run, even if nobody iterates; those that the
        backlog has no place for wait outside it. *buffersize*: read only so many inputs ahead of the results taken,
        as Python 3.14 does. *timeout*: seconds from the call to the last result, then TimeoutError. *chunksize*:
        so many inputs make one job of a `ProcessPool`; it has no effect elsewhere. A job's error is raised where its
        result would be, and ends the iteration; leaving it cancels what has not started.
        """
        return map_jobs(self._crew, self._terms, fn, iterables, timeout, chunksize, buffersize)

    def stream(
        self,
        fn: Callable[[A], T],
        iterable: Iterable[A],
        /,
        *,
        ordered: bool = False,
        buffersize: int | None = None,
    ) -> Iterator[Job[T]]:
        """Call *fn* with each input, and yield each job once it has ended, well or not.

        Inputs are read as the caller iterates, so that *iterable* may be endless: at most *buffersize* jobs (default:
        the backlog) are under way and not yet yielded. *ordered*: in the order of the inputs, else as they end.
        Leaving it cancels what has not started. If the pool is closed meanwhile, what is under way is still yielded;
        then `PoolClosed` says that inputs are left. Inside a job of the same pool the waiting worker lends its slot,
        for which the stdlib's `as_completed` and `wait` can't ask.
        """
        return stream_jobs(self._crew, self._terms, fn, iterable, ordered, buffersize)

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
    ) -> PoolView:
        """A view of the pool whose jobs have other terms. It is an Executor, and can be handed to whoever wants one.

        *timeout*: seconds that one attempt may run. *retry*: when a failed job runs again. *id*, *name*: of its jobs.
        *context*: the parent of its jobs' contexts; None detaches them from the caller's. *when_full*,
        *submit_timeout*: what `submit` does when the backlog is full. What is not given stays as it is.
        """
        terms = changed_terms(
            self._terms, timeout=timeout, retry=retry, id=id, name=name, context=context, when_full=when_full,
            submit_timeout=submit_timeout,
        )  # fmt: skip
        return PoolView(self, self._crew, terms)


class PoolView(Submitting):
    """A pool seen through other terms; made by `options`. Holding it keeps the pool open. It has no life of its own."""

    def __init__(self, pool: Submitting, crew: Crew, terms: JobTerms) -> None:
        self._pool = pool
        self._crew = crew
        self._terms = terms

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """A view can't be shut down: raises RuntimeError. Close the pool itself."""
        raise RuntimeError("this is a view made by options(): shut the pool down, not its view")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaving the block of a view leaves the pool open."""


class AnyPool:
    """What a pool of any kind shows: how it is doing, and that it can be closed. Safe from any thread."""

    def __init__(self, crew: Crew, terms: JobTerms) -> None:
        self._crew = crew
        self._terms = terms
        self._max_workers = crew.settings.max_workers
        # The workers hold the crew, never this object: when the last reference to it goes, the crew is closed.
        self._forgotten = weakref.finalize(self, _let_go, crew)
        self._forgotten.atexit = False

    @property
    def name(self) -> str:
        """Its name in logs and reports."""
        return self._crew.name

    @property
    def max_workers(self) -> int:
        """How many jobs it runs at once."""
        return self._max_workers

    @property
    def report(self) -> Report:
        """The accounts, now."""
        return self._crew.report()

    @property
    def failures(self) -> Failures:
        """Which failures there were, by kind."""
        return self._crew.ledger.failures

    def stats(self) -> Stats:
        """What it is doing now: counts, and percentiles of the seconds that jobs waited and ran lately."""
        return self._crew.stats()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call *observer* with every event (`penstock.events`) from now on; returns a function that ends this.

        It is called on the thread where the thing happens, and should be quick; what it raises is logged.
        """
        return self._crew.ledger.observe(observer)

    def close(self) -> None:
        """Take no more jobs; accepted ones still run. Doesn't wait. Safe to repeat, and inside a job."""
        self._crew.close()

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.report}>"

    async def _start_from_loop(self) -> None:
        """Be ready for the first job; in a coroutine."""
        raise NotImplementedError

    def _close_for_shutdown(self, cancel_futures: bool, timeout: float | None) -> None:
        """Close; with a *timeout*, no observer or callback holds up the stop that has begun."""
        with contextlib.nullcontext() if timeout is None else timers.nothing_may_block():
            self._crew.close()
            if cancel_futures:
                self._crew.cancel_waiting("the pool was shut down with cancel_futures")

    def _tell_end(self, error: BaseException | None, report: Report) -> None:
        """The block of the pool has ended, with *error* or none: raise what cut or unseen jobs ask for, or note it."""
        failures = self._unobserved()
        if error is not None:
            if report.cut:
                raised.note(error, str(report))
            for failure in failures:
                raised.note(error, f"and nobody looked at: {raised.shown(failure)}")
        elif report.cut:
            raise Incomplete(report) from (
                ExceptionGroup("failures that nobody looked at", failures) if failures else None
            )
        elif failures:
            raise ExceptionGroup(f"{len(failures)} of {report.accepted} jobs failed and nobody looked", failures)

    def _unobserved(self) -> list[Exception]:
        errors = []
        for job in self._crew.ledger.take_unobserved():
            error = job._value
            raised.note(error, f"raised by {job.label}")
            errors.append(error if raised.is_a(error, Exception) else _stand_in(job, error))
        return errors


class Pool(AnyPool, Submitting):
    """The life of a pool: it starts, tells how it is doing, closes, stops, reports.

    `with` waits at its end for all accepted jobs, as long as they take. Forgetting the pool is like closing it: what
    was accepted still runs. Every method is safe from any thread.
    """

    def start(self) -> Self:
        """Start all workers before the first job; returns when each is ready.

        Raises what an initializer raised, and `PoolClosed` if the pool stops before all are ready.
        """
        self._crew.staff.start()
        return self

    def wait(self, timeout: float | None = None) -> Report:
        """After `close`: return when every accepted job has ended. With *timeout*: at most so many seconds later.

        With a timeout this is a stop: waiting jobs are cancelled and running ones asked to stop shortly before its end,
        and what still runs then is left behind. The report says what became of every job.
        RuntimeError if the pool is open, or inside one of its own jobs.
        """
        if not self._crew.lifecycle.closing:
            raise RuntimeError("wait() is for the end: call close() first, or shutdown()")
        return self._stop(timeout)

    def shutdown(  # type: ignore[override]  # the Executor's gives None, and nobody looks at it
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> Report:
        """Close the pool, and wait for its accepted jobs: as long as they take, or at most *timeout* seconds.

        *wait=False*: don't wait; with a *timeout*, the stop goes on in the background. *cancel_futures*: cancel what
        has not started. Safe to repeat and from several threads at once; later calls wait for the same end.
        RuntimeError inside one of its own jobs, unless *wait* is False.
        """
        timeout = clock.checked_seconds("timeout", timeout)
        if wait:
            self._refuse_own_worker()
        self._close_for_shutdown(cancel_futures, timeout)
        if wait:
            return self._stop(timeout)
        if timeout is not None:
            Stop([self._crew], timeout).climb_apart(f"{self.name}-stop")
        return self.report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the accepted jobs; stop within `grace` if an exception leaves the block.

        Raises `Incomplete` if a stop cut accepted jobs short, and with `unobserved="raise"` an ExceptionGroup of the
        failures that nobody looked at; if an exception is leaving already, it gets notes instead.
        """
        self._refuse_own_worker()
        if error is None:
            self._crew.close()
            report = self._stop(None)
        else:
            report = self._stop_for(error)
        self._tell_end(error, report)

    async def _start_from_loop(self) -> None:
        import asyncio  # only for those who use it

        await asyncio.to_thread(self.start)

    def _stop(self, timeout: float | None) -> Report:
        self._refuse_own_worker()
        if timeout is not None:
            return Stop([self._crew], clock.checked_seconds("timeout", timeout) or 0.0).climb()[0]
        try:
            return wait_for_all(self._crew)
        except BaseException as interrupt:  # Ctrl-C while waiting: the patience is over, the promises hold
            self._stop_for(interrupt)
            raise

    def _stop_for(self, error: BaseException) -> Report:
        """Stop within `grace` because *error* is leaving; a further Ctrl-C moves it on."""
        with contextlib.suppress(KeyboardInterrupt):
            Stop([self._crew], self._crew.settings.grace).climb(f"{raised.type_name(error)} left its block")
        return finished(self._crew, clock.monotonic())

    def _refuse_own_worker(self) -> None:
        inside = self._crew.staff.is_here() or self._crew.attempts.runs_here()
        if inside and self._crew.lifecycle.phase is not Phase.CLOSED:
            raise RuntimeError(
                "a job can't wait for its own pool to stop, which waits for the job; "
                "use close() or shutdown(wait=False) there"
            )


def _stand_in(job: Job[Any], error: BaseException) -> Exception:
    """For an error that an ExceptionGroup doesn't take."""
    return RuntimeError(f"{job.label} raised {raised.sentence(error)}")


def _let_go(crew: Crew) -> None:
    """Nobody holds the pool of *crew* any more. No lock may be taken here: see `call_apart`."""
    if not crew.lifecycle.closing:
        timers.call_apart(functools.partial(crew.close, "nobody holds it any more"))
