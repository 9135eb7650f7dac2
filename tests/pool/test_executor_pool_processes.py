"""A pool around executors whose workers are other processes: the stdlib's, and loky's."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from pathlib import Path

import pytest

from penstock import Context, DeadlineExceeded, ExecutorPool, JobAbandoned, JobCancelled, PoolBroken, Retry
from tests.gates import GUARD
from tests.needs import needed
from tests.pool import crossing
from tests.pool.crossing import CrossGate
from tests.pool.watching import until

loky = needed("loky")

Make = Callable[[int], Executor]


def stdlib(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))


def lokys(workers: int) -> Executor:
    return loky.ProcessPoolExecutor(workers)  # type: ignore[no-any-return]


pytestmark = pytest.mark.parametrize("make", [pytest.param(stdlib, id="stdlib"), pytest.param(lokys, id="loky")])


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[CrossGate]:
    gate = CrossGate(tmp_path)
    yield gate
    gate.close()


def test_jobs_run_and_fail_elsewhere(make: Make) -> None:
    with ExecutorPool(make(2), shutdown_executor=True) as pool:
        assert pool.max_workers == 2
        pid, _ = pool.submit(crossing.pid_of_worker).result(GUARD)
        assert pid != os.getpid()
        assert list(pool.map(crossing.double, range(50))) == [2 * n for n in range(50)]
        failed = pool.submit(crossing.fail, 7)
        assert isinstance(failed.exception(GUARD), ValueError)
        unpicklable = pool.submit(crossing.ignore, threading.Lock())
        assert isinstance(unpicklable.exception(GUARD), TypeError | pickle.PicklingError)
        assert pool.submit(crossing.double, 3).result(GUARD) == 6, "and the pool goes on"
    kinds = {failure.type: failure for failure in pool.failures}
    assert "in fail" in kinds["ValueError"].where
    assert pool.report.balanced


def test_what_is_left_of_the_time_and_the_values_cross(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with ExecutorPool(make(1), shutdown_executor=True, unobserved="ignore") as pool:
        asking = pool.options(context=Context(values={"user": "ann"}))
        assert asking.submit(crossing.value_of, "user").result(GUARD) == "ann"
        assert pool.submit(crossing.value_of, "user").result(GUARD) is None, "nothing of it stays over there"
        late = pool.options(timeout=0.3).submit(crossing.sleep_until_cancelled, str(told))
        assert isinstance(late.exception(GUARD), DeadlineExceeded)
        until(lambda: told.exists() and told.read_text() == "its deadline passed")
        assert pool.submit(crossing.double, 1).result(GUARD) == 2
        until(lambda: not pool.report.stuck)


def test_a_worker_that_is_killed_breaks_the_executor_and_the_pool_says_so_of_every_job(
    make: Make, gate: CrossGate
) -> None:
    pool = ExecutorPool(make(2), 2, shutdown_executor=True, unobserved="ignore")
    pid, _ = pool.submit(crossing.pid_of_worker).result(GUARD)
    running = [pool.submit(gate) for _ in range(2)]
    gate.wait_entered(2)
    waiting = [pool.options(retry=Retry(3, on=(BrokenExecutor,))).submit(crossing.double, n) for n in range(3)]

    os.kill(pid, signal.SIGKILL)

    assert all(isinstance(job.exception(GUARD), BrokenExecutor) for job in running)
    assert all(isinstance(job.exception(GUARD), PoolBroken) for job in waiting)
    with pytest.raises(PoolBroken, match="its executor takes no more jobs: "):
        pool.submit(crossing.double, 1)
    report = pool.shutdown(timeout=GUARD)
    assert (report.accepted, report.done, report.failed, report.balanced) == (6, 1, 5, True)
    gate.open()


def test_a_running_job_can_not_be_cancelled_and_keeps_its_result(make: Make, gate: CrossGate) -> None:
    with ExecutorPool(make(1), shutdown_executor=True) as pool:
        job = pool.submit(gate)
        gate.wait_entered()
        assert not job.cancel()
        gate.open()
        assert job.result(GUARD) == 0


def test_what_the_executor_has_in_its_own_queue_can_be_cancelled(make: Make, gate: CrossGate) -> None:
    with ExecutorPool(make(1), 10, shutdown_executor=True) as pool:
        pool.submit(gate)
        gate.wait_entered()
        jobs = [pool.submit(crossing.double, n) for n in range(9)]
        until(lambda: pool.report.running == 10)
        assert not jobs[-1].cancel(), "it is in the executor's hands"
        assert isinstance(jobs[-1].exception(GUARD), JobCancelled)
        gate.open()
        assert [job.result(GUARD) for job in jobs[:-1]] == [2 * n for n in range(8)]


def test_a_stop_leaves_what_hangs_to_the_executor(make: Make, gate: CrossGate) -> None:
    pool = ExecutorPool(make(1), shutdown_executor=True)
    job = pool.submit(gate)
    gate.wait_entered()

    report = pool.shutdown(timeout=0.3)

    assert (report.abandoned, report.balanced) == (1, True)
    assert isinstance(job.exception(0), JobAbandoned)
    gate.open()
    until(lambda: not pool.report.stuck)


def test_a_lambda_runs_where_the_executor_can_send_it(make: Make) -> None:
    with ExecutorPool(make(1), shutdown_executor=True, unobserved="ignore") as pool:
        plain = pool.submit(lambda: 3)
        limited = pool.options(timeout=GUARD).submit(lambda: 4)
        if make is lokys:
            assert (plain.result(GUARD), limited.result(GUARD)) == (3, 4)
        else:
            assert isinstance(plain.exception(GUARD), AttributeError | pickle.PicklingError)
            assert isinstance(limited.exception(GUARD), AttributeError | pickle.PicklingError)
