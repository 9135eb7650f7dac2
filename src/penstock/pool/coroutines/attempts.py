"""What is different about an attempt that is a task: it can be cancelled, and is given time to heed that."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from penstock import clock, raised, timers
from penstock.context import Cause
from penstock.errors import Cancelled, JobCancelled
from penstock.job import Job, JobState
from penstock.pool.attempts import STOPPING, Attempts, Runner, outcome_of

if TYPE_CHECKING:
    from penstock.pool.coroutines.worker import TaskWorker


class TaskAttempts(Attempts):
    """The running jobs of one pool of coroutines.

    At a deadline the task is cancelled, and the job ends when it has left: the error comes once its clean-up is done,
    as in asyncio. One that is still there when the margin is over fails then, and is stuck.
    """

    unwinds = (Cancelled, asyncio.CancelledError)

    def cause_of(self, error: BaseException, job: Job[Any]) -> Cause:
        """Why *job*, whose context is not tripped, was left by *error*."""
        if raised.is_a(error, asyncio.CancelledError):  # by somebody who has its task, or by what it awaited
            return Cause("its task was cancelled", by_deadline=False, source=job.context)
        return super().cause_of(error, job)

    def thrown_away(self, worker: Runner, job: Job[Any]) -> None:
        """The task of *job* can never go on: its loop was closed. By the collector perhaps: see `call_apart`."""
        timers.call_apart(functools.partial(self._thrown_away, worker, job))

    def _thrown_away(self, worker: Runner, job: Job[Any]) -> None:
        if not self.take(job, worker):
            self.came_back(worker, job)
        else:
            job._ended = clock.monotonic()
            self.settle(job, *worker.give_up(job), cut=True)
            self._crew.check_drained()

    def never_began(self, worker: TaskWorker, job: Job[Any]) -> None:
        """The task of *job* was cancelled before its first step."""
        if self.running.pop(job, None) is None:
            self.came_back(worker, job)
            return
        job._attempt -= 1
        cause = None if job._context is None else job._context.cause
        if cause is None:
            self.settle(job, JobState.CANCELLED, JobCancelled(job.label, "its task was cancelled"))
        elif self._crew.lifecycle.cutting and cause.reason == STOPPING:
            self.cut(job)
        else:
            self.settle(job, *outcome_of(job, cause, started=False))
        self._crew.check_drained()

    def overran(self, job: Job[Any], cause: Cause) -> None:
        """The time of *job* is over, and its task was cancelled: see later whether it has left."""
        at = clock.monotonic() + self._crew.settings.margin
        worker = self.running.get(job)
        if worker is not None:
            timers.call_at(at, functools.partial(self._margin_is_over, job, job._attempt, worker, cause))

    def _margin_is_over(self, job: Job[Any], attempt: int, worker: Runner, cause: Cause) -> None:
        if self.running.get(job) is worker and job._attempt == attempt:
            self.fail_late(job, cause, 0.0)

    def _ask_to_stop(self, job: Job[Any]) -> None:
        context = job.context
        cause = Cause(STOPPING, by_deadline=False, source=context)
        worker = self.running.get(job)
        if not context.trip(cause) and worker is not None:  # it was asked before: a stop asks once more
            worker.ask_to_stop(job, cause)

    def leave_behind(self) -> None:
        """The pool has stopped: let go of the tasks that are still inside a job. On the loop's thread."""
        with self._lock:
            inside = list(self._left_inside)
        for worker in inside:
            worker.leave_behind()  # type: ignore[attr-defined]
