"""One clock for all processes of a machine, which follows nobody who sets the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock import clock
from penstock.engines.sqlite import clock as engine_clock
from penstock.job import JobState
from tests.engines.kinds import A, Desk, new
from tests.engines.sqlite.script import with_engine

YEAR = 365 * 24 * 3600.0


class Times:
    """The machine's clocks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.wall = 1_000_000_000.0
        self.boot = 5_000.0
        patch.setattr(clock, "wall", lambda: self.wall)
        patch.setattr(engine_clock, "since_boot", lambda: self.boot)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_wall_clock_that_is_set_changes_no_lease_and_no_delay(
    times: Times, opened: Callable[[], Desk], jump: float
) -> None:
    desk = opened()
    desk.renew(A, first=True)
    [held] = desk.put_and_claim(A, "held")
    desk.put(new("soon", delay=10), "now")
    times.wall += jump

    assert list(desk.sweep().lost) == []
    assert desk.claim_ids(A) == ["now"]
    times.pass_by(10)
    assert desk.claim_ids(A) == ["soon"]
    assert desk.done(held)
    record = desk.record("held")
    assert record.started is not None
    assert record.ended is not None
    assert record.ended - record.started == 10


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_jobs_for_a_time_of_day_follow_a_wall_clock_that_is_set(
    times: Times, opened: Callable[[], Desk], jump: float
) -> None:
    desk = opened()
    desk.renew(A, first=True)
    desk.put(new("at", at=times.wall + 7200), new("in", delay=7200))
    times.wall += jump
    desk.sweep()
    desk.put(new("later", at=times.wall + 7200))

    times.pass_by(7200 - jump)
    assert desk.claim_ids(A) == (["at"] if jump > 0 else ["in", "later", "at"])


def test_a_wall_clock_that_is_a_little_off_moves_nothing(times: Times, opened: Callable[[], Desk]) -> None:
    desk = opened()
    desk.put(new("at", at=times.wall + 100))
    due = desk.record("at").due
    times.wall += 0.9
    desk.sweep()

    assert desk.record("at").due == due


def test_a_job_that_was_put_for_a_time_is_retried_after_its_delay(times: Times, opened: Callable[[], Desk]) -> None:
    from penstock.engines.requests import Outcome

    desk = opened()
    desk.renew(A, first=True)
    desk.put(new("at", at=times.wall + 10))
    times.pass_by(10)
    assert desk.settle(desk.claim_one(A), Outcome.RETRY, delay=5)
    times.wall += 3600
    desk.sweep()

    assert desk.state("at") is JobState.SCHEDULED
    times.pass_by(5)
    assert desk.claim_ids(A) == ["at"]


def test_time_does_not_go_back_when_the_machine_starts_with_a_wrong_clock(
    times: Times, opened: Callable[[], Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = opened()
    desk.put("a")
    desk.engine.close()
    times.wall, times.boot = 0.0, 3.0  # its battery is empty
    (tmp_path / "boot").write_text("next")
    monkeypatch.setattr(engine_clock, "_BOOT", tmp_path / "boot")

    desk = opened()
    desk.put("b")
    [a, b] = desk.records("a", "b")
    assert a is not None
    assert b is not None
    assert b.enqueued >= a.enqueued


def test_all_processes_have_the_same_time(tmp_path: Path, url: str, desk: Desk) -> None:
    code = """
        engine.open()
        say(put("between"))
    """
    desk.put("first")
    with with_engine(tmp_path / "script", url, code) as script:
        script.line()
        script.end()
    desk.put("last")

    times = [record.enqueued for record in desk.records("first", "between", "last") if record]
    assert times == sorted(times)
    assert abs(times[0] - clock.wall()) < 3600


def test_without_a_name_for_each_start_the_wall_clock_has_to_do(
    times: Times, opened: Callable[[], Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_clock, "_BOOT", tmp_path / "missing")
    desk = opened()
    times.wall += 7
    desk.put("a")

    assert [record.enqueued for record in desk.records("a") if record] == [times.wall]


def test_a_start_with_a_wall_clock_that_is_behind_goes_on_from_the_newest_job(
    times: Times, opened: Callable[[], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueue notes no time but that of its job: no worker has ever shown a sign of life here."""
    monkeypatch.setattr(engine_clock, "boot_id", lambda: "first")
    desk = opened()
    times.pass_by(50)
    desk.put("a")
    enqueued = desk.record("a").enqueued
    desk.engine.close()
    monkeypatch.setattr(engine_clock, "boot_id", lambda: "second")
    times.wall -= YEAR
    times.boot = 1.0

    desk = opened()
    desk.put("b")

    assert desk.record("b").enqueued >= enqueued
