"""What is asked of an engine, and what it answers: plain values.

Times in them are the engine's own clock, seconds; `delay` is relative to it. A *claim* of a job is named by its `seq`
and its `token`: the number of that claim, which rises with every one, so that a late owner can be told from today's.

What can't be meant (a negative delay, a number without end, text that is no Unicode; see `checks`) is refused, and then
the whole request is: nothing of it is done.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from penstock.job import JobState


class NewJob(NamedTuple):
    """A job to accept. *id* is made by the caller: asking again after an unknown outcome makes no second job."""

    id: str
    task: str
    queue: str = "default"
    priority: int = 0  # higher runs first
    args: bytes = b"{}"  # as the codec made it; the engine never looks inside
    headers: bytes | None = None
    delay: float = 0.0  # seconds until it may run; never negative
    at: float | None = None  # wall time, seconds since the epoch, in place of a delay


class Put(NamedTuple):
    """Accept *jobs*. Answer: a `Fate` for each, in their order."""

    jobs: Sequence[NewJob]


class Fate(enum.StrEnum):
    """What became of one job of a `Put`."""

    ACCEPTED = "accepted"
    KNOWN = "known"  # a job of this id is there already, waiting, running or ended; nothing was changed


class Want(NamedTuple):
    """Up to *limit* jobs of these *tasks*; of others the asker knows nothing, so they are left for those who do."""

    tasks: frozenset[str]
    limit: int


class Claim(NamedTuple):
    """Give *worker* the next jobs: of the highest priority, then in the order they became due, then as they were put.

    Scheduled jobs whose time has come are among them. *wants*: a job that fits several is given to the first of them
    that has room. *queues*: of these alone; None for all. Paused queues give nothing. *alone*: one suspect (a job that
    runs alone, since it was there when a process died), for all wants together, and nothing else; without it, no
    suspect is given. Answer: a `Claimed`. A worker that the engine doesn't know, or has given up, gets no jobs; one
    whose lease is over does, until a `Sweep` has given it up.
    """

    worker: int
    queues: Sequence[str] | None
    wants: Sequence[Want]
    alone: bool = False


class ClaimedJob(NamedTuple):
    """A job that is the asker's until its worker's lease runs out, and what it needs to run."""

    seq: int  # the engine's own number of the job: no other ever gets it, also when this one is forgotten
    token: int
    id: str
    task: str
    queue: str
    priority: int
    args: bytes
    headers: bytes | None
    attempt: int  # 1 for the first
    enqueued: float
    waited: float  # seconds between the moment it was due and this claim


class Claimed(NamedTuple):
    """Answer to a `Claim`. *jobs*: for each want, in their order. *next_due*: also when to ask again for a ready one.

    That is one which this claim might have had, and passed over as another claim had it in its hands.
    """

    jobs: Sequence[Sequence[ClaimedJob]]
    cancels: Sequence[tuple[int, int, str]] = ()  # (seq, token, reason) of all that it holds and somebody cancelled
    next_due: float | None = None  # seconds until the next scheduled job of any queue may run; None if there is none
    known: bool = True  # False: the engine doesn't know the worker (any more): its jobs are somebody else's now


class Error(NamedTuple):
    """How an attempt failed, in words: what is stored holds no code. *print* is the same for failures of one kind.

    An engine refuses text that is no Unicode, as messages with odd file names are: whoever makes an Error escapes it.
    """

    type: str
    message: str
    traceback: str
    print: str


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"  # and is not to be tried again
    CANCELLED = "cancelled"  # it obeyed, or gave up by itself; `reason` says which
    RETRY = "retry"  # it failed, and is to run again after `delay`
    SNOOZE = "snooze"  # it asked to run again after `delay`; costs no attempt
    RELEASE = "release"  # handed back, whether it had begun or not; costs no attempt, and keeps its place in the line
    CRASHED = "crashed"  # the process that ran it, and nothing else, died: runs again, alone, until the third time


class Settlement(NamedTuple):
    """How the attempt of one claim ended; nothing is changed by it if the claim is stale.

    A job that somebody cancelled meanwhile is done or failed if it says so; whatever else it says, it is cancelled.
    """

    seq: int
    token: int
    outcome: Outcome
    result: bytes | None = None  # of DONE
    error: Error | None = None  # of FAILED, RETRY and CRASHED
    delay: float = 0.0  # of RETRY and SNOOZE
    reason: str = ""  # of CANCELLED, SNOOZE and RELEASE
    ran: float = 0.0  # seconds


class Settle(NamedTuple):
    """Record these outcomes. Answer: for each, in their order, whether the claim was current; False changed nothing."""

    settlements: Sequence[Settlement]


class Beat(NamedTuple):
    """One worker's sign of life. *first* makes it known to the engine; later beats of an unknown worker are refused."""

    worker: int  # made by the caller: 63 random bits
    first: bool = False
    info: bytes = b"{}"  # of the first: JSON for people (host, process, queues)


class Renew(NamedTuple):
    """These workers live: their leases run *lease* seconds from now, also those that were over. Answer: a `Renewed`.

    It is a pulse of the store as a `Sweep` is, and half of *lease* without one is a gap.
    """

    beats: Sequence[Beat]
    lease: float


class Renewed(NamedTuple):
    """Answer to a `Renew`."""

    lost: Sequence[int]  # workers that the engine has given up: their jobs are somebody else's now
    cancels: Sequence[tuple[int, int, int, str]]  # (worker, seq, token, reason): somebody cancelled this running job


class Cancel(NamedTuple):
    """Cancel these jobs: waiting ones at once, running ones as soon as their worker hears of it.

    The first reason stays. Answer: a `Cut` for each.
    """

    ids: Sequence[str]
    reason: str = "cancelled"


class Cut(enum.StrEnum):
    """What a `Cancel` did to one job."""

    CANCELLED = "cancelled"  # it waited, and will not run
    ASKED = "asked"  # it runs; its worker will be told
    ENDED = "ended"  # too late
    UNKNOWN = "unknown"  # no job of this id


class Pause(NamedTuple):
    """Give no job of *queue* to anybody until it is resumed (*paused* False). Answer: whether that changed anything."""

    queue: str
    paused: bool = True


class Again(NamedTuple):
    """Let ended jobs run again, with all their attempts: those that match all that is given.

    *ids*: of these alone. *print*: those whose last error is of this kind. *states*: in these states; only ended ones
    count. At most *limit*, in the order they were put. What is on record of their attempts stays. Answer: how many.
    """

    ids: Sequence[str] | None = None
    print: str | None = None
    states: Sequence[JobState] = (JobState.FAILED,)
    limit: int = 1_000


class Progress(NamedTuple):
    """How far the job of a claim is. Answer: whether the claim is current; False changed nothing."""

    seq: int
    token: int
    done: float
    total: float | None = None
    note: str = ""


class Prune(NamedTuple):
    """Forget jobs that ended more than so many seconds ago, at most *limit* of each. Answer: how many."""

    done: float = 24 * 3600.0  # also cancelled ones
    failed: float = 7 * 24 * 3600.0
    limit: int = 1_000


Update: TypeAlias = Pause | Again | Progress | Prune


class Death(NamedTuple):
    """A worker that is known to have died, by whoever saw it end.

    *began*: the seqs of the jobs that had begun to run; None if nobody can tell, then all that it held. Others go back
    as if they had never been claimed. *blamed*: those of them that the death is laid to; None: the one that had begun,
    if it was alone; if there were several they become suspects instead. An empty *blamed* lays it to nobody. Nobody's
    attempts are used, all keep their places in the line, and who was a suspect before is one still. A worker that ended
    in good order is a death without jobs.
    """

    worker: int
    why: str
    began: frozenset[int] | None = None
    blamed: frozenset[int] | None = None


CRASHES: Final = 3  # deaths that are laid to a job, of which the last ends it


class Sweep(NamedTuple):
    """Take back the jobs of *deaths*, and of workers whose lease ran out; let scheduled jobs whose time came be ready.

    Of leases: only while the store itself was up. After a gap of more than *gap* seconds in its own pulse (the time of
    the last sweep or renewal) an engine waits one *lease* before it takes anything from anybody. Deaths that were seen
    are believed at once. A lease that ran out is a death of which nobody can tell what had begun. A job to which
    *crashes* deaths were laid ends as failed. Safe to repeat, and to ask from many places at once. Answer: a `Swept`.
    """

    deaths: Sequence[Death] = ()
    lease: float = 30.0
    gap: float = 15.0
    crashes: int = CRASHES


class Swept(NamedTuple):
    """Answer to a `Sweep`."""

    returned: int = 0  # jobs that are ready again
    failed: int = 0  # jobs that ended: one death too many
    lost: Sequence[int] = ()  # workers whose lease ran out; there may be more of them, for the next sweep
    due: int = 0  # scheduled jobs that became ready
    suspects: int = 0  # jobs that wait to run alone


Request: TypeAlias = Put | Claim | Settle | Renew | Cancel | Update | Sweep
"""What changes the store. One `transact` takes several, and does them all in one step."""

Reply: TypeAlias = list[Fate] | Claimed | list[bool] | Renewed | list[Cut] | bool | int | Swept
