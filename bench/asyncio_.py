"""What does a pool of coroutines cost? penstock.AsyncPool beside its peers, in turn, in one run.

    python bench/asyncio_.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--uvloop] [--json]

It measures and prints; it asserts nothing. The pool runs with its defaults (contexts, failures and stats), the garbage
collector as Python sets it; peers that are not installed are left out, and named. How to read the tables:
bench/README.md.
"""

import argparse
import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/asyncio_.py` finds this room by its name, too

from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from bench.threads import Goal, at_least_one, row
from penstock import AsyncPool

LIMIT = 100  # how many may run at once

# ---------------------------------------------------------------------------------------------------------------------
# The contestants

Work = Callable[[], Coroutine[Any, Any, Any]]
RunAll = Callable[[Work, int], Awaitable[object]]
"""Run so many calls, at most LIMIT at once, and have every result."""


async def penstock(work: Work, jobs: int) -> None:
    async with AsyncPool(LIMIT) as pool:
        handles = [await pool.asubmit(work) for _ in range(jobs)]
        for handle in handles:
            await handle


async def penstock_map(work: Work, jobs: int) -> None:
    async def ignore(_: int) -> None:
        await work()

    async with AsyncPool(LIMIT) as pool:
        async for _ in pool.map(ignore, range(jobs)):
            pass


async def gather_with_semaphore(work: Work, jobs: int) -> None:
    places = asyncio.Semaphore(LIMIT)

    async def limited() -> Any:
        async with places:
            return await work()

    await asyncio.gather(*(limited() for _ in range(jobs)))


async def group_with_semaphore(work: Work, jobs: int) -> None:
    """As fast as it can be written: the place is taken before the task is made, so that few tasks exist at once."""
    places = asyncio.Semaphore(LIMIT)

    async def limited() -> Any:
        try:
            return await work()
        finally:
            places.release()

    tasks = []
    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            await places.acquire()
            tasks.append(group.create_task(limited()))
    for task in tasks:
        task.result()


async def aiojobs_scheduler(work: Work, jobs: int) -> None:
    import aiojobs

    async with aiojobs.Scheduler(limit=LIMIT, pending_limit=LIMIT) as scheduler:
        handles = [await scheduler.spawn(work()) for _ in range(jobs)]
        for handle in handles:
            await handle.wait()


async def anyio_limiter(work: Work, jobs: int) -> None:
    import anyio

    limiter = anyio.CapacityLimiter(LIMIT)
    results: list[Any] = []

    async def limited() -> None:
        async with limiter:
            results.append(await work())

    async with anyio.create_task_group() as group:
        for _ in range(jobs):
            group.start_soon(limited)


async def aiometer_run_all(work: Work, jobs: int) -> None:
    import aiometer

    await aiometer.run_all([work] * jobs, max_at_once=LIMIT)


async def no_pool(work: Work, jobs: int) -> None:
    for _ in range(jobs):
        await work()


OURS, OURS_MAP = "penstock", "penstock, map"
GATHER, GROUP = "gather + Semaphore", "TaskGroup + Semaphore"
NO_POOL = "no pool: awaited in a loop"  # the job itself, below which no pool can come

CONTESTANTS: dict[str, RunAll] = {
    OURS: penstock,
    GROUP: group_with_semaphore,
    GATHER: gather_with_semaphore,
    OURS_MAP: penstock_map,
    "aiojobs": aiojobs_scheduler,
    "anyio, CapacityLimiter": anyio_limiter,
    "aiometer": aiometer_run_all,
}
MISSING = [name for name in ("aiojobs", "anyio", "aiometer") if importlib.util.find_spec(name) is None]
for name in [name for name in CONTESTANTS if name.split(",")[0] in MISSING]:
    del CONTESTANTS[name]

# ---------------------------------------------------------------------------------------------------------------------
# The jobs


async def nothing() -> None:
    pass


async def suspend_once() -> None:
    await asyncio.sleep(0)


async def wait_a_moment() -> None:
    await asyncio.sleep(1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# What one contestant does in one turn

new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def throughput(run_all: RunAll, work: Work, jobs: int) -> Sample:
    async def main() -> float:
        await run_all(work, min(jobs, LIMIT))  # the way is warm
        began = time.perf_counter()
        await run_all(work, jobs)
        return time.perf_counter() - began

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return {"us/job": runner.run(main()) / jobs * 1e6}


def lone_job(opened: Callable[[], Any], jobs: int) -> Sample:
    """One job at a time on an idle loop: from handing it in to its result."""

    async def main() -> list[float]:
        trips = []
        async with opened() as run:
            for _ in range(jobs):
                await asyncio.sleep(0)
                began = time.perf_counter()
                await run(suspend_once)
                trips.append((time.perf_counter() - began) * 1e6)
        return trips

    with asyncio.Runner(loop_factory=new_loop) as runner:
        cuts = quantiles(runner.run(main()), n=100, method="inclusive")
    return {"trip p50 us": cuts[49], "trip p99 us": cuts[98]}


class OursAlone:
    """A pool, as what runs one job."""

    def __init__(self) -> None:
        self._pool = AsyncPool(LIMIT)

    async def __aenter__(self) -> Callable[[Work], Awaitable[Any]]:
        await self._pool.__aenter__()
        return self._pool.run

    async def __aexit__(self, *error: Any) -> None:
        await self._pool.__aexit__(*error)


class SemaphoreAlone:
    """A task behind a semaphore."""

    async def __aenter__(self) -> Callable[[Work], Awaitable[Any]]:
        places = asyncio.Semaphore(LIMIT)

        async def limited(work: Work) -> Any:
            async with places:
                return await work()

        async def run(work: Work) -> Any:
            return await asyncio.create_task(limited(work))

        return run

    async def __aexit__(self, *error: Any) -> None:
        pass


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int
    lone_jobs: int = 2_000


QUICK = Scale(rounds=5, jobs=10_000, lone_jobs=500)
WHOLE = Scale(rounds=11, jobs=20_000)

NO_OP, ONCE, MOMENT, LONE = "no-op", "suspends once", "1 ms", "lone job that suspends once"


def cases(scale: Scale) -> Iterator[Case]:
    for label, work, jobs in (
        (NO_OP, nothing, scale.jobs),
        (ONCE, suspend_once, scale.jobs),
        (MOMENT, wait_a_moment, scale.jobs // 4),
    ):
        contestants = {**CONTESTANTS, **({} if label == MOMENT else {NO_POOL: no_pool})}
        turns: dict[str, Turn] = {
            name: partial(throughput, run_all, work, jobs) for name, run_all in contestants.items()
        }
        peers = [name for name in CONTESTANTS if name != OURS]
        yield Case(label, turns, [(OURS, peer) for peer in peers], jobs, scale.rounds)
    alone: Mapping[str, Callable[[], Any]] = {OURS: OursAlone, "create_task + Semaphore": SemaphoreAlone}
    turns = {name: partial(lone_job, opened, scale.lone_jobs) for name, opened in alone.items()}
    yield Case(LONE, turns, [(OURS, "create_task + Semaphore")], scale.lone_jobs, scale.rounds)


# ---------------------------------------------------------------------------------------------------------------------
# The summary


def goals() -> list[Goal]:
    """What was set as a goal before it was measured; from 3.12 on Python can begin a task eagerly."""
    eager = sys.version_info >= (3, 12)
    return [
        Goal("no-op", NO_OP, "us/job", OURS, GATHER, *(("1.9x", "2.6x") if eager else ("1.5x", "1.9x")), speed=True),
        Goal("no-op", NO_OP, "us/job", OURS, GROUP, *(("1.4x", "2.1x") if eager else ("1.2x", "1.5x")), speed=True),
        Goal("suspends once", ONCE, "us/job", OURS, GROUP, "1x", "1.5x", speed=True),
    ]


def summary(outcomes: dict[str, Outcome]) -> str:
    head = ("case", "ours", "peer", "paired ratio", "must", "aim")
    rows = [head, *(row(goal, outcomes[goal.case], digits=2) for goal in goals() if goal.case in outcomes)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    return "\n".join(["Summary: medians; a ratio is taken inside each round, its median and spread are shown", *lines])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="penstock.AsyncPool beside its peers, in turn, in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs: about 20 seconds")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="turns of each contestant")
    parser.add_argument("--jobs", type=at_least_one, metavar="N", help="jobs in a turn")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop rather than asyncio's own loop")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case; the tables go to stderr")
    return parser.parse_args()


def main() -> None:
    global new_loop
    told = arguments()
    if told.uvloop:
        import uvloop

        new_loop = uvloop.new_event_loop
    scale = QUICK if told.quick else WHOLE
    scale = replace(scale, rounds=told.rounds or scale.rounds, jobs=told.jobs or scale.jobs)
    for_people = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    for_people(", ".join(f"{name}: {value}" for name, value in machine().items()))
    for_people(f"loop: {'uvloop' if told.uvloop else 'asyncio'}, at most {LIMIT} at once")
    if MISSING:
        for_people(f"not installed, and left out: {', '.join(MISSING)}")
    for_people()

    outcomes: dict[str, Outcome] = {}
    for case in cases(scale):
        if told.only in case.name:
            outcomes[case.name] = outcome = play(case)
            for_people(as_table(outcome), "\n")
            if told.json:
                print(as_json(outcome), flush=True)
    for_people(summary(outcomes) if outcomes else f"no case has {told.only!r} in its name")


if __name__ == "__main__":
    main()
