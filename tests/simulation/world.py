"""Virtual time, processes that crash and freeze, and steps of which the seed says which is next.

Actors are generators. Each belongs to a process; it yields how many seconds it sleeps, or a `Wait` for a signal.
Between any two of its steps its process may crash (it never goes on) or freeze (all its actors are late), or all clocks
may jump ahead. Everything depends on the seed alone: no real clock, no order of a set of strings.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Signal:
    """Wakes who waits for it. One that comes while nobody waits is kept for the next."""

    is_set: bool = False
    waiter: Actor | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep until *signal* comes or *timeout* seconds have passed."""

    signal: Signal
    timeout: float


Steps: TypeAlias = "Generator[float | Wait, None, T]"


@dataclass(eq=False, slots=True)
class Actor:
    name: str
    process: Process
    steps: Steps[Any]
    turn: int = 0  # of what it waits for: a wake-up for an earlier turn comes to nothing
    waits_for: Signal | None = None


@dataclass(eq=False)
class Process:
    """Actors that live and die together."""

    name: str
    is_alive: bool = True
    frozen_until: float = 0.0
    can_fail: bool = True
    when_dead: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class Weather:
    """How likely a fault is at each step; and how bad the store is at each call."""

    crash: float = 0.0
    freeze: float = 0.0
    jump: float = 0.0
    unavailable: float = 0.0
    unknown_undone: float = 0.0
    unknown_done: float = 0.0
    unknown_late: float = 0.0
    down: float = 0.0  # for a while, for everybody
    slow: float = 0.0

    @classmethod
    def drawn(cls, draw: random.Random) -> Weather:
        """Some kinds of faults, and of those some more and some less: a little of all at once finds little."""

        def chance(most: float) -> float:
            return most * draw.random() if draw.random() < 0.5 else 0.0

        return cls(
            crash=chance(0.01),
            freeze=chance(0.01),
            jump=chance(0.003),
            unavailable=chance(0.2),
            unknown_undone=chance(0.1),
            unknown_done=chance(0.2),
            unknown_late=chance(0.1),
            down=chance(0.02),
            slow=chance(0.1),
        )


class World:
    """One simulation. *trace*: where to tell what happens, for people."""

    def __init__(self, seed: int, *, trace: list[str] | None = None) -> None:
        self.random = random.Random(seed)
        self.weather = Weather.drawn(self.random)
        self.began = self.now = 1_000_000.0
        self.calm_since = math.inf  # when the last fault can have happened
        self.trace = trace
        self._serial = itertools.count()
        self._queue: list[tuple[float, int, int, Actor, int]] = []

    @property
    def is_calm(self) -> bool:
        """Whether there are no more faults."""
        return self.now >= self.calm_since

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now - self.began:9.3f} {who:12} {what}")

    def chance(self, probability: float) -> bool:
        """Whether a fault of this probability happens now."""
        return not self.is_calm and probability > 0 and self.random.random() < probability

    # Actors

    def spawn(self, process: Process, name: str, steps: Steps[Any], after: float = 0.0) -> None:
        """Let *steps* run in *process*."""
        self._wake_at(self.now + after, Actor(name, process, steps))

    def fire(self, signal: Signal) -> None:
        """Wake who waits for *signal*."""
        waiter, signal.waiter = signal.waiter, None
        if waiter is None:
            signal.is_set = True
        else:
            self._wake_at(self.now, waiter)

    def kill(self, process: Process) -> None:
        """*process* is gone, between two of its steps."""
        if process.is_alive:
            process.is_alive = False
            self.say(process.name, "dies")
            for tell in process.when_dead:
                tell()

    def _wake_at(self, when: float, actor: Actor) -> None:
        actor.turn += 1
        tie = self.random.getrandbits(20)
        heapq.heappush(self._queue, (when, tie, next(self._serial), actor, actor.turn))

    # Time

    def run(self, until: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until *until* (of the world's clock), or until it is over."""
        while self._queue and self._queue[0][0] <= until and not is_over():
            when, _, _, actor, turn = heapq.heappop(self._queue)
            process = actor.process
            if not process.is_alive or turn != actor.turn:
                continue
            self.now = max(self.now, when)
            if process.frozen_until > self.now:
                self._wake_at(process.frozen_until, actor)
                continue
            if process.can_fail and self._fault(process, actor):
                continue
            self._step(actor)
        self.now = max(self.now, until) if not is_over() else self.now

    def _fault(self, process: Process, actor: Actor) -> bool:
        if self.chance(self.weather.crash):
            self.kill(process)
            return True
        if self.chance(self.weather.freeze):
            seconds = self.random.choice([0.5, 12.0, 40.0, 100.0]) * self.random.random()
            self.say(process.name, f"freezes for {seconds:.3f} s")
            process.frozen_until = self.now + seconds
            self._wake_at(process.frozen_until, actor)
            return True
        if self.chance(self.weather.jump):
            seconds = self.random.choice([5.0, 100.0]) * self.random.random()
            self.say("world", f"sleeps for {seconds:.3f} s")
            self.now += seconds
        return False

    def _step(self, actor: Actor) -> None:
        if actor.waits_for is not None:
            if actor.waits_for.waiter is actor:  # the time was over before the signal came
                actor.waits_for.waiter = None
            actor.waits_for = None
        try:
            wanted = next(actor.steps)
        except StopIteration:
            return
        if not isinstance(wanted, Wait):
            self._wake_at(self.now + wanted, actor)
        elif wanted.signal.is_set:
            wanted.signal.is_set = False
            self._wake_at(self.now, actor)
        else:
            wanted.signal.waiter, actor.waits_for = actor, wanted.signal
            self._wake_at(self.now + wanted.timeout, actor)
