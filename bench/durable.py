"""What do durable jobs cost? penstock beside Huey, persist-queue and litequeue, all on SQLite, in turn, in one run.

    python bench/durable.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--deep] [--json]

All have the same durability: WAL and synchronous=FULL, so that what was accepted survives a power cut. Stores are
files in temporary folders, workers are processes that live for one turn. It measures and prints; it asserts nothing.
How to read the tables: bench/README.md.
"""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/durable.py` finds this room by its name, too

from bench import durable_jobs as jobs_of
from bench.depth import BATCH, Depth
from bench.goals import Goal, at_least_one, middle_and_tail, summary
from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from bench.services import WORK, Worker, house, until_working
from bench.turns import (
    Open,
    enqueue,
    enqueue_from_coroutines,
    enqueue_from_threads,
    enqueue_many,
    lone_job,
    service_killed,
    timed,
)

OURS, ASYNC = "penstock", "penstock, asyncio tasks"
HUEY, PERSIST, LITE = "Huey", "persist-queue", "litequeue"
MISSING = [
    name
    for name, module in ((HUEY, "huey"), (PERSIST, "persistqueue"), (LITE, "litequeue"))
    if importlib.util.find_spec(module) is None
]


def there(turns: dict[str, Turn]) -> dict[str, Turn]:
    """Those of *turns* whose contestant is installed."""
    return {name: turn for name, turn in turns.items() if name.partition(",")[0] not in MISSING}


# ---------------------------------------------------------------------------------------------------------------------
# The systems: how each store is filled and opened, and how its worker is started

SYSTEMS: Final[dict[str, Open]] = {
    OURS: jobs_of.penstock,
    HUEY: jobs_of.huey,
    PERSIST: jobs_of.persist_queue,
    LITE: jobs_of.lite_queue,
}
CONSUME: Final = ("-m", "huey.bin.huey_consumer", "bench.durable_worker.huey", "-q")
COMMANDS: Final[dict[str, Sequence[str]]] = {
    OURS: WORK,
    HUEY: CONSUME,  # one thread: it is fastest so
    PERSIST: ("-m", "bench.durable_worker", "persist-queue"),
    LITE: ("-m", "bench.durable_worker", "litequeue"),
}


def fill_penstock(task: str, folder: Path, jobs: int) -> None:
    system = jobs_of.penstock(folder, task)
    system.put_many(range(jobs))
    system.close()


FILL: Final[dict[str, Callable[[Path, int], None]]] = {
    OURS: partial(fill_penstock, "nothing"),
    HUEY: jobs_of.fill_huey,
    PERSIST: jobs_of.fill_persist_queue,
    LITE: jobs_of.fill_lite_queue,
}


# ---------------------------------------------------------------------------------------------------------------------
# What one contestant does in one turn


def drain(fill: Callable[[Path, int], None], command: Sequence[str], *, jobs: int) -> Sample:
    """A worker runs *jobs* jobs that wait already; from the tenth part of them to nine tenths."""
    first, last = max(1, jobs // 10), max(2, jobs * 9 // 10)
    with house() as (folder, told):
        fill(folder, jobs)
        with Worker(folder, command, marks=(first, last)):
            _, begun, used = told.next()
            _, ended, used_by_then = told.next()
    count = last - first
    return {"us/job": (ended - begun) / count * 1e6, "CPU us/job": (used_by_then - used) / count * 1e6}


def enqueue_beside(opened: Open, name: str, command: Sequence[str], *, waiting: int, seconds: float) -> Sample:
    """One thread puts one job after the other while two processes drain the store."""
    with house() as (folder, told):
        FILL[name](folder, waiting)
        system = opened(folder)
        enough = waiting * 2 // 5  # of each of them: while none has done that many, both have something to do
        with Worker(folder, command, marks=(1, enough)):
            told.next()
            times: list[float] = []
            end = time.monotonic() + seconds
            while len(times) < 2 or time.monotonic() < end:  # one may starve for all that time
                times.append(timed(system.put, len(times)) / 1e3)
                if any(number == enough for number, *_ in told.more()):
                    break
        system.close()
    middle, tail = middle_and_tail(times * 2)  # twice: there may be but one
    return {"p50 ms": middle, "p99 ms": tail, "max ms": max(times)}


def idle(command: Sequence[str], word: str, *, seconds: float) -> Sample:
    """A worker that has nothing to do."""
    with house() as (folder, _), Worker(folder, command) as worker:
        until_working(folder, word)
        time.sleep(1)
        used, began = worker.busy(), time.monotonic()
        time.sleep(seconds)
        return {"% of a processor": (worker.busy() - used) / (time.monotonic() - began) * 100}


def child_killed() -> Sample:
    """A job's process is killed; until the job runs again."""
    with house() as (folder, told):
        app = jobs_of.penstock_app(folder)
        with Worker(folder, WORK):
            app.tasks["hang"].enqueue()
            pid, _ = told.next()
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            _, began = told.next()
        app.close()
    return {"seconds": began - killed}


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int
    slow_jobs: int = 4_000  # of those that are hundreds of times slower, or that wait for the disk each time
    slowest_jobs: int = 1_000  # of those that get slower the more jobs wait
    lone_jobs: int = 100
    beside: float = 3.0  # seconds
    idle: float = 10.0  # seconds
    depths: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    lease: float = 30.0


QUICK = Scale(
    rounds=3, jobs=10_000, slow_jobs=1_000, slowest_jobs=500, lone_jobs=30, beside=1.5, idle=3.0,
    depths=(1_000, 50_000), lease=6.0,
)  # fmt: skip
WHOLE = Scale(rounds=5, jobs=40_000)
_DEEPEST: Final = 10_000_000


def versus(turns: dict[str, Turn], *ours: str) -> list[tuple[str, str]]:
    return [(mine, name) for mine in ours for name in turns if name not in ours]


def cases(scale: Scale, folder: Path) -> Iterator[Case]:
    rounds = scale.rounds
    slow, slowest = min(scale.jobs, scale.slow_jobs), min(scale.jobs, scale.slowest_jobs)
    sizes = {OURS: scale.jobs, HUEY: slow, PERSIST: slowest, LITE: slowest}
    turns = there({name: partial(drain, FILL[name], COMMANDS[name], jobs=sizes[name]) for name in SYSTEMS})
    turns[ASYNC] = partial(drain, partial(fill_penstock, "anothing"), WORK, jobs=scale.jobs)
    yield Case("end to end, one worker process", turns, versus(turns, OURS, ASYNC), scale.jobs, rounds)

    turns = there({name: partial(enqueue, opened, jobs=slow) for name, opened in SYSTEMS.items()})
    yield Case("enqueue, one thread", turns, versus(turns, OURS), slow, rounds)
    turns = there(
        {name: partial(enqueue_from_threads, opened, jobs=slow, threads=64) for name, opened in SYSTEMS.items()}
    )
    yield Case("enqueue, 64 threads", turns, versus(turns, OURS), slow, rounds)
    turns = there(
        {name: partial(enqueue_from_coroutines, SYSTEMS[name], jobs=slow, callers=100) for name in (OURS, HUEY)}
    )
    yield Case("enqueue, 100 coroutines", turns, versus(turns, OURS), slow, rounds)
    turns = there(
        {
            name: partial(enqueue_many, opened, jobs=scale.jobs if name == OURS else slow)
            for name, opened in SYSTEMS.items()
        }
    )
    yield Case("enqueue_many", turns, versus(turns, OURS), scale.jobs, rounds)

    turns = there(
        {name: partial(lone_job, SYSTEMS[name], COMMANDS[name], jobs=scale.lone_jobs) for name in (OURS, HUEY)}
    )
    yield Case("lone job", turns, versus(turns, OURS), scale.lone_jobs, rounds)

    two = {OURS: (*WORK, "--processes", "2"), HUEY: (*CONSUME, "-k", "process", "-w", "2")}
    waiting = {OURS: 4 * scale.jobs, HUEY: 2 * slow}
    turns = there(
        {
            name: partial(enqueue_beside, SYSTEMS[name], name, two[name], waiting=waiting[name], seconds=scale.beside)
            for name in (OURS, HUEY)
        }
    )
    yield Case("enqueue while two processes drain", turns, versus(turns, OURS), waiting[OURS], rounds)

    words = {OURS: "working on", HUEY: ""}
    turns = there({name: partial(idle, COMMANDS[name], words[name], seconds=scale.idle) for name in (OURS, HUEY)})
    yield Case("idle worker service", turns, versus(turns, OURS), 0, rounds)
    yield Case("a child is killed", {OURS: child_killed}, (), 1, rounds)
    yield Case("the whole service is killed", {OURS: partial(service_killed, scale.lease)}, (), 1, min(rounds, 3))

    yield from depth_cases(scale, folder)


def depth_cases(scale: Scale, folder: Path) -> Iterator[Case]:
    """One store for each depth, kept for all rounds: to fill it takes long."""
    first, *more = scale.depths
    for word in ("waiting", "finished"):
        depths = {
            f"{depth:,} {word}": Depth(
                f"sqlite:///{folder / f'{word}-{depth}.db'}",
                waiting=depth if word == "waiting" else first,
                finished=depth if word == "finished" else 0,
            )
            for depth in scale.depths
        }
        turns: dict[str, Turn] = {name: partial(depth.claims, 2_000) for name, depth in depths.items()}
        pairs = [(f"{first:,} {word}", f"{depth:,} {word}") for depth in more]
        yield Case(f"claim of {BATCH}, by jobs {word}", turns, pairs, 2_000, scale.rounds)
        for depth in depths.values():
            depth.close()


def goals(scale: Scale) -> list[Goal]:
    drained, beside = "end to end, one worker process", "enqueue while two processes drain"
    deepest, shallow = f"{scale.depths[-1]:,}", f"{scale.depths[0]:,}"
    found = [
        Goal("thread tasks", drained, "us/job", OURS, HUEY, "8x", "20x", speed=True),
        Goal("asyncio tasks", drained, "us/job", ASYNC, HUEY, "6x", "15x", speed=True),
        Goal("lone enqueue", "enqueue, one thread", "us/job", OURS, HUEY, "1.2x", "1.6x", speed=True),
        Goal("64 threads", "enqueue, 64 threads", "us/job", OURS, HUEY, "4x", "7x", speed=True),
        Goal("100 coroutines", "enqueue, 100 coroutines", "us/job", OURS, HUEY, "10x", "25x", speed=True),
        Goal("enqueue_many", "enqueue_many", "us/job", OURS, HUEY, "20x", "50x", speed=True),
        Goal("lone job", "lone job", "start p50 ms", OURS, HUEY, "4 ms", "1.5 ms"),
        Goal("lone job", "lone job", "start p99 ms", OURS, HUEY, "10 ms", "5 ms"),
        Goal("enqueue beside two", beside, "p99 ms", OURS, HUEY, "20 ms", "5 ms"),
        Goal("enqueue beside two", beside, "max ms", OURS, HUEY, "100 ms", "20 ms"),
        Goal("idle", "idle worker service", "% of a processor", OURS, HUEY, "1 %", "0.3 %"),
        Goal("child killed", "a child is killed", "seconds", OURS, None, "1 s", "0.2 s"),
        Goal("service killed", "the whole service is killed", "seconds", OURS, None, "lease + 5 s", "15 s"),
    ]
    for word in ("waiting", "finished"):
        name = f"claim of {BATCH}, by jobs {word}"
        found.append(Goal(name, name, "CPU p50 us", f"{deepest} {word}", f"{shallow} {word}", "1.5 of it", "1.0 of it"))
    return [goal for goal in found if goal.peer not in MISSING]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Durable jobs on SQLite: penstock beside its peers, in turn.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs: some two minutes")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help=f"turns of each (default {WHOLE.rounds})")
    parser.add_argument("--jobs", type=at_least_one, metavar="N", help=f"our no-op jobs (default {WHOLE.jobs})")
    parser.add_argument("--deep", action="store_true", help=f"claims from {_DEEPEST:,} jobs, too: minutes to fill")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case; the tables go to stderr")
    return parser.parse_args()


def main() -> None:
    told = arguments()
    scale = QUICK if told.quick else WHOLE
    scale = replace(scale, rounds=told.rounds or scale.rounds, jobs=told.jobs or scale.jobs)
    if told.deep:
        scale = replace(scale, depths=(*scale.depths, _DEEPEST))
    for_people = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    for_people(", ".join(f"{name}: {value}" for name, value in machine().items()))
    for_people(f"WAL, synchronous=FULL; SQLite of the peers: {jobs_of.sqlite_version()}\n")
    if MISSING:
        for_people(f"not installed, so left out: {', '.join(MISSING)}\n")

    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        for case in cases(scale, Path(folder)):
            if told.only in case.name:
                outcomes[case.name] = outcome = play(case)
                for_people(as_table(outcome), "\n")
                if told.json:
                    print(as_json(outcome), flush=True)
    for_people(summary(goals(scale), outcomes) if outcomes else f"no case has {told.only!r} in its name")


if __name__ == "__main__":
    main()
