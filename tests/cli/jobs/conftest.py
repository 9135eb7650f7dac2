from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.jobs.desk import Desk


@pytest.fixture(params=["memory", "sqlite"])
def desk(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Desk]:
    """A store of each kind."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made = Desk(monkeypatch, capsys, tmp_path / "jobs.db" if request.param == "sqlite" else None)
    yield made
    made.engine.close()
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A store in memory, where it doesn't matter."""
    return Desk(monkeypatch, capsys)
