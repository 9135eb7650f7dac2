"""Every error that Penstock raises.

PenstockError
├── Refused                not accepted: the job will never run
│   ├── BacklogFull        no place within the caller's time
│   ├── PoolClosed         the pool takes no more jobs (also a RuntimeError)
│   └── PoolBroken         no job can run: an initializer failed, say (also a BrokenThreadPool)
├── NestedWait             waiting here could never end (also a RuntimeError)
├── NoResult               accepted, but there is no result to give
│   ├── JobCancelled       it was cancelled (also a concurrent.futures.CancelledError)
│   ├── DeadlineExceeded   its time ran out; deliberately not a TimeoutError
│   ├── JobAbandoned       its pool had to stop and left its thread behind
│   ├── JobKilled          its pool had to stop and killed its process
│   ├── JobDropped         the executor around which its pool is cancelled it (also a CancelledError)
│   ├── WorkerDied         its process ended under it (also a BrokenProcessPool)
│   └── JobFailed          a durable job raised, in the process that ran it: its error in words
├── StoreError             of a store of durable jobs
│   ├── StoreUnavailable   it can't be reached now, or is too busy; nothing was changed (also a Refused)
│   ├── OutcomeUnknown     the answer never came: done or not; asking again with the same id is safe
│   ├── StoreInvalid       it is no store of ours, is damaged, or was made by a newer version
│   ├── JobUnknown         it has no job of this id (any more) (also a LookupError)
│   └── LeaseLost          the job is another worker's now
├── NotCommitted           a task returned, and the transaction with which its job was to be done was rolled back
├── EnqueuedInPart         enqueue_many stopped half-way: which jobs were accepted
├── NotEncodable           an argument or a result that JSON of its type can't hold (also a TypeError)
├── NotDecodable           what is stored doesn't fit the task (any more)
├── Snooze                 raised by a task: run me again later
├── Discard                raised by a task: nobody needs me to run
├── NotPicklable           a call, a result or an error can't cross to another process (also a PicklingError)
└── Incomplete             a block ended although accepted jobs were cut short

Cancelled                  a BaseException: unwinds a job whose context was tripped

An error keeps its parts in `args` and makes its sentence in `__str__`, so that it survives pickling.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
from _pickle import PicklingError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.context import Context
    from penstock.report import Report


class PenstockError(Exception):
    """The root of everything that Penstock raises, but for `Cancelled`."""


class Refused(PenstockError):
    """The job was not accepted, and will never run. Submitting it again is safe."""


class BacklogFull(Refused):
    """The backlog had no place for one more job.

    *backlog* is its size in jobs, *waited* how many seconds the caller was made to wait for a place, and
    *hint* what to do instead, where there is something.
    """

    def __init__(self, backlog: int, waited: float = 0.0, hint: str = "") -> None:
        super().__init__(backlog, waited, hint)
        self.backlog = backlog
        self.waited = waited
        self.hint = hint

    def __str__(self) -> str:
        waited = f" after {self.waited:.3g} s of waiting" if self.waited else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"the backlog is full ({self.backlog} jobs wait){waited}{hint}"


class PoolClosed(Refused, RuntimeError):
    """The pool takes no more jobs: it was closed, is being stopped, or belongs to the parent of a fork."""

    def __init__(self, pool: str, why: str = "it was closed") -> None:
        super().__init__(pool, why)
        self.pool = pool
        self.why = why

    def __str__(self) -> str:
        return f"cannot schedule new futures: pool {self.pool!r} takes no more jobs, {self.why}"


class PoolBroken(Refused, concurrent.futures.thread.BrokenThreadPool):
    """No job can run: the pool's initializer raised, or its executor takes no more. That error is the `__cause__`."""

    def __init__(self, pool: str, why: str) -> None:
        super().__init__(pool, why)
        self.pool = pool
        self.why = why

    def __str__(self) -> str:
        return f"pool {self.pool!r} is broken: {self.why}"


class NestedWait(PenstockError, RuntimeError):
    """A job asked to wait for something that could not happen while it waits."""

    def __init__(self, waiter: str, target: str, why: str) -> None:
        super().__init__(waiter, target, why)
        self.waiter = waiter
        self.target = target
        self.why = why

    def __str__(self) -> str:
        return f"{self.waiter} can't wait for {self.target}: {self.why}"


class NoResult(PenstockError):
    """The job was accepted, but there is no result to give. A `Retry` repeats these only if it names them."""


class JobCancelled(NoResult, concurrent.futures.CancelledError):
    """The job was cancelled before its end. *started* is True if it was running, so that it may have run in part."""

    def __init__(self, job: str, reason: str = "cancelled", *, started: bool = False) -> None:
        super().__init__(job, reason)
        self.job = job
        self.reason = reason
        self.started = started

    def __str__(self) -> str:
        return f"{self.job} was cancelled{' while it ran' if self.started else ''}: {self.reason}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, vars(self))


class DeadlineExceeded(NoResult):
    """Time ran out. *started* is False if the job never began to run.

    Not a `TimeoutError`: that is an `OSError`, so that `except OSError` around file or network calls would swallow
    it, and `job.result(timeout)` in a loop could not tell its own time-out from the job's.
    """

    def __init__(self, job: str, limit: float | None = None, *, started: bool = True) -> None:
        super().__init__(job, limit)
        self.job = job
        self.limit = limit
        self.started = started

    def __str__(self) -> str:
        limit = "its deadline" if self.limit is None else f"its limit of {self.limit:.6g} s"
        return f"{self.job} {'exceeded' if self.started else 'never started within'} {limit}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, vars(self))


class JobAbandoned(NoResult):
    """The pool's time to stop was over while the job ran; its thread was left behind and may still be running."""

    def __init__(self, job: str, seconds: float) -> None:
        super().__init__(job, seconds)
        self.job = job
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{self.job} was still running after {self.seconds:.3g} s when its pool had to stop; it was left behind"


class JobKilled(NoResult):
    """The pool's time to stop was over while the job ran; its process was killed. It may have run in part."""

    def __init__(self, job: str, seconds: float) -> None:
        super().__init__(job, seconds)
        self.job = job
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{self.job} was still running after {self.seconds:.3g} s when its pool had to stop; it was killed"


class JobDropped(NoResult, concurrent.futures.CancelledError):
    """The executor around which the pool is has cancelled the job, and nobody had asked for that.

    It was shut down, or has lost its cluster. The job may have run in part.
    """

    def __init__(self, job: str) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"{self.job} was dropped: its executor cancelled it, and nobody had asked for that"


class JobFailed(NoResult):
    """The durable job raised, and that was its last attempt. What it raised stayed in the process that ran it.

    *type* is the name of its exception, *message* its text, *traceback* where it came from, as Python prints it.
    """

    def __init__(self, type: str, message: str, traceback: str = "", job: str = "") -> None:
        super().__init__(type, message, traceback, job)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.job = job

    def __str__(self) -> str:
        return f"{self.job or 'the job'} failed: {self.type}{': ' if self.message else ''}{self.message}"


class NotPicklable(PenstockError, PicklingError):
    """A call, a result or an error can't cross the border between processes; the text names the part that can't."""


class StoreError(PenstockError):
    """Something about a store of durable jobs."""


class StoreUnavailable(StoreError, Refused):
    """The store can't be reached now, is full, read-only or too busy. Nothing was changed: trying again is safe."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why

    def __str__(self) -> str:
        return f"the store {self.url} can't be used now: {self.why}"


class OutcomeUnknown(StoreError):
    """The store never answered: what was asked may be done or not. Asking again with the same *ids* is safe."""

    def __init__(self, ids: tuple[str, ...] = ()) -> None:
        super().__init__(ids)
        self.ids = ids

    def __str__(self) -> str:
        which = f" ({', '.join(self.ids[:3])}{', …' if len(self.ids) > 3 else ''})" if self.ids else ""
        return (
            f"the store never answered: what was asked may be done or not{which}; asking again with the same id is safe"
        )


class StoreInvalid(StoreError):
    """It is no store of ours, is damaged, or was made by a newer version. Trying again won't help."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why

    def __str__(self) -> str:
        return f"{self.url} is no store that can be used: {self.why}"


class JobUnknown(StoreError, LookupError):
    """The store has no job of this *id*: it was never enqueued there, or it ended so long ago that it was pruned."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"the store has no job {self.id}: it was never enqueued there, or it ended and was pruned"


class LeaseLost(StoreError):
    """The worker that ran the job gave no sign of life for too long: the job is another's now, and runs again."""

    def __init__(self, job: str) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"{self.job} is another worker's now: this one's lease ran out"


class NotCommitted(PenstockError):
    """A task returned, though the transaction in which it had completed its job was rolled back, or is open still."""

    def __str__(self) -> str:
        return (
            "the task has returned, but the transaction in which it completed its job was not committed: "
            "complete as the last thing before the commit, and let errors leave the task"
        )


class EnqueuedInPart(PenstockError):
    """`enqueue_many` stopped half-way. The jobs of *ids* were accepted and will run; the `__cause__` tells why.

    Of those after them none was accepted, unless the `__cause__` is an `OutcomeUnknown`, which names its own.
    """

    def __init__(self, task: str, ids: tuple[str, ...]) -> None:
        super().__init__(task, ids)
        self.task = task
        self.ids = ids

    def __str__(self) -> str:
        return f"not all jobs of {self.task} were enqueued: the first {len(self.ids)} were accepted and will run"


class NotEncodable(PenstockError, TypeError):
    """An argument or a result of *task* can't be kept: it doesn't fit its type, or JSON can't hold it."""

    def __init__(self, task: str, why: str) -> None:
        super().__init__(task, why)
        self.task = task
        self.why = why

    def __str__(self) -> str:
        return f"{self.task}: {self.why}"


class NotDecodable(PenstockError):
    """What is stored of a job doesn't fit its *task*, which was changed since, say. Running it again won't help."""

    def __init__(self, task: str, why: str) -> None:
        super().__init__(task, why)
        self.task = task
        self.why = why

    def __str__(self) -> str:
        return f"{self.task}: {self.why}"


class Snooze(PenstockError):
    """Raised by a task that can't do its work yet: it runs again after *seconds*. That costs no attempt."""

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds must be a number, not {seconds!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be zero or more, not {seconds!r}")
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"to run again in {self.seconds:.6g} s"


class Discard(PenstockError):
    """Raised by a task whose work nobody needs (any more): it ends as cancelled, with this *reason*."""

    def __init__(self, reason: str = "discarded by its task") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Incomplete(PenstockError):
    """A block ended although accepted jobs were cut short. `report` says what became of every one."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return f"not every accepted job ran to its end: {self.report}"


class Cancelled(BaseException):
    """Raised inside a job (or a `with Context` block) by `check` and `sleep` once its context was tripped.

    A `BaseException`, as in asyncio and trio, so that `except Exception` can't eat it. Clean up and let it pass:
    outside, the job's handle raises `DeadlineExceeded` or `JobCancelled`.
    """

    def __init__(self, reason: str, *, source: Context | None = None, by_deadline: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.source = source  # the context whose own trip this is; not carried across processes
        self.by_deadline = by_deadline

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, {**vars(self), "source": None})
