"""A slot of a pool of coroutines: it runs one job after another, each in a task of its own.

A job's task begins *eagerly*, where that can be (see `Slots.begin`): its first step runs at once, and a job that never
suspends needs no turn of the loop at all. Else the loop makes the first step in its next turn. A task that is cancelled
before that never enters its coroutine, which could then tell nobody; so a `JobTask` tells the job when it is cancelled
early, and a task that its user's factory made is looked at when it has ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from penstock import clock, raised
from penstock.context import Cause, scope
from penstock.errors import JobAbandoned
from penstock.job import Job, JobState
from penstock.pool.attempts import Overrun
from penstock.pool.coroutines.standing import stack_of_coroutine

if TYPE_CHECKING:
    import threading

    from penstock.pool.coroutines.crew import CoroutineCrew

_enter = scope.set
_DONE = JobState.DONE  # looked up once, as the hot path's other names


class JobTask(asyncio.Task[None]):
    """The task of one attempt that has not begun when it is made."""

    __slots__ = ("worker",)
    worker: TaskWorker

    def cancel(self, msg: Any = None) -> bool:
        """As of every task; and a job that has not begun is settled."""
        worker = self.worker
        if worker.task is self and not worker.has_begun():
            worker.never_began()
        return super().cancel(msg)


def _forget_context(error: BaseException, around: BaseException | None) -> None:
    """*error* was raised in an eager first step: what its submitter was dealing with then is not its context."""
    found: BaseException | None = error
    for _ in range(100):
        if found is None or around is None:
            return
        if found.__context__ is around:
            found.__context__ = None
        found = found.__context__


class TaskWorker:
    """One slot, or (*extra*) a submitter's that has to run its job itself.

    Fields are the loop's thread's, if nothing else is said.
    """

    __slots__ = (
        "_attempts",
        "_crew",
        "_due",
        "_ledger",
        "_lifecycle",
        "_queue",
        "_running",
        "_slots",
        "asked",
        "coroutine",
        "is_extra",
        "job",
        "name",
        "overrun",
        "tally",
        "task",
    )

    def __init__(self, crew: CoroutineCrew, name: str, *, is_extra: bool = False) -> None:
        self._crew = crew
        self._slots = crew.staff
        self._lifecycle = crew.lifecycle
        self._ledger = crew.ledger
        self._attempts = crew.attempts
        self._running = crew.attempts.running
        self._queue = crew.backlog.queue
        self._due = crew.backlog.due
        self.is_extra = is_extra
        self.name = name
        self.tally = crew.staff.tally
        self.overrun: Overrun | None = None  # guarded by Attempts._lock
        self.job: Job[Any] | None = None  # the one that its task is in
        self.coroutine: Coroutine[Any, Any, None] | None = None  # of that task; other threads read where it stands
        self.task: asyncio.Task[None] | None = None  # None as well while its first step runs eagerly
        self.asked: tuple[Job[Any], str] | None = None  # a job to be cancelled once its first step is made, and why

    async def attempt(self, job: Job[Any], fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        """One attempt of *job*, whose room is that of the running ones; the coroutine of its task."""
        _enter(job)
        try:
            value = await fn(*args)
        except BaseException as caught:
            error = caught  # dealt with below: what begins in here would have it for its context
        else:
            ended = clock.monotonic()
            try:
                if job._args is not None and self._running[job] is not self:
                    raise KeyError  # its next attempt runs
                del self._running[job]
            except KeyError:
                self._attempts.came_back(self, job)
                self.go_on()
                return
            tally = self.tally
            tally.done += 1
            if tally.skip:
                tally.skip -= 1
            else:
                tally.sample(job._since, job._began, ended)
            job._ended = ended
            # From here on as Job._settle, written out for a job of the common kind.
            job._value = value
            job._stage = _DONE
            if job._args is not None or job._context is not None:
                job._settle(_DONE, value)
            elif job._bell is not None:
                job._ring()
            if self._ledger.observers:
                self._attempts.tell_ended(job, None)
            tally.ended += 1
            del job, value  # the next job may begin below
            slots = self._slots
            if not slots.is_usual or self._due or self.is_extra:
                self.go_on()
            elif not self._queue or slots.is_beginning:
                # go_on, written out; what was submitted in a first step is served by whoever made it
                self.job = self.coroutine = self.task = None
                slots.spare.append(self)
            else:
                slots.hand_on(self, ended)
            if self._lifecycle.closing:
                self._crew.check_drained()
            return
        if raised.is_a(error, GeneratorExit) and not self._is_at_it():
            self._attempts.thrown_away(self, job)
            raise error  # the loop is gone, and no other job can begin
        if self._slots.is_beginning:
            _forget_context(error, sys.exception())
        self._attempts.failed(self, job, error)
        del job  # the frames of the error reach this one, and the job keeps its error: a cycle
        self.go_on()
        if raised.is_a(error, KeyboardInterrupt):
            raise error  # it is the loop's to deal with
        del error

    def _is_at_it(self) -> bool:
        """Whether the loop runs its coroutine just now; else that is being destroyed."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs here
            return False
        return task is not None and task.get_coro() is self.coroutine

    def go_on(self) -> None:
        """It has left its job: free for the next."""
        if self._slots.lent:
            self._slots.stop_lending(self.job)
        self.job = self.coroutine = self.task = None
        if not self.is_extra:
            self._slots.free(self)

    def has_begun(self) -> bool:
        """Whether its coroutine has made its first step."""
        coroutine: Any = self.coroutine
        return coroutine.cr_running or coroutine.cr_suspended or coroutine.cr_frame is None

    def never_began(self) -> None:
        """Its task was cancelled before its first step: tell the job, which nobody else can."""
        assert self.job is not None
        self._attempts.never_began(self, self.job)
        self.go_on()

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """If the task that a factory made was cancelled before its first step, nobody has told the job."""
        if self.task is task and self.job is not None:
            self.never_began()

    # As attempts.Runner: any thread

    @property
    def thread(self) -> threading.Thread | None:
        """No thread is a job's own here: that of the loop is inside many."""
        return None

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """The context of *job* was tripped: cancel its task."""
        self._crew.home.call(self._cancel, job, cause.reason)

    def _cancel(self, job: Job[Any], reason: str) -> None:
        if self.job is not job:
            return  # it has ended meanwhile
        tripped = job._context is not None and job._context.cause is not None
        if not tripped and not self._lifecycle.cutting:
            return  # that was its last attempt
        if self.task is None:
            self.asked = job, reason
        else:
            self.task.cancel(reason)

    def heed(self) -> None:
        """Its job was asked to stop while its first step was made at once: cancel its task, which goes on."""
        assert self.task is not None
        assert self.asked is not None
        (job, reason), self.asked = self.asked, None
        if job is self.job:  # else it was one before, that ended with its first step
            self.task.cancel(reason)

    def stack(self) -> str:
        """Where its job stands."""
        coroutine = self.coroutine
        return "" if coroutine is None else stack_of_coroutine(coroutine, self._crew.home.thread)

    stack_at_deadline = stack

    def margin_is_over(self, overrun: Overrun) -> None:
        """Its task is still in a job that overran."""
        self._attempts.still_there(self, overrun, self.stack())

    def replace(self) -> bool:
        """Have another slot in place of this one; False if as many as may be are replaced already."""
        return not self.is_extra and self._slots.replace_stuck()

    def came_back_late(self) -> None:
        """There is one slot too many now."""
        self._slots.stuck_came_back()

    def fate(self, replaced: bool) -> str:
        """What becomes of its slot."""
        return f"its slot is {'replaced by a fresh one' if replaced else 'not replaced (max_stuck)'}"

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """A task that heeds no cancellation can't be ended: it is left behind."""
        return JobState.ABANDONED, JobAbandoned(job.label, job._ended - job._began)

    def leave_behind(self) -> None:
        """The pool has stopped and its task has not: cancel it once more, and have nobody wait for it.

        At its end `asyncio.run` waits for all tasks that it knows, as long as they take; so this one it must not know.
        """
        task = self.task
        if task is not None and not task.done():
            task.cancel("its pool has stopped")
            asyncio._unregister_task(task)  # documented for those who extend asyncio
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # the report has told of it
