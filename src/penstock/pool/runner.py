"""A thread that runs jobs: a worker of a thread pool, or a submitter that has to run its job itself."""

from __future__ import annotations

import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

from penstock import clock, raised
from penstock.context import Cause
from penstock.errors import JobAbandoned
from penstock.job import Job, JobState, name_of
from penstock.pool.attempts import Overrun
from penstock.pool.ledger import ALL_OF_FIRST, ONE_IN, Tally
from penstock.pool.stacks import stack_of

if TYPE_CHECKING:
    from penstock.pool.crew import Crew

_DONE, _RUNNING = JobState.DONE, JobState.RUNNING  # looked up once: each costs as much as a step of `run`


class ThreadRunner:
    """A thread that runs jobs of *crew*, one at a time; by itself, that of a submitter.

    Fields are its own thread's, if nothing else is said.
    """

    __slots__ = (
        "_attempts",
        "_call",
        "_crew",
        "_ledger",
        "_lifecycle",
        "_running",
        "interrupted",
        "name",
        "overrun",
        "tally",
        "thread",
    )

    def __init__(self, crew: Crew, name: str, thread: threading.Thread | None = None) -> None:
        self._crew = crew
        self._lifecycle = crew.lifecycle
        self._ledger = crew.ledger
        self._attempts = crew.attempts
        self._running = crew.attempts.running
        self._call = crew.call
        self.name = name
        self.thread = thread  # set by whoever starts it
        self.tally: Tally = crew.ledger.open_tally()
        self.interrupted = False  # by Ctrl-C, which is not the job's alone if it reached the main thread
        self.overrun: Overrun | None = None  # guarded by Attempts._lock

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
        plain = job._terms.plain
        if job._context is not None or self._lifecycle.cutting or not plain:
            if not self._attempts.begin(self, job):
                return
            if job._terms.retry is not None and cv is not None:
                cv = cv.copy()  # what one attempt sets the next one must not see
        if self._ledger.observers:
            self._attempts.tell_started(job)
        try:
            value = cv.run(self._call, job)  # type: ignore[union-attr]
        except BaseException as error:
            self.interrupted = raised.is_a(error, KeyboardInterrupt)
            self._attempts.failed(self, job, error)
            del job, cv  # the frames of the error reach this one, and the job keeps its error: a cycle
            return
        ended = clock.monotonic()
        # A plain job has one attempt: whose else could it be? Of another one, the next attempt may run already.
        if running.pop(job, None) is None if plain else not self._attempts.take(job, self):
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
        if job._terms.claim is not None:
            job._tell_claim()
        if self._ledger.observers:
            self._attempts.tell_ended(job, None)
        tally.ended += 1
        if self._lifecycle.closing:
            self._crew.check_drained()

    # As attempts.Runner: any thread

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """The job sees its context; there is nobody else to tell."""

    def stack(self) -> str:
        """Where its thread stands."""
        return stack_of(self.thread)

    def stack_at_deadline(self) -> str:
        """Where its thread stands."""
        return stack_of(self.thread)

    def margin_is_over(self, overrun: Overrun) -> None:
        """Its thread is still in a job that overran."""
        self._attempts.still_there(self, overrun, stack_of(self.thread))

    def replace(self) -> bool:
        """A submitter has no slot to give away."""
        return False

    def came_back_late(self) -> None:
        """Nothing to do: its slot was not given away."""

    def fate(self, replaced: bool) -> str:
        """What becomes of its thread."""
        return "its thread is its submitter's own"

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """A thread can't be ended: it is left behind."""
        return JobState.ABANDONED, JobAbandoned(job.label, job._ended - job._began)
