"""What can be asked of a store without changing it, and the records that come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.engines.requests import ClaimedJob, Error, Progress
from penstock.job import JobState

A_co = TypeVar("A_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Record:
    """Everything about one job. Times: the engine's clock, which runs with the wall clock; None: it hasn't happened."""

    seq: int
    id: str
    task: str
    queue: str
    priority: int
    state: JobState
    args: bytes
    headers: bytes | None
    attempt: int  # attempts begun
    crashes: int  # deaths of a process that were laid to it
    suspect: bool  # it waits to run alone
    token: int
    worker: int | None  # while it runs
    enqueued: float
    due: float  # when it may run, or might have
    started: float | None  # its last attempt
    ended: float | None
    ran: float | None  # seconds that its last attempt took
    result: bytes | None
    error: Error | None  # of its last attempt that failed
    reason: str  # why it was cancelled, or is asked to end
    cancelling: bool  # somebody has cancelled it while it runs
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim of a job that didn't end it well: the last of a job that is done has no record of its own."""

    number: int  # of the attempt
    token: int
    worker: int
    started: float
    ended: float
    outcome: str  # an Outcome, or "lost" with its worker's lease
    error: Error | None  # of a death: if it is laid to this job
    reason: str  # of a death: what is known of it


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs there are of one queue, task and state: one or more. Ended ones: as long as they are kept."""

    queue: str
    task: str
    state: JobState
    jobs: int


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker that the engine knows. *lease*: seconds that its lease has left; negative once it ran out."""

    worker: int
    info: bytes
    since: float
    lease: float
    running: int  # jobs that it holds


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue that has jobs, also ended ones, or is paused. *oldest*: seconds that its first ready job has waited."""

    name: str
    paused: bool
    oldest: float | None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Failures of one kind, of all attempts that were ever settled with an error of it, and deaths laid to a job."""

    error: Error  # the first of its kind
    task: str
    count: int
    first: float
    last: float
    ids: Sequence[str]  # a few of the jobs


class Query(Generic[A_co]):
    """A question to a store, which gives an answer of its type."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ByIds(Query[list[Record | None]]):
    """The job of each id, in their order; None for one that nobody knows (any more)."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Begins(Query[list[Record]]):
    """Jobs whose ids begin with *prefix*, in the order of their ids, at most *limit*: costs as many as it gives."""

    prefix: str
    limit: int


@dataclass(frozen=True, slots=True)
class States(Query[list[JobState | None]]):
    """The state of each id, in their order, with as little work as can be."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Search(Query[list[Record]]):
    """Jobs that match all that is given, newest first, at most *limit*, below seq *before*."""

    states: Sequence[JobState] | None = None
    queue: str | None = None
    task: str | None = None
    print: str | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Attempts(Query[list[Attempt]]):
    """What is on record of the job's attempts, oldest first."""

    id: str


@dataclass(frozen=True, slots=True)
class HeldBy(Query[list[ClaimedJob]]):
    """The jobs that *worker* holds: after an unknown outcome of a claim it asks what it got."""

    worker: int


@dataclass(frozen=True, slots=True)
class Counts(Query[list[Count]]):
    """How many jobs there are; costs the same however many."""


@dataclass(frozen=True, slots=True)
class Workers(Query[list[WorkerRecord]]):
    """The workers that the engine knows."""


@dataclass(frozen=True, slots=True)
class Queues(Query[list[QueueRecord]]):
    """The queues."""


@dataclass(frozen=True, slots=True)
class Failed(Query[list[FailureRecord]]):
    """Failures by kind, the latest first."""

    limit: int = 100


@dataclass(frozen=True, slots=True)
class Complaints(Query[list[str]]):
    """What is wrong with the store: counters that don't equal the rows, jobs whose worker is unknown, damage.

    Empty if all is well. Costs a reading of everything.
    """
