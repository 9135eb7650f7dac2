"""What do durable jobs cost? penstock beside Huey, persist-queue and litequeue, all on SQLite, in turn, in one run.

    python bench/durable.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--deep] [--json]

All have the same durability: WAL and synchronous=FULL, so that what was accepted survives a power cut. Stores are
files in temporary folders, workers are processes that live for one turn. It measures and prints; it asserts nothing.
How to read the tables: bench/README.md.
"""

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/durable.py` finds this room by its name, too

from bench import durable_jobs as jobs_of
from bench.goals import Goal, at_least_one, middle_and_tail, summary
from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from bench.services import LONGEST, Worker, house, until_working
from penstock.engines import connect
from penstock.engines.engine import Engine
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    NewJob,
    Put,
    Renew,
    Request,
    Settle,
    Settlement,
    Want,
)
from penstock.engines.requests import (
    Outcome as Ending,
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

Open = Callable[[Path], jobs_of.System]

SYSTEMS: Final[dict[str, Open]] = {
    OURS: jobs_of.penstock,
    HUEY: jobs_of.huey,
    PERSIST: jobs_of.persist_queue,
    LITE: jobs_of.lite_queue,
}
WORK: Final = ("-m", "penstock", "work", "bench.durable_worker:app")
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


def enqueue(opened: Open, *, jobs: int) -> Sample:
    """One thread puts one job after the other."""
    with house() as (folder, _):
        system = opened(folder)
        system.put(0)
        times = [_timed(system.put, number) for number in range(jobs)]
        system.close()
    middle, tail = middle_and_tail(times)
    return {"us/job": sum(times) / jobs, "p50 us": middle, "p99 us": tail}


def _timed(put: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    put(number)
    return (time.perf_counter() - began) * 1e6


def enqueue_from_threads(opened: Open, *, jobs: int, threads: int) -> Sample:
    """Many threads put one job after the other."""
    share = max(1, jobs // threads)
    with house() as (folder, _):
        system = opened(folder)
        system.put(0)
        gate = threading.Barrier(threads + 1)

        def put_share() -> None:
            gate.wait(LONGEST)
            for number in range(share):
                system.put(number)

        crowd = [threading.Thread(target=put_share) for _ in range(threads)]
        for thread in crowd:
            thread.start()
        gate.wait(LONGEST)
        began = time.perf_counter()
        for thread in crowd:
            thread.join()
        took = time.perf_counter() - began
        system.close()
    return {"us/job": took / (share * threads) * 1e6}


def enqueue_from_coroutines(opened: Open, *, jobs: int, callers: int) -> Sample:
    """Many coroutines put one job after the other."""
    share = max(1, jobs // callers)

    async def put_share(aput: Callable[[int], Any]) -> None:
        for number in range(share):
            await aput(number)

    async def crowd(aput: Callable[[int], Any]) -> float:
        await aput(0)
        began = time.perf_counter()
        await asyncio.gather(*(put_share(aput) for _ in range(callers)))
        return time.perf_counter() - began

    with house() as (folder, _):
        system = opened(folder)
        assert system.aput is not None
        took = asyncio.run(crowd(system.aput))
        system.close()
    return {"us/job": took / (share * callers) * 1e6}


def enqueue_many(opened: Open, *, jobs: int) -> Sample:
    """All at once, where there is a call for that."""
    with house() as (folder, _):
        system = opened(folder)
        system.put(0)
        began = time.perf_counter()
        system.put_many(range(jobs))
        took = time.perf_counter() - began
        system.close()
    return {"us/job": took / jobs * 1e6}


def lone_job(opened: Open, command: Sequence[str], *, jobs: int) -> Sample:
    """One job at a time for an idle worker in another process: from before it is enqueued to its first instruction."""
    with house() as (folder, told):
        system = opened(folder)
        assert system.ask_when is not None
        with Worker(folder, command):
            system.ask_when(time.monotonic())
            told.next()  # it works
            times = []
            for number in range(jobs):
                time.sleep(0.02 + number % 7 * 0.003)
                system.ask_when(time.monotonic())
                times.append(told.next()[0] * 1e3)
        system.close()
    middle, tail = middle_and_tail(times)
    return {"start p50 ms": middle, "start p99 ms": tail}


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
                times.append(_timed(system.put, len(times)) / 1e3)
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


def service_killed(lease: float) -> Sample:
    """All processes of a service are killed, and another works on the same store; until the job runs again."""
    with house() as (folder, told):
        app = jobs_of.penstock_app(folder)
        with Worker(folder, (*WORK, "--lease", f"{lease:g}")) as service:
            app.tasks["hang"].enqueue()
            told.next()
            with Worker(folder, (*WORK, "--lease", f"{lease:g}")) as other:
                time.sleep(2)
                service.kill()
                killed = time.monotonic()
                _, began = told.next()
                other.kill()
        app.close()
    return {"seconds": began - killed}


# ---------------------------------------------------------------------------------------------------------------------
# What a claim costs, by how much there is: straight from the engine, so that nothing else is in it

_ME: Final = 1
_BATCH: Final = 100


class Depth:
    """A store with so many jobs that wait, and so many that have ended. Made at the first claim."""

    def __init__(self, file: Path, *, waiting: int, finished: int) -> None:
        self._url = f"sqlite:///{file}"
        self._waiting = waiting
        self._finished = finished
        self._engine: Engine | None = None
        self._ended: list[Settlement] = []
        self._made = 0

    def claims(self, jobs: int) -> Sample:
        """Claims of a hundred jobs that settle the hundred before, as a worker does it."""
        self._open()
        claims = [self._claim(_BATCH, again=True) for _ in range(max(2, jobs // _BATCH))]
        (middle, tail), (used, _) = (middle_and_tail(list(times)) for times in zip(*claims, strict=True))
        return {"p50 us": middle, "p99 us": tail, "CPU p50 us": used}

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _open(self) -> None:
        if self._engine is None:
            self._engine = connect(self._url)
            self._engine.open()
            self._engine.transact([Renew([Beat(_ME, first=True)], 36_000.0)])
            for number in range(0, self._finished, 1_000):
                self._put(min(1_000, self._finished - number))
                self._claim(1_000, again=False)
            for number in range(0, self._waiting, 1_000):
                self._put(min(1_000, self._waiting - number))

    def _put(self, count: int) -> None:
        assert self._engine is not None
        first, self._made = self._made, self._made + count
        self._engine.transact([Put([NewJob(f"{number:012}", "nothing") for number in range(first, self._made)])])

    def _claim(self, limit: int, *, again: bool) -> tuple[float, float]:
        """Microseconds that it took, and those of a processor. *again*: as many are put in place of what it took."""
        assert self._engine is not None
        requests: list[Request] = [Settle(self._ended), Claim(_ME, None, [Want(frozenset(["nothing"]), limit)])]
        began, used = time.perf_counter(), time.thread_time()
        _, claimed = self._engine.transact(requests)
        took = (time.perf_counter() - began) * 1e6, (time.thread_time() - used) * 1e6
        assert isinstance(claimed, Claimed)
        if len(claimed.jobs[0]) != limit:
            raise RuntimeError(f"{len(claimed.jobs[0])} jobs of {limit} that wait were given")
        self._ended = [Settlement(job.seq, job.token, Ending.DONE, b"null") for job in claimed.jobs[0]]
        if again:
            self._put(len(self._ended))
        return took


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
                folder / f"{word}-{depth}.db",
                waiting=depth if word == "waiting" else first,
                finished=depth if word == "finished" else 0,
            )
            for depth in scale.depths
        }
        turns: dict[str, Turn] = {name: partial(depth.claims, 2_000) for name, depth in depths.items()}
        pairs = [(f"{first:,} {word}", f"{depth:,} {word}") for depth in more]
        yield Case(f"claim of {_BATCH}, by jobs {word}", turns, pairs, 2_000, scale.rounds)
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
        name = f"claim of {_BATCH}, by jobs {word}"
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
