"""A condition that says when somebody waits on it, so that a test can act just then."""

from __future__ import annotations

import threading


class WatchedCondition(threading.Condition):
    """`parked` is set with the lock held, just before it is released: whoever takes it next finds the waiter there."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.parked = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.parked.set()
        return super().wait(timeout)
