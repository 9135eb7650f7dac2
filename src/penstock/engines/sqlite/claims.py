"""Jobs go out to workers.

The ready jobs of one queue and one task are a *lane*, sorted in the index by what is due first. A claim looks at the
heads of the lanes that hold something for it, so that it costs the same however long they are, and however many jobs
wait that it may not have: of paused queues, or of tasks that the asker doesn't know.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock.engines.requests import Claim, Claimed, ClaimedJob, Want
from penstock.engines.sqlite.schema import READY, RUNNING
from penstock.engines.sqlite.step import Step
from penstock.engines.sqlite.waiting import let_due_be_ready

_LANES: Final = """
SELECT -job.priority, job.due, job.seq, counter.queue, counter.task FROM counter JOIN job ON job.seq = (
    SELECT seq FROM job INDEXED BY job_ready
    WHERE state = 1 AND queue = counter.queue AND task = counter.task AND suspect = ?
    ORDER BY priority DESC, due, seq LIMIT 1)
WHERE counter.state = 1 AND counter.jobs > 0 AND counter.queue NOT IN (SELECT queue FROM paused)
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
    # Several cursors on one statement would each compile it anew; one for each place in the line are kept.
    lanes = [
        step.db.execute(f"{_LANE} -- {place}", (queue, task, claim.alone))
        for place, (queue, task) in enumerate(_lanes(step, claim, want))
    ]
    first: Iterator[tuple[Any, ...]] = heapq.merge(*lanes)  # no two are equal before their seq
    rows = list(itertools.islice(first, want.limit))
    for lane in lanes:
        lane.close()
    if not rows:
        return []
    step.db.execute(_GIVE, (claim.worker, step.now, json.dumps([row[2] for row in rows])))
    names: dict[int, str] = {}
    for (queue, task), jobs in Counter((row[5], row[6]) for row in rows).items():
        step.count(queue, task, READY, RUNNING, jobs)
        names[queue], names[task] = step.name(queue), step.name(task)
    return [_claimed(row, names, step.now) for row in rows]


def _claimed(row: tuple[Any, ...], names: dict[int, str], now: float) -> ClaimedJob:
    negative, due, seq, token, id, queue, task, args, headers, attempt, enqueued = row
    waited = max(0.0, now - due)
    return ClaimedJob(
        seq, token + 1, id, names[task], names[queue], -negative, args, headers, attempt + 1, enqueued, waited
    )


def _lanes(step: Step, claim: Claim, want: Want) -> list[tuple[int, int]]:
    """Where the jobs are that may be given: in as many lanes as there are jobs wanted, those with the best heads."""
    step.write_counts()
    heads: Iterable[Any] = step.db.execute(_LANES, (claim.alone,))
    fitting = [
        head
        for head in heads
        if step.name(head[4]) in want.tasks and (claim.queues is None or step.name(head[3]) in claim.queues)
    ]
    return [head[3:] for head in heapq.nsmallest(want.limit, fitting)]
