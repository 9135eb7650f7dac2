"""The life of a durable job: the allowed moves, and what each end of an attempt means. Pure; every engine uses it.

put -> scheduled ──(its time)──> ready ──(claim)──> running ──> done | failed | cancelled
            ^                     ^  ^                 │              │
            │                     │  └── release ──────┤              │
            └──── retry, snooze ──┼───────────────────-┤              │
                                  ├── worker lost ─────┘              │
                                  └──────────── again ───────────────-┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from penstock.engines.requests import CRASHES, Death, Error, Outcome, Settlement
from penstock.job import JobState

MOVES: Final = {
    JobState.SCHEDULED: frozenset({JobState.READY, JobState.CANCELLED}),
    JobState.READY: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.READY, JobState.SCHEDULED}
    ),
    JobState.DONE: frozenset({JobState.READY}),  # all three: somebody asks for them again
    JobState.FAILED: frozenset({JobState.READY}),
    JobState.CANCELLED: frozenset({JobState.READY}),
}

ENDED: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})

LOGGED: Final = 100  # attempts on record for one job: one that snoozes for ever must not grow for ever
KINDS: Final = 10_000  # of failures that are remembered, the latest
SAMPLES: Final = 5  # jobs that are named for each


class Move(NamedTuple):
    """What becomes of a running job whose attempt ended.

    *used*: the attempt counts. *logged*: the outcome that goes on record as an `Attempt`; None for none. *crashes*:
    deaths to add. *suspect*: it runs alone from now on, until an attempt of it ends otherwise than by a death; None: as
    it was before. *keeps_place*: it was taken from its worker or handed back, so it is due as it was before; otherwise
    it is due after the settlement's delay, behind those that are ready by then.
    """

    state: JobState
    used: bool
    logged: str | None
    reason: str
    crashes: int = 0
    suspect: bool | None = False
    keeps_place: bool = False


def settled(settlement: Settlement, cancelling: str | None, crashes: int) -> Move:
    """The move of a job that was settled.

    *cancelling*: why it was cancelled meanwhile; None if it wasn't. *crashes*: deaths that were laid to it before.
    """
    outcome, reason = settlement.outcome, settlement.reason
    if outcome is Outcome.DONE:
        return Move(JobState.DONE, used=True, logged=None, reason="")
    if outcome is Outcome.FAILED:
        return Move(JobState.FAILED, used=True, logged=outcome, reason="")
    if outcome is Outcome.CANCELLED:
        return Move(JobState.CANCELLED, used=True, logged=outcome, reason=reason or cancelling or "cancelled")
    if outcome is Outcome.CRASHED:
        return died(
            began=True, alone=True, blamed=True, lost=False, crashes=crashes, limit=CRASHES, cancelling=cancelling
        )
    if cancelling is not None:  # nobody wants it to run again
        return Move(JobState.CANCELLED, used=outcome is Outcome.RETRY, logged=outcome, reason=cancelling)
    if outcome is Outcome.RELEASE:
        return Move(JobState.READY, used=False, logged=outcome, reason=reason, suspect=None, keeps_place=True)
    later = JobState.SCHEDULED if settlement.delay > 0 else JobState.READY
    return Move(later, used=outcome is Outcome.RETRY, logged=outcome, reason=reason)


def died(
    *, began: bool, alone: bool, blamed: bool | None, lost: bool, crashes: int, limit: int, cancelling: str | None
) -> Move:
    """The move of a job whose worker died, or lost its lease.

    *began*: it was running; *alone*: nothing else was; *blamed*: whether the death is laid to it (None: by *alone*);
    *crashes*: deaths that were laid to it before, of which *limit* end it. A death uses no attempt: they have a budget
    of their own.
    """
    how = "lost" if lost else "crashed"
    if cancelling is not None:
        return Move(JobState.CANCELLED, used=False, logged=how if began else None, reason=cancelling)
    if not began:
        return Move(JobState.READY, used=False, logged=None, reason="", suspect=None, keeps_place=True)
    is_guilty = alone if blamed is None else blamed
    if is_guilty and crashes + 1 >= limit:
        return Move(JobState.FAILED, used=False, logged=how, reason="", crashes=1)
    return Move(
        JobState.READY,
        used=False,
        logged=how,
        reason="",
        crashes=int(is_guilty),
        suspect=True if is_guilty or blamed is None else None,
        keeps_place=True,
    )


class Victim(NamedTuple):
    """A job that a dead worker held. *crashes*: deaths laid to it before. *cancelling*: as of `settled`."""

    seq: int
    crashes: int
    cancelling: str | None


def taken_back(death: Death, held: Sequence[Victim], *, lost: bool, limit: int) -> list[Move]:
    """The move of each job of a worker that died. *lost*: nobody saw that, its lease ran out. *limit*: as of `died`."""
    began = {job.seq for job in held} if death.began is None else death.began
    ran = sum(job.seq in began for job in held)
    return [
        died(
            began=job.seq in began,
            alone=ran == 1,
            blamed=None if death.blamed is None else job.seq in death.blamed,
            lost=lost,
            crashes=job.crashes,
            limit=limit,
            cancelling=job.cancelling,
        )
        for job in held
    ]


def laid_to_it(move: Move, death: Death, task: str) -> Error | None:
    """What a job of *task* fails with, if *move* lays *death* to it."""
    return Error("WorkerDied", death.why, "", f"WorkerDied {task}") if move.crashes else None
