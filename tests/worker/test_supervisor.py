"""The supervisor of a worker service, in the test's own process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.pool.lifeline import LIFELINE
from penstock.worker import process
from penstock.worker.process import ChildProcess
from penstock.worker.supervisor import Supervisor, WorkSettings
from tests.gates import GUARD, in_thread
from tests.worker.service import DUTY, house

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SETTINGS = WorkSettings(app=f"{DUTY}:app")


def no_more(*_: object) -> Any:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_child_that_cannot_be_started_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, tries = process._started, 0

    def start_the_third_time(told: Any) -> subprocess.Popen[bytes]:
        nonlocal tries
        tries += 1
        return start(told) if tries > 2 else no_more()

    monkeypatch.setattr(process, "_started", start_the_third_time)
    with house(tmp_path, monkeypatch) as home:
        supervisor = Supervisor(SETTINGS)
        running = in_thread(supervisor.run)

        assert home.duty.double.enqueue(21).result(GUARD) == 42

        supervisor.ask_to_stop()
        assert running.result(GUARD) == 0


@pytest.mark.parametrize("step", ["process._started", "process.Board", "os.pidfd_open"])
def test_of_a_child_that_could_not_be_started_nothing_is_left(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = process._started, list[subprocess.Popen[bytes]]()

    def remember(told: Any) -> subprocess.Popen[bytes]:
        started.append(start(told))
        return started[-1]

    monkeypatch.setattr(process, "_started", remember)
    where, name = {"process": process, "os": os}[step.partition(".")[0]], step.partition(".")[2]
    monkeypatch.setattr(where, name, no_more)
    LIFELINE.fileno()  # made once
    before = sorted(Path("/proc/self/fd").iterdir())

    with pytest.raises(BlockingIOError):
        ChildProcess(SETTINGS.for_child(1, alone=False))

    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert [child.returncode for child in started] == ([] if name == "_started" else [-signal.SIGKILL])
