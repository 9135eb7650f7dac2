"""What a pool and its jobs were asked for, checked at the earliest moment."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from penstock import clock
from penstock.context import Context
from penstock.job import Claim, Crew
from penstock.retry import Retry

WhenFull = Literal["block", "reject", "caller"]
Unobserved = Literal["log", "raise", "ignore"]
Around = Callable[[], AbstractContextManager[Any]]

_LARGEST_BACKLOG: Final = 10_000_000  # places; each costs 8 bytes up front
NO_PLAIN_FUNCTION: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What was agreed for the jobs of one options view. One object for all its jobs.

    *plain*: nothing was asked for, so that a worker can skip the parts for deadlines and retries.
    """

    crew: Crew
    when_full: WhenFull | None
    submit_timeout: float | None
    timeout: float | None
    retry: Retry | None
    id: int | str | None = None
    name: str | None = None
    context: Context | None = None
    inherit: bool = True
    plain: bool = False
    claim: Claim | None = None

    @classmethod
    def checked(cls, **given: Any) -> JobTerms:
        """Terms with every value checked: TypeError or ValueError that names the one that is wrong."""
        terms = cls(**given)
        if terms.when_full is not None and terms.when_full not in get_args(WhenFull):
            raise ValueError(f"when_full must be 'block', 'reject', 'caller' or None, not {terms.when_full!r}")
        clock.checked_seconds("submit_timeout", terms.submit_timeout)
        clock.checked_seconds("timeout", terms.timeout, zero=False)
        if terms.retry is not None and not isinstance(terms.retry, Retry):
            raise TypeError(f"retry must be a Retry or None, not {terms.retry!r}; write retry=Retry(3)")
        if isinstance(terms.id, bool) or not isinstance(terms.id, int | str | None):
            raise TypeError(f"id must be a string or a number, not {terms.id!r}")
        if not isinstance(terms.name, str | None):
            raise TypeError(f"name must be a string, not {terms.name!r}")
        if not isinstance(terms.context, Context | None):
            raise TypeError(f"context must be a Context or None, not {terms.context!r}")
        plain = terms.timeout is None and terms.retry is None and terms.context is None and terms.inherit
        return dataclasses.replace(terms, plain=plain)

    def but(self, **changed: Any) -> JobTerms:
        """These terms with some *changed*, checked."""
        now = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return JobTerms.checked(**{**now, **changed})


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How a pool was asked to be, whatever its kind."""

    name: str
    max_workers: int
    backlog: int
    grace: float
    unobserved: Unobserved
    around: Around | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_retrying: int
    margin: float
    """Seconds after a job's deadline at which something is done about whoever is still in it."""

    def check(self) -> None:
        """TypeError or ValueError that names what is wrong."""
        check_text("name", self.name)
        check_count("max_workers", self.max_workers)
        check_count("backlog", self.backlog, most=_LARGEST_BACKLOG)
        check_count("max_retrying", self.max_retrying, least=0)
        check_length("grace", self.grace)
        if self.unobserved not in get_args(Unobserved):
            raise ValueError(f"unobserved must be 'log', 'raise' or 'ignore', not {self.unobserved!r}")
        if self.around is not None and not callable(self.around):
            raise TypeError(f"around must be a callable that gives a context manager for each job, not {self.around!r}")
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError("initializer must be a callable")


def check_text(name: str, value: object) -> None:
    """TypeError that names *name* if *value* is no string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")


def check_length(name: str, value: float | None, *, zero: bool = True) -> None:
    """TypeError or ValueError that names *name* if *value* is no length of time in seconds."""
    if clock.checked_seconds(name, value, zero=zero) is None:
        raise TypeError(f"{name} must be a number of seconds, not None")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSettings(PoolSettings):
    """How a pool of threads was asked to be."""

    prefix: str
    max_stuck: int
    max_lent: int

    def check(self) -> None:
        """TypeError or ValueError that names what is wrong."""
        PoolSettings.check(self)
        for name in ("max_stuck", "max_lent"):
            check_count(name, getattr(self, name), least=0)
        check_length("stuck_after", self.margin)


def check_count(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """*value* if it is a whole number from *least* to *most*, else an error that names *name*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be greater than {least - 1}" if least else f"{name} must be 0 or more")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}: beyond that it is no bound")
    return value


def check_function(fn: Any) -> None:
    """TypeError if *fn* can't be run as a plain call, saying what to use instead."""
    if not callable(fn):
        raise TypeError(f"a job needs a callable, not {fn!r}")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not isinstance(inner, types.FunctionType | types.MethodType):
        inner = type(inner).__call__  # an object that can be called; by its type, since a proxy answers with anything
    flags = getattr(getattr(inner, "__code__", None), "co_flags", 0)
    if flags & NO_PLAIN_FUNCTION:
        raise TypeError(_what_to_use(fn, flags))


def _what_to_use(fn: object, flags: int) -> str:
    if flags & inspect.CO_COROUTINE:
        return (
            f"{fn!r} is a coroutine function: a thread would only make the coroutine. "
            "Submit a plain function, or run it in asyncio"
        )
    return f"{fn!r} is a generator function: a thread would only make the generator. Submit a function that consumes it"
