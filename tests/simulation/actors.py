"""Who uses the store: enqueuers that ask again, services of a supervisor and its children, and somebody who cancels.

What a child holds and asks is decided by the worker's own `Holding`, what a supervisor asks for it by its `Keeping`.
What is around them (`Child`, `Keeper` and `Supervisor` of `penstock.worker`) is threads, processes and pipes; here
their steps are generators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.engines.records import Attempts, ByIds, HeldBy
from penstock.engines.requests import (
    Beat,
    Cancel,
    Claimed,
    ClaimedJob,
    Death,
    Error,
    NewJob,
    Outcome,
    Prune,
    Put,
    Renew,
    Renewed,
    Settlement,
)
from penstock.errors import OutcomeUnknown, StoreUnavailable
from penstock.worker.holding import Held, Holding, Lane
from penstock.worker.keeping import Keeping
from tests.simulation.store import Client, Wire
from tests.simulation.world import Process, Signal, Steps, Wait, World

LEASE: Final = 30.0
GAP: Final = 15.0
IMPATIENT: Final = 1.0
TASKS: Final = frozenset({"quick", "long"})


@dataclass(frozen=True)
class Plan:
    """What the code of one job does, attempt by attempt; the last for ever."""

    seconds: float
    ends: tuple[str, ...] = ("done",)

    def end_of(self, run: int) -> str:
        return self.ends[min(run, len(self.ends)) - 1]


class Scene:
    """What all actors share."""

    def __init__(self, world: World, wire: Wire) -> None:
        self.world = world
        self.wire = wire
        self.plans: dict[str, Plan] = {}
        self.services = 0
        self.workers = 0

    def backoff(self) -> float:
        return 0.1 + 2.0 * self.world.random.random()

    def process(self, name: str) -> Process:
        return Process(name)

    def new_worker(self, process: Process, keeper: Process) -> int:
        self.workers += 1
        self.wire.truth.processes[self.workers] = process
        self.wire.truth.keepers[self.workers] = keeper
        return self.workers


def enqueuer(scene: Scene, client: Client, name: str, ids: Sequence[str]) -> Steps[None]:
    """Puts each job, and asks again with the same id until it is told that the job is there."""
    draw = scene.world.random
    rest = deque(ids)
    while rest:
        some = [rest.popleft() for _ in range(min(len(rest), draw.randint(1, 3)))]
        jobs = []
        for id in some:
            delay = draw.choice([0.0, 0.0, 20.0]) * draw.random()
            jobs.append(NewJob(id, draw.choice(["quick", "long"]), priority=draw.randint(0, 1), delay=delay))
        while True:
            try:
                yield from client.ask(Put(jobs))
            except (StoreUnavailable, OutcomeUnknown):
                yield scene.backoff()
                continue
            break
        for id in some:
            scene.wire.truth.jobs[id].is_acknowledged = True
        yield 5.0 * draw.random()


def canceller(scene: Scene, client: Client, ids: Sequence[str]) -> Steps[None]:
    """Somebody who doesn't want some jobs, whenever that is."""
    for id in ids:
        yield 40.0 * scene.world.random.random()
        if id in scene.wire.truth.jobs:
            scene.wire.truth.jobs[id].was_cancelled = True
            try:
                yield from client.ask(Cancel([id], "not wanted"))
            except (StoreUnavailable, OutcomeUnknown):
                continue


class Child:
    """A worker process."""

    def __init__(self, scene: Scene, service: Service, number: int, *, alone: bool) -> None:
        self.scene = scene
        self.world = scene.world
        self.service = service
        self.process = scene.process(f"{service.name}.{number}{'a' if alone else ''}")
        self.client = Client(scene.wire, self.process)
        self.lane = Lane(1 if alone else 2, TASKS)
        self.holding = Holding(0, {"lane": self.lane}, alone=alone)
        self.bell = Signal()
        self.waiting: deque[Held[str]] = deque()  # for one of the slots
        self.busy = 0
        self.was_away = False
        self.board: set[int] = set()  # seqs of jobs that have begun: what the supervisor can see after its death
        self.world.spawn(self.process, f"{self.process.name}/claims", self.claims())

    # What the claiming thread does

    def claims(self) -> Steps[None]:
        yield 0.5 * self.world.random.random()
        while not self.holding.is_over:
            if not self.holding.worker:
                yield from self.registers()
            requests = self.holding.requests()
            if not requests:
                yield Wait(self.bell, IMPATIENT if self.waiting else 10.0)
                self.hand_back_what_waits()
                requests = self.holding.requests() or self.holding.only_ask()
            try:
                replies = yield from self.client.ask(*requests)
            except (StoreUnavailable, OutcomeUnknown) as error:
                if isinstance(error, OutcomeUnknown):
                    self.holding.unknown()
                self.was_away = True
                yield self.scene.backoff()
                continue
            if self.was_away:
                self.was_away = False
                self.holding.look_again()
            taken, claimed = self.holding.answered(replies)
            self.start(taken)
            if self.holding.is_unsure:
                yield from self.finds_out()
            yield from self.finds_the_doubted()
            if claimed is not None:
                self.heed(claimed)
            self.hand_back_what_waits()
            if not taken and not self.holding.has_outcomes:
                due = 10.0 if claimed is None or claimed.next_due is None else claimed.next_due
                yield Wait(self.bell, min(10.0, IMPATIENT if self.waiting else due))
        self.service.has_left(self)
        self.world.kill(self.process)

    def registers(self) -> Steps[None]:
        worker = self.scene.new_worker(self.process, self.service.process)
        while True:
            try:
                yield from self.client.ask(Renew([Beat(worker, first=True)], LEASE))
            except (StoreUnavailable, OutcomeUnknown):
                yield self.scene.backoff()
                continue
            break
        self.holding.worker = worker
        self.service.watch(self, worker)

    def finds_out(self) -> Steps[None]:
        try:
            claims: list[ClaimedJob] = yield from self.client.find(HeldBy(self.holding.worker))
        except StoreUnavailable:
            yield self.scene.backoff()
            return
        self.start(self.holding.found(claims))

    def finds_the_doubted(self) -> Steps[None]:
        became = []
        try:
            for doubt in self.holding.doubted():
                [record] = yield from self.client.find(ByIds([doubt.held.job.id]))
                attempts = []
                if doubt.needs_attempts(record):
                    attempts = yield from self.client.find(Attempts(doubt.held.job.id))
                became.append(doubt.became(record, attempts))
        except StoreUnavailable:
            yield self.scene.backoff()
            return
        self.holding.proved(became)

    def heed(self, claimed: Claimed) -> None:
        if not claimed.known:
            self.lose(self.holding.worker)
        for seq, token, reason in claimed.cancels:
            self.revoke(seq, token, reason)

    def hand_back_what_waits(self) -> None:
        for held in list(self.waiting):
            if self.world.now - held.since >= IMPATIENT:
                self.holding.is_slow("lane", IMPATIENT)
                self.give_back(held)

    def give_back(self, held: Held[str]) -> None:
        self.waiting.remove(held)
        self.holding.ended(held, settlement(held.job, Outcome.RELEASE))

    # What the supervisor says

    def lose(self, worker: int) -> None:
        if worker == self.holding.worker:
            self.waiting.clear()
            for held in self.holding.forget_all(0):
                held.cause = "lost"
            self.world.fire(self.bell)

    def revoke(self, seq: int, token: int, reason: str) -> None:
        held = self.holding.find(seq, token)
        if held is not None and held.cause is None:
            held.cause, held.reason = "cancel", reason
            if held in self.waiting:
                self.waiting.remove(held)
                self.holding.ended(held, settlement(held.job, Outcome.CANCELLED, reason=reason))

    def drain(self) -> None:
        self.holding.close()
        for held in list(self.waiting):
            self.give_back(held)
        self.world.fire(self.bell)

    # The jobs

    def start(self, taken: Sequence[Held[str]]) -> None:
        for held in taken:
            held.since = self.world.now
            self.waiting.append(held)
        self.pump()

    def pump(self) -> None:
        while self.waiting and self.busy < self.lane.slots:
            held = self.waiting.popleft()
            self.busy += 1
            self.world.spawn(self.process, f"{self.process.name}/{held.job.id}", self.runs(held))

    def runs(self, held: Held[str]) -> Steps[None]:
        """User code."""
        held.has_begun = True
        self.board.add(held.job.seq)
        job, plan = held.job, self.scene.plans[held.job.id]
        run = self.scene.wire.truth.begins(job, self.process)
        ran = len(self.scene.wire.truth.jobs[job.id].runs)
        until = self.world.now + plan.seconds
        self.world.say(self.process.name, f"begins {job.id} ({job.token})")
        while self.world.now < until and held.cause is None:
            yield min(5.0, until - self.world.now)
        end = plan.end_of(ran)
        if end == "kill":
            self.world.kill(self.process)
            return
        run.runs, run.is_whole = False, held.cause is None
        self.world.say(self.process.name, f"ends {job.id} ({job.token}): {held.cause or end}")
        self.busy -= 1
        self.board.discard(job.seq)
        if held.cause is not None:
            self.holding.ended(held, settlement(job, Outcome.CANCELLED, reason=held.reason or held.cause))
        else:
            self.holding.ended(held, settlement(job, Outcome(end)))
        self.pump()
        self.world.fire(self.bell)


def settlement(job: ClaimedJob, outcome: Outcome, reason: str = "") -> Settlement:
    error = Error("ValueError", "oops", "", "oops") if outcome in (Outcome.FAILED, Outcome.RETRY) else None
    result = str(job.token).encode() if outcome is Outcome.DONE else None
    delay = 3.0 if outcome in (Outcome.RETRY, Outcome.SNOOZE) else 0.0
    return Settlement(job.seq, job.token, outcome, result, error, delay, reason, ran=0.1)


class Service:
    """A supervisor and its children: it keeps their leases, hands back the jobs of the dead, and sweeps."""

    def __init__(self, scene: Scene) -> None:
        scene.services += 1
        self.scene = scene
        self.world = scene.world
        self.name = f"s{scene.services}"
        self.process = scene.process(self.name)
        self.client = Client(scene.wire, self.process)
        self.bell = Signal()
        self.keeping = Keeping(LEASE, Prune())
        self.watched: dict[int, Child] = {}
        self.children: list[Child] = []
        self.is_stopping = False
        self.left: set[Child] = set()
        self.process.when_dead.append(self.dies)
        for number in range(1, 3):
            self.start_child(number)
        self.start_child(0, alone=True)
        self.world.spawn(self.process, f"{self.name}/keeps", self.keeps())

    def start_child(self, number: int, *, alone: bool = False) -> None:
        if self.is_stopping:
            return
        child = Child(self.scene, self, number, alone=alone)
        self.children.append(child)
        notice: Callable[[], None] = lambda: self.world.spawn(  # noqa: E731
            self.process, f"{self.name}/buries", self.buries(child, number, alone), self.world.random.random()
        )
        child.process.when_dead.append(notice)

    def dies(self) -> None:
        """Its children end with it; after a while there is another."""
        for child in self.children:
            self.world.kill(child.process)
        self.world.spawn(NOBODY, "init", another(self.scene), 40.0 * self.world.random.random())

    # From its children

    def watch(self, child: Child, worker: int) -> None:
        self.watched[worker] = child
        self.keeping.watch(worker)
        if self.is_stopping:
            child.drain()

    def has_left(self, child: Child) -> None:
        self.left.add(child)

    def buries(self, child: Child, number: int, alone: bool) -> Steps[None]:
        """A child has ended: its jobs go back, and it is replaced."""
        self.children.remove(child)
        for worker in [worker for worker, it in self.watched.items() if it is child]:
            del self.watched[worker]
            began = frozenset[int]() if child in self.left else frozenset(child.board)
            self.keeping.died(Death(worker, "killed", began), leaves_jobs=child not in self.left)
        self.world.fire(self.bell)
        if child not in self.left:
            yield 2.0 * self.world.random.random()
            self.start_child(number, alone=alone)

    # The keeper

    def keeps(self) -> Steps[None]:
        is_away = False
        while True:
            if self.is_stopping and not self.children:
                self.keeping.close()
            if self.keeping.is_over(store_is_away=is_away):
                return
            request = self.keeping.next(self.world.now)
            if request is None:
                yield Wait(self.bell, max(0.0, self.keeping.due - self.world.now))
                continue
            try:
                [reply] = yield from self.client.ask(request)
            except (StoreUnavailable, OutcomeUnknown):
                is_away = True
                yield Wait(self.bell, self.scene.backoff())
                continue
            is_away = False
            self.keeping.answered(reply)
            if isinstance(reply, Renewed):
                self.heeds(reply)

    def heeds(self, renewed: Renewed) -> None:
        for worker in renewed.lost:
            child = self.watched.pop(worker, None)
            if child is not None and child.process.is_alive:
                child.lose(worker)
        for worker, seq, token, reason in renewed.cancels:
            if worker in self.watched and self.watched[worker].process.is_alive:
                self.watched[worker].revoke(seq, token, reason)

    def stops(self) -> None:
        """As on SIGTERM, with time enough."""
        self.world.say(self.name, "is asked to stop")
        self.is_stopping = True
        for child in self.children:
            child.drain()


NOBODY = Process("nobody", can_fail=False)


def another(scene: Scene) -> Steps[None]:
    Service(scene)
    yield 0.0


def rolling(scene: Scene, first: Service) -> Steps[None]:
    """A deployment: a new service comes, the old one is asked to stop."""
    yield 60.0 * scene.world.random.random()
    Service(scene)
    if first.process.is_alive:
        first.stops()
