"""What do durable jobs of a fleet cost? penstock beside Procrastinate and PgQueuer, on one PostgreSQL, in turn.

    python bench/postgres.py [--quick] [--only SUBSTRING] [--rounds N] [--jobs N] [--deep] [--json]

The server is started for the run with its default durability: what was committed is on the disk (fsync and
synchronous_commit on). Each turn has a database of its own. It measures and prints; it asserts nothing.
How to read the tables: bench/README.md; what the peers are given: `postgres_jobs`.
"""

import argparse
import contextlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python bench/postgres.py` finds this room by its name, too

from bench.depth import BATCH, Depth
from bench.durable_jobs import URL
from bench.goals import Goal, at_least_one, summary
from bench.loops import run_fast
from bench.postgres_jobs import PGQUEUER, PROCRASTINATE, Contestant, penstock
from bench.rounds import Case, Outcome, Sample, Turn, as_json, as_table, machine, play
from bench.services import Told, Worker, busy, house
from bench.turns import (
    enqueue,
    enqueue_from_coroutines,
    enqueue_from_threads,
    enqueue_many,
    lone_job,
    service_killed,
)
from tests.postgres import Postgres
from tests.proxy import Proxy

OURS, ASYNC, PROCRASTINATE_, PGQUEUER_ = "penstock", "penstock, asyncio", "Procrastinate", "PgQueuer"

SYSTEMS: Final[Mapping[str, Contestant]] = {
    OURS: penstock("nothing"),
    ASYNC: penstock("anothing"),
    PROCRASTINATE_: PROCRASTINATE,
    PGQUEUER_: PGQUEUER,
}
_STEPS: Final = 200  # how often all workers together tell how far they are
MISSING = [
    name
    for name, modules in ((PROCRASTINATE_, ("procrastinate",)), (PGQUEUER_, ("pgqueuer", "asyncpg")))
    if not all(map(importlib.util.find_spec, modules))
]


def there(turns: Mapping[str, Turn]) -> dict[str, Turn]:
    """Those of *turns* whose contestant is installed."""
    return {name: turn for name, turn in turns.items() if not name.startswith(tuple(MISSING))}


class Server:
    """The server of the run, with a database for each turn, and a proxy before it that can make its network slower."""

    def __init__(self, postgres: Postgres, proxy: Proxy) -> None:
        self.proxy = proxy
        self._postgres = postgres
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """The name of a new one."""
        name = f"bench_{next(self._numbers)}"
        self._postgres.ask(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, *, near: bool = True) -> str:
        """*near*: straight to the server, not through the proxy."""
        return self._postgres.url(port=None if near else self.proxy.port, database=database)

    def tidy(self, database: str) -> None:
        """As autovacuum would have it after a while."""
        self._postgres.ask("VACUUM ANALYZE", database=database)
        self._postgres.ask("CHECKPOINT")

    def busy(self) -> float:
        """Seconds of a processor that its processes have used, for connections that are still there."""
        return busy(self._postgres.processes())

    @contextlib.contextmanager
    def place(self, contestant: Contestant) -> Iterator[tuple[Path, Told]]:
        """A folder for one turn, which says where its database is."""
        database = self.database()
        with house() as (folder, told):
            (folder / URL).write_text(self.url(database))
            contestant.install(folder)
            yield folder, told
        self._postgres.ask(f"DROP DATABASE {database} WITH (FORCE)")

    def go_through_proxy(self, folder: Path) -> None:
        """From now on, whoever looks into *folder* goes to its database through the proxy."""
        near = (folder / URL).read_text()
        (folder / URL).write_text(near.replace(f":{self._postgres.port}/", f":{self.proxy.port}/"))


# ---------------------------------------------------------------------------------------------------------------------
# What one contestant does in one turn, beyond what all durable benches have (`turns`)


def drain(server: Server, contestant: Contestant, *, jobs: int, more: float | None = None) -> Sample:
    """Two worker processes run *jobs* jobs that wait already; from the tenth part of them to nine tenths.

    *more*: they go through a proxy that adds so many seconds to each round trip.
    """
    step = max(1, jobs // _STEPS)
    with server.place(contestant) as (folder, told), contextlib.ExitStack() as working:
        contestant.fill(folder, jobs)
        if more is not None:
            server.proxy.delay(more / 2, more / 2)
            server.go_through_proxy(folder)
        workers = [working.enter_context(Worker(folder, command, step=step)) for command in contestant.two]

        steps = itertools.count(step, step)

        def until(count: int) -> tuple[int, float, float, float]:
            """Once *count* jobs have begun: how many, when, and what all have used of a processor by then."""
            for begun in steps:
                _, moment, _ = told.next()
                if begun >= count:
                    return begun, moment, sum(worker.busy() for worker in workers), server.busy()
            raise AssertionError

        first, begun, used, used_there = until(jobs // 10)
        last, ended, used_then, used_there_then = until(jobs * 9 // 10)
    count = (last - first) / 1e6
    return {
        "us/job": (ended - begun) / count,
        "CPU us/job": (used_then - used) / count,
        "server CPU us/job": (used_there_then - used_there) / count,
    }


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    jobs: int
    slow_jobs: int = 3_000  # of those that are tens of times slower, or that wait for the disk each time
    lone_jobs: int = 100
    depths: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    lease: float = 30.0


QUICK = Scale(rounds=3, jobs=10_000, slow_jobs=1_000, lone_jobs=30, depths=(1_000, 50_000), lease=6.0)
WHOLE = Scale(rounds=5, jobs=40_000)
_DEEPEST: Final = 10_000_000
_SLOWER: Final = 0.002
_CALLERS: Final = 20

DRAINED, FAR = "end to end, two worker processes", "far from the server"
ONE_THREAD, ONE_COROUTINE, CROWD, MANY = (
    "enqueue, one thread",
    "enqueue, one coroutine",
    "enqueue, 20 callers",
    "enqueue_many",
)
LONE, KILLED = "lone job", "the whole service is killed"
CLAIM, CLAIM_FINISHED = f"claim of {BATCH}, by jobs waiting", f"claim of {BATCH}, by jobs finished"
PROXY, SLOWER = ", proxy", ", proxy and 2 ms"


def versus(turns: Mapping[str, Turn], *ours: str) -> list[tuple[str, str]]:
    return [(mine, name) for mine in ours if mine in turns for name in turns if name not in ours]


def cases(server: Server, scale: Scale) -> Iterator[Case]:
    rounds, slow = scale.rounds, min(scale.jobs, scale.slow_jobs)
    sizes = {name: slow if name == PROCRASTINATE_ else scale.jobs for name in SYSTEMS}

    def at(name: str) -> Any:
        return partial(server.place, SYSTEMS[name])

    turns = there({name: partial(drain, server, system, jobs=sizes[name]) for name, system in SYSTEMS.items()})
    yield Case(DRAINED, turns, versus(turns, OURS, ASYNC), scale.jobs, rounds)

    turns = {}
    for name in (OURS, PGQUEUER_):
        for way, more in (("", None), (PROXY, 0.0), (SLOWER, _SLOWER)):
            turns[name + way] = partial(drain, server, SYSTEMS[name], jobs=sizes[name], more=more)
    turns = there(turns)
    pairs = [(name, name + way) for name in (OURS, PGQUEUER_) if name in turns for way in (PROXY, SLOWER)]
    yield Case(FAR, turns, pairs, scale.jobs, rounds)

    three = (OURS, PROCRASTINATE_, PGQUEUER_)
    turns = there({name: partial(enqueue, SYSTEMS[name].opened, jobs=slow, at=at(name)) for name in three})
    yield Case(ONE_THREAD, turns, versus(turns, OURS), slow, rounds)
    for case, callers, count in ((ONE_COROUTINE, 1, slow), (CROWD, _CALLERS, 3 * slow)):
        how: dict[str, Any] = {"jobs": count, "callers": callers, "run": run_fast}
        names = (ASYNC, PROCRASTINATE_, PGQUEUER_)
        coroutines = {
            name: partial(enqueue_from_coroutines, SYSTEMS[name].opened, at=at(name), **how) for name in names
        }
        threads = partial(enqueue_from_threads, SYSTEMS[OURS].opened, jobs=count, threads=callers, at=at(OURS))
        turns = there({**coroutines, OURS: threads})
        yield Case(case, turns, versus(turns, OURS, ASYNC), count, rounds)
    turns = there({name: partial(enqueue_many, SYSTEMS[name].opened, jobs=scale.jobs, at=at(name)) for name in three})
    yield Case(MANY, turns, versus(turns, OURS), scale.jobs, rounds)

    turns = there(
        {
            name: partial(lone_job, SYSTEMS[name].opened, SYSTEMS[name].command, jobs=scale.lone_jobs, at=at(name))
            for name in three
        }
    )
    yield Case(LONE, turns, versus(turns, OURS), scale.lone_jobs, rounds)
    killed = {OURS: partial(service_killed, scale.lease, at=at(OURS))}
    yield Case(KILLED, killed, (), 1, min(rounds, 3))
    yield from depth_cases(server, scale)


def depth_cases(server: Server, scale: Scale) -> Iterator[Case]:
    """A database for each depth, filled in its first turn and kept for all rounds: to fill it takes long."""

    def claims(depth: Depth, database: str) -> Callable[[], Sample]:
        def turn() -> Sample:
            if database not in filled:
                depth.open()
                server.tidy(database)
                filled.add(database)
            return depth.claims(5_000)

        return turn

    filled: set[str] = set()
    shallow = scale.depths[0]
    for case, word in ((CLAIM, "waiting"), (CLAIM_FINISHED, "finished")):
        turns: dict[str, Turn] = {}
        depths = []
        for count in scale.depths:
            database = server.database()
            waiting, finished = (count, 0) if word == "waiting" else (shallow, count)
            depth = Depth(server.url(database), waiting=waiting, finished=finished, busy=server.busy)
            turns[f"{count:,} {word}"] = claims(depth, database)
            depths.append(depth)
        first, *others = turns
        yield Case(case, turns, [(first, other) for other in others], 5_000, scale.rounds)
        for depth in depths:
            depth.close()


def goals(scale: Scale) -> list[Goal]:
    deepest, shallow = f"{scale.depths[-1]:,}", f"{scale.depths[0]:,}"
    found = [
        Goal("thread tasks", DRAINED, "us/job", OURS, PGQUEUER_, "1.2x", "2x", speed=True),
        Goal("asyncio tasks", DRAINED, "us/job", ASYNC, PGQUEUER_, "1.2x", "2x", speed=True),
        Goal("thread tasks", DRAINED, "us/job", OURS, PROCRASTINATE_, "25x", "50x", speed=True),
        Goal("asyncio tasks", DRAINED, "us/job", ASYNC, PROCRASTINATE_, "25x", "50x", speed=True),
        Goal("2 ms more a trip", FAR, "us/job", OURS + SLOWER, OURS + PROXY, "1.67 of it", "1.11 of it"),
        Goal("2 ms and the proxy's cost", FAR, "us/job", OURS + SLOWER, OURS, "1.67 of it", "1.11 of it"),
        Goal("one thread", ONE_THREAD, "us/job", OURS, PGQUEUER_, "1.1x", "1.5x", speed=True),
        Goal("one coroutine", ONE_COROUTINE, "us/job", ASYNC, PGQUEUER_, "1.1x", "1.5x", speed=True),
        Goal("20 threads", CROWD, "us/job", OURS, PGQUEUER_, "3x", "8x", speed=True),
        Goal("20 coroutines", CROWD, "us/job", ASYNC, PGQUEUER_, "3x", "8x", speed=True),
        Goal("20 coroutines", CROWD, "us/job", ASYNC, PROCRASTINATE_, "3x", "8x", speed=True),
        Goal("enqueue_many", MANY, "us/job", OURS, PGQUEUER_, "1x", "1.5x", speed=True),
        Goal("lone job", LONE, "start p50 ms", OURS, PGQUEUER_, "5 ms", "2.5 ms"),
        Goal("service killed", KILLED, "seconds", OURS, None, "lease + 5 s", "15 s"),
    ]
    for case, word in ((CLAIM, "waiting"), (CLAIM_FINISHED, "finished")):
        for what in ("p50 us", "server CPU us"):
            found.append(Goal(case, case, what, f"{deepest} {word}", f"{shallow} {word}", "1.5 of it", "1.0 of it"))
    return [goal for goal in found if not f"{goal.peer}".startswith(tuple(MISSING))]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Durable jobs on PostgreSQL: penstock beside its peers, in turn.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs: some three minutes")
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
    if MISSING:
        for_people(f"not installed, so left out: {', '.join(MISSING)}")

    outcomes: dict[str, Outcome] = {}
    with Postgres(durable=True) as postgres, Proxy(postgres.port) as proxy:
        for_people(f"PostgreSQL {postgres.ask('SHOW server_version')[0][0]}, fsync and synchronous_commit on\n")
        for case in cases(Server(postgres, proxy), scale):
            if told.only in case.name:
                outcomes[case.name] = outcome = play(case)
                for_people(as_table(outcome), "\n")
                if told.json:
                    print(as_json(outcome), flush=True)
    for_people(summary(goals(scale), outcomes) if outcomes else f"no case has {told.only!r} in its name")


if __name__ == "__main__":
    main()
