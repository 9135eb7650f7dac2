"""A slot of a pool around an executor: leave to have one job in the executor's hands.

                        ┌── it ended: the job's outcome, whatever that is ───────┐
    idle ── hand_over ──┤                                                        ├──> idle
                        └── the job's time was over: overran ── it ended: late ──┘

A slot is taken until the executor's future has ended, whatever has become of the job meanwhile. So no more futures are
under way than there are slots.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextvars import Context as ContextVars
from typing import TYPE_CHECKING, Any

from penstock import clock, timers
from penstock.context import Cause
from penstock.errors import Cancelled, JobAbandoned, JobDropped
from penstock.job import Job, JobState
from penstock.lifecycle import Phase
from penstock.pool.attempts import Overrun
from penstock.pool.inner.carried import Carried
from penstock.pool.stacks import stack_of

if TYPE_CHECKING:
    from penstock.pool.inner import ExecutorCrew

log = logging.getLogger("penstock.pool")


class Hold:
    """One attempt of one job in the executor's hands.

    `future` and `asked`: the dispatcher writes the one and then reads the other, whoever asks for an end the other way
    round. So one of them sees both.
    """

    __slots__ = ("_told", "asked", "cv", "future", "job", "slot")

    def __init__(self, slot: Slot, job: Job[Any], cv: ContextVars) -> None:
        self.slot = slot
        self.job = job
        self.cv = cv
        self.future: Future[Any] | None = None
        self.asked = False  # its future is to be cancelled
        self._told = [None]  # taken by the first who says that the future has ended: one step

    def ended(self, future: Future[Any]) -> None:
        """The future has ended: said on any thread, perhaps with a lock of the executor's held; heard once."""
        try:
            self._told.pop()
        except IndexError:
            return
        self.future = None  # it holds this: a cycle
        with timers.nothing_may_block():
            self.slot.ended(self, future)

    def cancel_future(self) -> None:
        """Ask the executor not to run it. What comes of that is heard by `ended`."""
        future = self.future
        if future is not None:
            try:
                future.cancel()
            except BaseException:
                log.exception("the executor's future of %s could not be cancelled", self.job.label)

    # On a thread of this process that is to run it

    def enter(self, thread: threading.Thread) -> bool:
        """The thread has come to it; False if nobody wants it any more."""
        return self.slot.enter(self, thread)

    def leave(self) -> None:
        """The thread has left it."""
        self.slot.leave(self)


class Slot:
    """A slot, and the runner of the job that has it.

    One thread at a time has to do with a slot: the dispatcher while it is idle and until the future is there, then
    whoever says that the future has ended. Fields are theirs, if nothing else is said.
    """

    def __init__(self, crew: ExecutorCrew, name: str) -> None:
        self._crew = crew
        self._staff = crew.staff
        self.name = name
        self.tally = crew.ledger.open_tally()
        self.overrun: Overrun | None = None  # guarded by Attempts._lock
        self.thread: threading.Thread | None = None  # of this process, inside its job; written by that thread
        self.hold: Hold | None = None
        self.retired = False  # there is one too many: it goes when its future has ended

    # The dispatcher

    def hand_over(self, job: Job[Any]) -> None:
        """Give *job*, which is in our hands, to the executor."""
        fn, args, cv = job._fn, job._args, job._cv  # whoever takes it out of the running ones may drop these
        assert not isinstance(fn, str)
        assert args is not None
        assert cv is not None
        hold = self.hold = Hold(self, job, cv)
        attempts, settings = self._crew.attempts, self._crew.settings
        job._began = clock.monotonic()
        job._attempt += 1
        job._worker = self.name
        job._stage = JobState.RUNNING
        attempts.running[job] = self
        needs_care = job._context is not None or self._crew.lifecycle.cutting or not job._terms.plain
        if needs_care and not attempts.begin(self, job):
            self._staff.release(self)
            return
        if job._terms.retry is not None:
            hold.cv = cv.copy()  # what one attempt sets the next one must not see
        if self._crew.ledger.observers:
            attempts.tell_started(job)
        if settings.carries_context and (settings.is_local or job._context is not None):
            fn = Carried(fn, hold=hold)
        if attempts.running.get(job) is not self:  # its time is over, or the stop's
            attempts.came_back(self, job)
            self._staff.release(self)
            return
        try:
            hold.future = settings.executor.submit(fn, *args)
            hold.future.add_done_callback(hold.ended)
        except BaseException as error:
            self._staff.not_taken(hold, error)
        else:
            if hold.asked:
                hold.cancel_future()
        finally:
            del job, fn, args, cv, hold  # the frames of an error of `submit` reach this one, and the job keeps it

    # Whoever says that the future has ended

    def ended(self, hold: Hold, future: Future[Any]) -> None:
        """The executor has done with the job, on time or late."""
        attempts, job = self._crew.attempts, hold.job
        ended = clock.monotonic()
        value, error = _outcome(future, job)
        self._staff.heard(error)
        if error is None:
            attempts.returned(self, job, value, ended)
        else:
            attempts.failed(self, job, error, ended)
        self._staff.release(self)

    def not_run(self, hold: Hold) -> None:
        """The executor didn't take it, for no fault of its own: it ends as it would if it had not been tried."""
        attempts, job = self._crew.attempts, hold.job
        if attempts.take(job, self):
            job._attempt -= 1
            attempts.cut(job)
            self._crew.check_drained()
        else:
            attempts.came_back(self, job)

    # A thread of this process that runs its job

    def enter(self, hold: Hold, thread: threading.Thread) -> bool:
        """*thread* is about to run its job; False if that has its outcome already."""
        if self._crew.attempts.running.get(hold.job) is not self:
            return False
        self.thread = thread
        self._staff.enter(hold)
        return True

    def leave(self, hold: Hold) -> None:
        """The thread is out of its job."""
        self._staff.leave(hold)
        self.thread = None

    # As attempts.Runner: any thread

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """Its context was tripped: if the executor has not begun it, it need not; a cancel may block over there."""
        hold, context = self.hold, job._context
        if hold is not None and hold.job is job and context is not None and context.cause is not None:
            hold.asked = True
            if hold.future is not None:
                timers.run_user_code(hold.cancel_future)

    def stack(self) -> str:
        """Where its thread stands, if that is in this process."""
        return stack_of(self.thread)

    def stack_at_deadline(self) -> str:
        """The same."""
        return stack_of(self.thread)

    def margin_is_over(self, overrun: Overrun) -> None:
        """The executor still has a job whose time was over."""
        self._crew.attempts.still_there(self, overrun, self.stack())

    def replace(self) -> bool:
        """Give its slot to another; False if as many as may be are given away already."""
        return self._crew.lifecycle.phase is not Phase.CLOSED and self._staff.replace_stuck()

    def came_back_late(self) -> None:
        """Its future has ended after its slot was given to another."""
        self.retired = True

    def fate(self, replaced: bool) -> str:
        """What becomes of its slot."""
        return f"its slot is {'given to another job' if replaced else 'not given to another (max_stuck)'}"

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """The time to stop is over: the executor keeps it."""
        return JobState.ABANDONED, JobAbandoned(job.label, job._ended - job._began)


def _outcome(future: Future[Any], job: Job[Any]) -> tuple[Any, BaseException | None]:
    """What the executor says of *job*: a result, or an error."""
    try:
        if not future.cancelled():
            error = future.exception()
            return (future.result(), None) if error is None else (None, error)
    except BaseException as strange:  # whatever it is, that is what it says
        return None, strange
    cause = None if job._context is None else job._context.cause
    if cause is None:
        return None, JobDropped(job.label)
    return None, Cancelled(cause.reason, source=cause.source, by_deadline=cause.by_deadline)
