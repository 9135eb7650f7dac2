"""Who waits for a place wakes when there is one; the inputs of a `map` move up in their order."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Job, ThreadPool
from penstock.pool.lines import CoroutineInLine, Line, SubmitterInLine
from penstock.pool.places import Places
from tests.gates import GUARD, Gate, in_thread


def soon() -> float:
    return time.monotonic() + 0.01


def guard() -> float:
    return time.monotonic() + GUARD


# A thread


def test_a_grant_wakes_the_thread() -> None:
    waiter = SubmitterInLine()
    sleeping = in_thread(waiter.sleep, None)

    waiter.grant()

    sleeping.result(GUARD)


def test_a_grant_that_came_first_is_not_slept_through() -> None:
    waiter = SubmitterInLine()

    assert waiter.grant()

    waiter.sleep(None)


def test_the_deadline_wakes_the_thread() -> None:
    deadline = soon()

    SubmitterInLine().sleep(deadline)

    assert time.monotonic() >= deadline


@pytest.mark.parametrize("deadline", [0.0, 1e300], ids=["past", "far"])
def test_a_thread_can_be_woken_and_granted_a_place_at_once(deadline: float) -> None:
    waiter = SubmitterInLine()

    waiter.nudge()
    waiter.grant()
    waiter.nudge()

    waiter.sleep(deadline)


# A coroutine


def test_a_grant_from_another_thread_wakes_the_coroutine_and_its_loop_ran_meanwhile() -> None:
    async def wait() -> bool:
        waiter = CoroutineInLine(asyncio.get_running_loop())
        loop_ran = asyncio.Event()
        sleeping = asyncio.create_task(waiter.sleep(None))
        asyncio.get_running_loop().call_soon(loop_ran.set)
        await asyncio.wait_for(loop_ran.wait(), GUARD)
        assert not sleeping.done()
        threading.Thread(target=waiter.grant).start()
        await asyncio.wait_for(sleeping, GUARD)
        return True

    assert asyncio.run(wait())


def test_a_grant_and_a_nudge_wake_the_coroutine_once() -> None:
    went_wrong: list[dict[str, Any]] = []

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, what: went_wrong.append(what))
        waiter = CoroutineInLine(loop)
        waiter.nudge()
        waiter.grant()
        await waiter.sleep(guard())
        await asyncio.sleep(0)

    asyncio.run(wait())

    assert not went_wrong


def test_the_deadline_wakes_the_coroutine() -> None:
    deadline = soon()

    async def wait() -> None:
        await CoroutineInLine(asyncio.get_running_loop()).sleep(deadline)

    asyncio.run(wait())

    assert time.monotonic() >= deadline


def test_a_grant_to_a_loop_that_is_closed_raises_nothing() -> None:
    async def make() -> CoroutineInLine:
        return CoroutineInLine(asyncio.get_running_loop())

    waiter = asyncio.run(make())

    waiter.nudge()
    assert waiter.grant(), "its coroutine gives the place back when it is destroyed"


def test_a_task_that_is_cancelled_in_the_line_leaves_no_place_behind() -> None:
    async def crowd(pool: ThreadPool) -> None:
        submitting = [asyncio.create_task(pool.asubmit(len, "four")) for _ in range(3)]
        await asyncio.sleep(0)  # each of them runs up to where it waits
        assert len(pool._crew.backlog.places.waiting) == 3
        submitting[0].cancel()
        submitting[1].cancel()
        gate.open()
        job = await asyncio.wait_for(submitting[2], GUARD)
        assert await asyncio.wait_for(job, GUARD) == 4

    gate = Gate()
    with ThreadPool(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(len, "four")
        asyncio.run(crowd(pool))

    assert len(pool._crew.backlog.places.free) == 1


# The inputs of a map


def jobs(*names: str) -> list[Job[Any]]:
    """A line asks nothing of its jobs, so that names will do."""
    return cast("list[Job[Any]]", list(names))


class Room:
    """Places that are all taken, and a queue that is filled from lines."""

    def __init__(self, count: int = 1) -> None:
        self.places = Places(count)
        for _ in range(count):
            self.places.take()
        self.queue: list[Any] = []

    def line(self, *names: str) -> Line:
        line = Line(self.places, self.queue.append)
        line.jobs.extend(jobs(*names))
        self.places.wait(line)
        return line


def test_the_jobs_of_a_line_move_up_in_their_order_one_for_each_place() -> None:
    room = Room()
    room.line("a", "b", "c")
    moved = []

    for _ in range(3):
        room.places.give()
        moved.append(room.queue.copy())

    assert moved == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_line_takes_turns_with_the_others_who_wait() -> None:
    room = Room()
    room.line("a1", "a2")
    room.line("b1", "b2")

    for _ in range(4):
        room.places.give()

    assert room.queue == ["a1", "b1", "a2", "b2"]


def test_a_line_takes_what_is_free_when_nobody_else_waits() -> None:
    room = Room(3)
    line = Line(room.places, room.queue.append)
    line.jobs.extend(jobs("a", "b"))
    for _ in range(3):
        room.places.give()

    room.places.wait(line)

    assert room.queue == ["a", "b"]
    assert len(room.places.free) == 1


def test_a_line_whose_jobs_were_taken_out_hands_its_place_on() -> None:
    room = Room()
    emptied = room.line("a")
    room.line("b")
    assert emptied.take_out(jobs("a")[0])

    room.places.give()

    assert room.queue == ["b"]


def test_the_last_line_gives_back_a_place_that_it_can_t_use() -> None:
    room = Room()
    emptied = room.line("a", "b")
    assert emptied.take_all() == jobs("a", "b")

    room.places.give()

    assert len(room.places.free) == 1
    assert not room.queue


def test_a_job_can_be_taken_out_once() -> None:
    line = Room().line("a", "b")

    assert [line.take_out(jobs(name)[0]) for name in ("a", "a", "x")] == [True, False, False]
    assert list(line.jobs) == jobs("b")


def test_a_nudge_means_nothing_to_a_line() -> None:
    room = Room()
    room.line("a").nudge()

    assert not room.queue


def test_any_number_of_lines_in_a_row_can_have_been_emptied() -> None:
    room = Room()
    for _ in range(2 * sys.getrecursionlimit()):
        room.line("a").take_all()
    room.line("b")

    room.places.give()

    assert room.queue == ["b"]


def test_a_backlog_survives_any_number_of_maps_that_timed_out() -> None:
    gate = Gate()
    pool = ThreadPool(1, backlog=1)
    pool.submit(gate)
    gate.wait_entered()
    waiting = pool.submit(len, "four")
    for _ in range(sys.getrecursionlimit()):
        with pytest.raises(TimeoutError):
            next(pool.map(len, ["four"], timeout=0))
    gate.open()

    try:
        assert waiting.result(GUARD / 4) == 4
        assert pool.submit(len, "four").result(GUARD / 4) == 4
    finally:
        pool.shutdown(timeout=1)


@given(st.lists(st.sampled_from(["line", "give", "cancel", "empty"]), max_size=60), st.integers(1, 3), st.data())
def test_places_and_jobs_are_never_lost_whatever_the_order(happens: list[str], count: int, data: st.DataObject) -> None:
    room, lines, made, cancelled = Room(count), list[Line](), list[Any](), list[Any]()
    given_back = 0

    def begin_line() -> None:
        names = [f"{len(lines)}.{number}" for number in range(data.draw(st.integers(1, 3)))]
        made.extend(names)
        lines.append(room.line(*names))

    def give() -> None:
        nonlocal given_back
        if len(room.places.free) < count:
            given_back += 1
            room.places.give()

    def cancel() -> None:
        waiting = [(line, job) for line in lines for job in line.jobs]
        if waiting:
            line, job = data.draw(st.sampled_from(waiting))
            assert line.take_out(job)
            cancelled.append(job)

    def empty() -> None:
        if lines:
            cancelled.extend(data.draw(st.sampled_from(lines)).take_all())

    steps: dict[str, Callable[[], None]] = {"line": begin_line, "give": give, "cancel": cancel, "empty": empty}
    for step in happens:
        steps[step]()

        waiting = [job for line in lines for job in line.jobs]
        assert sorted([*room.queue, *waiting, *cancelled]) == sorted(made)
        assert len(room.places.free) == given_back - len(room.queue)
        assert not (waiting and room.places.free)
        assert len(set(map(id, room.places.waiting))) == len(room.places.waiting)
