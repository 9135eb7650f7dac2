"""A worker service in processes of its own, for tests: started, watched and ended by them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.gates import GUARD

DUTY = Path(__file__).with_name("duty.py")
STORE = "jobs.db"


def until(fact: Callable[[], Any], within: float = GUARD, say: Callable[[], str] = str) -> Any:
    """What *fact* gives once it is true; an error that shows *say* if that takes longer than *within* seconds."""
    end = time.monotonic() + within
    while not (found := fact()):
        assert time.monotonic() < end, f"it did not come to pass within {within:g} s\n{say()}"
        time.sleep(0.01)
    return found


def of_version(other: Path | None) -> dict[str, str]:
    """The environment of a process that imports `penstock` from the checkout *other*, rather than as this one does."""
    return {**os.environ, **({} if other is None else {"PYTHONPATH": str(other / "src")})}


class Service:
    """`penstock work` on the store of *folder*. Its log is in `log`. *other*: a checkout of another version."""

    def __init__(self, folder: Path, number: int, options: tuple[str, ...], other: Path | None = None) -> None:
        self.folder = folder
        self._log = folder / f"service-{number}.log"
        duty = DUTY if other is None else other / "tests" / "worker" / DUTY.name
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "work", f"{duty}:app", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=of_version(other),
                start_new_session=True,  # so that all of it can be stopped at once
            )

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def logged(self, pattern: str, within: float = GUARD) -> re.Match[str]:
        """The first line that matches *pattern*, once there is one."""

        def look() -> re.Match[str] | None:
            assert self.process.poll() is None or re.search(pattern, self.log), f"it has ended:\n{self.log}"
            return re.search(pattern, self.log)

        found: re.Match[str] = until(look, within, lambda: self.log)
        return found

    def ready(self) -> None:
        """Wait until it works."""
        self.logged("working on")

    def children(self) -> list[int]:
        """The processes that it has started, and they in turn."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found[1:]

    def signal(self, number: int) -> None:
        """To its supervisor."""
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """To all of its processes at once."""
        os.killpg(self.process.pid, number)

    def stop(self, within: float = GUARD) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended(within)

    def ended(self, within: float = GUARD) -> int:
        """Its exit code, once it has one."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within:g} s:\n{self.log}") from None

    def close(self) -> None:
        """End whatever is left of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(GUARD)


class House:
    """A folder with a store, the app that enqueues into it, and services that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.duty: Any = _fresh_duty()
        self.app = self.duty.app
        self._services: list[Service] = []

    def work(self, *options: str, other: Path | None = None) -> Service:
        """Start a service, and wait until it works."""
        service = self.start(*options, other=other)
        service.ready()
        return service

    def start(self, *options: str, other: Path | None = None) -> Service:
        """Start a service."""
        service = Service(self.folder, len(self._services) + 1, options, other)
        self._services.append(service)
        return service

    def marks(self, *first: str) -> list[list[str]]:
        """The lines that tasks have written, split; those alone that begin with *first*."""
        path = self.folder / "marks"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line[: len(first)] == list(first)]

    def open(self, gate: str) -> None:
        """Let the tasks go on that wait for *gate*."""
        (self.folder / gate).touch()

    def begun(self, count: int = 1) -> list[list[str]]:
        """The marks of jobs that have begun, once there are *count*."""

        def look() -> list[list[str]]:
            found = self.marks("begins")
            return found if len(found) >= count else []

        found: list[list[str]] = until(look, say=lambda: "\n".join(service.log for service in self._services))
        return found

    def close(self) -> None:
        """End all services."""
        for service in self._services:
            service.close()
        self.app.close()


def _fresh_duty() -> ModuleType:
    """The module of tasks, made anew: its app is that of the store that the environment names."""
    spec = importlib.util.spec_from_file_location("duty", DUTY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def house(folder: Path, monkeypatch: Any, store: str | None = None) -> Iterator[House]:
    """A `House` in *folder*, whose tasks can be imported here, too. Its *store* is a file in it, unless named."""
    monkeypatch.setenv("DUTY_STORE", store or f"sqlite:///{folder / STORE}")
    monkeypatch.setenv("DUTY_MARKS", str(folder / "marks"))
    made = House(folder)
    try:
        yield made
    finally:
        made.close()
