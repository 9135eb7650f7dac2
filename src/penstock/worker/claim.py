"""What a running durable job is to its pool: the terms that it runs under, and the claim that it can be asked for.

One object for both, made for each claimed job; what is the same for all jobs of a task is written in a class of its own
for each task (`terms_of`), so that making one costs little.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, cast

from penstock import clock
from penstock.app.completing import Completing
from penstock.engines.requests import Progress
from penstock.engines.store import Store
from penstock.errors import StoreError
from penstock.failures import as_unicode
from penstock.job import Job
from penstock.pool.terms import JobTerms

_BETWEEN: Final = 0.5  # seconds between two words on one job's progress
_LONGEST_NOTE: Final = 1_000  # characters

_telling = threading.Lock()  # guards `_next` of all claims; a leaf, held for a comparison


class StoreClaim(Completing):
    """A claim on a job in *store*: its number, and the way to tell how far the job is."""

    __slots__ = ("_next", "attempt", "seq", "token")

    def __init__(self, seq: int, token: int, attempt: int) -> None:
        self.seq = seq
        self.token = token
        self.attempt = attempt
        self._next = 0.0  # monotonic: what comes before is held back

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell the store, at most twice a second; but always of the end, when *done* is *total*."""
        with _telling:
            now = clock.monotonic()
            if now < self._next and done != total:
                return
            self._next = now + _BETWEEN
        if len(note) > _LONGEST_NOTE:
            note = note[:_LONGEST_NOTE] + "…"
        try:
            self.store.post(Progress(self.seq, self.token, done, total, as_unicode(note)))
        except StoreError:
            return  # it is a word on the way; the outcome is what must not be lost

    def ended(self, job: Job[Any]) -> None:
        """Nobody here waits for it."""


class ClaimedTerms(StoreClaim):
    """The terms of a claimed job: what `JobTerms` has, with the claim in it. *held*: what it is to its worker."""

    __slots__ = ("_held", "id")

    on_end: Callable[[Any, Job[Any]], None]

    def __init__(self, held: Any) -> None:
        claimed = held.job
        StoreClaim.__init__(self, claimed.seq, claimed.token, claimed.attempt)
        self._held = held
        self.id = claimed.id

    @property
    def claim(self) -> ClaimedTerms:
        """Itself."""
        return self

    def completed(self) -> None:
        """See `Completing`."""
        self._held.has_completed = True

    def ended(self, job: Job[Any]) -> None:
        """The pool's job has its outcome; on any thread."""
        type(self).on_end(self._held, job)


def terms_of(store: Store, crew: Any, task: Any, on_end: Callable[[Any, Job[Any]], None]) -> Callable[[Any], JobTerms]:
    """What makes the terms of a claimed job of *task*; *on_end* is called with what is held and the pool's job."""
    same = {
        "store": store,
        "task": task,
        "on_end": staticmethod(on_end),
        "crew": crew,
        "when_full": "block",
        "submit_timeout": None,
        "timeout": task.timeout,
        "retry": None,
        "name": task.name,
        "context": None,
        "inherit": False,
        "plain": task.timeout is None,
        "__slots__": (),
    }
    return cast(Callable[[Any], JobTerms], type("ClaimedTerms", (ClaimedTerms,), same))
