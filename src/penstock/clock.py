"""The only door through which time comes in.

`monotonic` measures: deadlines, budgets, how long a job waited or ran. `wall` is for people: when a failure was
first and last seen. Other modules call `clock.monotonic()` through the module, so that a test can put its own there.
"""

from __future__ import annotations

import math
import threading
import time

monotonic = time.monotonic
wall = time.time


def deadline_after(timeout: float | None) -> float | None:
    """The monotonic time *timeout* seconds from now; None for no limit."""
    return None if timeout is None else monotonic() + timeout


def remaining(deadline: float | None) -> float | None:
    """Seconds left until *deadline*, never below zero nor above what a lock can wait; None for no limit."""
    return None if deadline is None else min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)


def checked_seconds(name: str, value: float | None, *, zero: bool = True) -> float | None:
    """*value* if it can be a length of time in seconds (or None), else a TypeError or ValueError that names *name*."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    try:
        value = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        raise ValueError(f"{name} must be a number of seconds that a float can hold") from None
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'zero or more' if zero else 'more than zero'} seconds, not {value:g}")
    return value
