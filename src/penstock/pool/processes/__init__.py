"""`ProcessPool`: a pool whose workers are processes.

One duplex channel for each worker, nothing shared between workers, and one thread that hears them all:

    submit ─> backlog ─> staff ── jobs lane ──> child      staff.py       who gets which job, and takes it back
                           │ <── answers ───────  │        dispatcher.py  the thread that hears the workers
              dispatcher ──┴─── control lane ─────┘        worker.py      the parent's side of one worker
                                                           child.py       the worker's side
    wire.py  how they speak      page.py  what has begun   parcel.py      what crosses, and what can't
    launch.py  starting processes     died.py  what a dead one leaves     arrivals.py  outcomes that take code to unpack
    main.py  which `__main__` they have     records.py  their log records     culprit.py  what can't be pickled
    processors.py  how many there are     lifeline.py  how they end with their parent
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing.util  # noqa: F401 - first: its exit waits for processes, ours must come before it
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

from penstock import raised
from penstock.errors import PoolBroken, PoolClosed
from penstock.job import Job
from penstock.pool.attempts import Attempts
from penstock.pool.crew import Crew
from penstock.pool.executor import Pool
from penstock.pool.leaving import stop_all
from penstock.pool.processes import main
from penstock.pool.processes.died import ProcessPoolBroken, WorkerDied
from penstock.pool.processes.launch import start_method
from penstock.pool.processes.parcel import Parcel, RemoteTraceback
from penstock.pool.processes.processors import cpu_count
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.terms import Around, JobTerms, PoolSettings, Unobserved, WhenFull, check_count, check_length
from penstock.retry import Retry

__all__ = ["ProcessPool", "ProcessPoolBroken", "RemoteTraceback", "WorkerDied"]

_NO_GUARD = (
    "it was used while a worker imports the main module, as each does that starts; what starts work in the script "
    'belongs under `if __name__ == "__main__":`'
)

_numbers = itertools.count(1)

atexit.register(stop_all)  # again, as the last to be registered is the first to run


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings(PoolSettings):
    """How a pool of processes was asked to be."""

    start_method: str
    preload: tuple[str, ...]
    max_jobs_per_worker: int | None

    def check(self) -> None:
        """TypeError or ValueError that names what is wrong."""
        PoolSettings.check(self)
        check_length("kill_after", self.margin)
        if self.max_jobs_per_worker is not None:
            check_count("max_tasks_per_child", self.max_jobs_per_worker)
        for module in self.preload:
            if not isinstance(module, str):
                raise TypeError(f"preload must name modules, not {module!r}")


class ProcessPool(Pool):
    """A bounded pool of worker processes that always stops: a `concurrent.futures.Executor`.

    *max_workers*: processes, by default as many as this process may use processors, by its affinity and its control
    group. They start with the first jobs and stay; `start` starts all. *mp_context*: whose start method is used, if it
    is not given by *start_method*: "forkserver" (the default where there is one) or "spawn"; never "fork".
    *initializer*: called as `initializer(*initargs)` in each process before its first job; if it raises, the pool is
    broken. *preload*: modules that are imported before: in the fork server, if that has not started yet.
    *max_tasks_per_child*: how many jobs a process runs before another takes its place; None: no limit.
    *backlog*, *when_full*, *submit_timeout*, *retry*, *grace*, *unobserved*, *name*, *max_retrying*: as for threads.
    *around*: called for each job in its worker, so that it must be picklable.
    *timeout*: seconds that one attempt of a job may run, then it fails with `DeadlineExceeded`; `current_context()` is
    tripped over there. *kill_after*: seconds after that, or after a `cancel`, at which a process that is still in the
    job is killed and replaced.

    Functions, arguments and results are pickled (arguments at the call; what can't be is the job's failure,
    `NotPicklable`). A worker that dies fails the job that it ran with `WorkerDied`, and no other. Log records of the
    workers are handled here. Every method is safe from any thread.
    """

    _crew: ProcessCrew

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        backlog: int = 100,
        when_full: WhenFull | None = None,
        submit_timeout: float | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        grace: float = 30.0,
        unobserved: Unobserved = "log",
        around: Around | None = None,
        name: str | None = None,
        start_method: str | None = None,
        preload: Sequence[str] = (),
        kill_after: float = 1.0,
        max_retrying: int = 1_000,
    ) -> None:
        if isinstance(preload, str):
            raise TypeError(f"preload must be a list of modules' names, not {preload!r}")
        settings = ProcessSettings(
            name=name or f"ProcessPool-{next(_numbers)}",
            max_workers=cpu_count() if max_workers is None else max_workers,
            backlog=backlog,
            grace=grace,
            unobserved=unobserved,
            around=around,
            initializer=initializer,
            initargs=tuple(initargs),
            margin=kill_after,
            max_retrying=max_retrying,
            start_method=_method(start_method, mp_context),
            preload=tuple(preload),
            max_jobs_per_worker=max_tasks_per_child,
        )
        settings.check()
        crew = ProcessCrew(settings)
        terms = JobTerms.checked(
            crew=crew, when_full=when_full, submit_timeout=submit_timeout, timeout=timeout, retry=retry
        )
        super().__init__(crew, terms)


class ProcessCrew(Crew):
    """The inside of one process pool."""

    settings: ProcessSettings
    staff: ProcessStaff
    broken_error = ProcessPoolBroken

    def __init__(self, settings: ProcessSettings) -> None:
        self.main = main.of_this_process()
        self._too_early = main.is_being_imported()
        super().__init__(settings)

    def _hire(self) -> tuple[ProcessStaff, Attempts]:
        return ProcessStaff(self), Attempts(self)

    def pack(self, job: Job[Any], runs_here: bool = False) -> None:
        """Make the call of *job* fit to cross; NotPicklable if it can't. *runs_here*: its first attempt does."""
        if self._too_early:
            self.refuse_if_too_early()
        parcel = Parcel(job, job._fn, job._args)  # type: ignore[arg-type]
        if runs_here:
            parcel.keep(job._args)  # type: ignore[arg-type]
        else:
            job._cv = None  # contextvars stay here
        job._args = parcel  # type: ignore[assignment]

    def refuse_if_too_early(self) -> None:
        """A worker imports the script that started it: raise if that starts work again, without end."""
        self._too_early = main.is_being_imported()
        if self._too_early:
            raise ProcessPoolBroken(self.name, _NO_GUARD)

    def heed(self, job: Job[Any]) -> None:
        """Its context was made just now: its worker has to hear when that trips."""
        self.attempts.listen(job)

    def refusal(self) -> PoolClosed | PoolBroken:
        """Why no job is taken any more."""
        broken = self.staff.broken
        if broken is None:
            return super().refusal()
        return self.broken_by(broken, f"its workers can't be made ready: {raised.sentence(broken)}")

    def abandon(self) -> None:
        """After LEAVING: every job gets its outcome now, and every worker is killed."""
        self.staff.look_at_running()
        self.staff.let_arrive()
        super().abandon()
        self.staff.kill_all()


def _method(asked: str | None, mp_context: BaseContext | None) -> str:
    if mp_context is not None:
        if not isinstance(mp_context, BaseContext):
            raise TypeError(f"mp_context must be a multiprocessing context, not {mp_context!r}")
        asked = asked or mp_context.get_start_method()
    return start_method(asked)
