"""`penstock jobs`: those that match, newest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import click

from penstock import clock
from penstock.cli.jobs.fields import job_fields
from penstock.cli.jobs.find import NAMES, close_kinds, search
from penstock.cli.jobs.page import OF_STATE, Column, Styled, Table, remark, say_json, show
from penstock.cli.jobs.printable import first_line, one_line, said_error
from penstock.cli.jobs.store import NothingFound, with_store
from penstock.cli.jobs.times import ago, length
from penstock.cli.values import count
from penstock.engines.engine import Engine
from penstock.engines.records import Record
from penstock.engines.requests import Progress
from penstock.job import JobState


@click.command("jobs", short_help="Jobs by state, queue, task or error.")
@click.option("--state", "states", type=click.Choice(NAMES), multiple=True, help="In this state, or in one of several.")
@click.option("--queue", metavar="NAME", help="Of this queue.")
@click.option("--task", metavar="NAME", help="Of this task.")
@click.option("--error", metavar="KIND", help="Whose last error is of this type, or of this kind in `failures`.")
@click.option("--limit", type=count, default=50, show_default=True, metavar="N", help="At most so many.")
@click.option("--before", type=int, metavar="SEQ", help="Older than the job of this number: the next page.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each job.")
@with_store
def jobs_command(
    engine: Engine,
    states: Sequence[str],
    queue: str | None,
    task: str | None,
    error: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> int:
    """Jobs that match all that is given, newest first."""
    found = search(
        engine, states=[*map(JobState, states)], queue=queue, task=task, error=error, before=before, limit=limit + 1
    )
    last = _say_json(itertools.islice(found, limit)) if as_json else _show(list(itertools.islice(found, limit)))
    if last is None:
        raise NothingFound(f"no such jobs{close_kinds(engine, error) if error else ''}")
    if next(found, None) is not None:
        remark(f"penstock jobs: there are older ones: --before {last.seq}")
    return 0


def _say_json(jobs: Iterator[Record]) -> Record | None:
    job = None
    for job in jobs:
        say_json(job_fields(job))
    return job


def _show(jobs: Sequence[Record]) -> Record | None:
    if not jobs:
        return None
    show([table(jobs, clock.wall())])
    return jobs[-1]


def table(jobs: Sequence[Record], now: float) -> Table:
    """*jobs*, for people."""
    rows = Table(
        [
            Column("id"),
            Column("task", least=12, by_end=True),
            Column("state"),
            Column("queue", least=8, extra=True),
            Column("enqueued", extra=True),
            Column("attempt", right=True, extra=True),
            Column("seq", right=True, extra=True),
            Column("", least=16, enough=36),
        ]
    )
    for job in jobs:
        rows.rows.append(
            [
                one_line(job.id),
                one_line(job.task),
                Styled(job.state, OF_STATE.get(job.state, "")),
                one_line(job.queue),
                ago(job.enqueued, now),
                str(job.attempt),
                str(job.seq),
                gist(job, now),
            ]
        )
    return rows


def gist(job: Record, now: float) -> str:
    """What matters most about *job* in its state, on one line."""
    failed = "" if job.error is None else said_error(job.error)
    match job.state:
        case JobState.SCHEDULED:
            return " after ".join(filter(None, [ago(job.due, now), failed]))
        case JobState.READY:
            alone = ", to run alone" if job.suspect else ""
            return f"waits for {length(max(0.0, now - job.due))}{alone}" + (f", after {failed}" if failed else "")
        case JobState.RUNNING:
            if job.cancelling:
                return f"asked to end: {first_line(job.reason)}"
            ran = "" if job.started is None else f"for {length(max(0.0, now - job.started))}"
            return ", ".join(filter(None, [said_progress(job.progress), ran]))
        case JobState.DONE:
            return "" if job.ran is None else f"ran {length(job.ran)}"
        case JobState.FAILED:
            return failed
    return first_line(job.reason)


def said_progress(progress: Progress | None) -> str:
    """How far a job says it is."""
    if progress is None:
        return ""
    done = f"{progress.done:,g}" + ("" if progress.total is None else f" of {progress.total:,g}")
    return f"{done} {first_line(progress.note)}".rstrip()
