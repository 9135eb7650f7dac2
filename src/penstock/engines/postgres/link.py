"""One connection to the server, on which nothing waits longer than it may.

psycopg's calls wait for the server without end if they aren't told otherwise, and a network that swallows packets gives
none. So each wait is told when the time is over; then the connection ends, too, since nobody knows what it would say
next.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import adapt, errors, pq
from psycopg.abc import Transformer

from penstock import clock
from penstock.engines.postgres.place import Place
from penstock.errors import StoreInvalid, StoreUnavailable

_TICK: Final = 0.1  # seconds between two looks at the time, as a signal's handler may have to run

AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure)  # nothing was done; at once it may go well

OF_WHAT_IS_ASKED: Final = (psycopg.DataError, errors.ProgramLimitExceeded)  # a name too long for an index, say

UNKEPT: Final = (  # a statement that the server was told to keep, and hasn't, or not as it was: nothing was done
    errors.InvalidSqlStatementName,
    errors.DuplicatePreparedStatement,
    errors.FeatureNotSupported,  # "cached plan must not change result type"
)

_HOLDS_ALL: Final = ("UTF8", "SQL_ASCII", None)  # SQL_ASCII takes bytes as they are; None: a pooler that doesn't say

_LASTING: Final = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.UndefinedObject,  # a role, say
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


class Words:
    """A statement as one connection is told it, with `$1` for the first of *names*."""

    __slots__ = ("is_kept", "name", "names", "text")

    def __init__(self, text: bytes, names: Sequence[str]) -> None:
        self.text = text
        self.names = names
        # By which the server may know it; never another, whoever has told it.
        self.name = b"penstock_" + hashlib.blake2b(text, digest_size=12).hexdigest().encode()
        self.is_kept = False  # it does


class Link(psycopg.Connection[Any]):
    """A psycopg connection whose every call ends by `until`, clock.monotonic()."""

    until: float = math.inf
    place: Place
    encoding: str
    prepares = False  # the server may be told to keep statements
    words: dict[str, Words]  # by statement
    transformer: Transformer

    def wait(self, gen: Any, interval: float = _TICK, timeout: float | None = None) -> Any:
        """Let *gen* go on whenever the socket is ready; see `psycopg.Connection.wait`."""
        left = max(0.0, self.until - clock.monotonic())
        if timeout is not None and timeout <= left:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, None if math.isinf(left) else left)
        except errors._WaitTimeout:
            self.drop()  # what comes from the server now belongs to nobody
            raise TooLate from None

    def is_well(self) -> bool:
        """Whether the server still seems to be there: it has said nothing while nothing was asked."""
        if self.closed or self.info.transaction_status != pq.TransactionStatus.IDLE:
            return False
        if self.pgconn.pipeline_status != pq.PipelineStatus.OFF:  # who was in it was interrupted
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


def connect(place: Place, until: float) -> Link:
    """A new connection, each statement of which is committed unless it is in a transaction. Raises psycopg's errors.

    `StoreInvalid` if the database can't hold each text: the words of an error, say, which a worker has to tell.
    """
    left = until - clock.monotonic()
    if left <= 0:
        raise TooLate
    hosts = str(place.options.get("hostaddr") or place.options.get("host") or "").count(",") + 1
    options = {"connect_timeout": max(2, math.ceil(min(left, 3600) / hosts)), **place.options}  # for each of them
    options["client_encoding"] = "utf8"  # whatever the role, or the environment, has
    link = Link.connect(**options, autocommit=True, prepare_threshold=None)
    encoding = link.info.parameter_status("server_encoding")
    if encoding not in _HOLDS_ALL:
        link.drop()
        raise StoreInvalid(place.url, f"its encoding is {encoding}: a database in UTF8 is needed, to hold any text")
    link.until, link.place, link.encoding = until, place, link.info.encoding
    link.words, link.transformer = {}, adapt.Transformer(link)
    return link


def is_direct(link: Link, pid: int) -> bool:
    """Whether *pid*, which the server says is its end of *link*, is what it said at the start: a pooler has its own."""
    return link.info.backend_pid == pid


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """A block whose errors of the server come out as ours."""
    try:
        yield
    except psycopg.Error as error:
        words = error.diag.message_primary or str(error)  # libpq's come in several lines
        said = " ".join(words.split()) or type(error).__name__
        if isinstance(error, _LASTING):
            raise StoreInvalid(place.url, said) from error
        if isinstance(error, errors.ReadOnlySqlTransaction):
            raise StoreUnavailable(place.url, "it is read-only: a standby, perhaps") from error
        if isinstance(error, errors.QueryCanceled):
            raise StoreUnavailable(place.url, "it was too busy, or something there is locked") from error
        if isinstance(error, psycopg.OperationalError | psycopg.InternalError | psycopg.InterfaceError):
            raise StoreUnavailable(place.url, said) from error
        raise
