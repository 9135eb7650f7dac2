"""What does a pool of processes cost? penstock.ProcessPool beside its peers, in turn, in one run.

    python bench/processes.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--json]

It measures and prints; it asserts nothing. Every pool runs with its defaults and the start method of its own choice,
and has its workers before its turn begins. How to read the tables: bench/README.md.
"""

import argparse
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/processes.py` finds this room by its name, too

from bench.goals import Goal, at_least_one, middle_and_tail, of_workers, summary
from bench.rounds import Case, Outcome, Sample, Turn, apart, as_json, as_table, machine, play
from penstock import Job, ProcessPool

# ---------------------------------------------------------------------------------------------------------------------
# The contestants


@dataclass(frozen=True, slots=True)
class Pool:
    """A running pool of any make, reduced to what the bench does with it."""

    submit: Callable[..., Any]  # (fn, *args) -> handle
    take: Callable[[Any], Any]  # handle -> result, waiting for it
    map: Callable[[Callable[[Any], Any], Any, int], Any]  # (fn, inputs, chunk) -> iterable of results
    stop: Callable[[], object]


Open = Callable[[int, int], Pool]  # (workers, jobs that will be submitted)


def of_executor(pool: Executor, take: Callable[[Any], Any] = Future.result) -> Pool:
    def chunked(fn: Callable[[Any], Any], inputs: Any, chunk: int) -> Any:
        return pool.map(fn, inputs, chunksize=chunk)

    return Pool(pool.submit, take, chunked, partial(pool.shutdown, wait=True))


def penstock(workers: int, _jobs: int) -> Pool:
    return of_executor(ProcessPool(workers).start(), Job.result)


def penstock_never_full(workers: int, jobs: int) -> Pool:
    return of_executor(ProcessPool(workers, backlog=jobs).start(), Job.result)


def executor(workers: int, _jobs: int) -> Pool:
    return of_executor(ProcessPoolExecutor(workers))


def loky_executor(workers: int, _jobs: int) -> Pool:
    import loky

    return of_executor(loky.ProcessPoolExecutor(workers))


def multiprocessing_pool(workers: int, _jobs: int) -> Pool:
    pool = multiprocessing.Pool(workers)

    def submit(fn: Callable[..., Any], *args: Any) -> Any:
        return pool.apply_async(fn, args)

    def stop() -> None:
        pool.close()
        pool.join()

    return Pool(submit, lambda handle: handle.get(), pool.imap, stop)


def pebble_pool(workers: int, _jobs: int) -> Pool:
    import pebble

    pool: Any = pebble.ProcessPool(workers)

    def submit(fn: Callable[..., Any], *args: Any) -> Any:
        return pool.schedule(fn, args=args)

    def chunked(fn: Callable[[Any], Any], inputs: Any, chunk: int) -> Any:
        return pool.map(fn, inputs, chunksize=chunk).result()

    def stop() -> None:
        pool.close()
        pool.join()

    return Pool(submit, Future.result, chunked, stop)


def mpire_pool(workers: int, _jobs: int) -> Pool:
    from mpire.pool import WorkerPool

    pool: Any = WorkerPool(workers)

    def submit(fn: Callable[..., Any], *args: Any) -> Any:
        return pool.apply_async(fn, args)

    def chunked(fn: Callable[[Any], Any], inputs: Any, chunk: int) -> Any:
        return pool.imap(fn, inputs, chunk_size=chunk)

    return Pool(submit, lambda handle: handle.get(), chunked, pool.terminate)


OURS, OURS_OPEN = "penstock, backlog 100", "penstock, never full"
PPE, MP, PEBBLE = "ProcessPoolExecutor", "multiprocessing.Pool", "pebble.ProcessPool"
LOKY, MPIRE = "loky.ProcessPoolExecutor", "mpire.WorkerPool"

CONTESTANTS: dict[str, Open] = {
    OURS_OPEN: penstock_never_full,
    OURS: penstock,
    PPE: executor,
    MP: multiprocessing_pool,
    PEBBLE: pebble_pool,
    LOKY: loky_executor,
    MPIRE: mpire_pool,
}
for _name, _module in ((PEBBLE, "pebble"), (LOKY, "loky"), (MPIRE, "mpire")):
    if importlib.util.find_spec(_module) is None:
        del CONTESTANTS[_name]


def versus(ours: str, *peers: str) -> list[tuple[str, str]]:
    return [(ours, peer) for peer in peers if peer in CONTESTANTS]


def warm_up(pool: Pool, workers: int) -> None:
    """Make every worker exist and run, so that no turn pays for starting processes."""
    for handle in [pool.submit(time.sleep, 0.02) for _ in range(4 * workers)]:
        pool.take(handle)


# ---------------------------------------------------------------------------------------------------------------------
# The jobs: functions that every worker can import


def nothing() -> None:
    pass


def same(value: Any) -> Any:
    return value


def busy(loops: int) -> int:
    for _ in range(loops):
        pass
    return loops


# ---------------------------------------------------------------------------------------------------------------------
# What one contestant does in one turn


def throughput(opened: Open, fn: Callable[..., Any], args: tuple[Any, ...], *, workers: int, jobs: int) -> Sample:
    """Submit *jobs* jobs one by one and take every result."""
    pool = opened(workers, jobs)
    try:
        warm_up(pool, workers)
        submit, take = pool.submit, pool.take
        began = time.perf_counter()
        handles = [submit(fn, *args) for _ in range(jobs)]
        for handle in handles:
            take(handle)
        took = time.perf_counter() - began
    finally:
        pool.stop()
    return {"us/job": took / jobs * 1e6}


def payloads(opened: Open, make: Callable[[], Any], *, workers: int, jobs: int) -> Sample:
    """Send what *make* makes there and back *jobs* times, at most two under way for each worker."""
    value = make()
    pool = opened(workers, jobs)
    try:
        warm_up(pool, workers)
        under_way: list[Any] = []
        began = time.perf_counter()
        for _ in range(jobs):
            under_way.append(pool.submit(same, value))
            if len(under_way) > 2 * workers:
                pool.take(under_way.pop(0))
        for handle in under_way:
            pool.take(handle)
        took = time.perf_counter() - began
    finally:
        pool.stop()
    return {"ms/job": took / jobs * 1e3}


def chunked_map(opened: Open, *, workers: int, jobs: int, chunk: int) -> Sample:
    """A map over numbers, in chunks."""
    pool = opened(workers, jobs)
    try:
        warm_up(pool, workers)
        began = time.perf_counter()
        count = sum(1 for _ in pool.map(same, range(jobs), chunk))
        took = time.perf_counter() - began
        if count != jobs:
            raise RuntimeError(f"{count} results of {jobs}")
    finally:
        pool.stop()
    return {"us/item": took / jobs * 1e6}


def lone_job(opened: Open, *, workers: int, jobs: int) -> Sample:
    """One job at a time on a warm, idle pool: until it runs over there, and until its result is here."""
    pool = opened(workers, jobs)
    starts: list[float] = []
    trips: list[float] = []
    try:
        warm_up(pool, workers)
        for _ in range(jobs):
            time.sleep(1e-3)
            began = time.perf_counter()
            first_instruction = pool.take(pool.submit(time.perf_counter))  # one clock for all processes, on Linux
            ended = time.perf_counter()
            starts.append((first_instruction - began) * 1e6)
            trips.append((ended - began) * 1e6)
    finally:
        pool.stop()
    (start_50, start_99), (trip_50, trip_99) = middle_and_tail(starts), middle_and_tail(trips)
    return {"start p50 us": start_50, "start p99 us": start_99, "trip p50 us": trip_50, "trip p99 us": trip_99}


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int
    workers: int = 2
    lone_jobs: int = 300
    big: int = 20  # payloads of 50 MB
    middle: int = 200  # of 1 MiB
    items: int = 200_000


QUICK = Scale(rounds=3, jobs=5_000, lone_jobs=200, big=6, middle=60, items=50_000)
WHOLE = Scale(rounds=5, jobs=20_000)


def cases(scale: Scale) -> Iterator[Case]:
    workers, rounds = scale.workers, scale.rounds
    peers = (PPE, MP, PEBBLE, LOKY, MPIRE)
    for name, fn, args in (("no-op", nothing, ()), ("~10 us", busy, (500,))):
        turns: dict[str, Turn] = {
            label: partial(throughput, opened, fn, args, workers=workers, jobs=scale.jobs)
            for label, opened in CONTESTANTS.items()
        }
        yield Case(
            f"{name}, {of_workers(workers)}", turns, versus(OURS_OPEN, *peers) + versus(OURS, PPE), scale.jobs, rounds
        )
    lone: dict[str, Turn] = {
        label: partial(lone_job, opened, workers=workers, jobs=scale.lone_jobs)
        for label, opened in CONTESTANTS.items()
        if label != OURS_OPEN
    }
    yield Case(f"lone job, {of_workers(workers)}", lone, versus(OURS, *peers), scale.lone_jobs, rounds)
    for name, make, jobs in payloads_of(scale):
        big: dict[str, Turn] = {
            label: partial(apart, partial(payloads, CONTESTANTS[label], make, workers=workers, jobs=jobs))
            for label in (OURS, PPE, MP)
        }
        yield Case(name, big, versus(OURS, PPE, MP), jobs, rounds)
    chunks: dict[str, Turn] = {
        label: partial(chunked_map, opened, workers=workers, jobs=scale.items, chunk=100)
        for label, opened in CONTESTANTS.items()
        if label != OURS_OPEN
    }
    yield Case("map in chunks of 100", chunks, versus(OURS, *peers), scale.items, rounds)


def payloads_of(scale: Scale) -> Iterator[tuple[str, Callable[[], Any], int]]:
    yield "50 MB of bytes, there and back", partial(bytes, 50_000_000), scale.big
    if importlib.util.find_spec("numpy") is not None:
        import numpy

        yield "50 MB of NumPy, there and back", partial(numpy.zeros, 50_000_000 // 8), scale.big
    yield "1 MiB of bytes, there and back", partial(bytes, 1 << 20), scale.middle


GOALS = [
    Goal("no-op", "no-op, 2 workers", "us/job", OURS_OPEN, PPE, "8x", "15x", speed=True),
    Goal("no-op", "no-op, 2 workers", "us/job", OURS_OPEN, MP, "3x", "5x", speed=True),
    Goal("no-op", "no-op, 2 workers", "us/job", OURS_OPEN, PEBBLE, "4x", "8x", speed=True),
    Goal("lone job, start", "lone job, 2 workers", "start p50 us", OURS, PPE, "0.40 of it", "0.15 of it"),
    Goal("lone job, round trip", "lone job, 2 workers", "trip p50 us", OURS, PPE, "0.60 of it", "0.37 of it"),
    Goal("50 MB of bytes", "50 MB of bytes, there and back", "ms/job", OURS, PPE, "2x", "4x", speed=True),
    Goal("50 MB of NumPy", "50 MB of NumPy, there and back", "ms/job", OURS, PPE, "3x", "5x", speed=True),
    Goal("1 MiB of bytes", "1 MiB of bytes, there and back", "ms/job", OURS, PPE, "4x", "10x", speed=True),
    Goal("map in chunks", "map in chunks of 100", "us/item", OURS, PPE, "1.5x", "3x", speed=True),
    Goal("map in chunks", "map in chunks of 100", "us/item", OURS, MP, "0.8x", "1.2x", speed=True),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="penstock.ProcessPool beside its peers, in turn, in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs: under a minute")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help=f"turns of each (default {WHOLE.rounds})")
    parser.add_argument("--jobs", type=at_least_one, metavar="N", help=f"no-op jobs in a turn (default {WHOLE.jobs})")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case; the tables go to stderr")
    return parser.parse_args()


def main() -> None:
    told = arguments()
    scale = QUICK if told.quick else WHOLE
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
