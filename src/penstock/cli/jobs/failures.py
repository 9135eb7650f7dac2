"""`penstock failures`: what went wrong, by kind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

import click

from penstock import clock
from penstock.cli.jobs.fields import failure_fields
from penstock.cli.jobs.page import BAD, BOLD, DIM, Block, Line, say_json, show
from penstock.cli.jobs.place import place
from penstock.cli.jobs.printable import lines, one_line, said_error
from penstock.cli.jobs.store import NothingFound, with_store
from penstock.cli.jobs.times import ago, moment
from penstock.cli.values import count
from penstock.engines.engine import Engine
from penstock.engines.records import Failed, FailureRecord

SAMPLE: Final = 5  # jobs that engines remember of a kind


@click.command("failures", short_help="What went wrong, grouped by kind.")
@click.option("--limit", type=count, default=100, show_default=True, metavar="N", help="Kinds, the latest first.")
@click.option("-v", "--verbose", is_flag=True, help="With the traceback of the first failure of each kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def failures_command(engine: Engine, limit: int, verbose: bool, as_json: bool) -> int:
    """What went wrong, grouped by kind: the type of the error and the place in your code.

    Attempts count, not jobs: also those that were tried again and are done by now.
    """
    kinds = engine.find(Failed(limit))
    if as_json:
        say_json({"failures": [failure_fields(kind) for kind in kinds]})
    elif kinds:
        show(seen(kinds, clock.wall(), verbose=verbose))
    if not kinds:
        raise NothingFound("nothing has failed")
    return 0


def seen(kinds: Sequence[FailureRecord], now: float, *, verbose: bool) -> Iterator[Block]:
    """*kinds*, for people."""
    for number, kind in enumerate(kinds):
        if number:
            yield Line()
        yield Line(f"{kind.count:,} × {said_error(kind.error)}", f"{BAD} {BOLD}", hang=4)
        more = ["…"] if kind.count > len(kind.ids) >= SAMPLE else []
        where = place(kind.error.traceback)
        yield Line(f"    task {one_line(kind.task)}{f', at {one_line(where)}' if where else ''}")
        yield Line(f"    first {moment(kind.first)}, last {ago(kind.last, now)}")
        yield Line(f"    jobs {', '.join([*map(one_line, kind.ids), *more])}", DIM, hang=9)
        yield Line(f"    penstock retry --error {shlex.quote(one_line(kind.error.print))}", DIM)
        if verbose:
            yield from (Line(f"    {line}") for line in lines(kind.error.traceback))
