"""Time that stands still until somebody moves it."""

from __future__ import annotations

import datetime
import math
import threading
import time
from typing import Final

from penstock import clock

_SECOND: Final = 1_000_000  # microseconds
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class FakeClock:
    """The clock of a store in a test. It begins at *start*, seconds since the epoch, or now; and then stands still.

    Any thread may read and move it.
    """

    def __init__(self, start: float | None = None) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock. Whole microseconds, as a datetime has them: one of now is due now.
        self._now = round((time.time() if start is None else start) * _SECOND)

    def __call__(self) -> float:
        """The time, seconds since the epoch."""
        with self._lock:
            return self._now / _SECOND

    @property
    def now(self) -> datetime.datetime:
        """The time, in UTC: for `options(at=clock.now + timedelta(hours=1))`."""
        with self._lock:
            return _EPOCH + datetime.timedelta(microseconds=self._now)

    def advance(self, seconds: float | datetime.timedelta) -> None:
        """Let *seconds* pass, in whole microseconds, rounded up."""
        if isinstance(seconds, datetime.timedelta):
            seconds = seconds.total_seconds()
        length = clock.checked_seconds("seconds", seconds)
        if length is None:
            raise TypeError("seconds must be a number of seconds, not None")
        with self._lock:
            self._now += math.ceil(length * _SECOND)

    def __repr__(self) -> str:
        return f"<FakeClock {self.now.isoformat()}>"
