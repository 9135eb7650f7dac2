"""Ids of jobs: UUIDs of version 7, so that they sort by the time at which they were made."""

from __future__ import annotations

import os
import time
from typing import Final

_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0x2 << 62


def new_ids(count: int) -> list[str]:
    """So many new ids, as the usual text of a UUID.

    The random part comes from the system: a seed that a test sets, or a fork, never makes an id twice.
    """
    noise = os.urandom(8 * count)
    return [_id(noise[at : at + 8]) for at in range(0, 8 * count, 8)]


def new_id() -> str:
    """A new id."""
    return _id(os.urandom(8))


def _id(noise: bytes) -> str:
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    bits = (milliseconds << 80) | _VERSION | ((rest << 12) // 1_000_000 << 64)  # the 12 bits: parts of a millisecond
    text = f"{bits | _VARIANT | (int.from_bytes(noise) >> 2):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
