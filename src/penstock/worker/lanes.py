"""The pools of one child: plain tasks run on threads, `async def` ones on a loop, `process=True` ones in processes.

start(batch) ──> pool ──> run: slot on the board, decode, call, encode ──> job ends ──> ended(held, job)
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock import clock
from penstock.app import attempt
from penstock.app.app import App
from penstock.app.task import Kind, Task
from penstock.job import Job
from penstock.pool.executor import AnyPool
from penstock.pool.terms import JobTerms
from penstock.report import StuckJob
from penstock.worker import errand
from penstock.worker.board import Board
from penstock.worker.claim import terms_of
from penstock.worker.holding import Held

if TYPE_CHECKING:
    from penstock.pool.coroutines import AsyncPool
    from penstock.pool.processes import ProcessPool
    from penstock.pool.threads import ThreadPool

log = logging.getLogger("penstock.work")

Ended = Callable[[Held[Kind], Job[Any]], None]

_ROOM: Final = 1_000  # more than is ever claimed ahead: a submit never has to wait


class Lane(Protocol):
    """One kind of pool. All but `start` may be called from any thread; `start` from one."""

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """Run these; `ended` is called when each has."""
        ...

    def forget(self, held: Held[Kind]) -> bool:
        """Give it up if it has not begun; whether that was so."""
        ...

    def cancel(self, held: Held[Kind], reason: str) -> None:
        """Ask it to end."""
        ...

    def stuck(self) -> Sequence[StuckJob]:
        """The jobs that have failed for want of time, and still run: nobody can end them but the end of the process."""
        ...

    def close(self, timeout: float) -> None:
        """Stop the pool within *timeout* seconds."""
        ...


class _Lane:
    """What the kinds share: the terms of a claimed job, and its way over the board."""

    _crew: Any
    _pool: AnyPool

    def __init__(self, app: App, board: Board, ended: Ended) -> None:
        self._app = app
        self._board = board
        self._ended = ended
        self._known: dict[str, tuple[Task[Any, Any], Callable[[Held[Kind]], JobTerms]]] = {}

    def _order(self, name: str) -> tuple[Task[Any, Any], Callable[[Held[Kind]], JobTerms]]:
        """The task of that name, and what makes the terms of its jobs."""
        known = self._known.get(name)
        if known is None:
            task = self._app.tasks[name]
            known = self._known[name] = task, terms_of(self._app.store, self._crew, task, self._has_ended)
        return known

    def _begin(self, held: Held[Kind], task: Task[Any, Any]) -> None:
        limit = 0.0 if task.timeout is None else clock.monotonic() + task.timeout
        claimed = held.job
        held.slots.append(self._board.begin(claimed.seq, claimed.token, limit))
        held.has_begun = True

    def _end(self, held: Held[Kind]) -> None:
        """Its place on the board is free: whoever comes first, the end of the call or of the job, gives it back."""
        try:
            slot = held.slots.pop()
        except IndexError:
            return
        self._board.end(slot)

    def _has_ended(self, held: Held[Kind], job: Job[Any]) -> None:
        if held.slots:
            self._end(held)
        held.running = None
        self._ended(held, job)

    def _is_running(self, held: Held[Kind], job: Job[Any]) -> None:
        """*job* of the pool runs it, or has run it."""
        held.running = job
        if job.done():
            held.running = None
        elif held.cause is not None:  # somebody asked it to end before it was here
            job.cancel(held.reason)

    def stuck(self) -> Sequence[StuckJob]:
        """See `Lane`."""
        return self._pool.report.stuck

    def forget(self, held: Held[Kind]) -> bool:
        """See `Lane`."""
        job = held.running
        return job is not None and job.forget()

    def cancel(self, held: Held[Kind], reason: str) -> None:
        """See `Lane`."""
        job = held.running
        if job is not None:
            job.cancel(reason)


class ThreadLane(_Lane):
    """Plain functions, on threads."""

    _pool: ThreadPool

    def __init__(self, app: App, board: Board, ended: Ended, threads: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.threads import ThreadPool

        self._pool = ThreadPool(threads, "penstock-work", backlog=_ROOM, around=app.around, name="threads")
        self._crew = self._pool._crew

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        submit = self._crew.intake.submit
        for held in batch:
            task, terms = self._order(held.job.task)
            self._is_running(held, submit(terms(held), _run, (self, held, task), {}))

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._pool.shutdown(timeout=timeout)


def _run(lane: ThreadLane, held: Held[Kind], task: Task[Any, Any]) -> attempt.Ended:
    """On a thread of the pool. A plain function: the pool knows it by its code, and need not look at it each time."""
    lane._begin(held, task)
    try:
        ended = attempt.run(task, held.job.args)
        return attempt.ended_of(ended, has_completed=held.has_completed)
    finally:
        lane._end(held)


class ProcessLane(_Lane):
    """Functions that keep a processor busy, or that nobody trusts, in processes of their own."""

    _pool: ProcessPool

    def __init__(self, app: App, name: str, board: Board, ended: Ended, processes: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.processes import ProcessPool

        self._name = name
        self._pool = ProcessPool(processes, backlog=_ROOM, around=app.around, name="processes")
        self._crew = self._pool._crew

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        for held in batch:
            claimed = held.job
            task, terms = self._order(claimed.task)
            call = (self._name, claimed.task, claimed.args, (claimed.seq, claimed.token, claimed.attempt))
            self._begin(held, task)  # as far as can be seen from here; each runs in a process that may die by itself
            self._is_running(held, self._crew.intake.submit(terms(held), errand.run, call, {}))

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._pool.shutdown(timeout=timeout)


class LoopLane(_Lane):
    """Coroutine functions, on a loop that has a thread of its own.

    What ends a loop (`sys.exit` in a task that a job has made, a `KeyboardInterrupt`, its `stop`) is one job's affair
    here: the loop goes on for the others.
    """

    _pool: AsyncPool

    def __init__(self, app: App, board: Board, ended: Ended, tasks: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.coroutines import AsyncPool

        self._pool = AsyncPool(tasks, backlog=_ROOM, around=app.around, name="coroutines")
        self._crew = self._pool._crew
        self._loop = asyncio.new_event_loop()
        self._is_over = False  # written once, by who closes it, before the loop is told to stop
        self._thread = threading.Thread(target=self._turn, name="penstock-loop", daemon=True)
        self._thread.start()
        self._do(self._pool.start()).result()

    def _turn(self) -> None:
        """The loop's thread."""
        while not self._is_over:
            try:
                self._loop.run_forever()
            except BaseException:
                log.exception("something in a job would have ended the loop of all of them")

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        self._do(self._start(batch)).add_done_callback(_must_be_well)

    async def _start(self, batch: Sequence[Held[Kind]]) -> None:
        door = self._crew.intake
        for held in batch:
            task, make = self._order(held.job.task)
            terms = make(held)
            try:
                job = door.accept(terms, _run_on_loop, (self, held, task), {})
                if job is None:
                    job = await door.admit(terms, _run_on_loop, (self, held, task), {})
            except KeyboardInterrupt:  # raised by the job in its first step; it has its outcome
                continue
            self._is_running(held, job)

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._do(self._pool.shutdown(timeout=timeout)).result(timeout + 1)
        self._is_over = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1)

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _must_be_well(future: Future[Any]) -> None:
    """Jobs that were claimed and are on no pool would be held for ever: better that others run them."""
    if not future.cancelled() and future.exception() is not None:
        log.critical("jobs could not be started; this worker ends", exc_info=future.exception())
        os._exit(5)


async def _run_on_loop(lane: LoopLane, held: Held[Kind], task: Task[Any, Any]) -> attempt.Ended:
    lane._begin(held, task)
    try:
        ended = await attempt.arun(task, held.job.args)
        return attempt.ended_of(ended, has_completed=held.has_completed)
    finally:
        lane._end(held)
