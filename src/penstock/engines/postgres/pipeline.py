"""Statements of one transaction: sent one behind the other, and answered in that order.

    run ──> run ──> run ──> sync ──> server      nothing is waited for, until an answer is fetched, or all by `finish`
     │       │       │       │
    Answer  Answer  Answer  Sync <── server      where one fails, the rest up to the sync is passed over

All up to a sync is one transaction, without BEGIN and COMMIT: so says the protocol. It is committed when the sync is
answered and nothing before has failed.

psycopg's own cursors do the same for statements and values of any kind. Here each statement is taken to pieces once for
a connection. One that was asked for as `prepared` is planned by the server once, too, if the connection is ours alone:
behind a pooler another session might be asked for it, which has never heard of it.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import psycopg
from psycopg import errors, pq

from penstock import clock
from penstock.engines.postgres.link import Link, TooLate, Words

_VALUE: Final = re.compile(r"%\((\w+)\)s")
_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_TEXT, _BINARY = pq.Format.TEXT, pq.Format.BINARY
_BYTEA, _FLOAT8 = 17, 701  # the numbers of those types
_HEAD: Final = struct.Struct("!iiIii")  # of an array: dimensions, NULLs, type, length, the first's number
_FLOAT: Final = struct.Struct("!id").pack
_LENGTH: Final = struct.Struct("!i").pack
_NULL: Final = _LENGTH(-1)
_END: Final = ("FATAL", "PANIC")  # an error behind which nothing comes
_ROLL_BACK: Final = 1.0  # seconds that the server has for it


class Answer:
    """What the server says to one statement."""

    def __init__(self, pipeline: Pipeline, words: Words | None = None) -> None:
        self._pipeline = pipeline
        self.words = words  # those that the server keeps, once it has said yes
        self.result: pq.abc.PGresult | None = None

    def fetchall(self) -> list[Any]:
        """The rows, waited for if need be. Raises what the server says, of this statement or one before."""
        return self._pipeline.rows(self)


class Sync(Answer):
    """What the server says to the end of a transaction."""

    is_done = False  # nothing had failed before: it is committed


class Pipeline:
    """A pipeline on *link*, as a context manager. No answer is waited for longer than the link may.

    A block that raises leaves nothing half done: the transaction is rolled back, or the connection is dropped.
    *prepares*: the server may be told to keep statements, and does so with the plans that it makes meanwhile.
    """

    def __init__(self, link: Link, *, prepares: bool = False) -> None:
        self._link = link
        self.prepares = prepares
        self._libpq = link.pgconn
        self._poll = select.poll()
        self._expected: deque[Answer] = deque()
        self._is_open = False  # something was sent since the last sync
        self._error: psycopg.Error | None = None  # the first

    def __enter__(self) -> Pipeline:
        self._poll.register(self._libpq.socket, select.POLLIN)
        self._libpq.enter_pipeline_mode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):  # an interrupt, at whatever this was
            self._link.drop()
        if (self._is_open or self._expected) and not self._link.closed:
            self._roll_back()
        if not self._link.closed:
            try:
                self._libpq.exit_pipeline_mode()
            except psycopg.Error:
                # There are answers left: a signal's handler has raised between the asking and the note of it.
                self._link.drop()

    def run(self, statement: str, values: Mapping[str, Any], *, prepared: bool = False) -> Answer:
        """Send *statement*, whose `%(name)s` are *values*.

        *prepared*: its plan may be made once, being the same whatever the tables hold.
        """
        words = self._link.words.get(statement) or self._taken_to_pieces(statement)
        parameters, formats = [], []
        for name in words.names:
            value, format = encoded(values[name], self._link.encoding)
            parameters.append(value)
            formats.append(format)
        self._is_open = True
        if prepared and self.prepares:
            if not words.is_kept and all(it.words is not words for it in self._expected):
                self._libpq.send_prepare(words.name, words.text)
                self._expected.append(Answer(self, words))
            self._libpq.send_query_prepared(words.name, parameters, formats, _BINARY)
        else:
            self._libpq.send_query_params(words.text, parameters, None, formats, _BINARY)
        answer = Answer(self)
        self._expected.append(answer)
        return answer

    def sync(self) -> Sync:
        """End a transaction: what was sent since the last one is to be committed."""
        self._libpq.pipeline_sync()
        self._is_open = False
        sync = Sync(self)
        self._expected.append(sync)
        return sync

    def finish(self) -> None:
        """Wait for all answers. Raises the first error."""
        self._flush()
        while self._expected:
            self._receive()
        if self._error is not None:
            raise self._error

    def rows(self, answer: Answer) -> list[Any]:
        """The rows of *answer*; see `Answer.fetchall`."""
        if answer.result is None and self._error is None:
            self._libpq.send_flush_request()
            self._flush()
        while answer.result is None and self._error is None:
            self._receive()
        if answer.result is None:
            assert self._error is not None
            raise self._error
        transformer = self._link.transformer
        transformer.set_pgresult(answer.result)
        return transformer.load_rows(0, answer.result.ntuples, tuple)

    def _taken_to_pieces(self, statement: str) -> Words:
        numbers: dict[str, int] = {}
        text = _VALUE.sub(
            lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", self._link.place.sql(statement)
        )
        words = self._link.words[statement] = Words(text.encode(self._link.encoding), tuple(numbers))
        return words

    def _roll_back(self) -> None:
        self._link.until = clock.monotonic() + _ROLL_BACK
        with contextlib.suppress(psycopg.Error):
            self._libpq.send_query_params(b"ROLLBACK", None)
            self._expected.append(Answer(self))
            self.sync()
            self.finish()
        if self._is_open or self._expected:
            self._link.drop()

    def _receive(self) -> None:
        """Take the next answer. Raises if the connection has ended."""
        answer = self._expected[0]
        self._take(answer)
        if isinstance(answer, Sync) and answer.result is None and not self._link.closed:
            self._take(answer)  # what kept it from being committed came first
        if answer.result is None and self._error is None:
            self._fail(psycopg.OperationalError(self._libpq.get_error_message()))
        self._expected.popleft()

    def _take(self, answer: Answer) -> None:
        while (result := self._result()) is not None:
            status = result.status
            if status in _GOOD:
                answer.result = result
                if answer.words is not None:
                    answer.words.is_kept = True
            elif status == pq.ExecStatus.PIPELINE_SYNC:
                if not isinstance(answer, Sync):  # a signal's handler has raised between the asking and the note of it
                    self._link.drop()
                    raise psycopg.OperationalError("nobody knows to what these answers are")
                answer.result = result
                answer.is_done = self._error is None
                return
            elif status != pq.ExecStatus.PIPELINE_ABORTED:
                self._fail(errors.error_from_result(result, self._link.encoding))

    def _fail(self, error: psycopg.Error) -> None:
        self._error = self._error or error
        if self._link.closed or error.diag.severity_nonlocalized in _END:
            self._link.drop()
            raise error

    def _result(self) -> pq.abc.PGresult | None:
        while self._libpq.is_busy():
            self._wait(select.POLLIN)
            self._libpq.consume_input()
        return self._libpq.get_result()

    def _flush(self) -> None:
        while self._libpq.flush():
            self._wait(select.POLLIN | select.POLLOUT)
            self._libpq.consume_input()  # else each side might wait for the other to read

    def _wait(self, events: int) -> None:
        left = self._link.until - clock.monotonic()
        self._poll.modify(self._libpq.socket, events)
        if not self._poll.poll(None if math.isinf(left) else max(0.0, left) * 1000):
            self._link.drop()  # what comes from the server now belongs to nobody
            raise TooLate


def encoded(value: Any, encoding: str) -> tuple[bytes | None, pq.Format]:
    """*value* as the server understands it, whatever type the statement makes of it, and in which format."""
    if value is None:
        return None, _TEXT
    if isinstance(value, str):
        return _checked(value).encode(encoding), _TEXT
    if isinstance(value, bytes):
        return value, _BINARY
    if isinstance(value, list):
        return _array(value, encoding)
    return _number(value).encode(), _TEXT


def _array(values: Sequence[Any], encoding: str) -> tuple[bytes, pq.Format]:
    some = next((value for value in values if value is not None), None)
    if isinstance(some, bytes):
        return _binary_array(values), _BINARY
    if isinstance(some, float) and None not in values:
        return _HEAD.pack(1, 0, _FLOAT8, len(values), 1) + b"".join([_FLOAT(8, value) for value in values]), _BINARY
    if not isinstance(some, str):
        return f"{{{','.join(map(_number, values))}}}".encode(), _TEXT
    if None in values:
        return f"{{{','.join('NULL' if it is None else _quoted(it) for it in values)}}}".encode(encoding), _TEXT
    return f"{{{_quoted(*values)}}}".encode(encoding), _TEXT


def _quoted(*texts: str) -> str:
    """Elements of an array."""
    text = "\0".join(texts)
    if text.count("\0") >= len(texts):
        _checked(text)
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("\0", '","') + '"'


def _checked(text: str) -> str:
    if "\0" in text:
        raise psycopg.DataError("PostgreSQL's text can't contain NUL bytes")
    return text


def _binary_array(values: Sequence[bytes | None]) -> bytes:
    parts = [_HEAD.pack(1, 1, _BYTEA, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_LENGTH(len(value)))
            parts.append(value)
    return b"".join(parts)


def _number(value: bool | int | float | None) -> str:
    return "NULL" if value is None else repr(value)
