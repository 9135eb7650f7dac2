"""Signals that stop programs, in a worker process: its supervisor hears them, and decides.

A copy that a job makes of its worker by a fork (as `multiprocessing` does) is a program of its own, which they stop.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

STOPPING: Final = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""Signals that a terminal, say, sends to all processes of a service. A child is started with them blocked."""


def leave_to_supervisor() -> None:
    """Heed none of them in this process from now on. Main thread only, once."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, say: that is for what tasks start, too
            signal.signal(number, _leave_it)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if hasattr(os, "register_at_fork"):
        fork = _Fork()
        os.register_at_fork(before=fork.begin, after_in_parent=fork.end, after_in_child=fork.heed_again)


class _Fork(threading.local):
    """What a thread that forks keeps meanwhile: signals wait, lest one finds the copy with its worker's handlers."""

    def begin(self) -> None:
        self.unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)

    def end(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.unmasked)

    def heed_again(self) -> None:
        for number in STOPPING:
            if signal.getsignal(number) is _leave_it:
                signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        self.end()


def _leave_it(number: int, frame: object) -> None:
    """It is not for this process."""
