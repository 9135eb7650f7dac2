"""Accepting jobs: from a thread, from a coroutine, for a `map`, and when the backlog is full.

The race with `close`. A submit takes a place, then a number, and looks at `closing` after that. If the pool was closed
by then, it withdraws: the number doesn't count, the place goes back, the caller gets `PoolClosed`. If not, the job is
accepted before the close: its number is out, so the accounts can't balance, and the pool can't be closed, until it has
ended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import copy_context
from threading import current_thread, main_thread
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from penstock import clock, timers
from penstock.context import Context, scope
from penstock.errors import BacklogFull, NotPicklable
from penstock.events import JobAccepted
from penstock.job import FINAL, Job, JobState, MadeJob, new_job
from penstock.pool.caller import on_event_loop
from penstock.pool.lines import CoroutineInLine, Line, SubmitterInLine
from penstock.pool.runner import ThreadRunner
from penstock.pool.stacks import drop_our_frames
from penstock.pool.terms import JobTerms, check_function

if TYPE_CHECKING:
    from penstock.pool.crew import Crew

_READY = JobState.READY
_around = scope.get  # of what is imported, a method is looked up anew by each call
_HINT = (
    "this thread runs an event loop, which waiting would stop: use `await pool.asubmit(…)`, "
    "or ask for it with when_full='block'"
)


class Intake:
    """The door of one pool. Any thread may call any method; what state it has is a memory of the last check."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._lifecycle = crew.lifecycle
        self._staff = crew.staff
        self._ledger = crew.ledger
        self._numbers = crew.ledger.numbers
        self._places = crew.backlog.places
        self._free = crew.backlog.places.free
        self._queue = crew.backlog.queue
        self._pack = crew.pack
        self._checked: CodeType | None = None  # the last function's: most jobs of a pool are calls of one function

    def submit(
        self,
        terms: JobTerms,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        placed: bool = False,
    ) -> Job[Any]:
        """Accept one call, waiting for a place in the backlog as *terms* say; *placed*: the caller holds one for it.

        One function for the whole way in, and steps of others written out: a call costs as much as several of them. No
        parameter is for a keyword alone: calls of such a function are never made fast (Python 3.11). What a step does
        is noted before it: an exception that a signal's handler raises comes at the end of a call, not before it.
        """
        if type(fn) is not FunctionType or fn.__code__ is not self._checked:
            check_function(fn)
            if type(fn) is FunctionType:
                self._checked = fn.__code__
        lifecycle = self._lifecycle
        numbered = False
        queued: Job[Any] | None = None
        try:
            if not placed:
                if lifecycle.closing:
                    raise self._crew.refusal()
                try:
                    placed = True
                    self._free.pop()  # Places.take
                except IndexError:
                    placed = False
                if not placed:
                    if terms.when_full == "caller":
                        return self.run_in_caller(terms, fn, args, kwargs)
                    placed = self._wait_for_place(terms)
            numbered = True
            number = next(self._numbers)
            job: Job[Any] = MadeJob()  # new_job, written out
            job._terms = terms
            job._number = number
            if kwargs:
                job._fn = functools.partial(fn, *args, **kwargs)
                job._args = ()
            else:
                job._fn = fn
                job._args = args
            job._cv = copy_context()
            job._since = clock.monotonic()
            job._stage = _READY
            job._bell = None
            job._context = None
            job._attempt = 0
            if lifecycle.closing:
                raise self._crew.refusal()
            if not terms.plain or _around() is not None:
                self._prepare(job)
            if self._ledger.observers:
                self._ledger.tell(JobAccepted(self._ledger.pool, job.id, job.name))
            if self._pack is not None and not self._can_be_packed(job):
                self._places.give()
                return job
            queued = job
            self._queue.append(job)  # Backlog.put
        except BaseException:  # it was refused, or Ctrl-C came: it is not accepted, and leaves nothing behind
            if queued is not None:
                if self._crew.take_out(queued):  # else a worker has it already
                    self._withdraw()
                raise
            if placed:
                self._give_back()
            if numbered:
                self._withdraw()
            raise
        staff = self._staff
        if staff.idle:
            if not staff.waking:
                staff.wake_one()
        elif staff.alive < staff.capacity:
            staff.grow()
        if lifecycle.cutting:
            self._crew.cut_waiting()  # the stop may have looked just before the job was there
        if job._context is not None:
            self._crew.attempts.listen(job)
        return job

    async def submit_from_loop(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """As `submit`, but a full backlog makes the coroutine wait, not its loop."""
        check_function(fn)
        if self._lifecycle.closing:
            raise self._crew.refusal()
        if not self._places.take():
            if terms.when_full in ("reject", "caller"):
                return self.submit(terms, fn, args, kwargs)
            with self._staff.lending(None):
                await self._line_up_from_loop(terms)
        return self.submit(terms, fn, args, kwargs, placed=True)

    def accept_all(self, terms: JobTerms, fn: Callable[..., Any], inputs: Iterator[tuple[Any, ...]]) -> list[Job[Any]]:
        """Accept a call for each of *inputs*, now; those that find no place wait in a line of their own."""
        check_function(fn)
        jobs: list[Job[Any]] = []
        line = Line(self._places, self._crew.backlog.put)
        for args in inputs:
            if not line.jobs and self._places.take():
                jobs.append(self.submit(terms, fn, args, {}, placed=True))
                continue
            job = self._accept_without_place(terms, fn, args, {})
            try:
                jobs.append(job)
                if self._pack is not None and not self._can_be_packed(job):
                    continue
                self._crew.backlog.put_in_line(job, line)  # at once: the next input may be long in coming
            except BaseException:  # Ctrl-C: accepted is what is in the line, or has moved up
                if job._stage not in FINAL and (line.take_out(job) or line.last != job._number):
                    self._withdraw()
                raise
            if self._lifecycle.cutting:
                self._crew.cut_waiting()
            if job._context is not None:
                self._crew.attempts.listen(job)
        return jobs

    def _accept_without_place(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """A job that is accepted and not in the backlog yet."""
        numbered = False
        try:
            number = next(self._numbers)
            numbered = True
            job: Job[Any] = new_job(terms, number, fn, args, kwargs, copy_context(), clock.monotonic())
            if self._lifecycle.closing:
                raise self._crew.refusal()
            self._prepare(job)
            if self._ledger.observers:
                self._ledger.tell(JobAccepted(self._ledger.pool, job.id, job.name))
        except BaseException:
            if numbered:
                self._withdraw()
            raise
        return job

    def _can_be_packed(self, job: Job[Any], *, runs_here: bool = False) -> bool:
        """Pack *job* for its journey to another process; if it can't be, that is how it ends."""
        assert self._pack is not None
        try:
            self._pack(job, runs_here)
        except NotPicklable as error:
            drop_our_frames(error)
            self._crew.attempts.settle(job, JobState.FAILED, error)
            self._crew.check_drained()
            return False
        return True

    def _withdraw(self) -> None:
        """A number was taken, but the job is not accepted."""
        self._ledger.withdraw()
        self._crew.check_drained()

    def _prepare(self, job: Job[Any]) -> None:
        """Tie *job* to the context that it was given or is submitted in."""
        job._accepted = job._since
        terms = job._terms
        parent = terms.context
        if parent is None and terms.inherit:
            around = scope.get()
            parent = None if around is None else around.context
        if parent is not None:
            job._context = Context(parent=parent)

    def run_in_caller(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """The backlog is full: run the job here and now."""
        job = self._accept_without_place(terms, fn, args, kwargs)
        if self._pack is not None and not self._can_be_packed(job, runs_here=True):  # a worker may have to retry it
            return job
        caller = ThreadRunner(self._crew, current_thread().name, current_thread())
        try:
            caller.run(job)
        finally:
            self._ledger.close_tally(caller.tally)
        if job._stage not in FINAL:
            self._staff.call()  # it is to be tried again: from here on it is any worker's
        if caller.interrupted and current_thread() is main_thread():
            raise KeyboardInterrupt  # the job has it for its error; but it was meant for the program
        return job

    # Waiting for a place

    def _wait_for_place(self, terms: JobTerms) -> bool:
        """True with a place in hand; else BacklogFull, PoolClosed, or Cancelled by the caller's context is raised."""
        if terms.when_full == "reject":
            raise BacklogFull(self._crew.settings.backlog)
        if terms.when_full is None and on_event_loop():
            raise BacklogFull(self._crew.settings.backlog, hint=_HINT)
        return self._staff.waiting_for(None, functools.partial(self._line_up, terms))

    def _line_up(self, terms: JobTerms) -> bool:
        begun = clock.monotonic()
        context, deadline = _limits(terms, begun)
        waiter = SubmitterInLine()
        stop_listening = None if context is None else context.listen(lambda cause: waiter.nudge(), on_time=False)
        self._places.wait(waiter)
        try:
            if not self._lifecycle.closing and not (context is not None and context.cancelled):
                waiter.sleep(deadline)
        except BaseException:  # a KeyboardInterrupt in the main thread
            self._leave_line(waiter)
            raise
        finally:
            if stop_listening is not None:
                stop_listening()
        return self._placed(waiter, context, begun)

    async def _line_up_from_loop(self, terms: JobTerms) -> bool:
        import asyncio  # only for those who use it

        begun = clock.monotonic()
        context, deadline = _limits(terms, begun)
        waiter = CoroutineInLine(asyncio.get_running_loop())
        stop_listening = None if context is None else context.listen(lambda cause: waiter.nudge(), on_time=False)
        self._places.wait(waiter)
        try:
            if not self._lifecycle.closing and not (context is not None and context.cancelled):
                await waiter.sleep(deadline)
        except GeneratorExit:  # it is destroyed, by the collector perhaps, where a lock may be held
            timers.call_apart(functools.partial(self._give_up_line, waiter, stop_listening))
            raise
        except BaseException:  # the task was cancelled
            self._give_up_line(waiter, stop_listening)
            raise
        if stop_listening is not None:
            stop_listening()
        return self._placed(waiter, context, begun)

    def _give_up_line(self, waiter: CoroutineInLine, stop_listening: Callable[[], None] | None) -> None:
        self._leave_line(waiter)
        if stop_listening is not None:
            stop_listening()

    def _leave_line(self, waiter: SubmitterInLine | CoroutineInLine) -> None:
        if self._places.leave(waiter):
            self._staff.call_for_waiting()
        else:
            self._give_back()

    def _give_back(self) -> None:
        """A place is not used after all; and a worker may have left it to us to wake the next one."""
        self._places.give()
        self._staff.call_for_waiting()

    def _placed(self, waiter: SubmitterInLine | CoroutineInLine, context: Context | None, begun: float) -> bool:
        """True if *waiter* was granted a place; else it leaves the line, and the reason is raised."""
        if not self._places.leave(waiter):
            return True  # if the pool was closed meanwhile, `submit` will say so
        self._staff.call_for_waiting()
        if self._lifecycle.closing:
            raise self._crew.refusal()
        if context is not None:
            context.check()
        raise BacklogFull(self._crew.settings.backlog, clock.monotonic() - begun)


def _limits(terms: JobTerms, begun: float) -> tuple[Context | None, float | None]:
    """The caller's context, and until when it may wait: its own deadline, or that of *terms* if it is earlier."""
    around = scope.get()
    context = None if around is None else around.context
    deadline = None if terms.submit_timeout is None else begun + terms.submit_timeout
    own = None if context is None else context.deadline
    if own is not None:
        deadline = own if deadline is None else min(deadline, own)
    return context, deadline
