"""How workers come and go: threads that can't be had, replacements, workers that do not leave, exit codes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from penstock import Job, PoolBroken, ProcessPool, Retry, WorkerDied
from penstock.events import Event, JobEnded
from penstock.pool.processes import dispatcher as dispatchers
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.processes.worker import ProcessWorker
from tests.gates import GUARD, Gate, in_thread
from tests.pool.crossing import CrossGate, double, fail_until
from tests.pool.watching import until


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take many turns."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def staff_of(pool: ProcessPool) -> ProcessStaff:
    staff = pool._crew.staff
    assert isinstance(staff, ProcessStaff)
    return staff


def only_worker(pool: ProcessPool) -> ProcessWorker:
    (worker,) = staff_of(pool).workers()
    return worker


def let_it_do_what_it_has_to(pool: ProcessPool) -> None:
    """Return once the dispatcher has done all that it was asked for before."""
    done = threading.Event()
    assert staff_of(pool).dispatcher.do(done.set)
    assert done.wait(GUARD)


def leave_a_thread_behind(path: str) -> None:
    """A thread that keeps its process from ending."""
    thread = threading.Thread(target=threading.Event().wait, daemon=False)
    thread.start()
    Path(path).touch()


# Starting


class NoThreads:
    """Stands in for `threading.Thread.start` at the end of the interpreter."""

    def __init__(self) -> None:
        self._real = threading.Thread.start

    def __get__(self, thread: threading.Thread, kind: type) -> Any:
        return self._refuse if thread.name.startswith("penstock-ProcessPool") else self._real.__get__(thread, kind)

    def _refuse(self) -> None:
        raise RuntimeError("can't start new thread")


def test_jobs_fail_as_long_as_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ProcessPool(1, unobserved="ignore")
    with monkeypatch.context() as late:
        late.setattr(threading.Thread, "start", NoThreads())
        for _ in range(2):
            job = pool.submit(double, 1)
            with pytest.raises(BrokenProcessPool, match="no thread can be started: can't start new thread"):
                job.result(GUARD)

    assert pool.submit(double, 1).result(GUARD) == 2
    assert pool.shutdown().failed == 2


def test_who_hears_that_no_thread_can_be_started_may_submit_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[Job[int]] = []
    heard = itertools.count()

    def submit_once_more(event: Event) -> None:
        if isinstance(event, JobEnded) and next(heard) == 0:
            again.append(pool.submit(double, 2))

    pool = ProcessPool(1, unobserved="ignore")
    pool.observe(submit_once_more)
    monkeypatch.setattr(threading.Thread, "start", NoThreads())
    in_thread(pool.submit, double, 1).result(GUARD)

    assert isinstance(again[0].exception(GUARD), PoolBroken)
    pool.shutdown()


# Replacing: max_tasks_per_child


@pytest.mark.parametrize("most", [1, 3])
def test_no_process_runs_more_jobs_than_it_may_and_none_is_lost(most: int) -> None:
    with ProcessPool(2, max_tasks_per_child=most) as pool:
        jobs = [pool.submit(os.getpid) for _ in range(20)]
        counts = Counter(job.result(GUARD) for job in jobs)

    assert sum(counts.values()) == 20
    assert max(counts.values()) <= most


def test_a_replacement_starts_first_and_waits_until_the_last_job_of_the_one_before_has_ended(
    gate: CrossGate,
) -> None:
    with ProcessPool(1, max_tasks_per_child=1) as pool:
        pool.submit(gate)
        second = pool.submit(double, 2)
        gate.wait_entered()
        until(lambda: staff_of(pool).count() == 2)
        until(lambda: all(worker.ready for worker in staff_of(pool).workers()))
        let_it_do_what_it_has_to(pool)

        assert not second.done()
        assert pool.stats().running == 1
        gate.open()
        assert second.result(GUARD) == 4


def test_a_replacement_takes_over_although_the_one_before_dies() -> None:
    with ProcessPool(1, max_tasks_per_child=1, unobserved="ignore") as pool:
        dying = [pool.submit(os._exit, 3) for _ in range(3)]
        last = pool.submit(double, 2)

        assert [type(job.exception(GUARD)) for job in dying] == [WorkerDied] * 3
        assert last.result(GUARD) == 4


def test_retries_go_on_in_other_processes(tmp_path: Path) -> None:
    with ProcessPool(1, max_tasks_per_child=1, retry=Retry(3, on=(ConnectionError,), wait=0)) as pool:
        assert pool.submit(fail_until, str(tmp_path / "tries"), 2).result(GUARD) == 3


def test_a_backlog_full_of_tiny_jobs_goes_through_short_lived_processes() -> None:
    with ProcessPool(2, max_tasks_per_child=50, backlog=20) as pool:
        assert list(pool.map(double, range(400))) == [2 * n for n in range(400)]


def test_many_threads_may_use_a_pool_whose_workers_die_and_are_replaced(short_turns: None) -> None:
    with ProcessPool(2, backlog=10, max_tasks_per_child=20, unobserved="ignore") as pool:

        def use(number: int) -> list[object]:
            dying = pool.submit(os._exit, 1)
            doubled = [pool.submit(double, number) for _ in range(10)]
            mapped = list(pool.map(double, range(number)))
            return [type(dying.exception(GUARD)), {job.result(GUARD) for job in doubled}, mapped]

        users = [in_thread(use, number) for number in range(8)]
        found = [user.result(GUARD) for user in users]

    assert found == [[WorkerDied, {2 * number}, [2 * n for n in range(number)]] for number in range(8)]
    assert (pool.report.failed, pool.report.done) == (8, 108)


# Leaving


@pytest.mark.parametrize("most", [None, 1])
def test_a_worker_that_does_not_leave_is_killed(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it told to leave by the end of the pool, or because another has taken its place."""
    monkeypatch.setattr(dispatchers, "_LEAVING_TAKES", 0.2)
    pool = ProcessPool(1, max_tasks_per_child=most)
    pool.submit(leave_a_thread_behind, str(tmp_path / "left")).result(GUARD)

    assert in_thread(pool.shutdown).result(GUARD).done == 1


def test_a_pool_that_a_job_left_open_is_stopped_when_its_worker_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatchers, "_LEAVING_TAKES", 60.0)  # it is not killed for staying
    with ProcessPool(1) as pool:
        assert pool.submit(use_a_pool_and_leave_it_open, 3).result(GUARD) == 6
        closing = in_thread(pool.shutdown)

        assert closing.result(GUARD).done == 1
    assert staff_of(pool).workers() == []


OPEN: list[ProcessPool] = []


def use_a_pool_and_leave_it_open(number: int) -> int:
    OPEN.append(ProcessPool(1))
    return OPEN[-1].submit(double, number).result(GUARD)


# Ends


def test_an_exit_code_is_read_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everybody does who starts a process: multiprocessing looks after all of them then."""
    reading, calls = Gate(), itertools.count(1)
    read = forkserver.read_signed

    def read_slowly(fd: int) -> Any:
        reading(next(calls))
        return read(fd)

    with ProcessPool(1, unobserved="ignore").start() as pool:
        monkeypatch.setattr(forkserver, "read_signed", read_slowly)
        job = pool.submit(os._exit, 3)
        reading.wait_entered()
        looking = in_thread(multiprocessing.active_children)
        with pytest.raises(TimeoutError):
            looking.result(0.1)
        monkeypatch.undo()
        reading.open()

        error = job.exception(GUARD)
        looking.result(GUARD)
    assert isinstance(error, WorkerDied)
    assert error.exitcode == 3
    assert next(calls) == 2
