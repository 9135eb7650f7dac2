"""A pool from the inside, whatever its workers are: its parts, how they hang together, and how it ends.

                                  backlog                          attempts
    submit ──> intake ── place ──> queue ──┐
    map ─────> intake ──> lines ── place ──┤     workers (staff)                 ┌──> outcome ──> ledger, failures,
                                           ├────> [running] ── returns ──────────┤               waiters told
    next attempt ──> retrying ──> due ─────┘         │                           │
         ^                                           ├── raises ─────────────────┤
         └─────────── worth another attempt ─────────┤                           │
                                                     ├── deadline (timers) ──────┤
                                                     └── the stop's end ─────────┘

Ownership. Every accepted job without an outcome is in exactly one room, or in the hands of the one thread that just
took it out of one. Taking out is one atomic step, so two threads never both own a job: the worker that ends it, the
timers that fail it at its deadline, the user who cancels it and the stop that abandons it all have to take it out
first, and who comes too late finds nothing and leaves it alone.

The end. `close` moves the phase to DRAINING. Whoever gives a job its outcome after that looks whether the accounts
balance; the last one moves the phase to CLOSED and wakes the idle workers to leave. Nobody has to wait for the end
for it to come.

Locks. Each part has one, and says what it guards. The order, where one is taken inside another: a context's tree, the
backlog's or the attempts', then the staff's, the ledger's, the timers'. The hot path (submit, take, run, settle) takes
none of them, and no user's code runs inside any. The collector may, so that what it ends takes none: a pool that nobody
holds, an iterator, a coroutine hand on what they have to do (`timers.call_apart`).
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from penstock import clock, timers
from penstock.context import scope
from penstock.errors import JobCancelled, PoolBroken, PoolClosed
from penstock.events import PoolStopped, PoolStopping
from penstock.job import FINAL, Job, JobState
from penstock.lifecycle import Lifecycle, Phase
from penstock.pool.attempts import Attempts
from penstock.pool.backlog import Backlog
from penstock.pool.intake import Intake
from penstock.pool.ledger import Ledger
from penstock.pool.terms import Around, PoolSettings
from penstock.report import Report, Stats

crews: weakref.WeakSet[Crew] = weakref.WeakSet()  # all that live, for the end of the interpreter and for forks


class Workers(Protocol):
    """Those who run the jobs of a crew, as its other parts see them. Any thread may call."""

    idle: list[Any]
    """Workers that wait for a job: a stack, read by whoever added one."""
    waking: bool
    """A worker was woken and has not looked for work yet: it will see what was added."""
    alive: int
    capacity: int
    broken: BaseException | None
    """Why none can be made ready, once that is certain."""

    @property
    def ahead(self) -> Mapping[Any, Any]:
        """The jobs that were sent ahead to a busy worker, and wait there."""
        ...

    def wake_one(self) -> None:
        """See that an idle worker, if there is one, takes a job."""
        ...

    def wake_all(self) -> None:
        """The crew is closed: let those that are idle leave."""
        ...

    def call(self) -> None:
        """There is work: wake a worker for it, or have one more start if none is idle and there may be one."""
        ...

    def call_for_waiting(self) -> None:
        """If jobs wait and a worker is idle, wake it."""
        ...

    def take_back(self, job: Job[Any]) -> bool:
        """Take *job* from those that were sent ahead to a worker; False if it isn't there, or runs already."""
        ...

    def take_all_back(self) -> list[Job[Any]]:
        """Take back every job that was sent ahead and has not begun."""
        ...

    def grow(self) -> bool:
        """Have one more worker start if there may be one."""
        ...

    def start(self) -> None:
        """Start all and wait until each is ready; raises what an initializer raised."""
        ...

    def waiting_for(self, job: Job[Any] | None, block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job* (None: for a place); a worker of this crew lends its slot meanwhile."""
        ...

    def lending(self, job: Job[Any] | None) -> AbstractContextManager[None]:
        """The same as a block, for a coroutine; a loop may be in several at once."""
        ...

    def is_here(self) -> bool:
        """Whether the calling thread is one of the workers."""
        ...

    def count(self) -> int:
        """How many there are now."""
        ...

    def join(self, deadline: float | None) -> None:
        """Wait until *deadline* for the workers of a closed crew to end."""
        ...

    def start_afresh(self) -> None:
        """In the child of a fork: none came along, and locks may be in any state."""
        ...


class Crew:
    """The inside of one pool, held by its workers and jobs. The public pool holds it, never the reverse.

    Invariants:
      1. A job is in one room, or in one thread's hands (see the top of this file).
      2. The phase is CLOSED if and only if the accounts balance after `close`.
    Lock: `_lock` guards `asked_at`, `budget`, `_why` and `_reported`; a leaf.
    """

    pack: Callable[[Job[Any], bool], None] | None = None
    """Makes a job fit to leave this process, where that is needed, or (True) to run here and then leave it.

    Raises NotPicklable if it can't be.
    """
    broken_error: type[PoolBroken] = PoolBroken
    """What jobs fail with that no worker can run."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.lifecycle = Lifecycle()
        self.ledger = Ledger(
            settings.name,
            keep_unobserved=settings.unobserved == "raise",
            log_failures=settings.unobserved != "ignore",
        )
        self.staff, self.attempts = self._hire()
        self.backlog = Backlog(settings.backlog, self.staff.call)
        self.call: Callable[[Job[Any]], Any] = Job._call
        if settings.around is not None:
            self.call = functools.partial(_call_around, settings.around)
        self.intake = Intake(self)
        self._lock = threading.Lock()
        self._asked_at: float | None = None  # monotonic: when the stop was asked for
        self._ended_at: float | None = None  # monotonic; written once, before the phase moves to CLOSED
        self._budget: float | None = None  # seconds
        self._why: str | None = None
        self._reported = False
        crews.add(self)

    def _hire(self) -> tuple[Workers, Attempts]:
        """The two parts that know what a worker is. Made first: `backlog` and `intake` are not there yet."""
        raise NotImplementedError

    # What a job asks of it: see job.Crew

    def cancel(self, job: Job[Any], reason: str) -> bool:
        """Settle *job* as cancelled if no worker has started it (True), else trip its context (False)."""
        if self.forget(job, reason):
            return True
        if job._stage not in FINAL:
            job.context.cancel(reason)
        return job.cancelled()

    def forget(self, job: Job[Any], reason: str = "cancelled") -> bool:
        """Cancel *job* if no worker has started it; a running one is not disturbed."""
        error = JobCancelled(job.label, reason)
        if self.take_out(job) or self.attempts.take_out(job):
            self.attempts.settle(job, JobState.CANCELLED, error)
            self.check_drained()
        return job.cancelled()

    def take_out(self, job: Job[Any]) -> bool:
        """Take *job* out of the room where it waits for a worker; False if it is in none."""
        return self.backlog.take_out(job) or self.staff.take_back(job)

    def heed(self, job: Job[Any]) -> None:
        """A context was made for *job*; who runs it in this process sees that by itself."""

    def check_may_block(self) -> None:
        """RuntimeError if the jobs can't end while the calling thread waits for that."""

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job*; a worker of this pool lends its slot meanwhile."""
        return self.staff.waiting_for(job, block)

    def lending(self, job: Job[Any]) -> AbstractContextManager[None]:
        """A block in which a coroutine waits for *job*; a worker of this pool lends its slot meanwhile."""
        return self.staff.lending(job)

    def observed(self, job: Job[Any]) -> None:
        """Somebody has asked how *job* failed."""
        self.ledger.observed(job)

    def stack(self, job: Job[Any]) -> str:
        """Where the running *job* stands; empty if it doesn't run."""
        return self.attempts.stack(job)

    # Its end: whoever stops it; ladder.py has the order

    def close(self, why: str = "it was closed") -> None:
        """Take no more jobs. Accepted ones run on."""
        with self._lock:
            if self._asked_at is None:
                self._asked_at = clock.monotonic()
            self._why = self._why or why
        if self.lifecycle.advance(Phase.DRAINING) and self.ledger.observers:
            self.ledger.tell(PoolStopping(self.name))
        for waiter in self.backlog.places.waiting.copy():
            waiter.nudge()
        self.check_drained()

    def refusal(self) -> PoolClosed | PoolBroken:
        """Why no job is taken any more."""
        broken = self.staff.broken
        if broken is None:
            return PoolClosed(self.name, self._why or "it was closed")
        return self.broken_by(broken, f"its initializer raised {broken!r}")

    def broken_by(self, error: BaseException, why: str) -> PoolBroken:
        """What jobs fail with that can't run because of *error*."""
        refused = self.broken_error(self.name, why)
        refused.__cause__ = error
        return refused

    def cancel_waiting(self, reason: str) -> None:
        """Cancel what no worker has started, because the user asked for it."""
        for job in (*self.backlog.take_all(), *self.staff.take_all_back()):
            self.attempts.settle(job, JobState.CANCELLED, JobCancelled(job.label, reason))
        self.check_drained()

    def cut_waiting(self) -> None:
        """A stop starts no job any more: give those that wait the outcome that this leaves them."""
        with timers.nothing_may_block():
            self.attempts.cut_overrun()
            for job in (*self.backlog.take_all(), *self.staff.take_all_back()):
                self.attempts.cut(job)
            self.check_drained()

    def cancel_everything(self) -> None:
        """After CANCELLING: cancel what waits, and ask what runs to stop."""
        self.cut_waiting()
        with timers.nothing_may_block():
            self.attempts.cancel_running()

    def abandon(self) -> None:
        """After LEAVING: every job gets its outcome now; threads that are still inside one are left behind."""
        self.cut_waiting()
        with timers.nothing_may_block():
            self.attempts.abandon_running()
            self.check_drained()

    def give_up_missing(self) -> int:
        """Count as abandoned what is in no room and has no outcome, and let the pool end; how many jobs that is.

        A job is in no room while somebody has it in hand, who gives it its outcome a moment later. On the main thread
        a signal's handler may raise in that moment (Ctrl-C within `cancel`): then nobody does.
        """
        missing = self.ledger.give_up_missing()
        self.check_drained()
        return missing

    def check_drained(self) -> None:
        """If the pool is closing and every accepted job has its outcome, it is closed."""
        if not self.lifecycle.closing or self.backlog.queue or self.backlog.due or not self.ledger.balances():
            return
        if self._ended_at is None:
            self._ended_at = clock.monotonic()
        if self.lifecycle.advance(Phase.CLOSED):
            self.staff.wake_all()
            self.ledger.failures.flush()
            if self.ledger.observers:
                self.ledger.tell(PoolStopped(self.name))

    def broke(self, why: str = "its initializer raised") -> None:
        """Nothing that waits can ever run."""
        self.close(why)
        self.lifecycle.start_none()
        self.cut_waiting()

    def nobody_can_work(self, error: BaseException) -> None:
        """There is no worker, and none can be started: nothing that waits can run."""
        error = error.with_traceback(None)  # where we asked for one tells nothing
        refused = self.broken_by(error, f"no thread can be started: {error}")
        for job in self.backlog.take_all():
            self.attempts.settle(job, JobState.FAILED, refused, cut=True)
        self.check_drained()

    def budget(self, seconds: float, asked_at: float) -> None:
        """A stop that was asked for then has so many seconds; the smallest counts."""
        with self._lock:
            if self._asked_at is None:
                self._asked_at = asked_at
            self._budget = seconds if self._budget is None else min(self._budget, seconds)

    def first_to_report(self) -> bool:
        """True for one caller, who logs the last report."""
        with self._lock:
            first, self._reported = not self._reported, True
        return first

    # Looking in: any thread

    def report(self) -> Report:
        """The accounts, now."""
        closed = self.lifecycle.phase is Phase.CLOSED  # asked first: if it is, all that follows is final
        counts, cut = self.ledger.counts()
        asked_at, ended_at = self._asked_at, self._ended_at
        return Report(
            pool=self.name,
            accepted=self.ledger.accepted,
            done=counts[JobState.DONE],
            failed=counts[JobState.FAILED],
            cancelled=counts[JobState.CANCELLED],
            killed=counts[JobState.KILLED],
            abandoned=counts[JobState.ABANDONED],
            waiting=self.backlog.waiting + len(self.staff.ahead),
            running=len(self.attempts.running),
            retrying=self.backlog.retrying + self.attempts.waiting_for_thread,
            cut=cut,
            closing=self.lifecycle.closing,
            closed=closed,
            seconds=0.0 if asked_at is None else (ended_at if closed and ended_at else clock.monotonic()) - asked_at,
            budget=self._budget,
            stuck=self.attempts.stuck(),
        )

    def stats(self) -> Stats:
        """The numbers, now."""
        counts, _ = self.ledger.counts()
        waited, ran = self.ledger.times()
        return Stats(
            queued=self.backlog.waiting + len(self.staff.ahead),
            running=len(self.attempts.running),
            retrying=self.backlog.retrying + self.attempts.waiting_for_thread,
            workers=self.staff.count(),
            accepted=self.ledger.accepted,
            done=counts[JobState.DONE],
            failed=counts[JobState.FAILED],
            cancelled=counts[JobState.CANCELLED],
            killed=counts[JobState.KILLED],
            abandoned=counts[JobState.ABANDONED],
            oldest_queued=self.backlog.oldest(),
            waited_p50=_percentile(waited, 0.5),
            waited_p99=_percentile(waited, 0.99),
            ran_p50=_percentile(ran, 0.5),
            ran_p99=_percentile(ran, 0.99),
        )

    def belongs_to_parent(self) -> None:
        """In the child of a fork: none of the threads came along, and the locks may be in any state."""
        self._lock = threading.Lock()
        self._why = "it belongs to the parent process; make a new one after a fork"
        self._reported = True
        self.lifecycle.__init__(Phase.CLOSED)  # type: ignore[misc]
        self.ledger.start_afresh()
        self.backlog.start_afresh()
        self.attempts.start_afresh()
        self.staff.start_afresh()


def _nothing() -> None:
    pass


def _call_around(around: Around, job: Job[Any]) -> Any:
    """Run *job* inside of what the pool's `around` gives."""
    scope.set(job)
    try:
        with around():
            return job._call()
    finally:
        del job  # as in Job._call


def _percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _in_child() -> None:
    for crew in list(crews):
        crew.belongs_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
