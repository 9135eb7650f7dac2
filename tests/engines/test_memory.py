"""What the engine in memory does for the sake of that memory."""

from __future__ import annotations

import pytest

from penstock.engines import rules
from penstock.engines.memory import MemoryEngine
from penstock.engines.requests import Outcome
from tests.engines.kinds import A, Clock, Desk, oops


def test_kinds_of_failures_are_forgotten_those_first_that_came_last_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "KINDS", 2)
    now = Clock()
    desk = Desk(MemoryEngine(now=now), now)
    desk.renew(A, first=True)
    for number, kind in enumerate(["kind 1", "kind 2", "kind 1", "kind 3"]):
        now.advance(1)
        desk.put(f"{number}")
        desk.settle(desk.claim_one(A), Outcome.FAILED, error=oops(kind))

    assert [(kind.error.print, kind.count) for kind in desk.kinds_of_failures()] == [("kind 3", 1), ("kind 1", 2)]
