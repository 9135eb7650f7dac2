"""Workers come, show that they live, and go; what they held is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.engines import rules
from penstock.engines.postgres.claims import DUE
from penstock.engines.postgres.ending import HELD, Held, end
from penstock.engines.postgres.step import NOW, Step
from penstock.engines.requests import Death, Renew, Renewed, Sweep, Swept

_PULSE: Final = f"""
UPDATE penstock.store SET pulse = {NOW},
    hold_until = CASE WHEN {NOW} - pulse > %(gap)s::float8 THEN {NOW} + %(lease)s::float8 ELSE hold_until END
WHERE one = (SELECT one FROM penstock.store FOR UPDATE{{how}})
RETURNING {NOW} >= hold_until
"""
# Who renews doesn't wait for a sweep that is under way, however much it has to take back: that one is a pulse, too.
_PULSE_UNLESS_FELT: Final = _PULSE.format(how=" SKIP LOCKED")
_PULSE_IN_TURN: Final = _PULSE.format(how="")
_BEAT: Final = f"""
UPDATE penstock.worker SET until = {NOW} + %(lease)s::float8 WHERE id = ANY(%(workers)s::bigint[]) RETURNING id
"""
_FIRST: Final = f"""
INSERT INTO penstock.worker VALUES (%(worker)s, %(info)s::bytea, {NOW}, {NOW} + %(lease)s::float8)
ON CONFLICT (id) DO UPDATE SET until = excluded.until RETURNING id
"""
_CANCELS: Final = """
SELECT worker, seq, token, reason FROM penstock.job
WHERE worker = ANY(%(workers)s::bigint[]) AND cancelling
"""
_LATE: Final = f"SELECT id FROM penstock.worker WHERE until < {NOW} ORDER BY id FOR UPDATE SKIP LOCKED"
# A job that its worker is completing in a transaction of its own, on a machine that has frozen since, say, may be
# locked for hours: nobody waits for it. It stays when its worker goes, and a sweep takes it once it can.
_LEFT: Final = """
WITH RECURSIVE holder AS (
    SELECT min(worker) AS id FROM penstock.job WHERE state = 2
    UNION ALL
    SELECT (SELECT min(worker) FROM penstock.job WHERE state = 2 AND worker > holder.id) FROM holder
    WHERE id IS NOT NULL)
SELECT id FROM holder WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM penstock.worker) ORDER BY id
"""
_OF_WORKER: Final = "WHERE state = 2 AND worker = %(worker)s ORDER BY seq"
SUSPECTS: Final = "SELECT count(*) FROM penstock.job WHERE state = 1 AND suspect"
_WORKERS: Final = 100  # lost ones from which one sweep takes jobs back; those of a whole fleet are not for one deadline
_TAKEN: Final = 2_000  # jobs, about: of a worker all are taken, or none
_FOLDED: Final = 50_000  # changes that one sweep sums up: those of hours without a service are not for one deadline
_FOLD: Final = """
WITH gone AS (
    DELETE FROM penstock.change WHERE ctid = ANY(ARRAY(SELECT ctid FROM penstock.change LIMIT %(limit)s)) RETURNING *)
INSERT INTO penstock.tally AS t SELECT state, queue, task, sum(jobs) FROM gone GROUP BY state, queue, task
ON CONFLICT (state, queue, task) DO UPDATE SET jobs = t.jobs + excluded.jobs
"""


def renew(step: Step, renew: Renew) -> Callable[[], Renewed]:
    """Let leases run on; see `requests.Renew`."""
    step.run(_PULSE_UNLESS_FELT, lease=renew.lease, gap=renew.lease / 2)
    firsts = [
        step.run(_FIRST, worker=beat.worker, info=beat.info, lease=renew.lease) for beat in renew.beats if beat.first
    ]
    others = sorted(beat.worker for beat in renew.beats if not beat.first)
    beaten = step.run(_BEAT, workers=others, lease=renew.lease)
    cancels = step.run(_CANCELS, workers=[beat.worker for beat in renew.beats])

    def answer() -> Renewed:
        known = {row[0] for cursor in (*firsts, beaten) for row in cursor.fetchall()}
        lost = [beat.worker for beat in renew.beats if beat.worker not in known]
        return Renewed(lost, [tuple(row) for row in cancels.fetchall()])

    return answer


def sweep(step: Step, sweep: Sweep) -> Swept:
    """Take back what the dead held; see `requests.Sweep`. One sweep at a time: they meet at the store's row.

    Of many lost workers, those that are left are for the next.
    """
    due = step.run(DUE)
    pulse = step.run(_PULSE_IN_TURN, lease=sweep.lease, gap=sweep.gap)
    [[may_take]] = pulse.fetchall()
    deaths = {death.worker: death for death in sweep.deaths}
    late = []
    if may_take:
        late = [worker for (worker,) in step.rows(_LATE) if worker not in deaths]
    moves: list[rules.Move] = []
    changes: list[tuple[int, str, str, int]] = []
    left = [worker for (worker,) in step.rows(_LEFT) if worker not in deaths]
    for death in deaths.values():
        _take_back(step, death, False, sweep.crashes, moves, changes)
    lost = set[int]()
    for worker in sorted({*late, *left})[:_WORKERS]:
        if len(moves) >= _TAKEN:
            break
        _take_back(step, Death(worker, "its lease ran out"), True, sweep.crashes, moves, changes)
        lost.add(worker)
    step.count(changes)
    step.run(_FOLD, limit=_FOLDED)
    ended = sum(move.state in rules.ENDED for move in moves)
    [[suspects]] = step.rows(SUSPECTS)
    [[became_ready]] = due.fetchall()
    if became_ready:
        step.has_news = True
    return Swept(len(moves) - ended, ended, [worker for worker in late if worker in lost], became_ready, suspects)


def _take_back(
    step: Step,
    death: Death,
    lost: bool,
    limit: int,
    moves: list[rules.Move],
    changes: list[tuple[int, str, str, int]],
) -> None:
    # Who claims for this worker has its row locked until that is committed: now nobody can any more.
    step.run("DELETE FROM penstock.worker WHERE id = %(worker)s", worker=death.worker)
    how = "FOR UPDATE SKIP LOCKED" if lost else "FOR UPDATE"  # of one that has ended, transactions end with it
    held = [Held(*row) for row in step.rows(f"{HELD} {_OF_WORKER} {how}", worker=death.worker)]
    victims = [rules.Victim(job.seq, job.crashes, job.cancelled) for job in held]
    if lost:  # what is left there was begun, too
        seqs = {row[0] for row in step.rows(f"SELECT seq FROM penstock.job {_OF_WORKER}", worker=death.worker)}
        victims += [rules.Victim(seq, 0, None) for seq in sorted(seqs - {job.seq for job in held})]
    for job, move in zip(held, rules.taken_back(death, victims, lost=lost, limit=limit), strict=False):
        error = rules.laid_to_it(move, death, job.task)
        if error is not None:
            step.count_failure(job.id, job.task, error)
        changes += end(step, job, move, error, move.reason or death.why)
        moves.append(move)
