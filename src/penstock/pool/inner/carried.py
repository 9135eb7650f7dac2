"""What a job takes along to its worker: its context, if it has one.

    in this process    the very job: `current_job()`, its context, its contextvars; a `cancel` reaches it
    anywhere else      what is left of its time, counted from when it was packed, and its values; no `cancel`

Which of the two it is turns out by itself: packing a `Carried` leaves the job behind.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from penstock.context import Context, scope
from penstock.errors import Cancelled
from penstock.job import Job, name_of

if TYPE_CHECKING:
    from penstock.pool.inner.slot import Hold


class Carried:
    """A function that runs in the context of its job. Its name is the function's, for whoever shows it."""

    def __init__(
        self,
        fn: Callable[..., Any],
        timeout: float | None = None,
        values: Mapping[Any, Any] | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._fn = fn
        self._timeout = timeout
        self._values = values
        self._hold = hold
        self.__name__ = self.__qualname__ = name_of(fn)

    def __reduce__(self) -> tuple[Any, ...]:
        timeout, values = self._timeout, self._values
        context = None if self._hold is None else self._hold.job._context
        if context is not None:
            timeout = None if context.deadline is None else context.remaining()
            values = dict(context.values)
        return type(self), (self._fn, timeout, values)

    def __call__(self, *args: Any) -> Any:
        """What the function returns; `Cancelled` without a call if its time is over."""
        try:
            if self._hold is not None:
                return _run_here(self._hold, self._fn, args)
            context = Context(self._timeout, values=self._values, parent=None)
            return contextvars.copy_context().run(_run_in, context, self._fn, args)
        finally:
            del self, args  # an error's frames reach this one, and its job keeps the error: a cycle


def _run_in(context: Context, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    scope.set(context)
    context.check()
    return fn(*args)


def _run_here(hold: Hold, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        if not hold.enter(threading.current_thread()):
            raise Cancelled("its time was over before the executor came to it")
        try:
            return hold.cv.run(_run_as_job, hold.job, fn, args)
        finally:
            hold.leave()
    finally:
        del hold, args  # likewise


def _run_as_job(job: Job[Any], fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    scope.set(job)
    try:
        return fn(*args)
    finally:
        del job, args  # likewise
