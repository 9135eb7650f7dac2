"""One thread that runs jobs, one at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from penstock import clock
from penstock.job import Job, JobState, name_of
from penstock.lifecycle import Phase
from penstock.pool.ledger import ALL_OF_FIRST, ONE_IN, Tally

if TYPE_CHECKING:
    from penstock.pool.crew import ThreadCrew

_DONE, _RUNNING = JobState.DONE, JobState.RUNNING  # looked up once: each costs as much as a step of `run`


@dataclass(eq=False, slots=True)
class Overrun:
    """A thread that is still in a job which has its outcome already, or waits for this to try again."""

    job: Job[Any]
    outcome: Literal["overran", "abandoned"]
    since: float  # monotonic: when the attempt began
    stuck_at: float  # monotonic: from then on it is stuck, and nobody waits for it
    replaced: bool = False  # its slot went to a fresh thread


class Worker:
    """A worker of *crew*. Fields are its own thread's, if nothing else is said."""

    __slots__ = (
        "_attempts",
        "_call",
        "_crew",
        "_ledger",
        "_lifecycle",
        "_running",
        "is_caller",
        "lock",
        "name",
        "overrun",
        "tally",
        "thread",
        "waits_for",
    )

    def __init__(self, crew: ThreadCrew, name: str, *, is_caller: bool = False) -> None:
        self._crew = crew
        self._lifecycle = crew.lifecycle
        self._ledger = crew.ledger
        self._attempts = crew.attempts
        self._running = crew.attempts.running
        self._call = crew.call
        self.name = name
        self.is_caller = is_caller  # no member of the staff, but a submitter that runs its job itself
        self.tally: Tally = crew.ledger.open_tally()
        self.lock = threading.Lock()  # held, but for the moment of a wake: the worker sleeps on it
        self.lock.acquire()
        self.thread: threading.Thread | None = None  # set by whoever starts it
        self.overrun: Overrun | None = None  # guarded by Attempts._lock
        self.waits_for: Job[Any] | None = None  # guarded by Staff._lock

    def work(self) -> None:
        """The thread's whole life."""
        staff = self._crew.staff
        if staff.enter(self):
            self._work_until_told_to_leave()
        staff.left(self)

    def _work_until_told_to_leave(self) -> None:
        staff, backlog = self._crew.staff, self._crew.backlog
        queue, due, places = backlog.queue, backlog.due, backlog.places
        while not (staff.alive > staff.capacity and staff.may_leave(self)):
            try:
                if due:
                    job = due.popleft()
                else:
                    job = queue.popleft()
                    # Places.give, written out for the common case that nobody waits.
                    if places.waiting:
                        places.give()
                    else:
                        places.free.append(None)
                        if places.waiting and places.take():
                            places.give()
            except IndexError:
                if not self._park():
                    return
            else:
                self.run(job)
                del job  # keep nothing while waiting for the next one

    def _park(self) -> bool:
        """Sleep until there may be work; False when the pool is closed and none is left."""
        staff, backlog, lifecycle = self._crew.staff, self._crew.backlog, self._crew.lifecycle
        staff.idle.append(self)
        if backlog.queue or backlog.due or lifecycle.phase is Phase.CLOSED:
            try:
                staff.idle.remove(self)
            except ValueError:
                pass  # somebody has taken us off the stack to wake us: the wake comes, or is there
            else:
                return bool(backlog.queue or backlog.due) or lifecycle.phase is not Phase.CLOSED
        self.lock.acquire()
        staff.waking = False
        if staff.idle and len(backlog.queue) + len(backlog.due) > 1 and not backlog.places.next_one_submits():
            staff.wake_one()
        return bool(backlog.queue or backlog.due) or lifecycle.phase is not Phase.CLOSED

    def run(self, job: Job[Any]) -> None:
        """Run one attempt of *job*, which the caller took out of its room, and settle it."""
        running = self._running
        began = clock.monotonic()
        # The job is in our hands; all is written before it is in the room of running ones, where others can take it.
        job._began = began
        job._attempt += 1
        job._worker = self.name
        job._stage = _RUNNING
        running[job] = self
        cv = job._cv
        if job._context is not None or self._lifecycle.cutting or not job._terms.plain:
            if not self._attempts.begin(self, job):
                return
            if job._terms.retry is not None and cv is not None:
                cv = cv.copy()  # what one attempt sets the next one must not see
        if self._ledger.observers:
            self._attempts.tell_started(job)
        try:
            value = cv.run(self._call, job)  # type: ignore[union-attr]
        except BaseException as error:
            self._attempts.failed(self, job, error)
            del job, cv  # the frames of the error reach this one, and the job keeps its error: a cycle
            return
        ended = clock.monotonic()
        if running.pop(job, None) is None:
            self._attempts.came_back(self, job)
            return
        tally = self.tally
        tally.done += 1
        if tally.done < ALL_OF_FIRST or not tally.done & ONE_IN:  # a sample of many is as good, and costs less
            tally.times.extend((job._since, began, ended))
        job._ended = ended
        # From here on as Job._settle, written out: a call costs as much as all of it.
        job._value = value
        job._stage = _DONE
        fn = job._fn
        job._fn = fn.__qualname__ if type(fn) is FunctionType else name_of(fn)
        del fn
        job._args = job._cv = None
        if job._context is not None:
            job._context.close()
        if job._bell is not None:
            job._ring()
        if self._ledger.observers:
            self._attempts.tell_ended(job, None)
        tally.ended += 1
        if self._lifecycle.closing:
            self._crew.check_drained()
