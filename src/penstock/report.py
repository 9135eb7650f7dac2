"""What became of every job: the accounts of a pool, and the jobs that had to be left running."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StuckJob:
    """A job whose thread still runs although the job has its outcome.

    *outcome*: "overran" (it failed with `DeadlineExceeded`) or "abandoned" (its pool had to stop). *ran*: seconds so
    far. *stack*: where it stood when this was made, innermost call last.
    """

    id: int | str
    name: str
    worker: str
    ran: float
    stack: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Report:
    """The accounts of a pool at one moment.

    Once it is closed nothing waits or runs, and accepted = done + failed + cancelled + killed + abandoned.

    *waiting* counts jobs that no worker has started, *retrying* those between two attempts. *cut*: jobs that a stop
    cancelled, killed or abandoned, as opposed to those that somebody cancelled by hand. *seconds*: how long the stop
    has taken, of its *budget* (None: no limit). *stuck*: what is still running although it should not.
    """

    pool: str
    accepted: int
    done: int
    failed: int
    cancelled: int
    killed: int
    abandoned: int
    waiting: int
    running: int
    retrying: int
    cut: int
    closing: bool
    closed: bool
    seconds: float
    budget: float | None
    stuck: tuple[StuckJob, ...]

    @property
    def ended(self) -> int:
        """How many accepted jobs have their outcome."""
        return self.done + self.failed + self.cancelled + self.killed + self.abandoned

    @property
    def balanced(self) -> bool:
        """Whether every accepted job has exactly one outcome; between two moments of an open pool it may be untrue."""
        return self.accepted == self.ended and not (self.waiting or self.running or self.retrying)

    @property
    def ok(self) -> bool:
        """Whether every accepted job ran to its own end, well or not, and nothing was left running."""
        return self.balanced and not (self.cut or self.killed or self.abandoned or self.stuck)

    @property
    def exit_code(self) -> int:
        """0 if `ok`, else 1: for `sys.exit`."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        parts = [f"{self.done} done"]
        for count, word in (
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
            (self.killed, "killed"),
            (self.abandoned, "abandoned"),
            (self.waiting, "waiting"),
            (self.retrying, "waiting for another attempt"),
            (self.running, "running"),
        ):
            if count:
                parts.append(f"{count} {word}")
        overran = sum(stuck.outcome == "overran" for stuck in self.stuck)
        if overran:
            parts.append(f"{overran} overran, still running")
        accounts = f"{self.accepted} accepted: {', '.join(parts)}"
        if not self.closed:
            return f"pool {self.pool!r} is {'stopping' if self.closing else 'open'}; {accounts}"
        budget = "" if self.budget is None else f" of {self.budget:.6g} s"
        return f"pool {self.pool!r} stopped in {self.seconds:.2f} s{budget}; {accounts}"


@dataclass(frozen=True, slots=True)
class Stats:
    """What a pool is doing now, and how it did lately.

    Counts as in `Report`. *oldest_queued*: seconds that the first waiting job has waited, 0 if none waits. *waited_*
    and *ran_*: seconds, percentiles over the last jobs that each worker ended; None before the first.
    """

    queued: int
    running: int
    retrying: int
    workers: int
    accepted: int
    done: int
    failed: int
    cancelled: int
    killed: int
    abandoned: int
    oldest_queued: float
    waited_p50: float | None
    waited_p99: float | None
    ran_p50: float | None
    ran_p99: float | None
