"""Jobs whose time is still to come."""

from __future__ import annotations

import json
from typing import Any, Final

from penstock.engines.sqlite.schema import READY, SCHEDULED
from penstock.engines.sqlite.step import Step

_AT_ONCE: Final = 5_000  # jobs that become ready in one transaction; the others in the next one
_DRIFT: Final = 1.0  # seconds by which the wall clock may move against the engine's before it was set

_DUE: Final = "SELECT seq, queue, task FROM job WHERE state = 0 AND due <= ? ORDER BY due LIMIT ?"


def let_due_be_ready(step: Step) -> int:
    """Let scheduled jobs be ready whose time has come; how many."""
    due: list[Any] = step.db.execute(_DUE, (step.now, _AT_ONCE)).fetchall()
    if due:
        seqs = json.dumps([seq for seq, _, _ in due])
        step.db.execute("UPDATE job SET state = 1, at = NULL WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
        for _, queue, task in due:
            step.count(queue, task, SCHEDULED, READY)
        step.has_news = True
    return len(due)


def follow_the_wall_clock(step: Step) -> None:
    """If somebody has set the wall clock, let jobs that wait for a time of day wait for it by the new one."""
    ahead = step.wall - step.now
    if abs(ahead - step.ahead) > _DRIFT:
        step.db.execute("UPDATE job SET due = at - ? WHERE state = 0 AND at IS NOT NULL", (ahead,))
        step.ahead = ahead
        step.has_news = True  # whoever sleeps until the next is due has to look again
