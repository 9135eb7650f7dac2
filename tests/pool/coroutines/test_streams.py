"""`map` and `stream`: order, bounds, endless inputs plain and async, leaving early, and a pool that closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock import AsyncPool, JobState, PoolClosed
from tests.gates import GUARD
from tests.pool.coroutines.looping import Door, Oops, double, fail, late_double, looped, turns, until


async def counted(stop: int | None = None) -> AsyncIterator[int]:
    """Counts from 0, with a turn of the loop before each."""
    for n in itertools.count() if stop is None else range(stop):
        await asyncio.sleep(0)
        yield n


async def held_back(number: int) -> int:
    """The later the input, the sooner it ends."""
    for _ in range(20 - number % 20):
        await asyncio.sleep(0)
    return number


async def first(count: int, results: Any) -> list[Any]:
    found = []
    async for result in results:
        found.append(result)
        if len(found) == count:
            break
    await results.aclose()
    return found


@pytest.mark.parametrize("inputs", [lambda: range(50), lambda: counted(50)])
@looped
async def test_map_gives_results_in_the_order_of_the_inputs(inputs: Any) -> None:
    async with AsyncPool(7, backlog=3) as pool:
        assert [result async for result in pool.map(held_back, inputs())] == list(range(50))
        assert [result async for result in pool.map(double, [])] == []


@looped
async def test_map_reads_several_inputs_in_step_plain_and_async() -> None:
    async def join(a: int, b: str, c: int) -> str:
        return f"{a}{b}{c}"

    async with AsyncPool(3) as pool:
        assert [r async for r in pool.map(join, [1, 2, 3], "abcd", [7, 8, 9])] == ["1a7", "2b8", "3c9"]
        assert [r async for r in pool.map(join, [1, 2, 3], "abcd", counted(2))] == ["1a0", "2b1"]
        assert [r async for r in pool.map(join, counted(), "ab", [5, 6, 7])] == ["0a5", "1b6"]


@pytest.mark.parametrize("inputs", [itertools.count, counted])
@pytest.mark.parametrize("ordered", [True, False])
@looped
async def test_stream_takes_endless_inputs_and_reads_no_further_than_its_bound(inputs: Any, ordered: bool) -> None:
    read = 0

    def watched() -> Iterator[int]:
        nonlocal read
        for n in itertools.count():
            read += 1
            yield n

    async def watched_async() -> AsyncIterator[int]:
        for n in watched():
            await asyncio.sleep(0)
            yield n

    source: Any = watched() if inputs is itertools.count else watched_async()
    async with AsyncPool(3, backlog=5) as pool:
        stream = pool.stream(held_back, source, ordered=ordered, buffersize=4)
        taken = 0
        async for job in stream:
            assert job.done()
            taken += 1
            await turns(40)
            assert read <= taken + 4
            if taken == 30:
                break
        await stream.aclose()
    assert pool.report.accepted <= 34


@looped
async def test_without_a_bound_of_its_own_a_stream_has_that_of_the_pool() -> None:
    door = Door()
    async with AsyncPool(2, backlog=5) as pool:
        stream = pool.stream(door, itertools.count())
        asking = asyncio.create_task(anext(stream))
        await door.wait_entered(2)
        await turns(20)
        assert pool.report.accepted == 5
        door.open()
        await asking
        await stream.aclose()
    async with AsyncPool(20, backlog=5) as pool:
        door = Door()
        stream = pool.stream(door, itertools.count())
        asking = asyncio.create_task(anext(stream))
        await door.wait_entered(20)
        await turns(20)
        assert pool.report.accepted == 21, "every slot has a job, and the caller can hold one"
        door.open()
        await asking
        await stream.aclose()


@looped
async def test_stream_gives_jobs_as_they_end_failed_ones_too() -> None:
    doors = [Door() for _ in range(3)]

    async def enter(n: int) -> int:
        await doors[n]()
        if n == 1:
            raise Oops
        return n

    async with AsyncPool(3) as pool:
        stream = pool.stream(enter, range(3))
        states = []
        asking = asyncio.create_task(anext(stream))
        for n in (2, 1, 0):
            await doors[n].wait_entered()
            doors[n].open()
            job = await asking
            states.append((job.id, job.state))
            if n:
                asking = asyncio.create_task(anext(stream))
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert states == [(3, JobState.DONE), (2, JobState.FAILED), (1, JobState.DONE)]


@looped
async def test_jobs_that_ended_are_given_although_the_next_input_is_long_in_coming() -> None:
    more = asyncio.Event()

    async def slow_source() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async with AsyncPool(2) as pool:
        for results in (pool.map(double, slow_source()), pool.stream(double, slow_source())):
            more.clear()
            await asyncio.wait_for(anext(results), GUARD)
            more.set()
            await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)


@looped
async def test_an_error_of_a_job_ends_map_and_cancels_what_has_not_started() -> None:
    async def fails_on_two(n: int) -> int:
        await asyncio.sleep(0)
        if n == 2:
            raise Oops(n)
        return n

    async with AsyncPool(1, backlog=10) as pool:
        results = pool.map(fails_on_two, range(10))
        found = []
        with pytest.raises(Oops):
            async for result in results:
                found.append(result)
        assert found == [0, 1]
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    assert pool.report.failed == 1
    assert pool.report.cancelled >= 6
    assert pool.report.accepted == 10


@pytest.mark.parametrize("is_async", [False, True])
@looped
async def test_an_error_of_the_inputs_comes_to_the_caller(is_async: bool) -> None:
    async def async_source() -> AsyncIterator[int]:
        yield 1
        raise Oops("no more lines")

    def source() -> Iterator[int]:
        yield 1
        raise Oops("no more lines")

    async with AsyncPool(1) as pool:
        for results in (
            pool.map(double, async_source() if is_async else source()),
            pool.stream(double, async_source() if is_async else source()),
        ):
            with pytest.raises(Oops, match="no more lines"):
                async for _ in results:
                    pass


@looped
async def test_map_has_a_time_limit_from_its_call() -> None:
    door = Door()
    async with AsyncPool(1) as pool:
        results = pool.map(door, [1, 2, 3], timeout=0.05)
        with pytest.raises(TimeoutError):
            await anext(results)
        door.open()
        with pytest.raises(ValueError, match="timeout"):
            pool.map(door, [1], timeout=-1)
    assert (pool.report.done, pool.report.cancelled) == (1, 2)


@pytest.mark.parametrize("is_async", [False, True])
@looped
async def test_leaving_early_cancels_what_has_not_started_and_reads_no_more(is_async: bool) -> None:
    door = Door()
    closed: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                await asyncio.sleep(0)
                yield n
        finally:
            closed.append("closed")

    async with AsyncPool(1, backlog=10) as pool:

        async def enter(n: int) -> int:
            if n:
                await door()
            return n

        inputs = source() if is_async else itertools.count()
        async with contextlib.aclosing(pool.stream(enter, inputs, ordered=True)) as stream:
            async for job in stream:
                assert job.result() == 0
                await door.wait_entered()
                await until(lambda: pool.report.waiting > 3)
                break
        assert (pool.report.waiting, pool.report.running) == (0, 1)
        accepted = pool.report.accepted
        await turns()
        assert pool.report.accepted == accepted
        door.open()
    if is_async:
        await inputs.aclose()  # type: ignore[union-attr]
        assert closed == ["closed"]


@looped
async def test_a_stream_that_is_dropped_is_left() -> None:
    door = Door()
    async with AsyncPool(1, backlog=10) as pool:

        async def drop() -> None:
            async for _ in pool.stream(late_double, counted()):
                return

        await drop()
        gc.collect()
        await until(lambda: pool.report.waiting == 0)
        door.open()


@pytest.mark.parametrize("is_async", [False, True])
@looped
async def test_if_the_pool_is_closed_what_is_under_way_is_still_given_and_then_it_says_so(is_async: bool) -> None:
    async def source() -> AsyncIterator[int]:
        for n in range(3):
            yield n
        await asyncio.sleep(GUARD)

    async with AsyncPool(2, backlog=5) as pool:
        found = []
        with pytest.raises(PoolClosed):
            async for job in pool.stream(late_double, source() if is_async else itertools.count()):
                found.append(job.result())
                if len(found) == 2:
                    await turns(20)
                    pool.close()
        assert sorted(found)[:3] == [0, 2, 4]
    assert pool.report.done == len(found)


@looped
async def test_the_results_of_a_map_are_kept_by_nobody() -> None:
    class Thing:
        pass

    alive: list[weakref.ref[Thing]] = []

    async def make(_: int) -> Thing:
        thing = Thing()
        alive.append(weakref.ref(thing))
        return thing

    async with AsyncPool(2) as pool:
        async for result in pool.map(make, range(50), buffersize=2):
            del result
            await asyncio.sleep(0)
            assert sum(ref() is not None for ref in alive) <= 2
        async for job in pool.stream(make, range(50), buffersize=2):
            del job
            await asyncio.sleep(0)
            assert sum(ref() is not None for ref in alive) <= 2


@looped
async def test_a_stream_inside_a_job_lends_its_slot() -> None:
    async with AsyncPool(1, backlog=1) as pool:

        async def parent() -> list[list[int]]:
            mapped = [result async for result in pool.map(late_double, range(5))]
            streamed = [job.result() async for job in pool.stream(late_double, counted(5))]
            return [mapped, sorted(streamed)]

        assert await pool.run(parent) == [[0, 2, 4, 6, 8]] * 2


@looped
async def test_two_streams_of_one_pool_share_it() -> None:
    async with AsyncPool(2, backlog=2) as pool:

        async def collect(ordered: bool) -> list[int]:
            return sorted([job.result() async for job in pool.stream(late_double, range(30), ordered=ordered)])

        both = await asyncio.gather(collect(True), collect(False))
    assert list(both) == [[2 * n for n in range(30)]] * 2


@looped
async def test_a_stream_never_refuses_its_own_inputs() -> None:
    async with AsyncPool(2, backlog=2, when_full="reject") as pool:
        assert len([job async for job in pool.stream(late_double, range(20))]) == 20


@looped
async def test_wrong_arguments_are_named_at_the_call() -> None:
    async with AsyncPool(1) as pool:
        with pytest.raises(TypeError, match="not iterable"):
            pool.map(double, 5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="buffersize must be greater than 0"):
            pool.stream(double, [1], buffersize=0)
        with pytest.raises(TypeError, match="buffersize must be a whole number"):
            pool.map(double, [1], buffersize=1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ThreadPool"):
            pool.stream(len, ["x"])  # type: ignore[arg-type]


@looped
async def test_failures_of_a_stream_count_as_seen_and_those_of_a_map_that_was_left_do_not() -> None:
    async with AsyncPool(2, unobserved="raise") as pool:
        assert [job.state async for job in pool.stream(fail, range(3))] == [JobState.FAILED] * 3
    with pytest.raises(ExceptionGroup):
        async with AsyncPool(2, unobserved="raise") as pool:
            await first(1, pool.map(fails_but_for_nought, range(2)))


async def fails_but_for_nought(n: int) -> int:
    if n:
        raise Oops(n)
    return n
