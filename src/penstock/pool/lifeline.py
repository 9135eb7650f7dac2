"""A pipe whose writing end this process alone holds: the kernel kills whoever hangs on it when this process ends.

The end of a lane tells a worker the same, but a thread has to hear it, and a job may hold the GIL. That a process dies
with the one that forked it (as workers do with the fork server) says nothing of spawned ones: there the kernel means
the thread that started them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading

if sys.platform != "win32":
    import fcntl

_F_SETSIG = 10  # which signal is to be sent; Linux


class Lifeline:
    """Made when it is first asked for. Lock: `_lock` guards `_ends`; a leaf."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """In the child of a fork, which is nobody's parent yet."""
        self._lock = threading.Lock()
        self._ends: tuple[int, int] | None = None

    def fileno(self) -> int:
        """The end that workers are given."""
        with self._lock:
            if self._ends is None:
                self._ends = os.pipe()
            return self._ends[0]

    def let_go(self) -> None:
        """In the child of a fork: held by it, too, the parent's workers would not hear of the parent's end."""
        ends = self._ends
        self.start_afresh()
        for end in ends or ():
            os.close(end)


LIFELINE = Lifeline()


def hang_on(end: int) -> None:
    """In a worker: have the kernel kill this process when its parent has ended; Linux does that."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            # An open file of our own: who is to be told is said of that, and the other workers share the first.
            own = os.open(f"/proc/self/fd/{end}", os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
            poll = select.poll()
            poll.register(own, select.POLLIN)
            if poll.poll(0):  # it has ended before
                os._exit(1)
    os.close(end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LIFELINE.let_go)
