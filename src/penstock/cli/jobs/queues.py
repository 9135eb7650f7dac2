"""`penstock pause` and `penstock resume`: whether a queue's jobs are given to anybody."""

from __future__ import annotations

import difflib
from typing import cast

import click

from penstock.cli.jobs.page import remark, say_json
from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import NothingFound, do, with_store
from penstock.engines.engine import Engine
from penstock.engines.records import Queues
from penstock.engines.requests import Pause


@click.command("pause", short_help="Give no more jobs of a queue to workers.")
@click.argument("queue")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def pause_command(engine: Engine, queue: str, as_json: bool) -> int:
    """Give no more jobs of QUEUE to workers, until it is resumed. Those that run go on."""
    if (hint := unknown(engine, queue)) is not None:
        remark(f"penstock pause: there has been no job in queue {one_line(queue)} yet{hint}")
    has_changed = cast(bool, do(engine, Pause(queue)))
    if as_json:
        say_json({"queue": queue, "paused": True, "changed": has_changed})
    else:
        print(f"queue {one_line(queue)} {'is paused' if has_changed else 'was paused already'}")
    return 0


@click.command("resume", short_help="Give them again.")
@click.argument("queue")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def resume_command(engine: Engine, queue: str, as_json: bool) -> int:
    """Give jobs of QUEUE to workers again."""
    if (hint := unknown(engine, queue)) is not None:
        raise NothingFound(f"there is no queue {one_line(queue)}{hint}")
    has_changed = cast(bool, do(engine, Pause(queue, paused=False)))
    if as_json:
        say_json({"queue": queue, "paused": False, "changed": has_changed})
    else:
        print(f"queue {one_line(queue)} {'goes on' if has_changed else 'was not paused'}")
    return 0


def unknown(engine: Engine, queue: str) -> str | None:
    """None if there is such a *queue*; else a hint which one may be meant."""
    names = [record.name for record in engine.find(Queues())]
    if queue in names:
        return None
    close = difflib.get_close_matches(queue, names, n=1)
    return f"; did you mean {one_line(close[0])}?" if close else ""
