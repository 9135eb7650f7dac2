"""Requests as a part of a transaction that is the caller's own, on a connection of the caller's own.

A connection of psycopg, SQLAlchemy or Django, for plain code or for coroutines: each runs a statement in its own way.
What the server says of it is raised as their own errors, by which their code knows what to do again; but for a schema
that isn't there.
What is put may be said to all when that transaction is committed: the server keeps a NOTIFY until then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from penstock.engines import checks
from penstock.engines.postgres import puts, settling
from penstock.engines.postgres.news import TELL
from penstock.engines.postgres.place import Place
from penstock.engines.requests import Outcome, Put, Reply, Request, Settle
from penstock.errors import StoreInvalid

_NO_TABLE: Final = ("42P01", "3F000")  # what the server calls a table, or a schema, that isn't there
_VALUE: Final = re.compile(r"%\((\w+)\)s")

Statement = tuple[str, dict[str, Any]]
Run = Callable[[str, dict[str, Any]], list[Any]]
ARun = Callable[[str, dict[str, Any]], Awaitable[list[Any]]]


class JoinedTransaction:
    """See `penstock.engines.engine.Joined`. *connection* is looked at when something is asked."""

    def __init__(self, place: Place, channel: str, connection: object) -> None:
        self._place = place
        self._channel = channel
        self._run, self._arun = _ways(connection)

    def transact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Do *requests* in the transaction that is open there."""
        if self._run is None:
            raise TypeError("this connection is for coroutines: await task.aenqueue(…), await acomplete(…)")
        answers: list[Reply | Exception] = []
        with self._explained():
            for request in requests:
                refused = checks.why_refused(request)
                answers.append(refused or self._reply(request, self._run(*self._statement(request))))
            self._run(*self._news())
        return answers

    async def atransact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """As `transact`, for coroutines."""
        if self._arun is None:
            raise TypeError("this connection would block the loop: use one for coroutines, or task.enqueue(…)")
        answers: list[Reply | Exception] = []
        with self._explained():
            for request in requests:
                refused = checks.why_refused(request)
                answers.append(refused or self._reply(request, await self._arun(*self._statement(request))))
            await self._arun(*self._news())
        return answers

    def _statement(self, request: Request) -> Statement:
        match request:
            case Put(jobs):
                return self._place.sql(puts.PUT), {"now": None, **puts.values(jobs)}
            case Settle(settlements) if all(it.outcome is Outcome.DONE and it.error is None for it in settlements):
                return self._place.sql(settling.DONE), {"now": None, **settling.values(settlements)}
        raise TypeError(f"{type(request).__name__} can't be a part of somebody else's transaction")

    def _reply(self, request: Request, rows: list[Any]) -> Reply:
        """From *rows*, of which the connection may have made what its owner likes: numbers as text, text as bytes."""
        if isinstance(request, Put):
            ids = (id.decode() if isinstance(id, bytes) else str(id) for (id,) in rows)
            return puts.fates(request.jobs, [(id,) for id in ids])
        assert isinstance(request, Settle)
        return settling.answers_of(request.settlements, [(int(seq), int(token)) for seq, token in rows])

    def _news(self) -> Statement:
        return TELL, {"channel": self._channel}

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if _sqlstate(error) not in _NO_TABLE:
                raise
            raise StoreInvalid(
                self._place.url,
                f"the database of the connection that it was given has no schema {self._place.schema}, which"
                " `penstock migrate` makes; the transaction can only be rolled back now",
            ) from error


def _sqlstate(error: BaseException | None) -> str | None:
    """The server's code for *error*, in which SQLAlchemy or Django may have wrapped that of the driver."""
    while error is not None:
        code: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # of psycopg2
        if code is not None:
            return code
        error = getattr(error, "orig", None) or error.__cause__
    return None


def _ways(connection: Any) -> tuple[Run | None, ARun | None]:
    """How *connection* runs a statement, and gives its rows: at once, or to a coroutine."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(connection).__mro__}
    if "psycopg.Connection" in kinds:
        return _psycopg(_in_a_transaction(connection)), None
    if "psycopg.AsyncConnection" in kinds:
        return None, _apsycopg(_in_a_transaction(connection))
    if kinds & {"sqlalchemy.AsyncSession", "sqlalchemy.async_scoped_session", "sqlalchemy.AsyncConnection"}:
        return None, _asqlalchemy(_of_postgresql(connection))
    if kinds & {"sqlalchemy.Session", "sqlalchemy.scoped_session", "sqlalchemy.Connection"}:
        return _sqlalchemy(_of_postgresql(connection)), None
    if kinds & {"django.ConnectionProxy", "django.BaseDatabaseWrapper"}:
        return _django(connection), None
    raise TypeError(
        f"{connection!r} is no connection that a job can join: one of psycopg, SQLAlchemy (or its Session) or Django is"
    )


def _in_a_transaction(connection: Any) -> Any:
    if connection.autocommit and not connection.info.transaction_status:
        raise ValueError("the connection commits each statement by itself: open a transaction, with .transaction()")
    return connection


def _psycopg(connection: Any) -> Run:
    import psycopg  # a cursor of our own: theirs may want values, or give rows, in another way

    def run(statement: str, values: dict[str, Any]) -> list[Any]:
        with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            return list(cursor.execute(statement, values).fetchall())

    return run


def _apsycopg(connection: Any) -> ARun:
    import psycopg

    async def run(statement: str, values: dict[str, Any]) -> list[Any]:
        async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(statement, values)
            return list(await cursor.fetchall())

    return run


def _of_postgresql(connection: Any) -> Any:
    """*connection*, of SQLAlchemy or its Session."""
    bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
    name = bind.dialect.name
    if name != "postgresql":
        raise TypeError(f"SQLAlchemy's connection is to {name}, and the jobs are in PostgreSQL")
    return connection


def _sqlalchemy(connection: Any) -> Run:
    def run(statement: str, values: dict[str, Any]) -> list[Any]:
        joined = connection.connection() if hasattr(connection, "get_bind") else connection
        _no_autocommit(joined)
        return [tuple(row) for row in joined.execute(_text(statement), values).all()]

    return run


def _asqlalchemy(connection: Any) -> ARun:
    async def run(statement: str, values: dict[str, Any]) -> list[Any]:
        joined = await connection.connection() if hasattr(connection, "get_bind") else connection
        _no_autocommit(joined.sync_connection)
        return [tuple(row) for row in (await joined.execute(_text(statement), values)).all()]

    return run


def _no_autocommit(connection: Any) -> None:
    if connection.connection.dbapi_connection.autocommit:  # all drivers have it, or SQLAlchemy gives it to them
        raise ValueError("SQLAlchemy commits each statement by itself here: its isolation level is AUTOCOMMIT")


def _text(statement: str) -> Any:
    """For SQLAlchemy, which names values as `:name`, and turns them into what its driver has."""
    from sqlalchemy import text

    casts = re.sub(r"%\((\w+)\)s::(\w+(?:\[\])?)", r"CAST(%(\1)s AS \2)", statement)
    return text(_VALUE.sub(r":\1", casts.replace(":", r"\:")))


def _django(connection: Any) -> Run:
    if connection.vendor != "postgresql":
        raise TypeError(f"Django's connection is to {connection.vendor}, and the jobs are in PostgreSQL")
    if not connection.in_atomic_block:
        raise ValueError("Django commits each statement by itself here: use transaction.atomic()")

    def run(statement: str, values: dict[str, Any]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return [tuple(row) for row in cursor.fetchall()]

    return run
