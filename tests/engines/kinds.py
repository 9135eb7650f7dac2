"""Every kind of engine, on a clock that the test moves, and few words to ask it.

A new engine gets a name in `KINDS`; all that is tested of engines is tested of it then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

from penstock.engines.engine import Engine
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import (
    Attempt,
    Attempts,
    ByIds,
    Complaints,
    Counts,
    Failed,
    FailureRecord,
    Query,
    Queues,
    Record,
    Search,
    States,
)
from penstock.engines.requests import (
    Again,
    Beat,
    Cancel,
    Claim,
    Claimed,
    ClaimedJob,
    Cut,
    Death,
    Error,
    Fate,
    NewJob,
    Outcome,
    Pause,
    Progress,
    Prune,
    Put,
    Renew,
    Renewed,
    Reply,
    Request,
    Settle,
    Settlement,
    Sweep,
    Swept,
    Want,
)
from penstock.job import JobState
from tests.needs import needed, needed_pgbouncer, needed_postgres

T = TypeVar("T")

LEASE: Final = 30.5  # seconds; tests move time by whole ones, so that nothing happens at the very end of a lease
GAP: Final = 15.5

A, B, C = 1, 2**63 - 1, 3  # workers
WORK: Final = Want(frozenset({"work"}), 100)

READY, SCHEDULED, RUNNING = JobState.READY, JobState.SCHEDULED, JobState.RUNNING
DONE, FAILED, CANCELLED = JobState.DONE, JobState.FAILED, JobState.CANCELLED


class Clock:
    """An engine's clock, and the wall clock beside it. It stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


Connect: TypeAlias = Callable[[], Engine]
"""Each call gives an engine object of its own (if the kind can), not opened yet, all of them on one store."""


def memory(folder: Path, now: Callable[[], float]) -> Connect:
    engine = MemoryEngine(now=now)
    return lambda: engine


def sqlite(folder: Path, now: Callable[[], float]) -> Connect:
    needed("apsw")
    from penstock.engines.sqlite import SQLiteEngine

    return lambda: SQLiteEngine(f"sqlite:///{folder}/jobs.db?synchronous=normal", now=now)


def postgres(folder: Path, now: Callable[[], float]) -> Connect:
    url = needed_postgres().fresh_url()
    from penstock.engines.postgres import PostgresEngine

    return lambda: PostgresEngine(url, now=now)


def pooled(folder: Path, now: Callable[[], float]) -> Connect:
    """PostgreSQL behind a pooler that gives each transaction another connection."""
    url = needed_postgres().url(needed_postgres().fresh_schema(), port=needed_pgbouncer().port)
    from penstock.engines.postgres import PostgresEngine

    return lambda: PostgresEngine(url, now=now)


KINDS: Final[dict[str, Callable[[Path, Callable[[], float]], Connect]]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
    "pooled": pooled,
}


class Refused(Exception):
    """The engine has refused a request, with this `__cause__`."""


class Desk:
    """Asks an engine one thing at a time: `put("a", "b")`, `claim(1)`, `done(job)`."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock

    def ask(self, request: Request) -> Any:
        [reply] = self.ask_all(request)
        if isinstance(reply, Exception):
            raise Refused(reply) from reply
        return reply

    def ask_all(self, *requests: Request) -> list[Reply | Exception]:
        return self.engine.transact(requests)

    def find(self, query: Query[T]) -> T:
        return self.engine.find(query)

    def pass_time(self, seconds: float, *alive: int) -> None:
        """Let *seconds* pass in steps in which a store's pulse goes on; the workers *alive* renew their leases."""
        while seconds > 0:
            step = min(seconds, 10)
            self.clock.advance(step)
            self.renew(*alive)
            seconds -= step

    # Jobs

    def put(self, *jobs: NewJob | str) -> list[Fate]:
        return cast(list[Fate], self.ask(Put([job if isinstance(job, NewJob) else new(job) for job in jobs])))

    def take(
        self,
        worker: int,
        *wants: Want,
        limit: int = 100,
        tasks: Iterable[str] = ("work",),
        queues: Sequence[str] | None = None,
        alone: bool = False,
    ) -> Claimed:
        wants = wants or (Want(frozenset(tasks), limit),)
        return cast(Claimed, self.ask(Claim(worker, queues, wants, alone)))

    def claim(self, worker: int, *wants: Want, **options: Any) -> list[ClaimedJob]:
        return list(itertools.chain(*self.take(worker, *wants, **options).jobs))

    def claim_ids(self, worker: int, *wants: Want, **options: Any) -> list[str]:
        return [job.id for job in self.claim(worker, *wants, **options)]

    def claim_one(self, worker: int, **options: Any) -> ClaimedJob:
        [job] = self.claim(worker, limit=1, **options)
        return job

    def put_and_claim(self, worker: int, *jobs: NewJob | str) -> list[ClaimedJob]:
        """These, and no others, in their order."""
        assert set(self.put(*jobs)) == {Fate.ACCEPTED}
        ids = [job.id if isinstance(job, NewJob) else job for job in jobs]
        claimed = self.claim(worker)
        assert [job.id for job in claimed] == ids
        return claimed

    def settle(self, job: ClaimedJob, outcome: Outcome, **parts: Any) -> bool:
        [current] = self.ask(Settle([Settlement(job.seq, job.token, outcome, **parts)]))
        assert isinstance(current, bool)
        return current

    def done(self, job: ClaimedJob, result: bytes = b"1") -> bool:
        return self.settle(job, Outcome.DONE, result=result)

    def progress(self, job: ClaimedJob, done: float, total: float | None = None, note: str = "") -> bool:
        return cast(bool, self.ask(Progress(job.seq, job.token, done, total, note)))

    def cancel(self, *ids: str, reason: str = "cancelled") -> list[Cut]:
        return cast(list[Cut], self.ask(Cancel(ids, reason)))

    def again(self, *ids: str, **which: Any) -> int:
        return cast(int, self.ask(Again(ids or None, **which)))

    def prune(self, done: float = 0.0, failed: float = 0.0, **options: Any) -> int:
        return cast(int, self.ask(Prune(done, failed, **options)))

    def pause(self, queue: str) -> bool:
        return cast(bool, self.ask(Pause(queue)))

    def resume(self, queue: str) -> bool:
        return cast(bool, self.ask(Pause(queue, paused=False)))

    # Workers

    def renew(self, *workers: int, first: bool = False, lease: float = LEASE) -> Renewed:
        return cast(Renewed, self.ask(Renew([Beat(worker, first) for worker in workers], lease)))

    def sweep(self, *deaths: Death, crashes: int = 3) -> Swept:
        return cast(Swept, self.ask(Sweep(deaths, LEASE, GAP, crashes)))

    # What there is

    def records(self, *ids: str) -> list[Record | None]:
        return self.find(ByIds(ids))

    def record(self, id: str) -> Record:
        [record] = self.records(id)
        assert record is not None, f"nobody knows {id}"
        return record

    def state(self, id: str) -> JobState | None:
        [state] = self.find(States([id]))
        return state

    def attempts(self, id: str) -> list[Attempt]:
        return self.find(Attempts(id))

    def kinds_of_failures(self, limit: int = 100) -> list[FailureRecord]:
        return self.find(Failed(limit))

    def searched(self, **which: Any) -> list[str]:
        return [record.id for record in self.find(Search(**which))]

    def counts(self) -> dict[tuple[str, str, JobState], int]:
        counts = self.find(Counts())
        counted = {(count.queue, count.task, count.state): count.jobs for count in counts}
        assert len(counted) == len(counts), f"counted twice: {counts}"
        return counted

    def queues(self) -> dict[str, tuple[bool, float | None]]:
        return {queue.name: (queue.paused, queue.oldest) for queue in self.find(Queues())}

    def complaints(self) -> list[str]:
        return self.find(Complaints())


def new(id: str, task: str = "work", **parts: Any) -> NewJob:
    return NewJob(id, task, **parts)


def oops(print: str = "oops", message: str = "it went wrong") -> Error:
    return Error("ValueError", message, "Traceback: …", print)


def died(worker: int, began: list[ClaimedJob] | None = None, blamed: list[ClaimedJob] | None = None) -> Death:
    return Death(
        worker,
        "killed by SIGKILL",
        None if began is None else frozenset(job.seq for job in began),
        None if blamed is None else frozenset(job.seq for job in blamed),
    )


def ended(desk: Desk) -> None:
    """Jobs "done", "failed" and "cancelled", one that runs and one that waits."""
    for job in desk.put_and_claim(A, "done", "failed", "cancelled", "runs"):
        if job.id != "runs":
            desk.settle(job, Outcome(job.id), error=oops() if job.id == "failed" else None, reason="by itself")
    desk.put("waits")
