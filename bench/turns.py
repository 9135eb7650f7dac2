"""What one contestant does in one turn, of the benches of durable jobs, whatever store it has."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench import durable_jobs as jobs_of
from bench.goals import middle_and_tail
from bench.rounds import Sample
from bench.services import LONGEST, WORK, Told, Worker, house

Open = Callable[[Path], jobs_of.System]
House = Callable[[], AbstractContextManager[tuple[Path, Told]]]
"""A folder for one turn: the store is in it, or it says where the store is."""
Run = Callable[[Coroutine[Any, Any, float]], float]


def enqueue(opened: Open, *, jobs: int, at: House = house) -> Sample:
    """One thread puts one job after the other."""
    with at() as (folder, _):
        system = opened(folder)
        system.put(0)
        times = [timed(system.put, number) for number in range(jobs)]
        system.close()
    middle, tail = middle_and_tail(times)
    return {"us/job": sum(times) / jobs, "p50 us": middle, "p99 us": tail}


def timed(put: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    put(number)
    return (time.perf_counter() - began) * 1e6


def enqueue_from_threads(opened: Open, *, jobs: int, threads: int, at: House = house) -> Sample:
    """Many threads put one job after the other."""
    share = max(1, jobs // threads)
    with at() as (folder, _):
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


def enqueue_from_coroutines(
    opened: Open, *, jobs: int, callers: int, at: House = house, run: Run = asyncio.run
) -> Sample:
    """Many coroutines put one job after the other, in a loop that *run* makes."""
    share = max(1, jobs // callers)

    async def put_share(aput: Callable[[int], Any]) -> None:
        for number in range(share):
            await aput(number)

    async def crowd(system: jobs_of.System) -> float:
        aput = system.aput
        assert aput is not None
        await aput(0)
        began = time.perf_counter()
        await asyncio.gather(*(put_share(aput) for _ in range(callers)))
        took = time.perf_counter() - began
        await system.aclose()
        return took

    with at() as (folder, _):
        system = opened(folder)
        took = run(crowd(system))
        system.close()
    return {"us/job": took / (share * callers) * 1e6}


def enqueue_many(opened: Open, *, jobs: int, at: House = house) -> Sample:
    """All at once, where there is a call for that."""
    with at() as (folder, _):
        system = opened(folder)
        system.put(0)
        began = time.perf_counter()
        system.put_many(range(jobs))
        took = time.perf_counter() - began
        system.close()
    return {"us/job": took / jobs * 1e6}


def lone_job(opened: Open, command: Sequence[str], *, jobs: int, at: House = house) -> Sample:
    """One job at a time for an idle worker in another process: from before it is enqueued to its first instruction."""
    with at() as (folder, told):
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


def service_killed(lease: float, *, at: House = house) -> Sample:
    """All processes of a service are killed, and another works on the same store; until the job runs again."""
    with at() as (folder, told):
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
