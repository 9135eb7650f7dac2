"""Lengths and points of time, as people and programs read them."""

from __future__ import annotations

import datetime
import math
from typing import Any


def length(seconds: float) -> str:
    """*seconds* in one number and one unit, as exact as a person needs it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for size, unit, until in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if round(seconds / size) < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} d"


def ago(at: float, now: float) -> str:
    """How far *at* is from *now*."""
    return f"{length(now - at)} ago" if at <= now else f"in {length(at - now)}"


def moment(at: float) -> str:
    """The time *at*, seconds since the epoch, in the zone of this machine."""
    try:
        return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return f"{at:g} s after 1970"


def when(at: float, now: float) -> str:
    """The time *at*, and how far it is from *now*."""
    return f"{moment(at)}, {ago(at, now)}"


def time_fields(**times: float | None) -> dict[str, Any]:
    """Each time twice, for programs: as ISO 8601 in UTC; and in seconds since the epoch, under its name with `_s`."""
    fields: dict[str, Any] = {}
    for name, at in times.items():
        fields[name] = None if at is None else _iso(at)
        fields[f"{name}_s"] = finite(at)
    return fields


def finite(number: float | None) -> float | None:
    """*number* as JSON may have it: to a millionth; None for one that is none."""
    return round(number, 6) if number is not None and math.isfinite(number) else None


def _iso(at: float) -> str | None:
    try:
        return (
            datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        )
    except (OverflowError, ValueError, OSError):
        return None
