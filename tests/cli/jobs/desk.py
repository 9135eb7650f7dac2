"""A store that the command line is made to find, and a worker that does as it is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock import clock
from penstock.cli import main
from penstock.cli.jobs import store
from penstock.engines.engine import Engine
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import ByIds, Record
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    ClaimedJob,
    Error,
    NewJob,
    Outcome,
    Put,
    Renew,
    Request,
    Settle,
    Settlement,
    Want,
)
from penstock.engines.sqlite import SQLiteEngine

WORKER = 0x1234567890ABCDEF
NOON = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/images.py", line 15, in resize
    picture = decode(path)
  File "/usr/lib/python3.11/site-packages/codecs.py", line 8, in decode
    raise ValueError(path)
ValueError: a.png is no picture
"""


def error(type: str = "ValueError", message: str = "a.png is no picture", print: str = "print1") -> Error:
    return Error(type, message, TRACEBACK, print)


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Desk:
    """Time stands still at `now` until the test moves it; the engine's clock and the wall's are one."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path | None = None) -> None:
        self.now = NOON
        self.url = "sqlite:///jobs.db" if file is None else f"sqlite:///{file}"
        self._is_real = file is not None
        self.engine = self._engine()
        self.engine.open()
        self.connected: list[str] = []
        self._capsys = capsys
        self._numbers = itertools.count(1)
        patch.setattr(clock, "wall", lambda: self.now)
        patch.setattr(store, "connect", self._connect)
        for name in ("PENSTOCK_STORE", "PENSTOCK_APP"):
            patch.delenv(name, raising=False)

    def _engine(self) -> Engine:
        return SQLiteEngine(self.url, now=self._time) if self._is_real else MemoryEngine(self.url, now=self._time)

    def _time(self) -> float:
        return self.now

    def _connect(self, url: str) -> Engine:
        self.connected.append(url)
        return self._engine() if self._is_real else self.engine

    def run(self, *arguments: str) -> Ran:
        code = main([*arguments, "--store", self.url])
        told = self._capsys.readouterr()
        return Ran(code, told.out, told.err)

    def ask(self, request: Request) -> Any:
        (reply,) = self.engine.transact([request])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def put(self, task: str = "resize", count: int = 1, **fields: Any) -> list[str]:
        """New jobs with ids a1, a2, and so on."""
        jobs = [NewJob(f"a{next(self._numbers)}", task, **fields) for _ in range(count)]
        self.ask(Put(jobs))
        return [job.id for job in jobs]

    def arrive(self, worker: int = WORKER, lease: float = 30.0, **info: Any) -> None:
        self.ask(Renew([Beat(worker, True, json.dumps(info).encode())], lease))

    def claim(self, task: str = "resize", count: int = 1, worker: int = WORKER) -> Sequence[ClaimedJob]:
        claimed: Claimed = self.ask(Claim(worker, None, [Want(frozenset([task]), count)]))
        return claimed.jobs[0]

    def settle(self, job: ClaimedJob, outcome: Outcome, **fields: Any) -> None:
        assert self.ask(Settle([Settlement(job.seq, job.token, outcome, **fields)])) == [True]

    def end(self, outcome: Outcome, task: str = "resize", count: int = 1, **fields: Any) -> list[str]:
        """New jobs that were run and ended so; a worker must be there."""
        ids = self.put(task, count)
        for job in self.claim(task, count):
            self.settle(job, outcome, **fields)
        return ids

    def record(self, id: str) -> Record:
        (found,) = self.engine.find(ByIds([id]))
        assert found is not None
        return found

    def state(self, id: str) -> str:
        return self.record(id).state
