"""A report says what became of every job, and whether that is well."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from penstock import Report, StuckJob

OVERRAN = StuckJob(id=7, name="render", worker="mail_0", ran=9.5, stack="  File …", outcome="overran")
ABANDONED = StuckJob(id=8, name="render", worker="mail_1", ran=9.5, stack="  File …", outcome="abandoned")


def report(**parts: Any) -> Report:
    """A report of a closed pool that did nothing, but for *parts*."""
    empty: dict[str, Any] = {
        "pool": "mail", "accepted": 0, "done": 0, "failed": 0, "cancelled": 0, "killed": 0, "abandoned": 0,
        "waiting": 0, "running": 0, "retrying": 0, "cut": 0, "closing": True, "closed": True, "seconds": 0.25,
        "budget": None, "stuck": (),
    }  # fmt: skip
    return Report(**{**empty, **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"accepted": 5, "done": 5},
        {"accepted": 5, "done": 3, "failed": 2},
        {"accepted": 5, "done": 4, "cancelled": 1},  # by hand: its owner wanted it so
    ],
    ids=str,
)
def test_it_is_ok_if_every_job_ran_to_its_own_end(parts: dict[str, Any]) -> None:
    assert (report(**parts).ok, report(**parts).exit_code) == (True, 0)


@pytest.mark.parametrize(
    "parts",
    [
        {"accepted": 5, "done": 4},  # one was lost
        {"accepted": 5, "done": 6},  # one was counted twice
        {"accepted": 5, "done": 4, "waiting": 1},
        {"accepted": 5, "done": 4, "running": 1},
        {"accepted": 5, "done": 4, "retrying": 1},
        {"accepted": 5, "done": 5, "running": 1},
        {"accepted": 5, "done": 4, "cancelled": 1, "cut": 1},
        {"accepted": 5, "done": 4, "failed": 1, "cut": 1},
        {"accepted": 5, "done": 4, "killed": 1},
        {"accepted": 5, "done": 4, "abandoned": 1},
        {"accepted": 5, "done": 4, "failed": 1, "stuck": (OVERRAN,)},
    ],
    ids=lambda parts: "-".join(parts),
)
def test_it_is_not_ok_if_a_job_was_cut_left_or_lost(parts: dict[str, Any]) -> None:
    assert (report(**parts).ok, report(**parts).exit_code) == (False, 1)


def test_it_balances_if_every_accepted_job_has_one_outcome() -> None:
    balanced = report(accepted=15, done=5, failed=4, cancelled=3, killed=2, abandoned=1)

    assert (balanced.ended, balanced.balanced) == (15, True)
    assert not report(accepted=16, done=15).balanced
    assert not report(accepted=14, done=15).balanced


def test_one_line_says_how_a_pool_stopped() -> None:
    stopped = report(
        accepted=20, done=11, failed=4, cancelled=3, killed=1, abandoned=1, budget=25.0, stuck=(OVERRAN, ABANDONED)
    )

    assert str(stopped) == (
        "pool 'mail' stopped in 0.25 s of 25 s; 20 accepted: "
        "11 done, 4 failed, 3 cancelled, 1 killed, 1 abandoned, 1 overran, still running"
    )


def test_words_without_a_count_are_left_out_of_the_line() -> None:
    assert str(report(accepted=3, done=3)) == "pool 'mail' stopped in 0.25 s; 3 accepted: 3 done"


def test_one_line_says_what_an_open_pool_does() -> None:
    open_ = report(accepted=10, done=4, waiting=3, retrying=1, running=2, closing=False, closed=False)

    assert str(open_) == (
        "pool 'mail' is open; 10 accepted: 4 done, 3 waiting, 1 waiting for another attempt, 2 running"
    )
    assert str(report(closing=True, closed=False)).startswith("pool 'mail' is stopping; ")


def test_a_report_crosses_a_process_border() -> None:
    stopped = report(accepted=1, abandoned=1, cut=1, stuck=(ABANDONED,))

    assert pickle.loads(pickle.dumps(stopped)) == stopped
