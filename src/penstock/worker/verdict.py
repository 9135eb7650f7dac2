"""What the end of an attempt means for a claimed job, where its task does not decide: a stop, a cancel, a crash."""

from __future__ import annotations

from typing import Any

from penstock import clock, failures
from penstock.app import attempt
from penstock.app.task import Kind, Task
from penstock.engines.requests import ClaimedJob, Error, Outcome, Settlement
from penstock.errors import JobCancelled
from penstock.job import Job, JobState
from penstock.worker.holding import Held


def verdict(held: Held[Any], task: Task[..., Any], job: Job[attempt.Ended]) -> Settlement:
    """How to settle *held*, whose pool's *job* has ended."""
    claim = held.job
    if job.state is JobState.DONE:
        ended = job.result()
        if type(ended) is bytes:  # most of them
            return attempt.done(claim, ended, job.ran or 0.0)
    if held.lane is Kind.PROCESS:
        held.has_completed = True  # it may have: what fails or dies there doesn't come back to say so
    if job.state is JobState.DONE:
        return attempt.verdict(claim, task, job, _elapsed(claim))
    if held.cause is None and job.state is not JobState.FAILED:
        return attempt.verdict(claim, task, job, 0.0)
    ran = job.ran or 0.0
    error = None if job.cancelled() else job.exception()
    if error is None or isinstance(error, JobCancelled):
        if held.cause == "stop":  # nobody wants less of it: it is handed back
            return Settlement(claim.seq, claim.token, Outcome.RELEASE, reason=held.reason, ran=ran)
        if held.cause is not None:
            return Settlement(claim.seq, claim.token, Outcome.CANCELLED, reason=held.reason, ran=ran)
    if error is not None and held.lane is Kind.PROCESS and _is_death(error):
        told = failures.describe(error, task.name)
        said = Error(told.type, told.message, told.traceback, told.print)
        return Settlement(claim.seq, claim.token, Outcome.CRASHED, error=said, ran=ran)
    return attempt.verdict(claim, task, job, _elapsed(claim))


def _is_death(error: BaseException) -> bool:
    from penstock.pool.processes.died import WorkerDied  # loaded with its pool, which few apps need

    return isinstance(error, WorkerDied)


def _elapsed(claim: ClaimedJob) -> float:
    return max(0.0, clock.wall() - claim.enqueued)
