"""Many jobs, while workers are killed, stopped and let go on at random: each job ends once, and nothing is left.

What can be promised for a worker that is stopped (SIGSTOP): what was sent ahead to it comes back to the others; the job
that it has in hand is running, and waits with it, until it goes on or the job's deadline kills it.

The choices come from a seed, which a failure prints; `PENSTOCK_SEED=…` repeats them (not the moments). `make test`
plays a small round, `make chaos` the whole: 20,000 jobs on 4 workers, one of which is hit every 100 ms.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock import DeadlineExceeded, Job, JobState, ProcessPool, Retry, WorkerDied, events
from penstock.pool.processes import memory
from tests.gates import GUARD, in_thread
from tests.pool.processes.chaos import Thing, dies, heeds, makes, raises, returns
from tests.pool.watching import until

LARGE = 300_000  # bytes: these go through shared memory


KINDS = [returns] * 8 + [makes, raises, heeds, dies]


@dataclass(frozen=True)
class Size:
    """How much of it."""

    jobs: int
    every: float  # seconds between two hits
    longest: float  # seconds that a job takes at most
    timeout: float


SMALL = Size(jobs=1_000, every=0.02, longest=0.004, timeout=0.5)
FULL = Size(jobs=20_000, every=0.1, longest=0.015, timeout=1.0)


class Chaos:
    """One pool from its beginning to its end, and what happens to its workers meanwhile."""

    def __init__(self, seed: int, size: Size, notes: Path) -> None:
        self.size = size
        self.draw = random.Random(seed)
        self.notes = notes
        notes.touch()
        self.told: list[events.Event] = []
        self.called_back: Counter[int | str] = Counter()
        self.jobs: list[tuple[Job[Any], Any, Any]] = []  # with its function, and what it is to return
        self.hits: Counter[str] = Counter()
        self.pool = ProcessPool(4, timeout=size.timeout, kill_after=0.1, backlog=200, unobserved="ignore")
        self.pool.observe(self.told.append)

    # Those who use it

    def submit_some(self, seed: int, count: int) -> None:
        draw = random.Random(seed)
        again = self.pool.options(retry=Retry(4, on=(WorkerDied, DeadlineExceeded), wait=0))
        own: list[Job[Any]] = []
        for _ in range(count):
            fn = draw.choice(KINDS)
            value: Any = draw.randrange(10**6)
            if draw.random() < 0.01:
                value = draw.randbytes(1000) * (LARGE // 1000)
            pool = again if draw.random() < 0.3 else self.pool
            job = pool.submit(fn, str(self.notes), draw.random() * self.size.longest, value)
            job.add_done_callback(lambda job: self.called_back.update([job.id]))  # type: ignore[attr-defined]
            self.jobs.append((job, fn, value))
            own.append(job)
            if draw.random() < 0.05:
                draw.choice(own[-50:]).cancel("by its submitter")

    def hit_some(self, seed: int, over: threading.Event) -> None:
        draw = random.Random(seed)
        stopped: list[tuple[float, Any]] = []
        while not over.wait(self.size.every):
            now = time.monotonic()
            for when, worker in stopped.copy():
                if when <= now:
                    stopped.remove((when, worker))
                    worker.ends.signal(signal.SIGCONT)
            workers = [worker for worker in self.pool._crew.staff.workers() if worker.ready and not worker.dead]
            if not workers:
                continue
            worker = draw.choice(workers)
            if draw.random() < 0.5:
                worker.ends.signal(signal.SIGKILL)
                self.hits["killed"] += 1
            else:
                worker.ends.signal(signal.SIGSTOP)
                self.hits["stopped"] += 1
                if draw.random() < 0.8:  # else only a deadline frees it
                    stopped.append((now + draw.random() * 3 * self.size.every, worker))
        for _, worker in stopped:
            worker.ends.signal(signal.SIGCONT)

    # The whole story

    def play(self) -> None:
        begun = time.monotonic()
        self.pool.start()
        over = threading.Event()
        hitting = in_thread(self.hit_some, self.draw.randrange(10**9), over)
        share = self.size.jobs // 4
        submitting = [in_thread(self.submit_some, self.draw.randrange(10**9), share) for _ in range(4)]
        try:
            for each in submitting:
                each.result(110)
            self.pool.close()
            assert self.pool._crew.lifecycle.wait_for(self.pool._crew.lifecycle.phase.CLOSED, 60), self.pool.report
        finally:
            over.set()
        hitting.result(GUARD)
        self.check()
        seconds = time.monotonic() - begun
        states = Counter(str(job.state) for job, _, _ in self.jobs)
        died = sum(1 for job, _, _ in self.jobs if type(job._value) is WorkerDied)
        print(f"{len(self.jobs)} jobs in {seconds:.1f} s, {dict(self.hits)} workers, {dict(states)}, {died} died")

    def check(self) -> None:
        report = self.pool.shutdown(timeout=GUARD)
        assert report.closed, report
        assert report.balanced, report
        assert report.accepted == len(self.jobs), report
        assert not report.stuck, report
        states = Counter(job.state for job, _, _ in self.jobs)
        assert set(states) <= {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
        assert (report.done, report.failed, report.cancelled) == tuple(
            states[state] for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        )
        for job, fn, value in self.jobs:
            self.check_outcome(job, fn, value)
        ids = Counter(job.id for job, _, _ in self.jobs)
        until(lambda: self.called_back.total() >= len(ids))
        assert self.called_back == ids, "a callback was called twice, or never"
        until(lambda: sum(isinstance(event, events.JobEnded) for event in self.told.copy()) >= len(ids))
        ended = Counter(event.id for event in self.told if isinstance(event, events.JobEnded))
        assert ended == ids, "observers heard of an end twice, or never"
        self.check_runs()

    def check_outcome(self, job: Job[Any], fn: Any, value: Any) -> None:
        if job.state is JobState.DONE:
            result = job.result(0)
            assert (result.value if isinstance(result, Thing) else result) == value
            assert fn in (returns, makes, heeds)
        elif job.state is JobState.FAILED:
            error = job.exception(0)
            if isinstance(error, ValueError):
                assert fn is raises
                assert error.args == (value,)
            else:
                assert isinstance(error, WorkerDied | DeadlineExceeded), error

    def check_runs(self) -> None:
        """No attempt of a job ran twice; what is done has run; what was cancelled before it began has not."""
        runs: Counter[tuple[int | str, int]] = Counter()
        for line in self.notes.read_text().splitlines():
            number, attempt = line.split()
            runs[int(number), int(attempt)] += 1
        twice = [run for run, count in runs.items() if count > 1]
        assert not twice, f"{len(twice)} attempts ran twice: {twice[:5]}"
        for job, _, _ in self.jobs:
            if job.state is JobState.DONE:
                assert runs[job.id, job.attempt], f"{job!r} is done and never ran"
            elif job.cancelled():
                assert not runs[job.id, job.attempt + 1], f"{job!r} was cancelled and ran"


def descriptors() -> list[str]:
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(str(fd.readlink()))
    return found


def left_behind() -> dict[str, Any]:
    """What may not grow."""
    gc.collect()
    return {
        "descriptors": descriptors(),
        "shared memory": [path.name for path in Path("/dev/shm").glob("*penstock*")],
        "memory in use": memory.OURS.in_use,
        "processes": len(multiprocessing.active_children()),
        "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith("penstock-callbacks")),
    }


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("penstock")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(level)


def play(size: Size, tmp_path: Path) -> None:
    with ProcessPool(1) as pool:  # what stays from here on is there: the fork server, the timers
        pool.options(timeout=GUARD).submit(int).result(GUARD)
    before = left_behind()
    seed = int(os.environ.get("PENSTOCK_SEED") or random.randrange(10**9))
    try:
        Chaos(seed, size, tmp_path / "notes").play()
    except BaseException:
        print(f"PENSTOCK_SEED={seed}")
        raise
    after = left_behind()
    kept = sum(1 + (file._part is not None) for file in memory.OURS._files)  # a mapped part has a descriptor, too
    more = Counter(after["descriptors"]) - Counter(before["descriptors"])
    assert more.total() <= kept, (kept, more)
    for what in ("shared memory", "memory in use", "processes", "threads"):
        assert after[what] == before[what], (what, before, after)


def test_a_little_chaos_ends_every_job_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    play(SMALL, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_twenty_thousand_jobs_end_once_each_though_a_worker_is_hit_every_100_ms(tmp_path: Path) -> None:
    play(FULL, tmp_path)


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_a_thousand_dead_workers_cost_no_memory_and_no_descriptors() -> None:
    with ProcessPool(2, unobserved="ignore") as pool:

        def let_die(count: int) -> None:
            for _ in range(count):
                assert isinstance(pool.submit(os._exit, 1).exception(GUARD), WorkerDied)

        let_die(300)
        pool.start()
        before, open_before = resident(), len(descriptors())
        let_die(1_000)
        pool.start()
        print(f"{(resident() - before) / 1e6:.2f} MB more after 1,000 deaths")

        assert resident() - before < 3_000_000
        assert len(descriptors()) <= open_before
