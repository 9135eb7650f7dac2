"""A pool's life: one phase that only moves forward."""

from __future__ import annotations

import enum
import threading


class Phase(enum.IntEnum):
    """A pool's life, in order. It never goes back, so that a late start can't undo an early stop."""

    OPEN = 0  # takes jobs
    DRAINING = 1  # takes no new jobs; accepted ones still run
    CANCELLING = 2  # waiting jobs were cancelled, running ones asked to stop
    LEAVING = 3  # what still runs is killed or left behind
    CLOSED = 4  # every accepted job has an outcome


class Lifecycle:
    """One forward-only phase, shared by threads.

    Invariants:
      1. The phase never decreases.
      2. At most one `advance` call returns True per phase: that caller does the phase's work.
      3. `closing` is True from DRAINING on; `cutting` from the moment that no job is started any more.
    Lock: `_moved` guards writes; every field may be read without. A leaf: no lock is taken and no callback runs inside.
    """

    def __init__(self, phase: Phase = Phase.OPEN) -> None:
        self._moved = threading.Condition(threading.Lock())
        self.phase = phase
        self.closing = phase is not Phase.OPEN  # plain flags: the hot path asks for them at each job
        self.cutting = False

    def advance(self, to: Phase) -> bool:
        """Go to *to* unless already there or further; True if this call moved."""
        with self._moved:
            if to <= self.phase:
                return False
            self.phase = to
            self.closing = True
            if to in (Phase.CANCELLING, Phase.LEAVING):
                self.cutting = True
            self._moved.notify_all()
            return True

    def start_none(self) -> None:
        """No job is started any more; what runs may go on, and a stop can still ask it to end."""
        with self._moved:
            self.cutting = True

    def wait_for(self, phase: Phase, timeout: float | None = None) -> bool:
        """Block until *phase* is reached; False after *timeout* seconds (None: no limit)."""
        with self._moved:
            return self._moved.wait_for(lambda: self.phase >= phase, timeout)
