"""An app: where its jobs are kept, and which functions they may name."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload

from penstock.app.handle import Handle
from penstock.app.order import checked_length, checked_name
from penstock.app.task import AsyncTask, Kind, Task, TaskSettings, kind_of
from penstock.app.watch import Watch
from penstock.engines import connect, scheme_of, without_password
from penstock.engines.engine import Engine
from penstock.engines.store import Store
from penstock.errors import StoreUnavailable
from penstock.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")


class TaskMaker(Protocol):
    """What `app.task(…)` gives: makes a task of a function."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


class App:
    """Durable jobs in the store at *url*, `sqlite:///jobs.db` say, and the functions that they may call.

    *name*: for logs and for people. *around*: called for each job in the worker; gives a context manager to run it in.
    *keep*, *keep_failed*: seconds (or a timedelta) that jobs and their results are kept for after their end, 24 hours
    and 7 days; cancelled ones as those that are done. Worker services forget what is older.

    Nothing is connected before it is needed. Every method may be called from any thread.
    Lock: `_lock` guards `_store` and `_watch`; nothing else is taken with it held.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        around: Callable[[], AbstractContextManager[Any]] | None = None,
        keep: float | datetime.timedelta = 24 * 3600.0,
        keep_failed: float | datetime.timedelta = 7 * 24 * 3600.0,
    ) -> None:
        scheme_of(url)
        if around is not None and not callable(around):
            raise TypeError(f"around must be a callable that gives a context manager for each job, not {around!r}")
        self.url = url
        """Where its jobs are, password included."""
        self.name = "app" if name is None else checked_name("name", name)
        """Its name, for people."""
        self.around = around
        """What each job runs in."""
        self.keep = checked_length("keep", keep, zero=False)
        """Seconds that jobs which are done or cancelled are kept for."""
        self.keep_failed = checked_length("keep_failed", keep_failed, zero=False)
        """Seconds that failed jobs are kept for."""
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._lock = threading.RLock()
        self._is_connecting = False  # guarded by _lock
        self._store: Store | None = None
        self._watch: Watch | None = None
        self._is_closed = False
        _apps.add(self)

    # Its tasks

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """Its tasks, by name."""
        return MappingProxyType(self._tasks)

    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        queue: str = "default",
        priority: int = 0,
        process: bool = False,
    ) -> TaskMaker: ...
    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        queue: str = "default",
        priority: int = 0,
        process: bool = False,
    ) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(timeout=30, retry=Retry(5))`.

        *name*: by which jobs know it, the same in every process; by default `module.function`. *timeout*: seconds that
        one attempt may run. *retry*: when a failed job runs again; None: it doesn't. *queue*, *priority*: of its jobs,
        if nothing else is asked for. *process*: it runs in a process of its own, for what keeps the interpreter busy.

        The type hints say what travels: a TypeError tells at once of those that can't.
        """
        settings = TaskSettings.checked(name, timeout, retry, queue, priority, process)
        return functools.partial(self._add, settings) if fn is None else self._add(settings, fn)

    def task_named(self, name: str) -> Task[Any, Any]:
        """The task of that name; LookupError, which knows what was meant, if there is none."""
        try:
            return self._tasks[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._tasks, n=3, cutoff=0.5)
            meant = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(self._tasks) or 'none yet'}"
            raise LookupError(f"{self!r} has no task {name!r}: {meant}") from None

    def _add(self, settings: TaskSettings, fn: Callable[..., Any]) -> Task[Any, Any]:
        kind = kind_of(fn, settings)
        task: Task[Any, Any] = (AsyncTask if kind is Kind.ASYNC else Task)(self, fn, kind, settings)
        with self._lock:
            other = self._tasks.get(task.name)
            if other is not None and not _is_typed_again(other.fn, fn):
                raise ValueError(
                    f"there is a task {task.name!r} already: {_place_of(other.fn)}; give {_place_of(fn)} another name=…"
                )
            self._tasks[task.name] = task
        return task

    # Its jobs

    def handle(self, id: str) -> Handle[Any]:
        """The handle of a job of which only the id is known. Asks nothing yet; `JobUnknown` comes when it is used."""
        return Handle(self, checked_name("id", id))

    @property
    def store(self) -> Store:
        """The way to its jobs; made when first used."""
        store = self._store
        if store is None:
            with self._lock:
                store = self._store
                if self._is_connecting:  # whoever else does it holds the lock
                    why = "a signal's handler has asked for it while its own thread was about to connect"
                    raise StoreUnavailable(without_password(self.url), why)
                if store is None:
                    self._is_connecting = True
                    try:
                        store = self._store = Store(self._connect)
                    finally:
                        self._is_connecting = False
                    if self._is_closed:
                        store.close()
        return store

    @property
    def watch(self) -> Watch:
        """Who waits for its jobs; made when first used."""
        store, watch = self.store, self._watch
        if watch is None:
            with self._lock:
                watch = self._watch
                if watch is None:
                    watch = self._watch = Watch(store)
        return watch

    def close(self) -> None:
        """Let go of the store: what was accepted stays, and whoever waits here is told. Safe to repeat; final."""
        with self._lock:
            self._is_closed = True
            store, watch = self._store, self._watch
        if watch is not None:
            watch.close()
        if store is not None:
            store.close()

    @contextlib.contextmanager
    def kept_in(self, store: Store) -> Iterator[None]:
        """A block in which its jobs are kept in *store*: for tests, by way of `penstock.testing`."""
        with self._lock:
            before = self._store, self._watch
            self._store, self._watch = store, None
        try:
            yield
        finally:
            with self._lock:
                watch = self._watch
                self._store, self._watch = before
            if watch is not None:
                watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<App {self.name} at {without_password(self.url)}>"

    def start_afresh(self) -> None:
        """In the child of a fork: a thread that the child doesn't have may have held the lock."""
        self._lock = threading.RLock()
        self._is_connecting = False

    def _connect(self) -> Engine:
        return connect(self.url)


def _place_of(fn: Callable[..., Any]) -> str:
    code = fn.__code__
    return f"{fn.__module__}.{fn.__qualname__} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _is_typed_again(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether *new* is *old*, defined once more at a prompt or in a notebook."""
    is_interactive = not hasattr(sys.modules.get("__main__"), "__file__")
    return is_interactive and old.__module__ == new.__module__ == "__main__" and old.__qualname__ == new.__qualname__


_apps: weakref.WeakSet[App] = weakref.WeakSet()


def _start_afresh() -> None:
    for app in list(_apps):
        app.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
