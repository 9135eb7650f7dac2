"""An engine that does what a test tells it, and remembers what it was asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from penstock.engines.bell import Bell
from penstock.engines.engine import Joined
from penstock.engines.records import Query
from penstock.engines.requests import Reply, Request
from tests.gates import Gate


class ScriptedEngine:
    """Its transactions end as `script` says, one after the other: with these answers, with this error, or at a Gate.

    When there is nothing more, and behind a gate, each request is answered with True.
    """

    url = "scripted://"
    in_caller = False

    def __init__(self) -> None:
        self.script: deque[Any] = deque()
        self.asked: list[list[Request]] = []  # of each transaction
        self.within: list[float] = []
        self.opened: list[float] = []  # with how many seconds each time
        self.closed = 0
        self.cannot_open: Exception | None = None

    def open(self, within: float = 10.0, *, create: bool = True) -> None:
        self.opened.append(within)
        if self.cannot_open is not None:
            raise self.cannot_open

    def transact(self, requests: Sequence[Request], within: float = 10.0) -> list[Reply | Exception]:
        assert not self.closed
        self.asked.append(list(requests))
        self.within.append(within)
        answer = self.script.popleft() if self.script else True
        if isinstance(answer, Gate):
            answer()
            answer = True
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, list) else [answer] * len(requests)

    def find(self, query: Query[Any], within: float = 10.0) -> Any:
        assert not self.closed
        self.within.append(within)
        return query

    def wait(self, bell: Bell, timeout: float) -> None:
        bell.wait(timeout)

    def join(self, connection: object) -> Joined:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1
