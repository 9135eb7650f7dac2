"""What the options of commands take: the text of each as a value, or a `click.BadParameter` that says what is wrong."""

from __future__ import annotations

import datetime
import math
import re
from typing import Final

import click

MOST: Final = 10_000_000  # of workers, waiting jobs, attempts: beyond that a bound is none


def count(text: str) -> int:
    """*text* as a whole number above zero. Raises `click.BadParameter`."""
    try:
        number = int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a whole number") from None
    if not 1 <= number <= MOST:
        raise click.BadParameter(f"{number} is not a whole number from 1 to {MOST:,}")
    return number


def seconds(text: str) -> float:
    """*text* as a finite length of time above zero. Raises `click.BadParameter`."""
    length = seconds_or_zero(text)
    if length == 0:
        raise click.BadParameter("it must be more than zero seconds")
    return length


def seconds_or_zero(text: str) -> float:
    """*text* as a finite length of time, zero or more. Raises `click.BadParameter`."""
    try:
        length = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number of seconds") from None
    if not math.isfinite(length) or length < 0:
        raise click.BadParameter(f"{text!r} is not a finite number of seconds, zero or more")
    return length


def moment(text: str) -> datetime.datetime:
    """*text* as a point of time; without a zone it is in this machine's."""
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{text!r} is no time: write 2030-01-31T08:00 or 2030-01-31T08:00Z") from None


UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
NUMBER: Final = r"\d{1,9}(?:\.\d{1,9})?"


def duration(text: str) -> float:
    """*text*, as in 30s, 15m, 24h, 7d or 1h30m, in seconds; a number alone is seconds, too."""
    if re.fullmatch(NUMBER, text):
        return float(text)
    if not re.fullmatch(rf"(?:{NUMBER}(?:ms|[smhdw]))+", text):
        raise click.BadParameter(f"{text!r} is no length of time: write 30s, 15m, 24h or 7d")
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(rf"({NUMBER})([a-z]+)", text))
