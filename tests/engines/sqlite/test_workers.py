"""Workers whose process is gone are known to be dead at once, by the lock that the system has freed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.engines.sqlite import clock as engine_clock
from penstock.job import JobState
from tests.engines.kinds import A, B, Desk, died
from tests.engines.sqlite.script import with_engine

WORKER = """
engine.open()
ask(Renew([Beat(5, first=True)], 3600.0))
[[jobs]] = [claimed.jobs for claimed in ask(Claim(5, None, [WORK]))]
say(" ".join(job.id for job in jobs))
until_told()
"""


def test_jobs_of_a_killed_process_are_taken_back_by_the_next_sweep(tmp_path: Path, url: str, desk: Desk) -> None:
    desk.put("a", "b")
    with with_engine(tmp_path / "script", url, WORKER) as script:
        script.expect("a b")
        assert desk.sweep().returned == 0
        script.signal(signal.SIGKILL)
        script.end()

    swept = desk.sweep()
    assert (swept.returned, swept.suspects, list(swept.lost)) == (2, 2, [])
    assert [attempt.outcome for attempt in desk.attempts("a")] == ["crashed"]
    assert not list(Path(f"{url.removeprefix('sqlite:///')}-penstock").glob("worker-*"))
    assert desk.complaints() == []


def test_a_frozen_process_is_not_dead_before_its_lease_is_over(tmp_path: Path, url: str, desk: Desk) -> None:
    desk.put("a")
    with with_engine(tmp_path / "script", url, WORKER) as script:
        script.expect("a")
        script.signal(signal.SIGSTOP)

        assert desk.sweep().returned == 0


def test_children_of_a_killed_process_do_not_keep_it_alive(tmp_path: Path, url: str, desk: Desk) -> None:
    code = """
        import subprocess
        if not os.fork():
            os.execvp("sleep", ["sleep", "3600"]) if os.fork() else say("forked") or time.sleep(3600)
        until_told()
    """
    desk.put("a")
    with with_engine(tmp_path / "script", url, WORKER + code.replace("\n        ", "\n")) as script:
        script.expect("a")
        script.go()
        script.expect("forked")
        script.signal(signal.SIGKILL)
        script.end()

        assert desk.sweep().returned == 1


def test_a_process_that_let_go_of_the_store_in_good_order_is_not_dead(desk: Desk, opened: Callable[[], Desk]) -> None:
    other = opened()
    other.renew(B, first=True)
    [a] = other.put_and_claim(B, "a")
    other.engine.close()

    assert desk.sweep().returned == 0
    assert desk.done(a)


def test_where_nothing_can_be_seen_the_lease_decides(tmp_path: Path, url: str, path: Path, desk: Desk) -> None:
    desk.put("a")
    with with_engine(tmp_path / "script", url, WORKER) as script:
        script.expect("a")
        shutil.rmtree(f"{path}-penstock")

        assert desk.sweep().returned == 0


def test_a_worker_that_was_given_up_and_came_back_can_be_seen_again(
    tmp_path: Path, url: str, path: Path, desk: Desk, opened: Callable[[], Desk]
) -> None:
    desk.renew(A, first=True)
    opened().sweep(died(A))
    desk.renew(A, first=True)
    desk.put_and_claim(A, "a")

    assert Path(f"{path}-penstock", f"worker-{A}").exists()
    assert opened().sweep().returned == 0


def test_a_new_start_of_the_machine_frees_all_jobs_and_blames_none(
    tmp_path: Path, desk: Desk, opened: Callable[[], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.renew(A, first=True)
    desk.put("a", "b")
    [a] = desk.claim(A, limit=1)
    before = desk.record("a").started
    desk.engine.close()

    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(engine_clock, "_BOOT", boot)
    monkeypatch.setattr(engine_clock, "since_boot", lambda: 1.0)
    swept = opened().sweep()

    assert (swept.returned, swept.failed, swept.suspects, list(swept.lost)) == (1, 0, 0, [])
    desk = opened()
    record = desk.record("a")
    assert (record.state, record.attempt, record.crashes) == (JobState.READY, 0, 0)
    assert not desk.done(a)
    desk.renew(B, first=True)
    assert [job.token for job in desk.claim(B)] == [2, 1]
    started = desk.record("a").started
    assert started is not None
    assert before is not None
    assert started > before
