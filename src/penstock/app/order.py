"""What was asked for the jobs of one options view, checked at the earliest moment."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock import clock

_LONGEST_NAME: Final = 250  # characters of an id, a queue or a task
_PRIORITIES: Final = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True)
class Order:
    """The terms of an enqueue. *at*: wall time, in place of *delay*. *timeout*: seconds that the enqueue may take.

    *connection*: it takes part in the transaction that is open there.
    """

    queue: str
    priority: int
    id: str | None = None
    delay: float = 0.0
    at: float | None = None
    headers: bytes | None = None
    timeout: float | None = 30.0
    connection: Any = None

    def but(self, given: Mapping[str, Any]) -> Order:
        """These terms with what was *given*, checked: TypeError or ValueError that names the one that is wrong."""
        changed = {name: _CHECKS[name](value) for name, value in given.items()}
        if "delay" in changed and "at" in changed:
            raise ValueError("give a delay or a time (at=), not both")
        if "delay" in changed:
            changed["at"] = None
        if "at" in changed:
            changed.setdefault("delay", 0.0)
        return replace(self, **changed)


def checked_name(what: str, value: object) -> str:
    """*value* if it can be the name or id of something in a store, else a TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r}")
    if not value or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{what} must have 1 to {_LONGEST_NAME} printable characters, not {value[:300]!r}")
    return value


def checked_priority(value: object) -> int:
    """*value* if it can be a priority."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be a whole number, not {value!r}; a higher one runs first")
    if value not in _PRIORITIES:
        raise ValueError(f"priority must fit into 32 bits, not {value}")
    return int(value)


def checked_length(what: str, value: float | datetime.timedelta, *, zero: bool = True) -> float:
    """*value* in seconds if it can be a length of time, else a TypeError or ValueError."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    seconds = clock.checked_seconds(what, value, zero=zero)
    if seconds is None or math.isinf(seconds):
        raise TypeError(f"{what} must be a number of seconds, not {value!r}")
    return seconds


def _at(value: object) -> float:
    if not isinstance(value, datetime.datetime):
        raise TypeError(f"at must be a datetime, not {value!r}; for seconds from now there is delay=")
    if value.tzinfo is None:
        raise ValueError(f"at must have a time zone: {value!r}.astimezone(), if it is of this machine's")
    return value.timestamp()


def _encoded(value: Mapping[str, str]) -> bytes | None:
    from penstock.app.codec.codec import encode_headers

    return encode_headers(value)


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "queue": lambda value: checked_name("queue", value),
    "priority": checked_priority,
    "id": lambda value: checked_name("id", value),
    "delay": lambda value: checked_length("delay", value),
    "at": _at,
    "headers": _encoded,
    "timeout": lambda value: clock.checked_seconds("timeout", value),
    "connection": lambda value: value,  # what can be joined, only the engine knows
}
