"""What users of process pools suffer from, each shown on the stdlib's `ProcessPoolExecutor` and on ours.

Every test runs on both. On the stdlib's it is expected to fail, strictly: the day that it passes there, it says so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from penstock import Context, ProcessPool
from penstock.pool.processes import processors
from tests.gates import GUARD, in_thread
from tests.pool import crossing
from tests.pool.crossing import CrossGate, Explodes, double, log_lines, sleep_until_cancelled
from tests.pool.processes.test_parcel import NeedsTwo, raise_it
from tests.pool.script import running
from tests.pool.watching import until


class Ours:
    patience = GUARD  # seconds that it is waited for what must come

    def __init__(self) -> None:
        self._made: list[ProcessPool] = []

    def make(self, workers: int | None = 1, **options: Any) -> Executor:
        pool = ProcessPool(workers, unobserved="ignore", kill_after=0.05, **options)
        self._made.append(pool)
        return pool

    def close(self) -> None:
        for pool in self._made:
            assert pool.shutdown(timeout=0).closed


class Stdlibs:
    patience = 1.0  # what fails here fails after so long

    def __init__(self) -> None:
        self._made: list[ProcessPoolExecutor] = []

    def make(self, workers: int | None = 1, method: str = "forkserver", **options: Any) -> Executor:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), **options)
        self._made.append(pool)
        return pool

    def close(self) -> None:
        for pool in self._made:
            inside: Any = pool
            processes, manager = dict(inside._processes or {}), inside._executor_manager_thread
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes.values():
                process.kill()
            for process in processes.values():
                process.join(GUARD)
            if manager is not None:
                manager.join(GUARD)


Kind = Ours | Stdlibs


def pain(number: int, reason: str, *raises: type[BaseException], strict: bool = True) -> pytest.MarkDecorator:
    """A test of the pain with that *number*: what it *raises* on the stdlib's pool."""
    fails = pytest.mark.xfail(strict=strict, reason=reason, raises=raises or AssertionError)
    return pytest.mark.parametrize(
        "kind", [pytest.param(Ours, id=f"{number}-ours"), pytest.param(Stdlibs, id=f"{number}-stdlib", marks=fails)],
        indirect=True,
    )  # fmt: skip


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind: Kind = request.param()
    yield kind
    kind.close()


def within(kind: Kind, fact: Callable[[], object]) -> bool:
    """Whether *fact* came true in time."""
    patience = time.monotonic() + kind.patience
    while not (came := fact()) and time.monotonic() < patience:
        time.sleep(0.002)  # polls: the executors have nothing in common that tells
    return bool(came)


@pain(7, "one dead process breaks the executor for good", BrokenProcessPool)
def test_a_worker_that_dies_fails_only_the_job_that_it_ran(kind: Kind) -> None:
    pool = kind.make()
    doomed: Future[None] = pool.submit(os._exit, 3)
    others = [pool.submit(double, n) for n in range(5)]

    assert isinstance(doomed.exception(GUARD), BrokenProcessPool)
    assert [other.result(GUARD) for other in others] == [0, 2, 4, 6, 8]
    assert pool.submit(double, 5).result(GUARD) == 10


@pain(8, "a worker that is killed while it has nothing to do breaks the executor, too", BrokenProcessPool)
def test_a_worker_that_is_killed_between_two_jobs_costs_nothing(kind: Kind) -> None:
    pool = kind.make()
    for n in range(3):
        pid, _ = pool.submit(crossing.pid_of_worker).result(GUARD)
        os.kill(pid, signal.SIGKILL)
        assert pool.submit(double, n).result(GUARD) == 2 * n


@pain(9, "an error that can't be unpickled breaks the executor", BrokenProcessPool)
def test_an_error_that_can_not_be_unpickled_fails_only_its_job(kind: Kind) -> None:
    pool = kind.make()
    job = pool.submit(raise_it, NeedsTwo, 404, "gone")
    assert job.exception(GUARD) is not None
    assert pool.submit(double, 1).result(GUARD) == 2
    assert "404: gone" in str(job.exception())


@pain(9, "a result that can't be unpickled breaks the executor", BrokenProcessPool)
def test_a_result_that_can_not_be_unpickled_fails_only_its_job(kind: Kind) -> None:
    pool = kind.make()
    assert pool.submit(Explodes, ValueError("no")).exception(GUARD) is not None
    assert pool.submit(double, 1).result(GUARD) == 2


@pain(10, "a running job can't be stopped, and keeps its worker for good", TimeoutError)
def test_a_job_that_hangs_can_be_stopped_and_its_place_is_free(kind: Kind, tmp_path: Path) -> None:
    pool, hangs = kind.make(), tmp_path / "hangs"
    hung = pool.submit(crossing.ignore_everything, str(hangs))
    until(hangs.exists)
    hung.cancel()

    assert pool.submit(double, 1).result(kind.patience) == 2
    assert isinstance(hung.exception(GUARD), concurrent.futures.CancelledError)


@pain(11, "jobs are called running when they are put into the pipe, and can't be cancelled there")
def test_only_a_job_that_runs_is_called_running_and_all_others_can_be_cancelled(kind: Kind, gate: CrossGate) -> None:
    pool = kind.make()
    jobs = [pool.submit(gate) for _ in range(6)]
    gate.wait_entered()
    deadline = time.monotonic() + (0.1 if isinstance(kind, Ours) else GUARD)
    while sum(job.running() for job in jobs) == 1 and time.monotonic() < deadline:
        time.sleep(0.002)  # gives it time to call another one running, which it must not

    assert [job.running() for job in jobs] == [True, False, False, False, False, False]
    assert all(job.cancel() for job in jobs[1:])
    gate.open()
    assert jobs[0].result(GUARD) == 0


@pain(12, "who waits for a cancelled job hears of it when a worker comes to it")
def test_who_waits_for_a_job_hears_at_once_that_it_was_cancelled(kind: Kind, gate: CrossGate) -> None:
    pool = kind.make()
    jobs = [pool.submit(gate) for _ in range(6)]
    gate.wait_entered()
    waiting = in_thread(concurrent.futures.wait, jobs[5:], kind.patience)

    assert jobs[5].cancel()
    assert waiting.result(GUARD).done == {jobs[5]}
    gate.open()


@pain(13, "a time-out in asyncio leaves the job running, and nobody tells it")
def test_a_time_out_in_asyncio_reaches_the_job(kind: Kind, tmp_path: Path) -> None:
    pool, told = kind.make(), tmp_path / "told"

    async def give_up() -> None:
        waiting = asyncio.get_running_loop().run_in_executor(pool, sleep_until_cancelled, str(told))
        await asyncio.to_thread(until, Path(f"{told}.begun").exists)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.01)

    asyncio.run(give_up())
    assert within(kind, told.exists), "it sleeps on"


@pain(14, "nothing of the caller's context reaches the worker")
def test_the_values_and_the_time_that_is_left_reach_the_worker(kind: Kind) -> None:
    pool = kind.make()
    with Context(GUARD, values={"tenant": "acme"}):
        job = pool.submit(look_around)

    tenant, left = job.result(GUARD)
    assert tenant == "acme"
    assert 0 < left <= GUARD


def look_around() -> tuple[object, float]:
    from penstock import current_context

    return current_context().value("tenant"), current_context().remaining()


HELD = threading.Lock()


def can_be_taken() -> bool:
    return HELD.acquire(blocking=False)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pain(15, "a forked worker has a copy of every lock as it was, held by threads that it does not have")
def test_no_worker_finds_a_lock_held_by_a_thread_that_it_does_not_have(kind: Kind) -> None:
    pool = kind.make() if isinstance(kind, Ours) else kind.make(method="fork")
    with HELD:
        assert pool.submit(can_be_taken).result(GUARD)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param("ProcessPool(1, max_tasks_per_child=2)", id="16-ours"),
        pytest.param(
            "ProcessPoolExecutor(1, get_context('forkserver'), max_tasks_per_child=2)",
            id="16-stdlib",
            marks=pytest.mark.xfail(
                strict=sys.version_info < (3, 14), reason="it stops dead after some replacements", raises=AssertionError
            ),
        ),
    ],
)
def test_workers_are_replaced_after_so_many_jobs_and_all_jobs_run(tmp_path: Path, make: str) -> None:
    code = f"""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        if __name__ == "__main__":
            pool = {make}
            say(len(set(job.result() for job in [pool.submit(os.getpid) for _ in range(12)])))
        """
    with running(tmp_path, code) as script:
        assert script.has_said(3.0 if "Executor" in make else GUARD), "no job ends any more"
        assert int(script.line()) >= 6


# 17: what a killed parent leaves

LEAVES = """
    import os, re, signal, socket, sys
    from concurrent.futures import ProcessPoolExecutor

    def hold(*args):  # one call of C code that holds the GIL
        say(os.getpid())
        re.match(r"(a+)+$", "a" * 64 + "b")

    def sleep(*args):
        say(os.getpid())
        time.sleep(3600)

    def log(*args):  # waits for room on its lane
        say(os.getpid())
        import logging
        while True:
            logging.getLogger().warning("x" * 1000)

    def fill(*args):
        say(os.getpid())
        return b"x" * 50_000_000

    def idle(*args):
        say(os.getpid())

    if __name__ == "__main__":
        port = socket.create_server(("127.0.0.1", 0))
        pool = {make}
        pool.submit({job})
        say(port.getsockname()[1])
        threading.Event().wait()
    """


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def by_us(method: str, job: str) -> Any:
    return pytest.param(f"ProcessPool(2, start_method={method!r})", job, id=f"17-{method}-{job}")


@pytest.fixture
def temporary_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where programs keep theirs. A short path: that of a socket in a folder in there has 107 characters at most."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize(
    ("make", "job"),
    [
        *(by_us(method, job) for method in ("forkserver", "spawn") for job in ("idle", "sleep", "hold")),
        *(by_us("forkserver", job) for job in ("log", "fill")),
        *(
            pytest.param(
                "ProcessPoolExecutor(2)", job, id=f"17-stdlib-{job}",
                marks=pytest.mark.xfail(strict=True, reason="its workers live on", raises=AssertionError),
            )
            for job in ("idle", "sleep", "hold")
        ),
    ],
)  # fmt: skip
def test_a_parent_that_is_killed_leaves_no_worker_no_port_and_no_file(
    tmp_path: Path, temporary_files: Path, make: str, job: str
) -> None:
    with running(tmp_path, LEAVES.format(make=make, job=job)) as script:
        numbers = {int(script.line()), int(script.line())}
        pid = next(number for number in numbers if lives(number) and number != script.process.pid)
        (port,) = numbers - {pid}
        if job in ("idle", "fill"):
            time.sleep(0.05)  # whatever it is in after that: nothing tells from outside
        os.kill(script.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        while lives(pid) and time.monotonic() - killed < 2:
            time.sleep(0.01)  # polls: it is not our child

        assert not lives(pid), "it lives on"
        script.process.wait(GUARD)
        assert script.rest() == [], "and nobody holds our end of its output"
        assert is_free(port)
        while list(temporary_files.iterdir()) and time.monotonic() - killed < 2:
            time.sleep(0.01)  # polls: nor is the fork server
        assert not list(temporary_files.rglob("*"))
        assert not list(Path("/dev/shm").glob("*penstock*"))


IMPORTED_BY_AN_ORPHAN = """
import os, time
while os.getppid() == int(os.environ["PARENT"]):
    time.sleep(0.001)
"""


def test_a_parent_that_is_killed_while_its_fork_server_begins_leaves_no_file(
    tmp_path: Path, temporary_files: Path
) -> None:
    (tmp_path / "orphan.py").write_text(IMPORTED_BY_AN_ORPHAN)
    begins = """
        from multiprocessing import forkserver

        os.environ["PARENT"] = str(os.getpid())
        forkserver.set_forkserver_preload(["orphan", "penstock.pool.processes.warm"])
        forkserver.ensure_running()
        say("begins")
        threading.Event().wait()
        """
    with running(tmp_path, begins) as script:
        assert script.line() == "begins"
        assert list(temporary_files.rglob("listener-*"))
        script.process.kill()
        script.process.wait(GUARD)
        killed = time.monotonic()
        while list(temporary_files.iterdir()) and time.monotonic() - killed < GUARD:
            time.sleep(0.01)  # polls: the fork server is not our child

        assert not list(temporary_files.rglob("*"))


# What surrounds a worker


@pain(21, "the quota of a container is not looked at")
def test_there_are_no_more_workers_than_the_container_may_use(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 7, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    monkeypatch.setattr(processors, "quota", lambda: 1.5)

    assert kind.make(None)._max_workers == 2  # type: ignore[attr-defined]


@pain(22, "each worker's libraries start as many threads as there are processors")
def test_libraries_in_workers_are_told_how_many_threads_to_start(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert kind.make(4).submit(os.getenv, "MKL_NUM_THREADS").result(GUARD) == "1"


@pain(23, "what workers log is lost")
def test_what_a_worker_logs_is_handled_here_and_names_its_job(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    job = kind.make().submit(log_lines, 1, "hello from")
    job.result(GUARD)

    assert within(kind, lambda: "hello from 0" in caplog.messages)
    record = next(record for record in caplog.records if record.getMessage() == "hello from 0")
    assert record.job == job.id  # type: ignore[attr-defined]
