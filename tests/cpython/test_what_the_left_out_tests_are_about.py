"""What CPython's left-out tests are about, but for words and private names. See left_out.py."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from penstock import NotPicklable, ProcessPool, ThreadPool
from tests.gates import GUARD, Gate
from tests.pool.crossing import CrossGate


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


@pytest.mark.parametrize("kind", ["ThreadPool", "ProcessPool"])
def test_submitting_at_the_end_of_the_interpreter_is_refused_with_a_runtime_error(kind: str) -> None:
    script = f"""
import atexit

@atexit.register
def run_last():
    try:
        pool.submit(print, "it ran")
    except RuntimeError as error:
        print(error)

from penstock import {kind}
pool = {kind}(5)
"""

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=GUARD, check=True)

    assert "cannot schedule new futures" in ran.stdout
    assert not ran.stderr


# Processes


@pytest.fixture
def cross_gate(tmp_path: Path) -> Iterator[CrossGate]:
    gate = CrossGate(tmp_path)
    yield gate
    gate.close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_fails_its_own_job_and_no_other(cross_gate: CrossGate) -> None:
    with ProcessPool(2, unobserved="ignore") as pool:
        running = pool.submit(cross_gate)
        cross_gate.wait_entered()
        dying = pool.submit(die)

        with pytest.raises(BrokenProcessPool):
            dying.result(GUARD)
        assert pool.submit(abs, -5).result(GUARD) == 5
        assert running.running()
        cross_gate.open()
        assert running.result(GUARD) == 0


class Unpickled:
    """When it is unpickled, it does what it was made for: in the process of the given id, or anywhere."""

    def __init__(self, deed: str, where: int | None = None) -> None:
        self._deed = deed, where

    def __reduce__(self) -> tuple[object, ...]:
        return unpickle, self._deed


def unpickle(deed: str, where: int | None) -> object:
    if where in (None, os.getpid()):
        if deed == "exit":
            sys.exit("no more")
        raise OSError("no such luck")
    return Unpickled(deed, where)


def give_one_that_is_bad_in(where: int, deed: str) -> Unpickled:
    return Unpickled(deed, where)


@pytest.mark.parametrize("deed", ["fail", "exit"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_cannot_be_unpickled_fails_its_own_job_and_no_other(method: str, deed: str) -> None:
    with ProcessPool(1, start_method=method, unobserved="ignore") as pool:
        call = pool.submit(id, Unpickled(deed))
        result = pool.submit(give_one_that_is_bad_in, os.getpid(), deed)

        assert isinstance(call.exception(GUARD), SystemExit if deed == "exit" else NotPicklable)
        assert isinstance(result.exception(GUARD), NotPicklable)
        assert pool.submit(abs, -5).result(GUARD) == 5


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_as_many_processes_as_may_be_run_many_jobs_and_end_with_the_pool(method: str, cross_gate: CrossGate) -> None:
    pool = ProcessPool(5, start_method=method)
    jobs = [pool.submit(cross_gate) for _ in range(75)]
    cross_gate.wait_entered(5)
    pids = {process.pid for process in multiprocessing.active_children()}

    assert len(pids) == pool.stats().running == 5
    cross_gate.open()
    assert [job.result(GUARD) for job in jobs] == [0] * 75
    pool.shutdown()
    assert not pids & {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_of_many_jobs_a_shutdown_that_cancels_leaves_those_that_run(method: str) -> None:
    pool = ProcessPool(5, start_method=method).start()
    jobs = [pool.submit(time.sleep, 0.1) for _ in range(50)]

    pool.shutdown(cancel_futures=True)

    others = [job for job in jobs if not job.cancelled()]
    assert 0 < len(others) < 50
    assert [job.exception(0) for job in others] == [None] * len(others)


def test_processes_are_replaced_by_the_fork_server_as_well() -> None:
    with ProcessPool(1, max_tasks_per_child=3) as pool:
        pids = [pool.submit(os.getpid).result(GUARD) for _ in range(4)]

    assert pids[0] == pids[1] == pids[2] != pids[3]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_failing_initializer_breaks_a_pool_of_processes_and_keeps_nothing(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue = multiprocessing.get_context(method).Queue()
    kept = weakref.ref(queue)
    pool = ProcessPool(2, start_method=method, unobserved="ignore", initializer=fail_with, initargs=(queue,))
    with pytest.raises(BrokenProcessPool):
        pool.submit(abs, -5).result(GUARD)  # the job, or its submission if the initializer was quicker
    with pytest.raises(BrokenProcessPool):
        pool.submit(abs, -5)
    pool.shutdown()

    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.CRITICAL] == [True]
    assert queue.get(timeout=GUARD) == "here"
    caplog.clear()
    queue.close()
    queue.join_thread()
    del pool, queue
    gc.collect()
    assert kept() is None


def fail_with(queue: Any) -> None:
    queue.put("here")
    raise OSError("no such luck")
