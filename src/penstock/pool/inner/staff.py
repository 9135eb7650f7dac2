"""Who hands jobs to the executor, and how many.

One thread of ours, the dispatcher, makes every call to the executor but `cancel`. Not whoever adds a job, nor whoever
says that one has ended: an executor may say so with a lock held that its `submit` takes (CPython's process pool does,
when it breaks), or on the one thread that it can't do without (Dask's loop).

Who wakes it. A submitter looks at `idle` after it added its job; who frees a slot looks for jobs after it put the slot
there; the dispatcher clears `waking` before it looks for both. So one of them sees the other.

An executor that is dead is found out by a `submit` that raises. But one that has lost what it had may let futures hang
for ever (Dask's, if they are made while its client gives up), and if these have all the slots nobody submits. So once
it has dropped a job it is asked now and then, with a call that can't fail, until something comes back from it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from penstock import clock, raised, timers
from penstock.errors import BacklogFull, Cancelled, JobDropped, NestedWait
from penstock.events import WorkerStarted, WorkerStopped
from penstock.job import FINAL, Job, current_job
from penstock.lifecycle import Phase
from penstock.pool.inner.slot import Hold, Slot

if TYPE_CHECKING:
    from penstock.pool.inner import ExecutorCrew

log = logging.getLogger("penstock.pool")

_DOUBT: Final = 1.0  # seconds until an executor that has dropped a job is asked; the next time twice as many,
_LONGEST_DOUBT: Final = 30.0  # at most


class _Wait:
    """A block in which a job waits for its own pool."""

    __slots__ = ("_hold", "_job", "_staff")

    def __init__(self, staff: ExecutorStaff, hold: Hold, job: Job[Any] | None) -> None:
        self._staff = staff
        self._hold = hold
        self._job = job

    def __enter__(self) -> None:
        self._staff.begin_wait(self._hold, self._job)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:  # a coroutine is destroyed, by the collector perhaps, where a lock may be held
            timers.call_apart(functools.partial(self._staff.end_wait, self._hold))
        else:
            self._staff.end_wait(self._hold)


_NO_WAIT = contextlib.nullcontext()


class ExecutorStaff:
    """The slots of one pool around an executor, and the thread that fills them.

    Invariants:
      1. capacity == max_workers + replaced.
      2. A slot is on `idle` or taken; only the dispatcher takes one off.
    Lock: `_lock` guards every field but `idle` and `waking`, which need none; a leaf.
    """

    def __init__(self, crew: ExecutorCrew) -> None:
        self._crew = crew
        self._settings = crew.settings
        self.ahead: dict[Job[Any], object] = {}  # always empty: the executor gives nothing back
        self.idle: list[Slot] = []
        self.waking = False
        self.alive = 0  # slots
        self.capacity = self._settings.max_workers
        self.broken: BaseException | None = None
        self._lock = threading.Lock()
        self._slots: set[Slot] = set()
        self._here: dict[int, Hold] = {}  # by thread ident: what the threads of this process are inside of
        self._made = 0
        self._replaced = 0
        self._waits: dict[Hold, int] = {}  # jobs that wait for their own pool, and in how many places
        self._broken_in_a_row = 0  # results that said so, and nothing else came in between
        self._doubt: float | None = None  # seconds until it is asked again whether it lives; None: it does
        self._to_ask: timers.Timer | None = None
        self._asks = False  # now; written by the timers, cleared by the dispatcher
        self._thread: threading.Thread | None = None
        self._woken = threading.Lock()  # held, but for the moment of a wake: the dispatcher sleeps on it
        self._woken.acquire()
        self._over = False  # the dispatcher will fill no slot any more

    # The dispatcher

    def _run(self) -> None:
        with timers.nothing_may_block():
            while True:
                self.waking = False
                if self._asks:
                    self._asks = False
                    self._ask()
                self._fill_slots()
                if self._crew.lifecycle.phase is Phase.CLOSED:
                    break
                self._woken.acquire()
            self._end()

    def _fill_slots(self) -> None:
        backlog = self._crew.backlog
        while (backlog.queue or backlog.due) and (self.idle or self._make_slot()):
            slot = self.idle.pop()
            try:
                if backlog.due:
                    job = backlog.due.popleft()
                else:
                    job = backlog.queue.popleft()
                    backlog.places.give()
            except IndexError:  # somebody else took it
                self.idle.append(slot)
            else:
                slot.hand_over(job)
                del job  # keep nothing while waiting for the next one

    def _end(self) -> None:
        """The pool is closed. The executor may be shut down; a job that it still has is not waited for."""
        with self._lock:
            self._over = True
            to_ask = self._to_ask
            left = [slot for slot in self._slots if slot.overrun is not None]  # others are on their way out of `ended`
        if to_ask is not None:
            to_ask.cancel()
        while self.idle:
            self._forget(self.idle.pop())
        if self._settings.shutdown_executor:
            try:
                self._settings.executor.shutdown(wait=not left)
            except BaseException:
                log.exception("the executor of pool %r could not be shut down", self._settings.name)

    def not_taken(self, hold: Hold, error: BaseException) -> None:
        """`submit` raised *error*: either that is the job's own fault, or the executor can take none."""
        slot, job = hold.slot, hold.job
        try:
            if self._takes_any(functools.partial(self._probe_ended, slot, [None])):
                self._crew.attempts.failed(slot, job, error)
            else:
                slot.not_run(hold)
                self.release(slot)
        finally:
            del hold, job, error

    def _takes_any(self, ended: Callable[[Any], object]) -> bool:
        """Ask the executor with a call that can't be at fault; if it takes none, it is dead.

        *ended*: called when the question is out of its hands, now if it is full.
        """
        try:
            self._settings.executor.submit(int).add_done_callback(ended)
        except (BacklogFull, queue.Full):
            ended(None)
        except BaseException as dead:
            self.breaks(dead)
            return False
        return True

    def _ask(self) -> None:
        """It has dropped a job, and nothing has come back since. If it has others, they may be lost."""
        with self._lock:
            doubt, has_some = self._doubt, any(slot.hold is not None for slot in self._slots)
            if not has_some:
                self._doubt = None  # the next job is the question
        if doubt is not None and has_some:
            self._ask_in(min(2 * doubt, _LONGEST_DOUBT))
            self._takes_any(self._answered)

    def _answered(self, future: Future[int] | None) -> None:
        if future is not None and not future.cancelled() and future.exception() is None:
            self.heard(None)

    def _ask_in(self, seconds: float) -> None:
        with self._lock:
            if self._over or self.broken is not None:
                return
            self._doubt = seconds
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._to_ask = timers.call_at(clock.monotonic() + seconds, self._time_to_ask)

    def _time_to_ask(self) -> None:
        self._asks = True
        self.wake_one()

    def _probe_ended(self, slot: Slot, told: list[None], future: Future[int] | None) -> None:
        """The question has ended, for which *slot* was taken: on any thread, and perhaps not for the first time."""
        with contextlib.suppress(IndexError):
            told.pop()
            self.release(slot)

    # Any thread: what the executor said

    def heard(self, error: BaseException | None) -> None:
        """A future has ended, with *error*. If every one says that the executor is broken, it is."""
        dropped = raised.is_a(error, JobDropped)
        with self._lock:
            self._broken_in_a_row = self._broken_in_a_row + 1 if raised.is_a(error, BrokenExecutor) else 0
            every = self._broken_in_a_row > 2 * self.capacity
            begins_doubt = dropped and self._doubt is None
            if not (dropped or raised.is_a(error, Cancelled)):
                self._doubt = None
                if self._to_ask is not None:
                    self._to_ask.cancel()
        if every and error is not None:
            self.breaks(error)
        elif begins_doubt:
            self._ask_in(_DOUBT)

    def breaks(self, error: BaseException) -> None:
        """The executor takes no more jobs, now or later."""
        with self._lock:
            first = self.broken is None
            if first:
                self.broken = error
            is_lost, holds = self._doubt is not None, [slot.hold for slot in self._slots]
        if not first:
            return
        name = self._settings.name
        said = "the executor of pool %r takes no more jobs"
        line = functools.partial(log.critical, said, name, exc_info=error, extra={"pool": name})
        self._crew.ledger.failures._lines.put(line)
        self._crew.broke("its executor takes no more jobs")
        if is_lost and (raised.is_a(error, BrokenExecutor) or not raised.is_a(error, RuntimeError)):
            # What it has may never end; after a shutdown in good order, a RuntimeError as the stdlib has it, it may.
            for hold in holds:
                if hold is not None:
                    timers.run_user_code(hold.cancel_future)

    def release(self, slot: Slot) -> None:
        """Its future has ended: another job may have it, unless there is one too many."""
        slot.hold = None
        with self._lock:
            stays = not (slot.retired or self._over)
        if not stays:
            self._forget(slot)
            return
        self.idle.append(slot)
        if self._over:
            with contextlib.suppress(ValueError):
                self.idle.remove(slot)
                self._forget(slot)
        elif not self.waking and (self._crew.backlog.queue or self._crew.backlog.due):
            self.wake_one()

    def _forget(self, slot: Slot) -> None:
        with self._lock:
            if slot not in self._slots:
                return
            self._slots.discard(slot)
            self.alive -= 1
            if slot.retired:
                self._replaced -= 1
                self.capacity -= 1
        self._crew.ledger.close_tally(slot.tally)
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStopped(self._settings.name, slot.name))

    def replace_stuck(self) -> bool:
        """Have one more slot in place of one that is stuck; False if as many as may be are replaced already."""
        with self._lock:
            if self._replaced >= self._settings.max_stuck:
                return False
            self._replaced += 1
            self.capacity += 1
        return True

    # As crew.Workers: any thread

    def wake_one(self) -> None:
        """Have the dispatcher look."""
        self.waking = True
        with contextlib.suppress(RuntimeError):  # woken already
            self._woken.release()

    def wake_all(self) -> None:
        """The pool is closed: the dispatcher ends."""
        if self._thread is None and self._settings.shutdown_executor:
            self._start_thread()
        self.wake_one()

    def call(self) -> None:
        """There is work: have it handed over, in one more slot if none is idle and there may be one."""
        if self.idle:
            self.wake_one()
        elif self.alive < self.capacity:
            self.grow()

    def call_for_waiting(self) -> None:
        """If jobs wait and a slot is idle, have one handed over."""
        if self.idle and (self._crew.backlog.queue or self._crew.backlog.due):
            self.wake_one()

    def take_back(self, job: Job[Any]) -> bool:
        """Nothing is taken back from an executor: False."""
        return False

    def take_all_back(self) -> list[Job[Any]]:
        """Nothing is."""
        return []

    def grow(self) -> bool:
        """Have the dispatcher make one more slot if there may be one and a job for it."""
        if self.alive >= self.capacity or not self._start_thread():
            return False
        self.wake_one()
        return True

    def _make_slot(self) -> bool:
        """Make one more slot if there may be one; True if it was made."""
        with self._lock:
            if self.alive >= self.capacity or self.broken is not None or self._over:
                return False
            self.alive += 1
            number, self._made = self._made, self._made + 1
        slot = Slot(self._crew, f"{self._settings.name}_{number}")
        with self._lock:
            self._slots.add(slot)
        if self._crew.ledger.observers:
            self._crew.ledger.tell(WorkerStarted(self._settings.name, slot.name))
        self.idle.append(slot)
        return True

    def _start_thread(self) -> bool:
        """Start the dispatcher, unless it runs; False if the system gives no thread."""
        with self._lock:
            if self._thread is not None:
                return True
            thread = threading.Thread(target=self._run, name=f"penstock-{self._settings.name}", daemon=True)
            try:
                timers.stand_by()
                thread.start()
            except RuntimeError as error:
                failed = error
            else:
                self._thread = thread
                return True
        log.warning("pool %r can't start its thread: %s", self._settings.name, failed)
        self._crew.nobody_can_work(failed)
        return False

    def start(self) -> None:
        """Make all slots; raises the error by which the executor broke. Its own workers are its own business."""
        while self._start_thread() and self._make_slot():
            pass
        if self.broken is not None:
            raise self.broken

    # Jobs that wait for jobs of their own pool: no slot can be lent, as the executor gets no more workers by that

    def enter(self, hold: Hold) -> None:
        """On a thread of this process: it is inside the job of *hold*."""
        with self._lock:
            self._here[threading.get_ident()] = hold

    def leave(self, hold: Hold) -> None:
        """It is out of it."""
        with self._lock:
            self._here.pop(threading.get_ident(), None)
            self._waits.pop(hold, None)

    def waiting_for(self, job: Job[Any] | None, block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job* (None: for a place), unless that could never end."""
        with self.lending(job):
            return block()

    def lending(self, job: Job[Any] | None) -> AbstractContextManager[None]:
        """The same as a block, for a coroutine. A loop in a job may be in many: it counts as one that waits."""
        if job is not None and job._stage in FINAL:
            return _NO_WAIT
        if job is not None and self._crew.attempts.is_in(job):
            raise NestedWait(job.label, job.label, "a job can't wait for itself")
        hold = self._here.get(threading.get_ident())
        if hold is not None:
            return _Wait(self, hold, job)
        if threading.current_thread() is self._thread:
            self._refuse(job, "the executor runs it on the very thread that hands jobs over")
        return _NO_WAIT

    def begin_wait(self, hold: Hold, job: Job[Any] | None) -> None:
        """The thread that is inside the job of *hold* waits for *job*, once more if it does so already."""
        with self._lock:
            hopeless = hold not in self._waits and len(self._waits) + 1 >= self.capacity
            if not hopeless:
                self._waits[hold] = self._waits.get(hold, 0) + 1
        if hopeless:
            name = self._settings.name
            self._refuse(job, f"every job in the executor's hands ({self.capacity}) would wait for pool {name!r} then")

    def end_wait(self, hold: Hold) -> None:
        """One wait of it is over, or was with its job."""
        with self._lock:
            waits = self._waits.pop(hold, 0)
            if waits > 1:
                self._waits[hold] = waits - 1

    def _refuse(self, job: Job[Any] | None, why: str) -> None:
        waiter = current_job()
        name = "a job" if waiter is None else waiter.label
        raise NestedWait(name, "a place in the backlog of its own pool" if job is None else job.label, why)

    # Looking in: any thread

    def is_here(self) -> bool:
        """Whether the calling thread is inside one of the jobs."""
        return threading.get_ident() in self._here or threading.current_thread() is self._thread

    def count(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def join(self, deadline: float | None) -> None:
        """Wait until *deadline* for the dispatcher of a closed pool to end; if a job overran, until it is stuck."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        with self._lock:
            overran = [slot.overrun for slot in self._slots]
        stuck = [overrun.stuck_at for overrun in overran if overrun is not None]
        if stuck:
            deadline = max(stuck) if deadline is None else min(deadline, max(stuck))
        thread.join(clock.remaining(deadline))

    def start_afresh(self) -> None:
        """In the child of a fork: the thread did not come along, and the lock may be in any state."""
        self._lock = threading.Lock()
        self._thread = None
        self._over = True
        self.idle.clear()
        self._slots.clear()
        self._here.clear()
        self._waits.clear()
        self.alive = self.capacity = 0
