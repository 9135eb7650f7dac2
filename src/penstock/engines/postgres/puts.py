"""Jobs come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from penstock.engines.postgres.step import NOW, Step, columns
from penstock.engines.requests import Fate, NewJob

_NAMES: Final = ("ids", "queues", "tasks", "priorities", "delays", "ats", "headers", "args")

PUT: Final = f"""
WITH said AS MATERIALIZED (
    SELECT nextval('penstock.job_seq') AS seq, * FROM unnest(%(ids)s::text[], %(queues)s::text[], %(tasks)s::text[],
        %(priorities)s::integer[], %(delays)s::float8[], %(ats)s::float8[], %(headers)s::bytea[], %(args)s::bytea[])
    AS s(id, queue, task, priority, delay, at, headers, args)),
accepted AS (
    INSERT INTO penstock.known (id, seq) SELECT id, seq FROM said ORDER BY id COLLATE "C", seq
    ON CONFLICT (id) DO NOTHING RETURNING seq),
timed AS (
    SELECT said.*, {NOW} AS now, coalesce(at, {NOW} + delay) AS due FROM said JOIN accepted USING (seq)),
new AS (
    INSERT INTO penstock.job (seq, id, state, queue, task, priority, enqueued, due, headers, args)
    SELECT seq, id, CASE WHEN due <= now THEN 1 ELSE 0 END, queue, task, priority, now, greatest(due, now), headers,
        args FROM timed RETURNING state, queue, task),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, count(*) FROM new GROUP BY state, queue, task)
SELECT id FROM said LEFT JOIN accepted USING (seq) WHERE accepted.seq IS NULL
"""
"""Accept jobs that aren't known, in the order in which they are said; gives the ids of the others, each as often.

Who puts an id waits for whoever else is putting it. So all put theirs in one order, and none waits for one that waits
for it: that would be seen after a second, and one of them had to begin anew.
"""

_ONE: Final = f"""
WITH accepted AS (
    INSERT INTO penstock.known (id) VALUES (%(id)s) ON CONFLICT (id) DO NOTHING RETURNING id, seq),
timed AS (
    SELECT id, seq, {NOW} AS now, coalesce(%(at)s::float8, {NOW} + %(delay)s::float8) AS due FROM accepted),
new AS (
    INSERT INTO penstock.job (seq, id, state, queue, task, priority, enqueued, due, headers, args)
    SELECT seq, id, CASE WHEN due <= now THEN 1 ELSE 0 END, %(queue)s, %(task)s, %(priority)s::integer, now,
        greatest(due, now), %(headers)s::bytea, %(args)s::bytea FROM timed RETURNING state, queue, task),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, 1 FROM new)
SELECT %(id)s WHERE NOT EXISTS (SELECT FROM accepted)
"""
"""`PUT` for one job, in half of the time."""


def put(step: Step, jobs: Sequence[NewJob]) -> Callable[[], list[Fate]]:
    """Accept *jobs*; what becomes of each."""
    rows = step.run_prepared(_ONE, **jobs[0]._asdict()) if len(jobs) == 1 else step.run_prepared(PUT, **values(jobs))
    step.has_news = step.has_news or bool(jobs)
    return lambda: fates(jobs, rows.fetchall())


def values(jobs: Sequence[NewJob]) -> dict[str, Any]:
    """What `PUT` is to be given for *jobs*."""
    rows = [
        (id, queue, task, priority, float(delay), None if at is None else float(at), headers, args)
        for id, task, queue, priority, args, headers, delay, at in jobs
    ]
    return dict(columns(rows, _NAMES))


def fates(jobs: Sequence[NewJob], rows: Sequence[Sequence[Any]]) -> list[Fate]:
    """What became of *jobs*, from what `PUT` gave."""
    known = Counter(row[0] for row in rows)
    answer = [Fate.ACCEPTED] * len(jobs)
    for place in reversed(range(len(jobs) if known else 0)):  # of one that is said twice, the second was refused
        if known[jobs[place].id]:
            known[jobs[place].id] -= 1
            answer[place] = Fate.KNOWN
    return answer
