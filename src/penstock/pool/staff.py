"""Who works: starting threads, waking them, lending their slots, letting them go.

Who wakes whom. An idle worker puts itself on the stack `idle` and sleeps on its own lock. Whoever adds a job takes one
off the stack and releases its lock; one such wake is under way at a time (`waking`), and a woken worker that sees more
work wakes the next. A worker looks for work again *after* it is on the stack, and a submitter looks at the stack
*after* it added the job: one of the two sees the other. `list.append`, `list.pop` and `list.remove` are atomic
(workers compare by identity).

If a thread waits for a place, a woken worker leaves it to that thread to wake the next one: the job that the worker
takes gives it the place, it adds its own and looks at the stack, as everybody does who leaves that line. So a full
backlog is worked off with one hand-over less (a fifth of the time of jobs that do nothing), and a burst of jobs still
finds every worker.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from penstock import clock, timers
from penstock.errors import NestedWait
from penstock.events import WorkerStarted, WorkerStopped
from penstock.job import Job, current_job
from penstock.lifecycle import Phase
from penstock.pool.worker import Worker

if TYPE_CHECKING:
    from penstock.pool.threads import ThreadCrew

log = logging.getLogger("penstock.pool")


class _Wait:
    """A block in which a worker waits, or a coroutine on its thread: the worker's slot is lent."""

    __slots__ = ("_job", "_staff", "_worker")

    def __init__(self, staff: Staff, worker: Worker, job: Job[Any] | None) -> None:
        self._staff = staff
        self._worker = worker
        self._job = job

    def __enter__(self) -> None:
        try:
            self._staff.begin_wait(self._worker, self, self._job)
        except BaseException:
            self._staff.end_wait(self._worker, self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:  # a coroutine is destroyed, by the collector perhaps, where a lock may be held
            timers.call_apart(functools.partial(self._staff.end_wait, self._worker, self))
        else:
            self._staff.end_wait(self._worker, self)


_NOTHING_TO_LEND = contextlib.nullcontext()


class Staff:
    """The threads of one pool.

    Invariants:
      1. capacity == max_workers + lent + replaced.
      2. alive <= capacity, but for workers that have to end their job before they may leave.
    Lock: `_lock` guards every field but `idle` and `waking`, which need none; `alive` and `capacity` are read without
    it where a late look does no harm. A leaf; nothing is logged and no user's code runs inside.
    """

    def __init__(self, crew: ThreadCrew) -> None:
        self._crew = crew
        self._settings = crew.settings
        self.ahead: dict[Job[Any], object] = {}  # always empty: a thread takes its next job when it is done
        self.idle: list[Worker] = []  # a stack: the one that slept least is woken first
        self.waking = False  # a worker was woken and has not looked for work yet
        self.alive = 0  # workers that have not decided to leave
        self.capacity = self._settings.max_workers
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # notified when a worker gets ready, or can't
        self._workers: set[Worker] = set()
        self._here: dict[int, Worker] = {}  # by thread ident
        self._started = 0  # workers ever
        self._ready = 0  # workers whose initializer has returned
        self._lent = 0
        self._replaced = 0
        self._said_no_thread = False
        self.broken: BaseException | None = None  # what an initializer raised
        self._given_up = False  # the pool was closed for that reason

    # Waking and starting: any thread

    def wake_one(self) -> None:
        """Wake one idle worker, if there is one."""
        try:
            worker = self.idle.pop()
        except IndexError:
            return
        try:
            self.waking = True
        finally:  # even if Ctrl-C comes in between: it is off the stack, and nobody else will wake it
            worker.lock.release()

    def wake_all(self) -> None:
        """The crew is closed: wake every idle worker, and whoever waits in `start`."""
        while self.idle:
            self.wake_one()
        with self._changed:
            self._changed.notify_all()

    def call(self) -> None:
        """There is work: wake a worker for it, or start one if none is idle and there may be one more."""
        if self.idle:
            self.wake_one()
        elif self.alive < self.capacity:
            self.grow()

    def take_back(self, job: Job[Any]) -> bool:
        """Nothing is sent ahead to a thread: False."""
        return False

    def take_all_back(self) -> list[Job[Any]]:
        """Nothing is sent ahead to a thread."""
        return []

    def call_for_waiting(self) -> None:
        """If jobs wait and a worker is idle, wake it: for who leaves the line of submitters (see the top)."""
        if self.idle and (self._crew.backlog.queue or self._crew.backlog.due):
            self.wake_one()

    def grow(self) -> bool:
        """Start one more worker if there may be one; True if it was started."""
        with self._lock:
            if self.alive >= self.capacity or self.broken is not None:
                return False
            self.alive += 1
            number, self._started = self._started, self._started + 1
        worker = Worker(self._crew, f"{self._settings.prefix}_{number}")
        with self._lock:
            self._workers.add(worker)
        worker.thread = threading.Thread(target=worker.work, name=worker.name, daemon=True)
        try:
            timers.stand_by()
            worker.thread.start()
        except RuntimeError as error:
            self._could_not_start(worker, error)
            return False
        return True

    def _could_not_start(self, worker: Worker, error: RuntimeError) -> None:
        """The system, or an interpreter that is ending, gives no thread: go on with those there are."""
        self._crew.ledger.close_tally(worker.tally)
        with self._lock:
            self._workers.discard(worker)
            self.alive -= 1
            nobody = self.alive <= self._lent
            say, self._said_no_thread = not self._said_no_thread, True
        if say:
            name = self._settings.name
            log.warning("pool %r can't start another thread: %s", name, error, extra={"pool": name})
        if nobody:
            self._crew.nobody_can_work(error)

    def start(self) -> None:
        """Start all workers and wait until each is ready; raises what an initializer raised."""
        while self._crew.lifecycle.phase is not Phase.CLOSED and self.grow():
            pass
        wanted = self._settings.max_workers
        with self._changed:
            self._changed.wait_for(self._is_settled)
            alive, broken = self.alive, self.broken
        if broken is not None:
            raise broken
        if self._crew.lifecycle.phase is Phase.CLOSED:
            raise self._crew.refusal()
        if alive < wanted:
            raise RuntimeError(f"only {alive} of {wanted} worker threads could be started")

    def _is_settled(self) -> bool:
        """Whether all are ready, or need not be any more: an initializer may hang. Holds `_lock`."""
        if self._given_up or self._crew.lifecycle.phase is Phase.CLOSED:
            return True
        return self._ready >= min(self._settings.max_workers, self.alive)

    # Coming and going: the worker's own thread

    def enter(self, worker: Worker) -> bool:
        """First thing on the worker's thread: make it ready. False if its initializer raised."""
        with self._lock:
            self._here[threading.get_ident()] = worker
        if self._settings.initializer is not None:
            try:
                self._settings.initializer(*self._settings.initargs)
            except BaseException as error:
                self._break(error)
                return False
        with self._changed:
            self._ready += 1
            self._changed.notify_all()
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStarted(self._settings.name, worker.name))
        return True

    def _break(self, error: BaseException) -> None:
        """An initializer raised: no job can run, now or later."""
        with self._lock:
            first = self.broken is None
            if first:
                self.broken = error
        if first:
            name = self._settings.name
            log.critical("the initializer of pool %r raised", name, exc_info=error, extra={"pool": name})
            self._crew.broke()
            with self._changed:
                self._given_up = True
                self._changed.notify_all()

    def may_leave(self, worker: Worker) -> bool:
        """Whether *worker* is one too many and has to leave; it counts no more then."""
        with self._lock:
            if self.alive <= self.capacity:
                return False
            self._forget(worker)
        self._crew.ledger.close_tally(worker.tally)
        self.call_for_waiting()  # the wake that brought us here may have been meant for a job
        return True

    def left(self, worker: Worker) -> None:
        """Last thing on the worker's thread."""
        with self._lock:
            self._here.pop(threading.get_ident(), None)
            if worker in self._workers:
                self._forget(worker)
        self._crew.ledger.close_tally(worker.tally)
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStopped(self._settings.name, worker.name))

    def _forget(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self.alive -= 1

    # Slots that are lent or given to a fresh thread

    def waiting_for(self, job: Job[Any] | None, block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job* (None: for a place). If a worker does, its slot is lent meanwhile."""
        worker = self._here.get(threading.get_ident())
        if worker is None:
            self._refuse_own_job(job)
            return block()
        with _Wait(self, worker, job):
            return block()

    def lending(self, job: Job[Any] | None) -> AbstractContextManager[None]:
        """The same as a block, for a coroutine. A loop on a worker's thread may be in many: it lends one slot."""
        worker = self._here.get(threading.get_ident())
        if worker is None:
            self._refuse_own_job(job)
            return _NOTHING_TO_LEND
        return _Wait(self, worker, job)

    def _refuse_own_job(self, job: Job[Any] | None) -> None:
        """On a thread that is no worker: NestedWait if it runs *job* itself."""
        if job is not None and self._crew.attempts.is_in(job):
            raise NestedWait(job.label, job.label, "a job can't wait for itself")

    def begin_wait(self, worker: Worker, wait: object, job: Job[Any] | None) -> None:
        """*worker* waits for *job*, once more if it does so already: see `lending`."""
        with self._lock:
            self._refuse_hopeless_wait(worker, job)
            if not worker.waits:
                self._lent += 1
                self.capacity += 1
            worker.waits[wait] = job
        if self._crew.backlog.queue or self._crew.backlog.due:
            self.call()

    def end_wait(self, worker: Worker, wait: object) -> None:
        """*wait* is over; with the last one of *worker*, its slot is its own again. Safe to repeat."""
        with self._lock:
            if wait not in worker.waits:
                return  # the job that it was part of has ended
            del worker.waits[wait]
            if worker.waits:
                return
            self._take_slot_back()
        self._let_one_go()

    def end_all_waits(self, worker: Worker) -> None:
        """The job of *worker* has ended: coroutines that it left waiting, on a loop that stands still, lend nothing."""
        with self._lock:
            worker.waits.clear()
            self._take_slot_back()
        self._let_one_go()

    def _take_slot_back(self) -> None:
        self._lent -= 1
        self.capacity -= 1

    def _refuse_hopeless_wait(self, worker: Worker, job: Job[Any] | None) -> None:
        """Raise NestedWait if *worker* would wait for itself, or if too many wait already. Holds `_lock`."""
        waiter = current_job()
        name = worker.name if waiter is None else waiter.label
        target = "a place in the backlog of its own pool" if job is None else job.label
        chain = [] if job is None else self._chain_back(worker, job)
        if chain:
            labels = ", ".join(link.label for link in chain)
            why = "a job can't wait for itself" if len(chain) == 1 else f"they wait in a circle: {labels}"
            raise NestedWait(name, target, why)
        if not worker.waits and self._lent >= self._settings.max_lent:
            others = [waited_for.label for other in self._workers for waited_for in other.waits.values() if waited_for]
            shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
            pool = self._settings.name
            why = f"{self._lent} workers of pool {pool!r} wait for its own jobs already (max_lent): {shown}"
            raise NestedWait(name, target, why)

    def _chain_back(self, worker: Worker, job: Job[Any]) -> list[Job[Any]]:
        """*job*, what that waits for, and so on to a job of *worker*; empty if it doesn't come to one. Holds `_lock`.

        A worker that runs a loop may wait for several jobs at once: each of them counts.
        """
        waited_for_by: dict[Job[Any], Job[Any] | None] = {job: None}
        to_look = [job]
        while to_look:
            link: Job[Any] | None = to_look.pop()
            assert link is not None
            other = self._crew.attempts.running.get(link)
            if other is None or other.thread is None:
                continue
            if other.thread is worker.thread:
                chain = []
                while link is not None:
                    chain.append(link)
                    link = waited_for_by[link]
                return chain[::-1]
            # A job that a worker had to run as its caller is not under the worker's name: go by the thread.
            holder = self._here.get(other.thread.ident or 0)
            for next_one in () if holder is None else holder.waits.values():
                if next_one is not None and next_one not in waited_for_by:
                    waited_for_by[next_one] = link
                    to_look.append(next_one)
        return []

    def replace_stuck(self) -> bool:
        """Give the slot of a stuck thread to a fresh one; False if as many as may be are replaced already."""
        with self._lock:
            if self._replaced >= self._settings.max_stuck:
                return False
            self._replaced += 1
            self.capacity += 1
        return True

    def stuck_came_back(self) -> None:
        """A stuck thread whose slot was given away has come back: there is one too many now."""
        with self._lock:
            self._replaced -= 1
            self.capacity -= 1
        self._let_one_go()

    def _let_one_go(self) -> None:
        """If there is one too many now, let an idle one find that out; a busy one will after its job."""
        if self.alive > self.capacity:
            self.wake_one()

    # Looking in: any thread

    def is_here(self) -> bool:
        """Whether the calling thread is one of the workers."""
        return threading.get_ident() in self._here

    def count(self) -> int:
        """How many have not left."""
        return len(self._workers)

    def workers(self) -> list[Worker]:
        """Those that have not left."""
        with self._lock:
            return list(self._workers)

    def join(self, deadline: float | None) -> None:
        """Wait until *deadline* for the threads of a closed pool to end; for one that overran, until it is stuck."""
        for worker in self.workers():
            thread, overrun = worker.thread, worker.overrun
            until = deadline
            if overrun is not None:
                until = overrun.stuck_at if deadline is None else min(deadline, overrun.stuck_at)
            if thread is not None and thread is not threading.current_thread():
                with contextlib.suppress(RuntimeError):  # it was not started yet
                    thread.join(clock.remaining(until))

    def start_afresh(self) -> None:
        """In the child of a fork: none of the threads came along, and the lock may be in any state."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.idle.clear()
        for worker in self._workers:
            worker.waits.clear()
        self._workers.clear()
        self._here.clear()
        self.alive = self.capacity = self._lent = 0
