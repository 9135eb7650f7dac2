"""One attempt of a durable job: the call, from JSON to JSON, and what its end means for the job."""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock import failures
from penstock.app.task import Task
from penstock.engines import checks
from penstock.engines.requests import ClaimedJob, Error, Outcome, Settle, Settlement
from penstock.errors import Discard, JobCancelled, NotCommitted, NotDecodable, NotEncodable, Snooze
from penstock.job import Job, JobState


class Completed(NamedTuple):
    """The task has completed its job itself, in a transaction which may have been committed or not."""


Ended = bytes | Snooze | Discard | Completed
"""What a call that did not fail gives: its result, or what the task asked for."""


def run(task: Task[..., Any], data: bytes) -> Ended:
    """Call the function of *task* with what is stored."""
    codec = task.codec
    try:
        args, kwargs = codec.decode_call(data)
        return codec.encode_result(task.fn(*args, **kwargs))
    except (Snooze, Discard) as asked:
        return asked


def ended_of(ended: Ended, *, has_completed: bool) -> Ended:
    """What a call comes to that gave *ended*, whether or not it *has_completed* its job before.

    To be snoozed or discarded is asked for instead, after a rollback; the store refuses it if there was none.
    """
    return Completed() if has_completed and isinstance(ended, bytes) else ended


async def arun(task: Task[..., Any], data: bytes) -> Ended:
    """As `run`, for a task that is an `async def`."""
    codec = task.codec
    try:
        args, kwargs = codec.decode_call(data)
        return codec.encode_result(await task.fn(*args, **kwargs))
    except (Snooze, Discard) as asked:
        return asked


def verdict(claim: ClaimedJob, task: Task[..., Any], job: Job[Ended], elapsed: float) -> Settlement:
    """How to settle *claim*, whose pool's *job* has ended. *elapsed*: seconds since it was enqueued.

    What no store takes (to be snoozed for a thousand years, a reason that is no text) fails the job: it must not hold
    up the outcomes of others.
    """
    settlement = _verdict(claim, task, job, elapsed)
    refused = None if settlement.outcome is Outcome.DONE else checks.why_refused(Settle((settlement,)))
    if refused is None:
        return settlement
    told = failures.describe(refused, task.name)
    error = Error(told.type, told.message, told.traceback, told.print)
    return Settlement(claim.seq, claim.token, Outcome.FAILED, error=error, ran=job.ran or 0.0)


def _verdict(claim: ClaimedJob, task: Task[..., Any], job: Job[Ended], elapsed: float) -> Settlement:
    ran = job.ran or 0.0
    if job.state is JobState.DONE:
        ended = job.result()
        if isinstance(ended, Completed):  # this is refused, if what it completed in was committed
            return _failed(claim, task, NotCommitted(), ran, elapsed)
        return _returned(claim, ended, ran)
    error = None if job.cancelled() else job.exception()
    if error is None or isinstance(error, JobCancelled):
        reason = "cancelled" if error is None else error.reason
        return Settlement(claim.seq, claim.token, Outcome.CANCELLED, reason=reason, ran=ran)
    return _failed(claim, task, error, ran, elapsed)


def _failed(claim: ClaimedJob, task: Task[..., Any], error: BaseException, ran: float, elapsed: float) -> Settlement:
    told = failures.describe(error, task.name)
    delay = None
    if task.retry is not None and not isinstance(error, NotEncodable | NotDecodable):  # these would fail again
        delay = task.retry.next_delay(error, claim.attempt, elapsed)
    return Settlement(
        claim.seq,
        claim.token,
        Outcome.FAILED if delay is None else Outcome.RETRY,
        error=Error(told.type, told.message, told.traceback, told.print),
        delay=delay or 0.0,
        ran=ran,
    )


def done(claim: ClaimedJob, result: bytes, ran: float) -> Settlement:
    """How to settle *claim*, whose call gave *result* after *ran* seconds; with `_make`, for a third of the time."""
    return Settlement._make((claim.seq, claim.token, Outcome.DONE, result, None, 0.0, "", ran))


def _returned(claim: ClaimedJob, ended: bytes | Snooze | Discard, ran: float) -> Settlement:
    match ended:
        case bytes():
            return done(claim, ended, ran)
        case Snooze():
            return Settlement(claim.seq, claim.token, Outcome.SNOOZE, delay=ended.seconds, ran=ran)
        case Discard():
            return Settlement(claim.seq, claim.token, Outcome.CANCELLED, reason=ended.reason, ran=ran)
