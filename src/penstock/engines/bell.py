"""A bell that wakes one waiting thread: rung from anywhere, also from another process's message by way of an engine."""

from __future__ import annotations

import contextlib
import os
import select
import threading


class Bell:
    """Something to wait for beside an engine's own news. A ring that comes before the wait is not lost.

    `ring` may be called from any thread, `wait` from one at a time. Holds one or two descriptors until `close`.
    Lock: `_lock` guards that nothing is written to a descriptor that was given back, and is another's by now; a leaf.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Readable while the bell has been rung and nobody has heard it."""
        return self._read

    def ring(self) -> None:
        """Wake whoever waits, or the next who does."""
        with self._lock, contextlib.suppress(BlockingIOError):  # full of rings: that wakes, too
            if not self._is_closed:
                os.write(self._write, (1).to_bytes(8, "little"))

    def hear(self) -> bool:
        """Whether it was rung since the last time somebody heard it. Never waits."""
        try:
            return bool(os.read(self._read, 4096))
        except BlockingIOError:
            return False

    def wait(self, timeout: float | None, *others: int) -> list[int]:
        """Sleep until it is rung, one of the descriptors *others* is readable, or *timeout* seconds have passed.

        Gives those of *others* that are readable.
        """
        poll = select.poll()
        for descriptor in (self._read, *others):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if timeout is None else max(0.0, timeout) * 1000)]
        if self._read in ready:
            self.hear()
        return [descriptor for descriptor in ready if descriptor != self._read]

    def close(self) -> None:
        """Give the descriptors back. Rings come to nothing now, and nobody may wait any more. Safe to repeat."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                for descriptor in {self._read, self._write}:
                    os.close(descriptor)
