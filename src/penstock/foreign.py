"""What is asked of errors that others have raised, however odd: none of this raises.

An error class may have an `__str__` that exits, a `__setattr__` that refuses, a `__getattr__` that asks itself: what it
does must cost neither a job its outcome nor a worker its life.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Final

# As BaseException itself has them, whatever the error's own class makes of these names.
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_CONTEXT: Final[Any] = BaseException.__dict__["__context__"]


def message(error: BaseException) -> str:
    """Its sentence."""
    try:
        return str(error)
    except BaseException:  # a SystemExit, too
        return "<its message could not be made>"


def shown(error: BaseException) -> str:
    """Its `repr`."""
    try:
        return repr(error)
    except BaseException:
        return f"<{type(error).__qualname__}: its repr could not be made>"


def asked(error: BaseException | None, name: str) -> Any:
    """Its attribute of that name; None if it has none, or raises when it is asked."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def traceback_of(error: BaseException) -> TracebackType | None:
    """Its traceback."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def cause_of(error: BaseException) -> BaseException | None:
    """Its `__cause__`."""
    found: BaseException | None = _CAUSE.__get__(error)
    return found


def set_traceback(error: BaseException, tb: TracebackType | None) -> None:
    """Let *tb* be its traceback."""
    _TRACEBACK.__set__(error, tb)


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Let *cause* be its `__cause__`, as `raise error from cause` does."""
    _CAUSE.__set__(error, cause)


def context_of(error: BaseException) -> BaseException | None:
    """Its `__context__`."""
    found: BaseException | None = _CONTEXT.__get__(error)
    return found


def forget_context(error: BaseException) -> None:
    """Let it have none."""
    _CONTEXT.__set__(error, None)


def note(error: BaseException, text: str) -> None:
    """Add a note, if it takes any."""
    with contextlib.suppress(Exception):
        error.add_note(text)
