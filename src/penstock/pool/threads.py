"""`ThreadPool`: a pool whose workers are threads of this process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

from penstock.pool.attempts import Attempts
from penstock.pool.crew import Crew
from penstock.pool.executor import Pool
from penstock.pool.staff import Staff
from penstock.pool.terms import Around, JobTerms, ThreadSettings, Unobserved, WhenFull, check_text
from penstock.retry import Retry

_numbers = itertools.count(1)


class ThreadPool(Pool):
    """A bounded pool of threads that always stops: a `concurrent.futures.Executor`.

    *max_workers*: threads, by default min(32, CPUs + 4). They start with the first jobs; `start` starts all.
    *thread_name_prefix*: threads are named prefix_0, prefix_1, … *initializer*: called as `initializer(*initargs)` on
    each thread before its first job; if it raises, the pool is broken.
    *backlog*: how many accepted jobs may wait (1 to ten million). *when_full*: what `submit` does then: "block" (at
    most *submit_timeout* seconds), "reject" (raise `BacklogFull`), "caller" (run it right there), or None: block, but
    not on a thread that runs an event loop.
    *timeout*: seconds that one attempt of a job may run, then it fails with `DeadlineExceeded` whatever its thread
    does. *retry*: when a failed job runs again. *grace*: seconds for a stop by an exception that leaves the block or by
    the end of the interpreter.
    *unobserved*: failures that nobody looked at are logged ("log"), leave the block as an ExceptionGroup ("raise"), or
    neither ("ignore"). *around*: called for each job in its worker, gives a context manager to run it in.
    *name*: of the pool, in logs and reports.
    *stuck_after*: seconds after its deadline at which a job's thread that is still in it is shown and replaced, at most
    *max_stuck* (default: max_workers) at once. *max_lent*: how many workers may wait for jobs of their own pool at
    once. *max_retrying*: how many jobs may wait for another attempt at once.

    `with` waits at its end for all accepted jobs, as long as they take. Forgetting the pool is like closing it: what
    was accepted still runs. Every method is safe from any thread.
    """

    _crew: ThreadCrew

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
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
        stuck_after: float = 5.0,
        max_stuck: int | None = None,
        max_lent: int = 100,
        max_retrying: int = 1_000,
    ) -> None:
        check_text("thread_name_prefix", thread_name_prefix)
        workers = _default_workers() if max_workers is None else max_workers
        prefix = thread_name_prefix or name or f"ThreadPool-{next(_numbers)}"
        settings = ThreadSettings(
            name=name or prefix,
            prefix=prefix,
            max_workers=workers,
            backlog=backlog,
            grace=grace,
            unobserved=unobserved,
            around=around,
            initializer=initializer,
            initargs=tuple(initargs),
            margin=stuck_after,
            max_stuck=workers if max_stuck is None else max_stuck,
            max_lent=max_lent,
            max_retrying=max_retrying,
        )
        settings.check()
        crew = ThreadCrew(settings)
        terms = JobTerms.checked(
            crew=crew, when_full=when_full, submit_timeout=submit_timeout, timeout=timeout, retry=retry
        )
        super().__init__(crew, terms)


class ThreadCrew(Crew):
    """The inside of one thread pool."""

    settings: ThreadSettings
    staff: Staff

    def _hire(self) -> tuple[Staff, Attempts]:
        return Staff(self), Attempts(self)


def _default_workers() -> int:
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return min(32, (count() or 1) + 4)
