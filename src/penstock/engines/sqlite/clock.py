"""The engine's clock: one for all processes of the machine, which runs with the wall clock and never jumps.

It is the time since the machine was started (which all processes see alike, and nobody can set) plus a base, which the
first process after a start took from the wall clock and left in the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from penstock import clock

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What this start of the machine is called; empty where nobody can tell."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def since_boot() -> float:
    """Seconds since the machine was started, also those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_set(db: apsw.Connection) -> bool:
    """Whether `read` has nothing to write."""
    boot = boot_id()
    return not boot or db.execute("SELECT boot FROM store").get == boot


def read(db: apsw.Connection) -> Callable[[], float]:
    """The clock of the store *db*, which is set if the machine was started anew since it was last used.

    Where the system can't tell one start from another it is the wall clock, jumps and all.
    """
    boot = boot_id()
    if not boot:
        return clock.wall
    if db.execute("SELECT boot FROM store").get != boot:
        _start_anew(db, boot)
    base = db.execute("SELECT base FROM store").get
    return lambda: base + since_boot()


def _start_anew(db: apsw.Connection, boot: str) -> None:
    """Set the clock: not behind what it showed before. Whoever worked before this start is dead for certain."""
    with db:
        was, latest = db.execute("SELECT boot, latest FROM store").fetchone() or ("", 0.0)
        if was != boot:  # else another process was faster
            put = db.execute("SELECT enqueued FROM job ORDER BY seq DESC LIMIT 1").get or 0.0
            base = max(clock.wall(), latest, put) - since_boot()
            db.execute(
                "UPDATE store SET boot = ?, base = ?, ahead = ?", (boot, base, clock.wall() - base - since_boot())
            )
            db.execute("UPDATE worker SET gone = 1")
