"""What does a pool of threads cost? penstock.ThreadPool beside its peers, in turn, in one run.

    python bench/threads.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--json]

It measures and prints; it asserts nothing. Every pool runs with its defaults (ours with contexts, failures and stats),
the garbage collector and the switch interval as Python sets them. How to read the tables: bench/README.md.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import dummy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/threads.py` finds this room by its name, too

from bench.goals import Goal, at_least_one, middle_and_tail, of_workers, summary
from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from penstock import Job, ThreadPool

BACKLOG = 100  # our default, and the size of the semaphore before ThreadPoolExecutor
GUARD = 60  # seconds after which a pool that does not start its workers is given up
CHILD_LIMIT = 120  # seconds that a child process may take to fill a backlog
STATM = Path("/proc/self/statm")  # Linux: the sizes of this process, in pages

# ---------------------------------------------------------------------------------------------------------------------
# The contestants


@dataclass(frozen=True, slots=True)
class Pool:
    """A running pool of any make, reduced to what the bench does with it."""

    submit: Callable[[Callable[[], object]], Any]
    take: Callable[[Any], Any]  # handle -> result, waiting for it
    stop: Callable[[], object]  # leave the `with` block: what was accepted still runs


Open = Callable[[int, int], Pool]  # (workers, jobs that will be submitted)


def of_executor(pool: Executor, take: Callable[[Any], Any] = Future.result) -> Pool:
    pool.__enter__()
    return Pool(pool.submit, take, partial(pool.__exit__, None, None, None))


def penstock(workers: int, _jobs: int) -> Pool:
    return of_executor(ThreadPool(workers), Job.result)


def penstock_never_full(workers: int, jobs: int) -> Pool:
    return of_executor(ThreadPool(workers, backlog=jobs), Job.result)


def penstock_shutdown(workers: int, _jobs: int) -> Pool:
    pool = ThreadPool(workers)
    return Pool(pool.submit, Job.result, pool.shutdown)


def executor(workers: int, _jobs: int) -> Pool:
    return of_executor(ThreadPoolExecutor(workers))


def executor_behind_semaphore(workers: int, _jobs: int) -> Pool:
    """The usual way to bound a ThreadPoolExecutor: a place is taken before submit and given back by a done callback."""
    pool, places = ThreadPoolExecutor(workers), threading.BoundedSemaphore(BACKLOG)

    def give_back(_: Future[object]) -> None:
        places.release()

    def submit(fn: Callable[[], object]) -> Future[object]:
        places.acquire()
        future = pool.submit(fn)
        future.add_done_callback(give_back)
        return future

    return Pool(submit, Future.result, partial(pool.shutdown, wait=True))


def pebble_pool(workers: int, _jobs: int) -> Pool:
    import pebble

    pool: Any = pebble.ThreadPool(workers)
    pool.__enter__()
    return Pool(pool.submit, Future.result, partial(pool.__exit__, None, None, None))


def dummy_pool(workers: int, _jobs: int) -> Pool:
    pool = dummy.Pool(workers)

    def stop() -> None:  # its own `with` block would throw waiting jobs away
        pool.close()
        pool.join()

    return Pool(pool.apply_async, type(pool.apply_async(nothing)).get, stop)


OURS, OURS_OPEN, OURS_SHUTDOWN = "penstock, backlog 100", "penstock, never full", "penstock, shutdown()"
TPE, TPE_100 = "ThreadPoolExecutor", "ThreadPoolExecutor + semaphore"
PEBBLE, DUMMY = "pebble.ThreadPool", "multiprocessing.dummy.Pool"
NO_POOL = "no pool: called in a loop"  # the job itself, below which no pool can come

CONTESTANTS: dict[str, Open] = {
    OURS: penstock,
    TPE_100: executor_behind_semaphore,
    OURS_OPEN: penstock_never_full,
    TPE: executor,
    PEBBLE: pebble_pool,
    DUMMY: dummy_pool,
}
if importlib.util.find_spec("pebble") is None:
    del CONTESTANTS[PEBBLE]


def versus(ours: str, *peers: str) -> list[tuple[str, str]]:
    return [(ours, peer) for peer in peers if peer in CONTESTANTS]


def start_workers(pool: Pool, workers: int) -> None:
    """Make every worker thread exist and run once, so that no turn pays for starting threads."""
    together = threading.Barrier(workers + 1, timeout=GUARD)
    handles = [pool.submit(together.wait) for _ in range(workers)]
    together.wait()
    for handle in handles:
        pool.take(handle)


# ---------------------------------------------------------------------------------------------------------------------
# The jobs


BUSY = "~10 us"


def nothing() -> None:
    pass


def busy(loops: int) -> Callable[[], None]:
    """A job of pure Python that holds the GIL."""

    def spin() -> None:
        for _ in range(loops):
            pass

    return spin


def seconds_alone(fn: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        fn()
    return (time.perf_counter() - began) / calls


def calibrated(seconds: float) -> Callable[[], None]:
    """A busy job that takes about *seconds* on this machine when nothing else disturbs it."""
    probe = 1000
    alone = min(seconds_alone(busy(probe), 200) for _ in range(21))
    return busy(max(1, round(probe * seconds / alone)))


@dataclass(frozen=True, slots=True)
class Work:
    """One length of job, and how many of them make a turn (for a number of workers)."""

    label: str
    run: Callable[[], object]
    count: Callable[[int], int]


def lengths(jobs: int) -> list[Work]:
    """Jobs of no length, ~10 us, 1 ms and 100 ms; the sleeping ones are few, as their length is known."""
    return [
        Work("no-op", nothing, lambda _: jobs),
        Work(BUSY, calibrated(10e-6), lambda _: max(jobs // 2, 1)),
        Work("1 ms", partial(time.sleep, 1e-3), lambda workers: max(200, 40 * workers)),
        Work("100 ms", partial(time.sleep, 0.1), lambda workers: 2 * workers),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What one contestant does in one turn


def throughput(opened: Open, run: Callable[[], object], *, workers: int, jobs: int, kept: int) -> Sample:
    """Submit *jobs* jobs from this thread and wait for the last *kept* handles; handles before those are dropped."""
    pool = opened(workers, jobs)
    try:
        start_workers(pool, workers)
        submit, take = pool.submit, pool.take
        began = time.perf_counter()
        for _ in range(jobs - kept):
            submit(run)
        handles = [submit(run) for _ in range(kept)]
        for handle in handles:
            take(handle)
        took = time.perf_counter() - began
    finally:
        pool.stop()
    return {"us/job": took / jobs * 1e6}


def lone_job(opened: Open, *, workers: int, jobs: int) -> Sample:
    """One job at a time on a warm, idle pool: until its first instruction runs, and until its result is here."""
    pool = opened(workers, jobs)
    starts: list[float] = []
    trips: list[float] = []
    try:
        start_workers(pool, workers)
        for _ in range(jobs):
            time.sleep(1e-3)  # let every worker go back to sleep: an idle pool is what is measured
            began = time.perf_counter()
            first_instruction = pool.take(pool.submit(time.perf_counter))
            ended = time.perf_counter()
            starts.append((first_instruction - began) * 1e6)
            trips.append((ended - began) * 1e6)
    finally:
        pool.stop()
    (start_50, start_99), (trip_50, trip_99) = middle_and_tail(starts), middle_and_tail(trips)
    return {"start p50 us": start_50, "start p99 us": start_99, "trip p50 us": trip_50, "trip p99 us": trip_99}


def time_to_stop(opened: Open, *, workers: int) -> Sample:
    """Stop a pool whose jobs are still running; count from the end of the last job to the return of the stop."""
    pool = opened(workers, 2 * workers)
    ends: list[float] = []

    def run() -> None:
        time.sleep(2e-3)
        ends.append(time.perf_counter())

    start_workers(pool, workers)
    for _ in range(2 * workers):
        pool.submit(run)
    pool.stop()
    return {"ms": (time.perf_counter() - max(ends)) * 1e3}


def waiting_bytes(name: str, jobs: int) -> Sample:
    """Growth of the resident set per waiting no-op job, in a process of its own that does nothing else."""
    command = [sys.executable, __file__, "--fill", name, "--jobs", str(jobs)]
    child = subprocess.run(command, check=True, capture_output=True, text=True, timeout=CHILD_LIMIT)
    return {"bytes/job": float(child.stdout)}


def fill(name: str, jobs: int) -> None:
    """In the child: hold the only worker, let *jobs* jobs wait behind it, print what each of them takes."""
    pool, held, gate = CONTESTANTS[name](1, jobs), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait()

    pool.submit(hold)
    held.wait()
    before = resident_bytes()
    for _ in range(jobs):
        pool.submit(nothing)  # handles are dropped: only what the pool itself keeps is counted
    print((resident_bytes() - before) / jobs, flush=True)
    os._exit(0)  # nobody wants these jobs to run


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int
    workers: tuple[int, ...] = (1, 4, 32)
    results: tuple[str, ...] = ("kept", "dropped")
    lone_jobs: int = 300
    waiting: int = 1_000_000


QUICK = Scale(rounds=3, jobs=10_000, workers=(4,), results=("kept",), lone_jobs=200, waiting=100_000)
WHOLE = Scale(rounds=5, jobs=20_000)


def cases(scale: Scale) -> Iterator[Case]:
    for work in lengths(scale.jobs):
        for result in scale.results:
            for workers in scale.workers:
                yield throughput_case(work, result, workers, scale)
    yield lone_case(scale)
    if STATM.exists():
        yield bytes_case(scale)
    for workers in scale.workers:
        yield stop_case(workers, scale)


def throughput_case(work: Work, result: str, workers: int, scale: Scale) -> Case:
    jobs = work.count(workers)
    kept = jobs if result == "kept" else min(workers, jobs)  # the last ones always, to know the end
    turns: dict[str, Turn] = {
        name: partial(throughput, opened, work.run, workers=workers, jobs=jobs, kept=kept)
        for name, opened in CONTESTANTS.items()
    }
    if work.label == BUSY:
        turns[NO_POOL] = lambda: {"us/job": seconds_alone(work.run, jobs) * 1e6}
    pairs = versus(OURS, TPE_100, TPE) + versus(OURS_OPEN, TPE, PEBBLE, DUMMY)
    return Case(f"{work.label}, {result}, {of_workers(workers)}", turns, pairs, jobs, scale.rounds)


def lone_case(scale: Scale) -> Case:
    turns: dict[str, Turn] = {
        name: partial(lone_job, opened, workers=4, jobs=scale.lone_jobs)
        for name, opened in CONTESTANTS.items()
        if name not in (OURS_OPEN, TPE_100)
    }
    return Case("lone job, 4 workers", turns, versus(OURS, TPE, PEBBLE, DUMMY), scale.lone_jobs, 2 * scale.rounds)


def bytes_case(scale: Scale) -> Case:
    turns: dict[str, Turn] = {name: partial(waiting_bytes, name, scale.waiting) for name in (OURS_OPEN, TPE)}
    return Case("bytes per waiting job", turns, versus(OURS_OPEN, TPE), scale.waiting, 1)


def stop_case(workers: int, scale: Scale) -> Case:
    contestants = {OURS_SHUTDOWN: penstock_shutdown} | CONTESTANTS
    turns: dict[str, Turn] = {
        name: partial(time_to_stop, opened, workers=workers)
        for name, opened in contestants.items()
        if name not in (OURS_OPEN, TPE_100)
    }
    pairs = versus(OURS, TPE, PEBBLE, DUMMY)
    return Case(f"stop, {of_workers(workers)}", turns, pairs, 2 * workers, 4 * scale.rounds)


# ---------------------------------------------------------------------------------------------------------------------
# The summary


GOALS = [
    Goal("no-op, backlog 100", "no-op, kept, 4 workers", "us/job", OURS, TPE_100, "5x", "8.5x", speed=True),
    Goal("no-op, never full", "no-op, kept, 4 workers", "us/job", OURS_OPEN, TPE, "4x", "10x", speed=True),
    Goal(f"{BUSY}, backlog 100", f"{BUSY}, kept, 4 workers", "us/job", OURS, TPE_100, "2.5x", "4x", speed=True),
    Goal("lone job, start", "lone job, 4 workers", "start p50 us", OURS, TPE, "1.00 of it", "0.75 of it"),
    Goal("lone job, start", "lone job, 4 workers", "start p99 us", OURS, TPE, "1.00 of it", "0.75 of it"),
    Goal("lone job, round trip", "lone job, 4 workers", "trip p50 us", OURS, TPE, "1.00 of it", "0.75 of it"),
    Goal("lone job, round trip", "lone job, 4 workers", "trip p99 us", OURS, TPE, "1.00 of it", "0.75 of it"),
    Goal("waiting job", "bytes per waiting job", "bytes/job", OURS_OPEN, TPE, "<= 800 bytes", "<= 400 bytes"),
    Goal("stop after the last job", "stop, 4 workers", "ms", OURS, TPE, "<= 5 ms", "<= 1 ms"),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="penstock.ThreadPool beside its peers, in turn, in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, jobs and cases: under 40 seconds")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--rounds", type=at_least_one, metavar="N", help=f"turns of each contestant (default {WHOLE.rounds})"
    )
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        metavar="N",
        help=f"no-op jobs in a turn (default {WHOLE.jobs}); busy ones: half of it",
    )
    parser.add_argument("--json", action="store_true", help="a JSON line for each case; the tables go to stderr")
    parser.add_argument("--fill", metavar="CONTESTANT", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    told = arguments()
    scale = QUICK if told.quick else WHOLE
    if told.fill:
        fill(told.fill, told.jobs)
    scale = replace(scale, rounds=told.rounds or scale.rounds, jobs=told.jobs or scale.jobs)
    for_people = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    for_people(", ".join(f"{name}: {value}" for name, value in machine().items()), "\n")

    outcomes: dict[str, Outcome] = {}
    for case in cases(scale):
        if told.only in case.name:
            outcomes[case.name] = outcome = play(case)
            for_people(as_table(outcome), "\n")
            if told.json:
                print(as_json(outcome), flush=True)
    for_people(summary(GOALS, outcomes) if outcomes else f"no case has {told.only!r} in its name")


if __name__ == "__main__":
    main()
