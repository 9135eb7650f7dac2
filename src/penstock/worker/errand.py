"""A durable job in a worker process of a pool: the app is found by its name, and nothing but bytes crosses."""

from __future__ import annotations

from typing import Any

from penstock.app import attempt
from penstock.job import current_job
from penstock.worker.claim import StoreClaim
from penstock.worker.named import find_app


class _Claim(StoreClaim):
    """The claim of the one job that runs in this process."""

    has_completed = False

    def completed(self) -> None:
        """See `Completing`."""
        self.has_completed = True


def run(app_name: str, task_name: str, args: bytes, claim: tuple[int, int, int]) -> attempt.Ended:
    """The encoded result of the task; or the `Snooze` or `Discard` that it raised."""
    app = find_app(app_name)
    task = app.tasks[task_name]
    mine = _Claim(*claim)
    mine.store, mine.task = app.store, task
    terms: Any = getattr(current_job(), "_terms", None)
    if terms is not None:
        terms.claim = mine
    ended = attempt.run(task, args)
    return attempt.ended_of(ended, has_completed=mine.has_completed)
