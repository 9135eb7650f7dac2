"""Jobs by the beginning of their ids, and kinds of failures by what people call them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

import click

from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import NothingFound
from penstock.engines.engine import Engine
from penstock.engines.records import Begins, ByIds, Failed, FailureRecord, Record, Search
from penstock.job import JobState

PAGE: Final = 200  # jobs in one answer: each may bring a megabyte of arguments
BATCH: Final = 1_000  # jobs that are changed in one step: others wait no longer for the store than these take
KINDS: Final = 1_000
FEW: Final = 5

STATES: Final = tuple(
    state
    for state in JobState
    if state not in (JobState.KILLED, JobState.ABANDONED)  # those are of pools
)
NAMES: Final = tuple(map(str, STATES))  # as people write them


def by_ids(engine: Engine, given: Sequence[str]) -> list[Record | None]:
    """The job of each of *given*, which are ids, or the beginning of one; None where there is none.

    Raises `click.UsageError` if a beginning is that of several.
    """
    found = engine.find(ByIds(given))
    return [record or _beginning(engine, prefix) for record, prefix in zip(found, given, strict=True)]


def by_id(engine: Engine, given: str) -> Record:
    """The one job; raises `NothingFound` if there is none, and `click.UsageError` if there are several."""
    (record,) = by_ids(engine, [given])
    if record is None:
        raise NothingFound(f"there is no job {given!r} (any more)")
    return record


def _beginning(engine: Engine, prefix: str) -> Record | None:
    if not prefix:
        return None
    found = engine.find(Begins(prefix, FEW + 1))
    if len(found) > 1:
        ids = [one_line(record.id) for record in found[:FEW]]
        raise click.UsageError(
            f"{prefix!r} begins the ids of several jobs: {', '.join(ids)}{', …' if len(found) > FEW else ''}"
        )
    return found[0] if found else None


def prints(engine: Engine, error: str) -> list[str]:
    """The prints of the kinds of failures that *error* means: one print, or a type, with or without its module."""
    kinds = engine.find(Failed(KINDS))
    if any(kind.error.print == error for kind in kinds):
        return [error]
    of_type = [kind.error.print for kind in kinds if _is_type(kind, error)]
    return of_type or [error]  # a kind that isn't counted any more may still be that of jobs


def _is_type(kind: FailureRecord, error: str) -> bool:
    return error in (kind.error.type, kind.error.type.rpartition(".")[2])


def close_kinds(engine: Engine, error: str) -> str:
    """A hint for an *error* that nothing failed with: types that look like it."""
    kinds = engine.find(Failed(KINDS))
    if any(kind.error.print == error or _is_type(kind, error) for kind in kinds):
        return ""
    close = difflib.get_close_matches(error, {kind.error.type for kind in kinds}, n=1)
    return f"; did you mean {one_line(close[0])!r}?" if close else ""


def search(
    engine: Engine,
    *,
    states: Sequence[JobState] | None = None,
    queue: str | None = None,
    task: str | None = None,
    error: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """Jobs that match all that is given, newest first, at most *limit*; read in pages."""
    of = [None] if error is None else prints(engine, error)
    while limit is None or limit > 0:
        size = PAGE if limit is None else min(PAGE, limit)
        pages = [engine.find(Search(states or None, queue, task, print, before, size)) for print in of]
        page = sorted((record for page in pages for record in page), key=lambda record: -record.seq)[:size]
        yield from page
        if len(page) < size:
            return
        before = page[-1].seq
        limit = None if limit is None else limit - len(page)
