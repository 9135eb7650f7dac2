"""Tests that are coroutines, on each event loop there is; and a gate for jobs that are coroutines."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

from penstock import AsyncPool, Job
from tests.gates import GUARD

P = ParamSpec("P")

KINDS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
kind = KINDS[0]  # set for each test by conftest.py


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop of the kind that the test is for."""
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run *main* on a loop of its own, within GUARD. It leaves no task behind, and the loop has no complaints."""

    async def guarded() -> Any:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        try:
            async with asyncio.timeout(GUARD):
                result = await main
            left = others()
            assert not left, f"tasks still there: {left}"
        finally:
            await forget_those_that_never_end()
        assert not complaints, complaints
        return result

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(guarded())


def others() -> set[asyncio.Task[Any]]:
    """All tasks but the one that asks."""
    here = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not here}


async def forget_those_that_never_end() -> None:
    """A task that heeds no cancellation, because it lost its first step, say, would keep the loop from closing."""
    left = others()
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1.0)
    for task in left:
        if not task.done():
            asyncio._unregister_task(task)


def looped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes a test of a coroutine."""

    @functools.wraps(test)
    def ran(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return ran


class Door:
    """A job that enters and stays until it is opened. Call it with anything: it returns its first argument, or None."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._came = asyncio.Condition()
        self.entered = 0
        self.inside = 0
        self.most_inside = 0

    async def __call__(self, *args: Any, **_kwargs: Any) -> Any:
        self.entered += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        async with self._came:
            self._came.notify_all()
        try:
            await self._opened.wait()
        finally:
            self.inside -= 1
        return args[0] if args else None

    def open(self) -> None:
        """Let out whoever is inside, and let through whoever still comes."""
        self._opened.set()

    async def wait_entered(self, count: int = 1) -> None:
        """Return once *count* have entered."""
        async with self._came:
            await self._came.wait_for(lambda: self.entered >= count)


class Stubborn:
    """A job that swallows every cancellation until it is let go; it counts them."""

    def __init__(self) -> None:
        self.door = Door()
        self.cancelled = 0

    async def __call__(self) -> str:
        while True:
            try:
                await self.door()
            except asyncio.CancelledError:
                self.cancelled += 1
            else:
                return "let go"

    async def wait_entered(self) -> None:
        await self.door.wait_entered()

    def let_go(self) -> None:
        self.door.open()


async def double(number: int) -> int:
    return 2 * number


async def late_double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


class Oops(Exception):
    """What a job raises that is to fail."""


async def fail(*args: Any) -> None:
    await asyncio.sleep(0)
    raise Oops("it failed", *args)


async def fail_at_once(*args: Any) -> None:
    raise Oops("it failed", *args)


async def turns(count: int = 5) -> None:
    """Let everything that is ready go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(fact: Callable[[], object]) -> None:
    """Return once *fact* is true; what changes on other threads, or without a word."""
    while not fact():  # noqa: ASYNC110
        await asyncio.sleep(0.001)  # polls: nothing tells of this fact, and the loop must go on


@asynccontextmanager
async def held_pool(**options: Any) -> AsyncIterator[tuple[AsyncPool, Door]]:
    """A pool whose only slot is at the door, which is open at the end of the block."""
    door = Door()
    async with AsyncPool(1, **options) as pool:
        try:
            await pool.options(timeout=None, retry=None).asubmit(door)
            await door.wait_entered()
            yield pool, door
        finally:
            door.open()


@dataclass
class Full:
    """A pool whose only slot is at `door`, and whose backlog holds `waiting`."""

    pool: AsyncPool
    door: Door
    running: Job[Any]
    waiting: list[Job[int]]


@asynccontextmanager
async def full_pool(backlog: int = 1, **options: Any) -> AsyncIterator[Full]:
    """A pool with no place left; the door is open at the end of the block."""
    door = Door()
    async with AsyncPool(1, backlog=backlog, **options) as pool:
        try:
            running = await pool.options(timeout=None).asubmit(door)
            await door.wait_entered()
            waiting = [await pool.asubmit(double, n) for n in range(backlog)]
            yield Full(pool, door, running, waiting)
        finally:
            door.open()


def lines_up(pool: AsyncPool, count: int = 1) -> Callable[[], bool]:
    """A fact for `until`: so many wait for a place."""
    return lambda: len(pool._crew.backlog.places.waiting) >= count
