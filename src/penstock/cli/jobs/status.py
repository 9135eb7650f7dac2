"""`penstock status`: how much there is to do, who does it, and what went wrong lately."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from penstock import clock
from penstock.cli.jobs import workers
from penstock.cli.jobs.fields import failure_fields, worker_fields
from penstock.cli.jobs.find import KINDS, STATES
from penstock.cli.jobs.page import BAD, BOLD, DIM, OF_STATE, WARN, Block, Column, Line, Screen, Styled, Table, say_json
from penstock.cli.jobs.printable import one_line, said_error
from penstock.cli.jobs.store import with_store
from penstock.cli.jobs.times import ago, length, moment, time_fields
from penstock.cli.values import seconds
from penstock.engines.engine import Engine
from penstock.engines.records import Count, Counts, Failed, FailureRecord, QueueRecord, Queues, WorkerRecord, Workers
from penstock.errors import StoreUnavailable
from penstock.job import JobState

LATELY: Final = 3600.0  # seconds
SHOWN: Final = 5  # kinds of failures
ALWAYS: Final = (JobState.READY, JobState.RUNNING, JobState.DONE, JobState.FAILED)  # others: if there are any


@dataclass(frozen=True, slots=True)
class Status:
    """What a store holds at about one moment. *now*: wall time."""

    url: str
    now: float
    counts: Sequence[Count]
    queues: Sequence[QueueRecord]
    workers: Sequence[WorkerRecord]
    failures: Sequence[FailureRecord]  # kinds that were seen within the last hour


@click.command("status", short_help="How much there is to do, who does it, what failed lately.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value="2",
    type=seconds,
    metavar="[SECONDS]",
    help="Again and again, each 2 s or so.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --watch one a line.")
@with_store
def status_command(engine: Engine, watch: float | None, as_json: bool) -> int:
    """How much there is to do, who does it, and what went wrong in the last hour."""
    first = look(engine)
    if watch is None:
        stati: Iterable[Status | StoreUnavailable] = [first]
    else:
        stati = again_and_again(engine, first, every=watch)
    try:
        if as_json:
            for status in stati:
                say_json(status_fields(status) if isinstance(status, Status) else {"error": str(status)})
                sys.stdout.flush()
        else:
            with Screen(whole=watch is not None) as screen:
                for status in stati:
                    screen.show(seen(status) if isinstance(status, Status) else unseen(status))
    except KeyboardInterrupt:
        if watch is None:
            raise
    return 0


def look(engine: Engine) -> Status:
    """How things stand."""
    now = clock.wall()
    failures = [kind for kind in engine.find(Failed(KINDS)) if kind.last > now - LATELY]
    return Status(engine.url, now, engine.find(Counts()), engine.find(Queues()), engine.find(Workers()), failures)


def again_and_again(
    engine: Engine, first: Status, *, every: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Status | StoreUnavailable]:
    """*first*, and then how things stand each *every* seconds; an error in its place while the store can't be reached.

    By the clock and not by the store's news: a busy store has some a thousand times a second.
    """
    yield first
    while True:
        sleep(every)
        try:
            yield look(engine)
        except StoreUnavailable as error:
            yield error


# For programs


def status_fields(status: Status) -> dict[str, Any]:
    """*status* as JSON."""
    return {
        "store": status.url,
        **time_fields(time=status.now),
        "queues": [
            {"queue": queue.name, "paused": queue.paused, "oldest_s": queue.oldest, "tasks": _tasks(status, queue.name)}
            for queue in status.queues
        ],
        "workers": [worker_fields(worker) for worker in status.workers],
        "failures": [failure_fields(kind) for kind in status.failures],
    }


def _tasks(status: Status, queue: str) -> list[dict[str, Any]]:
    return [
        {"task": task, **{str(state): jobs[state] for state in STATES}}
        for (of, task), jobs in _rows(status)
        if of == queue
    ]


def _rows(status: Status) -> list[tuple[tuple[str, str], Counter[JobState]]]:
    """The jobs of each queue and task, by state."""
    rows: dict[tuple[str, str], Counter[JobState]] = {}
    for count in status.counts:
        if count.jobs:
            rows.setdefault((count.queue, count.task), Counter())[count.state] += count.jobs
    return sorted(rows.items())


# For people


def seen(status: Status) -> Iterator[Block]:
    """*status*, for people."""
    yield Line(f"{one_line(status.url)}, {moment(status.now)}", DIM)
    yield Line()
    if status.queues:
        yield _jobs(status)
    else:
        yield Line("no jobs yet")
    yield Line()
    if status.workers:
        yield _workers(status)
    else:
        is_needed = any(queue.oldest is not None for queue in status.queues)
        yield Line("no worker is running", WARN if is_needed else "")
    if status.failures:
        yield Line()
        yield from _failures(status)


def unseen(error: StoreUnavailable) -> Iterator[Block]:
    """What is shown while the store can't be reached."""
    yield Line(one_line(f"{moment(clock.wall())}: {error}; trying again"), BAD)


def _jobs(status: Status) -> Table:
    rows = _rows(status)
    total = sum((jobs for _, jobs in rows), Counter[JobState]())
    states = [state for state in STATES if state in ALWAYS or total[state]]
    columns = [Column("queue", least=8), Column("task", least=12, by_end=True)]
    columns += [Column(state, right=True) for state in states]
    table = Table([*columns, Column("oldest", right=True)])
    for queue in status.queues:
        name = one_line(queue.name)
        head = Styled(f"{name} (paused)", WARN) if queue.paused else Styled(name)
        oldest = "" if queue.oldest is None else length(queue.oldest)
        of_queue = [(task, jobs) for (of, task), jobs in rows if of == queue.name] or [("", Counter[JobState]())]
        for task, jobs in of_queue:
            numbers = [Styled(f"{jobs[state]:,}", OF_STATE[state] if jobs[state] else DIM) for state in states]
            table.rows.append([head, one_line(task), *numbers, oldest])
            head, oldest = Styled(""), ""
    return table


def _workers(status: Status) -> Table:
    table = Table(
        [Column("worker", least=16), Column("running", right=True), Column("since"), Column("lease"), Column("queues")]
    )
    for worker in status.workers:
        is_live = workers.is_live(worker)
        left = f"{length(worker.lease)} left" if is_live else f"ran out {length(-worker.lease)} ago"
        queues = workers.queues(worker)
        table.rows.append(
            [
                workers.label(worker),
                f"{worker.running:,}",
                ago(worker.since, status.now),
                Styled(left, "" if is_live else BAD),
                "all" if queues is None else one_line(", ".join(queues)),
            ]
        )
    return table


def _failures(status: Status) -> Iterator[Block]:
    yield Line("failed within the last hour", BOLD)
    times, task = Column("in all", right=True), Column("task", least=12, by_end=True)
    table = Table([times, Column("last"), task, Column("first error", least=20)])
    for kind in status.failures[:SHOWN]:
        count = Styled(f"{kind.count:,}", f"{BAD} {BOLD}")
        table.rows.append([count, ago(kind.last, status.now), one_line(kind.task), said_error(kind.error)])
    yield table
    if len(status.failures) > SHOWN:
        yield Line(f"and {len(status.failures) - SHOWN:,} more kinds: penstock failures", DIM)
