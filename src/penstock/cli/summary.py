"""What a run says at its end: how many of what, and the failures, grouped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from penstock.cli.output import said_input

if TYPE_CHECKING:
    from penstock.cli.flow import Flow
    from penstock.cli.inputs import Input
    from penstock.cli.loop import OnLoop
    from penstock.failures import Failure
    from penstock.pool.executor import Pool

_PLACE: Final = re.compile(r'^ *File "(?:.*/)?(.+)", line (\d+), in (.+)$', re.MULTILINE)

KINDS: Final = 20  # of failures that are shown
LONGEST: Final = 80  # characters of an input


def summary(flow: Flow, pool: Pool | OnLoop, *, seconds: float, most_waiting: int) -> Iterator[str]:
    """The lines to show, once *flow* is over and *pool* has stopped, *seconds* after the start."""
    tally, report = flow.tally, pool.report
    counts = [f"{tally.done:,} done", f"{tally.failed:,} failed"]
    counts += [f"{tally.cut:,} cut short"] if tally.cut else []
    counts += [f"{tally.invalid:,} invalid"] if tally.invalid else []
    waiting = f", never more than {most_waiting} seen waiting" if most_waiting else ""
    yield f"{', '.join(counts)} in {seconds:.1f} s{waiting}"
    yield f"results: {flow.output_name}"
    for number, failure in enumerate(pool.failures):
        if number == KINDS:
            yield f"  and {len(pool.failures) - KINDS} more kinds"
            break
        yield from _failure(failure, flow.failed_inputs)
    for task in flow.invalid:
        yield f"  line {task.line}: {task.problem}"
    if tally.invalid > len(flow.invalid):
        yield f"  and {tally.invalid - len(flow.invalid):,} more invalid lines"
    if not report.ok:
        yield str(report)
    for stuck in report.stuck:
        stack = stuck.stack.rstrip().splitlines()
        yield (
            f"job {stuck.id} ({stuck.name}) {stuck.outcome}: still running on {stuck.worker} after {stuck.ran:.1f} s"
            f"{', at:' if stack else ''}"
        )
        yield from stack
    if not flow.all_offered:
        yield f"inputs after line {flow.last_line:,}, if any, were not run"
    if flow.reading_error is not None:
        yield f"reading the inputs stopped early: {flow.reading_error}"
    if flow.writing_error is not None:
        yield f"writing to {flow.output_name} failed: {flow.writing_error}"
    unwritten = report.accepted - tally.jobs
    if unwritten:
        yield f"{unwritten:,} jobs ended whose result could not be written to {flow.output_name}"


def one_line(text: str) -> str:
    """The first line of *text*; if that says where something stands in the lines that follow, the outermost place."""
    first, _, rest = text.partition("\n")
    place = _PLACE.search(rest) if first.endswith(" at:") else None
    return first if place is None else f"{first} {place[1]}:{place[2]} in {place[3]}"


def _failure(failure: Failure, inputs: dict[int | str, Input]) -> Iterator[str]:
    message = failure.message.partition("\n")[0].removesuffix("; it stood at:")  # as the next line says
    yield f"  {failure.count:,} × {failure.type}: {_cut(message)}"
    if failure.where:
        yield f"      at {failure.where}"
    known = [inputs[number] for number in failure.job_ids if number in inputs]
    if known:
        yield f"      {_places(known)}{', …' if failure.count > len(known) else ''}"


def _places(tasks: Sequence[Input]) -> str:
    return ", ".join(f"line {task.line}: {_cut(_text(task))}" for task in tasks)


def _text(task: Input) -> str:
    value = task.value
    if not isinstance(value, str):
        return said_input(task)
    return value if value.isprintable() else ascii(value)  # a terminal must not obey an input


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
