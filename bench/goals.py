"""What was set as a goal before it was measured, and the table that puts both side by side."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from bench.rounds import Outcome


@dataclass(frozen=True, slots=True)
class Goal:
    """A number of ours that was set as a goal before it was measured."""

    label: str
    case: str
    unit: str
    ours: str
    peer: str | None  # None: what was measured is compared with the goal alone
    must: str
    aim: str
    speed: bool = False  # told as "times the speed" (peer's time / ours) rather than "times the peer's" (ours / peer's)


def summary(goals: Sequence[Goal], outcomes: Mapping[str, Outcome]) -> str:
    """The goals beside what was measured in this run; goals whose case was not run are left out."""
    head = ("case", "ours", "peer", "paired ratio", "must", "aim")
    rows = [head, *(row(goal, outcomes[goal.case]) for goal in goals if goal.case in outcomes)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    return "\n".join(["Summary: medians; a ratio is taken inside each round, its median and spread are shown", *lines])


def row(goal: Goal, outcome: Outcome) -> tuple[str, ...]:
    label, ours = f"{goal.label}, {goal.unit}", f"{outcome.spread(goal.ours, goal.unit).median:.4g}"
    if goal.peer is None:
        return label, ours, "", "", goal.must, goal.aim
    peer = f"{outcome.spread(goal.peer, goal.unit).median:.4g} {goal.peer}"
    if goal.speed:
        ratio = outcome.ratio(goal.peer, goal.ours, goal.unit).to("{:.1f}x")
    else:
        ratio = outcome.ratio(goal.ours, goal.peer, goal.unit).to("{:.2f}") + " of it"
    return label, ours, peer, ratio, goal.must, goal.aim


def middle_and_tail(values: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def of_workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
