"""When a failed job runs again: plain data and its arithmetic, for every gear."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from penstock import clock, raised
from penstock.errors import NoResult


@dataclass(frozen=True, slots=True)
class Retry:
    """Run a failed job again, up to *attempts* times in all (the first one counts).

    *on*: the exception types that are worth another attempt. `DeadlineExceeded`, `JobCancelled` and the other
    `NoResult` errors are repeated only if one of their types is named: a bare `Exception` doesn't mean them. The wait
    before attempt n+1 is `wait * factor ** (n - 1)` seconds, at most *max_wait*, less a random share of up to
    *jitter* (0 to 1) so that many failed jobs don't come back at one moment. *max_elapsed*: no attempt begins later
    than so many seconds after the job was accepted.
    """

    attempts: int
    on: tuple[type[BaseException], ...] | type[BaseException] = (Exception,)
    wait: float = 0.1
    factor: float = 2.0
    max_wait: float = 60.0
    jitter: float = 0.5
    max_elapsed: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"attempts must be a whole number, not {self.attempts!r}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more (the first one counts), not {self.attempts}")
        on = tuple(self.on) if isinstance(self.on, Iterable) and not isinstance(self.on, type | str) else (self.on,)
        for kind in on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"on must name exception types, not {kind!r}")
        object.__setattr__(self, "on", on)
        for name in ("wait", "max_wait"):
            if clock.checked_seconds(name, getattr(self, name)) is None:
                raise TypeError(f"{name} must be a number of seconds, not None")
        clock.checked_seconds("max_elapsed", self.max_elapsed)
        for name in ("factor", "jitter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter!r}")

    def covers(self, error: BaseException) -> bool:
        """Whether *error* is worth another attempt, not counting them."""
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if raised.is_a(error, NoResult):
            return any(raised.is_a(error, kind) for kind in kinds if issubclass(kind, NoResult))
        return raised.is_a(error, kinds)

    def delay(self, attempt: int, chance: float | None = None) -> float:
        """Seconds to wait after failed *attempt* (1 is the first). *chance*: 0 to 1, drawn if not given."""
        if chance is None:
            chance = random.random()
        if self.wait == 0:
            return 0.0
        try:
            grown = self.wait * self.factor ** (attempt - 1)
        except OverflowError:
            grown = self.max_wait
        return min(grown, self.max_wait) * (1 - self.jitter * chance)

    def next_delay(
        self, error: BaseException, attempt: int, elapsed: float, chance: float | None = None
    ) -> float | None:
        """Seconds until the next attempt, or None if *attempt*, which failed with *error*, was the last.

        *elapsed*: seconds since the job was accepted.
        """
        if attempt >= self.attempts or not self.covers(error):
            return None
        delay = self.delay(attempt, chance)
        if self.max_elapsed is not None and elapsed + delay > self.max_elapsed:
            return None
        return delay
