"""What people read: lines and tables on standard output, fitted to a terminal, whole and without colours in a pipe."""

from __future__ import annotations

import errno
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from penstock.job import JobState

GAP: Final = 2  # between two columns

DIM: Final = "dim"
BOLD: Final = "bold"
WARN: Final = "yellow"
BAD: Final = "red"
GOOD: Final = "green"
OF_STATE: Final = {
    JobState.SCHEDULED: "blue",
    JobState.READY: "cyan",
    JobState.RUNNING: "bold cyan",
    JobState.DONE: GOOD,
    JobState.FAILED: BAD,
    JobState.CANCELLED: WARN,
}


class Styled(NamedTuple):
    """A piece of text. What it holds of the store's must be printable already."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    right: bool = False
    least: int | None = None  # cells that it may be cut down to where the line is too short, the last column first
    by_end: bool = False  # its end tells most: it is cut at its beginning
    enough: int | None = None  # cells that it should have before extra columns are shown
    extra: bool = False  # left out where there is no room for enough of all others, again the last first


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is never cut. A terminal wraps it as it likes; or we do, between words, with a *hang*."""

    text: str = ""
    style: str = ""
    hang: int | None = None  # cells before all lines but the first


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below the titles of their columns."""

    columns: Sequence[Column]
    rows: list[Sequence[str | Styled]] = field(default_factory=list)


Block: TypeAlias = Line | Table


def show(blocks: Iterable[Block]) -> None:
    """Write *blocks* on standard output."""
    console = _console()
    if not console.is_terminal:
        for line in plain(blocks):
            print(line)
        return
    for text in drawn(blocks, console.width):
        console.print(text, soft_wrap=True)


class Screen:
    """Where pages follow one another: in place of the one before on a terminal if they are *whole* screens."""

    def __init__(self, *, whole: bool) -> None:
        console = _console()
        is_live = whole and console.is_terminal
        self._live = Live(console=console, screen=True, auto_refresh=False) if is_live else None
        self._pages = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, blocks: Iterable[Block]) -> None:
        """Show *blocks* as the page of now. Raises `OSError` once there is no terminal any more."""
        if self._live is not None:
            if not sys.stdout.isatty():  # it was hung up; rich would go on for nobody
                raise OSError(errno.EIO, "the terminal is gone")
            self._live.update(Group(*drawn(blocks, self._live.console.width)), refresh=True)
            return
        if self._pages:
            print()
        self._pages += 1
        show(blocks)
        sys.stdout.flush()


def remark(text: str) -> None:
    """Say *text* beside the results: on standard error."""
    print(text, file=sys.stderr)


def say_json(document: Any) -> None:
    """Write *document* as one line of JSON on standard output, in ASCII."""
    print(json.dumps(document, allow_nan=False))


def plain(blocks: Iterable[Block], width: int | None = None) -> Iterator[str]:
    """The lines of *blocks* without colours; None for as wide as they are."""
    return (text.plain.rstrip() for text in drawn(blocks, width))


def drawn(blocks: Iterable[Block], width: int | None) -> Iterator[Text]:
    """The lines of *blocks*, tables fitted to *width* cells (None: as wide as they are)."""
    for block in blocks:
        if isinstance(block, Line):
            yield from (Text(text, block.style) for text in _wrapped(block, width))
        else:
            yield from _table(block, width)


def _wrapped(line: Line, width: int | None) -> list[str]:
    if line.hang is None or width is None:
        return [line.text]
    indent = " " * line.hang
    return textwrap.wrap(line.text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(table: Table, width: int | None) -> Iterator[Text]:
    rows = [[Styled(column.title, BOLD) for column in table.columns]]
    rows += [[_styled(cell) for cell in row] for row in table.rows]
    sizes = [max(cell_len(row[place].text) for row in rows) for place in range(len(table.columns))]
    if width is not None:
        sizes = _fitted(sizes, table.columns, width)
    for row in rows:
        line = Text(no_wrap=True)
        for cell, column, size in zip(row, table.columns, sizes, strict=True):
            if size:
                line.append(_sized(cell.text, size, column), cell.style)
                line.append(" " * GAP)
        line.rstrip()
        yield line


def _fitted(sizes: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """The sizes of *columns* in a line of *width*: those that can do without are left out (0), then others are cut."""
    fitted = list(sizes)
    least = [min(size, column.least or size) for size, column in zip(sizes, columns, strict=True)]
    enough = [
        min(size, column.enough or at_least) for size, at_least, column in zip(sizes, least, columns, strict=True)
    ]
    for place, column in reversed(list(enumerate(columns))):
        if column.extra and _excess(enough, width) > 0:
            fitted[place] = least[place] = enough[place] = 0
    for place in reversed(range(len(columns))):
        fitted[place] = max(least[place], fitted[place] - max(0, _excess(fitted, width)))
    return fitted


def _excess(sizes: Sequence[int], width: int) -> int:
    """Cells that columns of these *sizes* need beyond *width*."""
    return sum(size + GAP for size in sizes if size) - GAP - width


def _sized(text: str, size: int, column: Column) -> str:
    length = cell_len(text)
    if length > size and column.by_end:
        return "…" + set_cell_size(text[::-1], size - 1)[::-1]
    if length > size:
        return set_cell_size(text, size - 1) + "…"
    return " " * (size - length) + text if column.right else text + " " * (size - length)


def _styled(cell: str | Styled) -> Styled:
    return cell if isinstance(cell, Styled) else Styled(cell)


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the locale may not have all letters
    return Console(highlight=False, markup=False, emoji=False)
