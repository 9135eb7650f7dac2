"""Who works in a pool of processes: handing jobs over, sending some ahead, taking them back.

                        ┌── a worker is idle: whoever adds a job hands it over, there and then ──> worker
    submit ──> backlog ─┤
                        └── all are busy: the dispatcher sends some ahead while jobs are short ──> sent ahead ──> worker
                                ^                                                                      │
                                └──────── taken back: cancelled, or behind a long job, or its worker died

The room of jobs that were sent ahead: they wait for their worker and hold their place in the backlog, and can be taken
back as long as their worker has not begun them, which is certain (page.py). A job that is put on the lane of an idle
worker runs at once.

Who owns what. `idle` is a stack: whoever pops a worker may hand it jobs, nobody else. What a worker answers, its death,
starting and ending processes are the dispatcher's (dispatcher.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from penstock import clock
from penstock.events import WorkerStarted, WorkerStopped
from penstock.job import Job, JobState
from penstock.lifecycle import Phase
from penstock.pool.processes.arrivals import Arrival
from penstock.pool.processes.dispatcher import Dispatcher
from penstock.pool.processes.page import IS_SAFE
from penstock.pool.processes.worker import ProcessWorker

if TYPE_CHECKING:
    from penstock.pool.processes import ProcessCrew

log = logging.getLogger("penstock.pool")

_FAILED_STARTS: Final = 3  # in a row: then the pool is broken
_AHEAD: Final = 2e-3  # seconds of work that are sent ahead to a worker, by what its jobs took lately
_MOST_AHEAD: Final = 128  # jobs
LONG: Final = 5e-3  # seconds that a job may hold up those that were sent after it
_RUNNING: Final = JobState.RUNNING  # looked up once: it costs as much as a step
_LOOK: Final = 0.05  # seconds for workers to write down where they stand when they are killed by a stop
_TO_ARRIVE: Final = 0.05  # seconds for what they have sent by then to get through


Ahead = tuple[ProcessWorker, int, bool]
"""Where a job was sent ahead: to whom, under which number, and whether it holds a place in the backlog."""


class ProcessStaff:
    """The worker processes of one pool.

    Invariants:
      1. A worker is on `idle` only if nothing is under way to it.
      2. A job is in at most one of: the backlog's rooms, `ahead`, the running ones; or in one thread's hands.
    Locks: `_lock` guards `alive`, `_ready`, `_started`, `_failed_starts` and `_workers`. `_taking` is held while a job
    moves between the backlog, `ahead` and the running ones, so that whoever looks for it in all of them finds it. Both
    are leaves: places are given back, and jobs are asked to stop, after they are released.
    """

    def __init__(self, crew: ProcessCrew) -> None:
        self._crew = crew
        self._settings = crew.settings
        self.idle: list[ProcessWorker] = []
        self.waking = False  # a worker that is woken has its job with the same step
        self.alive = 0  # started, or about to be, and not told to leave
        self.capacity = self._settings.max_workers
        self.ahead: dict[Job[Any], Ahead] = {}
        self.broken: BaseException | None = None
        self.dispatcher = Dispatcher(crew)
        self.stacks_at_end: dict[ProcessWorker, str] = {}  # written by whoever stops the pool, once
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # notified when a worker gets ready, or can't
        self._ready = 0
        self._started = 0
        self._failed_starts = 0
        self._trouble: BaseException | None = None  # why the last one that failed to start did
        self.is_breaking = False  # a worker has said that none can be made ready; why is being unpacked
        self._given_up = False
        self.none_may_live = False  # a stop has killed all: the same goes for those that are being started
        self._workers: set[ProcessWorker] = set()

    # Handing over: any thread

    def wake_one(self) -> None:
        """Hand the next job to an idle worker, if there are both."""
        try:
            worker = self.idle.pop()
        except IndexError:
            return
        self.hand_over(worker)

    def hand_over(self, worker: ProcessWorker) -> None:
        """*worker* was idle and is ours: give it a job, or put it back."""
        backlog, lifecycle = self._crew.backlog, self._crew.lifecycle
        while True:
            if worker.doomed:
                return
            if self.is_spent(worker):
                self.dispatcher.retire(worker)
                return
            job = self._next_job()
            if job is not None:
                if not self._begin(worker, job):
                    continue  # it has its outcome already
                if not worker.send([job]):
                    self._put_back(worker, job)
                elif job._context is not None and (cause := job._context.cause) is not None:
                    worker.ask_to_stop(job, cause)
                if self.is_spent(worker):
                    self.dispatcher.retire(worker)
                return
            self.idle.append(worker)
            if not (backlog.queue or backlog.due):
                if lifecycle.phase is Phase.CLOSED or worker.dead:
                    self.dispatcher.look_at_idle()
                return
            try:
                self.idle.remove(worker)
            except ValueError:
                return  # somebody else has it

    def hand_out(self) -> None:
        """Hand over what waits, as long as a worker is idle."""
        backlog = self._crew.backlog
        while self.idle and (backlog.queue or backlog.due):
            self.wake_one()

    def is_spent(self, worker: ProcessWorker) -> bool:
        """Whether *worker* has been given as many jobs as it may run."""
        most = self._settings.max_jobs_per_worker
        return most is not None and worker.last - worker.skipped >= most

    def _next_job(self) -> Job[Any] | None:
        backlog = self._crew.backlog
        if not (backlog.queue or backlog.due):
            return None  # as mostly: an error that is raised and caught would take longer
        try:
            if backlog.due:
                return backlog.due.popleft()
            job = backlog.queue.popleft()
        except IndexError:
            return None
        backlog.places.give()
        return job

    def _begin(self, worker: ProcessWorker, job: Job[Any]) -> bool:
        """*job*, which is in our hands, runs from now on; False if it must not."""
        job._began = worker.moved_at = clock.monotonic()
        job._attempt += 1
        job._worker = worker.name
        job._stage = JobState.RUNNING
        attempts = self._crew.attempts
        attempts.running[job] = worker
        needs_care = job._context is not None or self._crew.lifecycle.cutting or not job._terms.plain
        if needs_care and not attempts.begin(worker, job):
            return False
        if self._crew.ledger.observers:
            attempts.tell_started(job)
        return True

    def _put_back(self, worker: ProcessWorker, job: Job[Any]) -> None:
        """The worker died before *job* was sent."""
        if self._crew.attempts.take(job, worker):
            self.has_not_run(job)
        self.call()

    def send_ahead(self, worker: ProcessWorker) -> None:
        """On the dispatcher, for a busy worker: send some more, as many as take a moment by what jobs took lately."""
        backlog = self._crew.backlog
        if not IS_SAFE or self.idle or self._crew.lifecycle.cutting:
            return
        if worker.retiring or worker.doomed or worker.dead or worker.unsent:
            return
        room = self._room(worker)
        jobs: list[Job[Any]] = []
        with self._taking:
            while len(jobs) < room:
                try:
                    placed = not backlog.due
                    job = backlog.queue.popleft() if placed else backlog.due.popleft()
                except IndexError:
                    break
                jobs.append(job)
                self.ahead[job] = worker, worker.last + len(jobs), placed
        if jobs:
            worker.send(jobs)
            self._has_moved()

    def _has_moved(self) -> None:
        """A job has moved between two rooms: a stop that looked into each in turn may have found it in none."""
        if self._crew.lifecycle.cutting:
            self._crew.cut_waiting()

    def _room(self, worker: ProcessWorker) -> int:
        """How many jobs may be sent ahead to *worker* now."""
        waiting = len(self._crew.backlog.queue) + len(self._crew.backlog.due)
        fair = -(-waiting // max(1, self.alive))
        room = _MOST_AHEAD if worker.takes <= 0 else int(_AHEAD / worker.takes)
        room = min(room, _MOST_AHEAD) - (len(worker.under_way) - 1)
        if self._settings.max_jobs_per_worker is not None:
            room = min(room, self._settings.max_jobs_per_worker - (worker.last - worker.skipped))
        return min(room, fair)

    # Taking back: any thread

    def take_back(self, job: Job[Any]) -> bool:
        """Take *job* from those that were sent ahead: it will not run there, and is the caller's. False: it runs."""
        with self._taking:
            entry = self.ahead.pop(job, None)
            if entry is None:
                placed = self._crew.backlog.remove(job)  # it may have moved there while the caller looked
                too_late = placed is None
            else:
                worker, seq, placed = entry
                too_late = not worker.ends.page.take_back(seq)
                if too_late:
                    self._runs(job, entry)
        if placed:
            self._crew.backlog.places.give()
        if too_late and entry is not None:
            self._crew.attempts.adopt(job)
        return not too_late

    def take_all_back(self) -> list[Job[Any]]:
        """Take back every job that was sent ahead and has not begun."""
        return [job for job in list(self.ahead) if self.take_back(job)]

    def return_those_behind(self, worker: ProcessWorker) -> None:
        """On the dispatcher: what was sent ahead to *worker* goes back to the head of the backlog."""
        backlog = self._crew.backlog
        with worker.lock:
            newest_first = [job for _, job in reversed(worker.under_way)]
        run: list[tuple[Job[Any], Ahead]] = []
        with self._taking:
            for job in newest_first:
                entry = self.ahead.get(job)
                if entry is None or entry[0] is not worker:
                    continue
                del self.ahead[job]
                _, seq, placed = entry
                if worker.ends.page.take_back(seq):
                    (backlog.queue if placed else backlog.due).appendleft(job)  # it kept its place
                else:
                    self._runs(job, entry)
                    run.append((job, entry))
        for job, entry in run:
            self._adopt(job, entry)
        self._has_moved()

    def has_begun(self, worker: ProcessWorker, seq: int, job: Job[Any], began: float) -> None:
        """On the dispatcher: *worker* has come to *job*, if that was sent ahead to it under this number.

        It may have been taken back and sent again, and still wait.
        """
        with self._taking:
            entry = self.ahead.get(job)
            if entry is None or entry[:2] != (worker, seq):
                return
            del self.ahead[job]
            self._runs(job, entry, began)
        self._adopt(job, entry)

    def _runs(self, job: Job[Any], entry: Ahead, began: float | None = None) -> None:
        """*job* was sent ahead and has begun. Holds `_taking`; `_adopt` has to follow."""
        worker = entry[0]
        job._began = clock.monotonic() if began is None else began
        job._attempt += 1
        job._worker = worker.name
        job._stage = JobState.RUNNING
        self._crew.attempts.running[job] = worker

    def _adopt(self, job: Job[Any], entry: Ahead) -> None:
        if entry[2]:
            self._crew.backlog.places.give()
        self._crew.attempts.adopt(job)

    def take_ended(self, worker: ProcessWorker, jobs: list[Job[Any]]) -> list[Job[Any]]:
        """On the dispatcher: take *jobs*, which *worker* has run, from those sent ahead or from the running ones.

        Returns those of them that are in neither.
        """
        ahead, attempts = self.ahead, self._crew.attempts
        gone: list[Job[Any]] = []
        places = 0
        with self._taking:
            for job in jobs:
                entry = ahead.get(job)
                if entry is None or entry[0] is not worker:
                    if not attempts.take(job, worker):
                        gone.append(job)
                    continue
                del ahead[job]
                places += entry[2]
                job._attempt += 1
                job._worker = worker.name
                job._stage = _RUNNING
        for _ in range(places):
            self._crew.backlog.places.give()
        return gone

    def has_not_run(self, job: Job[Any]) -> None:
        """*job*, in our hands, was taken for running and was not run: it is cancelled, or goes before the others."""
        context = job._context
        if context is not None and job._terms.timeout is not None:
            context.limit(None)  # its time begins again with the attempt
        with self._taking:
            job._attempt -= 1
            job._stage = JobState.READY
            self._crew.backlog.due.appendleft(job)
        if context is not None and (cause := context.cause) is not None:
            self._crew.attempts.tripped(job, cause)  # it came while the job was in our hands
        self._has_moved()

    def bring_back(self, worker: ProcessWorker, job: Job[Any]) -> bool:
        """On the dispatcher: *worker* died before it began *job*, or skipped it. False if it was not there any more."""
        backlog = self._crew.backlog
        with self._taking:
            entry = self.ahead.get(job)
            if entry is not None and entry[0] is worker:
                del self.ahead[job]
                (backlog.queue if entry[2] else backlog.due).appendleft(job)
        if entry is not None and entry[0] is worker:
            self._has_moved()
            return True
        if self._crew.attempts.take(job, worker):
            self.has_not_run(job)
            return True
        return False

    # As crew.Workers

    def wake_all(self) -> None:
        """The pool is closed: the dispatcher lets the workers leave."""
        self.dispatcher.look_at_idle()
        with self._changed:
            self._changed.notify_all()

    def call(self) -> None:
        """There is work: hand it over, or have one more worker start."""
        if self.idle:
            self.wake_one()
        elif self.alive < self.capacity:
            self.grow()

    def call_for_waiting(self) -> None:
        """If jobs wait and a worker is idle, hand one over."""
        if self.idle and (self._crew.backlog.queue or self._crew.backlog.due):
            self.wake_one()

    def grow(self) -> bool:
        """Have the dispatcher start one more worker if there may be one."""
        with self._lock:
            if not self._may_start():
                return False
            self.alive += 1
        self.dispatcher.start_worker()
        return True

    def _may_start(self) -> bool:
        """Whether there may be one more. Holds `_lock`."""
        if self.is_breaking or self.broken is not None:
            return False
        return self.alive < self.capacity and self._crew.lifecycle.phase is not Phase.CLOSED

    def next_name(self) -> str:
        """A name for one more worker."""
        with self._lock:
            number, self._started = self._started, self._started + 1
        return f"{self._settings.name}_{number}"

    def start(self) -> None:
        """Start all workers and wait until each is ready; raises what an initializer raised."""
        self._crew.refuse_if_too_early()
        while self.grow():
            pass
        with self._changed:
            self._changed.wait_for(self._is_settled)
            trouble = self.broken or (self._trouble if self.starts_in_vain else None)
            all_ready = self._ready >= self.capacity
        if trouble is not None:
            raise trouble
        if not all_ready:
            raise self._crew.refusal()

    def _is_settled(self) -> bool:
        """Whether all are ready, or will not be. Holds `_lock`."""
        if self._ready >= self.capacity or self._given_up or self.starts_in_vain:
            return True
        return self._crew.lifecycle.phase is Phase.CLOSED

    def waiting_for(self, job: Job[Any] | None, block: Callable[[], bool]) -> bool:
        """Call *block*: the workers are elsewhere, and none can wait here."""
        self._refuse_own(job)
        return block()

    def lending(self, job: Job[Any] | None) -> AbstractContextManager[None]:
        """The same as a block, for a coroutine; a submitter that runs a job itself may ask for that very job."""
        self._refuse_own(job)
        return contextlib.nullcontext()

    def _refuse_own(self, job: Job[Any] | None) -> None:
        if job is not None and self._crew.attempts.is_in(job):
            raise RuntimeError(f"{job.label} can't wait for itself")

    def is_here(self) -> bool:
        """No thread of this process is a worker."""
        return False

    def count(self) -> int:
        """How many processes there are."""
        return len(self._workers)

    def workers(self) -> list[ProcessWorker]:
        """Those that have not ended."""
        with self._lock:
            return list(self._workers)

    def join(self, deadline: float | None) -> None:
        """Wait until *deadline* for the processes of a closed pool to end."""
        self.dispatcher.join(deadline)

    def kill_all(self) -> None:
        """The last rung: nothing runs on, nor begins to."""
        self.none_may_live = True
        for worker in self.workers():
            worker.kill()

    def look_at_running(self) -> None:
        """Before the last rung: note where each worker stands."""
        asked = [(worker, worker.ask_where()) for worker in set(self._crew.attempts.running.values())
                 if isinstance(worker, ProcessWorker)]  # fmt: skip
        until = clock.monotonic() + _LOOK
        for worker, begun in asked:
            self.stacks_at_end[worker] = worker.where_it_said(begun, until)

    def let_arrive(self) -> None:
        """Before the last rung: a job that has ended over there, and only has to be unpacked, keeps its outcome."""
        until = clock.monotonic() + _TO_ARRIVE
        while self._any_arrives() and clock.monotonic() < until:
            time.sleep(0.001)  # polls: it is the last moment of a stop, and none who arrives should have to tell of it

    def _any_arrives(self) -> bool:
        return any(isinstance(runner, Arrival) for runner in list(self._crew.attempts.running.values()))

    def start_afresh(self) -> None:
        """In the child of a fork: the workers are the parent's."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._taking = threading.Lock()
        self.idle.clear()
        self.ahead.clear()
        self.dispatcher.start_afresh()
        for worker in self._workers:
            worker.ends.start_afresh()
        self._workers.clear()
        self.alive = self.capacity = 0

    # Coming and going: the dispatcher

    def came(self, worker: ProcessWorker) -> None:
        """Its process was started."""
        with self._lock:
            self._workers.add(worker)

    def is_ready(self, worker: ProcessWorker) -> None:
        """It can take jobs."""
        worker.ready = True
        with self._changed:
            self._ready += 1
            self._failed_starts = 0
            self._changed.notify_all()
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStarted(self._settings.name, worker.name))
        if worker.predecessor is None:  # else it waits until that one has done its last job
            self.hand_over(worker)

    def is_not_wanted(self) -> None:
        """One that was to be started is not."""
        with self._lock:
            self.alive -= 1

    def could_not_start(self, trouble: BaseException) -> None:
        """One could not be started, or ended before it was ready. Too often in a row, and the pool is broken."""
        with self._changed:
            self._failed_starts += 1
            self._trouble = trouble
            hopeless = self.starts_in_vain and not self._ready
            self._changed.notify_all()
        if hopeless:
            self.cannot_work(trouble)

    def has_successor(self) -> None:
        """One more is started beside one that will leave."""
        with self._lock:
            self.alive += 1

    def gone(self, worker: ProcessWorker) -> bool:
        """Its process has ended; True if another should be started in its place."""
        with contextlib.suppress(ValueError):
            self.idle.remove(worker)
        with self._lock:
            self._workers.discard(worker)
            if worker.ready:
                self._ready -= 1
            counted = not worker.told_to_leave
            if counted:
                self.alive -= 1
            again = counted and not worker.broken and self._may_start()
            self.alive += again
        self._crew.ledger.close_tally(worker.tally)
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStopped(self._settings.name, worker.name))
        return again

    def lets_leave(self, worker: ProcessWorker) -> None:
        """It does not count any more: it leaves once it has done what it has."""
        with self._lock:
            if not worker.told_to_leave:
                self.alive -= 1
        worker.leave()

    @property
    def failed_starts(self) -> int:
        """How many in a row ended before they were ready."""
        return self._failed_starts

    @property
    def starts_in_vain(self) -> bool:
        """Whether too many in a row ended before they were ready."""
        return self._failed_starts >= _FAILED_STARTS

    def cannot_work(self, error: BaseException) -> None:
        """No worker can be made ready: the pool is broken."""
        with self._lock:
            first = self.broken is None
            if first:
                self.broken = error
        if first:
            name = self._settings.name
            said = "the workers of pool %r can't be made ready"
            self._crew.ledger.failures._lines.put(
                functools.partial(log.critical, said, name, exc_info=error, extra={"pool": name})
            )
            self._crew.broke()
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
