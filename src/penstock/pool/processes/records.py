"""Log records of the workers, on their way to the handlers of this process: all of them, in their order, within bounds.

worker ── control lane ──> dispatcher ── put ──> waiting ── one at a time, off the dispatcher ──> handlers
                               ^                    │
                               └── deaf while it is full: a worker that logs then waits, as for a handler of its own
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any, Final

from penstock import raised, timers

log = logging.getLogger("penstock.pool")

MOST: Final = 1 << 20  # bytes of records that wait before nothing more is heard, but for what a dead worker leaves


class Records:
    """Those that wait for the handlers. *room_again*: called, on any thread, when there is room after it was full."""

    def __init__(self, room_again: Callable[[], object]) -> None:
        self._room_again = room_again
        self._in_order = timers.InOrder(self._deal_with)
        self.start_afresh()

    def start_afresh(self) -> None:
        """In the child of a fork: what waits is the parent's."""
        self._in_order.start_afresh()
        self._came = 0  # bytes; written by the dispatcher alone
        self._gone = 0  # bytes; written by whoever deals with them, one at a time
        self._said_full = False

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return self._came - self._gone

    def put(self, packed: bytes) -> None:
        """One more came."""
        self._came += len(packed)
        self._in_order.put(packed)

    def is_full(self) -> bool:
        """Whether no more should come; `room_again` is called after that."""
        if self.waiting < MOST:
            return False
        self._said_full = True
        return self.waiting >= MOST // 2 or not self._takes_back()

    def wait(self, timeout: float) -> None:
        """Return when the handlers have had all, or after *timeout* seconds."""
        self._in_order.wait(timeout)

    def _takes_back(self) -> bool:
        """Whether it is the caller, and nobody else, who sees that there is room again."""
        said, self._said_full = self._said_full, False
        return said

    def _deal_with(self, packed: bytes) -> None:
        try:
            _handle(packed)
        finally:
            self._gone += len(packed)
            if self._said_full and self.waiting < MOST // 2 and self._takes_back():
                self._room_again()


def _handle(packed: bytes) -> None:
    try:
        fields: dict[str, Any] = pickle.loads(packed)
        record = logging.makeLogRecord(fields)
        if record.levelname == f"Level {record.levelno}":  # it may have a name that only this process knows
            record.levelname = logging.getLevelName(record.levelno)
    except Exception as error:
        log.warning("a log record of a worker can't be unpickled: %s", raised.sentence(error))
        return
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
