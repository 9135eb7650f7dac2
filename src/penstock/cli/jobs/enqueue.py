"""`penstock enqueue`: a job from a terminal, a script or a timer."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.jobs.page import say_json
from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import find_app, problems_told, refuse_memory
from penstock.cli.values import duration, moment
from penstock.errors import StoreError

if TYPE_CHECKING:
    from penstock.app.app import App

STDIN = "-"

EXAMPLE = """\b
Examples:
  penstock enqueue shop.tasks:app shop.tasks.resize '["a.png", 200]'
  penstock enqueue shop.tasks:app shop.tasks.resize '{"path": "a.png"}' --delay 15m --priority 5
"""


@click.command("enqueue", epilog=EXAMPLE, short_help="Hand in a job.")
@click.argument("app", metavar="APP")
@click.argument("task")
@click.argument("arguments", default="[]", metavar="[ARGUMENTS]")
@click.option("--id", metavar="ID", help="In place of a new one; a second time it makes no second job.")
@click.option("--delay", type=duration, metavar="TIME", help="It may run after 30s, 15m, 24h, 7d.")
@click.option("--at", type=moment, metavar="TIME", help="It may run from 2030-01-31T08:00 (here) or …Z (UTC) on.")
@click.option("--priority", type=int, metavar="N", help="A higher one runs first.  [default: the task's]")
@click.option("--queue", metavar="NAME", help="Where it waits.  [default: the task's]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def enqueue_command(
    app: str,
    task: str,
    arguments: str,
    id: str | None,
    delay: float | None,
    at: datetime.datetime | None,
    priority: int | None,
    queue: str | None,
    as_json: bool,
) -> int:
    """Hand in a job for TASK of APP (module:app or path/to/file.py:app), and print its id.

    ARGUMENTS are a JSON list, or a JSON object of keyword arguments; - reads them from standard input. They are checked
    as those of a call in Python are.
    """
    found = find_app(app, "APP")
    refuse_memory(found.url)
    terms = {"id": id, "delay": delay, "at": at, "priority": priority, "queue": queue}
    args, kwargs = call_of(sys.stdin.read() if arguments == STDIN else arguments)
    with problems_told(), contextlib.closing(found):
        made = enqueue(found, task, args, kwargs, {name: term for name, term in terms.items() if term is not None})
    if as_json:
        say_json({"id": made, "task": task})
    else:
        print(one_line(made))
    return 0


def call_of(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments in *text*. Raises `click.UsageError` if it has none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"ARGUMENTS are no JSON: {error}") from None
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    raise click.UsageError("ARGUMENTS are a JSON list, or a JSON object of keyword arguments: for one argument, [1]")


def enqueue(app: App, task: str, args: list[Any], kwargs: dict[str, Any], terms: dict[str, Any]) -> str:
    """The id of the new job. Raises `click.UsageError` for what the app refuses, as it would in Python."""
    try:
        named = app.task_named(task)
        typed_args, typed_kwargs = named.codec.typed_call(args, kwargs)
        return named.options(**terms).enqueue(*typed_args, **typed_kwargs).id
    except StoreError:
        raise
    except (TypeError, ValueError, LookupError, NameError) as error:
        raise click.UsageError(one_line(str(error.args[0] if isinstance(error, KeyError) else error))) from error
