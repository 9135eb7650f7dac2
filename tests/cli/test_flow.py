"""From inputs to lines: what is read when, and what is written when."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import ThreadPool
from penstock.cli.flow import Flow
from penstock.cli.inputs import Input
from penstock.cli.output import Output
from tests.gates import GUARD, Gate

ROOM = 20


class Source:
    """Endless inputs, until told to end or to fail; it knows how many were taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.ending: OSError | StopIteration | None = None
        self.waits_at: int | None = None  # the source has nothing more to give for now once so many were taken
        self.goes_on = threading.Event()

    def __iter__(self) -> Iterator[Input]:
        return self

    def __next__(self) -> Input:
        if self.taken == self.waits_at:
            assert self.goes_on.wait(GUARD)
        if self.ending is not None:
            raise self.ending
        self.taken += 1
        return Input(self.taken, self.taken)


@pytest.fixture
def pipe() -> Iterator[tuple[int, Output]]:
    reader, writer = os.pipe()
    with Output(writer, "a pipe") as output:
        yield reader, output
    os.close(reader)


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(1, backlog=2) as pool:
        yield pool


def test_a_result_is_written_although_the_next_input_has_not_come(pool: ThreadPool, pipe: tuple[int, Output]) -> None:
    source, (reader, output) = Source(), pipe
    source.waits_at = 1
    flow = Flow(pool, lambda x: x, source, output, ordered=False, room=ROOM)
    flow.start()

    assert b'"result": 1' in os.read(reader, 10_000)  # blocks until there is something

    source.ending = StopIteration()
    source.goes_on.set()
    assert flow.over.wait(GUARD)
    flow.join(GUARD)


def test_no_more_inputs_are_read_than_there_is_room_for(tmp_path: Path) -> None:
    source, gate = Source(), Gate()
    descriptor = os.open(tmp_path / "results", os.O_WRONLY | os.O_CREAT)

    with ThreadPool(2, backlog=2) as pool, Output(descriptor, "a file") as output:
        flow = Flow(pool, lambda x: gate(x) if x == 1 else x, source, output, ordered=True, room=ROOM)
        flow.start()
        gate.wait_entered()
        # The others run past the first, until the room is full of results that wait for it.
        while pool.stats().done < ROOM - 1:
            flow.over.wait(0.001)  # a poll: that the feeder does nothing more tells nobody anything
        assert source.taken == ROOM
        assert flow.tally.lines == 0

        source.ending = StopIteration()
        gate.open()
        assert flow.over.wait(GUARD)
        flow.join(GUARD)
    assert flow.tally.done == source.taken


def test_a_source_that_breaks_ends_the_run_and_is_told(pool: ThreadPool, pipe: tuple[int, Output]) -> None:
    source, (_, output) = Source(), pipe
    source.waits_at = 2
    flow = Flow(pool, lambda x: x, source, output, ordered=False, room=ROOM)
    flow.start()
    source.ending = broken = OSError(5, "Input/output error")
    source.goes_on.set()

    assert flow.over.wait(GUARD)
    flow.join(GUARD)
    assert flow.reading_error is broken
    assert not flow.went_well()


def test_a_run_without_inputs_goes_well(pool: ThreadPool, pipe: tuple[int, Output]) -> None:
    source, (_, output) = Source(), pipe
    source.ending = StopIteration()
    flow = Flow(pool, lambda x: x, source, output, ordered=False, room=ROOM)
    flow.start()

    assert flow.over.wait(GUARD)
    flow.join(GUARD)
    assert flow.went_well()
