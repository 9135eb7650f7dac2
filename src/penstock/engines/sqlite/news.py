"""News between processes: whoever waits has a socket in the folder, and whoever committed something rings them all.

    process A: commit ──> a byte to each *.wake of the others ──> process B: poll(socket, bell) ──> every bell of B

Once a second a waiting process also looks whether the file was changed, in case that a byte got lost.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from penstock import clock
from penstock.engines.bell import Bell
from penstock.engines.sqlite.file import Identity
from penstock.engines.sqlite.place import Place

_LOOK: Final = 1.0  # seconds between two looks at the file
_LONGEST: Final = 100  # bytes of a socket's path; the system's limit is 108
_SUFFIX: Final = ".wake"
# Nanoseconds: two changes further apart than this have two times. The system's clock for files ticks a hundred times a
# second or more often; some file systems count seconds only, or two at a time.
_SETTLED: Final = 50_000_000
_SETTLED_IN_SECONDS: Final = 2_000_000_000


class News:
    """One engine's ear and mouth.

    A bell is rung for as long as it exists, also between two waits, so that nothing is missed that came in between;
    that is why the first wait with one returns at once.
    Lock: `_lock` guards `_bells` and `_ear`; a leaf.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.folder: Identity | None = None  # where it told somebody last
        self._lock = threading.Lock()
        self._bells: weakref.WeakSet[Bell] = weakref.WeakSet()
        self._ear: socket.socket | None = None
        self._name = ""
        self._mouth: socket.socket | None = None
        self._heard: Sequence[str] = ()  # the sockets of all
        self._read = 0  # when the folder was changed of which these are; 0: look again

    def wait(self, bell: Bell, timeout: float, has_changed: Callable[[], bool]) -> None:
        """Sleep until there are news, *bell* is rung, or *timeout* seconds have passed."""
        until = clock.monotonic() + timeout
        with self._lock:
            is_first = bell not in self._bells
            self._bells.add(bell)
            ear = self._listen()
        if is_first:  # what came since the caller looked has rung no bell yet
            bell.hear()
            if has_changed():  # asked now, so that from now on no change is missed
                self._ring(but=bell)
            return
        poll = select.poll()
        poll.register(bell.fileno(), select.POLLIN)
        if ear is not None:
            poll.register(ear.fileno(), select.POLLIN)
        while True:
            left = until - clock.monotonic()
            ready = poll.poll(max(0.0, min(left, _LOOK)) * 1000)
            if bell.hear():
                return
            if ready and ear is not None:
                self._drain(ear)
                return self._ring(but=bell)
            if left <= _LOOK:
                return
            if has_changed():
                return self._ring(but=bell)

    def tell(self) -> None:
        """Wake whoever waits, in this process and in others."""
        self._ring()
        for name in self._ears():
            if name != self._name:
                self._send(name)

    def _ears(self) -> Sequence[str]:
        """The sockets in the folder. It is read anew if it was changed; or so lately that its time may not show it."""
        folder = self._place.folder
        try:
            stat = os.stat(folder)  # noqa: PTH116 - after each transaction
            self.folder = stat.st_dev, stat.st_ino
            changed = stat.st_mtime_ns
            if changed != self._read:
                self._heard = [name for name in os.listdir(folder) if name.endswith(_SUFFIX)]  # noqa: PTH208 - likewise
                settled = _SETTLED if changed % 1_000_000_000 else _SETTLED_IN_SECONDS
                self._read = changed if time.time_ns() - changed > settled else 0
        except OSError:
            self.folder = None
            return ()
        return self._heard

    def close(self) -> None:
        """Listen no more."""
        with self._lock:
            if self._ear is not None:
                with contextlib.suppress(OSError):
                    Path(self._place.folder, self._name).unlink(missing_ok=True)
            self._close()

    def forget(self) -> None:
        """In the child of a fork: close the copies, and leave the socket's name to the process that it belongs to."""
        self._lock = threading.Lock()  # held, perhaps, by a thread that isn't here
        self._close()

    def _close(self) -> None:
        for end in (self._ear, self._mouth):
            if end is not None:
                end.close()
        self._ear = self._mouth = None
        self._name = ""

    def _listen(self) -> socket.socket | None:
        if self._ear is not None and not Path(self._place.folder, self._name).exists():
            self._ear.close()  # somebody has deleted the folder
            self._ear = None
        if self._ear is None:
            name = secrets.token_hex(8) + _SUFFIX
            ear = None
            try:
                ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                ear.setblocking(False)
                with _address(self._place.folder, name) as address:
                    ear.bind(address)
            except OSError:  # the look at the file has to do
                if ear is not None:
                    ear.close()
                return None
            self._ear, self._name = ear, name
        return self._ear

    def _send(self, name: str) -> None:
        try:
            if self._mouth is None:
                self._mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._mouth.setblocking(False)
            with _address(self._place.folder, name) as address:
                self._mouth.sendto(b"!", address)
        except BlockingIOError:
            pass  # it has enough to wake up for
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(OSError):
                Path(self._place.folder, name).unlink(missing_ok=True)  # its process is gone
        except OSError:
            pass  # a hint, never relied upon

    def _ring(self, but: Bell | None = None) -> None:
        if not self._bells:
            return
        with self._lock:
            bells = [bell for bell in self._bells if bell is not but]
        for bell in bells:
            bell.ring()

    @staticmethod
    def _drain(ear: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while ear.recv(16):
                pass


@contextlib.contextmanager
def _address(folder: str, name: str) -> Iterator[str]:
    """What to call the socket *name* of *folder*, however long the folder's own name is."""
    path = f"{folder}/{name}"
    if len(os.fsencode(path)) <= _LONGEST or not sys.platform.startswith("linux"):
        yield path
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
