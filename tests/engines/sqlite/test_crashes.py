"""Processes that die or freeze in the middle of a transaction."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from penstock import errors
from penstock.engines.requests import Fate, NewJob, Put
from tests.engines.kinds import A, Desk
from tests.engines.sqlite.locks import wait_until_locked
from tests.engines.sqlite.script import with_engine
from tests.gates import GUARD, in_thread

INSIDE = """
engine.open()
put("before")
stay_inside()
put(*(f"{n}" for n in range(2_000)))
"""


def test_a_process_that_is_killed_inside_a_transaction_leaves_nothing_of_it(
    tmp_path: Path, url: str, desk: Desk
) -> None:
    with with_engine(tmp_path / "script", url, INSIDE) as script:
        script.expect("inside")
        script.signal(signal.SIGKILL)
        script.end()

        assert desk.put("after") == [Fate.ACCEPTED]  # at once: its turn is over
        assert desk.searched() == ["after", "before"]
        assert desk.complaints() == []


def test_who_waits_for_a_process_that_is_killed_goes_on(tmp_path: Path, url: str, path: Path, desk: Desk) -> None:
    with with_engine(tmp_path / "script", url, INSIDE) as script:
        script.expect("inside")
        waiting = in_thread(desk.engine.transact, [Put([NewJob("a", "work")])], within=3600)
        wait_until_locked(Path(f"{path}-penstock", "next"))
        script.signal(signal.SIGKILL)

        assert waiting.result(GUARD) == [[Fate.ACCEPTED]]


def test_a_frozen_process_makes_others_give_up_in_time_and_go_on_after_it(tmp_path: Path, url: str, desk: Desk) -> None:
    with with_engine(tmp_path / "script", url, INSIDE) as script:
        script.expect("inside")
        script.signal(signal.SIGSTOP)
        with pytest.raises(errors.StoreUnavailable, match="stuck"):
            desk.engine.transact([Put([NewJob("a", "work")])], within=0.05)
        assert desk.searched() == ["before"]  # readers wait for nobody

        script.signal(signal.SIGCONT)
        script.go()
        assert desk.put("a") == [Fate.ACCEPTED]


def test_numbers_of_jobs_are_not_used_again_after_a_crash_or_a_prune(tmp_path: Path, url: str, desk: Desk) -> None:
    desk.renew(A, first=True)
    [last] = desk.put_and_claim(A, "last")
    desk.done(last)
    desk.prune()
    desk.engine.close()

    assert desk.put("next") == [Fate.ACCEPTED]
    assert desk.record("next").seq > last.seq
