"""What was asked for is checked at the earliest moment, and the error names what was wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import re
import xmlrpc.client
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from penstock import Context, Retry, ThreadPool
from penstock.job import name_of
from tests.gates import GUARD
from tests.ids import told

POOL = [
    ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": 2.0}, TypeError, "max_workers must be a whole number"),
    ({"max_workers": True}, TypeError, "max_workers must be a whole number"),
    ({"backlog": 0}, ValueError, "backlog must be greater than 0"),
    ({"backlog": math.inf}, TypeError, "backlog must be a whole number"),
    ({"backlog": None}, TypeError, "backlog must be a whole number"),
    ({"backlog": 10**9}, ValueError, "backlog must be at most 10,000,000"),
    ({"max_stuck": -1}, ValueError, "max_stuck must be 0 or more"),
    ({"max_lent": -1}, ValueError, "max_lent must be 0 or more"),
    ({"max_retrying": "many"}, TypeError, "max_retrying must be a whole number, not 'many'"),
    ({"grace": None}, TypeError, "grace must be a number of seconds, not None"),
    ({"grace": -1}, ValueError, "grace must be zero or more seconds"),
    ({"grace": 10**400}, ValueError, "grace must be a number of seconds that a float can hold"),
    ({"thread_name_prefix": 5}, TypeError, "thread_name_prefix must be a string, not 5"),
    ({"stuck_after": None}, TypeError, "stuck_after must be a number of seconds, not None"),
    ({"stuck_after": "soon"}, TypeError, "stuck_after must be a number of seconds"),
    ({"unobserved": "shout"}, ValueError, "unobserved must be 'log', 'raise' or 'ignore', not 'shout'"),
    ({"around": contextlib.nullcontext()}, TypeError, "around must be a callable"),
    ({"initializer": "start"}, TypeError, "initializer must be a callable"),
    ({"when_full": "wait"}, ValueError, "when_full must be 'block', 'reject', 'caller' or None, not 'wait'"),
    ({"submit_timeout": -1}, ValueError, "submit_timeout must be zero or more seconds"),
    ({"timeout": 0}, ValueError, "timeout must be more than zero seconds"),
    ({"timeout": "5"}, TypeError, "timeout must be a number of seconds"),
    ({"retry": 3}, TypeError, "retry must be a Retry or None, not 3; write retry=Retry(3)"),
]

OPTIONS = [
    ({"timeout": -1}, ValueError, "timeout must be more than zero seconds"),
    ({"timeout": math.nan}, ValueError, "timeout must be more than zero seconds"),
    ({"retry": Retry}, TypeError, "retry must be a Retry or None"),
    ({"id": 1.5}, TypeError, "id must be a string or a number, not 1.5"),
    ({"id": True}, TypeError, "id must be a string or a number, not True"),
    ({"name": 7}, TypeError, "name must be a string, not 7"),
    ({"context": "mine"}, TypeError, "context must be a Context or None, not 'mine'"),
    ({"when_full": "wait"}, ValueError, "when_full must be"),
    ({"submit_timeout": "1"}, TypeError, "submit_timeout must be a number of seconds"),
]


@pytest.mark.parametrize(("parts", "kind", "said"), POOL, ids=told)
def test_a_pool_that_can_t_be_is_not_made(parts: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(said)}"):
        ThreadPool(**parts)


@pytest.mark.parametrize(("parts", "kind", "said"), OPTIONS, ids=told)
def test_options_that_can_t_be_are_refused_before_any_job(
    parts: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with ThreadPool(1) as pool, pytest.raises(kind, match=f"^{re.escape(said)}"):
        pool.options(**parts)

    assert pool.report.accepted == 0


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with ThreadPool(1) as pool, pytest.raises(TypeError, match="tiemout"):
        pool.options(tiemout=5)  # type: ignore[call-arg]


def test_everything_can_be_given_at_its_limit() -> None:
    with ThreadPool(
        1, backlog=1, when_full="reject", submit_timeout=0, timeout=math.inf, retry=Retry(1), grace=0,
        unobserved="ignore", around=contextlib.nullcontext, stuck_after=0, max_stuck=0, max_lent=0, max_retrying=0,
    ) as pool:  # fmt: skip
        view = pool.options(timeout=1000, retry=None, id=0, name="", context=Context(parent=None))
        assert view.submit(len, "four").result(GUARD) == 4


# What can be a job


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


async def async_generator() -> Any:
    yield 1


class Callables:
    """Callables of all sorts; the last two are no plain calls."""

    def __call__(self, number: int) -> int:
        return number

    def method(self, number: int) -> int:
        return number

    @classmethod
    def of_class(cls, number: int) -> int:
        return number

    @staticmethod
    def static(number: int) -> int:
        return number

    def generates(self, number: int) -> Iterator[int]:
        yield number

    async def awaits(self, number: int) -> int:
        return number


class AsyncCall:
    async def __call__(self) -> int:
        return 1


@functools.wraps(coroutine)
def wrapped(number: int) -> int:
    return number


@pytest.mark.parametrize(
    "fn",
    [
        int,
        abs,
        lambda number: number,
        functools.partial(pow, exp=1),
        functools.lru_cache(abs),
        Callables(),
        Callables().method,
        Callables.of_class,
        Callables.static,
        wrapped,
    ],
    ids=told,
)
def test_whatever_can_be_called_can_be_a_job(fn: Callable[[int], int]) -> None:
    with ThreadPool(1) as pool:
        assert pool.submit(fn, 7).result(GUARD) == 7
        assert list(pool.map(fn, [7])) == [7]


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (coroutine, "is a coroutine function"),
        (functools.partial(coroutine), "is a coroutine function"),
        (AsyncCall(), "is a coroutine function"),
        (Callables().awaits, "is a coroutine function"),
        (generator, "is a generator function"),
        (functools.partial(generator), "is a generator function"),
        (Callables().generates, "is a generator function"),
        (async_generator, "is a generator function"),
        (None, "a job needs a callable, not None"),
        ("len", "a job needs a callable, not 'len'"),
        (coroutine, "Submit a plain function"),
        (generator, "Submit a function that consumes it"),
    ],
    ids=told,
)
def test_what_is_no_plain_call_is_refused_with_what_to_do_instead(fn: Any, said: str) -> None:
    with ThreadPool(1) as pool:
        for submit in (pool.submit, pool.map, pool.stream, pool.options(name="x").submit):
            with pytest.raises(TypeError, match=said):
                submit(fn, [])
        with pytest.raises(TypeError, match=said):
            asyncio.run(submit_async(pool, fn))

    assert pool.report.accepted == 0


async def submit_async(pool: ThreadPool, fn: Any) -> None:
    await pool.asubmit(fn, [])


class RunsInALoop:
    """A decorator as people write it: it keeps the coroutine function as `func`, and is itself a plain callable."""

    def __init__(self, func: Callable[[], Coroutine[Any, Any, int]]) -> None:
        self.func = func

    def __call__(self) -> int:
        return asyncio.run(self.func())


def test_a_plain_callable_that_holds_a_coroutine_function_can_be_a_job() -> None:
    with ThreadPool(1) as pool:
        assert pool.submit(RunsInALoop(coroutine)).result(GUARD) == 1


def test_a_method_of_a_remote_server_can_be_a_job() -> None:
    nowhere = xmlrpc.client.ServerProxy("http://127.0.0.1:1")
    with ThreadPool(1) as pool:
        job = pool.submit(nowhere.add, 1, 2)
        assert isinstance(job.exception(GUARD), OSError)
        assert isinstance(job.name, str)


def test_a_mock_can_be_a_job() -> None:
    mock = Mock(return_value=7)

    assert isinstance(name_of(mock), str)
    with ThreadPool(1) as pool:
        assert pool.submit(mock, 1).result(GUARD) == 7
    mock.assert_called_once_with(1)
