"""Whose turn it is to write: a fair lock between processes.

SQLite lets writers wait by trying again and again, and whoever writes without a pause gets in first each time: others
starve for seconds. So every writer here passes two locks, like the two gates of a turnstile:

    crowd ──> [next] ──> [turn] ──> writes
              one waits   one writes

Whoever has written has to pass `next` again, where it finds the others before it. The locks are only about fairness:
that writes exclude one another is SQLite's own work.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from penstock import clock
from penstock.engines.sqlite import beside
from penstock.engines.sqlite.place import Place
from penstock.errors import StoreUnavailable

_SHORTEST: Final = 0.0001
_LONGEST: Final = 0.001


class Turn:
    """The lock of one engine. Used by one thread at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._gates: tuple[int, int] | None = None

    @contextmanager
    def taken(self, until: float) -> Iterator[None]:
        """A block in which no other process writes. Raises StoreUnavailable if its turn doesn't come before *until*."""
        if self._gates is None:
            self._gates = (beside.opened(self._place.folder + "/next"), beside.opened(self._place.folder + "/turn"))
        before, turn = self._gates
        self._pass(before, until)
        try:
            self._pass(turn, until)
        finally:
            fcntl.flock(before, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)

    def _pass(self, gate: int, until: float) -> None:
        """Polls, since a wait for such a lock can't be given an end, and a stopped process may hold it for long."""
        pause = _SHORTEST
        while not beside.locked_now(gate):
            if clock.monotonic() >= until:
                raise StoreUnavailable(self._place.url, "other processes write to it all the time, or one is stuck")
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)

    def close(self) -> None:
        """Give the descriptors back; also in the child of a fork, whose copies would keep the lock."""
        gates, self._gates = self._gates, None
        for descriptor in gates or ():
            os.close(descriptor)
