from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cli.jobs.desk import Desk


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield Desk(monkeypatch, capsys)
    monkeypatch.undo()
    time.tzset()
