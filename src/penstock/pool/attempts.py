"""What becomes of one attempt: it raises, its time runs out, it is tried again; and how a job gets its outcome.

The room of running jobs. A worker puts its job in before it calls the function, and takes it out after. At the job's
deadline the timers take it out, at the end of a stop whoever stops; the worker then finds nothing, and leaves the job
alone. `dict.pop` decides who was first.

A job that overran and is to be tried again waits in `_overrun` until its thread has left the function, or was found to
be stuck: two attempts of one job never run at once, but for a stuck one.
"""

from __future__ import annotations

import functools
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from penstock import clock, raised, timers
from penstock.context import Cause, Context
from penstock.errors import Cancelled, DeadlineExceeded, JobCancelled
from penstock.events import JobEnded, JobRetried, JobStarted, WorkerStuck
from penstock.job import FINAL, Job, JobState
from penstock.pool.ledger import Tally
from penstock.pool.stacks import drop_our_frames, where_it_stands
from penstock.report import StuckJob

if TYPE_CHECKING:
    from penstock.pool.crew import Crew

log = logging.getLogger("penstock.pool")

STOPPING: Final = "the pool is stopping"


@dataclass(eq=False, slots=True)
class Overrun:
    """A worker that is still in a job which has its outcome already, or waits for this to try again."""

    job: Job[Any]
    outcome: Literal["overran", "abandoned"]
    since: float  # monotonic: when the attempt began
    stuck_at: float  # monotonic: from then on it is stuck, and nobody waits for it
    replaced: bool = False  # its slot went to a fresh one


class Runner(Protocol):
    """Whoever runs an attempt: a worker of any kind, or the submitter itself."""

    name: str
    tally: Tally
    overrun: Overrun | None
    """Guarded by the lock of `Attempts`."""

    @property
    def thread(self) -> threading.Thread | None:
        """The thread of this process that is inside the job, if one is."""
        ...

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """The context of *job*, which it runs, was tripped. Must not block."""
        ...

    def stack(self) -> str:
        """Where it stands; may take a moment."""
        ...

    def stack_at_deadline(self) -> str:
        """Where it stands, if that can be told at once; else nothing."""
        ...

    def margin_is_over(self, overrun: Overrun) -> None:
        """See to it that `Attempts.still_there` is called, unless *overrun* is over. On the timers' thread."""
        ...

    def replace(self) -> bool:
        """Give its slot to a fresh worker; False if it can't be."""
        ...

    def came_back_late(self) -> None:
        """It has left the job after its slot was given to a fresh one: there is one too many."""
        ...

    def fate(self, replaced: bool) -> str:
        """What becomes of it, for the log."""
        ...

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """The time to stop is over: how *job* ends."""
        ...


class Attempts:
    """The running jobs of one pool, and the ways in which they end.

    Lock: `_lock` guards `_left_inside`, `_overrun` and every worker's `overrun`; only the staff's lock is taken inside.
    `running` needs none: its steps are atomic.
    """

    unwinds: tuple[type[BaseException], ...] = (Cancelled,)
    """What leaves a job that has heeded its context."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._name = crew.settings.name
        self.running: dict[Job[Any], Runner] = {}
        self._lock = threading.Lock()
        self._left_inside: set[Runner] = set()  # those whose thread is still in a job that has its outcome
        self._overrun: dict[Job[Any], tuple[float, BaseException]] = {}  # to be tried again: after seconds, last error

    # The worker's thread

    def begin(self, worker: Runner, job: Job[Any]) -> bool:
        """What *job* needs before it runs if it has terms or a context, or the pool stops. False: it must not run."""
        cause = None if job._context is None else job._context.cause
        if self._crew.lifecycle.cutting or cause is not None:
            if self.running.pop(job, None) is not None:
                job._attempt -= 1
                if cause is not None:
                    self.settle(job, *outcome_of(job, cause, started=False))
                else:
                    self.cut(job)
                self._crew.check_drained()
            else:
                self.came_back(worker, job)
            return False
        terms = job._terms
        if terms.timeout is not None:
            context = job.context
            context.limit(terms.timeout)
        if job._context is not None and not job._context.job_listens:
            self.listen(job)
        return True

    def take(self, job: Job[Any], worker: Runner) -> bool:
        """Take *job* from the running ones, if it is *worker* who runs it: it is the caller's now."""
        with self._lock:
            return self.running.get(job) is worker and self.running.pop(job, None) is not None

    def hand_on(self, job: Job[Any], worker: Runner, to: Runner) -> bool:
        """If *worker* runs *job*, *to* does from now on."""
        with self._lock:
            if self.running.get(job) is not worker:
                return False
            self.running[job] = to
            return True

    def adopt(self, job: Job[Any]) -> None:
        """*job* was found to run already: see to its time and its context, as `begin` does before others run."""
        if job._terms.timeout is not None:
            job.context.limit(job._terms.timeout)
        if job._context is not None and not job._context.job_listens:
            self.listen(job)
        if self._crew.lifecycle.cutting:
            self._ask_to_stop(job)
        if self._crew.ledger.observers:
            self.tell_started(job)

    def returned(self, worker: Runner, job: Job[Any], value: Any, ended: float) -> None:
        """The function returned *value* at *ended*. For threads and plain data workers have steps of their own."""
        if not self.take(job, worker):
            self.came_back(worker, job)
        else:
            self.ended_well(worker, job, value, ended)

    def ended_well(self, worker: Runner, job: Job[Any], value: Any, ended: float) -> None:
        """The attempt of *job*, which *worker* ran and is in our hands, returned *value* at this time."""
        job._ended = ended
        worker.tally.times.extend((job._since, job._began, ended))
        ledger = self._crew.ledger
        ledger.count(JobState.DONE)
        job._settle(JobState.DONE, value)
        if ledger.observers:
            self.tell_ended(job, None)
        ledger.one_ended()
        self._crew.check_drained()

    def failed(self, worker: Runner, job: Job[Any], error: BaseException, ended: float | None = None) -> None:
        """The function raised *error*: at *ended*, by default now."""
        if ended is None:
            ended = clock.monotonic()
        if not self.take(job, worker):
            self.came_back(worker, job)
        else:
            self.ended_by(worker, job, error, ended)

    def ended_by(self, worker: Runner, job: Job[Any], error: BaseException, ended: float) -> None:
        """The attempt of *job*, which *worker* ran and is in our hands, ended with *error* at this time."""
        job._ended = ended
        worker.tally.times.extend((job._since, job._began, ended))
        drop_our_frames(error)
        stage, cut = JobState.FAILED, False
        if raised.is_a(error, self.unwinds):
            cause = (None if job._context is None else job._context.cause) or self.cause_of(error, job)
            stage, ending = outcome_of(job, cause, started=True)
            ending.__cause__ = error
            error = ending
            cut = self._crew.lifecycle.cutting and cause.reason == STOPPING and cause.source is job._context
        delay = self._delay(job, error) if stage is JobState.FAILED else None
        if delay is None:
            self.settle(job, stage, error, cut=cut)
        else:
            self._try_again(job, delay, error)
        self._crew.check_drained()

    def cause_of(self, error: BaseException, job: Job[Any]) -> Cause:
        """Why *job*, whose context is not tripped, was left by *error*, which says that it was."""
        assert isinstance(error, Cancelled)
        return Cause(error.reason, error.by_deadline, error.source or job.context)

    def came_back(self, worker: Runner, job: Job[Any]) -> None:
        """The thread has left the function of a job that was taken from it."""
        with self._lock:
            overrun, worker.overrun = worker.overrun, None
            self._left_inside.discard(worker)
            to_retry = self._overrun.pop(job, None)
        if overrun is not None and overrun.replaced:
            worker.came_back_late()
        if to_retry is not None:
            self._try_again(job, *to_retry)
        self._crew.check_drained()

    def has_ended(self, worker: Runner) -> None:
        """*worker* is no more, and so is in no job."""
        with self._lock:
            overrun = worker.overrun
        if overrun is not None:
            self.came_back(worker, overrun.job)

    # Trying again

    def _delay(self, job: Job[Any], error: BaseException) -> float | None:
        """Seconds until the next attempt of *job*, whose last one failed with *error*; None if there is none."""
        retry = job._terms.retry
        if retry is None or self._crew.lifecycle.cutting:
            return None
        cause = None if job._context is None else job._context.cause
        if cause is not None and not (cause.by_deadline and cause.source is job._context):
            return None  # cancelled, or out of time as a whole
        delay = retry.next_delay(error, job._attempt, clock.monotonic() - job._accepted)
        if delay is not None and self._crew.backlog.retrying >= self._crew.settings.max_retrying:
            raised.note(error, "not retried: as many jobs as may (max_retrying) wait for another attempt already")
            return None
        return delay

    def _try_again(self, job: Job[Any], delay: float, error: BaseException) -> None:
        """Put *job*, which is in our hands, among those that wait for another attempt."""
        self._crew.ledger.failures._lines.put(functools.partial(
            log.info, "%s failed in attempt %d, next one in %.3g s: %r", job.label, job._attempt, delay, error,
            extra={"job": job.id, "worker": job.worker, "pool": self._name},
        ))  # fmt: skip
        if self._crew.ledger.observers:
            self._crew.ledger.tell(JobRetried(self._name, job.id, job.name, job._attempt, delay, error))
        job._value = error  # what it fails with if no other attempt comes
        context = job._context
        if context is not None and context.cause is not None:
            # Tripped by the limit of its own attempt, or it would not be tried again: the next one needs a fresh one.
            context.close()
            job._context = Context(parent=context.parent, values=context.values)
        elif context is not None:
            context.limit(None)
        self._crew.backlog.put_retry(job, delay)
        if self._crew.lifecycle.cutting:
            self._crew.cut_waiting()
        if job._context is not None:
            if job._context is not context:
                self.listen(job)
            elif (cause := job._context.cause) is not None:
                self.tripped(job, cause)  # a cancel that came between the two rooms found it in neither

    # Deadlines and cancellation: the timers' thread, or whoever cancels

    def listen(self, job: Job[Any]) -> None:
        """Have *job* end when its context trips. It is in its room already, so that it can be taken out."""
        context = job._context
        if context is not None and job._stage not in FINAL:
            context.listen_for_job(functools.partial(self.tripped, job))
            if job._stage in FINAL:
                context.close()  # it ended meanwhile, and may have looked before there was a listener

    def tripped(self, job: Job[Any], cause: Cause) -> None:
        """The context of *job* was cancelled or its time is over."""
        if not _is_tripped(job):
            return
        if self._crew.take_out(job):
            if _is_tripped(job):
                self.settle(job, *outcome_of(job, cause, started=False))
                self._crew.check_drained()
            else:
                self._put_back(job)
            return
        worker = self.running.get(job)
        if worker is not None:
            worker.ask_to_stop(job, cause)
        if cause.by_deadline:
            self.overran(job, cause)

    def _put_back(self, job: Job[Any]) -> None:
        """*job* was waiting for its next attempt, and is in our hands by mistake: it comes sooner."""
        self._crew.backlog.put_retry(job, 0.0)
        if self._crew.lifecycle.cutting:
            self._crew.cut_waiting()

    def overran(self, job: Job[Any], cause: Cause) -> None:
        """The time of *job*, which runs, is over."""
        self.fail_late(job, cause, self._crew.settings.margin)

    def fail_late(self, job: Job[Any], cause: Cause, margin: float) -> None:
        """*job* fails now, whatever its thread does; if that is still in it after *margin* seconds, it is stuck."""
        stage, error = outcome_of(job, cause, started=True)
        delay = self._delay(job, error)
        worker = self.running.get(job)
        stack = "" if worker is None else worker.stack_at_deadline()
        with self._lock:
            worker = self.running.pop(job, None) if _is_tripped(job) else None
            if worker is None:
                return  # it ended just now, and has its outcome, or another attempt
            stuck_at = clock.monotonic() + margin
            overrun = worker.overrun = Overrun(job, "overran", job._began, stuck_at)
            self._left_inside.add(worker)
            job._ended = clock.monotonic()
            if delay is not None:
                self._overrun[job] = delay, error
        if delay is None:
            self.settle(job, stage, error, stack=stack)
        elif self._crew.lifecycle.cutting:
            self._crew.cut_waiting()  # a stop may have looked just before the job was there
        timers.call_at(stuck_at, functools.partial(worker.margin_is_over, overrun))
        self._crew.check_drained()

    def still_there(self, worker: Runner, overrun: Overrun, stack: str) -> None:
        """The margin after a deadline has passed, and *worker* stands in the job, at *stack*: say so and replace it."""
        job = overrun.job
        with self._lock:
            if worker.overrun is not overrun:
                return
            replaced = overrun.replaced = worker.replace()
            to_retry = self._overrun.pop(job, None)
        ran = clock.monotonic() - overrun.since
        self._crew.ledger.failures._lines.put(functools.partial(
            log.warning, "%s is stuck: it has run for %.3g s and did not stop at its deadline; %s. It %s",
            job.label, ran, worker.fate(replaced), where_it_stands(stack),
            extra={"job": job.id, "worker": worker.name, "pool": self._name},
        ))  # fmt: skip
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStuck(self._name, worker.name, job.id, job.name, ran, stack, replaced))
        if to_retry is not None:
            self._try_again(job, *to_retry)
        if self._crew.backlog.queue or self._crew.backlog.due:
            self._crew.staff.call()

    def take_out(self, job: Job[Any]) -> bool:
        """Take *job* from those that wait for their thread to try again: it is the caller's now. False if not there."""
        with self._lock:
            return self._overrun.pop(job, None) is not None

    def is_in(self, job: Job[Any]) -> bool:
        """Whether the calling thread runs *job*."""
        runner = self.running.get(job)
        return runner is not None and runner.thread is threading.current_thread()

    def runs_here(self) -> bool:
        """Whether the calling thread is inside one of the running jobs, be it as the caller who had to run it."""
        here = threading.current_thread()
        return any(worker.thread is here for worker in list(self.running.values()))

    # A stop: whoever stops the pool

    def cancel_running(self) -> None:
        """Ask every running job to stop, by tripping its context."""
        for job in list(self.running):
            self._ask_to_stop(job)

    def _ask_to_stop(self, job: Job[Any]) -> None:
        context = job.context
        context.trip(Cause(STOPPING, by_deadline=False, source=context))

    def cut_overrun(self) -> None:
        """Jobs that were to be tried again after their thread came back are not: they fail with what they had."""
        with self._lock:
            overrun, self._overrun = self._overrun, {}
        for job, (_, error) in overrun.items():
            job._value = error
            self.cut(job)

    def cut(self, job: Job[Any]) -> None:
        """Settle *job*, which is in our hands, as the stop leaves it: failed with its last error if it had one."""
        if job._attempt:
            error: BaseException = job._value
            raised.note(error, f"not retried: {STOPPING}")
            self.settle(job, JobState.FAILED, error, cut=True)
        elif self._crew.staff.broken is not None:
            self.settle(job, JobState.FAILED, self._crew.refusal(), cut=True)
        else:
            self.settle(job, JobState.CANCELLED, JobCancelled(job.label, STOPPING), cut=True)

    def abandon_running(self) -> None:
        """Give every running job its outcome now: whoever still runs it is killed, or left behind if it can't be."""
        for job in list(self.running):
            with self._lock:
                worker = self.running.pop(job, None)
                if worker is None:
                    continue
                worker.overrun = Overrun(job, "abandoned", job._began, clock.monotonic())
                self._left_inside.add(worker)
            context = job.context  # asked all the same: its thread may yet end, and its context hears nothing later
            context.trip(Cause(STOPPING, by_deadline=False, source=context))
            job._ended = clock.monotonic()
            stage, error = worker.give_up(job)
            self.settle(job, stage, error, cut=True)

    # Outcomes

    def settle(
        self,
        job: Job[Any],
        stage: JobState,
        error: BaseException,
        *,
        cut: bool = False,
        stack: str = "",
    ) -> None:
        """Give *job*, which is in our hands, an outcome that is not a result.

        *cut*: a stop is the reason. *stack*: where its thread stood.
        """
        ledger = self._crew.ledger
        if stage is JobState.FAILED:  # the report tells of those that a stop killed or abandoned
            task = "" if job.token is None else job.name  # a pool's own jobs may each have a name of their own
            ledger.failures.record(job.id, job.label, error, stack, job.worker or "", task)
            ledger.failed(job)
        ledger.count(stage, cut=cut)
        job._settle(stage, error)
        if ledger.observers:
            self.tell_ended(job, error)
        ledger.one_ended()

    def tell_started(self, job: Job[Any]) -> None:
        """Tell the observers; only called if there are some."""
        self._crew.ledger.tell(JobStarted(self._name, job.id, job.name, job._worker, job._attempt, job.waited or 0.0))

    def tell_ended(self, job: Job[Any], error: BaseException | None) -> None:
        """Tell the observers; only called if there are some."""
        state = job._stage.value
        self._crew.ledger.tell(
            JobEnded(self._name, job.id, job.name, state, job._attempt, job.waited, job.ran, error),
        )

    # Looking in: any thread

    @property
    def waiting_for_thread(self) -> int:
        """How many jobs are to be tried again once their thread has left them."""
        return len(self._overrun)

    def stack(self, job: Job[Any]) -> str:
        """Where *job* stands, or where the thread that it left behind does; empty if it doesn't run."""
        worker = self.running.get(job)
        if worker is None:
            with self._lock:
                worker = next((other for other in self._left_inside if _is_inside(other, job)), None)
        return "" if worker is None else worker.stack()

    def stuck(self) -> tuple[StuckJob, ...]:
        """The jobs that still run although they have their outcome."""
        with self._lock:
            inside = [(worker, worker.overrun) for worker in self._left_inside]
        return tuple(
            StuckJob(
                overrun.job.id, overrun.job.name, worker.name, clock.monotonic() - overrun.since,
                worker.stack_at_deadline(), overrun.outcome,
            )
            for worker, overrun in inside
            if overrun is not None
        )  # fmt: skip

    def longest(self) -> str:
        """Which running job began first, and where it stands."""
        running = list(self.running)
        if not running:
            return "no job runs"
        job = min(running, key=lambda job: job._began)
        return f"{job.label} has run for {job.ran or 0:.3g} s and {where_it_stands(self.stack(job))}"

    def start_afresh(self) -> None:
        """In the child of a fork: the lock may be in any state, and nothing runs."""
        self._lock = threading.Lock()
        self.running.clear()
        self._overrun.clear()
        self._left_inside.clear()


def _is_tripped(job: Job[Any]) -> bool:
    """Whether the context of *job* is. If not, the trip was the last attempt's, which had ended before it was told."""
    context = job._context
    return context is not None and context.cause is not None


def _is_inside(worker: Runner, job: Job[Any]) -> bool:
    overrun = worker.overrun
    return overrun is not None and overrun.job is job


def outcome_of(job: Job[Any], cause: Cause, *, started: bool) -> tuple[JobState, BaseException]:
    """How a job ends whose context was tripped by *cause*."""
    if not cause.by_deadline:
        return JobState.CANCELLED, JobCancelled(job.label, cause.reason, started=started)
    own = cause.source is job._context
    return JobState.FAILED, DeadlineExceeded(job.label, job._terms.timeout if own else None, started=started)
