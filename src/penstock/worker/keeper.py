"""The supervisor's thread that talks to the store: it keeps the leases, hands back the jobs of the dead, and sweeps.

Apart from the supervisor's main thread, which must not wait for a store: it has to end children on time whatever the
store does. Nobody else in the supervisor asks the store anything.

    main thread ── watch, forget, died ──> [workers] [deaths] ──> renew every third of a lease, sweep, prune
                <── lost, cancelled, suspects, state ── tell()
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from penstock import clock
from penstock.engines.bell import Bell
from penstock.engines.requests import Beat, Death, Prune, Renew, Renewed, Sweep, Swept
from penstock.engines.store import Store
from penstock.errors import StoreError
from penstock.worker.backoff import Backoff
from penstock.worker.counted import counted

log = logging.getLogger("penstock.work")

_BETWEEN_SWEEPS: Final = 5.0  # seconds
_BETWEEN_PRUNES: Final = 60.0
_PATIENCE: Final = 5.0  # seconds that one call may take

Tell = Callable[[dict[str, Any]], None]


class Keeper:
    """Keeps the leases of a service's children in *store*.

    *tell*: called on its thread with what the main one must know.
    Lock: `_lock` guards `_workers`, `_deaths`, `_leaving` and `_is_closing`; a leaf.
    """

    def __init__(self, store: Store, lease: float, prune: Prune, tell: Tell) -> None:
        self._store = store
        self._lease = lease
        self._prune = prune
        self._tell = tell
        self._lock = threading.Lock()
        self._workers: set[int] = set()
        self._deaths: list[Death] = []
        self._leaving: set[int] = set()  # workers among them that held jobs
        self._is_closing = False
        self._bell = Bell()
        self._renew_at = self._sweep_at = self._prune_at = 0.0  # monotonic; the keeper's own
        self._backoff = Backoff()
        self._is_down = False
        self.last_answer = clock.monotonic()  # when the store last did what it was asked
        self._thread = threading.Thread(target=self._keep, name="penstock-keeper", daemon=True)
        self._thread.start()

    # The main thread

    def watch(self, worker: int) -> None:
        """Keep the lease of *worker* from now on."""
        with self._lock:
            self._workers.add(worker)

    def died(self, death: Death, *, leaves_jobs: bool) -> None:
        """Keep its lease no more, and hand back its jobs: at once, or when the store is there again.

        A worker that *leaves_jobs* is waited for when this closes; one that doesn't only stands in the store a while.
        """
        with self._lock:
            self._workers.discard(death.worker)
            self._deaths.append(death)
            if leaves_jobs:
                self._leaving.add(death.worker)
        self._bell.ring()

    def sweep_soon(self) -> None:
        """There may be suspects: look at once."""
        self._sweep_at = 0.0
        self._bell.ring()

    def close(self, deadline: float) -> int:
        """End, with everything told, by *deadline* (monotonic); how many deaths with jobs the store wasn't told of."""
        with self._lock:
            self._is_closing = True
        self._bell.ring()
        self._thread.join(max(0.0, deadline - clock.monotonic()))
        with self._lock:
            return len(self._leaving)

    # The keeper's thread

    def _keep(self) -> None:
        while not self._is_done():
            with self._lock:
                workers, deaths = sorted(self._workers), list(self._deaths)
            try:
                self._do_what_is_due(workers, deaths)
            except StoreError as error:
                self._is_away(error)
                self._bell.wait(self._backoff.next())
                continue
            except Exception:
                log.critical("keeping the leases broke; trying again", exc_info=True)
                self._bell.wait(self._backoff.next())
                continue
            due = min(self._renew_at, self._sweep_at, self._prune_at)
            if not self._is_done():
                self._bell.wait(max(0.0, due - clock.monotonic()))
        self._store.close(_PATIENCE)

    def _is_done(self) -> bool:
        with self._lock:
            if not self._is_closing:
                return False
            return not self._deaths or (self._is_down and not self._leaving)

    def _do_what_is_due(self, workers: list[int], deaths: list[Death]) -> None:
        now = clock.monotonic()
        if workers and now >= self._renew_at:
            [renewed] = self._ask(Renew([Beat(worker) for worker in workers], self._lease))
            assert isinstance(renewed, Renewed)
            self._renew_at = now + self._lease / 3
            self._heed(renewed)
        if deaths or now >= self._sweep_at:
            [swept] = self._ask(Sweep(deaths, self._lease))
            assert isinstance(swept, Swept)
            self._sweep_at = now + _BETWEEN_SWEEPS
            with self._lock:
                self._deaths = [death for death in self._deaths if death not in deaths]
                self._leaving.difference_update(death.worker for death in deaths)
            self._say(swept)
        if not workers:
            self._renew_at = now + self._lease / 3
        if now >= self._prune_at:
            [pruned] = self._ask(self._prune)
            self._prune_at = now + (_BETWEEN_PRUNES if not pruned else 0.1)

    def _ask(self, request: Any) -> Any:
        replies = self._store.ask(request, timeout=_PATIENCE, urgent=True)
        self.last_answer = clock.monotonic()
        self._backoff.reset()
        if self._is_down:
            self._is_down = False
            log.warning("the store %s is back", self._store.engine.url)
        return replies

    def _heed(self, renewed: Renewed) -> None:
        for worker in renewed.lost:
            with self._lock:
                self._workers.discard(worker)
            self._tell({"lost": worker})
        for worker, seq, token, reason in renewed.cancels:
            self._tell({"cancel": worker, "seq": seq, "token": token, "reason": reason})

    def _say(self, swept: Swept) -> None:
        if swept.lost:
            log.warning(
                "%s lost the lease: %s will run again, %d failed", counted(len(swept.lost), "worker"),
                counted(swept.returned, "job"), swept.failed,
            )  # fmt: skip
        self._tell({"suspects": swept.suspects, "failed": swept.failed})

    def _is_away(self, error: StoreError) -> None:
        if not self._is_down:
            self._is_down = True
            log.warning("%s; leases are renewed when it is back, and nobody loses a job meanwhile", error)
