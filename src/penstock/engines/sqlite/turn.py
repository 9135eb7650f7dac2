"""Whose turn it is to write: a fair lock between processes.

SQLite lets writers wait by trying again and again, and whoever writes without a pause gets in first each time: others
starve for seconds. So every writer here passes two gates, like those of a turnstile:

    crowd ──> [next] ──> [turn] ──> writes
              one waits   one writes

Whoever has written has to pass `next` again, where it finds the others before it. This is only about fairness: that
writes exclude one another is SQLite's own work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from penstock import clock
from penstock.engines.sqlite import beside
from penstock.engines.sqlite.place import Place
from penstock.errors import StoreUnavailable

_LOOK: Final = 0.02  # seconds between two tries at a gate: who was killed behind it has rung no bell


class Turn:
    """The lock of one engine. Used by one thread at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._gates: tuple[_Gate, _Gate] | None = None
        self._is_inside = False

    @contextmanager
    def taken(self, until: float) -> Iterator[None]:
        """A block in which no other process writes. Raises StoreUnavailable if its turn doesn't come before *until*."""
        if self._gates is None:
            self._gates = (_Gate(self._place.folder + "/next"), _Gate(self._place.folder + "/turn"))
        following, turn = self._gates
        if self._is_inside:  # whoever was there before was interrupted, and others wait for what he holds
            following.leave()
            turn.leave()
        self._is_inside = True
        self._enter(following, until)
        try:
            self._enter(turn, until)
        finally:
            following.leave()
        try:
            yield
        finally:
            turn.leave()
            self._is_inside = False

    def _enter(self, gate: _Gate, until: float) -> None:
        if not gate.enter(until):
            raise StoreUnavailable(self._place.url, "other processes write to it all the time, or one is stuck")

    def close(self) -> None:
        """Give the descriptors back; also in the child of a fork, whose copies would keep the lock."""
        gates, self._gates = self._gates, None
        self._is_inside = False
        for gate in gates or ():
            gate.close()


class _Gate:
    """A lock that one process holds at a time. The system frees it when that process ends, however it ends.

    A wait for such a lock can't be given an end, and one that is stopped may hold it for ever. So nobody waits for the
    lock: whoever leaves rings a bell, a pipe with a name, and who hears it tries again.
    """

    def __init__(self, path: str) -> None:
        self._lock = beside.opened(path)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path + ".bell")
        self._bell = os.open(path + ".bell", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def enter(self, until: float) -> bool:
        """Wait for the lock, until *until*; whether it is ours."""
        while not beside.locked_now(self._lock):
            left = until - clock.monotonic()
            if left <= 0:
                return False
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            poll.poll(min(left, _LOOK) * 1000)
            with contextlib.suppress(BlockingIOError):  # another was faster
                os.read(self._bell, 65536)
        return True

    def leave(self) -> None:
        """Let another in. Only for who has entered."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):  # full of rings that nobody has waited for: that wakes, too
            os.write(self._bell, b"!")

    def close(self) -> None:
        os.close(self._lock)
        os.close(self._bell)
