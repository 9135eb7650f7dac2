"""Time that a test moves: no real second passes, and timed calls are made by whoever moves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from penstock import clock, timers


class FakeTimer:
    """A call to come. Stands in for `timers.Timer`."""

    def __init__(self, when: float, fn: Callable[[], None]) -> None:
        self.when = when
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        self.fn = None


class FakeTime:
    """Puts itself in the place of `clock.monotonic`, `clock.wall` and `timers.call_at` until *patch* is undone.

    It begins a little ahead of the real monotonic time and only grows, because the real timers' thread, which a test
    before this one may have started, reads the same clock. Whole seconds: sums of them are exact.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = float(math.ceil(time.monotonic()))
        self.began = self.now
        self.timers: list[FakeTimer] = []
        patch.setattr(clock, "monotonic", lambda: self.now)
        patch.setattr(clock, "wall", lambda: 1_000_000.0 + self.now - self.began)
        patch.setattr(timers, "call_at", self._call_at)

    @property
    def to_come(self) -> list[FakeTimer]:
        """The timers that were neither made nor cancelled."""
        return [timer for timer in self.timers if timer.fn is not None]

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and make the calls that become due, each at its time."""
        until = self.now + seconds
        while due := [timer for timer in self.to_come if timer.when <= until]:
            first = min(due, key=lambda timer: timer.when)
            self.now = max(self.now, first.when)
            fn, first.fn = first.fn, None
            if fn is not None:  # else another thread has just cancelled it
                fn()
        self.now = until

    def _call_at(self, when: float, fn: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(when, fn)
        self.timers = [*self.to_come, timer]
        return timer
