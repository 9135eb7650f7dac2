"""Which failures are tried again, how often, and how long until then."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import DeadlineExceeded, JobAbandoned, JobCancelled, NoResult, Retry

CHANCES = st.floats(0, 1)
RETRIES = st.builds(
    Retry,
    attempts=st.integers(1, 10_000),
    wait=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    max_wait=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        ({"attempts": 0}, ValueError, "attempts must be 1 or more (the first one counts), not 0"),
        ({"attempts": -3}, ValueError, "attempts must be 1 or more (the first one counts), not -3"),
        ({"attempts": 2.0}, TypeError, "attempts must be a whole number, not 2.0"),
        ({"attempts": True}, TypeError, "attempts must be a whole number, not True"),
        ({"attempts": None}, TypeError, "attempts must be a whole number, not None"),
        ({"on": (ValueError, "OSError")}, TypeError, "on must name exception types, not 'OSError'"),
        ({"on": int}, TypeError, "on must name exception types, not <class 'int'>"),
        ({"wait": -1}, ValueError, "wait must be zero or more seconds, not -1"),
        ({"wait": "1"}, TypeError, "wait must be a number of seconds"),
        ({"max_wait": math.nan}, ValueError, "max_wait must be zero or more seconds, not nan"),
        ({"max_elapsed": -1}, ValueError, "max_elapsed must be zero or more seconds, not -1"),
        ({"factor": 0.5}, ValueError, "factor must be 1 or more, not 0.5"),
        ({"factor": math.nan}, ValueError, "factor must be 1 or more, not nan"),
        ({"jitter": 1.5}, ValueError, "jitter must be between 0 and 1, not 1.5"),
        ({"jitter": -0.1}, ValueError, "jitter must be between 0 and 1, not -0.1"),
        ({"factor": "2"}, TypeError, "factor must be a number, not '2'"),
        ({"jitter": True}, TypeError, "jitter must be a number, not True"),
        ({"wait": None}, TypeError, "wait must be"),
        ({"max_wait": None}, TypeError, "max_wait must be"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_named(parts: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as caught:
        Retry(**{"attempts": 3, **parts})

    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("on", [OSError, [OSError], (OSError,), {OSError}], ids=str)
def test_the_types_can_be_given_as_one_or_many(on: Any) -> None:
    assert Retry(3, on=on).on == (OSError,)


@pytest.mark.parametrize(
    ("on", "error", "covered"),
    [
        (Exception, ValueError(), True),
        (OSError, ConnectionError(), True),
        (OSError, ValueError(), False),
        ((OSError, KeyError), KeyError(), True),
        (Exception, KeyboardInterrupt(), False),
        (BaseException, KeyboardInterrupt(), True),
        ((), ValueError(), False),
        # No result to give is no failure of the work: a bare Exception doesn't mean it.
        (Exception, DeadlineExceeded("a job"), False),
        (BaseException, JobCancelled("a job"), False),
        (DeadlineExceeded, DeadlineExceeded("a job"), True),
        ((Exception, DeadlineExceeded), DeadlineExceeded("a job"), True),
        (DeadlineExceeded, JobAbandoned("a job", 1.0), False),
        (NoResult, JobAbandoned("a job", 1.0), True),
    ],
    ids=str,
)
def test_the_types_decide_what_is_worth_another_attempt(on: Any, error: BaseException, covered: bool) -> None:
    assert Retry(3, on=on).covers(error) == covered


def test_waits_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(9, wait=0.5, factor=3, max_wait=10)

    assert [retry.delay(attempt, chance=0) for attempt in (1, 2, 3, 4, 5)] == [0.5, 1.5, 4.5, 10, 10]


def test_jitter_takes_a_share_of_the_wait_away() -> None:
    retry = Retry(9, wait=8, jitter=0.25)

    assert [retry.delay(1, chance) for chance in (0, 0.5, 1)] == [8, 7, 6]


def test_the_share_is_drawn_anew_each_time() -> None:
    retry = Retry(9, wait=8, jitter=1)

    assert len({retry.delay(1) for _ in range(100)}) > 1


@pytest.mark.parametrize("factor", [2.0, math.inf])
def test_no_wait_is_no_wait_after_however_many_attempts(factor: float) -> None:
    retry = Retry(5_000, wait=0, factor=factor)

    assert {retry.delay(attempt) for attempt in (1, 2, 1_000, 1_025, 4_999)} == {0.0}


@given(RETRIES.filter(lambda retry: retry.wait > 0), st.integers(1, 10_000), CHANCES)
def test_a_wait_is_never_longer_than_the_longest_nor_shorter_than_jitter_allows(
    retry: Retry, attempt: int, chance: float
) -> None:
    full = retry.delay(attempt, chance=0)

    assert 0 <= full <= retry.max_wait
    assert full * (1 - retry.jitter) <= retry.delay(attempt, chance) <= full


@given(RETRIES.filter(lambda retry: retry.wait > 0), st.integers(1, 10_000))
def test_without_luck_a_wait_is_never_shorter_than_the_one_before(retry: Retry, attempt: int) -> None:
    assert retry.delay(attempt, chance=0) <= retry.delay(attempt + 1, chance=0)


@given(RETRIES.filter(lambda retry: retry.wait > 0), st.integers(1, 12_000), CHANCES)
def test_another_attempt_comes_if_and_only_if_one_is_left(retry: Retry, attempt: int, chance: float) -> None:
    delay = retry.next_delay(ValueError(), attempt, elapsed=0, chance=chance)

    assert (delay is not None) == (attempt < retry.attempts)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 10), CHANCES)
def test_no_attempt_begins_after_the_job_is_too_old(
    max_elapsed: float, elapsed: float, wait: float, chance: float
) -> None:
    retry = Retry(3, wait=wait, max_elapsed=max_elapsed)

    delay = retry.next_delay(ValueError(), 1, elapsed, chance)

    assert delay is None or elapsed + delay <= max_elapsed
    assert (delay is None) == (elapsed + retry.delay(1, chance) > max_elapsed)


def test_what_is_not_covered_gets_no_other_attempt() -> None:
    assert Retry(3, on=(OSError,)).next_delay(ValueError(), 1, elapsed=0) is None
