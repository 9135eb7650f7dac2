"""Eyes for tests of a pool: what happened, who waits for a place, and pools in a known state."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock import Job, ThreadPool
from penstock.events import Event, WorkerStarted, WorkerStopped
from penstock.pool.executor import AnyPool
from penstock.pool.places import Waiter
from tests.gates import GUARD, Gate

E = TypeVar("E", bound=Event)


class Seen:
    """An observer that remembers every event, and lets a test wait for one."""

    def __init__(self, *pools: AnyPool) -> None:
        self._moved = threading.Condition(threading.RLock())  # `of` takes it again inside of `wait_for`
        self.events: list[Event] = []
        for pool in pools:
            pool.observe(self)

    def __call__(self, event: Event) -> None:
        with self._moved:
            self.events.append(event)
            self._moved.notify_all()

    def of(self, kind: type[E], **fields: Any) -> list[E]:
        """The events of *kind* so far that have these *fields*."""
        with self._moved:
            found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if all(getattr(event, key) == value for key, value in fields.items())]

    def wait_for(self, kind: type[E], count: int = 1, **fields: Any) -> E:
        """The *count*-th event of *kind* with these *fields*, once it is there; AssertionError after GUARD."""
        with self._moved:
            came = self._moved.wait_for(lambda: len(self.of(kind, **fields)) >= count, GUARD)
            assert came, f"no {kind.__name__} with {fields}; there was {self.events}"
            return self.of(kind, **fields)[count - 1]

    def wait_for_workers(self, count: int) -> None:
        """Return once so many workers live, by what was seen; AssertionError after GUARD."""
        with self._moved:
            assert self._moved.wait_for(lambda: self._alive() == count, GUARD), f"{self._alive()} workers live"

    def _alive(self) -> int:
        return len(self.of(WorkerStarted)) - len(self.of(WorkerStopped))


class WatchedLine(deque[Waiter]):
    """The line of those who wait for a place, which tells a test that somebody lined up."""

    def __init__(self, waiting: Iterable[Waiter] = ()) -> None:
        super().__init__(waiting)
        self._came = threading.Semaphore(0)

    def append(self, waiter: Waiter, /) -> None:
        super().append(waiter)
        self._came.release()

    def wait_for_one_more(self) -> None:
        """Return once one more than before has lined up; AssertionError after GUARD."""
        assert self._came.acquire(timeout=GUARD), "nobody lined up"


def watch_line(pool: ThreadPool) -> WatchedLine:
    """Put a watched line in the place of that of *pool*, which nobody may use yet."""
    line = pool._crew.backlog.places.waiting = WatchedLine()
    return line


@dataclass
class Full:
    """A pool whose only worker is in `gate`, and whose backlog holds `waiting`; every one of these returns 0."""

    pool: ThreadPool
    gate: Gate
    running: Job[Any]
    waiting: list[Job[int]]
    line: WatchedLine


@contextmanager
def held_pool(**options: Any) -> Iterator[tuple[ThreadPool, Gate]]:
    """A pool of one worker, which is in the gate. The gate is open at the end of the block."""
    gate = Gate()
    with ThreadPool(1, **options) as pool:
        try:
            pool.options(timeout=None, retry=None).submit(gate)
            gate.wait_entered()
            yield pool, gate
        finally:
            gate.open()


@contextmanager
def full_pool(backlog: int = 1, **options: Any) -> Iterator[Full]:
    """A pool with no place left. The gate is open at the end of the block."""
    gate = Gate()
    with ThreadPool(1, backlog=backlog, **options) as pool:
        line = watch_line(pool)
        try:
            running = pool.submit(gate)
            gate.wait_entered()
            waiting = [pool.submit(int) for _ in range(backlog)]
            yield Full(pool, gate, running, waiting, line)
        finally:
            gate.open()


def until(fact: Callable[[], object], patience: float = GUARD) -> None:
    """Return once *fact* is true; AssertionError after *patience*. For what changes without an event or a handle."""
    end = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)  # polls: nothing tells of this fact, and waiting longer only makes the test slower
