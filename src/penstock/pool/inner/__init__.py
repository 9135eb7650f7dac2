"""`ExecutorPool`: the promises of a pool around somebody else's executor.

One thread of ours stands between the two:

    submit ─> backlog ─> slots ── executor.submit ──> the executor: threads, processes, a cluster
                           ^  └── future.cancel ───>      │
                           └── the job's outcome <────────┘  its future ends, on whatever thread

    staff.py    who hands over, and how many may be handed over     slot.py   one job in the executor's hands
    carried.py  the context's journey                               known.py  what is known of an executor
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from penstock import raised
from penstock.errors import PoolBroken, PoolClosed
from penstock.job import Job
from penstock.pool.attempts import Attempts
from penstock.pool.crew import Crew
from penstock.pool.executor import Pool
from penstock.pool.inner.known import check_executor, jobs_at_once, runs_in_this_process
from penstock.pool.inner.staff import ExecutorStaff
from penstock.pool.terms import Around, JobTerms, PoolSettings, Unobserved, WhenFull, check_count, check_length
from penstock.retry import Retry

__all__ = ["ExecutorPool"]

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings(PoolSettings):
    """How a pool around an executor was asked to be."""

    executor: Executor
    carries_context: bool
    is_local: bool
    """The executor's workers are threads of this process: a job reaches them as it is."""
    max_stuck: int
    shutdown_executor: bool

    def check(self) -> None:
        """TypeError or ValueError that names what is wrong."""
        PoolSettings.check(self)
        for name in ("initializer", "around"):
            if getattr(self, name) is not None:
                raise TypeError(
                    f"ExecutorPool takes no {name}: the executor makes its own workers, and may make them elsewhere. "
                    f"{_INSTEAD[name]}"
                )
        check_count("max_stuck", self.max_stuck, least=0)
        check_length("stuck_after", self.margin)
        for name in ("carries_context", "shutdown_executor"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")


_INSTEAD = {"initializer": "Give it to the executor", "around": "Enter it inside the function"}


class ExecutorPool(Pool):
    """A bounded pool that always stops, around another `concurrent.futures.Executor`: Dask's, loky's, the stdlib's.

    *executor*: runs the jobs. *max_workers*: how many may be in its hands at once; by default as many as it has
    workers, where that can be known (the stdlib's, loky's; Dask's cores at this moment).
    *backlog*, *when_full*, *submit_timeout*, *retry*, *grace*, *unobserved*, *name*, *max_retrying*: as for threads.
    *timeout*: seconds that one attempt of a job may be in the executor's hands, then it fails with `DeadlineExceeded`
    and its future is cancelled, if the executor can do that. *stuck_after*: seconds after its deadline at which a job
    that is still in the executor's hands is told of, and its slot goes to another, at most *max_stuck* (default:
    max_workers) at once.
    *carries_context*: a job that has a time limit or a context takes them along, in a callable of penstock's, which
    the workers have to be able to import; False: the function itself is all that is handed over.
    *shutdown_executor*: when the pool has stopped, shut the executor down, without waiting past the stop's budget.
    *initializer*, *initargs*, *around*: refused; the executor makes its own workers.

    A job is handed over as it is, its function and its arguments, and counts as running from then on. A job that waits
    for jobs of its own pool gets `NestedWait` if all would wait then: the executor has no slot to lend. The how-to page
    says for each executor what else can't be promised. Every method is safe from any thread.
    """

    def __init__(
        self,
        executor: Executor,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        backlog: int = 100,
        when_full: WhenFull | None = None,
        submit_timeout: float | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        grace: float = 30.0,
        unobserved: Unobserved = "log",
        around: Around | None = None,
        name: str | None = None,
        carries_context: bool = True,
        shutdown_executor: bool = False,
        stuck_after: float = 5.0,
        max_stuck: int | None = None,
        max_retrying: int = 1_000,
    ) -> None:
        check_executor(executor)
        workers = jobs_at_once(executor) if max_workers is None else max_workers
        settings = ExecutorSettings(
            name=name or f"ExecutorPool-{next(_numbers)}",
            max_workers=workers,
            backlog=backlog,
            grace=grace,
            unobserved=unobserved,
            around=around,
            initializer=initializer,
            initargs=tuple(initargs),
            margin=stuck_after,
            max_retrying=max_retrying,
            executor=executor,
            carries_context=carries_context,
            is_local=runs_in_this_process(executor),
            max_stuck=workers if max_stuck is None else max_stuck,
            shutdown_executor=shutdown_executor,
        )
        settings.check()
        crew = ExecutorCrew(settings)
        terms = JobTerms.checked(
            crew=crew, when_full=when_full, submit_timeout=submit_timeout, timeout=timeout, retry=retry
        )
        super().__init__(crew, terms)


class ExecutorCrew(Crew):
    """The inside of one pool around an executor."""

    settings: ExecutorSettings
    staff: ExecutorStaff

    def _hire(self) -> tuple[ExecutorStaff, Attempts]:
        return ExecutorStaff(self), Attempts(self)

    def heed(self, job: Job[Any]) -> None:
        """Its context was made just now: when that trips, the executor is to hear of it."""
        self.attempts.listen(job)

    def refusal(self) -> PoolClosed | PoolBroken:
        """Why no job is taken any more."""
        broken = self.staff.broken
        if broken is None:
            return super().refusal()
        refused = PoolBroken(self.name, f"its executor takes no more jobs: {raised.sentence(broken)}")
        refused.__cause__ = broken
        return refused
