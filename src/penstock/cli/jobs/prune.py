"""`penstock prune`: forget jobs that ended long ago."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import click

from penstock.cli.jobs.find import BATCH
from penstock.cli.jobs.page import say_json
from penstock.cli.jobs.store import do, with_store
from penstock.cli.values import duration
from penstock.engines.engine import Engine
from penstock.engines.requests import Prune


@click.command("prune", short_help="Forget jobs that ended long ago.")
@click.option(
    "--done",
    type=duration,
    metavar="AGE",
    help="Also cancelled ones.  [default: what the App of --app keeps, 24h without one]",
)
@click.option(
    "--failed",
    type=duration,
    metavar="AGE",
    help="Failed ones.  [default: what the App of --app keeps, 7d without one]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def prune_command(engine: Engine, done: float | None, failed: float | None, as_json: bool) -> int:
    """Forget jobs that ended longer ago than AGE: 30s, 15m, 24h, 7d."""
    app, usual = click.get_current_context().obj, Prune()
    if done is None:
        done = usual.done if app is None else app.keep
    if failed is None:
        failed = usual.failed if app is None else app.keep_failed
    pruned = sum(batches(engine, done, failed))
    if as_json:
        say_json({"pruned": pruned})
    else:
        print(f"{pruned:,} {'job' if pruned == 1 else 'jobs'} forgotten")
    return 0


def batches(engine: Engine, done: float, failed: float, size: int = BATCH) -> Iterator[int]:
    """Forget them a few at a time, until there are no more; how many each time."""
    while True:
        pruned = cast(int, do(engine, Prune(done, failed, size)))
        yield pruned
        if pruned < size:  # neither kind had as many as it might
            return
