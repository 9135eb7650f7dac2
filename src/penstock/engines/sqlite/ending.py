"""The end of one claim, however it came."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from penstock.engines import rules
from penstock.engines.requests import Error
from penstock.engines.sqlite.schema import CODES, RUNNING
from penstock.engines.sqlite.step import Step


class Held(NamedTuple):
    """A running job: what its end needs to know."""

    seq: int
    token: int
    id: str
    queue: int
    task: int
    attempt: int
    crashes: int
    suspect: int
    worker: int
    started: float
    due: float
    cancelling: int
    reason: str
    result: bytes | None

    @property
    def cancelled(self) -> str | None:
        """Why it was cancelled meanwhile; None if it wasn't."""
        return self.reason if self.cancelling else None


HELD: Final = f"SELECT {', '.join(Held._fields)} FROM job"

_END: Final = """
UPDATE job SET state = ?, attempt = ?, crashes = ?, suspect = ?, worker = NULL, due = ?, ended = ?, ran = ?, result = ?,
    reason = ?, cancelling = 0 WHERE seq = ?
"""
_ERROR: Final = """
UPDATE job SET error_type = ?, error_message = ?, error_traceback = ?, print = ? WHERE seq = ?
"""
_LOG: Final = "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def end(
    step: Step,
    held: Held,
    move: rules.Move,
    error: Error | None,
    why: str,
    delay: float = 0.0,
    ran: float | None = None,
) -> None:
    """Let the claim end by *move*; *why* goes on record with the attempt."""
    if error is not None:
        step.db.execute(_ERROR, (*error, held.seq))
    if move.logged is not None:
        _log(step, held, move.logged, error, why)
    has_ended = move.state in rules.ENDED
    state = CODES[move.state]
    step.db.execute(
        _END,
        (
            state,
            held.attempt if move.used else held.attempt - 1,
            held.crashes + move.crashes,
            held.suspect if move.suspect is None else move.suspect,
            held.due if has_ended or move.keeps_place else step.now + delay,
            step.now if has_ended else None,
            ran,
            held.result,
            move.reason,
            held.seq,
        ),
    )
    step.count(held.queue, held.task, RUNNING, state)
    step.has_news = True


def count_failure(step: Step, id: str, task: int, error: Error) -> None:
    """Count *error* among its kind."""
    known = step.db.execute("SELECT ids FROM failure WHERE print = ?", (error.print,)).get
    if known is None:
        first = (error.print, error.type, error.message, error.traceback, task, 1, step.now, step.now, json.dumps([id]))
        step.db.execute("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", first)
        return
    ids = json.loads(known)
    if len(ids) < rules.SAMPLES and id not in ids:
        ids.append(id)
    step.db.execute(
        "UPDATE failure SET count = count + 1, last = ?, ids = ? WHERE print = ?",
        (step.now, json.dumps(ids), error.print),
    )


def _log(step: Step, held: Held, outcome: str, error: Error | None, why: str) -> None:
    step.db.execute(
        _LOG,
        (
            held.seq,
            held.token,
            held.attempt,
            held.worker,
            held.started,
            step.now,
            str(outcome),
            why,
            *(error or (None, None, None, None)),
        ),
    )
    if held.token > rules.LOGGED:
        step.db.execute("DELETE FROM attempt WHERE seq = ? AND token <= ?", (held.seq, held.token - rules.LOGGED))
