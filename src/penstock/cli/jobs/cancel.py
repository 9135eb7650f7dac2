"""`penstock cancel`: waiting jobs at once, running ones as soon as their worker hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import click

from penstock.cli.jobs.find import BATCH, by_ids
from penstock.cli.jobs.page import DIM, GOOD, WARN, Column, Styled, Table, say_json, show
from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import NOTHING, do, with_store
from penstock.engines.engine import Engine
from penstock.engines.requests import Cancel, Cut

SAID: Final = {
    Cut.CANCELLED: Styled("cancelled: it waited, and will not run", GOOD),
    Cut.ASKED: Styled("asked to end: it runs, and its worker will hear of it", WARN),
    Cut.ENDED: Styled("too late: it has ended", DIM),
    Cut.UNKNOWN: Styled("there is no such job (any more)", DIM),
}


@click.command("cancel", short_help="Cancel jobs, waiting or running.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--reason", default="cancelled by hand", show_default=True, metavar="TEXT", help="Kept with the job.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def cancel_command(engine: Engine, ids: Sequence[str], reason: str, as_json: bool) -> int:
    """Cancel jobs: waiting ones will not run, running ones are asked to end.

    The beginning of an id is enough if no other begins so.
    """
    cuts = cut(engine, ids, reason)
    if as_json:
        say_json({"jobs": [{"id": id, "outcome": str(cut)} for id, cut in cuts.items()]})
    else:
        show([Table([Column("id"), Column("outcome")], [(one_line(id), SAID[cut]) for id, cut in cuts.items()])])
    return 0 if all(cut in (Cut.CANCELLED, Cut.ASKED) for cut in cuts.values()) else NOTHING


def cut(engine: Engine, ids: Sequence[str], reason: str) -> dict[str, Cut]:
    """Cancel the jobs *ids*, and what that did to each. Does nothing if one of them could be several."""
    found = zip(ids, by_ids(engine, ids), strict=True)
    full = list(dict.fromkeys(given if job is None else job.id for given, job in found))
    cuts: dict[str, Cut] = {}
    for start in range(0, len(full), BATCH):
        batch = full[start : start + BATCH]
        cuts |= zip(batch, cast(list[Cut], do(engine, Cancel(batch, reason))), strict=True)
    return cuts
