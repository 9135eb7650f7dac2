"""A task: a function that jobs can name. Called, it runs; enqueued, it is a job that any worker of the app may run."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import enum
import functools
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, ParamSpec, TypeVar, cast

from penstock import clock
from penstock.app.handle import Handle
from penstock.app.ids import new_id, new_ids
from penstock.app.order import Order, checked_name, checked_priority
from penstock.engines.records import ByIds, Record
from penstock.engines.requests import Fate, NewJob, Put
from penstock.engines.store import all_good
from penstock.errors import EnqueuedInPart
from penstock.retry import Retry

if TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.codec.codec import Codec

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_JOBS: Final = 1_000  # in one Put
_BYTES: Final = 8 * 1024 * 1024  # of arguments in one Put, about
_STINT: Final = 0.005  # seconds that a loop is kept from its other tasks, at most

Call = tuple[Any, ...] | Mapping[str, Any]
"""One job of an `enqueue_many`: its positional arguments, or its keyword ones."""


class _Ungiven:
    """The default of an option that stays as it is."""

    def __repr__(self) -> str:
        return "<unchanged>"


_UNGIVEN: Final = _Ungiven()
_NOTHING: Final[Mapping[str, Any]] = {}


class Kind(enum.StrEnum):
    """Where a task's jobs run in a worker service."""

    THREAD = "thread"  # a plain function
    ASYNC = "async"  # an `async def`, on the event loop
    PROCESS = "process"  # a plain function, in a process of its own


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """How a task was asked to be."""

    name: str | None
    timeout: float | None
    retry: Retry | None
    queue: str
    priority: int
    process: bool

    @classmethod
    def checked(
        cls, name: object, timeout: float | None, retry: object, queue: object, priority: object, process: object
    ) -> TaskSettings:
        """These settings; TypeError or ValueError that names the one that is wrong."""
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry must be a Retry or None, not {retry!r}; write retry=Retry(3)")
        if not isinstance(process, bool):
            raise TypeError(f"process must be True or False, not {process!r}")
        return cls(
            None if name is None else checked_name("name", name),
            clock.checked_seconds("timeout", timeout, zero=False),
            retry,
            checked_name("queue", queue),
            checked_priority(priority),
            process,
        )


class Enqueuing(Generic[P, R_co]):
    """How jobs of a task are handed in. Every method may be called from any thread."""

    _task: Task[P, R_co]
    _order: Order

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """A durable job that calls the function with these arguments: once this returns, it survives.

        Arguments are checked here: TypeError if they don't fit the signature, `NotEncodable` (a TypeError) if they
        don't fit the type hints or can't travel. Raises `StoreUnavailable` if the store couldn't be reached, and
        `OutcomeUnknown` if the answer never came; with `options(id=…)` both are safe to repeat.
        """
        job = self._new_job(args, kwargs)
        (fates,) = self._ask(Put((job,)))
        if fates != [Fate.ACCEPTED]:
            self._check_owner(job.id, self._task.app.store.find(ByIds((job.id,)))[0])
        return Handle(self._task.app, job.id, self._task)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """As `enqueue`, for coroutines: waits for the store without blocking the loop."""
        job = self._new_job(args, kwargs)
        (fates,) = await self._aask(Put((job,)))
        if fates != [Fate.ACCEPTED]:
            self._check_owner(job.id, (await self._task.app.store.afind(ByIds((job.id,))))[0])
        return Handle(self._task.app, job.id, self._task)

    def enqueue_many(self, calls: Iterable[Call]) -> list[Handle[R_co]]:
        """A job for each of *calls*: a tuple of positional arguments, or a dict of keyword ones.

        *calls* is read as it is needed, and stored a thousand jobs at a time, each thousand all or none. If it stops
        half-way (a wrong call, what the iterable raises, the store) what was accepted stays, and `EnqueuedInPart` says
        which jobs that is; if none was yet, the error comes as it is.
        """
        ids: list[str] = []
        with self._accounts(ids):
            for batch in self._batches(calls):
                self._ask(Put(batch))
                ids += [job.id for job in batch]
        return [Handle(self._task.app, id, self._task) for id in ids]

    async def aenqueue_many(self, calls: Iterable[Call] | AsyncIterable[Call]) -> list[Handle[R_co]]:
        """As `enqueue_many`, for coroutines, which may give an async iterable, too. Other tasks of the loop go on."""
        ids: list[str] = []
        with self._accounts(ids):
            async for batch in self._abatches(calls):
                await self._aask(Put(batch))
                ids += [job.id for job in batch]
        return [Handle(self._task.app, id, self._task) for id in ids]

    def options(
        self,
        *,
        id: str | _Ungiven = _UNGIVEN,
        delay: float | datetime.timedelta | _Ungiven = _UNGIVEN,
        at: datetime.datetime | _Ungiven = _UNGIVEN,
        priority: int | _Ungiven = _UNGIVEN,
        queue: str | _Ungiven = _UNGIVEN,
        headers: Mapping[str, str] | _Ungiven = _UNGIVEN,
        timeout: float | _Ungiven | None = _UNGIVEN,
        connection: object = _UNGIVEN,
    ) -> TaskView[P, R_co]:
        """A view of the task whose jobs have other terms.

        *id*: in place of a new one: enqueuing it again makes no second job, but gives the handle of the first.
        *delay*: seconds until it may run. *at*: the time when it may, with its time zone. *priority*: a higher one runs
        first. *queue*: where it waits. *headers*: strings that travel with it (trace ids, say). *timeout*: seconds that
        the enqueue may take, None for no limit. *connection*: one of yours to the database that has the jobs; they take
        part in its transaction, exist if and only if that is committed, and may run then. What is not given stays as it
        is.
        """
        given = {
            "id": id, "delay": delay, "at": at, "priority": priority, "queue": queue, "headers": headers,
            "timeout": timeout, "connection": connection,
        }  # fmt: skip
        order = self._order.but({name: value for name, value in given.items() if not isinstance(value, _Ungiven)})
        return TaskView(self._task, order)

    def _accounts(self, ids: list[str]) -> contextlib.AbstractContextManager[None]:
        if self._order.connection is not None:
            return contextlib.nullcontext()  # what is accepted is the business of its transaction
        return _Accounts(self._task.name, ids)

    def _ask(self, put: Put) -> list[Any]:
        store, connection = self._task.app.store, self._order.connection
        if connection is None:
            return store.ask(put, timeout=self._order.timeout)
        return all_good(store.join(connection).transact((put,)))

    async def _aask(self, put: Put) -> list[Any]:
        store, connection = self._task.app.store, self._order.connection
        if connection is None:
            return await store.aask(put, timeout=self._order.timeout)
        return all_good(await store.join(connection).atransact((put,)))

    # Making jobs

    def _new_job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NewJob:
        task, order = self._task, self._order
        data = task.codec.encode_call(args, kwargs)
        id = order.id or new_id()
        return NewJob._make((id, task.name, order.queue, order.priority, data, order.headers, order.delay, order.at))

    def _new_jobs(self, calls: Sequence[bytes], ids: Sequence[str]) -> list[NewJob]:
        name, order = self._task.name, self._order
        queue, priority, headers, delay, at = order.queue, order.priority, order.headers, order.delay, order.at
        make = NewJob._make  # a third of the time that NewJob(…) takes
        return [
            make((id, name, queue, priority, data, headers, delay, at)) for id, data in zip(ids, calls, strict=True)
        ]

    def _check_owner(self, id: str, record: Record | None) -> None:
        if record is not None and record.task != self._task.name:
            raise ValueError(
                f"the id {id!r} is that of a job of {record.task}: a job of {self._task.name} needs another"
            )

    def _batches(self, calls: Iterable[Call]) -> Iterator[list[NewJob]]:
        batch = _Batch(self)
        for call in calls:
            if batch.add(call):
                yield batch.taken()
        if batch.calls:
            yield batch.taken()

    async def _abatches(self, calls: Iterable[Call] | AsyncIterable[Call]) -> AsyncIterator[list[NewJob]]:
        batch = _Batch(self)
        until = clock.monotonic() + _STINT
        async for call in _each(calls):
            if batch.add(call):
                yield batch.taken()
            elif clock.monotonic() >= until:
                await asyncio.sleep(0)
            else:
                continue
            until = clock.monotonic() + _STINT
        if batch.calls:
            yield batch.taken()


class _Batch:
    """The next jobs of an `enqueue_many`, until there are as many as one Put may have."""

    def __init__(self, view: Enqueuing[Any, Any]) -> None:
        if view._order.id is not None:
            raise ValueError("many jobs can't have one id: leave options(id=…) out")
        self._view = view
        self._encode = view._task.codec.encode_call
        self._size = 0
        self._place = 0
        self.calls: list[bytes] = []

    def add(self, call: object) -> bool:
        """Take one more; True if the batch is full."""
        if isinstance(call, tuple):
            data = self._encode(call, _NOTHING)
        elif isinstance(call, Mapping):
            data = self._encode((), call)
        else:
            raise TypeError(
                f"item {self._place} must be a tuple of positional arguments or a dict of keyword ones, not {call!r}: "
                f"write {(call,)!r} for a single argument"
            )
        self._place += 1
        self._size += len(data)
        self.calls.append(data)
        return len(self.calls) == _JOBS or self._size >= _BYTES

    def taken(self) -> list[NewJob]:
        """Its jobs; it is empty again."""
        calls, self.calls, self._size = self.calls, [], 0
        return self._view._new_jobs(calls, new_ids(len(calls)))


class Task(Enqueuing[P, R_co]):
    """A function that an app knows by *name*. Made by `app.task`; called, it is the function.

    *queue*, *priority*: of its jobs, if nothing else is asked for. *timeout*: seconds that one attempt may run.
    *retry*: when a failed job runs again. *kind*: where.
    """

    __name__: str
    __qualname__: str

    def __init__(self, app: App, fn: Callable[P, R_co], kind: Kind, settings: TaskSettings) -> None:
        self.app = app
        self.fn = fn
        self.kind = kind
        self.name = checked_name("name", _name_of(fn)) if settings.name is None else settings.name
        self.queue = settings.queue
        self.priority = settings.priority
        self.timeout = settings.timeout
        self.retry = settings.retry
        self._task = self
        self._order = Order(self.queue, self.priority)
        self._codec: Codec[R_co] | None = None
        functools.update_wrapper(cast(Any, self), fn)
        with contextlib.suppress(NameError):  # what a hint names may be defined further down
            self.check()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function, here and now."""
        return self.fn(*args, **kwargs)

    @property
    def codec(self) -> Codec[R_co]:
        """How its calls and results travel."""
        codec = self._codec
        if codec is None:
            self.check()
            codec = self._codec
            assert codec is not None
        return codec

    def check(self) -> None:
        """Make sure that its calls and results can travel.

        TypeError if a type can't, NameError if a hint still names something that isn't there. Done when it is made, as
        far as that can be told then; at the latest at the first enqueue, and when a worker starts.
        """
        if self._codec is not None:
            return
        from penstock.app.codec.codec import Codec  # what it needs is an extra: `from penstock import *` does without

        try:
            self._codec = Codec(self.name, self.fn)
        except NameError as error:
            raise NameError(
                f"{self.name}: a type hint names something that isn't there: {error}; "
                "what hints name must be defined or imported when the module runs, not for type checkers alone",
                name=error.name,
            ) from error
        except TypeError as error:
            raise TypeError(f"{self.name} can't be a task: {error}") from error

    def __reduce__(self) -> str:
        return self.fn.__qualname__  # by name, as functions are pickled

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class AsyncTask(Task[P, R_co]):
    """A task that is an `async def`: called, it gives a coroutine; its jobs have the result of that."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R_co]:
            """A coroutine that runs the function, here and now."""


class TaskView(Enqueuing[P, R_co]):
    """A task seen through other terms; made by `options`."""

    def __init__(self, task: Task[P, R_co], order: Order) -> None:
        self._task = task
        self._order = order

    def __repr__(self) -> str:
        return f"<{self._task!r} as {self._order}>"


class _Accounts:
    """A block in which jobs are accepted bit by bit: an error that leaves it says which *ids* were."""

    def __init__(self, task: str, ids: list[str]) -> None:
        self._task = task
        self._ids = ids

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or not self._ids:
            return
        stopped = EnqueuedInPart(self._task, tuple(self._ids))
        if isinstance(error, Exception):
            raise stopped from error
        error.add_note(str(stopped))


async def _each(calls: Iterable[Call] | AsyncIterable[Call]) -> AsyncIterator[Call]:
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            yield call
    else:
        for call in calls:
            yield call


def kind_of(fn: object, settings: TaskSettings) -> Kind:
    """Where jobs of *fn* run; TypeError if it can't be a task."""
    if isinstance(fn, Task):
        _refuse(fn.fn, f"it is one already, {fn.name}")
    if not inspect.isfunction(fn):
        _refuse(fn, "a task is made of a function (def or async def)")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        _refuse(fn, "it yields, and nobody would iterate over it: return a list, or enqueue a job for each item")
    where, _, _ = fn.__qualname__.rpartition(".")
    if where and not where.endswith("<locals>") and next(iter(inspect.signature(fn).parameters), "") in ("self", "cls"):
        _refuse(fn, "it is a method, and a job carries no object to call it on: use a function outside of the class")
    if inspect.iscoroutinefunction(fn):
        if settings.process:
            _refuse(fn, "an async def runs on the worker's event loop: process=True is for plain functions")
        return Kind.ASYNC
    return Kind.PROCESS if settings.process else Kind.THREAD


def _refuse(fn: object, why: str) -> NoReturn:
    raise TypeError(f"{getattr(fn, '__qualname__', fn)} can't be a task: {why}")


def _name_of(fn: Callable[..., Any]) -> str:
    """`module.qualname`, the same in every process; for the main module, the name by which others import it."""
    if fn.__name__ == "<lambda>":
        _refuse(fn, "a lambda has no name of its own: give it one, with name=…")
    return f"{_module_of(fn)}.{fn.__qualname__}"


def _module_of(fn: Callable[..., Any]) -> str:
    name = fn.__module__ or "__main__"
    if name not in ("__main__", "__mp_main__"):
        return name
    main = sys.modules.get(name)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in ("__main__", "__mp_main__"):  # python -m package.module
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name
