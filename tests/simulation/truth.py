"""What really happened, as nobody in the simulation knows it: the judge of what the engine and the workers do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.engines.engine import Engine
from penstock.engines.records import ByIds, Complaints, Record
from penstock.engines.requests import (
    CRASHES,
    Cancel,
    Claim,
    Claimed,
    ClaimedJob,
    Cut,
    Outcome,
    Put,
    Renew,
    Reply,
    Request,
    Settle,
    Sweep,
    Swept,
)
from penstock.engines.rules import ENDED
from penstock.job import JobState
from tests.simulation.world import Process, World

FINAL = (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED)


class Wrong(AssertionError):
    """Something happened that must not happen."""


@dataclass(eq=False, slots=True)
class Run:
    """User code of one claim."""

    claim: ClaimedJob
    process: Process
    runs: bool = True
    is_whole: bool = False  # it came to its end, and was not cut


@dataclass(eq=False)
class Grant:
    """One claim, as the engine gave it."""

    job: ClaimedJob
    worker: int
    settled: Outcome | None = None  # and the engine took it
    is_taken_back: bool = False


@dataclass
class Job:
    """What is known of one job."""

    id: str
    is_acknowledged: bool = False
    was_cancelled: bool = False  # somebody asked for that,
    must_not_run: bool = False  # and the engine has heard it
    grants: list[Grant] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    deaths_alone: int = 0  # of a process, or of a lease, while nothing else had begun there


_RECOVERY = 10.0  # seconds until whoever gave up on a call has asked again


class Truth:
    """Sees each transaction and each run; raises `Wrong` at the step at which a promise is broken."""

    def __init__(self, world: World, lease: float, gap: float) -> None:
        self.world = world
        self.lease = lease
        self.gap = gap
        self.jobs: dict[str, Job] = {}
        self.grants: dict[tuple[int, int], tuple[Job, Grant]] = {}
        self.processes: dict[int, Process] = {}  # of each worker
        self.keepers: dict[int, Process] = {}  # who renews the lease of each worker
        self.leases: dict[int, float] = {}  # when they end
        self.lost: set[int] = set()
        self.pulses: list[float] = []
        self.counts: Counter[str] = Counter()

    # Transactions

    def committed(self, requests: Sequence[Request], replies: Sequence[Reply | Exception]) -> None:
        """The engine has done this."""
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(request, Put):
                for job in request.jobs:
                    self.jobs.setdefault(job.id, Job(job.id))
            elif isinstance(request, Cancel) and isinstance(reply, list):
                for id, cut in zip(request.ids, reply, strict=True):
                    if cut in (Cut.ASKED, Cut.CANCELLED):
                        self.jobs[id].must_not_run = True
            elif isinstance(request, Claim) and isinstance(reply, Claimed):
                for claimed in (job for jobs in reply.jobs for job in jobs):
                    self._granted(claimed, request.worker)
            elif isinstance(request, Settle) and isinstance(reply, list):
                for settlement, current in zip(request.settlements, reply, strict=True):
                    self._settled(settlement.seq, settlement.token, settlement.outcome, current is True)
            elif isinstance(request, Renew):
                self.pulses.append(self.world.now)
                for beat in request.beats:
                    if beat.first:
                        self.lost.discard(beat.worker)  # it makes itself known anew
                    if beat.worker not in self.lost:
                        self.leases[beat.worker] = self.world.now + request.lease
            elif isinstance(request, Sweep) and isinstance(reply, Swept):
                self._swept(request, reply)

    def _granted(self, claimed: ClaimedJob, worker: int) -> None:
        job = self.jobs[claimed.id]
        self.counts["claims"] += 1
        if worker in self.lost:
            raise Wrong(f"{claimed.id} was given to {worker}, which was given up")
        if job.must_not_run:
            raise Wrong(f"{claimed.id} was given to {worker} after it was cancelled")
        if job.grants:
            last = job.grants[-1]
            if claimed.token <= last.job.token:
                raise Wrong(f"{claimed.id}: token {claimed.token} after {last.job.token}")
            if last.settled is None and not last.is_taken_back:
                raise Wrong(f"{claimed.id} was given away while {last.worker} had it, and was neither dead nor lost")
            if last.settled in FINAL:
                raise Wrong(f"{claimed.id} was given away after its end")
        grant = Grant(claimed, worker)
        job.grants.append(grant)
        self.grants[claimed.seq, claimed.token] = (job, grant)

    def _settled(self, seq: int, token: int, outcome: Outcome, was_taken: bool) -> None:
        job, grant = self.grants[seq, token]
        is_current = grant is job.grants[-1] and grant.settled is None and not grant.is_taken_back
        if was_taken and not is_current:
            raise Wrong(f"{job.id}: the engine took {outcome} of a stale claim ({token})")
        if not was_taken and is_current:
            raise Wrong(f"{job.id}: the engine refused {outcome} of the current claim ({token})")
        if was_taken:
            grant.settled = outcome
            self.counts[outcome.value] += 1
        else:
            self.counts["refused"] += 1

    def _swept(self, request: Sweep, swept: Swept) -> None:
        self.pulses.append(self.world.now)
        for death in request.deaths:
            process = self.processes.get(death.worker)
            if process is not None and process.is_alive:
                raise Wrong(f"{death.worker} was said to be dead, and lives")
            self._take_back(death.worker, death.began)
        for worker in swept.lost:
            self._check_lost(worker)
            self._take_back(worker, None)
        self.counts["lost"] += len(swept.lost)

    def _check_lost(self, worker: int) -> None:
        now = self.world.now
        if self.leases[worker] >= now:
            raise Wrong(f"{worker} lost its lease, which had {self.leases[worker] - now:.3f} s to run")
        keeper = self.keepers[worker]
        quiet_since = max(self.world.calm_since, keeper.frozen_until)
        if keeper.is_alive and self.processes[worker].is_alive and now > quiet_since + self.lease + _RECOVERY:
            raise Wrong(f"{worker} lost its lease, though nothing has failed for {now - quiet_since:.3f} s")
        times = [time for time in self.pulses if time >= now - self.lease]
        before = [time for time in self.pulses if time < now - self.lease][-1:]
        for earlier, later in zip(before + times, times, strict=False):
            if later - earlier > self.gap and later > now - self.lease:
                raise Wrong(f"{worker} lost its lease, and {now - later:.3f} s ago the store had been down")

    def _take_back(self, worker: int, began: frozenset[int] | None) -> None:
        self.lost.add(worker)
        held = [(job, job.grants[-1]) for job in self.jobs.values() if job.grants and self._has(worker, job.grants[-1])]
        ran = [job for job, grant in held if began is None or grant.job.seq in began]
        for job, grant in held:
            grant.is_taken_back = True
            if ran == [job]:
                job.deaths_alone += 1

    @staticmethod
    def _has(worker: int, grant: Grant) -> bool:
        return grant.worker == worker and grant.settled is None and not grant.is_taken_back

    # Runs

    def begins(self, claim: ClaimedJob, process: Process) -> Run:
        """User code of *claim* begins."""
        job, _ = self.grants[claim.seq, claim.token]
        for run in job.runs:
            if run.claim.token == claim.token:
                raise Wrong(f"{job.id} runs twice by one claim ({claim.token})")
            _, earlier = self.grants[claim.seq, min(run.claim.token, claim.token)]  # it may begin late, after a freeze
            if run.process.is_alive and run.runs and not earlier.is_taken_back:
                raise Wrong(f"{job.id} runs twice at once, and {earlier.worker} has not lost it")
        run = Run(claim, process)
        job.runs.append(run)
        self.counts["runs"] += 1
        return run

    # The end

    def check(self, engine: Engine) -> None:
        """At the very end: all jobs have ended, each as it should."""
        if complaints := engine.find(Complaints()):
            raise Wrong(f"the store is not well: {complaints}")
        for record, job in zip(engine.find(ByIds(list(self.jobs))), self.jobs.values(), strict=True):
            if record is None:
                raise Wrong(f"{job.id} is lost")
            self._check_end(record, job)

    def _check_end(self, record: Record, job: Job) -> None:
        what = f"{job.id} ({record.state}, {len(job.runs)} runs)"
        if record.state not in ENDED:
            raise Wrong(f"{what} has not ended: {record}")
        ends = [grant for grant in job.grants if grant.settled in FINAL]
        if len(ends) > 1:
            raise Wrong(f"{what} ended {len(ends)} times")
        if record.state is JobState.DONE:
            whole = {run.claim.token for run in job.runs if run.is_whole}
            if record.token not in whole or record.token not in {end.job.token for end in ends}:
                raise Wrong(f"{what} is done by claim {record.token}, which didn't run to its end")
            if record.result != str(record.token).encode():
                raise Wrong(f"{what} has the result of another claim: {record.result!r}")
        retries = sum(grant.settled is Outcome.RETRY for grant in job.grants)
        if record.state is not JobState.CANCELLED and record.attempt != retries + len(ends):
            raise Wrong(f"{what}: attempt {record.attempt}, after {retries} retries and {len(ends)} ends")
        if record.state is JobState.CANCELLED and not job.was_cancelled:
            raise Wrong(f"{what} was cancelled, and nobody asked for that")
        if record.state is JobState.FAILED and not ends:
            crashes = sum(grant.settled is Outcome.CRASHED for grant in job.grants) + job.deaths_alone
            if crashes < CRASHES:
                raise Wrong(f"{what} failed after {crashes} deaths")
