"""An app whose jobs are kept in memory for as long as a block lasts; and one that runs them as they are enqueued."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from penstock import clock
from penstock.app.app import App
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import States
from penstock.engines.requests import Fate, Put, Reply, Request
from penstock.job import JobState
from penstock.testing.fake_clock import FakeClock
from penstock.testing.running import TestedStore, Worker

_MANY = 1_000  # attempts


@contextlib.contextmanager
def in_memory(app: App, time: FakeClock | None = None) -> Iterator[FakeClock]:
    """A block in which the jobs of *app* are kept in an empty store in memory, whose clock it gives.

    Nothing runs by itself: `run_all` does. Afterwards the app has its own store back, which was never touched. Other
    threads and loops of this process that use the app see the same. *time*: a clock to use, in place of a new one.
    """
    with _kept_in(app, FakeClock() if time is None else time, TestedStore) as store:
        yield store.time


@contextlib.contextmanager
def inline(app: App, time: FakeClock | None = None) -> Iterator[FakeClock]:
    """As `in_memory`, and each job runs at once: before `enqueue` returns, and in its thread.

    Arguments and results travel as they always do; a failure stays in the handle. Time moves on over the waits between
    attempts and over snoozes. What is enqueued with a delay or for later waits, until `run_all`.
    """
    with _kept_in(app, FakeClock() if time is None else time, lambda *made: InlineStore(app, *made)) as store:
        yield store.time


@contextlib.contextmanager
def _kept_in(
    app: App, time: FakeClock, make: Callable[[Callable[[], MemoryEngine], FakeClock], TestedStore]
) -> Iterator[TestedStore]:
    store = make(lambda: MemoryEngine(now=time), time)
    wall, clock.wall = clock.wall, time  # by which the engine counts to the time of options(at=…)
    try:
        with app.kept_in(store):
            yield store
    finally:
        clock.wall = wall
        store.close()


class InlineStore(TestedStore):
    """A store that runs what it accepts."""

    def __init__(self, app: App, connect: Callable[[], MemoryEngine], time: FakeClock) -> None:
        super().__init__(connect, time)
        self._app = app

    def ask(self, *requests: Request, timeout: float | None = 30.0, urgent: bool = False) -> list[Reply]:
        """As `Store.ask`; what can run has ended when this returns."""
        replies = super().ask(*requests, timeout=timeout, urgent=urgent)
        if waiting := self._still_ready(_accepted(requests, replies)):
            with Worker(self._app) as worker:
                for claim in worker.claims(_MANY * len(waiting)):
                    worker.run(claim)
                    if not (waiting := self._not_ended(waiting)):
                        break
        return replies

    async def aask(self, *requests: Request, timeout: float | None = 30.0, urgent: bool = False) -> list[Reply]:
        """As `ask`, for coroutines."""
        replies = await super().aask(*requests, timeout=timeout, urgent=urgent)
        if waiting := self._still_ready(_accepted(requests, replies)):
            with Worker(self._app) as worker:
                for claim in worker.claims(_MANY * len(waiting)):
                    await worker.arun(claim)
                    if not (waiting := self._not_ended(waiting)):
                        break
        return replies

    def _still_ready(self, ids: Sequence[str]) -> list[str]:
        return [id for id, state in zip(ids, self.find(States(ids)), strict=True) if state is JobState.READY]

    def _not_ended(self, ids: Sequence[str]) -> list[str]:
        waiting = (JobState.READY, JobState.SCHEDULED, JobState.RUNNING)
        return [id for id, state in zip(ids, self.find(States(ids)), strict=True) if state in waiting]


def _accepted(requests: Sequence[Request], replies: Sequence[Reply]) -> list[str]:
    return [
        job.id
        for request, reply in zip(requests, replies, strict=True)
        if isinstance(request, Put) and isinstance(reply, list)
        for job, fate in zip(request.jobs, reply, strict=True)
        if fate is Fate.ACCEPTED
    ]
