"""The bound of a backlog is strict, and no place is lost or made, however many ask at once."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.pool.lines import SubmitterInLine
from penstock.pool.places import Places, Waiter
from tests.gates import GUARD, in_thread


class Waiting:
    """Somebody in the line, who remembers what he was given."""

    submits = True

    def __init__(self, *, wants_it: bool = True) -> None:
        self.wants_it = wants_it
        self.granted = 0

    def grant(self) -> bool:
        self.granted += self.wants_it
        return self.wants_it

    def nudge(self) -> None:
        pass


class PlacesMachine(RuleBasedStateMachine):
    """Whatever the order of calls: the places are where the model says, and go to those who came first."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.count = count
        self.places = Places(count)
        self.held = 0  # taken, or granted to somebody
        self.line: list[Waiting] = []
        self.gone: list[Waiting] = []  # granted, or left
        self.granted: list[Waiting] = []

    @rule()
    def take(self) -> None:
        free = self.count - self.held
        assert self.places.take() == (free > 0)
        self.held += free > 0

    @precondition(lambda self: self.held)
    @rule()
    def give(self) -> None:
        self.places.give()
        self.held -= 1
        self.next_in_line()

    @rule(wants_it=st.booleans())
    def wait(self, wants_it: bool) -> None:
        waiter = Waiting(wants_it=wants_it)
        self.line.append(waiter)
        self.places.wait(waiter)
        if self.held < self.count:
            self.next_in_line()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.line))
        assert self.places.leave(waiter)
        self.line.remove(waiter)
        self.gone.append(waiter)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def leave_too_late(self, data: st.DataObject) -> None:
        assert not self.places.leave(data.draw(st.sampled_from(self.gone)))

    def next_in_line(self) -> None:
        while self.line:
            waiter = self.line.pop(0)
            self.gone.append(waiter)
            if waiter.wants_it:
                self.granted.append(waiter)
                self.held += 1
                return

    @invariant()
    def no_place_is_lost_or_made(self) -> None:
        assert len(self.places.free) + self.held == self.count

    @invariant()
    def somebody_waits_only_if_no_place_is_free(self) -> None:
        assert not (self.line and self.places.free)

    @invariant()
    def who_came_first_is_served_first(self) -> None:
        assert list(self.places.waiting) == self.line
        assert [waiter.granted for waiter in self.granted] == [1] * len(self.granted)
        assert not any(waiter.granted for waiter in self.line)


PlacesMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestPlaces = PlacesMachine.TestCase


@given(st.integers(1, 50))
def test_there_are_as_many_places_as_were_asked_for(count: int) -> None:
    places = Places(count)

    assert [places.take() for _ in range(count + 1)] == [True] * count + [False]


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize(("count", "threads"), [(1, 4), (3, 8)])
def test_the_bound_is_strict_and_no_place_is_lost_or_made_under_many_threads(count: int, threads: int) -> None:
    places = Places(count)
    inside: deque[int] = deque()  # one for each place in somebody's hand; its append and pop are atomic
    most: list[int] = []
    gave_up: list[int] = []
    together = threading.Barrier(threads)

    def hold() -> None:
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    def use(number: int) -> None:
        together.wait(GUARD)
        for turn in range(400):
            if not places.take():
                waiter = SubmitterInLine()
                places.wait(waiter)
                # Some give up at once, so that leaving races with being granted a place.
                patience = 0.0 if (turn + number) % 4 == 0 else GUARD
                waiter.sleep(time.monotonic() + patience)
                if places.leave(waiter):
                    if patience:
                        gave_up.append(turn)
                    continue
            hold()
            places.give()

    for thread in [in_thread(use, number) for number in range(threads)]:
        thread.result(4 * GUARD)

    assert not gave_up, "a place was lost, or somebody was forgotten in the line"
    assert max(most) <= count
    assert (len(places.free), len(places.waiting)) == (count, 0)


def test_who_lines_up_as_the_last_place_comes_back_gets_it() -> None:
    places, waiter = Places(1), Waiting()
    assert places.take()

    class Crowded(list[None]):
        """Somebody lines up, and finds nothing free, just before the place is back."""

        def append(self, token: None) -> None:
            if not waiter.granted:
                places.wait(waiter)
            super().append(token)

    places.free = Crowded()
    places.give()

    assert waiter.granted == 1
    assert not places.free


def test_who_looks_before_he_has_lined_up_is_not_forgotten() -> None:
    places, waiter = Places(1), Waiting()
    assert places.take()

    class Crowded(deque[Waiter]):
        """The place comes back, and nobody waits for it yet, just before somebody has lined up."""

        def append(self, waiter: Waiter) -> None:
            places.give()
            super().append(waiter)

    places.waiting = Crowded()
    places.wait(waiter)

    assert waiter.granted == 1
    assert not places.free
