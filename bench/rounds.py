"""Interleaved rounds: every contestant takes its turn in each round, so that a slow minute is slow for all.

The ratio of two contestants is taken inside each round, and the median of these ratios is shown, never the ratio of two
medians. Each round starts with another contestant:

    round 1:  A B C D
    round 2:  B C D A
    round 3:  C D A B
"""

import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Self

Sample = Mapping[str, float]  # unit -> value, such as {"us/job": 1.7}; less is better in every unit used here
Turn = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle, the lowest and the highest of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values))

    def to(self, template: str) -> str:
        """As text: *template* (such as "{:.1f}x") once for the median and once for each end of the spread."""
        middle, low, high = (template.format(value) for value in (self.median, self.low, self.high))
        return f"{middle} ({low}..{high})"


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure: the contestants, each with what it does in one turn, and who is compared with whom."""

    name: str
    turns: Mapping[str, Turn]
    pairs: Sequence[tuple[str, str]]  # (ours, peer)
    jobs: int  # in one turn
    rounds: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a case: for each contestant one sample for each round, in the order of the rounds."""

    case: Case
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)

    @property
    def units(self) -> list[str]:
        return list(next(iter(self.samples.values()))[0])

    def spread(self, contestant: str, unit: str) -> Spread:
        return Spread.of([sample[unit] for sample in self.samples[contestant]])

    def ratio(self, above: str, below: str, unit: str) -> Spread:
        """How many times *below*'s value *above* has, taken inside each round."""
        pairs = zip(self.samples[above], self.samples[below], strict=True)
        return Spread.of([a[unit] / b[unit] for a, b in pairs])


def play(case: Case) -> Outcome:
    """Run all rounds of *case*; garbage of one contestant is collected before the next one's turn."""
    outcome = Outcome(case, {name: [] for name in case.turns})
    names = list(case.turns)
    for number in range(case.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            outcome.samples[name].append(case.turns[name]())
    return outcome


def apart(turn: Turn) -> Sample:
    """Play *turn* in a process of its own, where no contestant has left malloc in a state that suits it or another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(turn).result()


def machine() -> dict[str, str | int | bool | None]:
    """Where the numbers come from: numbers of two machines, or of two Pythons, are not compared."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "switch interval ms": round(sys.getswitchinterval() * 1e3),
        "gc": gc.isenabled(),
    }


def as_table(outcome: Outcome) -> str:
    """The case for people: a line for each contestant, with how many times ours its value is."""
    case, lines = outcome.case, [f"{outcome.case.name}   [{outcome.case.jobs} jobs x {outcome.case.rounds} rounds]"]
    for unit in outcome.units:
        lines.append(f"  {unit:<34}{'median (min..max)':<34}times ours, paired")
        for name in outcome.samples:
            value = outcome.spread(name, unit).to("{:.4g}")
            against = [(ours, outcome.ratio(peer, ours, unit)) for ours, peer in case.pairs if peer == name]
            ratios = "   ".join(f"{ratio.to('{:.2f}')} {ours}" for ours, ratio in against)
            lines.append(f"    {name:<32}{value:<34}{ratios}".rstrip())
    return "\n".join(lines)


def as_json(outcome: Outcome) -> str:
    """The case for programs: one line, with the machine in it, so that it says what it may be compared with."""
    case = outcome.case

    def numbers(spread: Spread) -> dict[str, float]:
        return {"median": spread.median, "min": spread.low, "max": spread.high}

    contestants = {
        name: {unit: numbers(outcome.spread(name, unit)) for unit in outcome.units} for name in outcome.samples
    }
    ratios = {
        f"{peer} / {ours}": {unit: numbers(outcome.ratio(peer, ours, unit)) for unit in outcome.units}
        for ours, peer in case.pairs
    }
    told = {"case": case.name, "jobs": case.jobs, "rounds": case.rounds, "contestants": contestants, "ratios": ratios}
    return json.dumps({**told, **machine()})
