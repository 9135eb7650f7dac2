"""Connections for reading, shared by all threads of a process. Readers never block writers, nor one another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from penstock import clock
from penstock.engines.sqlite import connection
from penstock.engines.sqlite.place import Place
from penstock.errors import StoreUnavailable

_MOST: Final = 8  # readings at the same time: they share one interpreter, so that more would only cost memory


class Readers:
    """Some connections, and whoever uses them. Lock: `_lock` guards `_idle` and `_closed`; a leaf."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._closed = 0  # how often
        self._places = threading.BoundedSemaphore(_MOST)

    @contextmanager
    def reading(self, within: float) -> Iterator[apsw.Connection]:
        """A connection on which everything is as it stood at one moment."""
        if not self._places.acquire(timeout=max(0.0, min(within, threading.TIMEOUT_MAX))):
            raise StoreUnavailable(self._place.url, "too many threads of this process read from it at once")
        try:
            with self._lock:
                closed = self._closed
                db = self._idle.pop() if self._idle else None
            if db is None:
                db = connection.connect(self._place)
                db.pragma("query_only", True)
            is_well = False
            try:
                db.set_busy_timeout(int(max(0.0, within) * 1000))
                db.execute("BEGIN")
                yield db
                db.execute("COMMIT")
                is_well = True
            finally:
                with self._lock:
                    is_kept = is_well and closed == self._closed
                    if is_kept:
                        self._idle.append(db)
                if not is_kept:
                    with contextlib.suppress(apsw.Error):
                        db.close(True)
        finally:
            self._places.release()

    def be_still(self, within: float) -> bool:
        """Let nobody read until `go_on`; False if somebody still does after *within* seconds."""
        until = clock.monotonic() + within
        for taken in range(_MOST):
            if not self._places.acquire(timeout=max(0.0, until - clock.monotonic())):
                self.go_on(taken)
                return False
        return True

    def go_on(self, places: int = _MOST) -> None:
        """Let threads read again."""
        for _ in range(places):
            self._places.release()

    def close(self) -> None:
        """Close the connections; those that are in use, when they no longer are. Later readings open new ones."""
        with self._lock:
            self._closed += 1
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()
