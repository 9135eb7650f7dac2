"""What does a pool of coroutines cost? penstock.AsyncPool beside its peers and the bare steps, in turn, in one run.

    python bench/asyncio_.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--json]

Every contestant runs the same number of coroutines, at most 100 of them at a time, and takes every result. It measures
and prints; it asserts nothing. How to read the tables: bench/README.md.
"""

import argparse
import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/asyncio_.py` finds this room by its name, too

from bench.bare_tasks import Bare
from bench.goals import Goal, at_least_one, summary
from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from penstock import AsyncPool

AT_ONCE = 100
Fn = Callable[[], Coroutine[Any, Any, Any]]
RunAll = Callable[[Fn, int], Awaitable[int]]  # (fn, jobs) -> how many results there were


# ---------------------------------------------------------------------------------------------------------------------
# The contestants


async def penstock_submit(fn: Fn, jobs: int) -> int:
    async with AsyncPool(AT_ONCE) as pool:
        handles = [await pool.asubmit(fn) for _ in range(jobs)]
        return len([await handle for handle in handles])


async def bare_steps(fn: Fn, jobs: int) -> int:
    bare = Bare(AT_ONCE)
    handles = [await bare.asubmit(fn) for _ in range(jobs)]
    return len([await handle for handle in handles])


async def gather_semaphore(fn: Fn, jobs: int) -> int:
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> Any:
        async with places:
            return await fn()

    return len(await asyncio.gather(*(one() for _ in range(jobs))))


async def task_group_semaphore(fn: Fn, jobs: int) -> int:
    """With backpressure: a task is made once there is a place for it."""
    places = asyncio.Semaphore(AT_ONCE)
    results: list[Any] = []

    async def one() -> None:
        try:
            results.append(await fn())
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            await places.acquire()
            group.create_task(one())
    return len(results)


async def aiojobs_scheduler(fn: Fn, jobs: int) -> int:
    import aiojobs

    async with aiojobs.Scheduler(limit=AT_ONCE, pending_limit=0) as scheduler:
        handles = [await scheduler.spawn(fn()) for _ in range(jobs)]
        for handle in handles:
            await handle.wait()
    return len(handles)


async def anyio_limiter(fn: Fn, jobs: int) -> int:
    import anyio

    limiter = anyio.CapacityLimiter(AT_ONCE)
    results: list[Any] = []

    async def one() -> None:
        async with limiter:
            results.append(await fn())

    async with anyio.create_task_group() as group:
        for _ in range(jobs):
            group.start_soon(one)
    return len(results)


async def aiometer_run(fn: Fn, jobs: int) -> int:
    import aiometer

    return len(await aiometer.run_all([fn] * jobs, max_at_once=AT_ONCE))


OURS, BARE = "penstock.AsyncPool", "the bare steps alone"
GATHER, GROUP = "gather + Semaphore", "TaskGroup + Semaphore"
AIOJOBS, ANYIO, AIOMETER = "aiojobs.Scheduler", "anyio.CapacityLimiter", "aiometer.run_all"
CONTESTANTS: dict[str, RunAll] = {
    OURS: penstock_submit,
    BARE: bare_steps,
    GATHER: gather_semaphore,
    GROUP: task_group_semaphore,
    AIOJOBS: aiojobs_scheduler,
    ANYIO: anyio_limiter,
    AIOMETER: aiometer_run,
}
MISSING = [
    name
    for name, module in ((AIOJOBS, "aiojobs"), (ANYIO, "anyio"), (AIOMETER, "aiometer"))
    if importlib.util.find_spec(module) is None
]
for _name in MISSING:
    del CONTESTANTS[_name]


# ---------------------------------------------------------------------------------------------------------------------
# The jobs


async def nothing() -> None:
    pass


async def suspends_once() -> None:
    await asyncio.sleep(0)


def one_turn(run_all: RunAll, fn: Fn, jobs: int, loop: Callable[[], asyncio.AbstractEventLoop] | None) -> Sample:
    async def timed() -> float:
        began = time.perf_counter()
        count = await run_all(fn, jobs)
        took = time.perf_counter() - began
        if count != jobs:
            raise RuntimeError(f"{count} results of {jobs}")
        return took

    with asyncio.Runner(loop_factory=loop) as runner:
        return {"us/job": runner.run(timed()) / jobs * 1e6}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int


QUICK = Scale(rounds=3, jobs=5_000)
WHOLE = Scale(rounds=7, jobs=20_000)


def cases(scale: Scale) -> Iterator[Case]:
    loops: list[tuple[str, Callable[[], asyncio.AbstractEventLoop] | None]] = [("", None)]
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        loops.append((", uvloop", uvloop.new_event_loop))
    for loop_name, loop in loops:
        for name, fn in (("no-op", nothing), ("suspends once", suspends_once)):
            turns: dict[str, Turn] = {
                label: partial(one_turn, run_all, fn, scale.jobs, loop)
                for label, run_all in CONTESTANTS.items()
                if not loop_name or label in (OURS, BARE, GATHER, GROUP)
            }
            pairs = [(OURS, label) for label in turns if label != OURS]
            yield Case(f"{name}{loop_name}", turns, pairs, scale.jobs, scale.rounds)


_NEWER = sys.version_info >= (3, 12)
GOALS = [
    Goal("no-op", "no-op", "us/job", OURS, GATHER, *(("1.9x", "2.6x") if _NEWER else ("1.5x", "1.9x")), speed=True),
    Goal("no-op", "no-op", "us/job", OURS, GROUP, *(("1.4x", "2.1x") if _NEWER else ("1.2x", "1.5x")), speed=True),
    Goal("suspends once", "suspends once", "us/job", OURS, GROUP, "1x", "1.5x", speed=True),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="penstock.AsyncPool beside its peers, in turn, in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs: some seconds")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help=f"turns of each (default {WHOLE.rounds})")
    parser.add_argument("--jobs", type=at_least_one, metavar="N", help=f"jobs in a turn (default {WHOLE.jobs})")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case; the tables go to stderr")
    return parser.parse_args()


def main() -> None:
    told = arguments()
    scale = QUICK if told.quick else WHOLE
    scale = replace(scale, rounds=told.rounds or scale.rounds, jobs=told.jobs or scale.jobs)
    for_people = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    for_people(", ".join(f"{name}: {value}" for name, value in machine().items()), "\n")
    if MISSING:
        for_people(f"not installed, so left out: {', '.join(MISSING)}\n")

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
