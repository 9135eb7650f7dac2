"""The threads of a pool and the rooms its jobs are in.

                        ┌──────────── places: free ones, and the line of those who wait for one
    submit ── place ──> queue ──┐
    map ──> lines ── place ─────┤      worker threads                          settle: outcome, ledger,
    retry ──> retrying ──> due ─┴────> [running] ──> function returns ───────> failures, waiters told
      ^                                    │                                       ^
      └──── worth another attempt ─────────┤                                       │
                                           └── deadline passed (timers' thread) ───┤
                                           └── the stop's end (whoever stops) ─────┘

Ownership. Every accepted job without an outcome is in exactly one room: a line, `queue`, `due`, `retrying`, `running`
or `overrun`; or in the hands of the one thread that just took it out of one. Taking out is one atomic step
(`deque.popleft`, `deque.remove`, `dict.pop`), so two threads never both own a job: the worker that ends it, the timers
that fail it at its deadline, the user that cancels it and the stop that abandons it all have to take it out first, and
who comes too late finds nothing and leaves it alone.

Who wakes whom. An idle worker puts itself on the stack `idle` and sleeps on its own lock. Whoever adds a job takes one
off the stack and releases its lock; one such wake is under way at a time (`waking`), and a woken worker that sees more
work wakes the next. A worker looks for work again *after* it is on the stack, and a submitter looks at the stack *after*
it added the job: one of the two sees the other.

The end. `close` sets `closing`. The last job to be settled finds that the accounts balance and moves the pool to
CLOSED, which wakes every idle worker to leave. A submit that began before `close` either has its number already (then
the accounts don't balance until its job has ended) or looks at `closing` after it got one, and withdraws.

Locks: `_lock` guards what its fields say; the ledger's, a job's bell's and the contexts' locks are never taken while a
user's code could run. The hot path (submit, take, run, settle) takes none of them.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import os
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock import clock, timers
from penstock.context import Cause, Context, scope
from penstock.errors import (
    BacklogFull,
    Cancelled,
    DeadlineExceeded,
    JobAbandoned,
    JobCancelled,
    NestedWait,
    PoolBroken,
    PoolClosed,
)
from penstock.events import (
    JobAccepted,
    JobEnded,
    JobRetried,
    JobStarted,
    PoolStopped,
    PoolStopping,
    WorkerStarted,
    WorkerStopped,
    WorkerStuck,
)
from penstock.job import FINAL, Job, JobState, current_job, name_of
from penstock.lifecycle import Lifecycle, Phase
from penstock.pool.caller import on_event_loop
from penstock.pool.ledger import Ledger
from penstock.pool.lines import Line, SubmitterInLine
from penstock.pool.places import Places
from penstock.pool.terms import NO_PLAIN_FUNCTION, JobTerms, ThreadSettings, check_function
from penstock.report import Report, Stats, StuckJob

log = logging.getLogger("penstock.pool")

_STOPPING: Final = "the pool is stopping"
_DEEPEST_STACK: Final = 30  # frames shown of a stuck thread
_FAILURES: Final = frozenset({JobState.FAILED, JobState.KILLED, JobState.ABANDONED})
_RECENT: Final = 512  # jobs per worker whose times make the percentiles
_READY, _RUNNING, _DONE = JobState.READY, JobState.RUNNING, JobState.DONE
_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

crews: weakref.WeakSet[ThreadCrew] = weakref.WeakSet()  # all that live, for the end of the interpreter and for forks


@dataclass(eq=False, slots=True)
class _Overrun:
    """A thread that is still in a job which has its outcome already."""

    job: Job[Any]
    outcome: Literal["overran", "abandoned"]
    since: float  # monotonic: when the attempt began
    replaced: bool = False  # its slot went to a fresh thread


class Worker:
    """One thread that runs jobs, one at a time. Fields are its own thread's, if nothing else is said."""

    __slots__ = ("crew", "done", "ended", "lock", "name", "overrun", "runs", "thread", "waits", "waits_for")

    def __init__(self, crew: ThreadCrew, name: str) -> None:
        self.crew = crew
        self.name = name
        self.lock = threading.Lock()  # held, but for the moment of a wake: the worker sleeps on it
        self.lock.acquire()
        self.thread: threading.Thread | None = None  # set by whoever starts it
        self.done = 0  # jobs that returned
        self.ended = 0  # the same, counted after their waiters were told
        self.waits: deque[float] = deque(maxlen=_RECENT)  # read by stats
        self.runs: deque[float] = deque(maxlen=_RECENT)  # read by stats
        self.overrun: _Overrun | None = None  # guarded by crew._lock
        self.waits_for: Job[Any] | None = None  # guarded by crew._lock

    def work(self) -> None:
        """The thread's whole life."""
        if self.crew.enter(self):
            while (job := self._next()) is not None:
                self.run(job)
                del job  # keep nothing while waiting for the next one
        self.crew.left(self)

    def _next(self) -> Job[Any] | None:
        """The next job, taken out of the backlog; None when it is time to leave."""
        crew = self.crew
        queue, due, places = crew.queue, crew.due, crew.places
        while True:
            if crew.alive > crew.capacity and crew.may_leave(self):
                return None
            try:
                if due:
                    return due.popleft()
                job = queue.popleft()
            except IndexError:
                if not self._park():
                    return None
                continue
            # Places.give, inlined for the case that nobody waits.
            if places.waiting:
                places.give()
            else:
                places.free.append(None)
                if places.waiting and places.take():
                    places.give()
            return job

    def _park(self) -> bool:
        """Sleep until there may be work; False when the pool is closed and none is left."""
        crew = self.crew
        crew.idle.append(self)
        if crew.queue or crew.due or crew.lifecycle.phase is Phase.CLOSED:
            try:
                crew.idle.remove(self)
            except ValueError:
                self.lock.acquire()  # a waker has taken us off the stack: its wake comes, or is there
            else:
                return bool(crew.queue or crew.due or crew.lifecycle.phase is not Phase.CLOSED)
        else:
            self.lock.acquire()
        crew.waking = False
        if crew.idle and (len(crew.queue) > 1 or len(crew.due) > 1):
            crew.wake_one()
        return bool(crew.queue or crew.due or crew.lifecycle.phase is not Phase.CLOSED)

    def run(self, job: Job[Any]) -> None:
        """Run one attempt of *job*, which the caller took out of its room, and settle it."""
        crew = self.crew
        running = crew.running
        running[job] = self
        started = clock.monotonic()
        job._waited = waited = started - job._since
        job._since = started
        job._attempt += 1
        job._worker = self.name
        job._stage = _RUNNING
        if (job._context is not None or crew.cutting or not job._terms.plain) and not crew.begin(job):
            return
        if crew.ledger.observers:
            crew.tell_started(job)
        try:
            value = job._cv.run(crew.call, job)  # type: ignore[union-attr]
        except BaseException as error:
            crew.attempt_failed(self, job, error, started)
            return
        ran = clock.monotonic() - started
        if running.pop(job, None) is None:
            crew.came_back(self, job)
            return
        self.done += 1
        self.waits.append(waited)
        self.runs.append(ran)
        job._ran = ran
        # From here on as Job._settle, written out: a call costs as much as all of it.
        job._value = value
        job._stage = _DONE
        try:
            job._fn = job._fn.__qualname__  # type: ignore[union-attr]
        except AttributeError:
            job._fn = name_of(job._fn)
        job._args = job._kwargs = job._cv = None
        if job._context is not None:
            job._context.close()
        if job._bell is not None:
            job._ring()
        if crew.ledger.observers:
            crew.tell_ended(job, None)
        self.ended += 1
        if crew.closing:
            crew.check_drained()


class ThreadCrew:
    """The state of one thread pool, shared by its workers, its submitters, the timers and whoever stops it.

    Invariants:
      1. A job is in one room, or in one thread's hands (see the top of this file).
      2. len(queue) <= backlog: a job is put there only with a place in hand, which is given back when it leaves.
      3. alive <= capacity, but for workers that have to end their job before they may leave.
      4. capacity == max_workers + lent + replaced.
      5. The phase reaches CLOSED when and only when the accounts balance after `close`.
    """

    def __init__(self, settings: ThreadSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.ledger = Ledger(settings.name, keep_unobserved=settings.unobserved == "raise")
        self.lifecycle = Lifecycle()
        self.places = Places(settings.backlog)
        # The rooms. Taken from and added to without a lock, by single atomic steps.
        self.queue: deque[Job[Any]] = deque()
        self.due: deque[Job[Any]] = deque()  # retries whose wait is over; they hold no place
        self.running: dict[Job[Any], Worker] = {}
        self.idle: list[Worker] = []  # a stack: the one that slept least is woken first
        self.waking = False  # a woken worker has not looked for work yet; written without a lock
        self.closing = False  # only ever becomes True
        self.cutting = False  # only ever becomes True: jobs must not start any more
        self.call = Job._call if settings.around is None else functools.partial(_call_around, settings.around)
        # Guarded by _lock, but read without it where one look may be late.
        self._lock = threading.Lock()
        self.alive = 0  # workers that have not decided to leave
        self.capacity = settings.max_workers
        self.workers: set[Worker] = set()
        self._here: dict[int, Worker] = {}  # by thread ident
        self._started = 0  # workers ever
        self._ready = 0  # workers whose initializer has returned
        self._lent = 0
        self._replaced = 0  # stuck threads whose slot went to a fresh one
        self._done_before = 0  # jobs that returned on workers which have left
        self._ended_before = 0  # the same, told to their waiters
        # Past their deadline, to be tried again (seconds, last error) once the thread has left them; guarded by _lock
        self.overrun: dict[Job[Any], tuple[float, BaseException]] = {}
        self.retrying: dict[Job[Any], timers.Timer] = {}
        self._lines: list[Line] = []
        self._broken: BaseException | None = None
        self._said_no_thread = False
        self._reported = False
        self._ready_changed = threading.Condition(self._lock)
        self.asked_at: float | None = None  # monotonic: when the stop was asked for
        self.ended_at: float | None = None
        self.budget: float | None = None
        self._closed_because = "it was closed"
        crews.add(self)

    # Accepting jobs: any thread

    def submit(self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """Accept one call, waiting for a place in the backlog as *terms* say."""
        try:
            if fn.__code__.co_flags & NO_PLAIN_FUNCTION:  # type: ignore[attr-defined]
                check_function(fn)
        except AttributeError:
            check_function(fn)
        if self.closing:
            raise self.refusal()
        try:
            self.places.free.pop()
        except IndexError:
            if terms.when_full == "caller":
                return self._run_in_caller(terms, fn, args, kwargs)
            self.wait_for_place(terms)
        return self.accept(terms, fn, args, kwargs)

    def accept(self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """Accept one call; the caller holds a place for it."""
        job: Job[Any] = Job(
            terms, next(self.ledger.numbers), fn, args, kwargs or None, contextvars.copy_context(), clock.monotonic()
        )
        if self.closing:
            self.ledger.withdraw()
            self.places.give()
            self.check_drained()
            raise self.refusal()
        if not terms.plain or scope.get() is not None:
            self._prepare(job)
        if self.ledger.observers:
            self.ledger.tell(JobAccepted(self.name, job.id, job.name))
        self.queue.append(job)
        if self.idle:
            if not self.waking:
                self.wake_one()
        elif self.alive < self.capacity:
            self.grow()
        if self.cutting:
            self._cut_waiting()
        if job._context is not None:
            self._listen(job)
        return job

    def accept_line(self, terms: JobTerms, fn: Callable[..., Any], inputs: Iterator[tuple[Any, ...]]) -> list[Job[Any]]:
        """Accept one call for each of *inputs*, now. Those that find no place wait outside the backlog, in a line."""
        check_function(fn)
        jobs: list[Job[Any]] = []
        line = Line(self.places, self._put)
        for args in inputs:
            if not line.jobs and self.places.take():
                jobs.append(self.accept(terms, fn, args, {}))
                continue
            job: Job[Any] = Job(
                terms, next(self.ledger.numbers), fn, args, None, contextvars.copy_context(), clock.monotonic()
            )
            if self.closing:
                self.ledger.withdraw()
                self.check_drained()
                self._open_line(line)
                raise self.refusal()
            if not terms.plain or scope.get() is not None:
                self._prepare(job)
            if self.ledger.observers:
                self.ledger.tell(JobAccepted(self.name, job.id, job.name))
            line.jobs.append(job)
            jobs.append(job)
        in_line = list(line.jobs)
        self._open_line(line)
        for job in in_line:
            if job._context is not None:
                self._listen(job)
        return jobs

    def refusal(self) -> PoolClosed | PoolBroken:
        """Why no job is taken any more."""
        if self._broken is not None:
            refused: PoolClosed | PoolBroken = PoolBroken(self.name, f"its initializer raised {self._broken!r}")
            refused.__cause__ = self._broken
            return refused
        return PoolClosed(self.name, self._closed_because)

    def wait_for_place(self, terms: JobTerms) -> None:
        """Return with a place in hand, or raise `BacklogFull`, `PoolClosed`, or `Cancelled` by the caller's context."""
        if terms.when_full == "reject":
            raise BacklogFull(self.settings.backlog)
        if terms.when_full is None and on_event_loop():
            raise BacklogFull(
                self.settings.backlog,
                hint="this thread runs an event loop, which waiting would stop: use `await pool.asubmit(…)`, "
                "or ask for it with when_full='block'",
            )
        worker = self._here.get(threading.get_ident())
        if worker is None:
            self._line_up(terms)
        else:
            with self._lending(worker, None):
                self._line_up(terms)

    def _line_up(self, terms: JobTerms) -> None:
        begun = clock.monotonic()
        waiter = SubmitterInLine()
        around = scope.get()
        context = None if around is None else around.context
        deadline = None if terms.submit_timeout is None else begun + terms.submit_timeout
        if context is not None and context.deadline is not None:
            deadline = context.deadline if deadline is None else min(deadline, context.deadline)
        stop_listening = None if context is None else context.listen(lambda cause: waiter.nudge(), on_time=False)
        self.places.wait(waiter)
        try:
            if not self.closing and not (context is not None and context.cancelled):
                waiter.sleep(deadline)
        except BaseException:  # a KeyboardInterrupt in the main thread
            if not self.places.leave(waiter):
                self.places.give()
            raise
        finally:
            if stop_listening is not None:
                stop_listening()
        if not self.places.leave(waiter):
            return  # it was granted; if the pool was closed meanwhile, `accept` says so
        if self.closing:
            raise self.refusal()
        if context is not None:
            context.check()
        raise BacklogFull(self.settings.backlog, clock.monotonic() - begun)

    def _run_in_caller(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        job: Job[Any] = Job(
            terms, next(self.ledger.numbers), fn, args, kwargs or None, contextvars.copy_context(), clock.monotonic()
        )
        if self.closing:
            self.ledger.withdraw()
            self.check_drained()
            raise self.refusal()
        if not terms.plain or scope.get() is not None:
            self._prepare(job)
        if self.ledger.observers:
            self.ledger.tell(JobAccepted(self.name, job.id, job.name))
        caller = Worker(self, threading.current_thread().name)
        caller.thread = threading.current_thread()
        caller.run(job)
        if job._stage not in FINAL:  # between two attempts: from here on it is any worker's
            self._wake_or_grow()
        with self._lock:
            self._fold(caller)
        if self.closing:
            self.check_drained()
        return job

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

    def _listen(self, job: Job[Any]) -> None:
        """Have *job* told when its context trips. It is in its room already, so that there is something to take out."""
        context = job._context
        if context is not None and job._stage not in FINAL:
            context.listen_for_job(functools.partial(self._tripped, job))
            if job._stage in FINAL:
                context.close()

    def _put(self, job: Job[Any]) -> None:
        """Put a job that has a place into the backlog, and see that somebody runs it."""
        self.queue.append(job)
        self._wake_or_grow()
        if self.cutting:
            self._cut_waiting()

    def _open_line(self, line: Line) -> None:
        """Let the jobs of *line* move up as places become free."""
        if not line.jobs:
            return
        with self._lock:
            self._lines = [other for other in self._lines if other.jobs]
            self._lines.append(line)
        self.places.wait(line)
        if self.cutting:
            self._cut_waiting()

    # Workers: starting, waking, lending, leaving

    def wake_one(self) -> None:
        """Wake one idle worker, if there is one."""
        try:
            worker = self.idle.pop()
        except IndexError:
            return
        self.waking = True
        worker.lock.release()

    def _wake_or_grow(self) -> None:
        if self.idle:
            self.wake_one()
        elif self.alive < self.capacity:
            self.grow()

    def grow(self) -> bool:
        """Start one more worker if there may be one; True if it was started."""
        with self._lock:
            if self.alive >= self.capacity or self._broken is not None:
                return False
            self.alive += 1
            worker = Worker(self, f"{self.settings.prefix}_{self._started}")
            self._started += 1
            self.workers.add(worker)
        worker.thread = threading.Thread(target=worker.work, name=worker.name, daemon=True)
        try:
            worker.thread.start()
        except RuntimeError as error:
            with self._lock:
                self.alive -= 1
                self._started -= 1
                self.workers.discard(worker)
                nobody = self.alive - self._lent <= 0
                say, self._said_no_thread = not self._said_no_thread, True
            if say:
                log.warning("pool %r can't start another thread: %s", self.name, error, extra={"pool": self.name})
            if nobody:
                self._fail_waiting(error)
            return False
        return True

    def _fail_waiting(self, error: BaseException) -> None:
        """No worker is there and none can be had: what waits would wait for ever."""
        for job in self._take_all_waiting():
            refused = PoolBroken(self.name, f"no thread can be started: {error}")
            refused.__cause__ = error
            self._settle(job, JobState.FAILED, refused, cut=True)
        self.check_drained()

    def start(self) -> None:
        """Start all workers and wait until each is ready; raises what an initializer raised."""
        while self.grow():
            pass
        with self._ready_changed:
            wanted = self.settings.max_workers
            self._ready_changed.wait_for(lambda: self._broken is not None or self._ready >= min(wanted, self.alive))
            broken = self._broken
            alive = self.alive
        if broken is not None:
            raise broken
        if self.closing:
            raise self.refusal()
        if alive < wanted:
            raise RuntimeError(f"only {alive} of {wanted} worker threads could be started")

    def enter(self, worker: Worker) -> bool:
        """First thing on the worker's thread: make it ready. False if its initializer raised."""
        settings = self.settings
        with self._lock:
            self._here[threading.get_ident()] = worker
        if settings.initializer is not None:
            try:
                settings.initializer(*settings.initargs)
            except BaseException as error:
                self._break(error)
                return False
        with self._ready_changed:
            self._ready += 1
            self._ready_changed.notify_all()
        if self.ledger.observers:
            self.ledger.tell(WorkerStarted(self.name, worker.name))
        return True

    def _break(self, error: BaseException) -> None:
        """An initializer raised: nothing can run, now or later."""
        with self._ready_changed:
            first = self._broken is None
            if first:
                self._broken = error
            self._ready_changed.notify_all()
        if not first:
            return
        log.critical("the initializer of pool %r raised", self.name, exc_info=error, extra={"pool": self.name})
        self.close("its initializer raised")
        for job in self._take_all_waiting():
            self._settle(job, JobState.FAILED, self.refusal(), cut=True)
        self.check_drained()

    def may_leave(self, worker: Worker) -> bool:
        """Whether *worker* is one too many and has to leave; it counts no more then."""
        with self._lock:
            if self.alive <= self.capacity:
                return False
            self.alive -= 1
            self.workers.discard(worker)
            self._fold(worker)
        if self.idle and (self.queue or self.due):
            self.wake_one()  # the wake that brought us here may have been meant for a job
        return True

    def left(self, worker: Worker) -> None:
        """Last thing on the worker's thread."""
        with self._lock:
            self._here.pop(threading.get_ident(), None)
            if worker in self.workers:
                self.workers.discard(worker)
                self.alive -= 1
                self._fold(worker)
        if self.ledger.observers:
            self.ledger.tell(WorkerStopped(self.name, worker.name))

    def _fold(self, worker: Worker) -> None:
        """Keep the counts of a worker that leaves. Holds `_lock`."""
        self._done_before += worker.done
        self._ended_before += worker.ended
        worker.done = worker.ended = 0

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        """See `Crew.wait`: a worker of this pool that waits for *job* lends its slot."""
        worker = self._here.get(threading.get_ident())
        if worker is None:
            return block()
        with self._lending(worker, job):
            return block()

    @contextmanager
    def _lending(self, worker: Worker, job: Job[Any] | None) -> Iterator[None]:
        """While the block runs, one more worker may; *job* is what it waits for (None: a place)."""
        with self._lock:
            self._refuse_hopeless_wait(worker, job)
            self._lent += 1
            self.capacity += 1
            worker.waits_for = job
        try:
            if self.queue or self.due:
                self._wake_or_grow()
            yield
        finally:
            with self._lock:
                self._lent -= 1
                self.capacity -= 1
                worker.waits_for = None

    def _refuse_hopeless_wait(self, worker: Worker, job: Job[Any] | None) -> None:
        """Raise NestedWait if *worker* would wait for itself, or if too many wait already. Holds `_lock`."""
        waiter = current_job()
        name = worker.name if waiter is None else waiter.label
        target = "a place in the backlog of its own pool" if job is None else job.label
        chain: list[str] = []
        waited_for = job
        while waited_for is not None:
            chain.append(waited_for.label)
            other = self.running.get(waited_for)
            if other is worker:
                why = "a job can't wait for itself" if len(chain) == 1 else f"they wait in a circle: {', '.join(chain)}"
                raise NestedWait(name, target, why)
            waited_for = None if other is None else other.waits_for
        if self._lent >= self.settings.max_lent:
            others = [f"{other.waits_for.label}" for other in self.workers if other.waits_for is not None]
            shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
            why = f"{self._lent} workers of pool {self.name!r} wait for its own jobs already (max_lent): {shown}"
            raise NestedWait(name, target, why)

    # One attempt: the worker's thread

    def begin(self, job: Job[Any]) -> bool:
        """What a job with terms, a context, or a stopping pool needs before it runs. False: it must not, and is settled."""
        if self.cutting:
            if self.running.pop(job, None) is not None:
                job._attempt -= 1
                self._settle(job, JobState.CANCELLED, JobCancelled(job.label, _STOPPING), cut=True)
                self.check_drained()
            return False
        terms = job._terms
        if job._context is not None:
            cause = job._context.cause
            if cause is not None:
                if self.running.pop(job, None) is not None:
                    job._attempt -= 1
                    self._settle(job, *_outcome_of(job, cause, started=False))
                    self.check_drained()
                return False
        if terms.timeout is not None:
            context = job.context
            context.limit(terms.timeout)
            if context._listeners is None:
                self._listen(job)
        if terms.retry is not None:
            job._cv = job._cv.copy()  # type: ignore[union-attr]  # what one attempt sets the next must not see
        return True

    def attempt_failed(self, worker: Worker, job: Job[Any], error: BaseException, started: float) -> None:
        """The function raised *error*."""
        ended = clock.monotonic()
        if self.running.pop(job, None) is None:
            self.came_back(worker, job)
            return
        job._ran = ended - started
        worker.waits.append(job._waited)
        worker.runs.append(job._ran)
        _drop_our_frames(error)
        stage = JobState.FAILED
        if isinstance(error, Cancelled):
            cause = None if job._context is None else job._context.cause
            by_deadline = error.by_deadline if cause is None else cause.by_deadline
            cause = cause or Cause(error.reason, by_deadline, error.source or job.context)
            stage, ending = _outcome_of(job, cause, started=True)
            ending.__cause__ = error
            error = ending
        if stage is not JobState.FAILED or not self._retry(job, error):
            self._settle(job, stage, error)
        self.check_drained()

    def came_back(self, worker: Worker, job: Job[Any]) -> None:
        """The thread of a job that has its outcome already, or waits for this to try again, has left the function."""
        with self._lock:
            overrun, worker.overrun = worker.overrun, None
            if overrun is not None and overrun.replaced:
                self._replaced -= 1
                self.capacity -= 1
            to_retry = self.overrun.pop(job, None)
        if to_retry is not None:
            self._wait_for_retry(job, *to_retry)
        self.check_drained()

    # Retries

    def _retry(self, job: Job[Any], error: BaseException) -> bool:
        """Have *job*, which is in our hands, run again if its terms say so. False: *error* is its outcome."""
        delay = self._retry_delay(job, error)
        if delay is None:
            return False
        self._tell_retried(job, delay, error)
        self._wait_for_retry(job, delay, error)
        return True

    def _retry_delay(self, job: Job[Any], error: BaseException) -> float | None:
        """Seconds until the next attempt of *job*, whose last one failed with *error*; None for no other one."""
        retry = job._terms.retry
        if retry is None or self.cutting:
            return None
        cause = None if job._context is None else job._context.cause
        if cause is not None and not (cause.by_deadline and cause.source is job._context):
            return None  # cancelled, or out of time as a whole
        delay = retry.next_delay(error, job._attempt, clock.monotonic() - job._accepted)
        if delay is not None and len(self.retrying) >= self.settings.max_retrying:
            error.add_note(f"not retried: {len(self.retrying)} jobs wait for another attempt already (max_retrying)")
            return None
        return delay

    def _tell_retried(self, job: Job[Any], delay: float, error: BaseException) -> None:
        log.info(
            "%s failed in attempt %d, next one in %.3g s: %r", job.label, job._attempt, delay, error,
            extra={"job": job.id, "worker": job.worker, "pool": self.name},
        )  # fmt: skip
        if self.ledger.observers:
            self.ledger.tell(JobRetried(self.name, job.id, job.name, job._attempt, delay, error))

    def _wait_for_retry(self, job: Job[Any], delay: float, error: BaseException) -> None:
        """Put *job*, which is in our hands, among those that wait for another attempt."""
        job._value = error  # what it fails with if no other attempt comes
        context = job._context
        if context is not None and context.cause is not None:
            # Tripped by the limit of its own attempt, or it would not be tried again: the next one needs a fresh one.
            context.close()
            job._context = Context(parent=context._parent, values=context.values)
        elif context is not None:
            context.limit(None)
        job._stage = JobState.SCHEDULED
        with self._lock:
            try:
                when = clock.monotonic() + delay
                self.retrying[job] = timers.call_at(when, functools.partial(self._is_due, job))
            except RuntimeError:  # the interpreter is ending, and nobody can keep the time any more
                self.due.append(job)
        if self.cutting:
            self._cut_waiting()
        if job._context is not None:
            if job._context is not context:
                self._listen(job)
            elif (cause := job._context.cause) is not None:
                self._tripped(job, cause)  # a cancel that came between the two rooms found it in neither

    def _is_due(self, job: Job[Any]) -> None:
        """The wait of *job* is over: on the timers' thread."""
        with self._lock:
            if self.retrying.pop(job, None) is None:
                return
            job._since = clock.monotonic()
            job._stage = _READY
            self.due.append(job)
        self._wake_or_grow()
        if self.cutting:
            self._cut_waiting()

    # Deadlines and cancellation: the timers' thread, or whoever cancels

    def _tripped(self, job: Job[Any], cause: Cause) -> None:
        """The context of *job* was cancelled or its time is over."""
        if self._take_waiting(job):
            self._settle(job, *_outcome_of(job, cause, started=False))
            self.check_drained()
        elif cause.by_deadline:
            self._overran(job, cause)

    def _overran(self, job: Job[Any], cause: Cause) -> None:
        """*job* fails now, whatever its thread does."""
        stage, error = _outcome_of(job, cause, started=True)
        delay = self._retry_delay(job, error)
        stack = self.stack(job)
        with self._lock:
            worker = self.running.pop(job, None)
            if worker is None:
                return  # it ended just now, and has its outcome
            overrun = worker.overrun = _Overrun(job, "overran", job._since)
            job._ran = clock.monotonic() - job._since
            if delay is not None:
                self.overrun[job] = delay, error
        if delay is None:
            self._settle(job, stage, error, stack=stack)
        else:
            self._tell_retried(job, delay, error)
        timers.call_at(
            clock.monotonic() + self.settings.stuck_after, functools.partial(self._still_there, worker, overrun)
        )
        self.check_drained()

    def _still_there(self, worker: Worker, overrun: _Overrun) -> None:
        """The margin after a deadline has passed: if the thread is still in the job, show it and replace it."""
        job = overrun.job
        stack = _stack_of(worker.thread)
        with self._lock:
            if worker.overrun is not overrun:
                return
            replace = self._replaced < self.settings.max_stuck and self.lifecycle.phase is not Phase.CLOSED
            if replace:
                overrun.replaced = True
                self._replaced += 1
                self.capacity += 1
            to_retry = self.overrun.pop(job, None)
        ran = clock.monotonic() - overrun.since
        log.warning(
            "%s is stuck: it has run for %.3g s and did not stop at its deadline; %s. It stands at:\n%s",
            job.label, ran,
            "a fresh thread takes its place" if replace else f"its thread is not replaced (max_stuck={self.settings.max_stuck})",
            stack, extra={"job": job.id, "worker": worker.name, "pool": self.name},
        )  # fmt: skip
        if self.ledger.observers:
            self.ledger.tell(WorkerStuck(self.name, worker.name, job.id, job.name, ran, stack, replace))
        if to_retry is not None:
            self._wait_for_retry(job, *to_retry)
        if self.queue or self.due:
            self._wake_or_grow()

    def cancel(self, job: Job[Any], reason: str) -> bool:
        """See `Crew.cancel`."""
        if self.forget(job, reason):
            return True
        if job._stage not in FINAL:
            job.context.cancel(reason)
        return job.cancelled()

    def forget(self, job: Job[Any], reason: str = "cancelled") -> bool:
        """See `Crew.forget`."""
        if self._take_waiting(job):
            self._settle(job, JobState.CANCELLED, JobCancelled(job.label, reason))
            self.check_drained()
        return job.cancelled()

    def _take_waiting(self, job: Job[Any]) -> bool:
        """Take *job* out of the room where it waits; False if it is in none."""
        if job._stage is _RUNNING or job._stage in FINAL:
            return False
        try:
            self.queue.remove(job)
        except ValueError:
            pass
        else:
            self.places.give()
            return True
        try:
            self.due.remove(job)
        except ValueError:
            pass
        else:
            return True
        with self._lock:
            timer = self.retrying.pop(job, None)
            lines = self._lines
        if timer is not None:
            timer.cancel()
            return True
        return any(line.take_out(job) for line in lines)

    def _take_all_waiting(self) -> list[Job[Any]]:
        """Take out every job that waits, the oldest of each room first."""
        with self._lock:
            lines, self._lines = self._lines, []
            retrying, self.retrying = self.retrying, {}
        taken = list(retrying)
        for timer in retrying.values():
            timer.cancel()
        for line in lines:  # before the queue: its places would bring their jobs in
            taken += line.take_all()
        for room in (self.due, self.queue):
            while True:
                try:
                    taken.append(room.popleft())
                except IndexError:
                    break
                if room is self.queue:
                    self.places.give()
        return taken

    # Stopping: whoever stops the pool; see ladder.py for the order

    def close(self, why: str = "it was closed") -> None:
        """Take no more jobs. Accepted ones run on."""
        with self._lock:
            if self.asked_at is None:
                self.asked_at = clock.monotonic()
                self._closed_because = why
        self.closing = True
        if self.lifecycle.advance(Phase.DRAINING) and self.ledger.observers:
            self.ledger.tell(PoolStopping(self.name))
        for waiter in self.places.waiting.copy():
            if not isinstance(waiter, Line):
                waiter.nudge()
        self.check_drained()

    def cancel_waiting(self, reason: str) -> None:
        """Cancel what no worker has started, because the user asked for it."""
        for job in self._take_all_waiting():
            self._settle(job, JobState.CANCELLED, JobCancelled(job.label, reason), hand_over=True)
        self.check_drained()

    def cancel_everything(self) -> None:
        """Start no job any more, cancel those that wait, and ask those that run to stop."""
        self.cutting = True
        self._cut_waiting()
        for job in list(self.running):
            context = job.context
            context.trip(Cause(_STOPPING, by_deadline=False, source=context), hand_over=True)

    def _cut_waiting(self) -> None:
        """Give every waiting job the outcome that the stop leaves it: its last error if it had one."""
        with self._lock:
            overrun, self.overrun = self.overrun, {}
        for job, (_, error) in overrun.items():
            self._settle(job, JobState.FAILED, error, cut=True, hand_over=True)
        for job in self._take_all_waiting():
            if job._attempt:
                error = job._value
                error.add_note(f"not retried: {_STOPPING}")
                self._settle(job, JobState.FAILED, error, cut=True, hand_over=True)
            else:
                ending = JobCancelled(job.label, _STOPPING)
                self._settle(job, JobState.CANCELLED, ending, cut=True, hand_over=True)
        self.check_drained()

    def abandon(self) -> None:
        """Leave the threads of running jobs behind: the time to stop is over."""
        self._cut_waiting()
        for job in list(self.running):
            with self._lock:
                worker = self.running.pop(job, None)
                if worker is None:
                    continue
                worker.overrun = _Overrun(job, "abandoned", job._since)
            ran = job._ran = clock.monotonic() - job._since
            error = JobAbandoned(job.label, ran)
            self._settle(job, JobState.ABANDONED, error, cut=True, stack=_stack_of(worker.thread), hand_over=True)
        self.check_drained()

    def check_drained(self) -> None:
        """If the pool is closing and every accepted job has its outcome, it is closed."""
        if not self.closing or self.queue or self.due:
            return
        with self._lock:
            ended = self._ended_before + sum(worker.ended for worker in self.workers)
            ended += self.ledger.ended
            if ended != self.ledger.accepted:
                return
        if self.lifecycle.advance(Phase.CLOSED):
            self.ended_at = clock.monotonic()
            while self.idle:
                self.wake_one()
            self.ledger.failures.flush()
            if self.ledger.observers:
                self.ledger.tell(PoolStopped(self.name))

    def join(self, deadline: float | None) -> None:
        """Wait for the threads of a closed pool to end, but for stuck ones, until *deadline*."""
        with self._lock:
            leaving = [worker.thread for worker in self.workers if worker.overrun is None]
        for thread in leaving:
            if thread is not None and thread is not threading.current_thread():
                with contextlib.suppress(RuntimeError):  # it was not started yet
                    thread.join(clock.remaining(deadline))

    def first_to_report(self) -> bool:
        """True for one caller, who logs the last report."""
        with self._lock:
            first, self._reported = not self._reported, True
        return first

    def is_worker(self) -> bool:
        """Whether the calling thread is one of the workers."""
        return threading.get_ident() in self._here

    # Outcomes

    def _settle(
        self,
        job: Job[Any],
        stage: JobState,
        error: BaseException,
        *,
        cut: bool = False,
        stack: str = "",
        hand_over: bool = False,
    ) -> None:
        """Give *job*, which is in our hands, an outcome that is not a result."""
        if stage in _FAILURES:
            self.ledger.failures.record(job.id, job.label, error, stack, job.worker or "")
            self.ledger.failed(job)
        self.ledger.count(stage, cut=cut)
        job._settle(stage, error, hand_over=hand_over)
        if self.ledger.observers:
            self.tell_ended(job, error)
        self.ledger.one_ended()

    def observed(self, job: Job[Any]) -> None:
        """See `Crew.observed`."""
        self.ledger.observed(job)

    def tell_started(self, job: Job[Any]) -> None:
        self.ledger.tell(JobStarted(self.name, job.id, job.name, job._worker, job._attempt, job._waited))

    def tell_ended(self, job: Job[Any], error: BaseException | None) -> None:
        ended = JobEnded(self.name, job.id, job.name, job._stage.value, job._attempt, job.waited, job.ran, error)
        self.ledger.tell(ended)

    # Looking in: any thread

    def stack(self, job: Job[Any]) -> str:
        """See `Crew.stack`."""
        worker = self.running.get(job)
        if worker is None:
            with self._lock:
                inside = [w for w in self.workers if w.overrun is not None and w.overrun.job is job]
            worker = inside[0] if inside else None
        return "" if worker is None else _stack_of(worker.thread)

    def report(self) -> Report:
        """The accounts, now."""
        with self._lock:
            waiting = len(self.queue) + len(self.due) + sum(len(line.jobs) for line in self._lines)
            retrying = len(self.retrying) + len(self.overrun)
            inside = [(worker, worker.overrun) for worker in self.workers if worker.overrun is not None]
            counts, cut = self.ledger.counts()
            done = self._done_before + sum(worker.done for worker in self.workers)
            asked_at, ended_at = self.asked_at, self.ended_at
        stuck = tuple(
            StuckJob(
                overrun.job.id, overrun.job.name, worker.name, clock.monotonic() - overrun.since,
                _stack_of(worker.thread), overrun.outcome,
            )
            for worker, overrun in inside
        )  # fmt: skip
        return Report(
            pool=self.name,
            accepted=self.ledger.accepted,
            done=done,
            failed=counts[JobState.FAILED],
            cancelled=counts[JobState.CANCELLED],
            killed=counts[JobState.KILLED],
            abandoned=counts[JobState.ABANDONED],
            waiting=waiting,
            running=len(self.running),
            retrying=retrying,
            cut=cut,
            closed=self.lifecycle.phase is Phase.CLOSED,
            seconds=0.0 if asked_at is None else (ended_at or clock.monotonic()) - asked_at,
            budget=self.budget,
            stuck=stuck,
        )

    def stats(self) -> Stats:
        """The numbers, now."""
        report = self.report()
        with self._lock:
            workers = list(self.workers)
            waited = sorted(itertools.chain.from_iterable(list(worker.waits) for worker in workers))
            ran = sorted(itertools.chain.from_iterable(list(worker.runs) for worker in workers))
        try:
            oldest = clock.monotonic() - self.queue[0]._since
        except IndexError:
            oldest = 0.0
        return Stats(
            queued=report.waiting,
            running=report.running,
            retrying=report.retrying,
            workers=len(workers),
            accepted=report.accepted,
            done=report.done,
            failed=report.failed,
            cancelled=report.cancelled,
            killed=report.killed,
            abandoned=report.abandoned,
            oldest_queued=oldest,
            waited_p50=_percentile(waited, 0.5),
            waited_p99=_percentile(waited, 0.99),
            ran_p50=_percentile(ran, 0.5),
            ran_p99=_percentile(ran, 0.99),
        )

    def standing(self) -> str:
        """Which job has run longest and where it stands: what a wait that takes long is waiting for."""
        running = sorted(((job._since, job) for job in list(self.running)), key=lambda item: item[0])
        if not running:
            return "no job runs"
        job = running[0][1]
        return f"{job.label} has run for {job.ran or 0:.3g} s and stands at:\n{self.stack(job)}"

    # Forking

    def belongs_to_parent(self) -> None:
        """In the child of a fork: none of the threads came along, and the locks may be in any state."""
        self._lock = threading.Lock()
        self._ready_changed = threading.Condition(self._lock)
        self.lifecycle = Lifecycle()
        self.lifecycle.phase = Phase.CLOSED
        self.ledger.start_afresh()
        self._closed_because = "it belongs to the parent process; make a new one after a fork"
        self.closing = self.cutting = True
        self.idle.clear()
        self.workers.clear()
        self._here.clear()
        self.alive = self.capacity = 0


def _call_around(around: Callable[[], contextlib.AbstractContextManager[Any]], job: Job[Any]) -> Any:
    """Run *job* inside of what the pool's `around` gives."""
    scope.set(job)
    with around():
        return job._call()


def _outcome_of(job: Job[Any], cause: Cause, *, started: bool) -> tuple[JobState, BaseException]:
    """How a job ends whose context was tripped by *cause*."""
    if not cause.by_deadline:
        return JobState.CANCELLED, JobCancelled(job.label, cause.reason, started=started)
    own = cause.source is job._context
    return JobState.FAILED, DeadlineExceeded(job.label, job._terms.timeout if own else None, started=started)


def _drop_our_frames(error: BaseException) -> None:
    """Let the traceback begin in the user's code: ours tells him nothing, and its frames would keep the job alive."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE):
        tb = tb.tb_next
    error.__traceback__ = tb


def _stack_of(thread: threading.Thread | None) -> str:
    """Where *thread* stands, from the first frame of the user's code on, as a traceback prints it."""
    frame = None if thread is None or thread.ident is None else sys._current_frames().get(thread.ident)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    first = 0
    while first < len(frames) and _begins_a_thread(frames[first]):
        first += 1
    return "".join(traceback.format_list(frames[first:][-_DEEPEST_STACK:]))


def _begins_a_thread(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_HERE) or (
        frame.filename == threading.__file__ and frame.name in ("_bootstrap", "_bootstrap_inner", "run")
    )


def _percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _in_child() -> None:
    for crew in list(crews):
        crew.belongs_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
