"""Ids of jobs: UUIDs of version 7, so that they sort by the time at which they were made.

0190a1b2-c3d4-7e5f-89ab-0123456789ab
└ milliseconds ┘ │  └─ random ─────┘
                 parts of a millisecond
"""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """A new id.

    The random part comes from the system: a seed that a test sets, or a fork, never makes an id twice.
    """
    nanoseconds = time.time_ns()
    now = nanoseconds // 1_000_000
    part = (nanoseconds - now * 1_000_000 << 12) // 1_000_000
    noise = int.from_bytes(os.urandom(8), "big")
    return f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{part:03x}-{0x8000 | noise >> 50:04x}-{noise & 0xFFFF_FFFF_FFFF:012x}"


def new_ids(count: int) -> list[str]:
    """So many new ids, in order, at most 2**47. Their random part is the same, and counts on."""
    head, _, tail = new_id().rpartition("-")
    first = int(tail, 16) & (2**47 - 1)
    return [f"{head}-{number:012x}" for number in range(first, first + count)]
