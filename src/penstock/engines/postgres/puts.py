"""Jobs come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock.engines.postgres.step import NOW, columns
from penstock.engines.requests import Fate, NewJob

_NAMES: Final = ("ids", "queues", "tasks", "priorities", "delays", "ats", "headers", "args")

PUT: Final = f"""
WITH said AS MATERIALIZED (
    SELECT DISTINCT ON (id) * FROM unnest(%(ids)s::text[], %(queues)s::text[], %(tasks)s::text[],
        %(priorities)s::integer[], %(delays)s::float8[], %(ats)s::float8[], %(headers)s::bytea[], %(args)s::bytea[])
    WITH ORDINALITY AS s(id, queue, task, priority, delay, at, headers, args, place) ORDER BY id, place),
accepted AS (
    INSERT INTO penstock.known (id) SELECT id FROM (SELECT id FROM said ORDER BY place) AS in_order
    ON CONFLICT (id) DO NOTHING RETURNING id, seq),
timed AS (
    SELECT said.*, accepted.seq, {NOW} AS now, coalesce(at, {NOW} + delay) AS due
    FROM said JOIN accepted USING (id)),
new AS (
    INSERT INTO penstock.job (seq, id, state, queue, task, priority, enqueued, due, headers, args)
    SELECT seq, id, CASE WHEN due <= now THEN 1 ELSE 0 END, queue, task, priority, now, greatest(due, now), headers,
        args FROM timed RETURNING state, queue, task),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, count(*) FROM new GROUP BY state, queue, task)
SELECT id FROM accepted
"""
"""Accept jobs that aren't known, in the order in which they are said; gives the ids of those."""


def values(jobs: Sequence[NewJob]) -> dict[str, Any]:
    """What `PUT` is to be given for *jobs*."""
    rows = [
        (id, queue, task, priority, float(delay), None if at is None else float(at), headers, args)
        for id, task, queue, priority, args, headers, delay, at in jobs
    ]
    return dict(columns(rows, _NAMES))


def fates(jobs: Sequence[NewJob], rows: Sequence[Sequence[Any]]) -> list[Fate]:
    """What became of *jobs*, from what `PUT` gave."""
    accepted = {row[0] for row in rows}
    answer = []
    for job in jobs:
        answer.append(Fate.ACCEPTED if job.id in accepted else Fate.KNOWN)
        accepted.discard(job.id)  # said twice, it is known the second time
    return answer
