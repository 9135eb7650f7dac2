"""A Dask cluster on this machine, each worker a process, in a process of its own, for tests.

python -m tests.pool.dask_cluster FOLDER WORKERS    prints the scheduler's address; ends when its standard input does
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.gates import GUARD

ROOT = Path(__file__).parents[2]


class Cluster:
    """The process: `address` of its scheduler, `kill` ends it in the middle of whatever it does."""

    def __init__(self, folder: Path, workers: int) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.pool.dask_cluster", folder, str(workers)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, (folder / "log.txt").read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        if self._process.poll() is None:
            try:
                self._process.communicate(timeout=2 * GUARD)
            finally:
                self.kill()


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """A cluster that keeps its files in *folder*, until the end of the block."""
    found = Cluster(folder, workers)
    try:
        yield found
    finally:
        found.end()


def main(folder: str, workers: int) -> None:
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(
            n_workers=workers, processes=True, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as found,
    ):
        print(found.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
