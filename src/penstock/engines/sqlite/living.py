"""Which workers of this machine are alive: each has a file that its process holds locked, for as long as it lives.

Whoever gets the lock of another's file knows for certain that its process is gone: the system frees the lock, and
nobody else ever asks for it but to find out. Where that can't be seen (another machine's kernel, a file that somebody
deleted) nothing is known, and the lease decides.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from penstock.engines.sqlite import beside
from penstock.engines.sqlite.place import Place


class Living:
    """The workers that this process holds alive, and what it can see of others. Used inside transactions only.

    The file of a worker is made and locked before the worker is in the store, so that nobody finds it unlocked.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._held: dict[int, int] = {}  # descriptors, by worker

    def hold(self, worker: int) -> None:
        """Show that *worker* is alive, until this process ends."""
        self.let_go(worker)  # whoever gave it up has deleted the file
        descriptor = beside.opened(self._path(worker))
        if beside.locked_now(descriptor):
            self._held[worker] = descriptor
        else:  # another process shows it already
            os.close(descriptor)

    def let_go(self, worker: int) -> None:
        """Show nothing of *worker* any more: the lease decides."""
        descriptor = self._held.pop(worker, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                Path(self._path(worker)).unlink()
            os.close(descriptor)

    def let_all_go(self) -> None:
        """As `let_go`, for every one."""
        for worker in list(self._held):
            self.let_go(worker)

    def is_dead(self, worker: int) -> bool:
        """Whether the process that held *worker* is gone for certain."""
        if worker in self._held:
            return False
        try:
            descriptor = beside.opened(self._path(worker), create=False)
        except OSError:
            return False
        try:
            return beside.locked_now(descriptor)
        finally:
            os.close(descriptor)

    def bury(self, worker: int) -> None:
        """The store has given *worker* up: its file is needed no more."""
        self.let_go(worker)
        with contextlib.suppress(OSError):
            Path(self._path(worker)).unlink()

    def forget(self) -> None:
        """In the child of a fork: close the copies, which would keep the parent's workers alive for ever."""
        for descriptor in self._held.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._held.clear()

    def _path(self, worker: int) -> str:
        return f"{self._place.folder}/worker-{worker}"
