"""What an app has enqueued, as its tests want to see it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

from penstock.app.app import App
from penstock.app.codec.codec import decode_headers
from penstock.app.handle import Handle
from penstock.app.task import Task
from penstock.engines.records import Record, Search
from penstock.job import JobState

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """One job that was enqueued.

    *args* and *kwargs* are what the function gets, defaults filled in; *arguments* the same by the names of the
    parameters. *delay*: seconds from the enqueue until it may run.
    """

    task: Task[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    id: str
    queue: str
    priority: int
    delay: float
    headers: Mapping[str, str]
    state: JobState
    handle: Handle[Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by the names of their parameters."""
        return dict(inspect.signature(self.task.fn).bind(*self.args, **self.kwargs).arguments)

    def __str__(self) -> str:
        return f"{_shown(self.task, self.args, self.kwargs)}, {self.state}"


def enqueued(app: App, task: Task[..., Any] | None = None) -> list[Enqueued]:
    """The jobs that *app*'s store has, of *task* or of all its tasks, the first enqueued first; ended ones, too."""
    records: list[Record] = []
    search = Search(task=None if task is None else task.name, limit=1_000)
    while found := app.store.find(search):
        records += found
        search = Search(task=search.task, before=found[-1].seq, limit=1_000)
    return [_seen(app, record) for record in reversed(records) if record.task in app.tasks]


def assert_enqueued(task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Enqueued:
    """The first job of *task* that was enqueued with these arguments; AssertionError, which shows those there are.

    Arguments are compared as the function gets them: it is all the same whether they were given by place or by name,
    or left to their defaults.
    """
    wanted = task.codec.decode_call(task.codec.encode_call(args, kwargs))
    there = enqueued(task.app, task)
    for job in there:
        if (job.args, job.kwargs) == wanted:
            return job
    shown = "".join(f"\n  {job}" for job in there) or " none at all"
    raise AssertionError(f"{_shown(task, *wanted)} was not enqueued; of this task there are:{shown}")


def _shown(task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    given = inspect.signature(task.fn).bind(*args, **kwargs).arguments
    return f"{task.name}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _seen(app: App, record: Record) -> Enqueued:
    task = app.tasks[record.task]
    args, kwargs = task.codec.decode_call(record.args)
    return Enqueued(
        task=task,
        args=args,
        kwargs=kwargs,
        id=record.id,
        queue=record.queue,
        priority=record.priority,
        delay=max(0.0, record.due - record.enqueued),
        headers=decode_headers(record.headers),
        state=record.state,
        handle=Handle(app, record.id, task),
    )
