"""What a dead worker leaves behind: two errors, apart from the others because their parents in the stdlib load much."""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool

from penstock.errors import NoResult, PoolBroken


class WorkerDied(NoResult, BrokenProcessPool):
    """The worker process that ran the job ended. The job may have run in part; no other job is touched.

    *exitcode*: as `multiprocessing.Process.exitcode` has it, minus the signal's number if one ended it. *oom*: whether
    the system ended a process for lack of memory meanwhile. *traceback*: where the worker stood, if it could tell
    (a segmentation fault, say). The pool goes on with a new worker; the job runs again only if its `Retry` names this.
    """

    def __init__(self, job: str, exitcode: int | None, *, oom: bool = False, traceback: str = "") -> None:
        super().__init__(job, exitcode)
        self.job = job
        self.exitcode = exitcode
        self.oom = oom
        self.traceback = traceback

    def __str__(self) -> str:
        stood = f"; it stood at:\n{self.traceback.rstrip()}" if self.traceback else ""
        return f"{self.job}: its worker process {how_it_ended(self.exitcode, oom=self.oom)}{stood}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, vars(self))


class ProcessPoolBroken(PoolBroken, BrokenProcessPool):
    """No worker process could be made ready. What went wrong is the `__cause__`."""


def how_it_ended(exitcode: int | None, *, oom: bool = False) -> str:
    """Words for an exit code: "was ended by SIGKILL, likely for lack of memory"."""
    if exitcode is None:
        return "was lost"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"was ended by {name}{', likely for lack of memory' if oom else ''}"
