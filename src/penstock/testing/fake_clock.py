"""Time that stands still until somebody moves it."""

from __future__ import annotations

import datetime
import threading
import time

from penstock import clock


class FakeClock:
    """The clock of a store in a test. It begins at *start*, seconds since the epoch, or now; and then stands still.

    Any thread may read and move it.
    """

    def __init__(self, start: float | None = None) -> None:
        self._lock = threading.Lock()
        self._now = time.time() if start is None else float(start)  # guarded by _lock

    def __call__(self) -> float:
        """The time, seconds since the epoch."""
        with self._lock:
            return self._now

    @property
    def now(self) -> datetime.datetime:
        """The time, in UTC: for `options(at=clock.now + timedelta(hours=1))`."""
        return datetime.datetime.fromtimestamp(self(), datetime.UTC)

    def advance(self, seconds: float | datetime.timedelta) -> None:
        """Let *seconds* pass."""
        if isinstance(seconds, datetime.timedelta):
            seconds = seconds.total_seconds()
        length = clock.checked_seconds("seconds", seconds)
        if length is None:
            raise TypeError("seconds must be a number of seconds, not None")
        with self._lock:
            self._now += length

    def __repr__(self) -> str:
        return f"<FakeClock {self.now.isoformat()}>"
