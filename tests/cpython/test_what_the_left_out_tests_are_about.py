"""What CPython's left-out tests are about, but for words and private names. See left_out.py."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError

import pytest

from penstock import ThreadPool
from tests.gates import GUARD, Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def pool(gate: Gate) -> Iterator[ThreadPool]:
    with ThreadPool(1) as pool:
        yield pool
        gate.open()


def fail() -> None:
    raise OSError("no such luck")


def test_cancel_answers_as_a_futures_does_in_each_state(pool: ThreadPool, gate: Gate) -> None:
    running = pool.submit(gate)
    gate.wait_entered()
    pending = pool.submit(fail)
    failing = pool.submit(fail)

    assert pending.cancel()
    assert pending.cancel(), "it is cancelled already"
    assert pending.cancelled()
    with pytest.raises(CancelledError):
        pending.result(0)

    assert not running.cancel()
    assert running.running()
    gate.open()
    assert isinstance(failing.exception(GUARD), OSError)
    assert not failing.cancel()
    assert not failing.cancelled()


def test_a_finished_job_stays_done_when_it_is_cancelled(pool: ThreadPool) -> None:
    job = pool.submit(abs, -5)
    assert job.result(GUARD) == 5

    assert not job.cancel()

    assert job.result(0) == 5


def test_only_its_pool_settles_a_job(pool: ThreadPool, gate: Gate) -> None:
    job = pool.submit(gate, 42)
    gate.wait_entered()

    with pytest.raises(InvalidStateError):
        job.set_result(1)
    with pytest.raises(InvalidStateError):
        job.set_exception(ValueError())
    with pytest.raises(InvalidStateError):
        job.set_running_or_notify_cancel()

    gate.open()
    assert job.result(GUARD) == 42
    with pytest.raises(InvalidStateError):
        job.set_result(1)
    assert job.result(0) == 42


def test_repr_tells_id_name_and_state(pool: ThreadPool, gate: Gate) -> None:
    running = pool.submit(gate)
    gate.wait_entered()
    waiting = pool.submit(fail)
    doomed = pool.submit(fail)
    doomed.cancel()

    assert "running" in repr(running)
    assert re.search(rf"\b{waiting.id}\b.*\bfail\b.*\bready\b", repr(waiting))
    assert "cancelled" in repr(doomed)
    gate.open()
    waiting.exception(GUARD)
    assert "failed" in repr(waiting)
    running.result(GUARD)
    assert "done" in repr(running)


def test_callbacks_run_in_order_and_one_that_raises_stops_no_other(
    pool: ThreadPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    job = pool.submit(gate)
    last = Gate()
    last.open()
    seen: list[str] = []
    job.add_done_callback(lambda _: seen.append("first"))
    job.add_done_callback(lambda _: 1 // 0)
    job.add_done_callback(lambda _: seen.append("third"))
    job.add_done_callback(last)

    gate.open()
    job.result(GUARD)
    last.wait_entered()

    assert seen == ["first", "third"]
    assert "ZeroDivisionError" in caplog.text


def test_a_failing_initializer_breaks_the_pool_and_is_logged_as_critical(caplog: pytest.LogCaptureFixture) -> None:
    pool = ThreadPool(2, initializer=fail)
    with pytest.raises(BrokenExecutor):
        pool.submit(abs, -5).result(GUARD)  # the job, or its submission if the initializer was quicker

    with pytest.raises(BrokenExecutor):
        pool.submit(abs, -5)

    pool.shutdown()
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.CRITICAL] == [True]


def test_submitting_at_the_end_of_the_interpreter_is_refused_with_a_runtime_error() -> None:
    script = """
import atexit

@atexit.register
def run_last():
    try:
        pool.submit(print, "it ran")
    except RuntimeError as error:
        print(error)

from penstock import ThreadPool
pool = ThreadPool(5)
"""

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=GUARD, check=True)

    assert "cannot schedule new futures" in ran.stdout
    assert not ran.stderr
