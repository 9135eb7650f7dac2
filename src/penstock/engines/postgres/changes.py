"""What people, and running jobs, change: cancel, pause, run again, progress, prune."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from penstock.engines import rules
from penstock.engines.postgres.ending import MOVE_TO_PAST
from penstock.engines.postgres.schema import CANCELLED, CODES, COLUMNS, DONE, FAILED, RUNNING
from penstock.engines.postgres.step import NOW, Step, storable
from penstock.engines.requests import Again, Cancel, Cut, Pause, Progress, Prune

_LIVE: Final = """
SELECT seq, id, state, queue, task FROM penstock.job
WHERE seq = ANY(ARRAY(SELECT seq FROM penstock.known WHERE id = ANY(%(ids)s::text[]))) ORDER BY seq FOR UPDATE
"""
_KNOWN: Final = "SELECT id FROM penstock.known WHERE id = ANY(%(ids)s::text[])"
_CANCEL: Final = f"""
UPDATE penstock.job SET state = 5, ended = {NOW}, reason = %(reason)s, suspect = false
WHERE seq = ANY(%(seqs)s::bigint[])
"""
_ASK: Final = """
UPDATE penstock.job SET cancelling = true, reason = %(reason)s WHERE seq = ANY(%(seqs)s::bigint[]) AND NOT cancelling
"""
_AGAIN: Final = f"""
WITH found AS MATERIALIZED (
    SELECT seq, state AS was FROM penstock.past WHERE state = ANY(%(states)s::smallint[])
        AND (%(print)s::text IS NULL OR print = %(print)s::text)
        AND (%(ids)s::text[] IS NULL
            OR seq = ANY(ARRAY(SELECT seq FROM penstock.known WHERE id = ANY(%(ids)s::text[]))))
    ORDER BY seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
gone AS (
    DELETE FROM penstock.past USING found WHERE past.seq = found.seq RETURNING past.*, found.was),
back AS (
    INSERT INTO penstock.job ({COLUMNS})
    SELECT {{columns}} FROM gone),
counted AS (
    INSERT INTO penstock.change
    SELECT moved.state, queue, task, sum(sign) FROM gone CROSS JOIN LATERAL (VALUES (was, -1), (1::smallint, 1))
        AS moved (state, sign) GROUP BY moved.state, queue, task)
SELECT count(*) FROM gone
"""
_AFRESH: Final = {
    "state": "1",
    "attempt": "0",
    "crashes": "0",
    "due": NOW,
    "started": "NULL",
    "ended": "NULL",
    "ran": "NULL",
    "result": "NULL",
    "reason": "''",
}
_PROGRESS: Final = """
UPDATE penstock.job SET progress = %(said)s WHERE seq = %(seq)s AND token = %(token)s AND state = 2 RETURNING seq
"""
_OLD: Final = """
WITH old AS MATERIALIZED (
    SELECT seq FROM (
        {each}
    ) AS ended ORDER BY ended, seq LIMIT %(limit)s),
gone AS (
    DELETE FROM penstock.past USING old WHERE past.seq = old.seq RETURNING past.seq, id, state, queue, task),
forgotten AS (
    DELETE FROM penstock.known USING gone WHERE known.id = gone.id),
attempts AS (
    DELETE FROM penstock.attempt USING gone WHERE attempt.seq = gone.seq),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, -count(*) FROM gone GROUP BY state, queue, task)
SELECT count(*) FROM gone
"""
_EACH: Final = f"""
        (SELECT seq, ended FROM penstock.past WHERE state = {{state}} AND ended < {NOW} - %(seconds)s::float8
         ORDER BY ended LIMIT %(limit)s)
"""


def cancel(step: Step, request: Cancel) -> list[Cut]:
    """Cancel jobs; what that did to each."""
    ids = list(request.ids)
    live = {row[1]: row for row in step.rows(_LIVE, ids=ids)}
    known = {row[0] for row in step.rows(_KNOWN, ids=ids)}
    waiting = [row for row in live.values() if row[2] != RUNNING]
    running = [row[0] for row in live.values() if row[2] == RUNNING]
    reason = storable(request.reason)
    if waiting:
        seqs = [row[0] for row in waiting]
        step.run(_CANCEL, seqs=seqs, reason=reason)
        step.run(MOVE_TO_PAST, seqs=seqs)
        step.count(
            change
            for _, _, state, queue, task in waiting
            for change in ((state, queue, task, -1), (CANCELLED, queue, task, 1))
        )
    if running:
        step.run(_ASK, seqs=running, reason=reason)
    step.has_news = step.has_news or bool(live)
    cuts, cut = [], set[str]()
    for id in ids:
        row = live.get(id)
        if row is None:
            cuts.append(Cut.ENDED if id in known else Cut.UNKNOWN)
        elif row[2] == RUNNING:
            cuts.append(Cut.ASKED)
        else:
            cuts.append(Cut.ENDED if id in cut else Cut.CANCELLED)
            cut.add(id)
    return cuts


def pause(step: Step, request: Pause) -> Callable[[], bool]:
    """Pause or resume a queue; whether that changed anything."""
    if request.paused:
        done = step.run(
            "INSERT INTO penstock.paused VALUES (%(queue)s) ON CONFLICT DO NOTHING RETURNING queue", queue=request.queue
        )
    else:
        done = step.run("DELETE FROM penstock.paused WHERE queue = %(queue)s RETURNING queue", queue=request.queue)
        step.has_news = True
    return lambda: bool(done.fetchall())


def again(step: Step, request: Again) -> Callable[[], int]:
    """Let ended jobs run again; how many."""
    codes = [CODES[state] for state in request.states if state in rules.ENDED]
    if not codes or request.limit <= 0:
        return lambda: 0
    given = ", ".join(_AFRESH.get(name.strip(), name.strip()) for name in COLUMNS.split(","))
    found = step.run(
        _AGAIN.format(columns=given),
        states=codes,
        print=None if request.print is None else storable(request.print),
        ids=None if request.ids is None else list(request.ids),
        limit=request.limit,
    )
    step.has_news = True
    return lambda: int(found.fetchall()[0][0])


def progress(step: Step, request: Progress) -> Callable[[], bool]:
    """Note how far a job is; whether its claim is current."""
    said = json.dumps([request.done, request.total, request.note])
    noted = step.run(_PROGRESS, said=said, seq=request.seq, token=request.token)
    return lambda: bool(noted.fetchall())


def prune(step: Step, request: Prune) -> Callable[[], int]:
    """Forget jobs that ended long ago, and kinds of failure that are long past; how many jobs."""
    if request.limit <= 0:
        return lambda: 0
    cursors: list[Any] = []
    for states, seconds in (((DONE, CANCELLED), request.done), ((FAILED,), request.failed)):
        each = " UNION ALL ".join(_EACH.format(state=state) for state in states)
        cursors.append(step.run(_OLD.format(each=each), seconds=seconds, limit=request.limit))
    step.run(
        "DELETE FROM penstock.failure WHERE print IN (SELECT print FROM penstock.failure ORDER BY last DESC"
        f" OFFSET {rules.KINDS})"
    )
    step.run("DELETE FROM penstock.tally WHERE jobs = 0")
    return lambda: sum(int(cursor.fetchall()[0][0]) for cursor in cursors)
