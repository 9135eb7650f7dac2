"""hung_script.py as its user sees it: a process whose job never ends, and which ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gates import GUARD, slack

SCRIPT = Path(__file__).parents[2] / "examples" / "hung_script.py"
GRACE = 1.0  # seconds, as the script says


@dataclass(frozen=True)
class Run:
    """What one run of the script printed, how it ended, and how long it took after its last line."""

    last_line: str
    errors: str
    took: float  # seconds
    code: int


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    process = subprocess.Popen([sys.executable, SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        last_line = process.stdout.readline()
        began = time.monotonic()
        _, errors = process.communicate(timeout=GUARD)
        yield Run(last_line, errors, time.monotonic() - began, process.returncode)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_script_does_its_work(run: Run) -> None:
    assert run.last_line.startswith("2 + 2 = 4"), run.errors


def test_the_script_ends_within_its_grace(run: Run) -> None:
    assert run.took < slack(GRACE + 1)


def test_the_script_names_the_pool_that_left_a_job_behind(run: Run) -> None:
    assert "hung script" in run.errors


def test_the_script_shows_where_the_hung_job_stood(run: Run) -> None:
    assert "in ask_somebody_who_never_answers" in run.errors
    assert "the_answer.wait()" in run.errors


def test_the_script_ends_without_a_traceback_of_its_own(run: Run) -> None:
    assert run.code == 0
    assert "Traceback" not in run.errors
