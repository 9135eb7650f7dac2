"""Jobs that are held at a gate of their own and told how to end: by threads, or from another process."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from penstock import current_context
from tests.gates import GUARD

GIVE, FAIL, OBEY = b"g", b"f", b"o"


class Oops(Exception):
    """What a job raises that was told to fail."""


def end(word: bytes, number: int) -> int:
    """End as told: return the number, raise, or heed the context."""
    if word == FAIL:
        raise Oops
    if word == OBEY:
        current_context().sleep(GUARD)  # at once if it is tripped; a process has to hear of that first
        raise AssertionError("the job's context was not tripped")
    return number


class Held:
    """The function of one job: enters, waits to be told how to end, and ends so."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)
        self.entered = threading.Semaphore(0)
        self.calls = 0
        self._word = GIVE
        self._told = threading.Semaphore(0)

    def __call__(self) -> Any:
        self.calls += 1
        self.entered.release()
        assert self._told.acquire(timeout=GUARD), "nobody told the job how to end"
        return end(self._word, self.number)

    def end(self, word: bytes) -> None:
        self._word = word
        self._told.release()


class Door:
    """Where those come in that are held in other processes."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "door")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(100)
        self.held: dict[int, HeldElsewhere] = {}
        self._thread = threading.Thread(target=self._let_in, name="door", daemon=True)
        self._thread.start()

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                (number,) = struct.unpack("I", inside.recv(4, socket.MSG_WAITALL))
                self.held[number].came(inside)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(GUARD)
        for held in self.held.values():
            held.forget()
        os.unlink(self.path)  # noqa: PTH108


class HeldElsewhere(Held):
    """As `Held`, in another process."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door
        self._inside: list[socket.socket] = []
        door.held[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return Enter, (self._door.path, self.number)

    def came(self, inside: socket.socket) -> None:
        self._inside.append(inside)
        self.calls += 1
        self.entered.release()

    def end(self, word: bytes) -> None:
        with contextlib.suppress(IndexError, OSError):  # it has not come in, or has left
            self._inside[-1].sendall(word)

    def forget(self) -> None:
        for inside in self._inside:
            inside.close()


class Enter:
    """What one is in the other process."""

    def __init__(self, path: str, number: int) -> None:
        self._path, self._number = path, number

    def __call__(self) -> int:
        with socket.socket(socket.AF_UNIX) as inside:
            inside.connect(self._path)
            inside.sendall(struct.pack("I", self._number))
            word = inside.recv(1)
        assert word, "nobody told the job how to end"
        return end(word, self._number)
