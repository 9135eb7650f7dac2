"""Each test that asks for a `desk` runs on every kind of engine.

Workers A and B are known to it, with fresh leases; C is not. Time stands still unless a test moves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import clock
from tests.engines.kinds import KINDS, A, B, Clock, Connect, Desk


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = Clock()
    monkeypatch.setattr(clock, "wall", now)
    return now


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest, tmp_path: Path, now: Clock) -> Connect:
    kind: str = request.param
    return KINDS[kind](tmp_path, now)


@pytest.fixture
def desk(connect: Connect, now: Clock) -> Iterator[Desk]:
    engine = connect()
    engine.open()
    desk = Desk(engine, now)
    desk.renew(A, B, first=True)
    yield desk
    complaints = desk.complaints()
    engine.close()
    assert not complaints
