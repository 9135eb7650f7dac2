"""A job: one accepted call, and the handle that its submitter holds.

A `Job` is a `concurrent.futures.Future` that is also its own work item. The stdlib's Future makes a Condition and three
lists for each call; a Job makes them (a `_Bell`) when somebody first waits, so that one nobody waits for costs little.

Who may change a job: every accepted job without an outcome is in exactly one *room* of its crew (the backlog, the
running ones, …). Taking it out of its room is one atomic step, and whoever did it makes the job's next move, alone.

    submit -> [backlog] -> [running] -> settle      worker
                  |            |  └──-> [retrying] -> [due] -> [running]
                  |            └──────> settle      the timers, at the deadline; the stop, at its end
                  └───────────────────> settle      cancel, or the deadline
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from penstock import clock, timers
from penstock.context import Context, scope
from penstock.errors import JobCancelled

if TYPE_CHECKING:
    from contextvars import Context as ContextVars

    from penstock.retry import Retry

log = logging.getLogger("penstock.pool")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class JobState(enum.StrEnum):
    """Where a job is in its life. The last five are final: `job.done()` is true."""

    SCHEDULED = "scheduled"  # waits for its next attempt
    READY = "ready"  # in the backlog
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # it raised, or its time ran out
    CANCELLED = "cancelled"
    KILLED = "killed"  # ended by force in a stop
    ABANDONED = "abandoned"  # left running by a stop


FINAL: Final = frozenset(
    {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.KILLED, JobState.ABANDONED},
)

MOVES: Final = {
    JobState.SCHEDULED: frozenset({JobState.READY, JobState.FAILED, JobState.CANCELLED}),
    JobState.READY: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: FINAL | {JobState.SCHEDULED, JobState.READY},  # ready: its worker died before it began
    **{state: frozenset[JobState]() for state in FINAL},
}
"""The allowed moves. docs/jobs.md shows them as a picture; a test walks random lives and checks each step."""

# Local names: looking up an enum's member costs as much as the rest of a step, and so does a contextvar's method.
_READY, _RUNNING, _DONE, _CANCELLED = JobState.READY, JobState.RUNNING, JobState.DONE, JobState.CANCELLED
_enter = scope.set


class AnyJob(Protocol[T_co]):
    """What a `Job` of a pool and the `Handle` of a durable job have in common: for code that takes either."""

    @property
    def id(self) -> int | str:
        """Its id."""
        ...

    @property
    def state(self) -> JobState:
        """Where it is in its life."""
        ...

    def result(self, timeout: float | None = None) -> T_co:
        """What the function returned, waiting at most *timeout* seconds for it; raises how it failed."""
        ...

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """How it failed, None if it didn't; waits as `result` does."""
        ...

    def done(self) -> bool:
        """Whether it has its outcome."""
        ...

    def cancel(self, reason: str = ...) -> bool:
        """Cancel it, or ask it to end if it runs. True if it will not run."""
        ...

    def __await__(self) -> Generator[Any, None, T_co]: ...


class Crew(Protocol):
    """What a job asks of the workers that run it."""

    name: str

    def cancel(self, job: Job[Any], reason: str) -> bool:
        """Settle *job* as cancelled if no worker has started it (True), else trip its context (False)."""
        ...

    def forget(self, job: Job[Any]) -> bool:
        """Cancel *job* if no worker has started it; a running one is not disturbed."""
        ...

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job*; if the caller is one of the workers, others may run meanwhile."""
        ...

    def lending(self, job: Job[Any]) -> AbstractContextManager[None]:
        """A block in which a coroutine waits for *job*; if it is on a worker's thread, others may run meanwhile."""
        ...

    def observed(self, job: Job[Any]) -> None:
        """Somebody has asked how *job* failed."""
        ...

    def heed(self, job: Job[Any]) -> None:
        """The context of *job* was made just now, because somebody asked for it."""
        ...

    def stack(self, job: Job[Any]) -> str:
        """Where the running *job* stands, as text; empty if it doesn't run."""
        ...


class Terms(Protocol):
    """What was agreed for a job when it was submitted; shared by all jobs of one options view."""

    @property
    def crew(self) -> Crew:
        """Whose workers run the job."""
        ...

    @property
    def id(self) -> int | str | None:
        """Given in place of the number."""
        ...

    @property
    def name(self) -> str | None:
        """Given in place of the function's."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds that one attempt may run."""
        ...

    @property
    def retry(self) -> Retry | None:
        """When a failed job runs again."""
        ...

    @property
    def context(self) -> Context | None:
        """The parent of the job's context."""
        ...

    @property
    def inherit(self) -> bool:
        """Whether the submitter's context is, if none is given."""
        ...

    @property
    def plain(self) -> bool:
        """Nothing was asked for: no time, no retry, no context."""
        ...

    @property
    def claim(self) -> Claim | None:
        """What a worker service holds of a durable job; None for a job of this process alone."""
        ...


class Claim(Protocol):
    """What a job can ask of its claim, if it is a durable one that a worker service runs."""

    @property
    def token(self) -> int:
        """The number of the claim."""
        ...

    @property
    def attempt(self) -> int:
        """The number of the attempt: 1 for the first."""
        ...

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell the store."""
        ...

    def complete(self, job: Job[Any], connection: object, result: Any) -> None:
        """Settle *job* as done within the caller's transaction."""
        ...

    async def acomplete(self, job: Job[Any], connection: object, result: Any) -> None:
        """As `complete`, for coroutines."""
        ...

    def ended(self, job: Job[Any]) -> None:
        """*job* has its outcome. As a callback of it, but the job needs nothing to keep it in."""
        ...


class _Bell:
    """What waiters of one job need, made when the first of them comes.

    A thread in `result` sleeps on a lock of its own (a Condition would cost it ten times as much while it holds the GIL
    that the woken worker needs). Lock: `lock` guards all fields. Callbacks run after it is released.
    """

    __slots__ = ("callbacks", "condition", "lock", "rung", "sleepers", "waiters")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rung = False  # everybody was told; only then may the stdlib's wait() see the job as finished
        self.sleepers: list[_Sleeper] = []
        self.callbacks: list[Callable[[Any], object]] = []
        self.waiters: list[Any] = []  # the stdlib's wait() and as_completed() put theirs here
        self.condition: threading.Condition | None = None  # only they ask for it


class _Sleeper:
    """A thread that waits for a job."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """End its sleep, now or when it begins. Safe to repeat."""
        with contextlib.suppress(RuntimeError):  # woken already
            self._lock.release()

    def sleep(self, timeout: float | None) -> None:
        """Return when woken, or after *timeout* seconds: at once if that is below zero, as the stdlib has it."""
        self._lock.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))


_making_bells = threading.Lock()  # a leaf: held for one assignment


class Job(Future[T], Generic[T]):
    """One accepted call. Made by a pool; awaitable in asyncio.

    Every method may be called from any thread. `cancel` keeps the Future's contract (False once the job runs) and yet
    reaches a running job, by tripping its context. A finished job keeps its result or error, and nothing of its
    function or arguments.

    Invariants:
      1. `_stage` only makes moves of `MOVES`, and only whoever took the job out of its room writes it.
      2. `_value` is written before `_stage` becomes final, and never after.
      3. A bell, once there, is rung after the stage is final: whoever makes it and whoever settles each look at what
         the other one writes, after their own write.
    """

    __slots__ = (
        "_accepted",
        "_args",
        "_attempt",
        "_began",
        "_bell",
        "_context",
        "_cv",
        "_ended",
        "_fn",
        "_number",
        "_since",
        "_stage",
        "_terms",
        "_value",
        "_worker",
    )

    _terms: Terms
    _number: int
    _fn: Callable[..., T] | str
    _args: tuple[Any, ...] | None
    _cv: ContextVars | None  # the contextvars that it runs in
    _since: float  # monotonic: when it was accepted, or when its next attempt was due
    _accepted: float  # monotonic; set only if it has terms or a context
    _stage: JobState
    _bell: _Bell | None
    _context: Context | None  # made when asked for
    _attempt: int  # 0 until it starts
    _began: float  # monotonic: when its last attempt did; set then
    _ended: float  # monotonic: when its last attempt did; set then
    _worker: str  # set when it starts
    _value: Any  # its result or its error, as `_stage` tells

    def __init__(self) -> None:
        raise TypeError("a Job is made by a pool: pool.submit(fn, …)")

    # What it is

    @property
    def id(self) -> int | str:
        """Its id: a number that counts the jobs of its pool from 1, or what `options(id=…)` gave."""
        given = self._terms.id
        return self._number if given is None else given

    @property
    def name(self) -> str:
        """The function's qualified name, or what `options(name=…)` gave."""
        given = self._terms.name
        if given is not None:
            return given
        return self._fn if isinstance(self._fn, str) else name_of(self._fn)

    @property
    def label(self) -> str:
        """Name and id, for messages."""
        return f"job {self.id} ({self.name})"

    @property
    def state(self) -> JobState:
        """Where it is in its life."""
        return self._stage

    @property
    def context(self) -> Context:
        """Its deadline, cancellation and values."""
        context = self._context
        if context is None:
            with _making_bells:
                context = self._context
                is_new = context is None
                if context is None:
                    context = self._context = Context(parent=None)
                    if self._stage in FINAL:
                        context.close()
            if is_new:
                self._terms.crew.heed(self)
        return context

    @property
    def attempt(self) -> int:
        """The number of the running or last attempt: 1 for the first, 0 if it hasn't started."""
        claim = self._terms.claim
        return self._attempt if claim is None or not self._attempt else claim.attempt

    @property
    def token(self) -> int | None:
        """The number of its claim, if it is a durable job; it rises with every claim of the job, on any machine.

        With the id it makes a key by which others can tell this attempt from a later one (a fencing token).
        """
        claim = self._terms.claim
        return None if claim is None else claim.token

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell whoever holds the handle of a durable job how far it is; of another job nobody is told.

        May be called as often as one likes: what comes too soon after the last is held back. Never blocks for long.
        """
        claim = self._terms.claim
        if claim is not None:
            claim.progress(done, total, note)

    def complete(self, connection: object, result: Any = None) -> None:
        """Be done with *result* if and only if the transaction that is open on *connection* is committed.

        For a durable job; of another one, it does nothing. See `penstock.complete`.
        """
        claim = self._terms.claim
        if claim is not None:
            claim.complete(self, connection, result)

    async def acomplete(self, connection: object, result: Any = None) -> None:
        """As `complete`, for coroutines."""
        claim = self._terms.claim
        if claim is not None:
            await claim.acomplete(self, connection, result)

    @property
    def waited(self) -> float | None:
        """Seconds that it waited in the backlog before its last attempt; None until it starts."""
        try:
            return max(0.0, self._began - self._since)
        except AttributeError:
            return None

    @property
    def ran(self) -> float | None:
        """Seconds that its last attempt took, or has taken so far; None until it starts."""
        if self._stage is _RUNNING:
            return max(0.0, clock.monotonic() - self._began)
        try:
            return self._ended - self._began
        except AttributeError:
            return None

    @property
    def worker(self) -> str | None:
        """The name of the worker that runs or ran it; None until it starts."""
        return getattr(self, "_worker", None)

    def stack(self) -> str:
        """Where it stands now, innermost call last, as a traceback prints it; empty if it isn't running."""
        return self._terms.crew.stack(self)

    # The Future's contract

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel a waiting job (True), or ask a running one to stop by tripping its context (False).

        True again for a job that was cancelled before it ran. Costs time in proportion to its place in the backlog.
        """
        return self._terms.crew.cancel(self, reason)

    def forget(self) -> bool:
        """Cancel it if no worker has started it yet; a running one is left in peace. True if it is cancelled."""
        return self._terms.crew.forget(self)

    def cancelled(self) -> bool:
        """Whether it was cancelled before it ran. A job that stopped because it was asked to raises `JobCancelled`."""
        return self._stage is _CANCELLED and not self._value.started

    def running(self) -> bool:
        """Whether a worker runs it now."""
        return self._stage is _RUNNING

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self._stage in FINAL

    def result(self, timeout: float | None = None) -> T:
        """What the function returned, waiting at most *timeout* seconds for it.

        Raises what the function raised; `JobCancelled`, `DeadlineExceeded` or `JobAbandoned` if there is no result to
        give; `TimeoutError` if *timeout* passed first. In a job of the same pool the waiting worker lends its slot
        (`NestedWait` if that can't help), and inside any job or `with Context` block the wait ends with `Cancelled`
        when that context trips.
        """
        if self._stage not in FINAL:
            self._wait(timeout)
        if self._stage is _DONE:
            return cast(T, self._value)
        self._observed()
        try:
            raise self._value
        finally:
            del self  # the traceback must not keep the job: a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the function raised, None if it returned; waits and raises as `result` does.

        A job that was cancelled before it ran raises `JobCancelled`.
        """
        if self._stage not in FINAL:
            self._wait(timeout)
        if self._stage is _DONE:
            return None
        self._observed()
        if self.cancelled():
            raise self._value
        return cast(BaseException, self._value)

    def wait_seen(self) -> None:
        """Wait until it has its outcome, which counts as seen: a `stream` hands it to its caller."""
        if self._stage not in FINAL:
            self._wait(None)
        if self._stage is not _DONE:
            self._observed()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(job)` when the job has its outcome, now if it has.

        It runs on the thread that settles the job: a worker, the caller of `cancel`, or a thread of its own when the
        deadline or a stop did it. What it raises is logged.
        """
        if getattr(fn, "__module__", None) == "asyncio.tasks":
            # `asyncio.wait([job])`: it calls no future but asyncio's from the loop's thread, and would wait for ever.
            raise TypeError(f"asyncio.wait takes no jobs: give it asyncio.ensure_future(job), here of {self.label}")
        bell = self._get_bell()
        with bell.lock:
            if not bell.rung:
                bell.callbacks.append(fn)
                return
        self._call_back([fn])

    def set_running_or_notify_cancel(self) -> bool:
        """A job is moved by its pool alone: raises InvalidStateError."""
        raise InvalidStateError(f"{self.label} is moved by its pool alone")

    def set_result(self, result: T) -> None:
        """A job is settled by its pool alone: raises InvalidStateError."""
        raise InvalidStateError(f"{self.label} is settled by its pool alone")

    def set_exception(self, exception: BaseException | None) -> None:
        """A job is settled by its pool alone: raises InvalidStateError."""
        raise InvalidStateError(f"{self.label} is settled by its pool alone")

    def __await__(self) -> Generator[Any, None, T]:
        """Its result. Cancelling the awaiting task cancels the job, or trips its context if it runs.

        A job that somebody else cancelled raises `JobCancelled` here, as from `result`: not asyncio's CancelledError,
        by which the task would take itself for cancelled. In a job of the same pool that runs an event loop the worker
        lends its slot, as in `result`.
        """
        if self._stage is _DONE:
            return self._value  # type: ignore[no-any-return]
        try:
            if self._stage not in FINAL:
                yield from self._suspend()
            return self.result()
        finally:
            del self  # the traceback must not keep the job: a cycle

    async def settled(self) -> None:
        """Wait until it has its outcome, which counts as seen. The task that waits may be cancelled; the job is not."""
        if self._stage not in FINAL:
            await _Suspension(self)
        if self._stage is not _DONE:
            self._observed()

    def _suspend(self, *, cancels: bool = True) -> Generator[Any, None, None]:
        """Suspend the calling task until the outcome is there; *cancels*: if the task is cancelled, so is the job."""
        import asyncio  # only for those who use it

        loop = asyncio.get_running_loop()
        here = threading.get_ident()
        ended: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell(job: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                if threading.get_ident() == here:
                    wake()
                else:
                    loop.call_soon_threadsafe(wake)

        with self._terms.crew.lending(self):
            self.add_done_callback(tell)
            try:
                yield from ended
            except asyncio.CancelledError:
                if cancels:
                    self.cancel("the task that awaited it was cancelled")
                raise

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name} {self._stage}>"

    # For the stdlib's wait(), as_completed() and asyncio, which look inside a Future. Hidden from type checkers: they
    # would find a Future whose fields can't be written.

    if not TYPE_CHECKING:

        @property
        def _state(self) -> str:
            if self._stage not in FINAL:
                return "RUNNING" if self._stage is not _READY or self._attempt else "PENDING"
            if self._bell is not None and not self._bell.rung:
                return "RUNNING"  # not before its waiters were told: they would count it twice
            return "CANCELLED_AND_NOTIFIED" if self.cancelled() else "FINISHED"

        @property
        def _result(self) -> T | None:
            return self._value if self._stage is _DONE else None

        @property
        def _exception(self) -> BaseException | None:
            return None if self._stage not in FINAL or self._stage is _DONE or self.cancelled() else self._value

        @property
        def _condition(self) -> threading.Condition:
            bell = self._get_bell()
            with _making_bells:  # not the bell's own lock: they ask for this again while they hold it
                if bell.condition is None:
                    bell.condition = threading.Condition(bell.lock)
                return bell.condition

        @property
        def _waiters(self) -> list[Any]:
            return self._get_bell().waiters

        @property
        def _done_callbacks(self) -> list[Callable[[Any], object]]:
            return self._get_bell().callbacks

        def _get_snapshot(
            self,
        ) -> tuple[bool, bool, T | None, BaseException | None]:  # newer Pythons' asyncio asks this
            done = self._state in ("CANCELLED_AND_NOTIFIED", "FINISHED")
            return done, self.cancelled(), self._result, self._exception

    # For its crew

    def _call(self) -> T:
        """Run the function in the calling thread, as this job."""
        _enter(self)
        try:
            return self._fn(*self._args)  # type: ignore[operator, misc]
        finally:
            del self  # the frames of an error reach this one, and the job keeps its error: a cycle

    def _settle(self, stage: JobState, value: Any) -> None:
        """Give the job its outcome. The caller has taken it out of its room, and counts it."""
        self._value = value
        self._stage = stage
        self._let_go()
        if self._bell is not None:
            self._ring()
        if self._terms.claim is not None:
            self._tell_claim()

    def _let_go(self) -> None:
        """Keep nothing of the call but the function's name."""
        if not isinstance(self._fn, str):
            self._fn = name_of(self._fn)
        self._args = self._cv = None
        if self._context is not None:
            self._context.close()

    def _tell_claim(self) -> None:
        """Tell whoever holds the claim."""
        claim = self._terms.claim
        assert claim is not None
        if timers.must_not_block():
            timers.run_user_code(lambda: claim.ended(self))
        else:
            claim.ended(self)

    def _ring(self) -> None:
        """Tell everybody who waits. The stage is final; safe to repeat."""
        bell = self._bell
        assert bell is not None
        with bell.lock:
            if bell.rung:
                return
            bell.rung = True
            for sleeper in bell.sleepers:
                sleeper.wake()
            for waiter in bell.waiters:
                if self._stage is _DONE:
                    waiter.add_result(self)
                elif self.cancelled():
                    waiter.add_cancelled(self)
                else:
                    waiter.add_exception(self)
            callbacks, bell.callbacks = bell.callbacks, []
        if callbacks:
            timers.run_user_code(lambda: self._call_back(callbacks))

    def _call_back(self, callbacks: list[Callable[[Any], object]]) -> None:
        for callback in callbacks:
            try:
                callback(self)
            except BaseException:  # a SystemExit, too: it must not take a worker along
                log.exception("exception calling callback for %s", self.label, extra={"job": self.id})

    def _get_bell(self) -> _Bell:
        bell = self._bell
        if bell is None:
            with _making_bells:
                bell = self._bell
                if bell is None:
                    bell = self._bell = _Bell()
            if self._stage in FINAL:
                self._ring()  # who settled the job may have looked before the bell was there
        return bell

    def _wait(self, timeout: float | None) -> None:
        """Block until the outcome is there, else TimeoutError, or Cancelled if the caller's context trips first."""
        if not self._terms.crew.wait(self, lambda: self._block(timeout)):
            raise TimeoutError

    def _block(self, timeout: float | None) -> bool:
        bell = self._get_bell()
        sleeper = _Sleeper()
        with bell.lock:
            if bell.rung:
                return True
            bell.sleepers.append(sleeper)
        try:
            around = scope.get()
            if around is None:
                sleeper.sleep(timeout)
            else:
                self._sleep_within(around.context, sleeper, timeout)
        finally:
            if self._stage not in FINAL:
                with bell.lock:
                    bell.sleepers.remove(sleeper)
        return self._stage in FINAL

    def _sleep_within(self, context: Context, sleeper: _Sleeper, timeout: float | None) -> None:
        """Sleep until the outcome is there or *timeout* has passed; Cancelled if the caller's *context* trips first."""
        until, deadline = clock.deadline_after(timeout), context.deadline
        if deadline is not None and (until is None or deadline < until):
            until = deadline
        stop_listening = context.listen(lambda cause: sleeper.wake(), on_time=False)
        try:
            sleeper.sleep(clock.remaining(until))
        finally:
            stop_listening()
        if self._stage not in FINAL:
            context.check()

    def _observed(self) -> None:
        """Somebody has seen how it failed."""
        self._terms.crew.observed(self)


class MadeJob(Job[T]):
    """A `Job` as pools make it: a call of this costs half of `Job.__new__(Job)`, and `Job()` can say who makes jobs."""

    __slots__ = ()
    __init__ = object.__init__


MadeJob.__name__ = MadeJob.__qualname__ = Job.__qualname__


class _Suspension:
    """Awaits a job without asking how it ended."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, None]:
        return self._job._suspend(cancels=False)


def new_job(
    terms: Terms,
    number: int,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cv: ContextVars,
    since: float,
) -> Job[T]:
    """A job for `fn(*args, **kwargs)`. Not by an `__init__` of its own, which would cost half as much again."""
    job: Job[T] = MadeJob()
    job._terms = terms
    job._number = number
    if kwargs:
        job._fn = functools.partial(fn, *args, **kwargs)
        job._args = ()
    else:
        job._fn = fn
        job._args = args
    job._cv = cv
    job._since = since
    job._stage = _READY
    job._bell = None
    job._context = None
    job._attempt = 0
    return job


def name_of(fn: object) -> str:
    """What to call *fn* in messages: its qualified name, that of the function in a partial, or its type's."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = fn.__qualname__  # type: ignore[attr-defined]
    except Exception:  # a proxy may raise anything, or answer with anything
        name = None
    return name if isinstance(name, str) else type(fn).__qualname__


def current_job() -> Job[Any] | None:
    """The job that the calling code is part of; None outside jobs."""
    around = scope.get()
    while isinstance(around, Context):
        around = around._outer
    return around if isinstance(around, Job) else None


def _start_afresh() -> None:
    """A forked child may find the lock held by a thread that it doesn't have."""
    global _making_bells
    _making_bells = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

__all__ = [
    "FINAL",
    "MOVES",
    "AnyJob",
    "CancelledError",
    "Crew",
    "Job",
    "JobCancelled",
    "JobState",
    "MadeJob",
    "Terms",
    "current_job",
]
