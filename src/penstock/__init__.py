"""Penstock: bounded worker pools that always stop, and say what became of every job."""

from __future__ import annotations

import importlib
import typing

from penstock.context import Context, current_context
from penstock.errors import (
    BacklogFull,
    Cancelled,
    DeadlineExceeded,
    Discard,
    EnqueuedInPart,
    Incomplete,
    JobAbandoned,
    JobCancelled,
    JobDropped,
    JobFailed,
    JobKilled,
    JobUnknown,
    LeaseLost,
    NestedWait,
    NoResult,
    NotCommitted,
    NotDecodable,
    NotEncodable,
    NotPicklable,
    OutcomeUnknown,
    PenstockError,
    PoolBroken,
    PoolClosed,
    Refused,
    Snooze,
    StoreError,
    StoreInvalid,
    StoreUnavailable,
)
from penstock.failures import Failure, Failures
from penstock.job import AnyJob, Job, JobState, current_job
from penstock.pool import leaving as _leaving  # noqa: F401 - stops what is left at the end of the interpreter
from penstock.pool.graceful import Shutdown, graceful, lifespan
from penstock.pool.threads import ThreadPool
from penstock.report import Report, Stats, StuckJob
from penstock.retry import Retry

if typing.TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.completing import acomplete, complete
    from penstock.app.handle import Handle, Progress
    from penstock.app.task import Task
    from penstock.pool.coroutines import AsyncPool
    from penstock.pool.inner import ExecutorPool
    from penstock.pool.processes import ProcessPool, RemoteTraceback, WorkerDied

__version__ = "0.1.0"

_WHEN_ASKED_FOR = {  # what only some programs need, and takes long to load
    "App": "penstock.app.app",
    "AsyncPool": "penstock.pool.coroutines",
    "ExecutorPool": "penstock.pool.inner",
    "Handle": "penstock.app.handle",
    "ProcessPool": "penstock.pool.processes",
    "Progress": "penstock.app.handle",
    "RemoteTraceback": "penstock.pool.processes",
    "Task": "penstock.app.task",
    "WorkerDied": "penstock.pool.processes",
    "acomplete": "penstock.app.completing",
    "complete": "penstock.app.completing",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_WHEN_ASKED_FOR[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AnyJob",
    "App",
    "AsyncPool",
    "BacklogFull",
    "Cancelled",
    "Context",
    "DeadlineExceeded",
    "Discard",
    "EnqueuedInPart",
    "ExecutorPool",
    "Failure",
    "Failures",
    "Handle",
    "Incomplete",
    "Job",
    "JobAbandoned",
    "JobCancelled",
    "JobDropped",
    "JobFailed",
    "JobKilled",
    "JobState",
    "JobUnknown",
    "LeaseLost",
    "NestedWait",
    "NoResult",
    "NotCommitted",
    "NotDecodable",
    "NotEncodable",
    "NotPicklable",
    "OutcomeUnknown",
    "PenstockError",
    "PoolBroken",
    "PoolClosed",
    "ProcessPool",
    "Progress",
    "Refused",
    "RemoteTraceback",
    "Report",
    "Retry",
    "Shutdown",
    "Snooze",
    "Stats",
    "StoreError",
    "StoreInvalid",
    "StoreUnavailable",
    "StuckJob",
    "Task",
    "ThreadPool",
    "WorkerDied",
    "acomplete",
    "complete",
    "current_context",
    "current_job",
    "graceful",
    "lifespan",
]
