"""What the end of an attempt means for a durable job: done, failed, again later, or handed back."""

from __future__ import annotations

from typing import Any

from penstock import failures
from penstock.app.task import Task
from penstock.engines.requests import Error, Outcome, Settlement
from penstock.errors import Discard, JobCancelled, NotDecodable, NotEncodable, Snooze
from penstock.job import Job
from penstock.pool.processes.died import WorkerDied
from penstock.worker.holding import Held


def verdict(held: Held[Any], task: Task[Any, Any], job: Job[Any], elapsed: float) -> Settlement:
    """How to settle *held*, whose pool's *job* has ended. *elapsed*: seconds since it was enqueued."""
    claim, ran = held.job, job.ran or 0.0
    error = job.exception() if not job.cancelled() else None
    if job.cancelled() or isinstance(error, JobCancelled):
        return _cancelled(held, error, ran)
    if error is None:
        result = job.result()
        if isinstance(result, Snooze):
            return Settlement(claim.seq, claim.token, Outcome.SNOOZE, delay=result.seconds, ran=ran)
        if isinstance(result, Discard):
            return Settlement(claim.seq, claim.token, Outcome.CANCELLED, reason=result.reason, ran=ran)
        return Settlement(claim.seq, claim.token, Outcome.DONE, result=result, ran=ran)
    said = _in_words(error)
    if isinstance(error, WorkerDied):
        return Settlement(claim.seq, claim.token, Outcome.CRASHED, error=said, ran=ran)
    delay = None
    if task.retry is not None and not isinstance(error, NotEncodable | NotDecodable):  # these would fail again
        delay = task.retry.next_delay(error, claim.attempt, elapsed)
    outcome = Outcome.FAILED if delay is None else Outcome.RETRY
    return Settlement(claim.seq, claim.token, outcome, error=said, delay=delay or 0.0, ran=ran)


def _cancelled(held: Held[Any], error: BaseException | None, ran: float) -> Settlement:
    """It was cancelled: by a stop, so that it is handed back, or because somebody wants no more of it."""
    claim = held.job
    if held.cause == "stop":
        return Settlement(claim.seq, claim.token, Outcome.RELEASE, reason=held.reason, ran=ran)
    reason = held.reason or getattr(error, "reason", "cancelled")
    return Settlement(claim.seq, claim.token, Outcome.CANCELLED, reason=reason, ran=ran)


def _in_words(error: BaseException) -> Error:
    told = failures.describe(error)
    return Error(told.type, told.message, told.traceback, told.print)
