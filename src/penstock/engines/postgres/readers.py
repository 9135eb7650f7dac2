"""Connections for looking things up, shared by all threads of a process; few, as each is a process of the server's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from penstock import clock
from penstock.engines.postgres.link import Link, TooLate, connect
from penstock.engines.postgres.place import Place

_MOST: Final = 4  # at the same time; who finds none free waits


class Readers:
    """Some connections, and whoever uses them. Lock: `_lock` guards `_idle` and `_closed`; a leaf."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._closed = 0  # how often
        self._places = threading.BoundedSemaphore(_MOST)

    @contextmanager
    def taken(self, until: float) -> Iterator[tuple[Link, bool]]:
        """A connection, and whether it is new: one that was idle may have been lost meanwhile, without a word."""
        left = max(0.0, until - clock.monotonic())
        if not self._places.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
            raise TooLate
        try:
            with self._lock:
                closed = self._closed
                link = self._well()
            is_fresh = link is None
            link = link or connect(self._place, until)
            link.until = until
            try:
                yield link, is_fresh
            finally:
                with self._lock:
                    is_kept = closed == self._closed and link.is_well()
                    if is_kept:
                        self._idle.append(link)
                if not is_kept:
                    link.drop()
        finally:
            self._places.release()

    def close(self) -> None:
        """Let go of all, also of those that are in use, as soon as they aren't."""
        with self._lock:
            self._closed += 1
            idle, self._idle = self._idle, []
        for link in idle:
            link.drop()

    def inherited(self) -> list[Link]:
        """In the child of a fork: those of the parent's, which must not be closed here."""
        return self._idle

    def _well(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.is_well():
                return link
            link.drop()
        return None
