"""Jobs go out to workers.

The ready jobs of one queue and one task are a *lane*, sorted in the index by what is due first. A claim steps from lane
to lane in that index, and takes from the heads of those that hold something for it; so it costs the same however long
they are, and however many jobs wait that it may not have. Two claims at once don't wait for each other: each passes
over what the other has locked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from penstock.engines.postgres.step import NOW, Step
from penstock.engines.requests import Claim, Claimed, ClaimedJob

DUE: Final = f"""
WITH due AS MATERIALIZED (
    SELECT ctid AS place FROM penstock.job
    WHERE state = 0 AND due <= {NOW} ORDER BY due LIMIT 5000 FOR UPDATE SKIP LOCKED),
ready AS (
    UPDATE penstock.job SET state = 1 WHERE ctid = ANY(ARRAY(SELECT place FROM due)) RETURNING queue, task),
counted AS (
    INSERT INTO penstock.change
    SELECT state, queue, task, sign * count(*) FROM ready, (VALUES (0, -1), (1, 1)) AS moved (state, sign)
    GROUP BY state, queue, task, sign)
SELECT count(*) FROM ready
"""
"""Let scheduled jobs be ready whose time has come; gives how many."""

_GIVE: Final = f"""
WITH RECURSIVE me AS MATERIALIZED (
    SELECT id FROM penstock.worker WHERE id = %(worker)s FOR KEY SHARE),
lane AS (
    (SELECT queue, task FROM penstock.job, me WHERE state = 1 ORDER BY queue, task LIMIT 1)
    UNION ALL
    SELECT next.queue, next.task FROM lane CROSS JOIN LATERAL (
        SELECT job.queue, job.task FROM penstock.job
        WHERE state = 1 AND (job.queue, job.task) > (lane.queue, lane.task) ORDER BY job.queue, job.task LIMIT 1
    ) AS next),
picked AS MATERIALIZED (
    SELECT head.place FROM lane CROSS JOIN LATERAL (
        SELECT ctid AS place, seq, priority, due FROM penstock.job
        WHERE state = 1 AND job.queue = lane.queue AND job.task = lane.task AND suspect = %(alone)s
        ORDER BY priority DESC, due, seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS head
    WHERE lane.task = ANY(%(tasks)s::text[])
        AND (%(queues)s::text[] IS NULL OR lane.queue = ANY(%(queues)s::text[]))
        AND lane.queue NOT IN (SELECT queue FROM penstock.paused)
    ORDER BY head.priority DESC, head.due, head.seq LIMIT %(limit)s),
given AS (
    UPDATE penstock.job SET state = 2, attempt = attempt + 1, token = token + 1, worker = %(worker)s, started = {NOW},
        reason = '', progress = NULL
    WHERE ctid = ANY(ARRAY(SELECT place FROM picked))
    RETURNING seq, token, id, task, queue, priority, args, headers, attempt, enqueued,
        greatest(0.0::float8, started - due) AS waited, due),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, sign * jobs
    FROM (SELECT queue, task, count(*) AS jobs FROM given GROUP BY queue, task) AS sums,
        (VALUES (1, -1), (2, 1)) AS moved (state, sign)),
passed AS (
    SELECT FROM lane WHERE (SELECT count(*) FROM given) < %(limit)s
        AND lane.task = ANY(%(tasks)s::text[])
        AND (%(queues)s::text[] IS NULL OR lane.queue = ANY(%(queues)s::text[]))
        AND lane.queue NOT IN (SELECT queue FROM penstock.paused)
        AND EXISTS (
            SELECT FROM penstock.job WHERE state = 1 AND job.queue = lane.queue AND job.task = lane.task
                AND suspect = %(alone)s AND ctid <> ALL(ARRAY(SELECT place FROM picked)))
    LIMIT 1)
SELECT seq, token, id, task, queue, priority, args, headers, attempt, enqueued, waited FROM (
    SELECT * FROM given UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM passed) AS all_of_it
ORDER BY priority DESC NULLS LAST, due, seq
"""
# What another claim has locked may be free in a moment: it locks the heads of all lanes, and takes the best of them.
_AGAIN: Final = 0.02  # seconds
_ABOUT: Final = f"""
SELECT (SELECT id FROM penstock.worker WHERE id = %(worker)s),
    (SELECT min(due) - {NOW} FROM penstock.job WHERE state = 0)
"""
_CANCELS: Final = "SELECT seq, token, reason FROM penstock.job WHERE worker = %(worker)s AND cancelling"
_CLAIMED: Final = partial(tuple.__new__, ClaimedJob)  # `_make` would look at the length of each row


def claim(step: Step, claim: Claim) -> Callable[[], Claimed]:
    """Give jobs to a worker; see `requests.Claim`."""
    step.run_prepared(DUE)
    if claim.alone:
        return _alone(step, claim)
    given = [_give(step, claim, tasks=list(want.tasks), limit=want.limit) for want in claim.wants]
    return _answer(step, claim, given)


def _give(step: Step, claim: Claim, tasks: list[str], limit: int) -> Any:
    if limit <= 0 or not tasks:
        return None
    queues = None if claim.queues is None else list(claim.queues)
    return step.run_prepared(_GIVE, worker=claim.worker, tasks=tasks, queues=queues, alone=claim.alone, limit=limit)


def _alone(step: Step, claim: Claim) -> Callable[[], Claimed]:
    """One job for all wants together: the next is asked for once it is known that those before got none."""
    given: list[Any] = []
    for want in claim.wants:
        cursor = None
        if not any(one and one[0][0] is not None for one in given):
            cursor = _give(step, claim, tasks=list(want.tasks), limit=min(1, want.limit))
        given.append([] if cursor is None else cursor.fetchall())
    return _answer(step, claim, given)


def _answer(step: Step, claim: Claim, given: list[Any]) -> Callable[[], Claimed]:
    about = step.run_prepared(_ABOUT, worker=claim.worker)
    cancels = step.run_prepared(_CANCELS, worker=claim.worker)

    def answer() -> Claimed:
        rows = [one if isinstance(one, list) else [] if one is None else one.fetchall() for one in given]
        passed = [one.pop() for one in rows if one and one[-1][0] is None]
        [[worker, next_due]] = about.fetchall()
        cancelled = [tuple(row) for row in cancels.fetchall()]
        if worker is None:
            return Claimed([[] for _ in claim.wants], known=False)
        next_due = None if next_due is None else max(0.0, next_due)
        if passed:
            next_due = _AGAIN if next_due is None else min(next_due, _AGAIN)
        return Claimed([list(map(_CLAIMED, one)) for one in rows], cancelled, next_due)

    return answer
