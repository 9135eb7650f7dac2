"""A worker for tests, which does one thing at a time, when it is told to."""

from __future__ import annotations

from typing import Any

from penstock import App
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    ClaimedJob,
    Error,
    Outcome,
    Progress,
    Renew,
    Settle,
    Settlement,
    Want,
)

NUMBER = 7


class Service:
    """Claims, settles and does nothing by itself."""

    def __init__(self, app: App) -> None:
        self._app = app
        app.store.ask(Renew([Beat(NUMBER, first=True)], 3600.0))

    def claim(self) -> ClaimedJob:
        """The next job, which runs from now on."""
        (claimed,) = self._app.store.ask(Claim(NUMBER, None, [Want(frozenset(self._app.tasks), 1)]))
        assert isinstance(claimed, Claimed)
        ((job,),) = claimed.jobs
        return job

    def settle(self, job: ClaimedJob, outcome: Outcome, **how: Any) -> None:
        """End the attempt."""
        (settled,) = self._app.store.ask(Settle([Settlement(job.seq, job.token, outcome, **how)]))
        assert settled == [True]

    def progress(self, job: ClaimedJob, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is."""
        self._app.store.ask(Progress(job.seq, job.token, done, total, note))

    def do(self) -> None:
        """Run the next job, well or not."""
        job = self.claim()
        task = self._app.tasks[job.task]
        args, kwargs = task.codec.decode_call(job.args)
        try:
            result = task.codec.encode_result(task(*args, **kwargs))
        except Exception as error:
            told = Error(type(error).__qualname__, str(error), "Traceback of the worker\n", "print")
            self.settle(job, Outcome.FAILED, error=told)
        else:
            self.settle(job, Outcome.DONE, result=result)
