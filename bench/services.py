"""Worker services in processes of their own, which live for one turn; and what their jobs tell."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket
from typing import Any, Final

from bench.durable_jobs import FOLDER, MARKS, STEP

LONGEST: Final = 120.0  # seconds that anything may take before the bench gives up
WORK: Final = ("-m", "penstock", "work", "bench.durable_worker:app")  # our service; "sys.executable" before it
_ROOT: Final = Path(__file__).parents[1]


class Worker:
    """A worker service on the store in *folder*; a block at whose end nothing of it is left.

    Each of its processes tells when it begins its jobs of the numbers *marks*, or each so many-th job (*step*).
    """

    def __init__(self, folder: Path, command: Sequence[str], marks: Sequence[int] = (), *, step: int = 0) -> None:
        self._log = (folder / "worker.log").open("ab")
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        told = {FOLDER: str(folder), MARKS: ",".join(map(str, marks)), STEP: str(step), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **told},
            cwd=folder,
            start_new_session=True,  # so that all of it can be ended at once
        )

    def kill(self) -> None:
        """End all of its processes at once, and by force."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(LONGEST)

    def busy(self) -> float:
        """Seconds of a processor that all of its processes have used."""
        return busy(self._pids())

    def _pids(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(5)
        self.kill()
        self._log.close()


def busy(pids: Iterable[int]) -> float:
    """Seconds of a processor that these processes have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Told:
    """What the jobs of a worker on *folder* tell. To be there before it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket(AF_UNIX, SOCK_DGRAM)
        self._socket.bind(os.fspath(folder / "told"))

    def next(self, within: float = LONGEST) -> list[Any]:
        """The next words; RuntimeError with the worker's log if none come *within* so many seconds."""
        self._socket.settimeout(within)
        try:
            return list(json.loads(self._socket.recv(4096)))
        except TimeoutError:
            log = (self._folder / "worker.log").read_text()[-2000:]
            raise RuntimeError(f"no job told anything in {within:g} s; the worker's log:\n{log}") from None

    def more(self) -> Iterator[list[Any]]:
        """The words that have come, without waiting for others."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                yield list(json.loads(self._socket.recv(4096)))

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def house() -> Iterator[tuple[Path, Told]]:
    """A folder for one store and its workers, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        told = Told(Path(name))
        try:
            yield Path(name), told
        finally:
            told.close()


def until_working(folder: Path, word: str) -> None:
    """Wait until the worker's log has *word*."""
    end = time.monotonic() + LONGEST
    while word not in (folder / "worker.log").read_text():
        if time.monotonic() > end:
            raise RuntimeError(f"the worker didn't say {word!r}:\n{(folder / 'worker.log').read_text()[-2000:]}")
        time.sleep(0.02)
