"""A pool around Dask's executor, on a cluster of two worker processes.

Tests that kill workers have a cluster of their own, with workers enough: on a busy machine Dask may give up making new
ones, and the next test would wait for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import Context, DeadlineExceeded, ExecutorPool, Job, JobDropped, JobState, PoolBroken, Retry, events
from tests.gates import GUARD
from tests.needs import needed
from tests.pool import crossing
from tests.pool.crossing import CrossGate
from tests.pool.dask_cluster import Cluster, cluster
from tests.pool.watching import until

distributed = needed("distributed")

SLOW = 9 * GUARD  # seconds: a guard for what takes Dask a few, on a machine that is busy with something else
pytestmark = pytest.mark.timeout(3 * SLOW)


def client_of(found: Cluster, **options: Any) -> Any:
    """A client that has started what threads it will need."""
    client = distributed.Client(found.address, set_as_default=False, **options)
    assert client.submit(int, pure=False).result(SLOW) == 0
    return client


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def connected(folder: Path, workers: int = 2) -> Iterator[Any]:
    """The client of a cluster of its own, whose worker processes end with the block."""
    with cluster(folder, workers) as found:
        client = client_of(found)
        client.wait_for_workers(workers, SLOW)
        try:
            yield client
        finally:
            pids = client.run(os.getpid).values()
            client.close()
    until(lambda: not any(map(is_alive, pids)), SLOW)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with connected(tmp_path_factory.mktemp("dask")) as client:
        yield client


@pytest.fixture
def executor(client: Any) -> Any:
    return client.get_executor(pure=False)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[CrossGate]:
    gate = CrossGate(tmp_path, SLOW)
    yield gate
    gate.close()


def error_of(job: Job[Any]) -> BaseException:
    error = job.exception(SLOW)
    assert error is not None
    return error


def test_jobs_run_on_the_cluster_as_many_at_once_as_it_has_cores(executor: Any) -> None:
    with ExecutorPool(executor, unobserved="ignore") as pool:
        assert pool.max_workers == 2
        assert pool.submit(os.getpid).result(SLOW) != os.getpid()
        assert list(pool.map(crossing.double, range(20))) == [2 * n for n in range(20)]
        assert list(pool.map(crossing.double, [3] * 3)) == [6] * 3, "equal calls are not one"
        assert pool.submit(lambda: "by value").result(SLOW) == "by value"
        assert isinstance(error_of(pool.submit(crossing.fail, 7)), ValueError)
        assert isinstance(error_of(pool.submit(crossing.ignore, threading.Lock())), TypeError)
        assert pool.submit(crossing.capture, 1, pure=True, workers="mine").result(SLOW) == (
            (1,), {"pure": True, "workers": "mine"}
        )  # fmt: skip
    kinds = {failure.type: failure for failure in pool.failures}
    assert "in fail" in kinds["ValueError"].where
    assert pool.report.balanced


def late_once_it_began(pool: ExecutorPool, has_begun: Callable[[], object], fn: Callable[..., Any], *args: Any) -> None:
    """*fn* has begun, and the deadline of its job has passed: after longer ones, if it did not begin in time."""
    timeout = 0.5
    while not has_begun():
        late = pool.options(timeout=timeout).submit(fn, *args)
        assert isinstance(error_of(late), DeadlineExceeded)
        timeout *= 3


def test_the_time_and_the_values_of_the_context_cross(executor: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    begun = Path(f"{told}.begun")
    with ExecutorPool(executor, unobserved="ignore") as pool:
        asking = pool.options(context=Context(values={"user": "ann"}))
        assert asking.submit(crossing.value_of, "user").result(SLOW) == "ann"
        late_once_it_began(pool, begun.exists, crossing.sleep_until_cancelled, str(told))
        until(lambda: told.exists() and told.read_text() == "its deadline passed", SLOW)


def test_a_job_fails_on_time_and_its_slot_is_free_though_the_worker_goes_on(executor: Any, gate: CrossGate) -> None:
    with ExecutorPool(executor, 1, unobserved="ignore") as pool:
        late_once_it_began(pool, lambda: gate.entered, gate)
        assert pool.submit(crossing.double, 2).result(SLOW) == 4
        assert not pool.report.stuck, "Dask says that it has cancelled it, though it goes on over there"
        gate.open()


def test_what_a_killed_worker_was_in_is_run_again_by_dask_and_nobody_here_is_told(
    gate: CrossGate, tmp_path: Path
) -> None:
    told = tmp_path / "pids"
    with connected(tmp_path) as client, ExecutorPool(client.get_executor(pure=False)) as pool:
        job = pool.submit(crossing.tell_pid_and_stay, str(told), gate)
        gate.wait_entered(1)
        os.kill(int(told.read_text()), signal.SIGKILL)
        gate.wait_entered(2)
        gate.open()
        assert job.result(SLOW) == 0
        assert job.attempt == 1
    assert len(set(told.read_text().split())) == 2
    assert pool.report.ok


def test_a_job_that_kills_its_workers_fails_after_the_fourth_and_is_tried_again_if_that_is_named(
    tmp_path: Path,
) -> None:
    healed = tmp_path / "healed"
    told: list[str] = []

    def heal(event: events.Event) -> None:
        if isinstance(event, events.JobRetried):
            told.append(str(event.error))
            healed.touch()

    with connected(tmp_path, workers=5) as client, ExecutorPool(client.get_executor(pure=False)) as pool:
        pool.observe(heal)
        again = Retry(2, on=(distributed.KilledWorker,), wait=0)
        job = pool.options(retry=again).submit(crossing.die_unless, str(healed))
        assert job.result(SLOW) == 7
        assert job.attempt == 2
    assert len(told) == 1
    assert "on 4 different workers" in told[0]


def test_a_result_that_can_not_be_packed_ends_with_the_time_limit_at_the_latest(executor: Any) -> None:
    with ExecutorPool(executor, timeout=1, unobserved="ignore") as pool:
        assert isinstance(error_of(pool.submit(threading.Lock)), DeadlineExceeded | TypeError)


def test_a_stop_ends_in_time(executor: Any, gate: CrossGate) -> None:
    pool = ExecutorPool(executor)
    running = [pool.submit(gate) for _ in range(2)]
    gate.wait_entered(2)
    waiting = pool.submit(crossing.double, 1)
    begun = time.monotonic()

    report = pool.shutdown(timeout=1)

    assert time.monotonic() - begun < GUARD
    assert report.balanced
    assert waiting.cancelled()
    assert {job.state for job in running} <= {JobState.CANCELLED, JobState.ABANDONED}
    gate.open()
    until(lambda: not pool.report.stuck, SLOW)


def test_a_client_that_loses_its_scheduler_breaks_the_pool_and_every_job_is_told(
    gate: CrossGate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster(tmp_path) as found:
        client = client_of(found, timeout=1)
        pool = ExecutorPool(client.get_executor(pure=False), unobserved="ignore")
        running = [pool.submit(gate) for _ in range(2)]
        gate.wait_entered(2)
        waiting = [pool.submit(crossing.double, n) for n in range(20)]
        workers = list(client.run(os.getpid).values())

        found.kill()

        assert [type(error_of(job)) for job in running] == [JobDropped] * 2
        assert {type(error_of(job)) for job in waiting} <= {JobDropped, PoolBroken}
        assert isinstance(error_of(waiting[-1]), PoolBroken)
        with pytest.raises(PoolBroken, match="ClosedClientError"):
            pool.submit(crossing.double, 1)
        report = pool.shutdown(timeout=SLOW)
        assert (report.accepted, report.failed, report.balanced) == (22, 22, True)
        client.close()
        client._loop_runner.stop()  # a client that closed by itself leaves its thread behind
        until(lambda: not any(map(is_alive, workers)), SLOW)
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1
