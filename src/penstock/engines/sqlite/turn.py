"""Whose turn it is to write: a fair lock between processes.

SQLite lets writers wait by trying again and again, and whoever writes without a pause gets in first each time: others
starve for seconds. So every writer here passes two gates, like those of a turnstile, if somebody waits:

    crowd ──> [next] ──> [turn] ──> writes
              one waits   one writes

Whoever has written has to pass `next` again, where it finds the others before it. Who waits leaves a mark in memory
that all share; as long as nobody does, a writer passes the second gate alone, and rings for nobody when it leaves. This
is only about fairness: that writes exclude one another is SQLite's own work.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
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
_LATELY: Final = 0.1  # seconds after a mark in which somebody may still wait, and will mark again: more than _LOOK
_NUMBER: Final = 8  # bytes


class Turn:
    """The lock of one engine. Used by one thread at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._gates: tuple[_Gate, _Gate] | None = None
        self._crowd: _Crowd | None = None
        self._is_inside = False
        self._has_waited = False

    @contextmanager
    def taken(self, until: float) -> Iterator[None]:
        """A block in which no other process writes. Raises StoreUnavailable if its turn doesn't come before *until*."""
        self.enter(until)
        try:
            yield
        finally:
            self.leave()

    def enter(self, until: float) -> None:
        """Begin such a block."""
        if self._gates is None or self._crowd is None:
            self._open()
        assert self._gates is not None
        assert self._crowd is not None
        following, turn = self._gates
        if self._is_inside:  # whoever was there before was interrupted, and others wait for what he holds
            following.leave()
            turn.leave()
        self._is_inside = self._has_waited = True
        if not self._crowd.is_near():
            if beside.locked_now(turn.lock):
                self._has_waited = False
                return
            self._crowd.mark()
        self._enter(following, until)
        try:
            self._enter(turn, until)
        finally:
            following.leave()

    def leave(self) -> None:
        """End it, and let another in."""
        if self._gates is not None and self._crowd is not None:
            turn = self._gates[1]
            turn.free()
            if self._has_waited or self._crowd.is_near():
                turn.ring()
        self._is_inside = False

    def _open(self) -> None:
        folder = self._place.folder
        with contextlib.ExitStack() as opened:  # should one of them fail, there will be another try, and another
            crowd = _Crowd(folder + "/crowd")
            opened.callback(crowd.close)
            following = _Gate(folder + "/next")
            opened.callback(following.close)
            turn = _Gate(folder + "/turn")
            opened.pop_all()
        self._crowd, self._gates = crowd, (following, turn)

    def _enter(self, gate: _Gate, until: float) -> None:
        assert self._crowd is not None
        if not gate.enter(until, self._crowd):
            raise StoreUnavailable(self._place.url, "other processes write to it all the time, or one is stuck")

    def close(self) -> None:
        """Give the descriptors back; also in the child of a fork, whose copies would keep the lock."""
        gates, self._gates = self._gates, None
        crowd, self._crowd = self._crowd, None
        self._is_inside = False
        for gate in gates or ():
            gate.close()
        if crowd is not None:
            crowd.close()


class _Crowd:
    """Whether anybody waits, of all processes: a number that grows while somebody does.

    Only a hint: two who count at once count as one, and a number that was seen late makes nobody wait longer than until
    the next look.
    """

    def __init__(self, path: str) -> None:
        descriptor = beside.opened(path)
        try:
            if os.fstat(descriptor).st_size < _NUMBER:
                os.pwrite(descriptor, bytes(_NUMBER), 0)  # so that on a full disk this fails, not the memory
            self._memory = mmap.mmap(descriptor, _NUMBER)
        finally:
            os.close(descriptor)
        self._number = memoryview(self._memory).cast("Q")
        self._seen = self._number[0]
        self._until = 0.0  # monotonic

    def is_near(self) -> bool:
        """Whether somebody waits, or did so lately."""
        number = self._number[0]
        if number == self._seen:
            return clock.monotonic() < self._until
        self._seen = number
        self._until = clock.monotonic() + _LATELY
        return True

    def mark(self) -> None:
        """Say that somebody waits."""
        self._number[0] = (self._number[0] + 1) % 2**64
        self._until = clock.monotonic() + _LATELY

    def close(self) -> None:
        self._number.release()
        self._memory.close()


class _Gate:
    """A lock that one process holds at a time. The system frees it when that process ends, however it ends.

    A wait for such a lock can't be given an end, and one that is stopped may hold it for ever. So nobody waits for the
    lock: whoever leaves rings a bell, a pipe with a name, and who hears it tries again.
    """

    def __init__(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path + ".bell")
        self._bell = os.open(path + ".bell", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.lock = beside.opened(path)
        except BaseException:
            os.close(self._bell)
            raise

    def enter(self, until: float, crowd: _Crowd) -> bool:
        """Wait for the lock, until *until*, as one of *crowd*; whether it is ours."""
        while not beside.locked_now(self.lock):
            crowd.mark()
            if beside.locked_now(self.lock):  # whoever left before the mark has rung for nobody
                break
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
        self.free()
        self.ring()

    def free(self) -> None:
        """Let another in, if one comes by."""
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def ring(self) -> None:
        """Wake who waits."""
        with contextlib.suppress(BlockingIOError):  # full of rings that nobody has waited for: that wakes, too
            os.write(self._bell, b"!")

    def close(self) -> None:
        os.close(self.lock)
        os.close(self._bell)
