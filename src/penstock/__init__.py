"""Penstock: bounded worker pools that always stop, and say what became of every job."""

from penstock.context import Context, current_context
from penstock.errors import (
    BacklogFull,
    Cancelled,
    DeadlineExceeded,
    Incomplete,
    JobAbandoned,
    JobCancelled,
    NestedWait,
    NoResult,
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

__version__ = "0.1.0"

__all__ = [
    "BacklogFull",
    "Cancelled",
    "Context",
    "DeadlineExceeded",
    "Failure",
    "Failures",
    "Incomplete",
    "Job",
    "JobAbandoned",
    "JobCancelled",
    "JobState",
    "NestedWait",
    "NoResult",
    "PenstockError",
    "PoolBroken",
    "PoolClosed",
    "Refused",
    "Report",
    "Retry",
    "Shutdown",
    "Stats",
    "StuckJob",
    "ThreadPool",
    "current_context",
    "current_job",
    "graceful",
    "lifespan",
]
