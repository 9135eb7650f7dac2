"""What observers are told: one frozen value for each thing that happened. `pool.observe(fn)` subscribes."""

from __future__ import annotations

from dataclasses import dataclass

JobId = int | str


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in the pool named *pool*."""

    pool: str


@dataclass(frozen=True, slots=True)
class JobAccepted(Event):
    """The job is in the backlog; from here on it will get exactly one outcome."""

    id: JobId
    name: str


@dataclass(frozen=True, slots=True)
class JobStarted(Event):
    """A worker begins attempt *attempt* of the job, after *waited* seconds in the backlog."""

    id: JobId
    name: str
    worker: str
    attempt: int
    waited: float


@dataclass(frozen=True, slots=True)
class JobRetried(Event):
    """Attempt *attempt* failed with *error*; the next one may begin in *delay* seconds."""

    id: JobId
    name: str
    attempt: int
    delay: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """The job has its outcome: done, failed, cancelled, killed or abandoned. *ran*: seconds of the last attempt."""

    id: JobId
    name: str
    state: str
    attempt: int
    waited: float | None
    ran: float | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker is ready for jobs."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """A worker has ended."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerStuck(Event):
    """A job's thread did not come back after the job's time was over. *replaced*: its slot went to a fresh thread."""

    worker: str
    id: JobId
    name: str
    ran: float
    stack: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class PoolStopping(Event):
    """The pool takes no more jobs."""


@dataclass(frozen=True, slots=True)
class PoolStopped(Event):
    """Every accepted job has its outcome."""
