"""`penstock check`: what is wrong with a store."""

from __future__ import annotations

from typing import Final

import click

from penstock.cli.jobs.page import say_json
from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import NOTHING, with_store
from penstock.engines.engine import Engine
from penstock.engines.records import Complaints

CHECKED_WITHIN: Final = 600.0  # seconds: it reads everything


@click.command("check", short_help="Say what is wrong with a store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def check_command(engine: Engine, as_json: bool) -> int:
    """Read the whole store, and say what is wrong with it: damage, counters that don't equal the rows."""
    complaints = engine.find(Complaints(), within=CHECKED_WITHIN)
    if as_json:
        say_json({"complaints": complaints})
    else:
        for complaint in complaints or ["all is well"]:
            print(one_line(complaint))
    return NOTHING if complaints else 0
