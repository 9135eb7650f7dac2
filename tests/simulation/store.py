"""One process's way to a store that fails in all the ways in which stores fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from penstock.engines.engine import Engine
from penstock.engines.records import Query
from penstock.engines.requests import Claim, Reply, Request
from penstock.errors import OutcomeUnknown, StoreUnavailable
from tests.simulation.truth import Truth
from tests.simulation.world import Process, Steps, World

T = TypeVar("T")

PATIENCE = 5.0  # seconds until a caller gives up


class Wire:
    """The engine, and what is common to all ways to it."""

    def __init__(self, world: World, engine: Engine, truth: Truth) -> None:
        self.world = world
        self.engine = engine
        self.truth = truth
        self.down_until = 0.0

    def is_down(self) -> bool:
        if self.world.chance(self.world.weather.down):
            seconds = self.world.random.choice([2.0, 20.0, 100.0]) * self.world.random.random()
            self.down_until = self.world.now + seconds
            self.world.say("store", f"is down for {seconds:.3f} s")
        return self.world.now < self.down_until and not self.world.is_calm

    def commit(self, who: str, requests: Sequence[Request]) -> list[Reply | Exception]:
        replies = self.engine.transact(requests)
        if self.world.trace is not None:
            for request, reply in zip(requests, replies, strict=True):
                self.world.say(who, f"{_told(request)} -> {reply}")
        self.truth.committed(requests, replies)
        return replies


def _told(request: Request) -> str:
    """*request* in words that are the same in each process: a set of texts has no order."""
    if isinstance(request, Claim):
        limits = [want.limit for want in request.wants]
        return f"Claim(worker={request.worker}, limits={limits}, alone={request.alone})"
    return str(request)


class Client:
    """What `penstock.engines.store.Store` is for a process: it raises the same, after as long.

    A transaction of which the outcome is unknown may be committed later; but before the next one of this process, since
    one thread makes all of them.
    """

    def __init__(self, wire: Wire, process: Process) -> None:
        self._wire = wire
        self._world = wire.world
        self._process = process
        self._late: list[Sequence[Request]] = []

    def ask(self, *requests: Request) -> Steps[list[Any]]:
        """The answers, as `Store.ask` gives them."""
        world, weather = self._world, self._world.weather
        yield self._latency()
        self._commit_late()
        if self._wire.is_down():
            yield PATIENCE
            raise StoreUnavailable("sim://", "down")
        if world.chance(weather.unavailable):
            yield self._latency()
            raise StoreUnavailable("sim://", "busy")
        if world.chance(weather.unknown_undone):
            yield PATIENCE
            raise OutcomeUnknown
        if world.chance(weather.unknown_late):
            self._late.append(requests)
            seconds = PATIENCE + 10.0 * world.random.random()
            world.spawn(self._process, f"{self._process.name}/late", self._commit_later(seconds))
            yield PATIENCE
            raise OutcomeUnknown
        replies = self._wire.commit(self._process.name, requests)
        if world.chance(weather.unknown_done):
            yield PATIENCE
            raise OutcomeUnknown
        yield self._latency()
        return replies

    def find(self, query: Query[T]) -> Steps[T]:
        """The answer, as `Store.find` gives it."""
        yield self._latency()
        if self._wire.is_down() or self._world.chance(self._world.weather.unavailable):
            yield self._latency()
            raise StoreUnavailable("sim://", "down")
        answer = self._wire.engine.find(query)
        self._world.say(self._process.name, f"{query} -> {answer}")
        yield self._latency()
        return answer

    def _latency(self) -> float:
        draw = self._world.random
        return draw.random() * (8.0 if self._world.chance(self._world.weather.slow) else 0.01)

    def _commit_later(self, seconds: float) -> Steps[None]:
        yield seconds
        self._commit_late()

    def _commit_late(self) -> None:
        while self._late:
            self._wire.commit(f"{self._process.name} (late)", self._late.pop(0))
