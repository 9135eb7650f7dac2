"""One coroutine function over many inputs, with bounded memory: `map` and `stream` as async iterators.

    inputs ──> read ──> admit ──> under way (at most `limit`) ──> ended ──> the caller

A plain iterable is read by the caller itself, as it iterates. An async one may be long in giving its next input, while
jobs end that the caller could have; so a task of its own reads it, for as long as the caller iterates and the pool is
open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from penstock import clock
from penstock.errors import PoolClosed
from penstock.job import Job
from penstock.pool.coroutines.crew import CoroutineCrew
from penstock.pool.coroutines.door import check_coroutine_function
from penstock.pool.terms import JobTerms, check_count

T = TypeVar("T")

Asubmit = Callable[..., Awaitable[Job[Any]]]
Inputs = Iterable[Any] | AsyncIterable[Any]
Rows = Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]]


def map_coroutines(
    crew: CoroutineCrew,
    terms: JobTerms,
    asubmit: Asubmit,
    fn: Callable[..., Any],
    inputs: tuple[Inputs, ...],
    timeout: float | None,
    buffersize: int | None,
) -> AsyncGenerator[Any, None]:
    """See `AsyncPool.map`. Checks at the call; reads and submits as the caller iterates."""
    deadline = clock.deadline_after(clock.checked_seconds("timeout", timeout))
    check_coroutine_function(fn)
    return _results(InOrder(crew, asubmit, fn, _rows(inputs), _limit(crew, terms, buffersize)), deadline)


def stream_coroutines(
    crew: CoroutineCrew,
    terms: JobTerms,
    asubmit: Asubmit,
    fn: Callable[..., Any],
    inputs: Inputs,
    ordered: bool,
    buffersize: int | None,
) -> AsyncGenerator[Job[Any], None]:
    """See `AsyncPool.stream`. Checks at the call; reads and submits as the caller iterates."""
    check_coroutine_function(fn)
    kind: type[Flow[Any]] = InOrder if ordered else AsTheyEnd
    return _jobs(kind(crew, asubmit, fn, _rows((inputs,)), _limit(crew, terms, buffersize)))


async def _jobs(flow: Flow[T]) -> AsyncGenerator[Job[T], None]:
    try:
        while await flow.has_next():
            yield flow.take()  # not kept in a name: nothing here may keep a job that was given away
    finally:
        await flow.leave()


async def _results(flow: Flow[T], deadline: float | None) -> AsyncGenerator[T, None]:
    try:
        while True:
            async with asyncio.timeout(clock.remaining(deadline)):
                if not await flow.has_next():
                    return
            yield flow.take().result()
    finally:
        await flow.leave()


class Flow(Generic[T]):
    """The jobs of one `map` or `stream` that are under way. On the loop's thread, but for `_ended`."""

    def __init__(self, crew: CoroutineCrew, asubmit: Asubmit, fn: Callable[..., Any], rows: Rows, limit: int) -> None:
        self._crew = crew
        self._asubmit = asubmit
        self._fn = fn
        self._rows = rows
        self._limit = limit
        self._count = 0  # jobs that are under way
        self._has_more = True
        self._reader: asyncio.Task[None] | None = None
        self._error: BaseException | None = None  # what the inputs raised, or why the pool takes no more of them
        self._moved: asyncio.Future[None] | None = None  # somebody waits for a change

    async def has_next(self) -> bool:
        """Wait until there is a job to take; False if there will be none. Raises what the inputs raised."""
        while True:
            await self._read_on()
            if self._error is not None and not isinstance(self._error, PoolClosed):
                raise self._error
            if self._count:
                if await self._comes():
                    return True
            elif self._has_more:
                await self._change()
            elif self._error is not None:
                raise self._error
            else:
                return False

    async def _comes(self) -> bool:
        """Wait for a job to take, or for any change."""
        raise NotImplementedError

    def take(self) -> Job[T]:
        """The next job, which has ended."""
        raise NotImplementedError

    def _add(self, job: Job[T]) -> None:
        raise NotImplementedError

    def _left(self) -> Iterable[Job[T]]:
        raise NotImplementedError

    async def leave(self) -> None:
        """Nobody takes the rest: cancel what has not started, and read no more."""
        for job in self._left():
            job.forget()
        reader = self._reader
        if reader is not None and not reader.done():
            reader.cancel()
            await asyncio.wait([reader])

    # Reading

    async def _read_on(self) -> None:
        if isinstance(self._rows, AsyncIterator):
            if self._reader is None:
                self._reader = self._crew.intake.read(self._read_all(self._rows))
            return
        while self._has_more and self._count < self._limit:
            try:
                row = next(self._rows)
            except StopIteration:
                self._has_more = False
                return
            await self._submit(row)

    async def _read_all(self, rows: AsyncIterator[tuple[Any, ...]]) -> None:
        """The reader's task."""
        try:
            while self._has_more:
                while self._count >= self._limit:
                    await self._change()
                await self._submit(await anext(rows))
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            if not self._crew.lifecycle.closing:
                raise
            self._error = self._crew.refusal()
        except BaseException as error:
            self._error = error
        finally:
            self._has_more = False
            self._wake()

    async def _submit(self, row: tuple[Any, ...]) -> None:
        try:
            job = await self._asubmit(self._fn, *row)
        except PoolClosed as error:
            self._error = error
            self._has_more = False
        else:
            self._count += 1
            self._add(job)
            self._wake()

    # Changes

    async def _change(self) -> None:
        """Wait until a job or an input came, or a job was taken."""
        moved = self._moved
        if moved is None or moved.done():
            moved = self._moved = asyncio.get_running_loop().create_future()
        await asyncio.wait([moved])

    def _wake(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)


class InOrder(Flow[T]):
    """Jobs are taken in the order of the inputs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._jobs: deque[Job[T]] = deque()

    async def _comes(self) -> bool:
        await self._jobs[0].settled()
        return True

    def take(self) -> Job[T]:
        """The first job."""
        self._count -= 1
        self._wake()
        return self._jobs.popleft()

    def _add(self, job: Job[T]) -> None:
        self._jobs.append(job)

    def _left(self) -> Iterable[Job[T]]:
        return self._jobs


class AsTheyEnd(Flow[T]):
    """Jobs are taken in the order in which they end."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._running: set[Job[T]] = set()
        self._ended: deque[Job[T]] = deque()

    async def _comes(self) -> bool:
        if not self._ended:
            with self._crew.lending(next(iter(self._running))):
                await self._change()
        return bool(self._ended)

    def take(self) -> Job[T]:
        """The job that ended first."""
        self._count -= 1
        self._wake()
        job = self._ended.popleft()
        if job.exception is not None:
            job._observed()
        return job

    def _add(self, job: Job[T]) -> None:
        self._running.add(job)
        job.add_done_callback(lambda _: self._crew.home.call(self._came, job))

    def _came(self, job: Job[T]) -> None:
        self._running.discard(job)
        self._ended.append(job)
        self._wake()

    def _left(self) -> Iterable[Job[T]]:
        return list(self._running)


def _limit(crew: CoroutineCrew, terms: JobTerms, buffersize: int | None) -> int:
    """How many jobs may be under way."""
    if buffersize is not None:
        return check_count("buffersize", buffersize)
    settings = crew.settings
    if terms.when_full == "reject":
        return settings.backlog  # its own jobs could be the ones that are too many
    return max(settings.backlog, settings.max_workers + 1)


def _rows(inputs: tuple[Inputs, ...]) -> Rows:
    """The inputs of each call, read from all of *inputs* in step; an async iterator if one of them is."""
    sources = [aiter(source) if isinstance(source, AsyncIterable) else iter(source) for source in inputs]
    plain = [source for source in sources if isinstance(source, Iterator)]
    return zip(*plain, strict=False) if len(plain) == len(sources) else _in_step(sources)


async def _in_step(sources: list[Iterator[Any] | AsyncIterator[Any]]) -> AsyncIterator[tuple[Any, ...]]:
    while True:
        row = []
        for source in sources:
            try:
                row.append(await anext(source) if isinstance(source, AsyncIterator) else next(source))
            except (StopAsyncIteration, StopIteration):
                return
        yield tuple(row)
