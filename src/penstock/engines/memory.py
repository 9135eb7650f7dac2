"""Durable jobs without a disk: the reference of what an engine does, for tests and simulations.

What it holds is gone with the process.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from penstock import clock
from penstock.engines import checks, rules
from penstock.engines.bell import Bell
from penstock.engines.records import (
    Attempt,
    Attempts,
    Begins,
    ByIds,
    Complaints,
    Count,
    Counts,
    Failed,
    FailureRecord,
    HeldBy,
    Query,
    QueueRecord,
    Queues,
    Record,
    Search,
    States,
    WorkerRecord,
    Workers,
)
from penstock.engines.requests import (
    Again,
    Cancel,
    Claim,
    Claimed,
    ClaimedJob,
    Cut,
    Death,
    Error,
    Fate,
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
)
from penstock.job import JobState

T = TypeVar("T")

READY, SCHEDULED, RUNNING, FAILED = JobState.READY, JobState.SCHEDULED, JobState.RUNNING, JobState.FAILED


@dataclass(slots=True)
class _Worker:
    info: bytes
    since: float
    until: float  # the end of its lease


@dataclass(frozen=True, slots=True)
class _AtOnce:
    """What stands for a transaction where there is none: tests of code that enqueues in one."""

    engine: MemoryEngine

    def transact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        return self.engine.transact(requests)

    async def atransact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        return self.engine.transact(requests)


class MemoryEngine:
    """The smallest code that keeps the contract of `Engine`.

    *now*: its clock, seconds. Lock: `_lock` guards every field; a leaf.
    """

    in_caller = False  # an interrupt could leave half of a change behind

    def __init__(self, url: str = "memory://", now: Callable[[], float] = clock.wall) -> None:
        self.url = url
        self._now = now
        self._lock = threading.Lock()
        self._seqs = itertools.count(1)
        self._jobs: dict[int, Record] = {}  # by seq
        self._by_id: dict[str, int] = {}
        self._attempts: dict[int, list[Attempt]] = {}
        self._workers: dict[int, _Worker] = {}
        self._paused: set[str] = set()
        self._kinds: dict[str, FailureRecord] = {}
        self._pulse: float | None = None
        self._hold_until = 0.0  # nothing is taken from anybody before
        self._waiting: weakref.WeakSet[Bell] = weakref.WeakSet()

    def open(self, within: float = 10.0, *, create: bool = True) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: the jobs stay for as long as somebody holds the engine."""

    def transact(self, requests: Sequence[Request], within: float = 10.0) -> list[Reply | Exception]:
        """Do all of *requests*; see `Engine.transact`."""
        with self._lock:
            replies: list[Reply | Exception] = [checks.why_refused(it) or self._do(it) for it in requests]
            waiting = list(self._waiting)
        for bell in waiting:
            bell.ring()
        return replies

    def join(self, connection: object) -> _AtOnce:
        """See `Engine.join`. Nothing here takes part in a transaction: what is asked is done at once, and stays."""
        return _AtOnce(self)

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until something was changed; see `Engine.wait`."""
        with self._lock:
            is_first = bell not in self._waiting
            self._waiting.add(bell)
        bell.wait(0 if is_first else timeout)  # what changed since the caller looked has rung no bell yet

    def find(self, query: Query[T], within: float = 10.0) -> T:
        """The answer to *query*; see `Engine.find`."""
        with self._lock:
            return cast(T, self._answer(query))

    def _do(self, request: Request) -> Reply:
        match request:
            case Put(jobs):
                return [self._put(job) for job in jobs]
            case Claim():
                return self._claim(request)
            case Settle(settlements):
                return [self._settle(settlement) for settlement in settlements]
            case Renew():
                return self._renew(request)
            case Cancel(ids, reason):
                return [self._cancel(id, reason) for id in ids]
            case Pause(queue, paused):
                changes = (queue in self._paused) is not paused
                (self._paused.add if paused else self._paused.discard)(queue)
                return changes
            case Again():
                return self._again(request)
            case Progress(seq, token):
                record = self._current(seq, token)
                if record is not None:
                    self._jobs[seq] = replace(record, progress=request)
                return record is not None
            case Prune():
                return self._prune(request)
            case Sweep():
                return self._sweep(request)

    # Into the store

    def _put(self, job: Any) -> Fate:
        if job.id in self._by_id:
            return Fate.KNOWN
        now = self._now()
        due = now + (job.delay if job.at is None else job.at - clock.wall())
        seq = next(self._seqs)
        self._by_id[job.id] = seq
        self._jobs[seq] = Record(
            seq=seq,
            id=job.id,
            task=job.task,
            queue=job.queue,
            priority=job.priority,
            state=READY if due <= now else SCHEDULED,
            args=job.args,
            headers=job.headers,
            attempt=0,
            crashes=0,
            suspect=False,
            token=0,
            worker=None,
            enqueued=now,
            due=max(now, due),
            started=None,
            ended=None,
            ran=None,
            result=None,
            error=None,
            reason="",
            cancelling=False,
            progress=None,
        )
        return Fate.ACCEPTED

    # To a worker, and back

    def _claim(self, claim: Claim) -> Claimed:
        now = self._now()
        self._let_due_be_ready(now)
        if claim.worker not in self._workers:
            return Claimed([[] for _ in claim.wants], known=False)
        ready = sorted(
            (job for job in self._in(READY) if job.suspect is claim.alone and job.queue not in self._paused),
            key=lambda job: (-job.priority, job.due, job.seq),
        )
        if claim.queues is not None:
            ready = [job for job in ready if job.queue in claim.queues]
        given: list[list[ClaimedJob]] = []
        for want in claim.wants:
            fitting = [job for job in ready if job.task in want.tasks][: want.limit]
            if claim.alone:
                fitting = fitting[: 0 if any(given) else 1]
            given.append([self._give(job, claim.worker, now) for job in fitting])
            taken = {job.seq for job in fitting}
            ready = [job for job in ready if job.seq not in taken]
        due = min((job.due for job in self._in(SCHEDULED)), default=None)
        cancels = [(job.seq, job.token, job.reason) for job in self._held(claim.worker) if job.cancelling]
        return Claimed(given, cancels, None if due is None else max(0.0, due - now))

    def _give(self, job: Record, worker: int, now: float) -> ClaimedJob:
        job = replace(
            self._move(job, RUNNING),
            attempt=job.attempt + 1,
            token=job.token + 1,
            worker=worker,
            started=now,
            reason="",
            progress=None,
        )
        self._jobs[job.seq] = job
        return self._claimed(job)

    @staticmethod
    def _claimed(job: Record) -> ClaimedJob:
        return ClaimedJob(
            seq=job.seq,
            token=job.token,
            id=job.id,
            task=job.task,
            queue=job.queue,
            priority=job.priority,
            args=job.args,
            headers=job.headers,
            attempt=job.attempt,
            enqueued=job.enqueued,
            waited=max(0.0, (job.started or 0.0) - job.due),
        )

    def _settle(self, settlement: Settlement) -> bool:
        job = self._current(settlement.seq, settlement.token)
        if job is None:
            return False
        if settlement.error is not None:
            self._count_failure(job, settlement.error)
        move = rules.settled(settlement, job.reason if job.cancelling else None, job.crashes)
        job = replace(job, result=settlement.result, error=settlement.error or job.error)
        self._end_attempt(job, move, settlement.error, move.reason, delay=settlement.delay, ran=settlement.ran)
        return True

    def _end_attempt(
        self, job: Record, move: rules.Move, error: Error | None, why: str, delay: float = 0.0, ran: float | None = None
    ) -> None:
        now = self._now()
        if move.logged is not None:
            assert job.worker is not None
            assert job.started is not None
            attempt = Attempt(job.attempt, job.token, job.worker, job.started, now, move.logged, error, why)
            self._attempts.setdefault(job.seq, []).append(attempt)
        has_ended = move.state in rules.ENDED
        self._jobs[job.seq] = replace(
            self._move(job, move.state),
            attempt=job.attempt if move.used else job.attempt - 1,
            crashes=job.crashes + move.crashes,
            suspect=job.suspect if move.suspect is None else move.suspect,
            worker=None,
            due=job.due if has_ended or move.keeps_place else now + delay,
            ended=now if has_ended else None,
            ran=ran,
            reason=move.reason,
            cancelling=False,
        )

    def _current(self, seq: int, token: int) -> Record | None:
        job = self._jobs.get(seq)
        return job if job is not None and job.state is RUNNING and job.token == token else None

    def _cancel(self, id: str, reason: str) -> Cut:
        seq = self._by_id.get(id)
        if seq is None:
            return Cut.UNKNOWN
        job = self._jobs[seq]
        if job.state in rules.ENDED:
            return Cut.ENDED
        if job.state is RUNNING:
            self._jobs[seq] = job if job.cancelling else replace(job, cancelling=True, reason=reason)
            return Cut.ASKED
        job = replace(self._move(job, JobState.CANCELLED), ended=self._now(), reason=reason, suspect=False)
        self._jobs[seq] = job
        return Cut.CANCELLED

    # Workers

    def _renew(self, renew: Renew) -> Renewed:
        now = self._now()
        self._feel_pulse(now, renew.lease, gap=renew.lease / 2)
        lost = []
        for beat in renew.beats:
            worker = self._workers.get(beat.worker)
            if worker is None and beat.first:
                self._workers[beat.worker] = _Worker(beat.info, now, now + renew.lease)
            elif worker is None:
                lost.append(beat.worker)
            else:
                worker.until = now + renew.lease
        cancels = [
            (beat.worker, job.seq, job.token, job.reason)
            for beat in renew.beats
            for job in self._held(beat.worker)
            if job.cancelling
        ]
        return Renewed(lost, cancels)

    def _sweep(self, sweep: Sweep) -> Swept:
        now = self._now()
        due = self._let_due_be_ready(now)
        self._feel_pulse(now, sweep.lease, sweep.gap)
        gone = [(death, False) for death in sweep.deaths]
        if now >= self._hold_until:
            dead = {death.worker for death in sweep.deaths}
            late = [worker for worker, it in self._workers.items() if it.until < now and worker not in dead]
            gone += [(Death(worker, "its lease ran out"), True) for worker in late]
        moves = [move for death, lost in gone for move in self._take_back(death, lost, sweep.crashes)]
        ended = sum(move.state in rules.ENDED for move in moves)
        suspects = sum(job.suspect for job in self._in(READY))
        return Swept(len(moves) - ended, ended, [death.worker for death, lost in gone if lost], due, suspects)

    def _feel_pulse(self, now: float, lease: float, gap: float) -> None:
        if self._pulse is not None and now - self._pulse > gap:
            self._hold_until = now + lease
        self._pulse = now

    def _take_back(self, death: Death, lost: bool, limit: int) -> list[rules.Move]:
        self._workers.pop(death.worker, None)
        held = list(self._held(death.worker))
        victims = [rules.Victim(job.seq, job.crashes, job.reason if job.cancelling else None) for job in held]
        moves = rules.taken_back(death, victims, lost=lost, limit=limit)
        for job, move in zip(held, moves, strict=True):
            error = rules.laid_to_it(move, death, job.task)
            if error is not None:
                self._count_failure(job, error)
            self._end_attempt(replace(job, error=error or job.error), move, error, move.reason or death.why)
        return moves

    def _let_due_be_ready(self, now: float) -> int:
        due = [job for job in self._in(SCHEDULED) if job.due <= now]
        for job in due:
            self._jobs[job.seq] = self._move(job, READY)
        return len(due)

    # Changes by people

    def _again(self, again: Again) -> int:
        found = [job for job in self._jobs.values() if job.state in again.states and job.state in rules.ENDED]
        if again.ids is not None:
            found = [job for job in found if job.id in again.ids]
        if again.print is not None:
            found = [job for job in found if job.error is not None and job.error.print == again.print]
        now = self._now()
        for job in found[: again.limit]:
            job = self._move(job, READY)
            self._jobs[job.seq] = replace(
                job, attempt=0, crashes=0, due=now, started=None, ended=None, ran=None, result=None, reason=""
            )
        return min(len(found), again.limit)

    def _prune(self, prune: Prune) -> int:
        now = self._now()
        pruned = 0
        for states, seconds in (({JobState.DONE, JobState.CANCELLED}, prune.done), ({FAILED}, prune.failed)):
            old = sorted(
                (job for job in self._jobs.values() if job.state in states and (job.ended or now) < now - seconds),
                key=lambda job: job.ended or 0.0,
            )[: prune.limit]
            for job in old:
                del self._jobs[job.seq], self._by_id[job.id]
                self._attempts.pop(job.seq, None)
            pruned += len(old)
        return pruned

    def _count_failure(self, job: Record, error: Error) -> None:
        now = self._now()
        known = self._kinds.get(error.print)
        if known is None:
            known = FailureRecord(error, job.task, 0, now, now, ())
        ids = known.ids if len(known.ids) >= rules.SAMPLES or job.id in known.ids else (*known.ids, job.id)
        self._kinds.pop(error.print, None)  # to the end of the line, whose first is the one that was seen longest ago
        self._kinds[error.print] = replace(known, count=known.count + 1, last=now, ids=ids)
        if len(self._kinds) > rules.KINDS:
            del self._kinds[next(iter(self._kinds))]

    # What there is

    def _in(self, state: JobState) -> list[Record]:
        return [job for job in self._jobs.values() if job.state is state]

    def _held(self, worker: int) -> list[Record]:
        return [job for job in self._jobs.values() if job.worker == worker]

    @staticmethod
    def _move(job: Record, state: JobState) -> Record:
        assert state in rules.MOVES[job.state], f"a job can't go from {job.state} to {state}"
        return replace(job, state=state)

    def _answer(self, query: Query[Any]) -> Any:
        now = self._now()
        match query:
            case ByIds(ids):
                return [self._jobs[self._by_id[id]] if id in self._by_id else None for id in ids]
            case States(ids):
                return [self._jobs[self._by_id[id]].state if id in self._by_id else None for id in ids]
            case Begins(prefix, limit):
                begun = sorted(id for id in self._by_id if id.startswith(prefix))
                return [self._jobs[self._by_id[id]] for id in begun[:limit]]
            case Search():
                return self._search(query)
            case HeldBy(worker):
                return [self._claimed(job) for job in self._held(worker)]
            case Attempts(id):
                return list(self._attempts.get(self._by_id.get(id, 0), ()))
            case Counts():
                counted = Counter((job.queue, job.task, job.state) for job in self._jobs.values())
                return [Count(*key, jobs) for key, jobs in sorted(counted.items())]
            case Workers():
                return [
                    WorkerRecord(worker, it.info, it.since, it.until - now, len(self._held(worker)))
                    for worker, it in self._workers.items()
                ]
            case Queues():
                names = sorted({job.queue for job in self._jobs.values()} | self._paused)
                return [QueueRecord(name, name in self._paused, self._oldest(name, now)) for name in names]
            case Failed(limit):
                return sorted(self._kinds.values(), key=lambda kind: -kind.last)[:limit]
            case Complaints():
                lost = [job for job in self._in(RUNNING) if job.worker not in self._workers]
                return [f"job {job.id} runs, but nobody knows its worker" for job in lost]
        raise TypeError(f"{query!r} is no query")

    def _search(self, search: Search) -> list[Record]:
        found = [
            job
            for job in self._jobs.values()
            if (search.states is None or job.state in search.states)
            and (search.queue is None or job.queue == search.queue)
            and (search.task is None or job.task == search.task)
            and (search.print is None or (job.error is not None and job.error.print == search.print))
            and (search.before is None or job.seq < search.before)
        ]
        return sorted(found, key=lambda job: -job.seq)[: search.limit]

    def _oldest(self, queue: str, now: float) -> float | None:
        return max((now - job.due for job in self._in(READY) if job.queue == queue), default=None)
