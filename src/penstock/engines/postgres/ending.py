"""The end of one claim, however it came."""

from __future__ import annotations

from typing import Final, NamedTuple

from penstock.engines import rules
from penstock.engines.postgres.schema import CODES, COLUMNS, RUNNING
from penstock.engines.postgres.step import NOW, Step, storable
from penstock.engines.requests import Error


class Held(NamedTuple):
    """A running job: what its end needs to know."""

    seq: int
    token: int
    id: str
    queue: str
    task: str
    attempt: int
    crashes: int
    suspect: bool
    worker: int
    started: float
    cancelling: bool
    reason: str

    @property
    def cancelled(self) -> str | None:
        """Why it was cancelled meanwhile; None if it wasn't."""
        return self.reason if self.cancelling else None


HELD: Final = f"SELECT {', '.join(Held._fields)} FROM penstock.job"

# `due` of one that ended stays, as it does of one that keeps its place.
_SET: Final = f"""
UPDATE penstock.job SET state = %(state)s::smallint, attempt = %(attempt)s, crashes = %(crashes)s,
    suspect = %(suspect)s, worker = NULL, due = CASE WHEN %(stays)s THEN due ELSE {NOW} + %(delay)s::float8 END,
    ended = CASE WHEN %(has_ended)s THEN {NOW} END, ran = %(ran)s::float8, result = %(result)s::bytea,
    reason = %(reason)s, cancelling = false, error_type = coalesce(%(type)s::text, error_type),
    error_message = coalesce(%(message)s::text, error_message),
    error_traceback = coalesce(%(traceback)s::text, error_traceback), print = coalesce(%(print)s::text, print)
WHERE seq = %(seq)s
"""
MOVE_TO_PAST: Final = f"""
WITH gone AS (DELETE FROM penstock.job WHERE seq = ANY(%(seqs)s::bigint[]) RETURNING {COLUMNS})
INSERT INTO penstock.past ({COLUMNS}) SELECT {COLUMNS} FROM gone
"""
_LOG: Final = f"""
INSERT INTO penstock.attempt VALUES (%(seq)s, %(token)s, %(number)s, %(worker)s, %(started)s, {NOW}, %(outcome)s,
    %(reason)s, %(type)s::text, %(message)s::text, %(traceback)s::text, %(print)s::text)
ON CONFLICT (seq, token) DO NOTHING
"""


def end(
    step: Step,
    held: Held,
    move: rules.Move,
    error: Error | None,
    why: str,
    *,
    delay: float = 0.0,
    ran: float | None = None,
    result: bytes | None = None,
) -> list[tuple[int, str, str, int]]:
    """Let the claim end by *move*; *why* goes on record with the attempt. Gives what is to be counted."""
    told = dict(zip(("type", "message", "traceback", "print"), error or (None,) * 4, strict=True))
    told = {name: None if text is None else storable(text) for name, text in told.items()}
    if move.logged is not None:
        step.run(
            _LOG, seq=held.seq, token=held.token, number=held.attempt, worker=held.worker, started=held.started,
            outcome=str(move.logged), reason=storable(why), **told,
        )  # fmt: skip
        if held.token > rules.LOGGED:
            step.run(
                "DELETE FROM penstock.attempt WHERE seq = %(seq)s AND token <= %(token)s",
                seq=held.seq, token=held.token - rules.LOGGED,
            )  # fmt: skip
    has_ended = move.state in rules.ENDED
    state = CODES[move.state]
    step.run(
        _SET,
        seq=held.seq,
        state=state,
        attempt=held.attempt if move.used else held.attempt - 1,
        crashes=held.crashes + move.crashes,
        suspect=held.suspect if move.suspect is None else move.suspect,
        stays=has_ended or move.keeps_place,
        delay=delay,
        has_ended=has_ended,
        ran=ran,
        result=result,
        reason=storable(move.reason),
        **told,
    )
    if has_ended:
        step.run(MOVE_TO_PAST, seqs=[held.seq])
    step.has_news = True
    return [(RUNNING, held.queue, held.task, -1), (state, held.queue, held.task, 1)]
