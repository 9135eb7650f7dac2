"""Records as JSON for programs: names that stay, nothing cut, times in UTC."""

from __future__ import annotations

from typing import Any

from penstock.cli.jobs.place import place
from penstock.cli.jobs.printable import parsed
from penstock.cli.jobs.times import finite, time_fields
from penstock.engines.records import Attempt, FailureRecord, Record, WorkerRecord
from penstock.engines.requests import Error, Progress

Fields = dict[str, Any]


def job_fields(job: Record) -> Fields:
    """All of *job*."""
    return {
        "seq": job.seq,
        "id": job.id,
        "task": job.task,
        "queue": job.queue,
        "priority": job.priority,
        "state": str(job.state),
        "attempt": job.attempt,
        "crashes": job.crashes,
        "suspect": job.suspect,
        "cancelling": job.cancelling,
        "reason": job.reason,
        "worker": None if job.worker is None else worker_name(job.worker),
        **time_fields(enqueued=job.enqueued, due=job.due, started=job.started, ended=job.ended),
        "ran_s": finite(job.ran),
        "progress": _progress(job.progress),
        "error": error_fields(job.error),
        **_stored("args", job.args),
        **_stored("headers", job.headers),
        **_stored("result", job.result),
    }


def attempt_fields(attempt: Attempt) -> Fields:
    """All of *attempt*."""
    return {
        "attempt": attempt.number,
        "outcome": str(attempt.outcome),
        "reason": attempt.reason,
        "worker": worker_name(attempt.worker),
        **time_fields(started=attempt.started, ended=attempt.ended),
        "error": error_fields(attempt.error),
    }


def error_fields(error: Error | None) -> Fields | None:
    """All of *error*."""
    return None if error is None else {name: getattr(error, name) for name in ("type", "message", "traceback", "print")}


def worker_fields(worker: WorkerRecord) -> Fields:
    """All of *worker*."""
    return {
        "worker": worker_name(worker.worker),
        **time_fields(since=worker.since),
        "lease_s": round(worker.lease, 3),
        "running": worker.running,
        **_stored("info", worker.info),
    }


def failure_fields(kind: FailureRecord) -> Fields:
    """All of *kind*."""
    return {
        "print": kind.error.print,
        "type": kind.error.type,
        "message": kind.error.message,
        "where": place(kind.error.traceback),
        "task": kind.task,
        "count": kind.count,
        **time_fields(first=kind.first, last=kind.last),
        "ids": list(kind.ids),
        "traceback": kind.error.traceback,
    }


def _progress(progress: Progress | None) -> Fields | None:
    if progress is None:
        return None
    return {"done": finite(progress.done), "total": finite(progress.total), "note": progress.note}


def worker_name(worker: int) -> str:
    """The number of *worker* as text: programs that take numbers for floats would round it."""
    return f"{worker:016x}"


def _stored(name: str, value: bytes | None) -> Fields:
    """JSON out of the store, under *name*; what can't be passed on as JSON stands as text under `name_raw`."""
    found, raw = parsed(value)
    return {name: found} if raw is None else {name: None, f"{name}_raw": raw}
