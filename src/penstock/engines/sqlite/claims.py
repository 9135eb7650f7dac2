"""Jobs go out to workers.

The ready jobs of one queue and one task are a *lane*, sorted in the index by what is due first. A claim looks at the
heads of the lanes that hold something for it, so that it costs the same however long they are, and however many jobs
wait that it may not have: of paused queues, or of tasks that the asker doesn't know.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from penstock.engines.requests import Claim, Claimed, ClaimedJob, Want
from penstock.engines.sqlite.schema import READY, RUNNING
from penstock.engines.sqlite.step import Step
from penstock.engines.sqlite.waiting import let_due_be_ready

_LANES: Final = """
SELECT queue, task FROM counter WHERE state = 1 AND jobs > 0 AND queue NOT IN (SELECT queue FROM paused)
"""
_LANE: Final = """
SELECT -priority, due, seq, token, id, queue, task, args, headers, attempt, enqueued FROM job INDEXED BY job_ready
WHERE state = 1 AND queue = ? AND task = ? AND suspect = ? ORDER BY priority DESC, due, seq
"""
_GIVE: Final = """
UPDATE job SET state = 2, attempt = attempt + 1, token = token + 1, worker = ?, started = ?, reason = '',
    progress = NULL
WHERE seq IN (SELECT value FROM json_each(?))
"""
_CANCELS: Final = "SELECT seq, token, reason FROM job WHERE state = 2 AND worker = ? AND cancelling = 1"


def claim(step: Step, claim: Claim) -> Claimed:
    """Give jobs to a worker; see `requests.Claim`."""
    let_due_be_ready(step)
    if step.db.execute("SELECT 1 FROM worker WHERE id = ?", (claim.worker,)).get is None:
        return Claimed([[] for _ in claim.wants], known=False)
    given: list[list[ClaimedJob]] = []
    for want in claim.wants:
        if claim.alone:
            want = want._replace(limit=0 if any(given) else min(1, want.limit))
        given.append(_given(step, claim, want))
    due = step.db.execute("SELECT min(due) FROM job WHERE state = 0").get
    cancels: list[Any] = step.db.execute(_CANCELS, (claim.worker,)).fetchall()
    return Claimed(given, cancels, None if due is None else max(0.0, due - step.now))


def _given(step: Step, claim: Claim, want: Want) -> list[ClaimedJob]:
    if want.limit <= 0:
        return []
    lanes = [step.db.execute(_LANE, (*lane, claim.alone)) for lane in _lanes(step, claim.queues, want)]
    first: Iterator[tuple[Any, ...]] = heapq.merge(*lanes)  # no two are equal before their seq
    rows = list(itertools.islice(first, want.limit))
    for lane in lanes:
        lane.close()
    if not rows:
        return []
    step.db.execute(_GIVE, (claim.worker, step.now, json.dumps([row[2] for row in rows])))
    jobs = []
    for negative, due, seq, token, id, queue, task, args, headers, attempt, enqueued in rows:
        step.count(queue, task, READY, RUNNING)
        waited = max(0.0, step.now - due)
        jobs.append(
            ClaimedJob(
                seq,
                token + 1,
                id,
                step.name(task),
                step.name(queue),
                -negative,
                args,
                headers,
                attempt + 1,
                enqueued,
                waited,
            )
        )
    return jobs


def _lanes(step: Step, queues: Sequence[str] | None, want: Want) -> list[tuple[int, int]]:
    step.write_counts()
    return [
        (queue, task)
        for queue, task in step.db.execute(_LANES)
        if step.name(task) in want.tasks and (queues is None or step.name(queue) in queues)
    ]
