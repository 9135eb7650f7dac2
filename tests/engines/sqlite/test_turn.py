"""Writers take turns."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import clock, errors
from penstock.engines.sqlite import beside, place
from penstock.engines.sqlite import turn as turn_module
from penstock.engines.sqlite.turn import Turn
from tests.engines.sqlite.locks import wait_until_locked
from tests.gates import GUARD, in_thread


@pytest.fixture
def where(url: str) -> place.Place:
    where = place.parse(url)
    beside.make(where)
    return where


@contextlib.contextmanager
def turns(where: place.Place, count: int) -> Iterator[list[Turn]]:
    """As many as there were processes."""
    made = [Turn(where) for _ in range(count)]
    yield made
    for turn in made:
        turn.close()


def soon() -> float:
    return clock.monotonic() + GUARD


def write(turn: Turn) -> None:
    """Take a turn, whenever it comes."""
    with turn.taken(clock.monotonic() + 3600):
        pass


def test_one_writes_at_a_time(where: place.Place) -> None:
    inside: list[int] = []
    most: list[int] = []

    def write(turn: Turn, number: int) -> None:
        for _ in range(50):
            with turn.taken(soon()):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    with turns(where, 3) as made:
        for done in [in_thread(write, turn, number) for number, turn in enumerate(made)]:
            done.result(GUARD)

    assert set(most) == {1}


def test_who_has_written_lets_the_one_who_waits_go_first(where: place.Place) -> None:
    order: list[str] = []

    def write_second(turn: Turn) -> None:
        with turn.taken(soon()):
            order.append("second")

    with turns(where, 2) as [first, second]:
        with first.taken(soon()):
            waiting = in_thread(write_second, second)
            wait_until_locked(Path(where.folder, "next"))
        with first.taken(soon()):  # at once, as if it had never stopped
            order.append("first again")
        waiting.result(GUARD)

    assert order == ["second", "first again"]


def test_who_leaves_wakes_who_waits(where: place.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "_LOOK", 3600.0)

    with turns(where, 3) as [first, second, third]:
        with first.taken(soon()):
            waiting = [in_thread(write, second), in_thread(write, third)]
            wait_until_locked(Path(where.folder, "next"))
        for done in waiting:
            done.result(GUARD)


def test_nobody_waits_longer_than_told(where: place.Place) -> None:
    with turns(where, 3) as [writer, waiter, third]:
        with writer.taken(soon()):
            for turn in (waiter, third):
                with pytest.raises(errors.StoreUnavailable, match="stuck"), turn.taken(clock.monotonic() + 0.02):
                    pass
        with third.taken(clock.monotonic()):  # those who gave up are in nobody's way
            pass


def test_a_turn_that_ends_with_an_error_is_over(where: place.Place) -> None:
    with turns(where, 2) as [first, second]:
        with contextlib.suppress(ZeroDivisionError), first.taken(soon()):
            raise ZeroDivisionError
        with second.taken(clock.monotonic()):
            pass


def rings(where: place.Place) -> bytes:
    """What is in the bells, and nobody has heard."""
    heard = b""
    for gate in ("next", "turn"):
        bell = os.open(Path(where.folder, f"{gate}.bell"), os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            heard += os.read(bell, 100)
        os.close(bell)
    return heard


def test_who_writes_alone_rings_for_nobody(where: place.Place) -> None:
    with turns(where, 1) as [turn]:
        for _ in range(3):
            with turn.taken(soon()):
                pass
        assert rings(where) == b""


def test_while_somebody_waits_all_line_up(where: place.Place) -> None:
    with turns(where, 3) as [first, second, third]:
        write(third)
        with first.taken(soon()):
            waiting = in_thread(write, second)
            wait_until_locked(Path(where.folder, "next"))
        waiting.result(GUARD)
        rings(where)

        with third.taken(soon()):  # which was asleep meanwhile
            pass

        assert rings(where) == b"!!"


def test_a_while_after_the_last_has_waited_nobody_rings_any_more(
    where: place.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with turns(where, 2) as [first, second]:
        with first.taken(soon()):
            waiting = in_thread(write, second)
            wait_until_locked(Path(where.folder, "next"))
        waiting.result(GUARD)

        times = itertools.count(clock.monotonic() + 3600)
        monkeypatch.setattr(clock, "monotonic", lambda: next(times))
        for turn in (first, second):
            write(turn)  # it may not have looked since the mark of the other
            rings(where)
            write(turn)
            assert rings(where) == b""


def test_who_leaves_just_before_a_mark_is_not_waited_for(where: place.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """He has rung for nobody: there was no mark. So who marks tries once more."""
    monkeypatch.setattr(turn_module, "_LOOK", 3600.0)
    marks = itertools.count(1)
    mark = turn_module._Crowd.mark

    def leave_and_mark(crowd: turn_module._Crowd) -> None:
        if next(marks) == 2:  # at the second gate
            assert first._gates is not None
            first._gates[1].free()
        mark(crowd)

    with turns(where, 2) as [first, second]:
        first.enter(soon())
        monkeypatch.setattr(turn_module._Crowd, "mark", leave_and_mark)
        in_thread(write, second).result(GUARD)

    assert next(marks) == 3


@pytest.mark.parametrize("name", ["crowd", "next", "next.bell", "turn", "turn.bell"])
def test_what_cannot_be_opened_costs_no_descriptors_however_often_it_is_tried(where: place.Place, name: str) -> None:
    Path(where.folder, name).mkdir()
    turn = Turn(where)
    before = len([*Path("/proc/self/fd").iterdir()])

    for _ in range(3):
        with pytest.raises(OSError, match=name):
            turn.enter(soon())
        assert len([*Path("/proc/self/fd").iterdir()]) == before

    Path(where.folder, name).rmdir()
    write(turn)
    turn.close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
