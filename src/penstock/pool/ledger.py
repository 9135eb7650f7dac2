"""The books of a pool: how many jobs were accepted, what became of each, and who wants to know."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from penstock import clock, timers
from penstock.events import Event
from penstock.failures import Failures
from penstock.job import Job, JobState

log = logging.getLogger("penstock.pool")

_UNOBSERVED_KEPT: Final = 1_000  # failed jobs that are held until the block ends, if it is to raise them
_RECENT: Final = 512  # jobs per worker whose times make the percentiles
ALL_OF_FIRST: Final = 512  # as long as a worker has done fewer jobs, all are among them;
ONE_IN: Final = 8 - 1  # after that one in eight: a mask, and how many are left out

Observer = Callable[[Event], object]


class Tally:
    """What one worker did. Written by its thread alone, read by anybody."""

    __slots__ = ("done", "ended", "skip", "times")

    def __init__(self) -> None:
        self.done = 0  # jobs that returned
        self.ended = 0  # the same, counted once their waiters were told
        self.skip = 0  # jobs whose times are left out before the next that is a sample: counting down is cheap
        # Of each of the last jobs when it was accepted, began and ended, as `Job` has them: put in by one step, so that
        # a copy never holds a part of a job's.
        self.times: deque[float] = deque(maxlen=3 * _RECENT)

    def sample(self, since: float, began: float, ended: float) -> None:
        """Keep the times of a job, which `skip` doesn't leave out."""
        self.times.extend((since, began, ended))
        if self.done >= ALL_OF_FIRST:
            self.skip = ONE_IN


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    """One call of `observe`: the same observer may be there twice."""

    observer: Observer


class Ledger:
    """Counts of one pool that balance: accepted = done + failed + cancelled + killed + abandoned, once all has ended.

    *numbers* hands out the jobs' numbers, and so counts the accepted ones without a lock; *told* counts likewise those
    that have an outcome here and whose waiters were told. Jobs that return are counted by their workers, each in a
    tally of its own; every other outcome is counted here.
    Lock: `_lock` guards every field that is written here; a leaf. Observers are called without it.
    """

    def __init__(self, pool: str, *, keep_unobserved: bool, log_failures: bool = True) -> None:
        self.pool = pool
        self.failures = Failures(pool, quiet=not log_failures)
        self.numbers = itertools.count(1)
        self.observers: tuple[_Subscription, ...] = ()  # replaced, never changed
        self._handed_over = timers.InOrder(self._tell)  # by threads that must not block
        self._lock = threading.Lock()
        self._tallies: set[Tally] = set()
        self._past = Tally()  # the times of workers that have left
        self._accepted_at_end: int | None = None  # set once the accounts balance for good
        self._withdrawn = 0  # numbers given to jobs that were refused after all
        self._counts = dict.fromkeys(JobState, 0)
        self.told = itertools.count()  # advanced for each job counted here whose waiters were told: in one step
        self._ended = 0  # jobs of workers that have left, and those given up: to be added to these
        self._cut = 0
        self._given_up = 0  # jobs that count as abandoned, since nobody seemed to have them
        self._unobserved: OrderedDict[Job[Any], None] | None = OrderedDict() if keep_unobserved else None

    @property
    def accepted(self) -> int:
        """How many jobs were accepted, ever."""
        return self._counted() if self._accepted_at_end is None else self._accepted_at_end

    def _counted(self) -> int:
        # The withdrawn first: read after, one more that came and went in between would make the rest look ended.
        withdrawn = self._withdrawn
        return _handed_out(self.numbers) - 1 - withdrawn

    def withdraw(self) -> None:
        """A number was handed out, but the job was not accepted."""
        with self._lock:
            self._withdrawn += 1

    def open_tally(self) -> Tally:
        """A tally for one worker."""
        tally = Tally()
        with self._lock:
            self._tallies.add(tally)
        return tally

    def close_tally(self, tally: Tally) -> None:
        """Its worker has left; what it counted is kept. Safe to repeat."""
        with self._lock:
            if tally in self._tallies:
                self._tallies.discard(tally)
                self._counts[JobState.DONE] += tally.done
                self._ended += tally.ended
                self._past.times.extend(tally.times)

    def count(self, state: JobState, *, cut: bool = False) -> None:
        """One more job ends as *state*; *cut*: because the pool had to stop."""
        with self._lock:
            if self._given_up:  # somebody had it after all
                self._abandon(-1)
            self._counts[state] += 1
            self._cut += cut

    def one_ended(self) -> None:
        """A job that was counted here has told its waiters: only now may a stop be over."""
        next(self.told)

    def give_up_missing(self) -> int:
        """Count as abandoned what has no outcome; how many. Asked when no job waits or runs, nor is accepted."""
        with self._lock:
            missing = max(0, self.accepted - self._outcomes())
            self._abandon(missing)
        return missing

    def _outcomes(self) -> int:
        return sum(self._counts.values()) + sum(tally.done for tally in self._tallies)

    def _abandon(self, jobs: int) -> None:
        self._given_up += jobs
        self._counts[JobState.ABANDONED] += jobs
        self._cut += jobs
        self._ended += jobs

    def balances(self) -> bool:
        """Whether every accepted job has its outcome, and its waiters know. Asked when no more are accepted.

        True stays true: a number that is taken later is withdrawn, and doesn't count even for the moment until it is.
        """
        with self._lock:
            if self._accepted_at_end is None:
                ended = _handed_out(self.told) + self._ended + sum(tally.ended for tally in self._tallies)
                if ended != self._counted():
                    return False
                self._accepted_at_end = ended
                # Counted comes before ended, unless a signal's handler has raised in between.
                self._counts[JobState.ABANDONED] += max(0, ended - self._outcomes())
            return True

    def counts(self) -> tuple[dict[JobState, int], int]:
        """How many jobs ended as what, and how many of them a stop cut short."""
        with self._lock:
            counts = dict(self._counts)
            counts[JobState.DONE] += sum(tally.done for tally in self._tallies)
            return counts, self._cut

    def times(self) -> tuple[list[float], list[float]]:
        """Seconds that the last jobs of each worker waited and ran, both in rising order."""
        with self._lock:
            tallies = [self._past, *self._tallies]
        times = [list(tally.times.copy()) for tally in tallies]
        waits = sorted(max(0.0, began - since) for of in times for since, began in zip(of[::3], of[1::3], strict=True))
        runs = sorted(ended - began for of in times for began, ended in zip(of[1::3], of[2::3], strict=True))
        return waits, runs

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell *observer* every event from now on; returns a function that ends this."""
        if not callable(observer):
            raise TypeError(f"an observer must be callable, not {observer!r}")
        subscription = _Subscription(observer)
        with self._lock:
            self.observers = (*self.observers, subscription)

        def stop() -> None:
            with self._lock:
                self.observers = tuple(other for other in self.observers if other is not subscription)

        return stop

    def tell(self, event: Event) -> None:
        """Tell all observers. What they raise is logged."""
        if timers.must_not_block():
            self._handed_over.put(event)
        else:
            self._tell(event)

    def wait_told(self, timeout: float) -> None:
        """Return when the observers and the log were told all that was handed over, or after *timeout* seconds."""
        until = clock.monotonic() + timeout
        self._handed_over.wait(timeout)
        self.failures._lines.wait(max(0.0, until - clock.monotonic()))

    def _tell(self, event: Event) -> None:
        for subscription in self.observers:
            try:
                subscription.observer(event)
            except BaseException:  # a SystemExit, too: it must not take a worker along
                log.exception("an observer of pool %r raised", self.pool, extra={"pool": self.pool})

    def failed(self, job: Job[Any]) -> None:
        """Remember that nobody has seen yet how *job* failed."""
        if self._unobserved is None:
            return
        with self._lock:
            if len(self._unobserved) < _UNOBSERVED_KEPT:
                self._unobserved[job] = None

    def observed(self, job: Job[Any]) -> None:
        """Somebody has seen how *job* failed."""
        if self._unobserved:
            with self._lock:
                self._unobserved.pop(job, None)

    def take_unobserved(self) -> list[Job[Any]]:
        """The failed jobs that nobody looked at, at most the first thousand; they are forgotten here."""
        if not self._unobserved:
            return []
        with self._lock:
            jobs = list(self._unobserved)
            self._unobserved.clear()
        return jobs

    def start_afresh(self) -> None:
        """In the child of a fork: the locks may be in any state."""
        self._lock = threading.Lock()
        self._handed_over.start_afresh()
        self.failures.start_afresh()


def _handed_out(numbers: itertools.count[int]) -> int:
    """The next of *numbers*: its repr is the one way to read a count without advancing it."""
    return int(repr(numbers)[6:-1])
