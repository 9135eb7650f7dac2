"""How fast could a pool be that keeps our promises? The bare steps that none can leave out, beside the pools.

    python bench/floor.py [--rounds N] [--jobs N]

The bare loop accepts a call within a strict bound of 100, keeps a Future for it, copies the submitter's contextvars,
says in them which job runs, tells how long it waited and ran, and can tell which jobs run. It has nothing else: no
deadlines, cancellation, retries, failures, observers, accounts, no way to stop. So no pool in Python that has these can
come below it by much, and its ratio to ThreadPoolExecutor behind a semaphore is about the largest there can be, on the
machine and in the minute of the run. A row of jobs of ~10 us says the same of jobs that do something.

Of 1 MiB there and back between processes the bare steps are four copies, each way one into memory that both map and one
out of it, and a byte through a pipe that says so: whoever gets bytes and keeps them can't do with less.

Of a lone durable enqueue they are one statement that SQLite commits to the disk: a row of arguments that are JSON
already, an index by which its id is known again, and one by which it is found when it is due. No checks, no codec, no
turns between processes, no news for those who wait, no lock.
"""

import argparse
import contextvars
import mmap
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/floor.py` finds this room by its name, too

from bench import durable, processes, turns
from bench.durable_jobs import System
from bench.goals import at_least_one
from bench.rounds import Case, Sample, Turn, apart, as_table, machine, play
from bench.threads import (
    BACKLOG,
    BUSY,
    OURS,
    TPE_100,
    Pool,
    calibrated,
    executor_behind_semaphore,
    nothing,
    penstock,
    throughput,
)

BARE = "the bare steps alone"
here: contextvars.ContextVar[Any] = contextvars.ContextVar("here", default=None)


class Bare(Future[Any]):
    """A Future without what a Future makes for its waiters, which wait for the last one only."""

    __slots__ = ("args", "began", "cv", "ended", "fn", "since", "value")

    def __init__(self) -> None:
        pass


def call(job: Any) -> Any:
    here.set(job)
    return job.fn(*job.args)


class Loop:
    """The bare steps: places, a queue, idle workers that sleep on a lock each, as the pool has them."""

    def __init__(self, workers: int) -> None:
        self.free: list[None] = [None] * BACKLOG
        self.queue: deque[Any] = deque()
        self.waiting: deque[Any] = deque()
        self.idle: list[Any] = []
        self.running: dict[Any, None] = {}
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(workers)]
        for thread in self.threads:
            thread.start()

    def submit(self, fn: Callable[..., object], /, *args: object) -> Any:
        try:
            self.free.pop()
        except IndexError:
            self.wait()
        job: Any = Bare.__new__(Bare)
        job.fn, job.args, job.cv, job.since = fn, args, contextvars.copy_context(), time.monotonic()
        self.queue.append(job)
        if self.idle:
            self.wake()
        return job

    def wait(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.waiting.append(lock)
        while self.free:
            try:
                self.free.pop()
            except IndexError:
                break
            try:
                self.waiting.remove(lock)
            except ValueError:
                self.free.append(None)
                break
            return
        lock.acquire()

    def wake(self) -> None:
        try:
            self.idle.pop().release()
        except IndexError:
            pass

    def work(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        queue, free, waiting, running = self.queue, self.free, self.waiting, self.running
        while True:
            try:
                job = queue.popleft()
            except IndexError:
                self.idle.append(lock)
                if queue:
                    self.wake()
                lock.acquire()
                continue
            if waiting:
                waiting.popleft().release()
            else:
                free.append(None)
            if job.fn is None:
                return
            job.began = time.monotonic()
            running[job] = None
            job.value = job.cv.run(call, job)
            del running[job]
            job.ended = time.monotonic()
            job.args = job.cv = None

    def stop(self) -> None:
        for _ in self.threads:
            self.submit(None)  # type: ignore[arg-type]
        for thread in self.threads:
            thread.join()


def take(job: Any) -> Any:
    while not hasattr(job, "ended"):  # the last jobs of a turn only: all before have ended by then
        time.sleep(0)
    return job.value


def bare(workers: int, _jobs: int) -> Pool:
    loop = Loop(workers)
    return Pool(loop.submit, take, loop.stop)


class Echo:
    """A process that copies out what its parent has copied in, and back again; *slots* payloads may be under way."""

    def __init__(self, size: int, slots: int) -> None:
        self._there, self._back = ([mmap.mmap(-1, size) for _ in range(slots)] for _ in range(2))
        self._free = list(range(slots))
        here, self._ask = os.pipe()
        self._hear, there = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._ask)
            while slot := os.read(here, 1):
                value = self._there[slot[0]][:]
                self._back[slot[0]][:] = value
                os.write(there, slot)
            os._exit(0)
        os.close(here)
        os.close(there)

    def send(self, value: bytes) -> None:
        slot = self._free.pop()
        self._there[slot][:] = value
        os.write(self._ask, bytes([slot]))

    def receive(self) -> bytes:
        (slot,) = os.read(self._hear, 1)
        value = self._back[slot][:]
        self._free.append(slot)
        return value

    def end(self) -> None:
        os.close(self._ask)
        os.waitpid(self._pid, 0)
        os.close(self._hear)


def copies(make: Callable[[], bytes], *, workers: int, jobs: int) -> Sample:
    """As `processes.payloads`: send it there and back, at most two under way for each worker."""
    value = make()
    echoes = [Echo(len(value), 3) for _ in range(workers)]
    for echo in echoes * 3:  # so that the memory is there
        echo.send(value)
        echo.receive()
    began = time.perf_counter()
    for number in range(jobs):
        if number >= 2 * workers:
            echoes[number % workers].receive()
        echoes[number % workers].send(value)
    for number in range(jobs, jobs + 2 * workers):
        echoes[number % workers].receive()
    took = time.perf_counter() - began
    for echo in reversed(echoes):  # each has a copy of the pipes of those before it
        echo.end()
    return {"ms/job": took / jobs * 1e3}


def insert(folder: Path) -> System:
    """A file with one table, to which rows are added."""
    import apsw

    db = apsw.Connection(str(folder / "bare.db"))
    db.execute("PRAGMA journal_mode = wal").fetchall()
    db.execute(
        "PRAGMA synchronous = FULL; CREATE TABLE job (seq INTEGER PRIMARY KEY, id TEXT, state INTEGER, queue INTEGER,"
        " task INTEGER, priority INTEGER, due REAL, args BLOB); CREATE UNIQUE INDEX job_id ON job (id);"
        "CREATE INDEX job_ready ON job (queue, task, priority DESC, due, seq) WHERE state = 1"
    )

    def put(number: int) -> None:
        db.execute(
            "INSERT INTO job (id, state, queue, task, priority, due, args) VALUES (?, 1, 1, 1, 0, ?, x'7b7d')"
            " ON CONFLICT (id) DO NOTHING",
            (f"{number:036}", time.time()),
        )

    def put_many(numbers: Iterable[int]) -> None:
        for number in numbers:
            put(number)

    return System(put, put_many, db.close)


def main() -> None:
    parser = argparse.ArgumentParser(description="The bare steps of a pool, beside Penstock's and a peer.")
    parser.add_argument("--rounds", type=at_least_one, default=7, metavar="N", help="turns of each (default 7)")
    parser.add_argument("--jobs", type=at_least_one, default=10_000, metavar="N", help="jobs in a turn (default 10000)")
    told = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in machine().items()), "\n", flush=True)
    for name, run in (("no-op", nothing), (BUSY, calibrated(10e-6))):
        loops: dict[str, Turn] = {
            label: partial(throughput, opened, run, workers=4, jobs=told.jobs, kept=told.jobs)
            for label, opened in ((BARE, bare), (OURS, penstock), (TPE_100, executor_behind_semaphore))
        }
        case = Case(
            f"{name}, kept, 4 workers", loops, [(BARE, OURS), (BARE, TPE_100), (OURS, TPE_100)], told.jobs, told.rounds
        )
        print(as_table(play(case)), "\n", flush=True)
    make, ours, peer = partial(bytes, 1 << 20), processes.OURS, processes.PPE
    payloads: dict[str, Turn] = {
        label: partial(apart, partial(processes.payloads, processes.CONTESTANTS[label], make, workers=2, jobs=200))
        for label in (ours, peer)
    }
    payloads[BARE] = partial(apart, partial(copies, make, workers=2, jobs=200))
    pairs = [(BARE, ours), (BARE, peer), (ours, peer)]
    print(as_table(play(Case("1 MiB of bytes, there and back", payloads, pairs, 200, told.rounds))), "\n", flush=True)
    systems = {BARE: insert, durable.OURS: durable.SYSTEMS[durable.OURS], durable.HUEY: durable.SYSTEMS[durable.HUEY]}
    enqueues: dict[str, Turn] = {name: partial(turns.enqueue, opened, jobs=1_000) for name, opened in systems.items()}
    pairs = [(BARE, durable.OURS), (BARE, durable.HUEY), (durable.OURS, durable.HUEY)]
    print(as_table(play(Case("lone durable enqueue", enqueues, pairs, 1_000, told.rounds))), flush=True)


if __name__ == "__main__":
    main()
