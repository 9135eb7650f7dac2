"""Running the jobs of an app here and now: each as a worker service would, on a pool of its own kind.

Jobs of plain tasks run in the calling thread, those with process=True too: their arguments have travelled as JSON all
the same. Coroutines run on the calling thread's loop if it awaits them, else on one of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from penstock import clock
from penstock.app import attempt
from penstock.app.app import App
from penstock.app.completing import Completing
from penstock.app.handle import Handle
from penstock.app.task import Kind, Task
from penstock.engines.requests import Beat, Claim, Claimed, ClaimedJob, Death, Progress, Renew, Settle, Sweep, Want
from penstock.engines.store import Store
from penstock.job import Job
from penstock.pool.coroutines import AsyncPool
from penstock.pool.terms import JobTerms
from penstock.pool.threads import ThreadPool
from penstock.testing.fake_clock import FakeClock

T = TypeVar("T")

_LEASE: Final = 3600.0  # seconds: nobody takes a job from a test
_A_LITTLE: Final = 1e-6  # seconds: what adding floats may lose


class TestedStore(Store):
    """A store whose time is moved by its *time*."""

    __test__ = False  # says to pytest that it is no test

    def __init__(self, connect: Callable[[], Any], time: FakeClock) -> None:
        super().__init__(connect)
        self.time = time


def run_all(app: App, *, limit: int = 10_000) -> list[Handle[Any]]:
    """Run the jobs that wait, and those which they enqueue, until none is left; gives those that ended, in that order.

    In a store of `in_memory` or `inline` time moves on to whatever is due next: retries, snoozes and delayed jobs run,
    too. In another one jobs whose time has not come are left. A job's failure stays in its handle. RuntimeError after
    *limit* attempts: a task that enqueues itself, say, would go on for ever.
    """
    ended: list[Handle[Any]] = []
    with Worker(app) as worker:
        for claim in worker.claims(limit):
            worker.run(claim)
            handle = app.handle(claim.id)
            if handle.done():
                ended.append(handle)
    return ended


class Worker:
    """One worker of *app*'s store, for as long as the block lasts. It runs one job at a time."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._store = app.store
        self._number = secrets.randbits(63)

    def __enter__(self) -> Self:
        self._store.ask(Renew([Beat(self._number, first=True)], _LEASE))
        return self

    def __exit__(self, *error: object) -> None:
        self._store.ask(Sweep([Death(self._number, "the test is over", began=frozenset())], _LEASE, _LEASE))

    def claims(self, limit: int) -> Iterator[ClaimedJob]:
        """One job after another, time moving on if need be, until none is left."""
        for _ in range(limit):
            found = self._next()
            if found is None:
                return
            yield found
        raise RuntimeError(f"{limit} attempts were run, and there are still more: does a task enqueue itself?")

    def run(self, claim: ClaimedJob) -> None:
        """Run the attempt, and settle it."""
        task = self._app.tasks[claim.task]
        run = functools.partial(self._run_on_loop if task.kind is Kind.ASYNC else self._run_here, task, claim)
        self._settle(claim, task, _off_loop(run))

    async def arun(self, claim: ClaimedJob) -> None:
        """As `run`, for coroutines: those run on this loop, and plain functions on another thread."""
        task = self._app.tasks[claim.task]
        if task.kind is Kind.ASYNC:
            job = await self._run_as_task(task, claim)
        else:
            job = await asyncio.to_thread(self._run_here, task, claim)
        self._settle(claim, task, job)

    def _next(self) -> ClaimedJob | None:
        while True:
            claimed = self._claim()
            if claimed.jobs[0]:
                return claimed.jobs[0][0]
            if claimed.next_due is None or not isinstance(self._store, TestedStore):
                return None
            self._store.time.advance(claimed.next_due + _A_LITTLE)

    def _claim(self) -> Claimed:
        (claimed,) = self._store.ask(Claim(self._number, None, [Want(frozenset(self._app.tasks), 1)]))
        assert isinstance(claimed, Claimed)
        return claimed

    def _run_here(self, task: Task[..., Any], claim: ClaimedJob) -> Job[attempt.Ended]:
        with ThreadPool(1, name="testing", unobserved="ignore", around=self._app.around) as pool:
            terms = self._terms(pool, task, claim)
            return pool._crew.intake.run_in_caller(terms, _run, (task, claim.args, terms.claim), {})

    def _run_on_loop(self, task: Task[..., Any], claim: ClaimedJob) -> Job[attempt.Ended]:
        return asyncio.run(self._run_as_task(task, claim))

    async def _run_as_task(self, task: Task[..., Any], claim: ClaimedJob) -> Job[attempt.Ended]:
        async with AsyncPool(1, name="testing", unobserved="ignore", around=self._app.around) as pool:
            terms = self._terms(pool, task, claim)
            job = await pool._crew.intake.admit(terms, _arun, (task, claim.args, terms.claim), {})
            await job.settled()
            return job

    def _terms(self, pool: ThreadPool | AsyncPool, task: Task[..., Any], claim: ClaimedJob) -> JobTerms:
        return JobTerms(
            crew=pool._crew,
            when_full="caller",
            submit_timeout=None,
            timeout=task.timeout,
            retry=None,
            id=claim.id,
            name=task.name,
            inherit=False,
            plain=task.timeout is None,
            claim=_Claim(self._store, task, claim.seq, claim.token, claim.attempt),
        )

    def _settle(self, claim: ClaimedJob, task: Task[..., Any], job: Job[attempt.Ended]) -> None:
        now = self._store.time() if isinstance(self._store, TestedStore) else clock.wall()
        self._store.ask(Settle([attempt.verdict(claim, task, job, now - claim.enqueued)]))


def _run(task: Task[..., Any], args: bytes, claim: _Claim) -> attempt.Ended:
    ended = attempt.run(task, args)
    return attempt.ended_of(ended, has_completed=claim.has_completed)


async def _arun(task: Task[..., Any], args: bytes, claim: _Claim) -> attempt.Ended:
    ended = await attempt.arun(task, args)
    return attempt.ended_of(ended, has_completed=claim.has_completed)


@dataclass(slots=True)
class _Claim(Completing):
    """What `current_job` knows of the claim."""

    store: Store
    task: Task[Any, Any]
    seq: int
    token: int
    attempt: int
    has_completed: bool = False

    def completed(self) -> None:
        self.has_completed = True

    def progress(self, done: float, total: float | None, note: str) -> None:
        self.store.ask(Progress(self.seq, self.token, done, total, note))

    def ended(self, job: object) -> None:
        """Nobody waits for it here."""


def _off_loop(call: Callable[[], T]) -> T:
    """Call it here; if an event loop runs in this thread, in another one: no worker runs a plain task within a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    found: list[T] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: found.append(context.run(call)), name="penstock-testing")
    thread.start()
    thread.join()
    return found[0]
