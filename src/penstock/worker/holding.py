"""What one worker holds, and what it asks for next: the rules of claiming, without a thread, a clock or a pool.

    claim ──> [held] ──begins, ends──> [outbox] ──settle + next claim, in one step──> gone
                 │                         ^  │
                 └── handed back unbegun ──┘  └── the store doesn't answer: stays, and is sent again

    the answer to a claim never comes ──> next, a claim of nothing ──answered──> what the store says is held here

A job is in `_held` from the claim's answer until its outcome was answered. `ended` alone may be called from any thread;
all else belongs to the one that talks to the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from penstock.engines.records import Attempt, Record
from penstock.engines.requests import Claim, Claimed, ClaimedJob, Outcome, Reply, Request, Settle, Settlement, Want
from penstock.job import JobState
from penstock.worker.board import Account

K = TypeVar("K")

_SOON: Final = 0.02  # seconds: what is claimed ahead should begin within that
_MOST_AHEAD: Final = 512
_BYTES: Final = 8 * 1024 * 1024  # of results that are told in one step, about
_WEIGHT: Final = 0.2  # of the last job in the mean of how long they run
_CRASHED: Final = Outcome.CRASHED  # looking up an enum's member costs as much as the rest of a step
_ENDS: Final = {JobState.FAILED: Outcome.FAILED, JobState.CANCELLED: Outcome.CANCELLED}


@dataclass(eq=False, slots=True)
class Held(Generic[K]):
    """A claimed job. *cause*: why it was asked to end, if it was: "stop", "cancel" or "lost"; *reason* in words."""

    job: ClaimedJob
    lane: K
    has_begun: bool = False
    has_completed: bool = False  # by itself, in a transaction of its own: it may be done already
    was_told: bool = False  # how it ended, and the answer never came: it may be settled already
    is_lost: bool = False  # somebody else's by now, whatever it still comes to here
    since: float = 0.0  # monotonic: when it was claimed; set by whoever has a clock
    cause: str | None = None
    reason: str = ""
    slots: list[int] = field(default_factory=list)  # of the board; whoever pops it gives it back
    running: Any = None  # the job of a pool that runs it


class Doubt(NamedTuple):
    """An outcome of which the store's answer doesn't say what it came to; what is on record does.

    *is_current*: it was taken: a crash, which ends a job or lets it run again. Otherwise it was refused, and either the
    job is somebody else's, or it was settled before by this very claim.
    """

    held: Held[Any]
    settlement: Settlement
    is_current: bool

    def needs_attempts(self, record: Record | None) -> bool:
        """Whether *record* of the job doesn't say it, and its attempts have to be looked at."""
        return record is not None and not self.is_current and not self._is_done(record)

    def became(self, record: Record | None, attempts: Sequence[Attempt]) -> Outcome | None:
        """What it came to; None if the job is somebody else's."""
        outcome, token = self.settlement.outcome, self.settlement.token
        if record is None:
            return outcome if self.is_current else None
        if self._is_done(record):
            return Outcome.DONE
        if not self.is_current and not any((its.token, its.outcome) == (token, outcome) for its in attempts):
            return None
        if outcome is Outcome.CRASHED and record.token == token and record.state in _ENDS:
            return _ENDS[record.state]
        return outcome

    def _is_done(self, record: Record) -> bool:
        return record.state is JobState.DONE and record.token == self.settlement.token


@dataclass(slots=True)
class Lane:
    """What can run at once of one kind of tasks, and how many of its jobs are held."""

    slots: int
    tasks: frozenset[str]
    held: int = 0
    mean: float | None = None  # seconds that its jobs ran, lately; None until one did

    def room(self) -> int:
        """How many more jobs can begin soon."""
        ahead = 0 if self.mean is None else min(_MOST_AHEAD, int(self.slots * _SOON / max(self.mean, 1e-6)))
        return max(0, self.slots + ahead - self.held)

    def ran(self, seconds: float) -> None:
        """One of its jobs ran so long."""
        self.mean = seconds if self.mean is None else self.mean + _WEIGHT * (seconds - self.mean)


class Holding(Generic[K]):
    """The jobs of *worker*. *alone*: it takes suspects, one at a time, and nothing else."""

    def __init__(
        self, worker: int, lanes: Mapping[K, Lane], queues: Sequence[str] | None = None, *, alone: bool = False
    ) -> None:
        self.worker = worker
        self._lanes = {kind: lane for kind, lane in lanes.items() if lane.tasks}
        self._queues = queues
        self._alone = alone
        self._held: dict[tuple[int, int], Held[K]] = {}  # by seq and token
        self._outbox: deque[tuple[Held[K], Settlement]] = deque()
        self._sent: list[tuple[Held[K], Settlement]] = []  # asked to be settled, and not answered
        self._asked: Claim | None = None
        self._is_unsure = False
        self._is_to_look = False  # as well, but nothing rests on it
        self._is_open = True
        self.counts: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.stale = 0  # outcomes that were refused: the job was somebody else's by then
        self._doubted: list[Doubt] = []

    # Any thread

    def ended(self, held: Held[K], settlement: Settlement) -> None:
        """The attempt of *held* has ended, or was given up before it began."""
        self._outbox.append((held, settlement))

    @property
    def has_outcomes(self) -> bool:
        """Whether there is something to settle."""
        return bool(self._outbox or self._sent)

    # The one that talks to the store

    def close(self) -> None:
        """Claim nothing more."""
        self._is_open = False

    @property
    def is_over(self) -> bool:
        """Whether it is closed, holds nothing, and has nothing to tell."""
        return not (self._is_open or self._held or self.has_outcomes or self._is_unsure or self._doubted)

    def held(self) -> list[Held[K]]:
        """The jobs that it holds, and whose outcome is not known yet."""
        telling = {id(held) for held, _ in (*self._sent, *self._outbox)}
        return [held for held in self._held.values() if id(held) not in telling]

    def requests(self) -> list[Request]:
        """What to ask of the store now, in one step; empty if there is nothing. Results that are large take several."""
        size = sum(len(settlement.result or b"") for _, settlement in self._sent)
        while self._outbox and size < _BYTES:
            held, settlement = self._outbox.popleft()
            if held.is_lost:
                continue  # in another store, under the same name, its numbers may be those of another job
            self._sent.append((held, settlement))
            size += len(settlement.result or b"")
            if settlement.outcome is Outcome.DONE or settlement.ran:
                self._lanes[held.lane].ran(settlement.ran)
        asked: list[Request] = []
        if self._sent:
            asked.append(Settle([settlement for _, settlement in self._sent]))
        self._asked = self._nothing() if self._is_unsure else self._claim()
        if self._asked is not None:
            asked.append(self._asked)
        return asked

    def only_ask(self) -> list[Request]:
        """A claim of nothing: whoever has no room still wants to hear what was cancelled."""
        self._asked = self._nothing()
        return [self._asked]

    def _nothing(self) -> Claim:
        return Claim(self.worker, self._queues, [Want(lane.tasks, 0) for lane in self._lanes.values()])

    def unknown(self) -> None:
        """Whether the store has done what `requests` asked, nobody knows: it may have given jobs, or give them yet.

        Outcomes are told again. Jobs are claimed no more until `found`.
        """
        self._is_unsure = self._is_unsure or self._asked is not None
        for held, _ in self._sent:
            held.was_told = True

    def look_again(self) -> None:
        """The store may be its own standby by now, or a backup, and know less than it has said.

        A job that was settled is held again then: it is to be run once more, as nobody else would while we live. Not
        to be said while something is asked.
        """
        self._is_to_look = True

    @property
    def is_unsure(self) -> bool:
        """Whether there may be jobs of its worker that it knows nothing of.

        Once the store has answered what `requests` asked after that, nothing of before is under way any more: it is
        the time to ask for `HeldBy`, and tell `found`.
        """
        return self._is_unsure or self._is_to_look

    def found(self, claims: Sequence[ClaimedJob]) -> list[Held[K]]:
        """The store says that these are held by its worker: those that it didn't know of, to be run now."""
        if not self.is_unsure:
            return []  # the lease was lost while it was asked: these are what it had under another name
        self._is_unsure = self._is_to_look = False
        lanes = [(self.lane_of(claim.task), claim) for claim in claims if self.find(claim.seq, claim.token) is None]
        return [self.take(lane, claim) for lane, claim in lanes if lane is not None]

    def _claim(self) -> Claim | None:
        if not self._is_open or (self._alone and len(self._held) > len(self._sent)):
            return None
        leaving: dict[K, int] = {}
        for held, _ in self._sent:
            leaving[held.lane] = leaving.get(held.lane, 0) + 1
        wants = []
        for kind, lane in self._lanes.items():
            lane.held -= leaving.get(kind, 0)
            wants.append(Want(lane.tasks, 1 if self._alone else lane.room()))
            lane.held += leaving.get(kind, 0)
        if not any(want.limit for want in wants):
            return None
        return Claim(self.worker, self._queues, wants, self._alone)

    def answered(self, replies: Sequence[Reply]) -> tuple[list[Held[K]], Claimed | None]:
        """The store has done what `requests` asked: the jobs that are to be run now, and the answer to the claim."""
        answers = iter(replies)
        if self._sent:
            self._settled(next(answers))
        if self._asked is None:
            return [], None
        claimed = next(answers)
        assert isinstance(claimed, Claimed)
        taken = [self.take(kind, job) for kind, jobs in zip(self._lanes, claimed.jobs, strict=True) for job in jobs]
        return taken, claimed

    def _settled(self, current: Reply) -> None:
        assert isinstance(current, list)
        for (held, settlement), is_current in zip(self._sent, current, strict=True):
            outcome = settlement.outcome
            if is_current and outcome is not _CRASHED:
                self.counts[outcome] += 1
            elif is_current or held.has_completed or held.was_told:
                self._doubted.append(Doubt(held, settlement, bool(is_current)))
            else:
                self.stale += 1
            self._let_go(held)
        self._sent.clear()

    def doubted(self) -> list[Doubt]:
        """What has to be looked up; what it `became` is to be told to `proved`."""
        return list(self._doubted)

    def proved(self, became: Sequence[Outcome | None]) -> None:
        """What became of the `doubted` ones."""
        for outcome in became:
            if outcome is None:
                self.stale += 1
            else:
                self.counts[outcome] += 1
        del self._doubted[: len(became)]

    def account(self) -> Account:
        """The accounts, as they stand."""
        counts = self.counts
        return Account(
            done=counts[Outcome.DONE],
            failed=counts[Outcome.FAILED],
            cancelled=counts[Outcome.CANCELLED],
            again=counts[Outcome.RETRY] + counts[Outcome.SNOOZE] + counts[Outcome.CRASHED],
            released=counts[Outcome.RELEASE],
            stale=self.stale,
            held=len(self._held),
        )

    def is_slow(self, kind: K, seconds: float) -> None:
        """Jobs of *kind* have waited here so long for their turn: claim no more ahead of time."""
        lane = self._lanes[kind]
        lane.mean = max(lane.mean or 0.0, seconds)

    def take(self, kind: K, job: ClaimedJob) -> Held[K]:
        """Hold *job*."""
        held = Held(job, kind)
        self._held[job.seq, job.token] = held
        self._lanes[kind].held += 1
        return held

    def lane_of(self, task: str) -> K | None:
        """The kind whose tasks *task* is one of."""
        return next((kind for kind, lane in self._lanes.items() if task in lane.tasks), None)

    def find(self, seq: int, token: int) -> Held[K] | None:
        """The job of that claim, if it is held."""
        return self._held.get((seq, token))

    def forget_all(self, worker: int) -> list[Held[K]]:
        """Its claims are lost, and what they come to is of no use any more. It goes on as another *worker*.

        So is the answer to what it has asked and not heard of.
        """
        lost = list(self._held.values())
        for held in lost:
            held.is_lost = True
        self._asked = None
        self._is_unsure = self._is_to_look = False
        self._held.clear()
        self._outbox.clear()
        self._sent.clear()
        for lane in self._lanes.values():
            lane.held = 0
        self.stale += len(lost)
        self.worker = worker
        return lost

    def _let_go(self, held: Held[K]) -> None:
        if self._held.pop((held.job.seq, held.job.token), None) is not None:
            self._lanes[held.lane].held -= 1
