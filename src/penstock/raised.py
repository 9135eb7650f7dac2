"""Asking and marking an error that users' code raised, whatever its class makes of it.

A class of errors may forbid that anything is written to it, as a frozen dataclass does, or run code of its own when it
is asked for its text, its cause or the name of its type, and that code may raise anything. It must cost neither a
worker nor a job's outcome: what is asked here is read past the class where that can be done, and never raises.
"""

from __future__ import annotations

import contextlib
import traceback
from types import TracebackType
from typing import Any, Final, TypeGuard, TypeVar

E = TypeVar("E", bound=BaseException)

_QUALNAME: Final[Any] = type.__dict__["__qualname__"]
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_CONTEXT: Final[Any] = BaseException.__dict__["__context__"]


def is_a(error: BaseException | None, kinds: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """Whether `except kinds` would catch it: `isinstance` also asks the error what it takes itself for."""
    return error is not None and issubclass(type(error), kinds)


def type_name(error: BaseException) -> str:
    """The qualified name of its type."""
    return str(_QUALNAME.__get__(type(error)))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Its traceback."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def set_traceback(error: BaseException, tb: TracebackType | None) -> None:
    """Let *tb* be its traceback."""
    BaseException.with_traceback(error, tb)


def cause_of(error: BaseException) -> BaseException | None:
    """What it was raised from."""
    found: BaseException | None = _CAUSE.__get__(error)
    return found


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Let *cause* be what it was raised from."""
    _CAUSE.__set__(error, cause)


def context_of(error: BaseException) -> BaseException | None:
    """What was being dealt with when it was raised."""
    found: BaseException | None = _CONTEXT.__get__(error)
    return found


def forget_context(error: BaseException) -> None:
    """Let that be nothing."""
    _CONTEXT.__set__(error, None)


def shown(error: object) -> str:
    """Its `repr`."""
    try:
        return repr(error)
    except BaseException:
        return f"<{_QUALNAME.__get__(type(error))}: its repr could not be made>"


def message_of(error: BaseException) -> str:
    """Its text."""
    try:
        return str(error)
    except BaseException:  # a `Cancelled` or a SystemExit, too
        return "<its message could not be made>"


def sentence(error: BaseException) -> str:
    """The name of its type and its text, as at the end of a traceback."""
    return f"{type_name(error)}: {message_of(error)}"


def attribute_of(error: BaseException | None, name: str) -> object:
    """What it has under *name*; None if that is nothing, or can't be had."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def printed(error: BaseException, *, limit: int | None = None) -> str | None:
    """Its traceback as text, *limit* as `traceback.format_exception` has it; None if it can't be made."""
    try:
        return "".join(traceback.format_exception(type(error), error, traceback_of(error), limit=limit))
    except BaseException:
        return None


def note(error: BaseException, text: str) -> None:
    """Add *text* to its notes, unless it doesn't let us."""
    with contextlib.suppress(Exception):
        error.add_note(text)
