"""What became of a child's jobs, which run there, and until when: memory that its supervisor reads when it must.

    child, the store said  write the account
    child, a job begins    slot = free.pop(); write (seq, token, limit); at its end: write zeros, give the slot back
    supervisor             after the child's death: what is written there had begun
                           while it lives: whoever is past its limit, and by how much

A child that hangs, is stopped, or holds the GIL in a C call can't answer questions; what it wrote here can be read all
the same, and what it has counted is not lost with it. A slot is read torn only if it is being written just then: what
is read from a live child is looked at twice.
"""

from __future__ import annotations

import contextlib
import mmap
import operator
import os
import struct
import tempfile
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

_ACCOUNT: Final = struct.Struct("<7q")
_SLOT: Final = struct.Struct("<qqd")
_NOTHING: Final = _SLOT.pack(0, 0, 0.0)


class Account(NamedTuple):
    """What became of the jobs of one child, by what the store has said to it."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    again: int = 0  # they wait for another attempt
    released: int = 0
    stale: int = 0  # somebody else's by the time that they ended
    held: int = 0  # theirs is not known yet

    def plus(self, other: Account) -> Account:
        """Both together."""
        return Account(*map(operator.add, self, other))


class Entry(NamedTuple):
    """A job that has begun. *limit*: monotonic time by which it should have ended; 0 for none."""

    seq: int
    token: int
    limit: float


def new_memory(slots: int) -> int:
    """A descriptor of memory for a board of *slots* jobs, to be handed to the child."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("penstock-board")
    else:
        fd, path = tempfile.mkstemp()
        Path(path).unlink()
    os.ftruncate(fd, _ACCOUNT.size + slots * _SLOT.size)
    return fd


class Board:
    """The board in the memory of *fd*. `begin` and `end` may be called from any thread of the child."""

    def __init__(self, fd: int, slots: int) -> None:
        self._slots = slots
        self._map = mmap.mmap(fd, _ACCOUNT.size + slots * _SLOT.size)
        self._free = deque(range(slots))

    def begin(self, seq: int, token: int, limit: float = 0.0) -> int:
        """A job begins; the slot where it is written, for `end`."""
        slot = self._free.pop()
        _SLOT.pack_into(self._map, _ACCOUNT.size + slot * _SLOT.size, seq, token, limit)
        return slot

    def end(self, slot: int) -> None:
        """The job of *slot* has ended."""
        offset = _ACCOUNT.size + slot * _SLOT.size
        self._map[offset : offset + _SLOT.size] = _NOTHING
        self._free.append(slot)

    def running(self) -> list[Entry]:
        """The jobs that have begun and not ended."""
        found = (_SLOT.unpack_from(self._map, _ACCOUNT.size + slot * _SLOT.size) for slot in range(self._slots))
        return [Entry(*entry) for entry in found if entry[0]]

    def keep(self, account: Account) -> None:
        """Write the accounts down; one thread at a time."""
        _ACCOUNT.pack_into(self._map, 0, *account)

    def account(self) -> Account:
        """The accounts, as they were written down last."""
        return Account(*_ACCOUNT.unpack_from(self._map))

    def close(self) -> None:
        """Let the memory go."""
        with contextlib.suppress(BufferError):
            self._map.close()
