"""An engine against a model of it, through random lives: whatever the order of events, the two agree after each.

The model is plain values, moved as the docstrings of `requests` say, by code that shares nothing with any engine or
with `rules`. Two engine objects on one store take turns. A step may ask for several things at once; the model makes its
moves in their order, and then looks at what the engine answered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock.engines.engine import Engine
from penstock.engines.records import HeldBy, Search, Workers
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
    Outcome,
    Pause,
    Progress,
    Prune,
    Put,
    Renew,
    Renewed,
    Request,
    Settle,
    Settlement,
    Sweep,
    Swept,
    Want,
)
from penstock.job import JobState
from tests.engines.kinds import (
    CANCELLED,
    DONE,
    FAILED,
    GAP,
    KINDS,
    LEASE,
    READY,
    RUNNING,
    SCHEDULED,
    Clock,
    Connect,
    Desk,
    new,
    oops,
)

FULL_SECONDS = 4.0 if os.environ.get("PENSTOCK_STRESS") == "full" else 1.0  # for each kind, in `make stress`

IDS = [f"job{n}" for n in range(9)]
WORKERS = [1, 2, 3]
TASKS = ["draw", "sing"]
QUEUES = ["left", "right"]
PRINTS = ["this", "that"]
ENDED = (DONE, FAILED, CANCELLED)


@dataclass(eq=False)
class Job:
    """The model of a job."""

    id: str
    number: int  # in the order they were put
    task: str
    queue: str
    priority: int
    state: JobState
    due: float
    attempt: int = 0
    crashes: int = 0
    suspect: bool = False
    worker: int | None = None
    ended: float | None = None
    result: bytes | None = None
    error: str | None = None  # its print
    reason: str = ""
    cancelling: bool = False
    progress: float | None = None
    claim: ClaimedJob | None = None  # today's
    tokens: list[int] = field(default_factory=list)  # all that were ever given
    attempts: list[tuple[int, int, str]] = field(default_factory=list)  # number, worker, outcome

    def log(self, outcome: str) -> None:
        assert self.worker is not None
        self.attempts.append((self.attempt, self.worker, outcome))

    def leave(self, state: JobState, now: float, reason: str = "", *, used: bool = True) -> None:
        """The attempt is over."""
        self.state = state
        self.attempt -= not used
        self.worker = self.claim = None
        self.cancelling = False
        self.reason = reason
        self.ended = now if state in ENDED else None
        if state in ENDED:
            self.suspect = False


Check = Callable[[Any], None]
Ask = tuple[Request, Check]


class EngineMachine(RuleBasedStateMachine):
    """Random lives of one store: each rule asks something of an engine, and of the model what should come of it."""

    kind: ClassVar[str]
    now: ClassVar[Clock]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-model-"))
        self.connect: Connect = KINDS[self.kind](self.folder, self.now)
        self.engines = [self.opened(), self.opened()]
        self.jobs: dict[str, Job] = {}
        self.stale: list[ClaimedJob] = []  # claims that can't do anything any more
        self.leases: dict[int, float] = {}  # when they end
        self.paused: set[str] = set()
        self.failures: Counter[str] = Counter()
        self.pulse: float | None = None
        self.hold_until = 0.0
        self.put_so_far = 0
        self.ask(0, self.renew(WORKERS, True), self.put((id, "sing", "left", 0, 0) for id in IDS[:3]))

    def opened(self) -> Engine:
        engine = self.connect()
        engine.open()
        return engine

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for engine in self.engines:
                engine.close()
            shutil.rmtree(self.folder)

    # Asking

    def ask(self, which: int, *asks: Ask) -> None:
        """Ask all this of an engine in one step."""
        replies = self.engines[which].transact([request for request, _ in asks])
        for reply, (_, check) in zip(replies, asks, strict=True):
            check(reply)

    def desk(self) -> Desk:
        return Desk(self.engines[0], self.now)

    def having(self, *states: JobState) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states]

    def held(self, worker: int) -> list[Job]:
        return [job for job in self.having(RUNNING) if job.worker == worker]

    def claims(self) -> list[ClaimedJob]:
        return [job.claim for job in self.having(RUNNING) if job.claim is not None]

    def current(self, claim: ClaimedJob) -> Job | None:
        return next((job for job in self.having(RUNNING) if job.claim == claim), None)

    def lost(self, job: Job) -> None:
        if job.claim is not None:
            self.stale.append(job.claim)

    # What can be asked, and what should come of it

    def put(self, specs: Iterable[tuple[str, str, str, int, int]]) -> Ask:
        jobs, fates = [], []
        for id, task, queue, priority, delay in specs:
            jobs.append(new(id, task, queue=queue, priority=priority, delay=delay, args=id.encode()))
            if id in self.jobs:
                fates.append(Fate.KNOWN)
                continue
            self.put_so_far += 1
            state = SCHEDULED if delay else READY
            self.jobs[id] = Job(id, self.put_so_far, task, queue, priority, state, self.now() + delay)
            fates.append(Fate.ACCEPTED)
        return Put(jobs), equal_to(fates)

    def let_due_be_ready(self) -> int:
        due = [job for job in self.having(SCHEDULED) if job.due <= self.now()]
        for job in due:
            job.state = READY
        return len(due)

    def claim(
        self, worker: int, wants: Sequence[tuple[Sequence[str], int]], queues: Sequence[str] | None, alone: bool
    ) -> Ask:
        request = Claim(worker, queues, [Want(frozenset(tasks), limit) for tasks, limit in wants], alone)
        self.let_due_be_ready()
        if worker not in self.leases:
            return request, equal_to(Claimed([[] for _ in wants], known=False))
        line = [
            job
            for job in sorted(self.having(READY), key=lambda job: (-job.priority, job.due, job.number))
            if job.suspect is alone and job.queue not in self.paused and (queues is None or job.queue in queues)
        ]
        given: list[list[Job]] = []
        for tasks, limit in wants:
            fitting = [job for job in line if job.task in tasks and job.state is READY]
            given.append(fitting[: min(limit, 0 if any(given) else 1) if alone else limit])
            for job in given[-1]:
                job.state = RUNNING
                job.worker = worker
                job.attempt += 1
                job.reason = ""
                job.progress = None
        dues = [job.due - self.now() for job in self.having(SCHEDULED)]
        cancels = {(job.id, job.reason) for job in self.held(worker) if job.cancelling}
        expected = [[(job.id, job.attempt, self.now() - job.due) for job in some] for some in given]

        def check(claimed: Claimed) -> None:
            assert claimed.known
            assert [[(it.id, it.attempt, it.waited) for it in some] for some in claimed.jobs] == expected
            for job, it in zip(chain(*given), chain(*claimed.jobs), strict=True):
                assert (it.task, it.queue, it.priority, it.args) == (job.task, job.queue, job.priority, job.id.encode())
                self.take(job, it)
            assert {(self.id_of(seq, token), reason) for seq, token, reason in claimed.cancels} == cancels
            assert claimed.next_due == (min(dues) if dues else None)

        return request, check

    def take(self, job: Job, claim: ClaimedJob) -> None:
        assert not job.tokens or claim.token > max(job.tokens), "a token that doesn't rise"
        job.tokens.append(claim.token)
        if job.state is RUNNING:  # else it ended in the same step
            job.claim = claim

    def id_of(self, seq: int, token: int) -> str:
        [job] = [job for job in self.having(RUNNING) if job.claim and (job.claim.seq, job.claim.token) == (seq, token)]
        return job.id

    def settle(self, ends: Sequence[tuple[ClaimedJob, Outcome, int, str | None]]) -> Ask:
        settlements, answers = [], []
        for claim, outcome, delay, print in ends:
            error = None if print is None else oops(print)
            settlements.append(
                Settlement(claim.seq, claim.token, outcome, b"result", error, float(delay), "by itself", ran=1.5)
            )
            job = self.current(claim)
            answers.append(job is not None)
            if job is not None:
                self.lost(job)
                self.end(job, outcome, delay, error)
        return Settle(settlements), equal_to(answers)

    def end(self, job: Job, outcome: Outcome, delay: int, error: Error | None) -> None:
        now = self.now()
        job.result = b"result"
        if error is not None:
            job.error = error.print
            self.failures[error.print] += 1
        if outcome is not Outcome.DONE:
            job.log(outcome.value)
        if outcome in (Outcome.DONE, Outcome.FAILED):
            job.leave(JobState(outcome.value), now)
        elif outcome is Outcome.CANCELLED:
            job.leave(CANCELLED, now, "by itself")
        elif job.cancelling:
            job.leave(CANCELLED, now, job.reason, used=outcome is Outcome.RETRY)
        elif outcome is Outcome.CRASHED:
            self.blame(job, 3)
        elif outcome is Outcome.RELEASE:
            job.leave(READY, now, "by itself", used=False)
        else:
            job.leave(SCHEDULED if delay else READY, now, "by itself", used=outcome is Outcome.RETRY)
            job.due = now + delay
            job.suspect = False

    def blame(self, job: Job, limit: int) -> None:
        """A death is laid to it."""
        job.crashes += 1
        job.leave(FAILED if job.crashes >= limit else READY, self.now(), used=False)
        job.suspect = job.state is READY

    def cancel(self, ids: Sequence[str], reason: str) -> Ask:
        cuts = []
        for id in ids:
            job = self.jobs.get(id)
            if job is None:
                cuts.append(Cut.UNKNOWN)
            elif job.state in ENDED:
                cuts.append(Cut.ENDED)
            elif job.state is RUNNING:
                job.reason = job.reason if job.cancelling else reason
                job.cancelling = True
                cuts.append(Cut.ASKED)
            else:
                job.leave(CANCELLED, self.now(), reason)
                cuts.append(Cut.CANCELLED)
        return Cancel(ids, reason), equal_to(cuts)

    def progress(self, claim: ClaimedJob, done: int) -> Ask:
        job = self.current(claim)
        if job is not None:
            job.progress = done
        return Progress(claim.seq, claim.token, done), equal_to(job is not None)

    def feel_pulse(self, lease: float, gap: float) -> None:
        if self.pulse is not None and self.now() - self.pulse > gap:
            self.hold_until = self.now() + lease
        self.pulse = self.now()

    def renew(self, workers: Sequence[int], first: bool) -> Ask:
        self.feel_pulse(LEASE, LEASE / 2)
        lost = [worker for worker in workers if worker not in self.leases and not first]
        for worker in workers:
            if worker not in lost:
                self.leases[worker] = self.now() + LEASE
        cancels = {(worker, job.id, job.reason) for worker in workers for job in self.held(worker) if job.cancelling}

        def check(renewed: Renewed) -> None:
            assert list(renewed.lost) == lost
            found = {(worker, self.id_of(seq, token), reason) for worker, seq, token, reason in renewed.cancels}
            assert found == cancels

        return Renew([Beat(worker, first) for worker in workers], LEASE), check

    def sweep(self, deaths: Sequence[tuple[int, Sequence[Job] | None, Sequence[Job] | None]], crashes: int) -> Ask:
        due = self.let_due_be_ready()
        self.feel_pulse(LEASE, GAP)
        late = []
        if self.now() >= self.hold_until:
            dead = [worker for worker, _, _ in deaths]
            late = [worker for worker, until in self.leases.items() if until < self.now() and worker not in dead]
        request = Sweep([death(*it) for it in deaths], LEASE, GAP, crashes)
        moved = [job for it in deaths for job in self.bury(*it, "crashed", crashes)]
        moved += [job for worker in late for job in self.bury(worker, None, None, "lost", crashes)]
        returned = sum(job.state is READY for job in moved)
        suspects = sum(job.suspect for job in self.having(READY))

        def check(swept: Swept) -> None:
            assert swept._replace(lost=sorted(swept.lost)) == Swept(
                returned, len(moved) - returned, sorted(late), due, suspects
            )

        return request, check

    def bury(
        self, worker: int, began: Sequence[Job] | None, blamed: Sequence[Job] | None, how: str, crashes: int
    ) -> list[Job]:
        """Its jobs, which are nobody's now."""
        self.leases.pop(worker, None)
        held = self.held(worker)
        ran = held if began is None else [job for job in held if job in began]
        for job in held:
            self.lost(job)
            if job in ran:
                job.log(how)
            if job.cancelling:
                job.leave(CANCELLED, self.now(), job.reason, used=False)
            elif job not in ran:
                job.leave(READY, self.now(), used=False)
            elif job in blamed if blamed is not None else len(ran) == 1:
                job.error = f"WorkerDied {job.task}"
                self.failures[job.error] += 1
                self.blame(job, crashes)
            else:
                job.leave(READY, self.now(), used=False)
                job.suspect = job.suspect or blamed is None
        return held

    def again(self, ids: Sequence[str] | None, print: str | None, states: Sequence[JobState], limit: int) -> Ask:
        found = [
            job
            for job in sorted(self.having(*ENDED), key=lambda job: job.number)
            if job.state in states and (ids is None or job.id in ids) and (print is None or job.error == print)
        ][:limit]
        for job in found:
            job.state = READY
            job.due = self.now()
            job.attempt = job.crashes = 0
            job.ended = job.result = None
            job.reason = ""
        return Again(ids, print, states, limit), equal_to(len(found))

    def prune(self, done: int, failed: int) -> Ask:
        old = [
            job
            for job in self.having(*ENDED)
            if (job.ended or 0) < self.now() - (failed if job.state is FAILED else done)
        ]
        for job in old:
            del self.jobs[job.id]
        return Prune(done, failed), equal_to(len(old))

    def pause(self, queue: str, paused: bool) -> Ask:
        changes = (queue in self.paused) is not paused
        self.paused ^= {queue} if changes else set()
        return Pause(queue, paused), equal_to(changes)

    # The events

    which = st.integers(0, 1)
    specs = st.tuples(
        st.sampled_from(IDS),
        st.sampled_from(TASKS),
        st.sampled_from(QUEUES),
        st.integers(-1, 1),
        st.sampled_from([0, 0, 0, 5, 20]),
    )
    some_ids = st.lists(st.sampled_from(IDS), max_size=3)
    some_wants = st.lists(st.tuples(st.lists(st.sampled_from(TASKS), max_size=2), st.integers(0, 3)), max_size=2)
    all_wants = st.just([(TASKS, 3), (TASKS, 1)])
    outcomes = st.sampled_from(Outcome)
    delays = st.sampled_from([0, 0, 5])
    prints = st.sampled_from([None, *PRINTS])

    @rule(which=which, specs=st.lists(specs, min_size=1, max_size=5))
    def put_jobs(self, which: int, specs: list[tuple[str, str, str, int, int]]) -> None:
        self.ask(which, self.put(specs))

    @rule(which=which, worker=st.sampled_from(WORKERS), wants=all_wants | some_wants)
    def claim_jobs(self, which: int, worker: int, wants: list[tuple[list[str], int]]) -> None:
        self.ask(which, self.claim(worker, wants, None, False))

    @precondition(lambda self: any(job.suspect for job in self.having(READY)))
    @rule(which=which, worker=st.sampled_from(WORKERS), wants=all_wants | some_wants)
    def claim_a_suspect(self, which: int, worker: int, wants: list[tuple[list[str], int]]) -> None:
        self.ask(which, self.claim(worker, wants, None, True))

    @rule(which=which, worker=st.sampled_from(WORKERS), wants=some_wants, queues=st.lists(st.sampled_from(QUEUES)))
    def claim_of_queues(self, which: int, worker: int, wants: list[tuple[list[str], int]], queues: list[str]) -> None:
        self.ask(which, self.claim(worker, wants, queues, False))

    @rule(which=which, workers=st.lists(st.sampled_from(WORKERS), unique=True), first=st.booleans())
    def renew_leases(self, which: int, workers: list[int], first: bool) -> None:
        self.ask(which, self.renew(workers, first))

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), which=which, outcome=outcomes, delay=delays, print=prints)
    def settle_one(self, data: st.DataObject, which: int, outcome: Outcome, delay: int, print: str | None) -> None:
        claim = data.draw(st.sampled_from(self.claims()))
        self.ask(which, self.settle([(claim, outcome, delay, print)]))

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), which=which)
    def settle_and_claim(self, data: st.DataObject, which: int) -> None:
        """Some twice and some stale, in one step with the next claim: as workers do."""
        claims = st.sampled_from(self.claims() + self.stale[-3:])
        ends = st.tuples(claims, self.outcomes, self.delays, self.prints)
        worker = data.draw(st.sampled_from(WORKERS))
        self.ask(which, self.settle(data.draw(st.lists(ends))), self.claim(worker, [(TASKS, 2)], None, False))

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), which=which, outcome=outcomes)
    def settle_too_late(self, data: st.DataObject, which: int, outcome: Outcome) -> None:
        claim = data.draw(st.sampled_from(self.stale))
        self.ask(which, self.settle([(claim, outcome, 5, "late")]), self.progress(claim, 99))

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), which=which, done=st.integers(0, 9))
    def tell_progress(self, data: st.DataObject, which: int, done: int) -> None:
        claim = data.draw(st.sampled_from(self.claims()))
        self.ask(which, self.progress(claim, done))

    @rule(which=which, ids=some_ids, reason=st.sampled_from(["no more", "never"]))
    def cancel_jobs(self, which: int, ids: list[str], reason: str) -> None:
        self.ask(which, self.cancel(ids, reason))

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), which=which, reason=st.sampled_from(["stop it", "enough"]))
    def cancel_running_jobs(self, data: st.DataObject, which: int, reason: str) -> None:
        ids = [job.id for job in self.having(RUNNING)]
        self.ask(which, self.cancel(data.draw(st.lists(st.sampled_from(ids), min_size=1)), reason))

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.now.advance(seconds)

    @rule(which=which, alive=st.lists(st.sampled_from(WORKERS), unique=True))
    def a_lease_passes(self, which: int, alive: list[int]) -> None:
        """The store is up, and some workers live."""
        for _ in range(4):
            self.now.advance(9)
            self.ask(which, self.renew(alive, False))

    @rule(seconds=st.integers(16, 90))
    def the_store_is_down(self, seconds: int) -> None:
        self.now.advance(seconds)

    @rule(which=which)
    def sweep_up(self, which: int) -> None:
        self.ask(which, self.sweep([], 3))

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), which=which, crashes=st.integers(1, 3))
    def a_worker_dies(self, data: st.DataObject, which: int, crashes: int) -> None:
        worker = data.draw(st.sampled_from(sorted({job.worker for job in self.having(RUNNING) if job.worker})))
        some = st.none() | st.lists(st.sampled_from(self.held(worker)), unique=True)
        self.ask(which, self.sweep([(worker, data.draw(some), data.draw(some))], crashes))

    @rule(which=which, worker=st.sampled_from(WORKERS))
    def a_worker_leaves(self, which: int, worker: int) -> None:
        """In good order, or nobody knows it; then another of its name comes."""
        self.ask(which, self.sweep([(worker, [], None)], 3), self.renew([worker], True))

    @rule(
        which=which,
        ids=st.none() | some_ids,
        print=prints,
        states=st.lists(st.sampled_from([FAILED, DONE, CANCELLED, READY, RUNNING]), unique=True),
        limit=st.integers(0, 3),
    )
    def run_again(
        self, which: int, ids: list[str] | None, print: str | None, states: list[JobState], limit: int
    ) -> None:
        self.ask(which, self.again(ids, print, states, limit))

    @rule(which=which, done=st.integers(0, 20), failed=st.integers(0, 20))
    def prune_jobs(self, which: int, done: int, failed: int) -> None:
        self.ask(which, self.prune(done, failed))

    @rule(which=which, queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause_a_queue(self, which: int, queue: str, paused: bool) -> None:
        self.ask(which, self.pause(queue, paused))

    @rule(data=st.data(), which=which)
    def much_at_once(self, data: st.DataObject, which: int) -> None:
        makers: dict[str, Callable[[], Ask]] = {
            "put": lambda: self.put(data.draw(st.lists(self.specs, max_size=3))),
            "cancel": lambda: self.cancel(data.draw(self.some_ids), "at once"),
            "sweep": lambda: self.sweep([], 3),
            "pause": lambda: self.pause(data.draw(st.sampled_from(QUEUES)), data.draw(st.booleans())),
            "again": lambda: self.again(None, None, [DONE, FAILED], 2),
            "renew": lambda: self.renew(WORKERS[:2], True),
            "refused": lambda: (Put([new("", args=b"")]), is_refused),
        }
        asks = [makers[name]() for name in data.draw(st.lists(st.sampled_from(sorted(makers)), max_size=5))]
        self.ask(which, *asks, self.claim(data.draw(st.sampled_from(WORKERS)), [(TASKS, 3)], None, False))

    @rule(which=which)
    def begin_anew(self, which: int) -> None:
        """A process that used the store is gone, and another comes."""
        self.engines[which].close()
        self.engines[which] = self.opened()

    # What must always hold

    @invariant()
    def no_job_is_lost_and_each_is_as_the_model_says(self) -> None:
        for job, record in zip(self.jobs.values(), self.desk().records(*self.jobs), strict=True):
            assert record is not None, f"{job.id} is lost"
            assert (record.state, record.attempt, record.crashes) == (job.state, job.attempt, job.crashes)
            assert (record.suspect, record.worker, record.due) == (job.suspect, job.worker, job.due)
            assert (record.ended, record.cancelling, record.reason) == (job.ended, job.cancelling, job.reason)
            assert (record.error.print if record.error else None) == job.error
            assert record.token == max(job.tokens, default=0)
            if record.state is DONE:
                assert record.result == job.result
            assert (record.progress.done if record.progress else None) == job.progress

    @invariant()
    def what_was_forgotten_is_not_there(self) -> None:
        gone = [id for id in IDS if id not in self.jobs]
        assert self.desk().records(*gone) == [None] * len(gone)

    @invariant()
    def attempts_are_counted_right(self) -> None:
        for job in self.jobs.values():
            found = self.desk().attempts(job.id)
            assert [(it.number, it.worker, it.outcome) for it in found] == job.attempts
            assert {it.token for it in found} <= set(job.tokens)

    @invariant()
    def no_job_has_two_claims_that_are_current(self) -> None:
        desk = self.desk()
        held = [claim for worker in WORKERS for claim in desk.find(HeldBy(worker))]
        assert sorted((it.seq, it.token) for it in held) == sorted((it.seq, it.token) for it in self.claims())
        assert len({it.seq for it in held}) == len(held)
        assert not {(it.seq, it.token) for it in held} & {(it.seq, it.token) for it in self.stale}

    @invariant()
    def the_counters_equal_the_rows(self) -> None:
        counts = self.desk().counts()
        assert counts == Counter((job.queue, job.task, job.state) for job in self.jobs.values())
        assert counts == Counter((it.queue, it.task, it.state) for it in self.desk().find(Search()))

    @invariant()
    def what_is_found_agrees(self) -> None:
        desk = self.desk()
        newest = sorted(self.jobs.values(), key=lambda job: -job.number)
        assert desk.searched() == [job.id for job in newest]
        assert desk.searched(states=[READY], queue="left") == [
            job.id for job in newest if job.state is READY and job.queue == "left"
        ]
        assert desk.searched(print="this", limit=2) == [job.id for job in newest if job.error == "this"][:2]
        assert {kind.error.print: kind.count for kind in desk.kinds_of_failures()} == self.failures
        queues = {job.queue for job in self.jobs.values()} | self.paused
        assert desk.queues() == {queue: (queue in self.paused, self.oldest(queue)) for queue in queues}

    def oldest(self, queue: str) -> float | None:
        dues = [job.due for job in self.having(READY) if job.queue == queue]
        return self.now() - min(dues) if dues else None

    @invariant()
    def workers_are_as_the_model_says(self) -> None:
        workers = {it.worker: (it.lease, it.running) for it in self.desk().find(Workers())}
        assert workers == {
            worker: (until - self.now(), len(self.held(worker))) for worker, until in self.leases.items()
        }

    @invariant()
    def nothing_is_wrong_with_the_store(self) -> None:
        assert self.desk().complaints() == []


def equal_to(expected: object) -> Check:
    def check(reply: object) -> None:
        assert reply == expected

    return check


def is_refused(reply: object) -> None:
    assert isinstance(reply, ValueError)


def death(worker: int, began: Sequence[Job] | None, blamed: Sequence[Job] | None) -> Death:
    def seqs(jobs: Sequence[Job] | None) -> frozenset[int] | None:
        return None if jobs is None else frozenset(job.claim.seq for job in jobs if job.claim)

    return Death(worker, "it died", seqs(began), seqs(blamed))


def live(kind: str, now: Clock, examples: int) -> None:
    machine = type(f"{kind.title()}Machine", (EngineMachine,), {"kind": kind, "now": now})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,  # a file takes what it takes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


EXAMPLES = {"memory": 60, "sqlite": 30, "postgres": 10, "pooled": 5}  # in `make test`: a few seconds each


@pytest.fixture(autouse=True)
def few_jobs_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many jobs as a life here has would all wait to be counted."""
    with contextlib.suppress(ImportError):
        from penstock.engines.sqlite import engine, step

        for module in (engine, step):
            monkeypatch.setattr(module, "TAIL", 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_does_what_its_model_does(kind: str, now: Clock) -> None:
    live(kind, now, EXAMPLES[kind])


@pytest.mark.stress
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_does_what_its_model_does_for_long(kind: str, now: Clock) -> None:
    end = time.monotonic() + FULL_SECONDS
    while time.monotonic() < end:
        live(kind, now, 10)
