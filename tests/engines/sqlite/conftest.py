"""What tests of the SQLite engine share: a file, and engine objects on it that are closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.engines.sqlite import SQLiteEngine
from tests.engines.kinds import Clock, Desk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Desk]]:
    """Each call gives another engine object on the file, opened, on its own clock."""
    engines: list[SQLiteEngine] = []

    def make() -> Desk:
        engines.append(SQLiteEngine(url))
        engines[-1].open()
        return Desk(engines[-1], Clock())

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def desk(opened: Callable[[], Desk]) -> Desk:
    """One of them."""
    return opened()
