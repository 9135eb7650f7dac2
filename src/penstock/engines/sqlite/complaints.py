"""What is wrong with a store."""

from __future__ import annotations

from typing import Any, Final

import apsw

from penstock.engines.sqlite.schema import STATES

_COUNTED: Final = """
SELECT state, queue, task, sum(rows) AS rows, sum(counted) AS counted FROM (
    SELECT state, queue, task, count(*) AS rows, 0 AS counted FROM job GROUP BY state, queue, task
    UNION ALL SELECT state, queue, task, 0, jobs FROM tally)
GROUP BY state, queue, task HAVING sum(rows) <> sum(counted)
"""
_NOBODY: Final = "SELECT id FROM job WHERE state = 2 AND (worker IS NULL OR worker NOT IN (SELECT id FROM worker))"

_LAST: Final = "SELECT counted, max(next_seq - 1, (SELECT coalesce(max(seq), 0) FROM job)) FROM store"


def complaints(db: apsw.Connection) -> list[str]:
    """Each thing that is wrong, for people; empty if all is well."""
    found = [f"SQLite says: {line}" for (line,) in db.execute("PRAGMA quick_check") if line != "ok"]
    found += [f"job {id} runs, but nobody knows its worker" for (id,) in db.execute(_NOBODY)]
    wrong: list[Any] = db.execute(_COUNTED).fetchall()
    for state, queue, task, rows, counted in wrong:
        names = [db.execute("SELECT text FROM name WHERE number = ?", (number,)).get for number in (queue, task)]
        what = f"of task {names[1]!r} in queue {names[0]!r} are {STATES[state]}"
        found.append(f"{rows} jobs {what}, but the counter says {counted}")
    counted, last = db.execute(_LAST).get
    if counted > last:
        found.append(f"job number {counted} is counted, and there was none behind {last}")
    return found
