"""Ids of jobs: UUIDs of version 7, so that they sort by the time at which they were made.

0190a1b2-c3d4-7e5f-89ab-0123456789ab
└ milliseconds ┘ │  └─ random ─────┘
                 parts of a millisecond
"""

from __future__ import annotations

import os
import struct
import time
from typing import Final

_AT_ONCE: Final = 64


def new_id() -> str:
    """A new id.

    The random part comes from the system: a seed that a test sets, or a fork, never makes an id twice.
    """
    nanoseconds = time.time_ns()
    now = nanoseconds // 1_000_000
    part = (nanoseconds - now * 1_000_000 << 12) // 1_000_000
    try:
        noise = _noise.pop()
    except IndexError:
        noise = _more_noise()
    return f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{part:03x}-{0x8000 | noise >> 50:04x}-{noise & 0xFFFF_FFFF_FFFF:012x}"


_noise: list[int] = []  # of the system, for the next ids


def _more_noise() -> int:
    """Numbers of 64 random bits: one for now, and some for later.

    To ask for each of them is a call of the system's that lets go of the interpreter's lock: of many threads another
    one goes on then, and the one that asked waits for its turn.
    """
    first, *more = struct.unpack(f"{_AT_ONCE}Q", os.urandom(8 * _AT_ONCE))
    _noise.extend(more)
    return int(first)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_noise.clear)  # they are the parent's


def new_ids(count: int) -> list[str]:
    """So many new ids, in order, at most 2**47. Their random part is the same, and counts on."""
    head, _, tail = new_id().rpartition("-")
    first = int(tail, 16) & (2**47 - 1)
    return [f"{head}-{number:012x}" for number in range(first, first + count)]
