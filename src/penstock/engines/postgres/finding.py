"""Answers to questions, as things stood at one moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from penstock.engines import checks
from penstock.engines.postgres.schema import CODES, STATES
from penstock.engines.postgres.step import NOW, Step
from penstock.engines.records import (
    Attempt,
    Attempts,
    Begins,
    ByIds,
    Complaints,
    Count,
    Counts,
    Failed,
    FailureRecord,
    HeldBy,
    Query,
    QueueRecord,
    Queues,
    Record,
    Search,
    WorkerRecord,
    Workers,
)
from penstock.engines.records import States as StatesOf
from penstock.engines.requests import ClaimedJob, Error, Progress

_ALL: Final = (
    "seq, id, task, queue, priority, state, args, headers, attempt, crashes, suspect, token, worker, enqueued, due,"
    " started, ended, ran, result, error_type, error_message, error_traceback, print, reason, cancelling, progress"
)
_BY_IDS: Final = f"""
SELECT {_ALL} FROM penstock.jobs WHERE seq = ANY(ARRAY(SELECT seq FROM penstock.known WHERE id = ANY(%(ids)s::text[])))
"""
_STATES: Final = """
SELECT id, state FROM penstock.jobs
WHERE seq = ANY(ARRAY(SELECT seq FROM penstock.known WHERE id = ANY(%(ids)s::text[])))
"""
_BEGINS: Final = f"""
SELECT {_ALL} FROM penstock.jobs WHERE seq = ANY(ARRAY(
    SELECT seq FROM penstock.known WHERE id >= %(prefix)s AND (%(after)s::text IS NULL OR id < %(after)s::text)
    ORDER BY id LIMIT %(limit)s))
ORDER BY id COLLATE "C"
"""
_HELD: Final = """
SELECT seq, token, id, task, queue, priority, args, headers, attempt, enqueued, greatest(0.0::float8, started - due)
FROM penstock.job WHERE state = 2 AND worker = %(worker)s ORDER BY seq
"""
_ATTEMPTS: Final = """
SELECT number, token, worker, started, ended, outcome, error_type, error_message, error_traceback, print, reason
FROM penstock.attempt WHERE seq = (SELECT seq FROM penstock.known WHERE id = %(id)s) ORDER BY token
"""
_WORKERS: Final = f"""
SELECT id, info, since, until - {NOW},
    (SELECT count(*) FROM penstock.job WHERE state = 2 AND job.worker = worker.id)
FROM penstock.worker ORDER BY since, id
"""
# Of each task and priority the first ready job is the oldest: only those are looked at.
_OLDEST: Final = f"""
WITH RECURSIVE head AS (
    (SELECT queue, task, suspect, priority, due FROM penstock.job WHERE state = 1
     ORDER BY queue, task, suspect, priority DESC, due LIMIT 1)
    UNION ALL
    SELECT next.* FROM head CROSS JOIN LATERAL (
        (SELECT queue, task, suspect, priority, due FROM penstock.job
         WHERE state = 1 AND queue = head.queue AND task = head.task AND suspect = head.suspect
             AND priority < head.priority
         ORDER BY queue, task, suspect, priority DESC, due LIMIT 1)
        UNION ALL
        (SELECT queue, task, suspect, priority, due FROM penstock.job
         WHERE state = 1 AND (queue, task, suspect) > (head.queue, head.task, head.suspect)
         ORDER BY queue, task, suspect, priority DESC, due LIMIT 1)
        LIMIT 1) AS next)
SELECT queue, {NOW} - min(due) FROM head GROUP BY queue
"""
_QUEUES: Final = """
SELECT queue, EXISTS (SELECT FROM penstock.paused WHERE paused.queue = one.queue)
FROM (SELECT queue FROM penstock.counts WHERE jobs > 0 UNION SELECT queue FROM penstock.paused) AS one
"""
_FAILED: Final = """
SELECT error_type, error_message, error_traceback, print, task, count, first, last, ids FROM penstock.failure
ORDER BY last DESC LIMIT %(limit)s
"""
_NOBODY: Final = """
SELECT id FROM penstock.job WHERE state = 2 AND (worker IS NULL OR worker NOT IN (SELECT id FROM penstock.worker))
"""
_COUNTED: Final = """
SELECT state, queue, task, sum(rows)::bigint, sum(counted)::bigint FROM (
    SELECT state, queue, task, count(*) AS rows, 0 AS counted FROM penstock.jobs GROUP BY state, queue, task
    UNION ALL SELECT state, queue, task, 0, jobs FROM penstock.counts) AS both_of_them
GROUP BY state, queue, task HAVING sum(rows) <> sum(counted)
"""
_ODD: Final = """
SELECT 'job ' || seq || ' is in no place, or in two' FROM (
    SELECT seq FROM penstock.known UNION ALL SELECT seq FROM penstock.job UNION ALL SELECT seq FROM penstock.past
) AS every GROUP BY seq HAVING count(*) <> 2
"""


def answer(step: Step, query: Query[Any]) -> Any:
    """The answer to *query*."""
    match checks.findable(query):
        case ByIds(ids):
            found = {row[1]: _record(row) for row in step.rows(_BY_IDS, ids=list(ids))}
            return [found.get(id) for id in ids]
        case StatesOf(ids):
            states = dict(step.rows(_STATES, ids=list(ids)))
            return [STATES[states[id]] if id in states else None for id in ids]
        case Begins(prefix, limit):
            rows = step.rows(_BEGINS, prefix=prefix, after=_after(prefix), limit=max(0, limit))
            return [_record(row) for row in rows]
        case Search() as search:
            return _search(step, search)
        case HeldBy(worker):
            return [ClaimedJob._make(row) for row in step.rows(_HELD, worker=worker)]
        case Attempts(id):
            return [
                Attempt(number, token, worker, started, ended, outcome, _error(error), reason)
                for number, token, worker, started, ended, outcome, *error, reason in step.rows(_ATTEMPTS, id=id)
            ]  # fmt: skip
        case Counts():
            rows = step.rows("SELECT queue, task, state, jobs FROM penstock.counts WHERE jobs > 0")
            counts = [Count(queue, task, STATES[state], jobs) for queue, task, state, jobs in rows]
            return sorted(counts, key=lambda count: (count.queue, count.task, count.state))
        case Workers():
            return [WorkerRecord(*row) for row in step.rows(_WORKERS)]
        case Queues():
            oldest = dict(step.rows(_OLDEST))
            return [QueueRecord(name, paused, oldest.get(name)) for name, paused in sorted(step.rows(_QUEUES))]
        case Failed(limit):
            return [
                FailureRecord(Error(*error), task, count, first, last, tuple(ids))
                for *error, task, count, first, last, ids in step.rows(_FAILED, limit=max(0, limit))
            ]
        case Complaints():
            return _complaints(step)
    raise TypeError(f"{query!r} is no query")


def _search(step: Step, search: Search) -> list[Record]:
    """Newest first. In each table by its own indexes, and then the newest of both."""
    states = STATES if search.states is None else search.states
    codes = sorted({CODES[state] for state in states if state in CODES})
    if not codes or search.limit <= 0:
        return []
    where = ["state = ANY(%(states)s::smallint[])"]
    for condition, value in (
        ("queue = %(queue)s", search.queue),
        ("task = %(task)s", search.task),
        ("print = %(print)s", search.print),
        ("seq < %(before)s::bigint", search.before),
    ):
        if value is not None:
            where.append(condition)
    tables = [
        f"(SELECT {_ALL} FROM penstock.{table} WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT %(limit)s)"
        for table in ("job", "past")
    ]
    rows = step.rows(
        f"SELECT * FROM ({' UNION ALL '.join(tables)}) AS found ORDER BY seq DESC LIMIT %(limit)s",
        states=codes, queue=search.queue, task=search.task, print=search.print, before=search.before,
        limit=search.limit,
    )  # fmt: skip
    return [_record(row) for row in rows]


def _complaints(step: Step) -> list[str]:
    found = [f"job {id} runs, but nobody knows its worker" for (id,) in step.rows(_NOBODY)]
    for state, queue, task, rows, counted in step.rows(_COUNTED):
        what = f"of task {task!r} in queue {queue!r} are {STATES[state]}"
        found.append(f"{rows} jobs {what}, but the counter says {counted}")
    return found + [said for (said,) in step.rows(_ODD)]


def _record(row: Sequence[Any]) -> Record:
    seq, id, task, queue, priority, state, args, headers, attempt, crashes, suspect, token, *rest = row
    worker, enqueued, due, started, ended, ran, result, *rest = rest
    *error, reason, cancelling, progress = rest
    return Record(
        seq=seq,
        id=id,
        task=task,
        queue=queue,
        priority=priority,
        state=STATES[state],
        args=args,
        headers=headers,
        attempt=attempt,
        crashes=crashes,
        suspect=suspect,
        token=token,
        worker=worker,
        enqueued=enqueued,
        due=due,
        started=started,
        ended=ended,
        ran=ran,
        result=result,
        error=_error(error),
        reason=reason,
        cancelling=cancelling,
        progress=None if progress is None else Progress(seq, token, *json.loads(progress)),
    )


def _error(parts: Iterable[Any]) -> Error | None:
    told = tuple(parts)
    return None if told[0] is None else Error(*told)


def _after(prefix: str) -> str | None:
    """What comes behind all that begin with *prefix*, as PostgreSQL's "C" sorts; None if nothing does."""
    rest = prefix.rstrip("\U0010ffff")
    if not rest:
        return None
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(0xE000 if following == 0xD800 else following)  # halves of pairs are no text
