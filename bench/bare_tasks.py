"""How fast could a pool of coroutines be that keeps our promises? The bare steps that none can leave out.

A row of bench/asyncio_.py; bench/floor.py says the same of threads. What a pool adds to these (a backlog, deadlines,
cancellation, retries, failures, observers, accounts, a stop) costs something, too; so its ratio to its peers is below
that of this row, on the machine and in the minute of the run.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import Any, Final

from penstock.pool.coroutines.firststep import FirstStep

BEGINS_AT_ONCE: Final = sys.version_info >= (3, 12)
ONE_TURN: Final = 50  # tasks that begin before the loop has a turn

Task: Any = asyncio.Task  # what it takes depends on the version
here: ContextVar[Any] = ContextVar("here", default=None)


class Step(Future[Any]):
    """A handle: a Future without what a Future makes for its waiters; the last one's waits for it in asyncio."""

    __slots__ = ("args", "began", "ended", "fn", "since", "told", "value")
    told: Any
    value: Any

    def __init__(self) -> None:
        pass

    def __await__(self) -> Generator[Any, None, Any]:
        if self.told is not True:
            self.told = asyncio.get_running_loop().create_future()
            yield from self.told
        return self.value


new_step: Callable[..., Any] = Step.__new__


class Bare:
    """What no pool that gives each job a task of its own, and a bound, can leave out; and nothing else.

    It accepts a call if fewer than *at_once* run, keeps a handle for it, copies its context variables, makes its task,
    which begins at once where that can be, says in it which job runs, tells how long it waited and ran, and which jobs
    run. It has no backlog, no deadlines, cancellation, retries, failures, observers, accounts, no way to stop.
    """

    def __init__(self, at_once: int) -> None:
        self.free = at_once
        self.turn = 0
        self.running: dict[Any, None] = {}
        self.waiting: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.first = FirstStep(self.loop) if isinstance(self.loop, asyncio.BaseEventLoop) else None

    async def asubmit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        while not self.free or self.turn >= ONE_TURN:
            if self.turn:
                self.turn = 0
                await asyncio.sleep(0)
            else:
                self.waiting = self.loop.create_future()
                await self.waiting
        self.turn += 1
        self.free -= 1
        job: Any = new_step(Step)
        job.fn, job.args, job.told = fn, args, None
        job.since = job.began = time.monotonic()
        self.running[job] = None
        cv, name = copy_context(), fn.__qualname__
        if BEGINS_AT_ONCE:
            Task(self.run(job), loop=self.loop, name=name, context=cv, eager_start=True)
        elif self.first is not None:
            self.first.task(self.run(job), name, cv)
        else:
            Task(self.run(job), loop=self.loop, name=name, context=cv)
        return job

    async def run(self, job: Any) -> None:
        here.set(job)
        job.value = await job.fn(*job.args)
        job.ended = time.monotonic()
        del self.running[job]
        job.args = None
        if job.told is not None:
            job.told.set_result(None)
        job.told = True
        self.free += 1
        if self.waiting is not None:
            self.waiting.set_result(None)
            self.waiting = None
