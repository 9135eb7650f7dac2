"""Workers say how their jobs ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from penstock.engines import rules
from penstock.engines.requests import Outcome, Settlement
from penstock.engines.sqlite.ending import HELD, Held, count_failure, end
from penstock.engines.sqlite.schema import DONE, RUNNING
from penstock.engines.sqlite.step import Step

_DONE: Final = """
UPDATE job SET state = 3, suspect = 0, worker = NULL, ended = ?, ran = ?, result = ?, reason = '', cancelling = 0
WHERE seq = ?
"""


def settle(step: Step, settlements: Sequence[Settlement]) -> list[bool]:
    """Record outcomes; for each whether its claim was current."""
    seqs = json.dumps([settlement.seq for settlement in settlements])
    rows = step.db.execute(f"{HELD} NOT INDEXED WHERE state = 2 AND seq IN (SELECT value FROM json_each(?))", (seqs,))
    running = {row[0]: row for row in rows}
    answers = []
    well: list[tuple[float, float, bytes | None, int]] = []
    for settlement in settlements:
        row = running.get(settlement.seq)
        is_current = row is not None and row[1] == settlement.token
        answers.append(is_current)
        if not is_current:
            continue
        assert row is not None
        del running[settlement.seq]  # said twice, it is stale the second time
        if settlement.outcome is Outcome.DONE and settlement.error is None:
            well.append((step.now, settlement.ran, settlement.result, settlement.seq))
            step.count(row[3], row[4], RUNNING, DONE)
        else:
            _settle(step, Held(*row), settlement)
    if well:
        step.db.executemany(_DONE, well)
        step.has_news = True
    return answers


def _settle(step: Step, held: Held, settlement: Settlement) -> None:
    if settlement.error is not None:
        count_failure(step, held.id, held.task, settlement.error)
    move = rules.settled(settlement, held.cancelled, held.crashes)
    held = held._replace(result=settlement.result)
    end(step, held, move, settlement.error, settlement.delay, settlement.ran)
