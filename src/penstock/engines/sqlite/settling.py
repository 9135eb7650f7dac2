"""Workers say how their jobs ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from penstock.engines import rules
from penstock.engines.requests import Outcome, Settlement
from penstock.engines.sqlite.bulk import Bulk
from penstock.engines.sqlite.ending import HELD, Held, count_failure, end
from penstock.engines.sqlite.schema import DONE, RUNNING
from penstock.engines.sqlite.step import Step

_RUNNING: Final = """
SELECT seq, token, queue, task FROM job NOT INDEXED WHERE state = 2 AND seq IN (SELECT value FROM json_each(?))
"""
_DONE: Final = Bulk(
    """
UPDATE job SET state = 3, suspect = 0, worker = NULL, ended = ?, ran = said.column2, result = said.column3, reason = '',
    cancelling = 0
FROM (VALUES %s) AS said WHERE seq = said.column1
""",
    columns=3,
)


def settle(step: Step, settlements: Sequence[Settlement]) -> list[bool]:
    """Record outcomes; for each whether its claim was current."""
    seqs = json.dumps([settlement.seq for settlement in settlements])
    rows: Iterable[Any] = step.db.execute(_RUNNING, (seqs,))
    running = {row[0]: row for row in rows}
    answers = []
    well: list[tuple[int, float, bytes | None]] = []
    lanes: list[tuple[int, int]] = []
    for settlement in settlements:
        seq, token, outcome, result, error, _, _, ran = settlement
        row = running.get(seq)
        if row is None or row[1] != token:
            answers.append(False)
            continue
        answers.append(True)
        del running[seq]  # said twice, it is stale the second time
        if outcome is Outcome.DONE and error is None:
            well.append((seq, ran, result))
            lanes.append(row[2:])
        else:
            _settle(step, settlement)
    if well:
        _DONE.run(step.db, well, step.now)
        step.has_news = True
        for (queue, task), jobs in Counter(lanes).items():
            step.count(queue, task, RUNNING, DONE, jobs)
    return answers


def _settle(step: Step, settlement: Settlement) -> None:
    row: Any = step.db.execute(f"{HELD} WHERE seq = ?", (settlement.seq,)).fetchone()
    held = Held(*row)._replace(result=settlement.result)
    if settlement.error is not None:
        count_failure(step, held.id, held.task, settlement.error)
    move = rules.settled(settlement, held.cancelled, held.crashes)
    end(step, held, move, settlement.error, move.reason, settlement.delay, settlement.ran)
