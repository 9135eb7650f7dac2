"""What holds for the tests of processes: none leaves a process or a descriptor behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool.crossing import CrossGate
from tests.pool.processes.puppet import Stage


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[CrossGate]:
    gate = CrossGate(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Pools get puppets in the place of processes; those that are left die at the end."""
    stage = Stage(monkeypatch)
    yield stage
    stage.close()
