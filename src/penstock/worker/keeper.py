"""The supervisor's thread that talks to the store: it keeps the leases, hands back the jobs of the dead, and sweeps.

Apart from the supervisor's main thread, which must not wait for a store: it has to end children on time whatever the
store does. Nobody else in the supervisor asks the store anything. What is asked, and when, is decided by a `Keeping`.

    main thread ── watch, died, sweep_soon, close ──> [keeping] ──> renew, sweep, prune
                <── lost, cancelled, suspects ── tell()
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from penstock import clock
from penstock.engines.bell import Bell
from penstock.engines.requests import Death, Prune, Renewed, Reply, Request, Swept
from penstock.engines.store import Store
from penstock.errors import StoreError
from penstock.worker.backoff import Backoff
from penstock.worker.counted import counted
from penstock.worker.keeping import Keeping

log = logging.getLogger("penstock.work")

_PATIENCE: Final = 5.0  # seconds that one call may take

Tell = Callable[[dict[str, Any]], None]


class Keeper:
    """Keeps the leases of a service's children in *store*.

    *tell*: called on its thread with what the main one must know.
    Lock: `_lock` guards `_keeping`; a leaf.
    """

    def __init__(self, store: Store, lease: float, prune: Prune, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._lock = threading.Lock()
        self._keeping = Keeping(lease, prune)
        self._bell = Bell()
        self._backoff = Backoff()
        self._is_down = False
        self.last_answer = clock.monotonic()  # when the store last did what it was asked
        self._thread = threading.Thread(target=self._keep, name="penstock-keeper", daemon=True)
        self._thread.start()

    # The main thread

    def watch(self, worker: int) -> None:
        """See `Keeping`."""
        with self._lock:
            self._keeping.watch(worker)

    def died(self, death: Death, *, leaves_jobs: bool) -> None:
        """See `Keeping`."""
        with self._lock:
            self._keeping.died(death, leaves_jobs=leaves_jobs)
        self._bell.ring()

    def sweep_soon(self) -> None:
        """See `Keeping`."""
        with self._lock:
            self._keeping.sweep_soon()
        self._bell.ring()

    def close(self, deadline: float) -> int:
        """End, with everything told, by *deadline* (monotonic); how many deaths with jobs the store wasn't told of."""
        with self._lock:
            self._keeping.close()
        self._bell.ring()
        self._thread.join(max(0.0, deadline - clock.monotonic()))
        with self._lock:
            return self._keeping.leaving

    # The keeper's thread

    def _keep(self) -> None:
        while True:
            with self._lock:
                if self._keeping.is_over(store_is_away=self._is_down):
                    break
                request, due = self._keeping.next(clock.monotonic()), self._keeping.due
            if request is None:
                self._bell.wait(max(0.0, due - clock.monotonic()))
                continue
            try:
                reply = self._ask(request)
                with self._lock:
                    self._keeping.answered(reply)
                self._heed(reply)
            except StoreError as error:
                self._is_away(error)
                self._bell.wait(self._backoff.next())
            except Exception:
                log.critical("keeping the leases broke; trying again", exc_info=True)
                self._bell.wait(self._backoff.next())
        self._store.close(_PATIENCE)

    def _ask(self, request: Request) -> Reply:
        [reply] = self._store.ask(request, timeout=_PATIENCE, urgent=True)
        self.last_answer = clock.monotonic()
        self._backoff.reset()
        if self._is_down:
            self._is_down = False
            log.warning("the store %s is back", self._store.engine.url)
        return reply

    def _heed(self, reply: Reply) -> None:
        if isinstance(reply, Renewed):
            for worker in reply.lost:
                self._tell({"lost": worker})
            for worker, seq, token, reason in reply.cancels:
                self._tell({"cancel": worker, "seq": seq, "token": token, "reason": reason})
        elif isinstance(reply, Swept):
            if reply.lost:
                log.warning(
                    "%s lost the lease: %s will run again, %d failed", counted(len(reply.lost), "worker"),
                    counted(reply.returned, "job"), reply.failed,
                )  # fmt: skip
            self._tell({"suspects": reply.suspects, "failed": reply.failed})

    def _is_away(self, error: StoreError) -> None:
        if not self._is_down:
            self._is_down = True
            log.warning("%s; leases are renewed when it is back, and nobody loses a job meanwhile", error)
