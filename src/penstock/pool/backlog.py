"""The jobs that no worker has started: four rooms, and the one way out of each.

    queue      accepted, each holds a place; at most the backlog's size
    lines      the inputs of a `map` that found no place; they move up into the queue
    retrying   wait for the time of their next attempt
    due        their time has come; they hold no place, and go before the queue

A job is in at most one room. Taking it out is one atomic step, and whoever did it owns the job's next move: a worker
that runs it, somebody who cancels it, the timers at its deadline. `deque.popleft` and `deque.remove` are atomic under
the GIL and, by the lock of each object, in free-threaded builds (a Job compares by identity, so that no Python code
runs inside `remove`).
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from penstock import clock, timers
from penstock.job import FINAL, Job, JobState
from penstock.pool.lines import Line
from penstock.pool.places import Places


class Backlog:
    """The waiting jobs of one pool.

    *wake*: called after a job was added, to see that somebody runs it. Invariant: a job is put into `queue` only with a
    place in hand, and the place is given back when the job leaves; so len(queue) <= the number of places.
    Lock: `_lock` guards `_retrying` and `_lines`; only the timers' lock is taken inside. `queue` and `due` need none.
    """

    def __init__(self, size: int, wake: Callable[[], None]) -> None:
        self.places = Places(size)
        self.queue: deque[Job[Any]] = deque()
        self.due: deque[Job[Any]] = deque()
        self._wake = wake
        self._lock = threading.Lock()
        self._retrying: dict[Job[Any], timers.Timer] = {}
        self._lines: tuple[Line, ...] = ()  # replaced, never changed

    @property
    def retrying(self) -> int:
        """How many jobs wait for the time of their next attempt."""
        return len(self._retrying)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        return len(self.queue) + len(self.due) + sum(len(line.jobs) for line in self._lines)

    def put(self, job: Job[Any]) -> None:
        """Add *job*, whose place the caller holds, and wake somebody for it."""
        self.queue.append(job)
        self._wake()

    def put_in_line(self, job: Job[Any], line: Line) -> None:
        """Let *job* wait in *line*, and move up when it is its turn and a place is free."""
        line.add(job)
        with self._lock:
            if line not in self._lines:
                self._lines = (*(other for other in self._lines if other.jobs), line)
        line.line_up()

    def put_retry(self, job: Job[Any], delay: float) -> None:
        """Keep *job* until *delay* seconds have passed, then have it run before the others."""
        with self._lock:
            job._stage = JobState.SCHEDULED
            try:
                timer = timers.call_at(clock.monotonic() + delay, functools.partial(self._is_due, job))
            except RuntimeError:  # the interpreter is ending, and nobody can keep the time any more
                self._put_due(job)
            else:
                self._retrying[job] = timer
                return
        self._wake()

    def take_out(self, job: Job[Any]) -> bool:
        """Take *job* out of the room that it waits in: from here on it is the caller's. False if it is in none.

        Takes time in proportion to its place in the queue.
        """
        if job._stage is JobState.RUNNING or job._stage in FINAL:
            return False
        placed = self.remove(job)
        if placed is not None:
            if placed:
                self.places.give()
            return True
        with self._lock:
            timer = self._retrying.pop(job, None)
        if timer is not None:
            timer.cancel()
            return True
        return any(line.take_out(job) for line in self._lines)

    def remove(self, job: Job[Any]) -> bool | None:
        """Remove *job* from the two rooms that workers take from; None if it is in neither.

        True: it held a place, which the caller has to give back. Takes no lock, and calls nobody.
        """
        if job._stage is not JobState.READY:
            return None
        if _remove(self.queue, job):
            return True
        return False if _remove(self.due, job) else None

    def take_all(self) -> list[Job[Any]]:
        """Take every job out of its room."""
        with self._lock:
            retrying, self._retrying = self._retrying, {}
            lines, self._lines = self._lines, ()
        taken = list(retrying)
        for timer in retrying.values():
            timer.cancel()
        for line in lines:  # before the queue, whose places would bring their jobs in
            taken += line.take_all()
        taken += _empty(self.due)
        for job in _empty(self.queue):
            taken.append(job)
            self.places.give()
        return taken

    def oldest(self) -> float:
        """Seconds that the first job of the queue has waited; 0 if it is empty."""
        try:
            return clock.monotonic() - self.queue[0]._since
        except IndexError:
            return 0.0

    def start_afresh(self) -> None:
        """In the child of a fork: the lock may be in any state, and what waits is the parent's to run."""
        self._lock = threading.Lock()
        self._retrying = {}
        self._lines = ()
        self.queue.clear()
        self.due.clear()
        self.places.waiting.clear()

    def _is_due(self, job: Job[Any]) -> None:
        """The time of *job* has come: on the timers' thread."""
        with self._lock:
            if self._retrying.pop(job, None) is None:
                return
            self._put_due(job)
        self._wake()

    def _put_due(self, job: Job[Any]) -> None:
        now = clock.monotonic()
        passed = now - job._since
        job._since = now
        job._began += passed  # the last attempt's go along: they still tell how long it waited and ran
        job._ended += passed
        job._stage = JobState.READY
        self.due.append(job)


def _remove(room: deque[Job[Any]], job: Job[Any]) -> bool:
    try:
        room.remove(job)
    except ValueError:
        return False
    return True


def _empty(room: deque[Job[Any]]) -> list[Job[Any]]:
    taken = []
    while True:
        try:
            taken.append(room.popleft())
        except IndexError:
            return taken
