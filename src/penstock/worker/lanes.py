"""The pools of one child: plain tasks run on threads, `async def` ones on a loop, `process=True` ones in processes.

start(held) ──> pool ──> run: slot on the board, decode, call, encode ──> job ends ──> ended(held, job)
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from penstock import clock
from penstock.app.app import App
from penstock.app.task import Kind, Task
from penstock.errors import Discard, Snooze
from penstock.job import Job
from penstock.pool.terms import JobTerms
from penstock.worker import errand
from penstock.worker.board import Board
from penstock.worker.claim import StoreClaim
from penstock.worker.holding import Held

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

    def close(self, timeout: float) -> None:
        """Stop the pool within *timeout* seconds."""
        ...


class _Lane:
    """What the kinds share: the terms of a claimed job, and where its pool's job is found."""

    _crew: Any

    def __init__(self, app: App, board: Board, ended: Ended) -> None:
        self._app = app
        self._board = board
        self._ended = ended
        self._jobs: dict[Held[Kind], Job[Any]] = {}

    def _terms(self, held: Held[Kind], task: Task[Any, Any]) -> JobTerms:
        claimed = held.job
        return JobTerms(
            crew=self._crew,
            when_full="block",
            submit_timeout=None,
            timeout=task.timeout,
            retry=None,
            id=claimed.id,
            name=task.name,
            context=None,
            inherit=False,
            plain=task.timeout is None,
            claim=StoreClaim(self._app.store, claimed.seq, claimed.token, claimed.attempt),
        )

    def _begin(self, held: Held[Kind], task: Task[Any, Any]) -> None:
        limit = 0.0 if task.timeout is None else clock.monotonic() + task.timeout
        held.slots.append(self._board.begin(held.job.seq, held.job.token, limit))
        held.has_begun = True

    def _end(self, held: Held[Kind]) -> None:
        """Its place on the board is free: whoever comes first, the end of the call or of the job, gives it back."""
        try:
            slot = held.slots.pop()
        except IndexError:
            return
        self._board.end(slot)

    def _has_ended(self, held: Held[Kind], job: Job[Any]) -> None:
        self._end(held)
        self._jobs.pop(held, None)
        self._ended(held, job)

    def _watch(self, held: Held[Kind], job: Job[Any]) -> None:
        self._jobs[held] = job
        job.add_done_callback(functools.partial(self._has_ended, held))
        if held.cause is not None:  # somebody asked it to end before it was here
            job.cancel(held.reason)

    def forget(self, held: Held[Kind]) -> bool:
        """See `Lane`."""
        job = self._jobs.get(held)
        return job is not None and job.forget()

    def cancel(self, held: Held[Kind], reason: str) -> None:
        """See `Lane`."""
        job = self._jobs.get(held)
        if job is not None:
            job.cancel(reason)


class ThreadLane(_Lane):
    """Plain functions, on threads."""

    def __init__(self, app: App, board: Board, ended: Ended, threads: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.threads import ThreadPool

        self._pool = ThreadPool(
            threads, "penstock-work", backlog=_ROOM, unobserved="ignore", around=app.around, name="threads"
        )
        self._crew = self._pool._crew

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        for held in batch:
            task = self._app.tasks[held.job.task]
            self._watch(held, self._crew.intake.submit(self._terms(held, task), self._run, (held, task), {}))

    def _run(self, held: Held[Kind], task: Task[Any, Any]) -> Any:
        self._begin(held, task)
        try:
            args, kwargs = task.codec.decode_call(held.job.args)
            return task.codec.encode_result(task.fn(*args, **kwargs))
        except (Snooze, Discard) as asked:
            return asked
        finally:
            self._end(held)

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._pool.shutdown(timeout=timeout)


class ProcessLane(_Lane):
    """Functions that keep a processor busy, or that nobody trusts, in processes of their own."""

    def __init__(self, app: App, name: str, board: Board, ended: Ended, processes: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.processes import ProcessPool

        self._name = name
        self._pool = ProcessPool(processes, backlog=_ROOM, unobserved="ignore", around=app.around, name="processes")
        self._crew = self._pool._crew

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        for held in batch:
            task, claimed = self._app.tasks[held.job.task], held.job
            terms = self._terms(held, task)
            call = (self._name, claimed.task, claimed.args, (claimed.seq, claimed.token, claimed.attempt))
            self._begin(held, task)  # as far as can be seen from here; each runs in a process that may die by itself
            self._watch(held, self._crew.intake.submit(terms, errand.run, call, {}))

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._pool.shutdown(timeout=timeout)


class LoopLane(_Lane):
    """Coroutine functions, on a loop that has a thread of its own."""

    def __init__(self, app: App, board: Board, ended: Ended, tasks: int) -> None:
        super().__init__(app, board, ended)
        from penstock.pool.coroutines import AsyncPool

        self._pool = AsyncPool(tasks, backlog=_ROOM, unobserved="ignore", name="coroutines")
        self._crew = self._pool._crew
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-loop", daemon=True)
        self._thread.start()
        self._do(self._pool.start()).result()

    def start(self, batch: Sequence[Held[Kind]]) -> None:
        """See `Lane`."""
        if batch:
            self._do(self._start(batch))

    async def _start(self, batch: Sequence[Held[Kind]]) -> None:
        door = self._crew.intake
        for held in batch:
            task = self._app.tasks[held.job.task]
            terms = self._terms(held, task)
            job = door.accept(terms, self._run, (held, task), {})
            if job is None:
                job = await door.admit(terms, self._run, (held, task), {})
            self._watch(held, job)

    async def _run(self, held: Held[Kind], task: Task[Any, Any]) -> Any:
        self._begin(held, task)
        try:
            args, kwargs = task.codec.decode_call(held.job.args)
            if self._app.around is None:
                return task.codec.encode_result(await task.fn(*args, **kwargs))
            with self._app.around():
                return task.codec.encode_result(await task.fn(*args, **kwargs))
        except (Snooze, Discard) as asked:
            return asked
        finally:
            self._end(held)

    def close(self, timeout: float) -> None:
        """See `Lane`."""
        self._do(self._pool.shutdown(timeout=timeout)).result(timeout + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1)

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
