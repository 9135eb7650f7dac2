"""Jobs come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from penstock.engines.requests import Fate, NewJob
from penstock.engines.sqlite.bulk import Bulk
from penstock.engines.sqlite.names import Names
from penstock.engines.sqlite.schema import READY, SCHEDULED
from penstock.engines.sqlite.step import Step

_INSERT: Final = Bulk(
    """
INSERT INTO job (seq, id, state, queue, task, priority, enqueued, due, at, headers, args)
VALUES %s ON CONFLICT (id) DO NOTHING
""",
    columns=11,
)


# Nothing is returned from it, and it selects from no table what it inserts: each takes a twentieth of the put more.
_ALONE: Final = """
INSERT INTO job (seq, id, state, queue, task, priority, enqueued, due, at, headers, args)
VALUES ((SELECT max(next_seq, coalesce((SELECT max(seq) FROM job), 0) + 1) FROM store), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
"""


def put_alone(db: apsw.Connection, names: Names, job: NewJob, now: float, wall: float) -> tuple[Fate, int] | None:
    """Accept one job, by one statement that is a transaction of its own; and the number that it got.

    None, and nothing is done, if it has a name that is new here.
    """
    id, task, queue, priority, args, headers, delay, at = job
    queue_, task_ = names.known(queue), names.known(task)
    if queue_ is None or task_ is None:
        return None
    due = now + (delay if at is None else at - wall)
    is_ready = due <= now
    state, at = (READY, None) if is_ready else (SCHEDULED, at)
    row = (id, state, queue_, task_, priority, now, now if is_ready else due, at, headers, args)
    db.execute(_ALONE, row)
    return (Fate.ACCEPTED, db.last_insert_rowid()) if db.changes() else (Fate.KNOWN, 0)


def put(step: Step, jobs: Sequence[NewJob]) -> list[Fate]:
    """Accept *jobs*; the fate of each."""
    first = step.next_seq()
    rows = [_row(step, seq, job) for seq, job in enumerate(jobs, first)]
    before = step.db.total_changes()
    _INSERT.run(step.db, rows)
    if step.db.total_changes() - before == len(rows):
        fates = [Fate.ACCEPTED] * len(rows)
    else:  # some were there before
        accepted = {seq for (seq,) in step.db.execute("SELECT seq FROM job WHERE seq >= ?", (first,))}
        fates = [Fate.ACCEPTED if row[0] in accepted else Fate.KNOWN for row in rows]
        rows = [row for row in rows if row[0] in accepted]
    numbers = rows[-1][0] + 1 - first if rows else 0  # those behind the last that was accepted are the next jobs'
    step.come_in(first, (row[2:5] for row in rows), numbers)
    step.has_news = step.has_news or bool(rows)
    return fates


_Row = tuple[int, str, int, int, int, int, float, float, float | None, bytes | None, bytes]


def _row(step: Step, seq: int, job: NewJob) -> _Row:
    id, task, queue, priority, args, headers, delay, at = job
    due = step.now + (delay if at is None else at - step.wall)
    is_ready = due <= step.now
    return (
        seq,
        id,
        READY if is_ready else SCHEDULED,
        step.number(queue),
        step.number(task),
        priority,
        step.now,
        step.now if is_ready else due,
        None if is_ready else at,
        headers,
        args,
    )
