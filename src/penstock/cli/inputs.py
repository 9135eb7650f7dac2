"""Reading the inputs: from the command line, a file or standard input, one a line, only as they are asked for."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never

import click

STDIN = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Input:
    """One input. *problem* says why it can't be run; *value* is then the text as it was read.

    *json*: the text of one that is JSON. Its job may change the value, which is its own; this stays.
    """

    line: int  # counted from 1, blank lines too; on the command line: which INPUT
    value: object
    problem: str | None = None
    json: str | None = None


class Inputs:
    """The inputs of one run: iterate once, from one thread. Blank lines are skipped, but counted.

    *size* is how many bytes there will be and *count* how many inputs, where that is known. A file is closed at
    its end.
    """

    def __init__(
        self, lines: Iterable[bytes], *, jsonl: bool = False, size: int | None = None, count: int | None = None
    ) -> None:
        self.read = 0  # inputs given out so far
        self._begun = False
        self._lines = lines
        self._jsonl = jsonl
        self._size = size
        self._count = count
        self._bytes_read = 0

    def __iter__(self) -> Iterator[Input]:
        self._begun = True
        for number, raw in enumerate(self._lines, start=1):
            self._bytes_read += len(raw)
            raw = raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw
            if raw.isspace() or not raw:
                continue
            self.read += 1
            yield self._parse(number, raw)
        self._count = self.read
        self._close()

    def close(self) -> None:
        """Close the file if nobody has begun to read it: a reader may be blocked in it, and would block us too."""
        if not self._begun:
            self._close()

    @property
    def are_counted(self) -> bool:
        """Whether it is known how many inputs there will be."""
        return self._count is not None

    def expected(self) -> int | None:
        """How many inputs there will be: exactly if known, else guessed from the bytes read so far, or None."""
        if self._count is not None or self._size is None or not self._bytes_read:
            return self._count
        return max(self.read, round(self.read * self._size / self._bytes_read))

    def _close(self) -> None:
        if isinstance(self._lines, io.BufferedReader):
            self._lines.close()

    def _parse(self, number: int, raw: bytes) -> Input:
        # Bytes that are not UTF-8 survive as lone surrogates, so that any file's name can be an input.
        text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if not self._jsonl:
            return Input(number, text)
        try:
            written = raw.rstrip().decode("utf-8")
            return Input(number, _JSON.decode(written), json=written)
        except json.JSONDecodeError as error:
            return Input(number, text, f"invalid JSON: {error.msg} at column {error.colno}")
        except UnicodeDecodeError:
            return Input(number, text, "invalid JSON: not UTF-8")
        except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
            return Input(number, text, f"invalid JSON: {error}")


def _no_json(word: str) -> Never:
    raise ValueError(f"{word} is not a JSON value")


_JSON: Final = json.JSONDecoder(parse_constant=_no_json)  # NaN and Infinity, which Python's json reads and others don't


def open_inputs(arguments: Sequence[str], source: str | None, *, jsonl: bool) -> Inputs:
    """The inputs that the command line asks for: *arguments*, or lines of the file *source* (`-`: standard input).

    With neither, standard input is read unless it is a terminal. Raises `click.UsageError`.
    """
    if arguments and source is not None:
        raise click.UsageError("give INPUTs or --from, not both")
    if arguments and list(arguments) != [STDIN]:
        return Inputs([os.fsencode(argument) for argument in arguments], jsonl=jsonl, count=len(arguments))
    if source is not None and source != STDIN:
        return _from_file(Path(source), jsonl=jsonl)
    if source is None and not arguments and _is_terminal():
        raise click.UsageError("no inputs: give INPUTs, or --from FILE, or pipe lines in (- reads them from here)")
    return _from_stdin(jsonl=jsonl)


def _from_file(path: Path, *, jsonl: bool) -> Inputs:
    try:
        file = path.open("rb")
    except OSError as error:
        raise click.UsageError(f"can't read inputs from {str(path)!r}: {error.strerror}") from None
    return Inputs(file, jsonl=jsonl, size=_size(file.fileno()))


def _from_stdin(*, jsonl: bool) -> Inputs:
    if sys.stdin is None:
        raise click.UsageError("can't read inputs: standard input is closed")
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):  # something in its place, as in tests
        return Inputs(iter(sys.stdin.buffer), jsonl=jsonl)
    # A reader of its own: whoever is still blocked in a read of sys.stdin would hold a lock that the interpreter
    # wants at its exit.
    return Inputs(open(number, "rb", closefd=False), jsonl=jsonl, size=_size(number))


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _size(descriptor: int) -> int | None:
    """How many bytes are still to be read there; None unless it is a regular file."""
    try:
        return os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR) or None
    except OSError:  # a pipe
        return None
