"""A durable job in a worker process of a pool: the app is found by its name, and nothing but bytes crosses."""

from __future__ import annotations

from typing import Any

from penstock.errors import Discard, Snooze
from penstock.job import current_job
from penstock.worker.claim import StoreClaim
from penstock.worker.named import find_app


def run(app_name: str, task_name: str, args: bytes, claim: tuple[int, int, int]) -> Any:
    """The encoded result of the task; or the `Snooze` or `Discard` that it raised."""
    app = find_app(app_name)
    task = app.tasks[task_name]
    terms: Any = getattr(current_job(), "_terms", None)
    if terms is not None:
        terms.claim = StoreClaim(app.store, *claim)
    positional, named = task.codec.decode_call(args)
    try:
        return task.codec.encode_result(task.fn(*positional, **named))
    except (Snooze, Discard) as asked:
        return asked
