"""Workers come, show that they live, and go; what they held is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from penstock.engines import rules
from penstock.engines.requests import Death, Renew, Renewed, Sweep, Swept
from penstock.engines.sqlite.ending import HELD, Held, count_failure, end
from penstock.engines.sqlite.step import Step
from penstock.engines.sqlite.waiting import follow_the_wall_clock, let_due_be_ready

_CANCELS: Final = """
SELECT worker, seq, token, reason FROM job
WHERE state = 2 AND worker IN (SELECT value FROM json_each(?)) AND cancelling = 1
"""
_SUSPECTS: Final = """
SELECT sum((SELECT count(*) FROM job INDEXED BY job_ready
            WHERE state = 1 AND queue = counter.queue AND task = counter.task AND suspect = 1))
FROM counter WHERE state = 1 AND jobs > 0
"""


def renew(step: Step, renew: Renew) -> Renewed:
    """Let leases run on; see `requests.Renew`."""
    _feel_pulse(step, renew.lease, gap=renew.lease / 2)
    until = step.now + renew.lease
    lost = []
    for beat in renew.beats:
        before = step.db.total_changes()
        step.db.execute("UPDATE worker SET until = ? WHERE id = ?", (until, beat.worker))
        if step.db.total_changes() != before:
            continue
        if beat.first:
            step.db.execute(
                "INSERT INTO worker (id, info, since, until) VALUES (?, ?, ?, ?)",
                (beat.worker, beat.info, step.now, until),
            )
            step.living.hold(beat.worker)
            step.when_undone.append(lambda worker=beat.worker: step.living.let_go(worker))  # type: ignore[misc]
        else:
            lost.append(beat.worker)
            step.when_done.append(lambda worker=beat.worker: step.living.let_go(worker))  # type: ignore[misc]
    workers = json.dumps([beat.worker for beat in renew.beats])
    cancels: list[Any] = step.db.execute(_CANCELS, (workers,)).fetchall()
    return Renewed(lost, cancels)


def sweep(step: Step, sweep: Sweep) -> Swept:
    """Take back what the dead held; see `requests.Sweep`."""
    follow_the_wall_clock(step)
    due = let_due_be_ready(step)
    _feel_pulse(step, sweep.lease, sweep.gap)
    deaths = {death.worker: death for death in sweep.deaths}
    for death in _seen_dead(step):
        deaths.setdefault(death.worker, death)
    late = []
    if step.now >= step.hold_until:
        late = [worker for (worker,) in step.db.execute("SELECT id FROM worker WHERE until < ?", (step.now,))]
        late = [worker for worker in late if worker not in deaths]
    moves = [move for death in deaths.values() for move in _take_back(step, death, False, sweep.crashes)]
    for worker in late:
        moves += _take_back(step, Death(worker, "its lease ran out"), True, sweep.crashes)
    ended = sum(move.state in rules.ENDED for move in moves)
    step.write_counts()
    return Swept(len(moves) - ended, ended, late, due, step.db.execute(_SUSPECTS).get or 0)


def _feel_pulse(step: Step, lease: float, gap: float) -> None:
    if step.pulse is not None and step.now - step.pulse > gap:
        step.hold_until = step.now + lease
    step.pulse = step.now


def _seen_dead(step: Step) -> Iterator[Death]:
    """Workers of which this machine knows that they are no more."""
    workers: list[Any] = step.db.execute("SELECT id, gone FROM worker").fetchall()
    for worker, gone in workers:
        if gone:  # nobody's fault: the whole machine went down
            yield Death(worker, "the machine was started anew", blamed=frozenset())
        elif step.living.is_dead(worker):
            yield Death(worker, "its process ended")


def _take_back(step: Step, death: Death, lost: bool, limit: int) -> list[rules.Move]:
    step.db.execute("DELETE FROM worker WHERE id = ?", (death.worker,))
    step.when_done.append(lambda: step.living.bury(death.worker))
    held = [
        Held(*row) for row in step.db.execute(f"{HELD} WHERE state = 2 AND worker = ? ORDER BY seq", (death.worker,))
    ]
    victims = [rules.Victim(job.seq, job.crashes, job.cancelled) for job in held]
    moves = rules.taken_back(death, victims, lost=lost, limit=limit)
    for job, move in zip(held, moves, strict=True):
        error = rules.laid_to_it(move, death, step.name(job.task))
        if error is not None:
            count_failure(step, job.id, job.task, error)
        end(step, job, move, error, move.reason or death.why)
    return moves
