"""`penstock show`: everything about one job, and why it waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import click

from penstock import clock
from penstock.cli.jobs import workers
from penstock.cli.jobs.fields import attempt_fields, job_fields, worker_name
from penstock.cli.jobs.find import by_id
from penstock.cli.jobs.listing import said_progress
from penstock.cli.jobs.page import BAD, BOLD, DIM, OF_STATE, WARN, Block, Line, say_json, show
from penstock.cli.jobs.printable import first_line, lines, one_line, pretty, said_error
from penstock.cli.jobs.store import with_store
from penstock.cli.jobs.times import length, when
from penstock.engines.engine import Engine
from penstock.engines.records import Attempt, Attempts, QueueRecord, Queues, Record, WorkerRecord, Workers
from penstock.engines.requests import CRASHES, Error
from penstock.job import JobState

MOST: Final = 100  # lines of arguments, headers or a result that a terminal is given


@dataclass(frozen=True, slots=True)
class Story:
    """A job and what was going on around it at about the time *now*."""

    job: Record
    attempts: Sequence[Attempt]
    queue: QueueRecord | None
    workers: Sequence[WorkerRecord]
    now: float


@click.command("show", short_help="Everything about one job, and why it waits.")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@with_store
def show_command(engine: Engine, id: str, as_json: bool) -> int:
    """Everything about one job; the beginning of its id is enough if no other begins so."""
    story = told(engine, id)
    if as_json:
        attempts = [attempt_fields(attempt) for attempt in story.attempts]
        say_json({**job_fields(story.job), "attempts": attempts, "why": list(why(story))})
    else:
        show(seen(story, most=MOST if sys.stdout.isatty() else None))
    return 0


def told(engine: Engine, id: str) -> Story:
    """The story of the job whose id begins with *id*."""
    job = by_id(engine, id)
    queue = next((queue for queue in engine.find(Queues()) if queue.name == job.queue), None)
    return Story(job, engine.find(Attempts(job.id)), queue, engine.find(Workers()), clock.wall())


def why(story: Story) -> Iterator[str]:
    """Why the job isn't done yet, as far as the store can tell."""
    job, now = story.job, story.now
    match job.state:
        case JobState.SCHEDULED if job.due > now:
            yield f"it is {'to be tried again' if job.attempt else 'scheduled'} at {when(job.due, now)}"
        case JobState.SCHEDULED:
            yield "its time has come, but no worker has looked yet"
        case JobState.RUNNING if job.cancelling:
            yield f"it was asked to end ({job.reason}), and has not ended yet"
    if job.state in (JobState.SCHEDULED, JobState.READY):
        yield from _why_not_taken(story)
    elif job.state is JobState.RUNNING:
        holder = next((worker for worker in story.workers if worker.worker == job.worker), None)
        if holder is None:
            yield "its worker is not known any more"
        elif not workers.is_live(holder):
            yield f"its worker's lease ran out {length(-holder.lease)} ago: another worker will take it back"


def _why_not_taken(story: Story) -> Iterator[str]:
    job = story.job
    is_paused = story.queue is not None and story.queue.paused
    if is_paused:
        yield f"its queue is paused: penstock resume {job.queue}"
    if job.suspect:
        yield "it was there when a process died, and runs only when nothing else does"
    if not any(workers.is_live(worker) for worker in story.workers):
        yield "no worker is running"
    elif not any(workers.would_take(worker, job) for worker in story.workers):
        yield f"no running worker serves queue {job.queue} and knows task {job.task}"
    elif not is_paused and story.queue is not None and story.queue.oldest is not None and job.state is JobState.READY:
        yield f"it waits for its turn: the first of its queue has waited for {length(story.queue.oldest)}"


# For people


def seen(story: Story, *, most: int | None) -> Iterator[Block]:
    """*story*, for people; at most so many lines of each thing that was stored (None: all)."""
    job = story.job
    yield Line(f"{one_line(job.id)}  {job.state}", f"{BOLD} {OF_STATE.get(job.state, '')}")
    for reason in why(story):
        yield Line(f"  {one_line(reason)}", WARN)
    yield Line()
    yield from (Line(f"{name:<12}{value}") for name, value in _facts(story))
    yield from _stored("arguments", job.args, most)
    yield from _stored("headers", job.headers, most)
    yield from _stored("result", job.result, most)
    before: Error | None = None
    for attempt in story.attempts:
        yield Line()
        yield from _attempt(attempt, before, story)
        before = attempt.error or before
    if job.error is not None and job.error not in [attempt.error for attempt in story.attempts]:
        yield Line()
        yield Line("its last error", BAD)
        yield from _error(job.error, None)


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    job, now = story.job, story.now
    yield "task", one_line(job.task)
    yield "queue", one_line(job.queue) + (f", priority {job.priority}" if job.priority else "")
    yield "enqueued", when(job.enqueued, now)
    if job.started is not None:
        yield "started", f"{when(job.started, now)}{_on(job.worker, story)}"
    if job.ended is not None:
        yield "ended", when(job.ended, now) + ("" if job.ran is None else f", ran {length(job.ran)}")
    if job.attempt:
        yield "attempts", f"{job.attempt}"
    if job.crashes:
        yield "crashes", f"{job.crashes}, of {CRASHES} that end it: deaths of a process that are laid to it"
    if job.progress is not None:
        yield "progress", said_progress(job.progress)
    if job.reason:
        yield "reason", first_line(job.reason)


def _on(worker: int | None, story: Story) -> str:
    if worker is None:
        return ""
    known = [workers.label(record) for record in story.workers if record.worker == worker]
    return f", on {known[0] if known else worker_name(worker)}"


def _stored(title: str, stored: bytes | None, most: int | None) -> Iterator[Block]:
    if stored is None:
        return
    found = pretty(stored)
    yield Line()
    yield Line(title, BOLD)
    yield from (Line(f"  {line}") for line in found[:most])
    if most is not None and len(found) > most:
        yield Line(f"  … and {len(found) - most:,} more lines: --json, or a pipe, has them all", DIM)


def _attempt(attempt: Attempt, before: Error | None, story: Story) -> Iterator[Block]:
    took = length(max(0.0, attempt.ended - attempt.started))
    title = f"attempt {attempt.number}: {one_line(attempt.outcome)} after {took}"
    yield Line(f"{title}, {when(attempt.ended, story.now)}{_on(attempt.worker, story)}", BOLD)
    if attempt.reason and (attempt.error is None or attempt.reason != attempt.error.message):
        yield Line(f"  {first_line(attempt.reason)}")
    if attempt.error is not None:
        yield from _error(attempt.error, before)


def _error(error: Error, before: Error | None) -> Iterator[Block]:
    if error == before:
        yield Line(f"  {said_error(error)}, as the attempt before", BAD)
    elif error.traceback.strip():
        yield from (Line(f"  {line}", DIM) for line in lines(error.traceback))
    else:
        yield from (Line(f"  {line}", BAD) for line in lines(f"{error.type}: {error.message}"))
