"""Penstock: bounded worker pools that always stop, and say what became of every job."""

from __future__ import annotations

import importlib
import typing

from penstock.context import Context, current_context
from penstock.errors import (
    BacklogFull,
    Cancelled,
    DeadlineExceeded,
    Incomplete,
    JobAbandoned,
    JobCancelled,
    JobDropped,
    JobKilled,
    NestedWait,
    NoResult,
    NotPicklable,
    PenstockError,
    PoolBroken,
    PoolClosed,
    Refused,
)
from penstock.failures import Failure, Failures
from penstock.job import Job, JobState, current_job
from penstock.pool import leaving as _leaving  # noqa: F401 - stops what is left at the end of the interpreter
from penstock.pool.graceful import Shutdown, graceful, lifespan
from penstock.pool.threads import ThreadPool
from penstock.report import Report, Stats, StuckJob
from penstock.retry import Retry

if typing.TYPE_CHECKING:
    from penstock.pool.coroutines import AsyncPool
    from penstock.pool.inner import ExecutorPool
    from penstock.pool.processes import ProcessPool, RemoteTraceback, WorkerDied

__version__ = "0.1.0"

_WHEN_ASKED_FOR = {  # what only some programs need, and takes long to load
    "AsyncPool": "penstock.pool.coroutines",
    "ExecutorPool": "penstock.pool.inner",
    "ProcessPool": "penstock.pool.processes",
    "RemoteTraceback": "penstock.pool.processes",
    "WorkerDied": "penstock.pool.processes",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_WHEN_ASKED_FOR[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AsyncPool",
    "BacklogFull",
    "Cancelled",
    "Context",
    "DeadlineExceeded",
    "ExecutorPool",
    "Failure",
    "Failures",
    "Incomplete",
    "Job",
    "JobAbandoned",
    "JobCancelled",
    "JobDropped",
    "JobKilled",
    "JobState",
    "NestedWait",
    "NoResult",
    "NotPicklable",
    "PenstockError",
    "PoolBroken",
    "PoolClosed",
    "ProcessPool",
    "Refused",
    "RemoteTraceback",
    "Report",
    "Retry",
    "Shutdown",
    "Stats",
    "StuckJob",
    "ThreadPool",
    "WorkerDied",
    "current_context",
    "current_job",
    "graceful",
    "lifespan",
]
