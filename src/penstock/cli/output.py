"""Writing the results: JSON Lines, one for each input that got an outcome, on their way to the disk at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click

from penstock import raised

if TYPE_CHECKING:
    from penstock import Job
    from penstock.cli.inputs import Input

STDOUT = "-"
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]")  # in JSON only a string has any


class Output:
    """Where result lines go. A line that `write` returned from is with the system: killing us can't lose it.

    It writes past Python's own buffers and locks, so that a reader who stops reading can't hold up our exit.
    Owns *descriptor*: closes it when its `with` block ends.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.descriptor = descriptor

    def is_terminal(self) -> bool:
        """True if a person sees the lines as they come."""
        return os.isatty(self.descriptor)

    def write(self, line: bytes) -> None:
        """Write all of *line*. Raises `OSError`."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:  # whoever gave us this pipe has set it so
                select.select([], [self.descriptor], [])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


@contextlib.contextmanager
def standard_output() -> Iterator[Output]:
    """Standard output, for result lines only: until the block ends, whatever else is printed goes to standard error.

    That holds for what the user's functions print, and for the programs that they start. Raises `click.UsageError`.
    """
    try:
        sys.stdout.flush()
        number = sys.stdout.fileno()
        output = Output(os.dup(number), "standard output")
    except (OSError, ValueError, AttributeError):  # closed, or None
        raise click.UsageError("can't write results: standard output is closed; use --output FILE") from None
    with output:
        os.dup2(2, number)
        try:
            yield output
        finally:
            sys.stdout.flush()
            os.dup2(output.descriptor, number)


def open_output(path: str, *, append: bool, force: bool) -> Output:
    """The file *path*, for result lines.

    One that has something in it is refused unless *append* or *force* (replace it). Raises `click.UsageError`.
    """
    if append and force:
        raise click.UsageError("--append keeps the old results and --force drops them: give one")
    try:
        if not (append or force) and _has_something(Path(path)):
            raise click.UsageError(f"{path!r} has results already: --append adds to them, --force replaces them")
        mode = os.O_APPEND if append else os.O_TRUNC
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | mode | getattr(os, "O_BINARY", 0), 0o666)
        output = Output(descriptor, path)
        if append and _ends_within_a_line(descriptor):
            output.write(b"\n")  # what an earlier run was killed in the middle of stays a line of its own
    except OSError as error:
        raise click.UsageError(f"can't write results to {path!r}: {error.strerror}") from None
    return output


def result_line(task: Input, job: Job[object]) -> bytes:
    """The line for *task* once its *job* has finished, whatever became of it."""
    fields: dict[str, object] = {"state": str(job.state)}
    try:
        fields["result"] = job.result(timeout=0)
    except BaseException as error:  # a job may raise anything, SystemExit too: here it is only news
        fields["error"] = described(error)
    fields |= {"waited": _seconds(job.waited), "ran": _seconds(job.ran), "attempt": job.attempt}
    return _line(job.id, task, fields)


def invalid_line(task: Input) -> bytes:
    """The line for an input that could not become a job."""
    error = {"type": "InvalidInput", "message": f"line {task.line}: {task.problem}"}
    return _line(None, task, {"state": "invalid", "error": error})


def described(error: BaseException) -> dict[str, str]:
    """The type and the message of *error*, for a result line."""
    return {"type": raised.type_name(error), "message": raised.message_of(error)}


def _line(number: int | str | None, task: Input, fields: dict[str, object]) -> bytes:
    head = json.dumps({"id": number, "line": task.line})
    return f'{head[:-1]}, "input": {said_input(task)}, {_encoded(fields)[1:]}\n'.encode()


def said_input(task: Input) -> str:
    """The input of *task* as JSON, in ASCII: as it was read, whatever its job has made of it."""
    if task.json is None:
        return json.dumps(task.value)
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], task.json).replace("\r", " ")


def _encoded(fields: dict[str, object]) -> str:
    try:
        return json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # it has a result that JSON has no words for
        return json.dumps({("repr" if key == "result" else key): _said(key, fields[key]) for key in fields})


def _said(key: str, value: object) -> object:
    """*value*, or its `repr` if it is a result."""
    if key != "result":
        return value
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__} whose repr fails>"


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _has_something(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _ends_within_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
