"""In the fork server: signals don't end it, and it takes its socket along when it ends with its parent.

Without the server nobody hears how a worker ended. So signals that stop programs, which a terminal or a service manager
may send to every process, are left to the parent; the server ends when that does.

The socket has a name, in a folder of multiprocessing's own, and both are the parent's to remove. A parent that is
killed can't; the server ends soon after it, in good order.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import struct
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from types import FrameType
from typing import Final

STOPPING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_DYING_TAKES: Final = 1.0  # seconds
_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid: of a socket that listens those of who said so, on Linux


def leave_signals_to_parent() -> None:
    """Let SIGTERM and SIGHUP not end this process; those that it forks have them as before. SIGINT it leaves already.

    Does nothing where there is no fork server.
    """
    if _listener(sys._getframe()) is None:
        return
    # Blocked, not ignored: one that comes to a new process at once waits there until it is let in.
    masks = [signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)]

    def let_in() -> None:
        if masks:  # the processes that a worker forks have this hook, too, and a mask that is the worker's to set
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    os.register_at_fork(after_in_child=let_in)


def tidy_up_at_the_end() -> None:
    """Remove the socket when this process ends after its parent. Does nothing where there is no fork server."""
    listener = _listener(sys._getframe())
    if listener is None:
        return
    with socket.socket(fileno=os.dup(listener)) as copy:
        address, parent = copy.getsockname(), _maker_of(copy)
    if isinstance(address, str) and address.startswith("/"):
        atexit.register(_tidy_up, Path(address), os.getpid(), parent)


def _maker_of(listener: socket.socket) -> int:
    """The process that made *listener*: our parent, which may be gone by now, and another have us for its child."""
    peer = getattr(socket, "SO_PEERCRED", None)
    if peer is None:
        return os.getppid()
    pid: int = _CREDENTIALS.unpack(listener.getsockopt(socket.SOL_SOCKET, peer, _CREDENTIALS.size))[0]
    return pid


def _listener(frame: FrameType | None) -> int | None:
    """The descriptor that the fork server listens on, if it is what runs further out: it hands it to nobody."""
    while frame is not None:
        if frame.f_code is forkserver.main.__code__:
            return frame.f_locals.get("listener_fd")
        frame = frame.f_back
    return None


def _tidy_up(address: Path, server: int, parent: int) -> None:
    if os.getpid() != server:
        return  # a process that it has forked
    until = time.monotonic() + _DYING_TAKES
    while address.exists() and os.getppid() == parent:
        # Polls: a parent that dies has closed its files, which we were told of, a moment before it is gone.
        if time.monotonic() > until:
            return  # it lives, and stopped us: it removes the socket itself
        time.sleep(0.001)
    with contextlib.suppress(OSError):
        address.unlink()
        address.parent.rmdir()  # others may have something in it: then it stays
