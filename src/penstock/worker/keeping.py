"""What a supervisor asks of the store for its children: the rules of keeping leases, without a thread or a clock.

    a child is ready ──> watched ──(every third of a lease)── Renew ──> watched, or lost
    a child has ended ──> its death ── Sweep ──> told: what it held is ready again

Times are those of whoever drives it, monotonic.
"""

from __future__ import annotations

import math
from typing import Final

from penstock.engines.requests import Beat, Death, Prune, Renew, Renewed, Reply, Request, Sweep, Swept

BETWEEN_SWEEPS: Final = 5.0  # seconds
BETWEEN_PRUNES: Final = 60.0
_SOON: Final = 0.1  # after a prune, or a sweep, that found something: there may be more
_DEATHS: Final = 10  # told in one sweep: what all children of a large service held is not for one deadline


class Keeping:
    """The leases of a service's children, and the deaths that the store has not been told of."""

    def __init__(self, lease: float, prune: Prune) -> None:
        self._lease = lease
        self._prune = prune
        self._workers: set[int] = set()
        self._deaths: list[Death] = []
        self._leaving: set[int] = set()  # workers among them that held jobs
        self._renew_at = self._sweep_at = self._prune_at = 0.0
        self._asked: Request | None = None
        self._asked_at = 0.0
        self._is_closing = False

    # What happens

    def watch(self, worker: int) -> None:
        """Keep the lease of *worker* from now on."""
        self._workers.add(worker)

    def died(self, death: Death, *, leaves_jobs: bool) -> None:
        """Keep its lease no more, and hand back its jobs: at once, or when the store is there again.

        A worker that *leaves_jobs* is waited for before this is over; another one only stands in the store a while.
        """
        self._workers.discard(death.worker)
        self._deaths.append(death)
        if leaves_jobs:
            self._leaving.add(death.worker)

    def sweep_soon(self) -> None:
        """There may be suspects: look at once."""
        self._sweep_at = 0.0

    def close(self) -> None:
        """Be over once everything is told."""
        self._is_closing = True

    def is_over(self, *, store_is_away: bool) -> bool:
        """Whether it is closed, and has nothing to tell that is worth waiting for a store that is away."""
        return self._is_closing and (not self._deaths or (store_is_away and not self._leaving))

    @property
    def leaving(self) -> int:
        """Workers whose jobs could not be handed back yet."""
        return len(self._leaving)

    # What to ask

    def next(self, now: float) -> Request | None:
        """What to ask now; None if that is nothing until `due`. To be asked again until it is answered."""
        self._asked, self._asked_at = None, now
        if not self._workers:
            self._renew_at = now + self._lease / 3
        if now >= self._renew_at:
            self._asked = Renew([Beat(worker) for worker in sorted(self._workers)], self._lease)
        elif self._deaths or now >= self._sweep_at:
            self._asked = Sweep(self._deaths[:_DEATHS], self._lease)
        elif now >= self._prune_at:
            self._asked = self._prune
        return self._asked

    @property
    def due(self) -> float:
        """When there is something to ask even if nothing happens."""
        return min(self._renew_at if self._workers else math.inf, self._sweep_at, self._prune_at)

    def answered(self, reply: Reply) -> None:
        """The store has done what `next` said."""
        asked, now = self._asked, self._asked_at
        match asked:
            case Renew():
                assert isinstance(reply, Renewed)
                self._renew_at = now + self._lease / 3
                self._workers.difference_update(reply.lost)
            case Sweep():
                assert isinstance(reply, Swept)
                self._sweep_at = now + (_SOON if reply.lost else BETWEEN_SWEEPS)
                self._deaths = [death for death in self._deaths if death not in asked.deaths]
                self._leaving.difference_update(death.worker for death in asked.deaths)
            case Prune():
                self._prune_at = now + (_SOON if reply else BETWEEN_PRUNES)
