"""fetcher.py as its user sees it: what it prints of a server that misbehaves, and how a signal ends it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gates import GUARD

SCRIPT = Path(__file__).parents[2] / "examples" / "fetcher.py"
AT_ONCE = 20  # as the script says


@pytest.fixture(scope="module")
def run() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, "100"], capture_output=True, text=True, timeout=2 * GUARD, check=False
    )


@pytest.fixture
def endless() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "1000000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_pages_that_came_at_last_are_fetched_and_the_others_given_up(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stderr
    assert "fetched 90 pages" in run.stdout, "the 500s, the resets and the time-outs came at the second attempt"
    assert re.search(r"gave up 10 times: IncompleteReadError: .* at .*fetcher\.py:\d+ in fetch", run.stdout)
    assert "100 accepted: 90 done, 10 failed" in run.stdout


def test_the_server_never_has_more_requests_than_there_are_slots(run: subprocess.CompletedProcess[str]) -> None:
    most = re.search(r"at most (\d+) pages at once", run.stdout)
    assert most is not None
    # A slot is free when its job has ended; the server may notice a moment later.
    assert AT_ONCE // 2 <= int(most[1]) <= AT_ONCE + AT_ONCE // 2


def test_each_kind_of_failure_is_logged_once_with_its_traceback(run: subprocess.CompletedProcess[str]) -> None:
    assert run.stderr.count("Traceback") == 1
    assert "never retrieved" not in run.stderr
    assert "was destroyed" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_time_and_it_says_what_became_of_each(
    endless: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert endless.stdout is not None
    assert endless.stdout.readline() == "50 pages\n"
    endless.send_signal(number)
    rest, _ = endless.communicate(timeout=GUARD)
    assert endless.returncode == 128 + number
    assert re.search(r"pool 'fetcher' stopped in \d\.\d\d s of 3 s; \d+ accepted: \d+ done", rest)
    assert "pages at once" in rest, "the server was stopped, too"
