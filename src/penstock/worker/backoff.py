"""How long to wait before the next try: longer each time, and not in step with others."""

from __future__ import annotations

import random


class Backoff:
    """Delays that grow from *first* to *most* seconds, each less a random share of up to a half."""

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first, self._most = first, most
        self._now = first

    def next(self) -> float:
        """Seconds to wait before the next try."""
        delay = self._now
        self._now = min(self._most, self._now * 2)
        return delay * (1 - random.random() / 2)

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has had to wait yet."""
        return self._now == self._first

    def reset(self) -> None:
        """It helped."""
        self._now = self._first
