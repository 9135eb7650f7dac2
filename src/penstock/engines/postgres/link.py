"""One connection to the server, on which nothing waits longer than it may.

psycopg's own calls wait for the server without end, and a network that swallows packets gives none. So the waiting is
ours: it ends when the time is over, and the connection with it, since nobody knows what it would say next.
"""

from __future__ import annotations

import contextlib
import math
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors, pq, waiting

from penstock import clock
from penstock.engines.postgres.place import Place
from penstock.errors import StoreInvalid, StoreUnavailable

T = TypeVar("T")

_TICK: Final = 0.1  # seconds between two looks at the time, as a signal's handler may have to run

AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure)  # nothing was done; at once it may go well

_LASTING: Final = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.InsufficientPrivilege,
    errors.InvalidCatalogName,
    errors.DataCorrupted,
    errors.IndexCorrupted,
)


class TooLate(psycopg.OperationalError):
    """The server has not answered in time."""

    def __init__(self) -> None:
        super().__init__("it has not answered in time")


class Link(psycopg.Connection[Any]):
    """A psycopg connection whose every call ends by `until`, clock.monotonic()."""

    until: float = math.inf

    def wait(self, gen: Any, interval: float = _TICK, timeout: float | None = None) -> Any:
        """Let *gen* go on whenever the socket is ready; see `psycopg.Connection.wait`."""
        poll = select.poll()
        fileno = self.pgconn.socket
        end = math.inf if timeout is None else clock.monotonic() + timeout
        try:
            wanted = next(gen)
            poll.register(fileno, _events(wanted))
            while True:
                left = min(self.until, end) - clock.monotonic()
                ready = poll.poll(max(0.0, min(left, interval)) * 1000)
                if not ready and left > 0:
                    continue
                if not ready and end < self.until:
                    wanted = gen.send(waiting.READY_NONE)  # as psycopg does: it may have enough by now
                    continue
                if not ready:
                    raise TooLate
                wanted = gen.send(_ready(ready[0][1], wanted))
                poll.modify(fileno, _events(wanted))
        except StopIteration as done:
            return done.value
        except BaseException as error:
            if not isinstance(error, psycopg.Error) or isinstance(error, TooLate):
                # Interrupted in the middle: what comes next from the server belongs to nobody.
                gen.close()
                self.pgconn.finish()
            raise

    def is_well(self) -> bool:
        """Whether the server still seems to be there: it has said nothing while nothing was asked."""
        if self.closed or self.info.transaction_status != pq.TransactionStatus.IDLE:
            return False
        poll = select.poll()
        try:
            poll.register(self.pgconn.socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, psycopg.Error):
            return False

    def drop(self) -> None:
        """Close it, whatever it is at."""
        with contextlib.suppress(Exception):
            self.pgconn.finish()


def _events(wanted: Any) -> int:
    return (select.POLLIN if wanted & waiting.WAIT_R else 0) | (select.POLLOUT if wanted & waiting.WAIT_W else 0)


def _ready(events: int, wanted: Any) -> Any:
    ready = 0
    if events & ~select.POLLOUT:  # errors are read, too
        ready |= waiting.READY_R
    if events & select.POLLOUT:
        ready |= waiting.READY_W
    return ready or wanted


def connect(place: Place, until: float) -> Link:
    """A new connection, each statement of which is committed unless it is in a transaction. Raises psycopg's errors."""
    left = until - clock.monotonic()
    if left <= 0:
        raise TooLate
    options = {"connect_timeout": max(2, math.ceil(min(left, 3600))), **place.options}
    link = Link.connect(**options, autocommit=True, prepare_threshold=None)
    link.until = until
    return link


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """A block whose errors of the server come out as ours."""
    try:
        yield
    except psycopg.Error as error:
        said = str(error).strip() or type(error).__name__
        if isinstance(error, _LASTING):
            raise StoreInvalid(place.url, said) from error
        if isinstance(error, errors.ReadOnlySqlTransaction):
            raise StoreUnavailable(place.url, "it is read-only: a standby, perhaps") from error
        if isinstance(error, errors.QueryCanceled):
            raise StoreUnavailable(place.url, "it was too busy, or something there is locked") from error
        if isinstance(error, psycopg.OperationalError | psycopg.InternalError | psycopg.InterfaceError):
            raise StoreUnavailable(place.url, said) from error
        raise
