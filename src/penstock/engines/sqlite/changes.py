"""What people, and running jobs, change: cancel, pause, run again, progress, prune."""

from __future__ import annotations

import json
from typing import Any, Final

from penstock.engines import rules
from penstock.engines.requests import Again, Cancel, Cut, Pause, Progress, Prune
from penstock.engines.sqlite.schema import CANCELLED, CODES, DONE, FAILED, READY, RUNNING
from penstock.engines.sqlite.step import Step

_SPARE: Final = 10_000  # pages that a file may have free, 40 MB: the next jobs will need them
_SHRUNK: Final = 2_000  # pages that one prune gives back to the disk

_CANCEL: Final = "UPDATE job SET state = 5, ended = ?, reason = ?, suspect = 0, at = NULL WHERE seq = ?"
_ASK: Final = "UPDATE job SET cancelling = 1, reason = ? WHERE seq = ? AND cancelling = 0"
_AGAIN: Final = """
UPDATE job SET state = 1, attempt = 0, crashes = 0, due = ?, started = NULL, ended = NULL, ran = NULL, result = NULL,
    reason = '' WHERE seq IN (SELECT value FROM json_each(?))
"""
_PROGRESS: Final = "UPDATE job SET progress = ? WHERE seq = ? AND token = ? AND state = 2"
_OLD: Final = """
SELECT seq, queue, task, state, ended FROM job INDEXED BY job_ended
WHERE state >= 3 AND state = ? AND ended < ? ORDER BY ended LIMIT ?
"""


def cancel(step: Step, request: Cancel) -> list[Cut]:
    """Cancel jobs; what that did to each."""
    return [_cancel(step, id, request.reason) for id in request.ids]


def _cancel(step: Step, id: str, reason: str) -> Cut:
    row = step.db.execute("SELECT seq, state, queue, task FROM job WHERE id = ?", (id,)).fetchone()
    if row is None:
        return Cut.UNKNOWN
    seq, state, queue, task = row
    if state > RUNNING:
        return Cut.ENDED
    step.has_news = True
    if state == RUNNING:
        step.db.execute(_ASK, (reason, seq))
        return Cut.ASKED
    step.db.execute(_CANCEL, (step.now, reason, seq))
    step.count(queue, task, state, CANCELLED)
    return Cut.CANCELLED


def pause(step: Step, request: Pause) -> bool:
    """Pause or resume a queue; whether that changed anything."""
    queue = step.number(request.queue)
    before = step.db.total_changes()
    if request.paused:
        step.db.execute("INSERT INTO paused VALUES (?) ON CONFLICT DO NOTHING", (queue,))
    else:
        step.db.execute("DELETE FROM paused WHERE queue = ?", (queue,))
        step.has_news = True
    return step.db.total_changes() != before


def again(step: Step, request: Again) -> int:
    """Let ended jobs run again; how many."""
    codes = [CODES[state] for state in request.states if state in rules.ENDED]
    if not codes:
        return 0
    where = [f"state >= 3 AND state IN ({', '.join(map(str, codes))})"]
    given: list[str | int] = []
    index = "job_ended"
    if request.print is not None:
        index = "job_print"
        where.append("print = ?")
        given.append(request.print)
    if request.ids is not None:
        index = "job_id"
        where.append("id IN (SELECT value FROM json_each(?))")
        given.append(json.dumps(request.ids))
    found: list[Any] = step.db.execute(
        f"SELECT seq, queue, task, state FROM job INDEXED BY {index} WHERE {' AND '.join(where)} ORDER BY seq LIMIT ?",
        (*given, max(0, request.limit)),
    ).fetchall()
    if found:
        step.db.execute(_AGAIN, (step.now, json.dumps([row[0] for row in found])))
        for _, queue, task, state in found:
            step.count(queue, task, state, READY)
        step.has_news = True
    return len(found)


def progress(step: Step, request: Progress) -> bool:
    """Note how far a job is; whether its claim is current."""
    before = step.db.total_changes()
    said = json.dumps([request.done, request.total, request.note])
    step.db.execute(_PROGRESS, (said, request.seq, request.token))
    return step.db.total_changes() != before


def prune(step: Step, request: Prune) -> int:
    """Forget jobs that ended long ago; how many."""
    limit = request.limit
    old = []
    for states, seconds in (((DONE, CANCELLED), request.done), ((FAILED,), request.failed)):
        rows = [row for state in states for row in step.db.execute(_OLD, (state, step.now - seconds, limit))]
        old += sorted(rows, key=lambda row: (row[4], row[0]))[:limit]
    if old:
        step.keep_next_seq()
        seqs = json.dumps([row[0] for row in old])
        step.db.execute("DELETE FROM attempt WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
        step.db.execute("DELETE FROM job WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
        for _, queue, task, state, _ in old:
            step.count(queue, task, state, None)
    _forget(step)
    _shrink(step)
    return len(old)


def _forget(step: Step) -> None:
    """Let nothing grow that nobody needs: counters at zero, kinds of failure that are long past."""
    step.write_counts()
    step.db.execute("DELETE FROM counter WHERE jobs = 0")
    kinds = step.db.execute("SELECT count(*) FROM failure").get
    if kinds > rules.KINDS:
        step.db.execute(
            "DELETE FROM failure WHERE rowid IN (SELECT rowid FROM failure ORDER BY last LIMIT ?)",
            (kinds - rules.KINDS,),
        )


def _shrink(step: Step) -> None:
    """Give back space of a rush that is over: once more than half of the file is free, a little at a time."""
    free, pages = step.db.pragma("freelist_count"), step.db.pragma("page_count")
    if free > max(_SPARE, pages // 2):
        step.db.execute(f"PRAGMA incremental_vacuum({_SHRUNK})").fetchall()
