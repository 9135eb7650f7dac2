"""Accepting coroutines' jobs: all on the loop's thread, so that a full backlog is a place to wait in and no lock."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from threading import get_ident
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from penstock import clock
from penstock.context import scope
from penstock.errors import BacklogFull
from penstock.events import JobAccepted
from penstock.job import Job, JobState, MadeJob
from penstock.pool.coroutines.firststep import current_tasks
from penstock.pool.coroutines.home import get_running_loop
from penstock.pool.coroutines.slots import HAS_EAGER_TASKS, ONE_TURN, PROVES
from penstock.pool.coroutines.worker import TaskWorker
from penstock.pool.intake import Intake
from penstock.pool.terms import JobTerms

if TYPE_CHECKING:
    from penstock.pool.coroutines.crew import CoroutineCrew

P = ParamSpec("P")
T = TypeVar("T")

_Task: Callable[..., asyncio.Task[None] | None] = asyncio.Task
_READY, _RUNNING = JobState.READY, JobState.RUNNING
_around = scope.get  # of what is imported, a method is looked up anew by each call
_IS_NEW: Final = sys.version_info >= (3, 12)


class Door(Intake):
    """The door of one pool of coroutines. Loop's thread only."""

    _crew: CoroutineCrew

    def __init__(self, crew: CoroutineCrew) -> None:
        super().__init__(crew)
        self._home = crew.home
        self._slots = crew.staff
        self._due = crew.backlog.due
        self._running = crew.attempts.running
        self._common: CodeType | None = None  # as `_checked`, if calls of that function can be of the common kind
        self._last: Callable[[], Any] = type(None)  # gives the last function that `_is_common` found, if that still is
        self._readers: set[asyncio.Task[None]] = set()

    def _is_common(self, fn: Any) -> bool:
        """Whether a call of *fn* can be of the common kind, as the last ones were."""
        if type(fn) is FunctionType and fn.__code__ is self._common:
            self._last = weakref.ref(fn)  # asking for its code costs as much as all other questions of the short way in
            return True
        return False

    def _come_too_late(self, job: Job[Any], worker: TaskWorker) -> Job[Any]:
        """The pool was closed while *job* came in: it is refused, unless a stop has found it among the running ones."""
        if self._running.pop(job, None) is None:
            self._crew.attempts.came_back(worker, job)
            worker.go_on()
            return job  # it has its outcome
        worker.go_on()
        self._withdraw()
        raise self._crew.refusal()

    async def admit(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """Accept one call that `accept` did not: wait for a place, or give the loop its turn."""
        if not self._slots.left:
            self._slots.left = ONE_TURN
            await asyncio.sleep(0)
        job = self.accept(terms, fn, args, kwargs)
        if job is not None:
            return job
        if terms.when_full == "reject":
            raise BacklogFull(self._crew.settings.backlog)
        if terms.when_full == "caller":
            return await self._run_for_caller(terms, fn, args, kwargs)
        with self._slots.lending(None):
            await self._line_up_from_loop(terms)
        job = self.accept(terms, fn, args, kwargs, placed=True)
        assert job is not None
        return job

    def accept(
        self,
        terms: JobTerms,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        placed: bool = False,
    ) -> Job[Any] | None:
        """Accept one call now; None if there is no place for it, or the loop is to have a turn: then call `admit`.

        *placed*: the caller holds a place.

        It begins at once if a slot is free and nobody waits for it. One function for the whole way in, as
        `Intake.submit` is.
        """
        if type(fn) is not FunctionType or fn.__code__ is not self._checked:
            check_coroutine_function(fn)
            if type(fn) is FunctionType:
                self._checked = fn.__code__
                self._common = None if self._crew.around is not None or self._slots.has_factory else self._checked
        slots, lifecycle, home = self._slots, self._lifecycle, self._home
        numbered = begins = False
        try:
            # Before 3.12 asking for the running loop costs a system call.
            if (get_running_loop() is not home.loop) if _IS_NEW else (get_ident() != home.ident or not home.runs()):
                self._crew.settle_in()
            if lifecycle.closing:
                raise self._crew.refusal()
            if not placed:
                if not slots.left:
                    return None
                begins = not (self._queue or self._due) and bool(slots.spare or slots.unhired)
                if not begins:
                    try:
                        self._free.pop()  # Places.take
                        placed = True
                    except IndexError:
                        return None
            number = next(self._numbers)
            numbered = True
            job: Job[Any] = MadeJob()  # new_job, written out
            job._terms = terms
            job._number = number
            if kwargs:
                job._fn = functools.partial(fn, *args, **kwargs)
                job._args = ()
            else:
                job._fn = fn
                job._args = args
            job._cv = copy_context()
            job._since = clock.monotonic()
            job._stage = _READY
            job._bell = None
            job._context = None
            job._attempt = 0
            if lifecycle.closing:
                raise self._crew.refusal()
            if not terms.plain or _around() is not None:
                self._prepare(job)
            if self._ledger.observers:
                self._ledger.tell(JobAccepted(self._ledger.pool, job.id, job.name))
            if not begins:
                self._queue.append(job)
        except BaseException:  # it is not accepted, and leaves nothing behind
            if placed:
                self._give_back()
            if numbered:
                self._withdraw()
            raise
        if begins:
            slots.left -= 1
            worker = slots.take()
            assert worker is not None
            slots.launch(job, worker, job._since)
            return job
        if slots.spare or slots.unhired:
            slots.serve()
        if lifecycle.cutting:
            self._crew.cut_waiting()  # the stop may have looked just before the job was there
        if job._context is not None:
            self._crew.attempts.listen(job)
        return job

    async def _run_for_caller(
        self, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """The backlog is full: run the job beside the slots, and have its submitter wait for it."""
        job = self._accept_without_place(terms, fn, args, kwargs)
        worker = TaskWorker(self._crew, f"{self._crew.name}_caller", is_extra=True)
        self._slots.launch(job, worker, clock.monotonic())
        task = worker.task
        if task is not None:
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                job.cancel("the task that submitted it was cancelled")
                raise
        return job

    # Tasks that read the inputs of a stream

    def read(self, reading: Any) -> asyncio.Task[None]:
        """A task for *reading*, which is cancelled when the pool closes."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(reading)
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)
        return task

    def stop_readers(self) -> None:
        """The pool takes no more jobs."""
        for task in self._readers:
            task.cancel("the pool takes no more jobs")


class Submits:
    """What a pool of coroutines and its views share: `asubmit`."""

    _door: Door
    _terms: JobTerms

    async def asubmit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Run the coroutine function *fn* with these arguments in a task of its own; its `Job`, to be awaited.

        While the backlog is full this waits (`when_full`, `submit_timeout`): `BacklogFull` if no place became free in
        time. `PoolClosed` once the pool takes no more jobs. The job begins before this returns, if a slot is free (on
        Python 3.11 only on asyncio's own loops). A job that waits here or for another job of the same pool lends its
        slot meanwhile.
        """
        # For a job of the common kind this is its whole way in, with the steps of others written out: a call costs as
        # much as several of them. Common is a plain call of the same function as before, outside of jobs, when a slot
        # is free and nobody watches.
        door, terms = self._door, self._terms
        slots, home = door._slots, door._home
        if (
            not slots.spare
            or not slots.left
            or door._queue
            or fn is None
            or (fn is not door._last() and not door._is_common(fn))
            or kwargs
            or not terms.plain
            or slots.is_beginning
            or door._ledger.observers
            or _around() is not None
            # Before 3.12 asking for the running loop costs a system call.
            or ((get_running_loop() is not home.loop) if _IS_NEW else home.ident != get_ident())
            or (not _IS_NEW and home.loop not in current_tasks)
        ):
            accepted: Job[T] | None = door.accept(terms, fn, args, kwargs)
            return await door.admit(terms, fn, args, kwargs) if accepted is None else accepted
        number = next(door._numbers)
        try:
            job: Job[T] = MadeJob()
            job._terms = terms
            job._number = number
            job._fn = name = fn.__qualname__
            job._args = job._cv = None
            cv = copy_context()
            job._since = job._began = clock.monotonic()
            job._bell = None
            job._context = None
            job._attempt = 1
            job._stage = _RUNNING
            worker = slots.spare.pop()
            worker.job = job
            job._worker = worker.name
            door._running[job] = worker
        except BaseException:
            door._withdraw()
            raise
        if door._lifecycle.closing:
            return door._come_too_late(job, worker)
        slots.left -= 1
        if not slots.starts_eagerly:
            slots.begin(worker, job, name, fn, args, cv)
            return job
        coroutine = worker.coroutine = worker.attempt(job, fn, args)
        slots.is_beginning = True
        try:
            if not slots.to_prove:
                task = slots.one_step.begin(coroutine, name, cv)
            elif HAS_EAGER_TASKS:
                task = _Task(coroutine, loop=home.loop, name=name, context=cv, eager_start=True)
            else:
                task = slots.first_step.task(coroutine, name, cv)
        finally:
            slots.is_beginning = False
        if worker.job is not None:
            slots.to_prove = PROVES
            worker.task = task
            if worker.asked is not None:
                worker.heed()
        else:
            if slots.to_prove:
                slots.to_prove -= 1
            if door._queue:
                slots.serve()
        return job


def check_coroutine_function(fn: Any) -> None:
    """TypeError if a call of *fn* doesn't give a coroutine, saying what to use instead."""
    if inspect.iscoroutine(fn):
        fn.close()  # or Python would warn that it was never awaited, which is not the point
        name = getattr(fn, "__qualname__", "fn")
        raise TypeError(f"hand in the function and its arguments, not the coroutine: asubmit({name}, …)")
    if not callable(fn):
        raise TypeError(f"a job needs a coroutine function, not {fn!r}")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    if _gives_coroutine(inner) or _gives_coroutine(type(inner).__call__):
        return
    if inspect.isasyncgenfunction(inner) or inspect.isasyncgenfunction(type(inner).__call__):
        raise TypeError(f"{fn!r} gives an async generator: hand in a coroutine function that consumes it")
    raise TypeError(
        f"{fn!r} is no coroutine function (async def): it would hold up the event loop while it runs. "
        "Use a ThreadPool for it; `await pool.run(fn, …)` works there, too"
    )


def _gives_coroutine(fn: Any) -> bool:
    if _IS_NEW:
        return inspect.iscoroutinefunction(fn)
    return asyncio.iscoroutinefunction(fn)  # knows those that are marked as such, as inspect does from 3.12 on
