"""`lifespan`, as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from penstock import JobState, PoolClosed, ThreadPool, current_context, lifespan
from tests.gates import GUARD, Gate, slack


class Server:
    """As much of an ASGI server as a lifespan sees: it enters before the first request and leaves after the last."""

    def __init__(self, manage: Callable[[Any], AbstractAsyncContextManager[None]]) -> None:
        self._life = manage(self)

    async def startup(self) -> None:
        await self._life.__aenter__()

    async def shutdown(self) -> None:
        await self._life.__aexit__(None, None, None)


async def until(fact: Callable[[], bool]) -> None:
    """Let the loop go on until *fact* holds: only a loop that isn't blocked can see it."""
    while not fact():  # noqa: ASYNC110 - nobody tells the loop
        await asyncio.sleep(0)


def workers_of(pool: ThreadPool) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"{pool.name}_")]


def test_the_workers_are_there_before_the_first_request() -> None:
    pools = ThreadPool(2, name="first"), ThreadPool(3, name="second")

    async def serve() -> None:
        server = Server(lifespan(*pools))
        assert [len(workers_of(pool)) for pool in pools] == [0, 0]
        await server.startup()
        assert [len(workers_of(pool)) for pool in pools] == [2, 3]
        await server.shutdown()
        assert [len(workers_of(pool)) for pool in pools] == [0, 0]

    asyncio.run(serve())


def test_the_loop_goes_on_while_the_pools_drain() -> None:
    gate, pool = Gate(), ThreadPool(1)

    async def serve() -> None:
        server = Server(lifespan(pool))
        await server.startup()
        job = await pool.asubmit(gate, "answer")
        stopping = asyncio.create_task(server.shutdown())
        await until(lambda: pool.report.closing)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not stopping.done()
        with pytest.raises(PoolClosed, match="its server is stopping"):
            await pool.asubmit(int)
        gate.open()
        await asyncio.wait_for(stopping, GUARD)
        assert job.result(0) == "answer"

    asyncio.run(serve())
    assert pool.report.ok


def test_the_loop_goes_on_while_the_pools_start() -> None:
    gate = Gate()
    pool = ThreadPool(1, initializer=gate)

    async def serve() -> None:
        server = Server(lifespan(pool))
        starting = asyncio.create_task(server.startup())
        await until(gate.entered.is_set)
        assert not starting.done()
        gate.open()
        await asyncio.wait_for(starting, GUARD)
        await server.shutdown()

    asyncio.run(serve())


def test_a_stop_takes_no_longer_than_its_time() -> None:
    hung, timeout, pool = Gate(), 0.3, ThreadPool(1)

    async def serve() -> float:
        server = Server(lifespan(pool, timeout=timeout))
        await server.startup()
        await pool.asubmit(hung)
        hung.wait_entered()
        begun = asyncio.get_running_loop().time()
        await server.shutdown()
        return asyncio.get_running_loop().time() - begun

    took = asyncio.run(serve())
    hung.open()

    assert timeout <= took < slack(timeout + 0.7)
    assert pool.report.abandoned == 1


def test_pools_stop_in_the_order_given() -> None:
    first, second = ThreadPool(1), ThreadPool(1)
    gate = Gate()

    def feed() -> str:
        gate()
        return second.submit(str, "still open").result(GUARD)

    async def serve() -> None:
        server = Server(lifespan(first, second))
        await server.startup()
        job = await first.asubmit(feed)
        stopping = asyncio.create_task(server.shutdown())
        await until(lambda: first.report.closing)
        assert not second.report.closing
        gate.open()
        await asyncio.wait_for(stopping, GUARD)
        assert job.result(0) == "still open"

    asyncio.run(serve())


def test_cancelling_the_server_does_not_cut_the_stop_short() -> None:
    entered, pool = threading.Event(), ThreadPool(1)

    def rest() -> None:
        entered.set()
        current_context().sleep(2 * GUARD)

    async def serve() -> JobState:
        server = Server(lifespan(pool, timeout=0.3))
        await server.startup()
        job = await pool.asubmit(rest)
        assert entered.wait(GUARD)
        stopping = asyncio.create_task(server.shutdown())
        await until(lambda: pool.report.closing)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await asyncio.wait([asyncio.wrap_future(job)], timeout=GUARD)
        return job.state

    assert asyncio.run(serve()) is JobState.CANCELLED


def test_an_error_of_the_server_stops_the_pools_too() -> None:
    pool = ThreadPool(1)

    async def serve() -> None:
        async with lifespan(pool)(None):
            raise KeyError("of the server")

    with pytest.raises(KeyError):
        asyncio.run(serve())
    assert pool.report.closed


def test_an_initializer_that_fails_fails_the_startup_and_leaves_no_pool_running() -> None:
    sound, broken = ThreadPool(1, name="sound"), ThreadPool(1, initializer=int, initargs=("x",))

    async def serve() -> None:
        await Server(lifespan(sound, broken)).startup()

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(serve())
    try:
        assert workers_of(sound) == []
    finally:
        sound.shutdown()


def test_a_wrong_argument_is_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match="at least one pool"):
        lifespan()
    with pytest.raises(ValueError, match="timeout must be zero or more"):
        lifespan(ThreadPool(1), timeout=-1)
