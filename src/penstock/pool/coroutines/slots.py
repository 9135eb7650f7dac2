"""Who works: the slots of a pool of coroutines, and which job gets one.

    asubmit ──a slot is free─────────────────> launch ──> task ──> free
       └─────none is──> backlog ───> serve ───────^                 │
                                       ^────────────────────────────┘

Most jobs find a slot free, and nobody waits when they end: `asubmit` and `TaskWorker.attempt` have these steps written
out.

All of it happens on the loop's thread, so that nothing here needs a lock; other threads reach it through `Home.call`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context as ContextVars
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from penstock import clock
from penstock.errors import NestedWait
from penstock.events import WorkerStarted, WorkerStopped
from penstock.job import FINAL, Job, JobState, current_job, name_of
from penstock.lifecycle import Phase
from penstock.pool.coroutines.firststep import FirstStep
from penstock.pool.coroutines.onestep import CAN_SHARE, OneStep
from penstock.pool.coroutines.worker import JobTask, TaskWorker

if TYPE_CHECKING:
    from penstock.pool.coroutines.crew import CoroutineCrew

HAS_EAGER_TASKS: Final = sys.version_info >= (3, 12)
ONE_TURN: Final = 50  # jobs that begin before the loop gets a turn for others
PROVES: Final = 50 if CAN_SHARE else sys.maxsize
"""Jobs that end with their first step, before the next ones are expected to do so, and share a task: see `OneStep`."""

_RUNNING = JobState.RUNNING


class _Lent(AbstractContextManager[None]):
    """A slot that is lent until the end of the block."""

    __slots__ = ("_go_on",)

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on = go_on

    def __exit__(self, *told: object) -> None:
        self._go_on()


_NOTHING_LENT: Final = nullcontext()


class Slots:
    """The slots of one pool.

    Invariants:
      1. `busy` slots have a job: from `launch` until its task has left its function.
      2. capacity == max_workers + lent + replaced; busy <= capacity, but for jobs that go on after they have waited for
         another job of this pool.
      3. A free slot has its worker in `spare`, or none yet (`unhired`): busy + len(spare) + unhired == capacity, with
         the exception of 2. So whoever finds a worker in `spare` may use it.
      4. If a job waits in the backlog and a slot is free, `serve` is under way or will be called.
      5. At most one eager first step is on the stack: what is launched inside of it begins later.
    Loop's thread only, if nothing else is said.
    """

    idle: list[Any] = []  # noqa: RUF012 - always empty, as the next two are always so: nobody sleeps here
    waking = False
    ahead: dict[Job[Any], object] = {}  # noqa: RUF012
    broken: BaseException | None = None
    alive = 0

    def __init__(self, crew: CoroutineCrew) -> None:
        self._crew = crew
        self._settings = crew.settings
        self._lifecycle = crew.lifecycle
        self._ledger = crew.ledger
        self.tally = crew.ledger.open_tally()
        self.capacity = self._settings.max_workers
        self.unhired = self.capacity
        self.is_usual = True  # no slot is lent, and none is too many
        self.starts_eagerly = False
        self.has_factory = False  # its user has the loop's tasks made in a way of his own
        self.to_prove = PROVES  # how many more have to end with their first step before that is expected
        self.left = ONE_TURN  # how many may begin at the door before the loop gets a turn for others
        self.spare: list[TaskWorker] = []
        self._dismissed: list[TaskWorker] = []  # workers whose slots are no more
        self._made = 0
        self.is_beginning = False  # an eager first step is on the stack
        self._is_serving = False
        self.lent: dict[Job[Any], list[Job[Any] | None]] = {}  # by job whose slot is lent: for which jobs
        self._replaced = 0  # ever; guarded by Attempts._lock
        self._came_back = 0

    def open(self) -> None:
        """The backlog is there now: see `Crew`."""
        self._queue: deque[Job[Any]] = self._crew.backlog.queue
        self._due: deque[Job[Any]] = self._crew.backlog.due
        self._places = self._crew.backlog.places
        self._attempts = self._crew.attempts
        self._around = self._crew.around
        self._running = self._crew.attempts.running

    def settle(self, loop: asyncio.AbstractEventLoop) -> None:
        """The pool's loop is known now."""
        self._loop = loop
        self.has_factory = loop.get_task_factory() is not None
        self.starts_eagerly = not self.has_factory and (HAS_EAGER_TASKS or isinstance(loop, asyncio.BaseEventLoop))
        self.first_step = FirstStep(loop)
        self.one_step = OneStep(loop, self.first_step)

    # Giving slots to jobs

    @property
    def busy(self) -> int:
        """How many slots have a job."""
        return self._made - len(self.spare) - len(self._dismissed)

    def take(self) -> TaskWorker | None:
        """A free slot, for the caller to use; None if there is none."""
        if self.spare:
            return self.spare.pop()
        return self._hire() if self.unhired else None

    def _hire(self) -> TaskWorker:
        """A worker for a free slot that has none."""
        self.unhired -= 1
        if self._dismissed:
            return self._dismissed.pop()
        worker = TaskWorker(self._crew, f"{self._settings.name}_{self._made}")
        self._made += 1
        if self._ledger.observers:
            self._ledger.tell(WorkerStarted(self._settings.name, worker.name))
        return worker

    def launch(self, job: Job[Any], worker: TaskWorker, began: float) -> None:
        """Begin an attempt of *job*, which is in our hands, in the slot of *worker*, at *began*, which is now."""
        # All is written before the job is in the room of running ones, where others can take it.
        worker.job = job
        job._began = began
        job._attempt += 1
        job._worker = worker.name
        job._stage = _RUNNING
        terms = job._terms
        call: Any = job._fn
        args: Any = job._args
        cv: Any = job._cv
        name = call.__qualname__ if type(call) is FunctionType else name_of(call)
        self._running[job] = worker
        if terms.plain and job._context is None and terms.claim is None and not self._lifecycle.cutting:
            job._fn, job._args, job._cv = name, None, None  # it is called once
        elif not self._attempts.begin(worker, job):
            worker.go_on()
            return
        elif terms.retry is not None:
            cv = cv.copy()  # what one attempt sets the next one must not see
        if self._ledger.observers:
            self._attempts.tell_started(job)
        if self._around is not None:
            call, args = self._around, (job, call, args)
        self.begin(worker, job, name, call, args, cv)

    def begin(
        self,
        worker: TaskWorker,
        job: Job[Any],
        name: str,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        cv: ContextVars,
    ) -> None:
        """Make the task of *job*, which is among the running ones; and its first step, if that can be made now."""
        coroutine = worker.coroutine = worker.attempt(job, call, args)
        if self.starts_eagerly and not self.is_beginning:
            self.is_beginning = True
            try:
                if HAS_EAGER_TASKS:
                    task = _Task(coroutine, loop=self._loop, name=name, context=cv, eager_start=True)
                else:
                    task = self.first_step.task(coroutine, name, cv)
            finally:
                self.is_beginning = False
            if worker.job is not None:
                worker.task = task
                if worker.asked is not None:
                    worker.heed()
            elif self._queue:
                self.serve()  # what its first step has submitted
        elif not self.has_factory:
            task = worker.task = JobTask(coroutine, loop=self._loop, name=name, context=cv)
            task.worker = worker
        else:
            self._launch_by_factory(worker, job, name, cv)

    def _launch_by_factory(self, worker: TaskWorker, job: Job[Any], name: str, cv: ContextVars | None) -> None:
        """Have the loop's user make the task."""
        coroutine = worker.coroutine
        assert coroutine is not None
        try:
            task = self._loop.create_task(coroutine, name=name, context=cv)
        except BaseException as error:
            coroutine.close()
            self._attempts.failed(worker, job, error)
            worker.go_on()
            return
        if not task.done():  # it may have begun at once
            worker.task = task
            task.add_done_callback(worker.task_ended)

    def hand_on(self, worker: TaskWorker, now: float) -> None:
        """*worker* has left its job, and others wait in the queue: it goes to the next one without being free."""
        if self._is_serving:
            worker.go_on()
            return
        try:
            job = self._queue.popleft()
        except IndexError:  # another thread took it out
            worker.go_on()
            return
        if self._places.waiting:
            self._places.give()
        else:  # Places.give, written out for the common case
            self._places.free.append(None)
            if self._places.waiting and self._places.take():
                self._places.give()
        worker.task = None
        self.launch(job, worker, now)

    def free(self, worker: TaskWorker) -> None:
        """*worker* has left its job: its slot is free, and goes to the next."""
        if self.is_usual:
            self.spare.append(worker)
        else:
            keeps = self.busy <= self.capacity
            (self.spare if keeps else self._dismissed).append(worker)
            self.recount()
        if (self._queue or self._due) and not self.is_beginning:
            self.serve()

    def serve(self) -> None:
        """Give the free slots to jobs that wait, at most a turn's worth of them at once."""
        if self._is_serving:
            return  # further out on the stack, where it goes on
        self._is_serving = True
        try:
            for _ in range(ONE_TURN):
                worker = self.take() if self._queue or self._due else None
                if worker is None:
                    return
                job = self._next()
                if job is None:  # another thread has taken it out
                    self.spare.append(worker)
                    return
                self.launch(job, worker, clock.monotonic())
        finally:
            self._is_serving = False
        self._loop.call_soon(self.serve)

    def _next(self) -> Job[Any] | None:
        """Take the first of the jobs that wait; None if there is none. Another thread may be taking them out."""
        try:
            if self._due:
                return self._due.popleft()
            job = self._queue.popleft()
        except IndexError:
            return None
        if self._places.waiting:
            self._places.give()
        else:  # Places.give, written out for the common case
            self._places.free.append(None)
            if self._places.waiting and self._places.take():
                self._places.give()
        return job

    # Slots that are lent or replaced

    def lend(self, job: Job[Any] | None) -> Callable[[], None]:
        """The calling coroutine will wait for *job* (None: for a place); if it is part of a job, that lends its slot.

        Gives what takes the slot back. Whatever the number of its tasks that wait, a job lends one.
        """
        waiter = current_job()
        worker = None if waiter is None else self._crew.attempts.running.get(waiter)
        if waiter is None or worker is None or not self._crew.home.is_here():
            return _nothing  # it may be a job of another pool, or go on after the end of its own
        self._refuse_hopeless_wait(waiter, job)
        if isinstance(worker, TaskWorker) and worker.is_extra:
            return _nothing  # it has no slot
        waits = self.lent.setdefault(waiter, [])
        waits.append(job)
        if len(waits) == 1:
            self.recount()
            self.serve()
        return functools.partial(self._take_back_slot, waiter, job)

    def lending(self, job: Job[Any] | None) -> AbstractContextManager[None]:
        """As `lend`, for a block."""
        go_on = self.lend(job)
        return _NOTHING_LENT if go_on is _nothing else _Lent(go_on)

    def _take_back_slot(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        waits = self.lent.get(waiter)
        if waits is not None and job in waits:  # else the waiter has ended before its task did
            waits.remove(job)
            if not waits:
                self.stop_lending(waiter)

    def stop_lending(self, waiter: Job[Any] | None) -> None:
        """*waiter* goes on, or has ended: it lends no slot any more."""
        if waiter is not None and self.lent.pop(waiter, None) is not None:
            self.recount()

    def _refuse_hopeless_wait(self, waiter: Job[Any], job: Job[Any] | None) -> None:
        """Raise NestedWait if *waiter* would wait for itself, or if too many wait already."""
        target = "a place in the backlog of its own pool" if job is None else job.label
        seen: list[Job[Any]] = []
        ahead = [job]
        while ahead:
            one = ahead.pop()
            if one is None or one in seen:
                continue
            seen.append(one)
            if one is waiter:
                circle = ", ".join(other.label for other in seen)
                why = "a job can't wait for itself" if one is job else f"they wait in a circle: {circle}"
                raise NestedWait(waiter.label, target, why)
            ahead += self.lent.get(one, ())
        if waiter not in self.lent and len(self.lent) >= self._settings.max_lent:
            shown = ", ".join(other.label for other in list(self.lent)[:5])
            pool, count = self._settings.name, len(self.lent)
            why = f"{count} jobs of pool {pool!r} wait for its own jobs already (max_lent): {shown}, …"
            raise NestedWait(waiter.label, target, why)

    def replace_stuck(self) -> bool:
        """Have one slot more in place of a stuck one's; False if as many as may be are replaced. Any thread."""
        if self._replaced - self._came_back >= self._settings.max_stuck:
            return False
        self._replaced += 1
        self._crew.home.call(self.recount)
        return True

    def stuck_came_back(self) -> None:
        """A stuck task whose slot was replaced has ended: there is one slot too many."""
        self._came_back += 1
        self.recount()

    def recount(self) -> None:
        """See invariants 2 and 3."""
        self.capacity = self._settings.max_workers + len(self.lent) + self._replaced - self._came_back
        free = self.capacity - self.busy
        while len(self.spare) > max(0, free):
            self._dismissed.append(self.spare.pop())
        self.unhired = max(0, free - len(self.spare))
        self.is_usual = free >= 0 and not self.lent

    # As crew.Workers: any thread

    def wake_one(self) -> None:
        """Nobody sleeps."""

    def wake_all(self) -> None:
        """The crew is closed: let go of what is left."""
        self._crew.let_go()
        self._crew.home.call(self._tell_stopped)

    def _tell_stopped(self) -> None:
        self._crew.attempts.leave_behind()
        if self._ledger.observers:
            for number in range(self._made):
                self._ledger.tell(WorkerStopped(self._settings.name, f"{self._settings.name}_{number}"))

    def call(self) -> None:
        """There is work: see that a free slot takes it."""
        self._crew.home.call(self.serve)

    def call_for_waiting(self) -> None:
        """If jobs wait, see that a free slot takes one."""
        if self._queue or self._due:
            self.call()

    def take_back(self, job: Job[Any]) -> bool:
        """Nothing is sent ahead: False."""
        return False

    def take_all_back(self) -> list[Job[Any]]:
        """Nothing is sent ahead."""
        return []

    def grow(self) -> bool:
        """There is nothing to start: False."""
        return False

    def start(self) -> None:
        """There is nothing to start."""

    def waiting_for(self, job: Job[Any] | None, block: Callable[[], bool]) -> bool:
        """Call *block*, which waits for *job*, if that can't stop the loop that runs it."""
        crew = self._crew
        if crew.home.is_here():
            waiter, target = current_job(), "a place" if job is None else job.label
            why = "it would stop the event loop that runs it; write `await job`"
            raise NestedWait("this thread" if waiter is None else waiter.label, target, why)
        if crew.home.is_gone():
            crew.close("its event loop was closed")
        return (job is not None and job._stage in FINAL) or block()

    def is_here(self) -> bool:
        """Whether the calling code is part of a running job."""
        job = current_job()
        return job is not None and job in self._crew.attempts.running

    def count(self) -> int:
        """How many slots were used so far; none once the pool is closed."""
        return 0 if self._lifecycle.phase is Phase.CLOSED else self._made

    def join(self, deadline: float | None) -> None:
        """Nobody to wait for: a task settles its job with its last step."""

    def start_afresh(self) -> None:
        """In the child of a fork: the loop is the parent's."""
        self.spare.clear()
        self._dismissed.clear()
        self.lent.clear()
        self._made = 0


_Task: Callable[..., asyncio.Task[None]] = asyncio.Task  # what it takes depends on the version


def _nothing() -> None:
    pass
