"""Each test that CPython has for its pools and its futures, as one test here. See docs/cpython-suite.md."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cpython import left_out, suite
from tests.cpython.suite import Ending

ROOT: Final = Path(__file__).parents[2]
AT_ONCE: Final = 4  # most of the suite's time is sleep
LIMIT: Final = 28.0  # seconds for one test. The suite waits 30 where it waits: what passes then, passed by giving up

needs_the_suite = pytest.mark.skipif(
    not suite.is_shipped(), reason=f"this interpreter was installed without CPython's tests ({suite.SUITE})"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    ending: int  # an Ending, or the exit code of a crash
    says: str


def run(name: str, *options: str) -> Outcome:
    """Run one test of the suite in a new interpreter. One that hangs shows its stacks and ends by itself at LIMIT."""
    command = [sys.executable, "-m", "tests.cpython", "run", name, "--timeout", str(LIMIT), *options]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **output) as interpreter:
        try:
            says, _ = interpreter.communicate(timeout=LIMIT + 5)
        except subprocess.TimeoutExpired:
            os.killpg(interpreter.pid, signal.SIGKILL)  # it, and what it started and left behind
            says, _ = interpreter.communicate()
    return Outcome(interpreter.returncode, says)


def names() -> list[str]:
    """The suite's tests, asked of another interpreter, so that this one is not changed by importing them."""
    if not suite.is_shipped():
        return []
    command = [sys.executable, "-m", "tests.cpython", "list"]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True
    ).stdout.split()


ALL: Final = names()
LEFT: Final = sorted({name for entry in left_out.LEFT_OUT for name in entry.names} & set(ALL))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[Outcome]]]:
    """The outcome of each of the suite's tests that this session asks for, all of them under way."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    asked = [call.params["name"] for call in calls if call is not None and "name" in call.params]
    with ThreadPoolExecutor(AT_ONCE) as runners:
        yield {name: runners.submit(run, name) for name in asked}
        runners.shutdown(cancel_futures=True)


@needs_the_suite
@pytest.mark.parametrize("name", [name for name in ALL if name not in LEFT])
def test_a_pool_passes(name: str, outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes[name].result()

    if outcome.ending == Ending.SKIPPED:
        pytest.skip(outcome.says)
    assert outcome.ending == Ending.PASSED, outcome.says


@needs_the_suite
@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_out_would_fail(name: str, outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes[name].result()

    assert outcome.ending != Ending.PASSED, "it passes: take it off the list"
    assert outcome.ending == Ending.FAILED, outcome.says


@needs_the_suite
def test_every_left_out_test_is_one_that_the_suite_has() -> None:
    expected = [entry for entry in left_out.LEFT_OUT if entry.is_expected_in(sys.version_info[:3])]

    assert {name for entry in expected for name in entry.names} == set(LEFT)


@needs_the_suite
@pytest.mark.parametrize(
    ("control", "complaint"),
    [
        ("ThreadPoolExecutorTest.test_submit", "256 != None"),  # reached through the mixin
        ("ThreadPoolShutdownTest.test_context_manager_shutdown", "[None, None,"),  # through `futures`
        ("ThreadPoolShutdownTest.test_interpreter_shutdown", "b'' != b'apple'"),  # through a script's import
        ("ProcessPoolForkserverProcessPoolExecutorTest.test_submit", "256 != None"),
        ("ProcessPoolSpawnProcessPoolExecutorTest.test_submit", "256 != None"),
        ("ProcessPoolSpawnProcessPoolShutdownTest.test_context_manager_shutdown", "[None, None,"),
        ("ProcessPoolSpawnProcessPoolShutdownTest.test_interpreter_shutdown", "b'' != b'apple'"),
    ],
)
def test_a_pool_that_runs_nothing_fails(control: str, complaint: str) -> None:
    forgetful = "tests.cpython.stand_ins:Forgetful"

    outcome = run(control, "--threads" if control.startswith("Thread") else "--processes", forgetful)

    assert outcome.ending == Ending.FAILED
    assert complaint in outcome.says


def test_the_page_lists_what_is_left_out() -> None:
    written = (ROOT / "docs" / "cpython-suite.md").read_text(encoding="utf-8")

    assert written == left_out.page(), "python -m tests.cpython.left_out > docs/cpython-suite.md"
