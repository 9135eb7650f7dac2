"""A pool's life moves forward only, and each of its phases has one owner."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lifecycle import Lifecycle, Phase
from tests.gates import GUARD, in_thread
from tests.watched import WatchedCondition


@given(st.lists(st.sampled_from(Phase)))
def test_a_phase_only_grows_and_each_has_one_owner(asked: list[Phase]) -> None:
    life = Lifecycle()
    seen = [life.phase]
    moved = []

    for to in asked:
        if life.advance(to):
            moved.append(to)
        seen.append(life.phase)

    assert seen == sorted(seen)
    assert moved == sorted(set(moved))
    assert life.phase == max(asked, default=Phase.OPEN)


@given(st.lists(st.sampled_from(Phase)))
def test_the_flags_say_what_the_phases_did(asked: list[Phase]) -> None:
    life = Lifecycle()

    reached = [to for to in asked if life.advance(to)]

    assert life.closing == (life.phase >= Phase.DRAINING)
    assert life.cutting == bool({Phase.CANCELLING, Phase.LEAVING} & set(reached))


def test_to_start_no_job_any_more_leaves_the_phase_to_who_stops() -> None:
    life = Lifecycle()

    life.start_none()

    assert life.cutting
    assert life.phase is Phase.OPEN
    assert life.advance(Phase.CANCELLING)


def test_of_many_threads_one_moves_each_phase() -> None:
    life = Lifecycle()
    together = threading.Barrier(8)

    def advance() -> list[Phase]:
        together.wait(GUARD)
        return [to for to in Phase if life.advance(to)]

    moved = [to for thread in [in_thread(advance) for _ in range(8)] for to in thread.result(GUARD)]

    assert len(moved) == len(set(moved))
    assert Phase.CLOSED in moved


def test_advance_wakes_a_parked_waiter() -> None:
    life = Lifecycle()
    life._moved = watched = WatchedCondition()
    waiting = in_thread(life.wait_for, Phase.LEAVING)
    assert watched.parked.wait(GUARD)

    life.advance(Phase.CLOSED)

    assert waiting.result(GUARD)


def test_a_waiter_sleeps_on_through_earlier_phases() -> None:
    life = Lifecycle()
    life._moved = watched = WatchedCondition()
    waiting = in_thread(life.wait_for, Phase.CLOSED)
    assert watched.parked.wait(GUARD)

    watched.parked.clear()
    life.advance(Phase.DRAINING)

    assert watched.parked.wait(GUARD), "it looked, and parked again"
    assert not waiting.done()
    life.advance(Phase.CLOSED)
    assert waiting.result(GUARD)


def test_waiting_for_a_phase_that_was_passed_returns_at_once() -> None:
    life = Lifecycle()
    life.advance(Phase.CLOSED)

    assert life.wait_for(Phase.DRAINING, timeout=0)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_waiting_says_false_when_time_is_up(timeout: float) -> None:
    assert not Lifecycle().wait_for(Phase.DRAINING, timeout)
