"""Handing in jobs: ids, names, arguments, views, and everything that is refused at the call."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import pytest

from penstock import Context, PoolClosed, Retry, ThreadPool, current_context
from tests.gates import GUARD
from tests.pool.watching import held_pool


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


class Doubler:
    def __call__(self, n: int) -> int:
        return 2 * n


# What a job is called


def test_ids_count_the_jobs_of_each_pool_from_one() -> None:
    with ThreadPool(2) as first, ThreadPool(2) as second:
        assert [first.submit(int).id for _ in range(3)] == [1, 2, 3]
        assert [second.submit(int).id for _ in range(2)] == [1, 2]


def test_ids_of_a_map_and_of_a_refused_submit_leave_no_hole() -> None:
    with ThreadPool(1) as pool:
        list(pool.map(abs, range(3)))
        with pytest.raises(TypeError):
            pool.submit(None)  # type: ignore[arg-type]

        assert pool.submit(int).id == 4


def test_a_view_gives_its_jobs_an_id_and_a_name() -> None:
    with ThreadPool(1) as pool:
        job = pool.options(id="invoice-7", name="send invoice").submit(int)

        assert (job.id, job.name) == ("invoice-7", "send invoice")


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (abs, "abs"),
        (Doubler().__call__, "Doubler.__call__"),
        (Doubler(), "Doubler"),
        (functools.partial(divmod, 7), "divmod"),
        (Doubler, "Doubler"),
    ],
)
def test_a_job_is_named_after_its_function_while_it_waits_and_when_it_has_ended(
    fn: Callable[..., Any], name: str
) -> None:
    with held_pool() as (pool, gate):
        job = pool.submit(fn, *([] if isinstance(fn, type) else [3]))
        waiting = job.name
        gate.open()
        job.result(GUARD)

        assert (waiting, job.name) == (name, name)


# Arguments


def test_every_keyword_belongs_to_the_function() -> None:
    with ThreadPool(1) as pool:
        args, kwargs = pool.submit(capture, 1, self=2, fn=3, timeout=4, name=5, args=6, kwargs=7).result(GUARD)

    assert args == (1,)
    assert kwargs == {"self": 2, "fn": 3, "timeout": 4, "name": 5, "args": 6, "kwargs": 7}


def test_every_keyword_belongs_to_the_function_in_coroutines_and_through_views() -> None:
    async def main(pool: ThreadPool) -> list[Any]:
        view = pool.options(name="view")
        return [
            await pool.run(capture, self=2, fn=3),
            await (await pool.asubmit(capture, self=2, fn=3)),
            await view.run(capture, self=2, fn=3),
            view.submit(capture, self=2, fn=3).result(GUARD),
        ]

    with ThreadPool(1) as pool:
        assert asyncio.run(main(pool)) == [((), {"self": 2, "fn": 3})] * 4


def test_run_gives_the_result_or_raises_what_the_function_raised() -> None:
    async def main(pool: ThreadPool) -> int:
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        return await pool.run(abs, -3)

    with ThreadPool(1) as pool:
        assert asyncio.run(main(pool)) == 3


# Views


def test_a_view_is_an_executor_that_can_be_handed_to_anybody() -> None:
    async def main(view: Executor) -> int:
        return await asyncio.get_running_loop().run_in_executor(view, abs, -4)

    with ThreadPool(1) as pool:
        view = pool.options(name="handed over")

        assert isinstance(view, Executor)
        assert asyncio.run(main(view)) == 4
        assert list(view.map(abs, [-1, -2])) == [1, 2]
        assert [job.name for job in view.stream(abs, [-1])] == ["handed over"]


def test_a_view_of_a_view_keeps_what_is_not_given_again() -> None:
    with ThreadPool(1) as pool:
        job = pool.options(id="a", name="first").options(name="second").submit(int)

        assert (job.id, job.name) == ("a", "second")


def test_a_view_leaves_the_pool_and_other_views_as_they_are() -> None:
    with ThreadPool(1) as pool:
        pool.options(name="other").options(name="another")

        assert pool.submit(int).name == "int"


def test_a_view_takes_back_what_the_pool_has_for_all() -> None:
    def time_left() -> float:
        return current_context().remaining()

    with ThreadPool(1, timeout=60) as pool:
        assert pool.submit(time_left).result(GUARD) <= 60
        assert pool.options(timeout=None).submit(time_left).result(GUARD) == math.inf


def test_a_view_can_not_be_shut_down() -> None:
    with ThreadPool(1) as pool:
        with pytest.raises(RuntimeError, match="shut the pool down"):
            pool.options().shutdown()

        assert pool.submit(int).result(GUARD) == 0


def test_leaving_the_block_of_a_view_leaves_the_pool_open() -> None:
    with ThreadPool(1) as pool:
        with pool.options(name="in a block") as view:
            view.submit(int)

        assert pool.submit(int).result(GUARD) == 0


def test_holding_a_view_keeps_the_pool_open() -> None:
    view = ThreadPool(1).options(name="the only reference")

    assert view.submit(int).result(GUARD) == 0


# Bad input of the pool


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"max_workers": 0}, ValueError, "max_workers"),
        ({"max_workers": -1}, ValueError, "max_workers"),
        ({"max_workers": 1.5}, TypeError, "max_workers"),
        ({"max_workers": True}, TypeError, "max_workers"),
        ({"max_workers": "3"}, TypeError, "max_workers"),
        ({"backlog": 0}, ValueError, "backlog"),
        ({"backlog": -1}, ValueError, "backlog"),
        ({"backlog": 10**12}, ValueError, "backlog"),
        ({"backlog": None}, TypeError, "backlog"),
        ({"backlog": math.inf}, TypeError, "backlog"),
        ({"when_full": "wait"}, ValueError, "when_full"),
        ({"submit_timeout": -1}, ValueError, "submit_timeout"),
        ({"submit_timeout": math.nan}, ValueError, "submit_timeout"),
        ({"submit_timeout": "1"}, TypeError, "submit_timeout"),
        ({"timeout": -0.1}, ValueError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": math.nan}, ValueError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"retry": 3}, TypeError, "retry"),
        ({"grace": -1}, ValueError, "grace"),
        ({"grace": math.nan}, ValueError, "grace"),
        ({"grace": None}, TypeError, "grace"),
        ({"unobserved": "shout"}, ValueError, "unobserved"),
        ({"around": "a span"}, TypeError, "around"),
        ({"initializer": 5}, TypeError, "initializer"),
        ({"stuck_after": -1}, ValueError, "stuck_after"),
        ({"stuck_after": None}, TypeError, "stuck_after"),
        ({"max_stuck": -1}, ValueError, "max_stuck"),
        ({"max_stuck": 0.5}, TypeError, "max_stuck"),
        ({"max_lent": -1}, ValueError, "max_lent"),
        ({"max_retrying": -1}, ValueError, "max_retrying"),
        ({"queue": 3}, TypeError, "queue"),
    ],
    ids=str,
)
def test_a_pool_names_the_parameter_that_is_wrong(options: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        ThreadPool(**options)


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": math.nan}, ValueError, "timeout"),
        ({"timeout": "1"}, TypeError, "timeout"),
        ({"retry": 3}, TypeError, "retry"),
        ({"id": 1.5}, TypeError, "id"),
        ({"id": True}, TypeError, "id"),
        ({"name": 5}, TypeError, "name"),
        ({"context": 5}, TypeError, "context"),
        ({"when_full": "wait"}, ValueError, "when_full"),
        ({"submit_timeout": -1}, ValueError, "submit_timeout"),
        ({"submit_timeout": math.nan}, ValueError, "submit_timeout"),
        ({"priority": 3}, TypeError, "priority"),
    ],
    ids=str,
)
def test_options_name_the_parameter_that_is_wrong(options: dict[str, Any], error: type[Exception], names: str) -> None:
    with ThreadPool(1) as pool, pytest.raises(error, match=names):
        pool.options(**options)


@pytest.mark.parametrize("options", [{"timeout": math.inf}, {"submit_timeout": math.inf}, {"grace": 1e18}])
def test_endless_times_are_times(options: dict[str, Any]) -> None:
    with ThreadPool(1, **options) as pool:
        assert pool.submit(int).result(GUARD) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": math.nan}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"chunksize": 0}, ValueError),
        ({"chunksize": "1"}, TypeError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": 1.5}, TypeError),
    ],
    ids=str,
)
def test_map_refuses_bad_input_at_the_call_and_runs_nothing(options: dict[str, Any], error: type[Exception]) -> None:
    with ThreadPool(1) as pool:
        with pytest.raises(error, match=next(iter(options))):
            pool.map(abs, [1], **options)

        assert pool.report.accepted == 0


def test_stream_refuses_bad_input_at_the_call() -> None:
    with ThreadPool(1) as pool:
        with pytest.raises(ValueError, match="buffersize"):
            pool.stream(abs, [1], buffersize=0)
        with pytest.raises(TypeError, match="not iterable"):
            pool.stream(abs, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["wait", "shutdown"])
@pytest.mark.parametrize("timeout", [-1, math.nan, "1"])
def test_a_stop_refuses_a_bad_time_and_the_pool_can_be_stopped_after_it(method: str, timeout: Any) -> None:
    pool = ThreadPool(1)
    pool.submit(int)
    pool.close()

    with pytest.raises((TypeError, ValueError), match="timeout"):
        getattr(pool, method)(timeout=timeout)

    assert pool.wait().ok


def test_an_observer_has_to_be_callable() -> None:
    with ThreadPool(1) as pool, pytest.raises(TypeError, match="callable"):
        pool.observe("me")  # type: ignore[arg-type]


# What can't run on a thread


async def coroutine_function() -> None: ...


async def async_generator_function() -> AsyncIterator[int]:
    yield 1


def generator_function() -> Iterator[int]:
    yield 1


class AsyncCallable:
    async def __call__(self) -> None: ...

    async def method(self) -> None: ...


UNFIT = [
    pytest.param(coroutine_function, "coroutine function.*asyncio", id="coroutine"),
    pytest.param(async_generator_function, "generator function.*consumes", id="async generator"),
    pytest.param(generator_function, "generator function.*consumes", id="generator"),
    pytest.param(functools.partial(coroutine_function), "coroutine function.*asyncio", id="partial"),
    pytest.param(AsyncCallable(), "coroutine function.*asyncio", id="object"),
    pytest.param(AsyncCallable().method, "coroutine function.*asyncio", id="method"),
    pytest.param(None, "callable", id="None"),
    pytest.param("abs", "callable", id="text"),
]


@pytest.mark.parametrize(("fn", "hint"), UNFIT)
def test_submit_refuses_what_no_thread_can_run_and_says_what_to_do(fn: Any, hint: str) -> None:
    with ThreadPool(1, backlog=1, when_full="reject") as pool:
        with pytest.raises(TypeError, match=hint):
            pool.submit(fn)

        assert pool.submit(int).result(GUARD) == 0, "the place is free"
        assert pool.report.accepted == 1


@pytest.mark.parametrize(("fn", "hint"), UNFIT)
def test_map_and_stream_refuse_it_at_the_call(fn: Any, hint: str) -> None:
    with ThreadPool(1) as pool:
        with pytest.raises(TypeError, match=hint):
            pool.map(fn, [1])
        with pytest.raises(TypeError, match=hint):
            pool.stream(fn, [1])

        assert pool.report.accepted == 0


@pytest.mark.parametrize(("fn", "hint"), UNFIT)
def test_coroutines_are_refused_it_too(fn: Any, hint: str) -> None:
    async def main(pool: ThreadPool) -> None:
        with pytest.raises(TypeError, match=hint):
            await pool.asubmit(fn)
        with pytest.raises(TypeError, match=hint):
            await pool.run(fn)

    with ThreadPool(1) as pool:
        asyncio.run(main(pool))


# After the close


def test_a_closed_pool_refuses_jobs_by_every_door() -> None:
    async def through_the_loop() -> None:
        with pytest.raises(PoolClosed):
            await pool.asubmit(int)
        with pytest.raises(PoolClosed):
            await pool.run(int)
        with pytest.raises(RuntimeError):
            await asyncio.get_running_loop().run_in_executor(pool, int)

    pool = ThreadPool(1, name="till")
    pool.close()

    with pytest.raises(PoolClosed, match="'till' takes no more jobs"):
        pool.submit(int)
    with pytest.raises(RuntimeError):  # as the stdlib's
        pool.submit(int)
    with pytest.raises(PoolClosed):
        pool.options(retry=Retry(2)).submit(int)
    with pytest.raises(PoolClosed):
        pool.map(abs, [1])
    with pytest.raises(PoolClosed):
        next(pool.stream(abs, [1]))
    asyncio.run(through_the_loop())
    assert pool.report.accepted == 0
    assert pool.wait().ok


def test_a_closed_pool_refuses_a_full_submit_as_closed() -> None:
    with held_pool(backlog=1, when_full="reject") as (pool, _gate):
        pool.submit(int)
        pool.close()

        with pytest.raises(PoolClosed):
            pool.submit(int)


def test_wait_is_refused_while_the_pool_is_open() -> None:
    with ThreadPool(1) as pool, pytest.raises(RuntimeError, match=r"close\(\) first"):
        pool.wait()


def test_a_context_can_be_given_by_options() -> None:
    context = Context(values={"who": "me"})

    with ThreadPool(1) as pool:
        job = pool.options(context=context).submit(int)

        assert job.context.value("who") == "me"
