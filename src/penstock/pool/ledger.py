"""The books of a pool: how many jobs were accepted, what became of each, and who wants to know."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from penstock import timers
from penstock.events import Event
from penstock.failures import Failures
from penstock.job import Job, JobState

log = logging.getLogger("penstock.pool")

_UNOBSERVED_KEPT = 1_000  # failed jobs that are held until the block ends, if it is to raise them

Observer = Callable[[Event], object]


class Ledger:
    """Counts of one pool that balance: accepted = done + failed + cancelled + killed + abandoned, once all has ended.

    *numbers* hands out the jobs' numbers, and so counts the accepted ones without a lock. Jobs that return are counted
    by their workers (each its own number, written by nobody else); every other outcome is counted here.
    Lock: `_lock` guards every field that is written here; a leaf. Observers are called without it.
    """

    def __init__(self, pool: str, *, keep_unobserved: bool) -> None:
        self.pool = pool
        self.failures = Failures(pool)
        self.numbers = itertools.count(1)
        self.observers: tuple[Observer, ...] = ()  # replaced, never changed
        self._lock = threading.Lock()
        self._withdrawn = 0  # numbers given to jobs that were refused after all
        self._counts = dict.fromkeys(JobState, 0)
        self._cut = 0
        self.ended = 0  # jobs counted here whose waiters were told; written with _lock
        self._unobserved: OrderedDict[Job[Any], None] | None = OrderedDict() if keep_unobserved else None

    @property
    def accepted(self) -> int:
        # The repr of a count is the one way to read it without advancing it: "count(7)" has handed out 1 to 6.
        # The withdrawn first: read after, one more that came and went in between would make the rest look ended.
        withdrawn = self._withdrawn
        return int(repr(self.numbers)[6:-1]) - 1 - withdrawn

    def withdraw(self) -> None:
        """A number was handed out, but the job was not accepted."""
        with self._lock:
            self._withdrawn += 1

    def count(self, state: JobState, number: int = 1, *, cut: bool = False) -> None:
        """*number* more jobs ended as *state*; *cut*: because the pool had to stop."""
        with self._lock:
            self._counts[state] += number
            if cut:
                self._cut += number

    def one_ended(self) -> None:
        """A job that was counted here has told its waiters: a stop may be over now, not before."""
        with self._lock:
            self.ended += 1

    def counts(self) -> tuple[dict[JobState, int], int]:
        """How many ended as what, without those that workers count themselves; and how many of them a stop cut."""
        with self._lock:
            return dict(self._counts), self._cut

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell *observer* every event from now on; returns a function that ends this."""
        if not callable(observer):
            raise TypeError(f"an observer must be callable, not {observer!r}")
        with self._lock:
            self.observers = (*self.observers, observer)

        def stop() -> None:
            with self._lock:
                self.observers = tuple(other for other in self.observers if other is not observer)

        return stop

    def tell(self, event: Event) -> None:
        """Tell all observers, on a thread of their own if this one keeps the time. What they raise is logged."""
        if timers.on_timers_thread():
            timers.hand_over(functools.partial(self._tell, event))
        else:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer of pool %r raised", self.pool)

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
        self.failures = Failures(self.pool)
