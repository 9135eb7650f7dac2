"""blueprint.py as a newcomer sees it: what it prints, and what a signal does to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.blueprint import Order, pack

SCRIPT = Path(__file__).parents[2] / "examples" / "blueprint.py"
PROCESS_GUARD = 30.0  # seconds for what takes three, on a machine that is busy with something else


def start() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def output() -> Iterator[str]:
    process = start()
    try:
        printed, _ = process.communicate(timeout=PROCESS_GUARD)
        assert process.returncode == 0, printed
        yield printed
    finally:
        process.kill()
        process.communicate()


def outcomes(printed: str) -> dict[int, str]:
    """Job id → what became of it, from the lines like "job 3 done: packed lamp and bulb"."""
    return {int(id): rest for id, rest in re.findall(r"  job (\d+) (\w+: .*)", printed)}


def test_the_workers_are_ready_before_the_first_job_starts(output: str) -> None:
    assert output.index("3 workers are ready") < output.index("started job")


def test_every_order_has_an_outcome(output: str) -> None:
    assert sorted(outcomes(output)) == list(range(1, 16))


def test_a_broken_order_fails_alone(output: str) -> None:
    ended = outcomes(output)

    assert ended[5] == "failed: ValueError: an order without items"
    assert {ended[id] for id in ended if id not in (2, 5)} == {"done: packed lamp and bulb"}


def test_an_order_that_is_never_done_fails_at_its_time_limit(output: str) -> None:
    assert outcomes(output)[2].startswith("failed: DeadlineExceeded: ")


def test_the_failures_are_counted_by_kind(output: str) -> None:
    failures = output[output.index("failures, the most frequent first:") :]

    assert "ValueError" in failures
    assert "DeadlineExceeded" in failures


def test_no_more_than_three_workers_do_it(output: str) -> None:
    workers = set(re.findall(r"(\S+) +started job", output))

    assert workers <= {"worker_0", "worker_1", "worker_2"}


def test_it_says_when_everything_is_over(output: str) -> None:
    assert output.rstrip().endswith("Shutdown complete")


def test_after_sigterm_every_accepted_order_still_has_an_outcome() -> None:
    process = start()
    try:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            if "started job" in line and "started job" not in printed:
                process.send_signal(signal.SIGTERM)
            printed += line
        process.wait(PROCESS_GUARD)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 128 + signal.SIGTERM, printed
    accepted = sorted(outcomes(printed))
    assert accepted
    assert accepted == list(range(1, len(accepted) + 1))
    assert all(f"started job {id}\n" in printed for id in accepted), printed
    assert printed.rstrip().endswith("Shutdown complete")


def test_the_work_can_be_called_without_a_pool() -> None:
    assert pack(Order(1, ("lamp",), seconds=0)) == "packed lamp"
