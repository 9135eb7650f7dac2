"""The handle of a durable job: asks the store how it is, waits for it, and changes what becomes of it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, cast

from penstock.engines.records import ByIds, Record, States
from penstock.engines.requests import Again, Cancel, Cut
from penstock.engines.rules import ENDED
from penstock.errors import JobCancelled, JobFailed, JobUnknown, NoResult
from penstock.job import JobState

if TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.task import Task

T_co = TypeVar("T_co", covariant=True)

_AGAIN: Final = (JobState.FAILED, JobState.CANCELLED)


class Progress(NamedTuple):
    """How far a running job says it is: *done* of *total* (None if it doesn't know), and a *note*."""

    done: float
    total: float | None
    note: str


class Handle(Generic[T_co]):
    """One durable job, wherever it runs: the words of a pool's `Job`, answered by the store.

    Made by `task.enqueue` and its kin, or for a known id by `app.handle`. Every method may be called from any thread;
    those that begin with `a`, and `await handle`, never block an event loop. A job that the store doesn't know (any
    more) is a `JobUnknown`. Handles of one job of one app are equal.
    """

    __slots__ = ("_app", "_id", "_task")

    def __init__(self, app: App, id: str, task: Task[..., T_co] | None = None) -> None:
        self._app = app
        self._id = id
        self._task = task

    @property
    def id(self) -> str:
        """Its id: names the job in every process, and in `penstock show`."""
        return self._id

    @property
    def record(self) -> Record:
        """All that the store knows of it, now."""
        found = self._app.store.find(ByIds((self._id,)))[0]
        if found is None:
            raise JobUnknown(self._id)
        return found

    async def arecord(self) -> Record:
        """As `record`, for coroutines."""
        found = (await self._app.store.afind(ByIds((self._id,))))[0]
        if found is None:
            raise JobUnknown(self._id)
        return found

    @property
    def state(self) -> JobState:
        """Where it is in its life, now."""
        state = self._app.store.find(States((self._id,)))[0]
        if state is None:
            raise JobUnknown(self._id)
        return state

    @property
    def progress(self) -> Progress | None:
        """How far it is, if it has said so."""
        told = self.record.progress
        return None if told is None else Progress(told.done, told.total, told.note)

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self.state in ENDED

    def result(self, timeout: float | None = None) -> T_co:
        """What the task returned, waiting at most *timeout* seconds for it.

        Raises `JobFailed` if it raised, `JobCancelled` if it was cancelled, `TimeoutError` if *timeout* passed first.
        Inside any job or `with Context` block the wait ends with `Cancelled` when that context trips. A task that waits
        for another keeps its worker meanwhile: a service with few workers may have none left for the other.
        """
        return self._result_of(self._app.watch.wait(self._id, timeout))

    async def aresult(self, timeout: float | None = None) -> T_co:
        """As `result`, for coroutines. Cancelling the waiting task leaves the job alone."""
        return self._result_of(await self._app.watch.await_(self._id, timeout))

    def __await__(self) -> Generator[Any, None, T_co]:
        """Its result. Cancelling the awaiting task leaves the job alone: it is durable, and others may wait for it."""
        return self.aresult().__await__()

    def exception(self, timeout: float | None = None) -> NoResult | None:
        """How it failed, None if it returned; waits as `result` does. One cancelled before it ran: `JobCancelled`."""
        return self._exception_of(self._app.watch.wait(self._id, timeout))

    async def aexception(self, timeout: float | None = None) -> NoResult | None:
        """As `exception`, for coroutines."""
        return self._exception_of(await self._app.watch.await_(self._id, timeout))

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel it if it waits: True, it will not run. One that runs is asked to end: its context trips; False.

        True again for a job that was cancelled before it ran.
        """
        (cuts,) = self._app.store.ask(Cancel((self._id,), reason))
        cut = self._cut(cuts)
        return cut is Cut.CANCELLED or (cut is Cut.ENDED and _never_ran(self.record))

    async def acancel(self, reason: str = "cancelled") -> bool:
        """As `cancel`, for coroutines."""
        (cuts,) = await self._app.store.aask(Cancel((self._id,), reason))
        cut = self._cut(cuts)
        return cut is Cut.CANCELLED or (cut is Cut.ENDED and _never_ran(await self.arecord()))

    def retry(self) -> bool:
        """Let it run again, with all its attempts, if it failed or was cancelled: True. Else False."""
        (again,) = self._app.store.ask(Again((self._id,), states=_AGAIN))
        if not again:
            _ = self.state  # raises JobUnknown
        return bool(again)

    async def aretry(self) -> bool:
        """As `retry`, for coroutines."""
        (again,) = await self._app.store.aask(Again((self._id,), states=_AGAIN))
        if not again:
            await self.arecord()
        return bool(again)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._id == other._id and self._app is other._app

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"<Handle {self._id}{f' of {self._task.name}' if self._task is not None else ''}>"

    def _cut(self, cuts: Any) -> Cut:
        (cut,) = cuts
        if cut is Cut.UNKNOWN:
            raise JobUnknown(self._id)
        return cast(Cut, cut)

    # What a record says

    def _result_of(self, record: Record) -> T_co:
        if record.state is not JobState.DONE:
            raise self._error_of(record)
        from penstock.app.codec.codec import decode_untyped

        data = b"null" if record.result is None else record.result
        task = self._task or self._app.tasks.get(record.task)
        return cast(T_co, decode_untyped(data)) if task is None else task.codec.decode_result(data)

    def _exception_of(self, record: Record) -> NoResult | None:
        if record.state is JobState.DONE:
            return None
        error = self._error_of(record)
        if _never_ran(record):
            raise error
        return error

    def _error_of(self, record: Record) -> NoResult:
        label = f"job {record.id} ({record.task})"
        if record.state is JobState.CANCELLED:
            return JobCancelled(label, record.reason or "cancelled", started=record.started is not None)
        if record.error is None:
            return JobFailed("Error", "the store has no word of why", job=label)
        error = JobFailed(record.error.type, record.error.message, record.error.traceback, label)
        if record.error.traceback:
            error.add_note(f"In the process that ran it:\n{record.error.traceback.rstrip()}")
        return error


def _never_ran(record: Record) -> bool:
    return record.state is JobState.CANCELLED and record.started is None
