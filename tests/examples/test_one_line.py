"""one_line.py as its user sees it: on every kind of pool the same function finds the same."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gates import GUARD
from tests.needs import needed

needed("distributed")

SCRIPT = Path(__file__).parents[2] / "examples" / "one_line.py"
SLOW = 6 * GUARD  # seconds: a guard for a cluster that starts on a busy machine
pytestmark = pytest.mark.timeout(3 * SLOW)

FILES = len(list(Path(asyncio.__file__).parent.rglob("*.py")))


@dataclass(frozen=True)
class Told:
    """What the script printed."""

    found: list[str]
    here: int
    ran_in: set[int]
    report: str


def run(*arguments: str, folder: Path) -> Told:
    ran = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=SLOW,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},  # where Dask keeps the workers' files
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    *found, where, report = ran.stdout.splitlines()
    processes = re.fullmatch(r"ran in \[([\d, ]+)\]; this process is (\d+)", where)
    assert processes is not None, where
    return Told(found, int(processes[2]), set(map(int, processes[1].split(", "))), report)


def test_the_same_is_found_on_threads_on_processes_and_on_a_cluster(tmp_path: Path) -> None:
    threads, processes, dask = (run(kind, folder=tmp_path) for kind in ("threads", "processes", "dask"))

    assert len(threads.found) == 3
    assert re.fullmatch(r"\d+ lines: .*\.py:\d+ \w+", threads.found[0])
    assert processes.found == dask.found == threads.found
    assert threads.ran_in == {threads.here}
    for told in (processes, dask):
        assert told.here not in told.ran_in
        assert len(told.ran_in) <= 2
    for told in (threads, processes, dask):
        assert f"{FILES} accepted: {FILES} done" in told.report


def test_a_file_that_does_not_parse_is_told_of_and_costs_no_other(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "broken.py").write_text("def broken(:\n")
    (files / "empty.py").touch()
    (files / "whole.py").write_text("def whole():\n    pass\n")

    told = run("processes", str(files), folder=tmp_path)

    assert told.found[:2] == [f"2 lines: {files}/whole.py:1 whole", f"0 lines: {files}/empty.py"]
    assert re.match(
        r"failed once: SyntaxError: .*broken\.py, line 1\) at one_line\.py:\d+ in longest_function", told.found[2]
    ), told.found
    assert "3 accepted: 2 done, 1 failed" in told.report


def test_without_a_kind_it_says_how_to_use_it(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=SLOW, check=False)
    assert ran.returncode == 1
    assert "threads|processes|dask" in ran.stderr
