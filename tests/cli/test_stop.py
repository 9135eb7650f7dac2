"""Stopping `penstock map`: real processes, real signals, and the clock on the wall."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gates import GUARD, slack

GRACE = 1.0
SLACK = GUARD / 2  # seconds beyond the grace that a stop may take on a busy machine, exit of the interpreter included

# Each job says when it runs, so that a test knows without waiting for time.
CODE = r"""
import os
import time
from penstock import current_context

def at_gate(path):
    os.write(1, b"begun\n")
    return open(path).read()  # blocks until somebody opens the other end

def polite(x):
    os.write(1, b"begun\n")
    current_context().sleep(60)

def hung(x):
    if x == "quick":
        return x
    os.write(1, b"begun\n")
    while True:
        time.sleep(60)

async def hung_on_the_loop(x):
    return hung(x)

def big(x):
    os.write(1, b"begun\n")
    return "x" * 1_000_000  # more than a pipe holds
"""


class Run:
    """A `penstock map` that runs, with its standard input held open and what it tells at hand."""

    def __init__(self, folder: Path, function: str, *options: str, stdout: int | None = None) -> None:
        (folder / "jobs.py").write_text(CODE)
        self.results = folder / "results.jsonl"
        command = [sys.executable, "-m", "penstock", "map", f"{folder / 'jobs.py'}:{function}", *options]
        command += ["--output", str(self.results)] if stdout is None else []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            text=True,
        )
        told = self.process.stdout or self.process.stderr
        assert told is not None
        self._told = told

    def feed(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return once it has told *text* so many times."""
        seen: list[str] = []
        while sum(text in line for line in seen) < times:
            line = self._told.readline()
            assert line, f"it ended without saying {text!r}: {seen}"
            seen.append(line)

    def rest(self) -> str:
        """What it tells until its end, which must come."""
        told = self._told.read()
        self.process.wait(GUARD)
        return told

    def states(self) -> list[str]:
        return sorted(line["state"] for line in self.lines())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Whatever a test starts and puts here does not outlive it."""
    started: list[Run] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.wait(GUARD)
        for pipe in (run.process.stdin, run.process.stdout, run.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def test_one_ctrl_c_takes_no_more_inputs_and_lets_running_jobs_end(runs: list[Run], tmp_path: Path) -> None:
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    for gate in gates:
        os.mkfifo(gate)
    run = Run(tmp_path, "at_gate", "--workers", "3")
    runs.append(run)
    run.feed(*map(str, gates))
    run.wait_for("begun", times=3)

    run.process.send_signal(signal.SIGINT)
    run.wait_for("SIGINT: no new jobs; 3 running and 0 waiting have 30 s to end")
    for gate in gates:
        gate.write_text("opened")
    told = run.rest()  # although nobody closed its standard input

    assert run.process.returncode == 130
    assert [line["result"] for line in run.lines()] == ["opened"] * 3
    assert "3 done, 0 failed" in told
    assert "inputs after line 3, if any, were not run" in told


def test_a_second_ctrl_c_cancels(runs: list[Run], tmp_path: Path) -> None:
    run = Run(tmp_path, "polite", "--workers", "2")
    runs.append(run)
    run.feed("a", "b")
    run.wait_for("begun", times=2)

    run.process.send_signal(signal.SIGINT)
    run.wait_for("SIGINT: no new jobs")
    second = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    told = run.rest()

    assert time.monotonic() - second < slack(SLACK)
    assert run.process.returncode == 130
    assert run.states() == ["cancelled", "cancelled"]
    assert "2 cut short" in told


@pytest.mark.parametrize(
    ("function", "kind", "fate"),
    [
        ("hung", "--workers", "abandoned"),
        ("hung", "--processes", "killed"),
        ("hung_on_the_loop", "--asyncio", "abandoned"),
    ],
)
def test_sigterm_with_a_hung_job_is_out_within_the_grace_and_every_job_has_its_line(
    runs: list[Run], tmp_path: Path, function: str, kind: str, fate: str
) -> None:
    run = Run(tmp_path, function, kind, "1", "--grace", str(GRACE))
    runs.append(run)
    run.feed("quick", "slow", "waits", "waits too")
    run.wait_for("begun")

    asked = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    told = run.rest()
    took = time.monotonic() - asked

    assert took < slack(GRACE + SLACK)
    assert run.process.returncode == 143
    lines = {line["input"]: line["state"] for line in run.lines()}
    assert lines["quick"] == "done"
    assert lines.pop("slow") == fate
    assert set(lines.values()) <= {"done", "cancelled"}
    assert ("time.sleep(60)" in told) is (fate == "abandoned"), "where the hung job stands"


def test_a_job_that_overran_and_hangs_does_not_hold_up_the_end(runs: list[Run], tmp_path: Path) -> None:
    run = Run(tmp_path, "hung", "--workers", "1", "--timeout", "0.2")
    runs.append(run)
    run.feed("slow")
    assert run.process.stdin is not None
    run.process.stdin.close()
    run.wait_for("begun")
    told = run.rest()

    assert run.process.returncode == 1
    assert [line["error"]["type"] for line in run.lines()] == ["DeadlineExceeded"]
    assert "overran: still running" in told


def test_a_reader_that_stopped_reading_does_not_hold_up_a_stop(runs: list[Run], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    run = Run(tmp_path, "big", "--workers", "1", "--grace", str(GRACE), stdout=writing)
    runs.append(run)
    os.close(writing)
    run.feed("a", "b")
    run.wait_for("begun", times=2)

    asked = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    told = run.rest()
    took = time.monotonic() - asked
    os.close(reading)

    assert took < slack(GRACE + SLACK)
    assert run.process.returncode == 143
    assert "2 jobs ended whose result could not be written to standard output" in told


def test_a_reader_that_went_away_ends_the_run_with_a_sentence(runs: list[Run], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    run = Run(tmp_path, "big", "--workers", "1", stdout=writing)
    runs.append(run)
    os.close(writing)
    os.close(reading)
    run.feed("a")
    told = run.rest()  # although nobody closed its standard input

    assert run.process.returncode == 1
    assert "writing to standard output failed: [Errno 32] Broken pipe" in told
    assert "Traceback" not in told


def test_on_a_terminal_a_bar_shows_how_far_it_is(tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "penstock",
            "map",
            "builtins:str",
            *map(str, range(50)),
            "-o",
            str(tmp_path / "results"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=secondary,
        stderr=secondary,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(secondary)
    shown = b""
    with contextlib.suppress(OSError):  # how the primary end says that nobody holds the other one
        while chunk := os.read(primary, 65536):
            shown += chunk
    os.close(primary)

    assert process.wait(GUARD) == 0
    assert b"50/50" in shown
    assert b"0 failed" in shown
    assert b"\x1b[?25h" in shown, "the cursor stays hidden"


def test_without_a_terminal_there_are_no_control_codes(runs: list[Run], tmp_path: Path) -> None:
    run = Run(tmp_path, "hung")
    runs.append(run)
    run.feed(*["quick"] * 10)
    assert run.process.stdin is not None
    run.process.stdin.close()
    told = run.rest()

    assert run.process.returncode == 0
    assert "\x1b" not in told
    assert "\r" not in told
    assert "10 done, 0 failed" in told
