"""Writers take turns."""

from __future__ import annotations

import contextlib
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

    def write(turn: Turn) -> None:
        with turn.taken(clock.monotonic() + 3600):
            pass

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
