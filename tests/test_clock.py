"""Time comes in through one door, and lengths of time are checked there."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from penstock import clock
from tests.fake_time import FakeTime


def test_a_deadline_is_the_monotonic_time_so_many_seconds_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)

    assert clock.deadline_after(5) == time.now + 5


def test_no_limit_is_no_deadline_and_leaves_no_remainder() -> None:
    assert clock.deadline_after(None) is None
    assert clock.remaining(None) is None


def test_what_remains_shrinks_to_zero_and_never_below(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    deadline = clock.deadline_after(5)

    left = [clock.remaining(deadline)]
    time.advance(3)
    left.append(clock.remaining(deadline))
    time.advance(30)
    left.append(clock.remaining(deadline))

    assert left == [5, 2, 0]


@pytest.mark.parametrize("timeout", [math.inf, 1e300])
def test_what_remains_until_a_deadline_beyond_all_time_can_be_waited_for(timeout: float) -> None:
    left = clock.remaining(clock.deadline_after(timeout))

    assert left is not None
    assert threading.Lock().acquire(timeout=left)


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5, math.inf])
def test_a_length_of_time_comes_back_as_a_float(value: float) -> None:
    checked = clock.checked_seconds("grace", value)

    assert type(checked) is float
    assert checked == value


def test_none_is_a_length_of_time_without_limit() -> None:
    assert clock.checked_seconds("grace", None) is None


@pytest.mark.parametrize("value", ["5", True, [], 1j])
def test_what_is_no_number_is_a_type_error_that_names_it(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^grace must be a number of seconds or None, not "):
        clock.checked_seconds("grace", value)


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, -math.inf])
def test_what_can_be_no_length_is_a_value_error_that_names_it(value: float) -> None:
    with pytest.raises(ValueError, match=r"^grace must be zero or more seconds, not "):
        clock.checked_seconds("grace", value)


def test_zero_can_be_forbidden() -> None:
    with pytest.raises(ValueError, match=r"^timeout must be more than zero seconds, not 0"):
        clock.checked_seconds("timeout", 0, zero=False)
