"""One simulation from its seed: a scene, an hour of bad weather or less, then calm; and the judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from penstock.engines.engine import Engine
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import States
from penstock.engines.rules import ENDED
from tests.simulation.actors import GAP, LEASE, Plan, Scene, Service, canceller, enqueuer, rolling
from tests.simulation.store import Client, Wire
from tests.simulation.truth import Truth
from tests.simulation.world import Process, World

BAD: Final = 120.0  # seconds of the world in which there are faults
CALM: Final = 20 * LEASE  # by then all must have ended
STEP: Final = 5.0

Make = Callable[[Callable[[], float]], Engine]


def memory(now: Callable[[], float]) -> Engine:
    return MemoryEngine(now=now)


def play(seed: int, make: Make = memory, *, trace: list[str] | None = None) -> Counter[str]:
    """Live through simulation *seed*; what happened, counted. Raises `Wrong` if a promise was broken."""
    world = World(seed, trace=trace)
    engine = make(lambda: world.now)
    engine.open()
    truth = Truth(world, LEASE, GAP)
    try:
        _play(world, Wire(world, engine, truth))
    finally:
        engine.close()
    return truth.counts


def _play(world: World, wire: Wire) -> None:
    scene, draw = Scene(world, wire), world.random
    ids = [f"j{n}" for n in range(draw.randint(3, 12))]
    for id in ids:
        scene.plans[id] = _plan(world)
    services = [Service(scene) for _ in range(draw.randint(1, 2))]
    half = len(ids) // 2
    for name, some in (("e1", ids[:half]), ("e2", ids[half:])):
        process = Process(name)
        world.spawn(process, name, enqueuer(scene, Client(wire, process), name, some))
    user = Process("user", can_fail=False)
    if draw.random() < 0.3:
        unwanted = draw.sample(ids, draw.randint(1, len(ids) // 2))
        world.spawn(user, "cancels", canceller(scene, Client(wire, user), unwanted))
    if draw.random() < 0.3:
        world.spawn(user, "deploys", rolling(scene, services[0]))
    world.run(world.began + BAD)
    world.calm_since = world.now
    world.say("world", "calm")
    until = world.now + CALM
    while world.now < until and not _has_ended(wire):
        world.run(world.now + STEP)
    wire.truth.check(wire.engine)


def _plan(world: World) -> Plan:
    draw = world.random
    seconds = draw.choice([0.01, 1.0, 10.0, 60.0]) * draw.random()
    ends = draw.choice(
        [
            *[("done",)] * 8,
            ("failed",),
            ("retry", "done"),
            ("retry", "retry", "failed"),
            ("snooze", "done"),
            ("kill", "done"),
            ("kill",),
        ]
    )
    return Plan(seconds, ends)


def _has_ended(wire: Wire) -> bool:
    states = wire.engine.find(States(list(wire.truth.jobs)))
    return all(state in ENDED for state in states)
