"""What a running durable job can ask of its claim: `current_job().token`, `.attempt`, `.progress(…)`."""

from __future__ import annotations

import threading
from typing import Final

from penstock import clock
from penstock.engines.requests import Progress
from penstock.engines.store import Store
from penstock.errors import StoreError

_BETWEEN: Final = 0.5  # seconds between two words on one job's progress


class StoreClaim:
    """The claim of one attempt. Lock: `_lock` guards `_next`, so that one thread at a time tells the store."""

    __slots__ = ("_lock", "_next", "_seq", "_store", "attempt", "token")

    def __init__(self, store: Store, seq: int, token: int, attempt: int) -> None:
        self._store = store
        self._seq = seq
        self.token = token
        self.attempt = attempt
        self._next = 0.0  # monotonic: what comes before is held back
        self._lock = threading.Lock()

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell the store, at most twice a second; but always of the end, when *done* is *total*."""
        with self._lock:
            now = clock.monotonic()
            if now < self._next and done != total:
                return
            self._next = now + _BETWEEN
        try:
            self._store.post(Progress(self._seq, self.token, done, total, note))
        except StoreError:
            return  # it is a word on the way; the outcome is what must not be lost
