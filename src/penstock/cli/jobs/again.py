"""`penstock retry`: ended jobs run once more, with all their attempts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final, cast

import click

from penstock.cli.jobs.find import BATCH, NAMES, by_ids, close_kinds, search
from penstock.cli.jobs.page import remark, say_json
from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import NOTHING, NothingFound, do, with_store
from penstock.engines.engine import Engine
from penstock.engines.requests import Again
from penstock.engines.rules import ENDED
from penstock.job import JobState

UNASKED: Final = 100  # jobs that are retried without a question


@click.command("retry", short_help="Run ended jobs again: some, those that failed alike, or all.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--error", metavar="KIND", help="All whose last error is of this type, or of this kind in `failures`.")
@click.option("--all", "everything", is_flag=True, help="All.")
@click.option(
    "--state",
    "states",
    type=click.Choice([name for name in NAMES if name in ENDED]),
    multiple=True,
    default=["failed"],
    show_default=True,
    help="Of these alone; may be given several times.",
)
@click.option("--yes", is_flag=True, help=f"Ask nothing, also for more than {UNASKED}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def retry_command(
    engine: Engine,
    ids: Sequence[str],
    error: str | None,
    everything: bool,
    states: Sequence[str],
    yes: bool,
    as_json: bool,
) -> int:
    """Let jobs that have ended run again, as if they were new: the IDs given, those that failed alike, or all.

    The beginning of an id is enough if no other begins so.
    """
    if sum((bool(ids), error is not None, everything)) != 1:
        raise click.UsageError("give IDs, --error KIND or --all")
    of = [*map(JobState, states)]
    if ids:
        chosen, refused = fit(engine, ids, of)
    else:
        chosen, refused = [job.id for job in search(engine, states=of, error=error)], {}
    if not chosen and not refused:
        raise NothingFound(f"no {' or '.join(of)} jobs like that{close_kinds(engine, error) if error else ''}")
    if len(chosen) > UNASKED and not yes and not _agreed(f"Run {len(chosen):,} jobs again?"):
        return NOTHING
    retried = run_again(engine, chosen, of)
    if as_json:
        say_json({"retried": retried, "refused": [{"id": id, "why": why} for id, why in refused.items()]})
    else:
        print(f"{retried:,} {'job' if retried == 1 else 'jobs'} will run again")
        for id, why in refused.items():
            remark(f"penstock retry: not {one_line(id)}: {why}")
    return NOTHING if refused or not retried else 0


def _agreed(question: str) -> bool:
    """The answer of whoever sits at the terminal; yes if nobody does."""
    return not (sys.stdin.isatty() and sys.stderr.isatty()) or click.confirm(question, err=True)


def fit(engine: Engine, ids: Sequence[str], states: Sequence[JobState]) -> tuple[list[str], dict[str, str]]:
    """The full ids of the jobs that are in one of *states*; and of the others, why not."""
    chosen: list[str] = []
    refused: dict[str, str] = {}
    for given, job in zip(ids, by_ids(engine, ids), strict=True):
        if job is None:
            refused[given] = "there is no such job (any more)"
        elif job.state in states:
            chosen.append(job.id)
        elif job.state in ENDED:
            refused[job.id] = f"it is {job.state}; --state {job.state} runs it again"
        else:
            refused[job.id] = f"it is {job.state}, and has not ended"
    return list(dict.fromkeys(chosen)), refused


def run_again(engine: Engine, ids: Sequence[str], states: Sequence[JobState]) -> int:
    """Let the jobs *ids* run again, if they still are in one of *states*; how many.

    Each at most once, in batches: a job that fails again at once is not taken for another one.
    """
    batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
    return sum(cast(int, do(engine, Again(batch, states=states, limit=len(batch)))) for batch in batches)
