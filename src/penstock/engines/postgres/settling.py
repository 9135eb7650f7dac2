"""Workers say how their jobs ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from penstock.engines import rules
from penstock.engines.postgres.ending import HELD, Held, end
from penstock.engines.postgres.schema import COLUMNS
from penstock.engines.postgres.step import NOW, Step, columns
from penstock.engines.requests import Outcome, Settlement

_CHANGED: Final = {
    "state": "3::smallint",
    "suspect": "false",
    "worker": "NULL::bigint",
    "ended": NOW,
    "ran": "said_ran",
    "result": "said_result",
    "reason": "''",
    "cancelling": "false",
}
# `generate_series` gives the planner a guess of a thousand; by that of `unnest`, ten, it compares each with each.
DONE: Final = f"""
WITH said AS MATERIALIZED (
    SELECT seq, token, ran, result FROM ROWS FROM (
        unnest(%(seqs)s::bigint[]), unnest(%(tokens)s::bigint[]), unnest(%(rans)s::float8[]),
        unnest(%(results)s::bytea[]), generate_series(1, cardinality(%(seqs)s::bigint[])))
    AS s(seq, token, ran, result, place)),
gone AS (
    DELETE FROM penstock.job USING said
    WHERE job.seq = ANY(ARRAY(SELECT seq FROM said)) AND job.worker IS NOT NULL
        AND job.seq = said.seq AND job.token = said.token
    RETURNING job.*, said.ran AS said_ran, said.result AS said_result),
kept AS (
    INSERT INTO penstock.past ({COLUMNS})
    SELECT {", ".join(_CHANGED.get(name.strip(), name.strip()) for name in COLUMNS.split(","))} FROM gone
    RETURNING seq, token, queue, task),
counted AS (
    INSERT INTO penstock.change SELECT state, queue, task, sign * jobs
    FROM (SELECT queue, task, count(*) AS jobs FROM kept GROUP BY queue, task) AS sums,
        (VALUES (2, -1), (3, 1)) AS moved (state, sign))
SELECT seq, token FROM said WHERE (seq, token) NOT IN (SELECT seq, token FROM kept)
"""
"""Record that these jobs are done; gives those whose claim was not current."""

_CURRENT: Final = f"{HELD} WHERE seq = ANY(%(seqs)s::bigint[]) AND state = 2 ORDER BY seq FOR UPDATE"
_NAMES: Final = ("seqs", "tokens", "rans", "results")


def values(settlements: Sequence[Settlement]) -> dict[str, Any]:
    """What `DONE` is to be given for *settlements*."""
    firsts = {(it.seq, it.token): it for it in reversed(settlements)}  # of what is said twice
    ordered = [firsts[claim] for claim in sorted(firsts)]  # in which all lock jobs: none waits for one who waits for it
    return dict(columns([(it.seq, it.token, float(it.ran), it.result) for it in ordered], _NAMES))


def settle(step: Step, settlements: Sequence[Settlement]) -> Callable[[], list[bool]]:
    """Record outcomes; for each whether its claim was current."""
    if not all(it.outcome is Outcome.DONE and it.error is None for it in settlements):
        answers = _one_by_one(step, settlements)
        return lambda: answers
    done = step.run_prepared(DONE, **values(settlements))
    step.has_news = True
    return lambda: answers_of(settlements, done.fetchall())


def answers_of(settlements: Sequence[Settlement], rows: Sequence[Sequence[Any]]) -> list[bool]:
    """For each of *settlements* whether its claim was current, from what `DONE` gave."""
    stale = {tuple(row) for row in rows}
    answers = []
    for seq, token, *_ in settlements:
        answers.append((seq, token) not in stale)
        stale.add((seq, token))  # said twice, it is stale the second time
    return answers


def _one_by_one(step: Step, settlements: Sequence[Settlement]) -> list[bool]:
    """With a look at each job before: what its end means depends on what it went through."""
    held = {row[0]: Held(*row) for row in step.rows(_CURRENT, seqs=[it.seq for it in settlements])}
    answers, changes = [], []
    for settlement in settlements:
        job = held.get(settlement.seq)
        if job is None or job.token != settlement.token:
            answers.append(False)
            continue
        answers.append(True)
        del held[settlement.seq]
        error = settlement.error
        if error is not None:
            step.count_failure(job.id, job.task, error)
        move = rules.settled(settlement, job.cancelled, job.crashes)
        changes += end(
            step, job, move, error, move.reason,
            delay=settlement.delay, ran=settlement.ran, result=settlement.result,
        )  # fmt: skip
    step.count(changes)
    return answers
