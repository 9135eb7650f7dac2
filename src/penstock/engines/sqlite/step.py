"""One write transaction: what its requests share, and what they leave for its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import apsw

from penstock.engines.sqlite.living import Living
from penstock.engines.sqlite.names import Names

_COUNT = """
INSERT INTO counter (state, queue, task, jobs) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs
"""
_ROW = "UPDATE store SET next_seq = ?, pulse = ?, hold_until = ?, ahead = ?, latest = ?"


class Step:
    """What all requests of one transaction use. Its time stands still: everything in it happens at *now*.

    *wall* is the wall clock at the same moment. Changes to the store's one row and to the counters are gathered, and
    written by `finish`.
    """

    def __init__(self, db: apsw.Connection, names: Names, living: Living, now: float, wall: float) -> None:
        self.db = db
        self.now = now
        self.wall = wall
        self.living = living
        self.has_news = False  # something that others may be waiting for
        self.when_done: list[Callable[[], None]] = []
        self.when_undone: list[Callable[[], None]] = []
        self._names = names
        self._fresh: dict[str, int] = {}  # names that are not committed yet
        self._counts: Counter[tuple[int, int, int]] = Counter()
        row = db.execute("SELECT next_seq, pulse, hold_until, ahead FROM store").fetchone()
        assert row is not None
        self._row = row
        self.next_seq: int = row[0]
        self.pulse: float | None = row[1]
        self.hold_until: float = row[2]
        self.ahead: float = row[3]

    def name(self, number: int) -> str:
        """The name that *number* stands for."""
        return self._names.text(self.db, number)

    def known(self, text: str) -> int | None:
        """The number of a name; None if it never had one."""
        return self._fresh.get(text) or self._names.number(self.db, text)

    def number(self, text: str) -> int:
        """The number of a name, which gets one if it has none."""
        number = self.known(text)
        if number is None:
            self.db.execute("INSERT INTO name (text) VALUES (?)", (text,))
            number = self._fresh[text] = self.db.last_insert_rowid()
        return number

    def count(self, queue: int, task: int, before: int | None, after: int | None, jobs: int = 1) -> None:
        """Note that *jobs* went from one state to another; None: from or to nowhere."""
        if before is not None:
            self._counts[before, queue, task] -= jobs
        if after is not None:
            self._counts[after, queue, task] += jobs

    def write_counts(self) -> None:
        """Let the table of counters be right, for somebody who is about to read it."""
        changed = [(*key, jobs) for key, jobs in self._counts.items() if jobs]
        self._counts.clear()
        if changed:
            self.db.executemany(_COUNT, changed)

    def finish(self) -> None:
        """Write what was gathered: the last thing before the commit."""
        self.write_counts()
        row = (self.next_seq, self.pulse, self.hold_until, self.ahead)
        if row != self._row:
            self.db.execute(_ROW, (*row, self.now))

    def done(self) -> None:
        """It is committed."""
        self._names.learn(self._fresh)
        for act in self.when_done:
            act()

    def undone(self) -> None:
        """It is rolled back."""
        for act in self.when_undone:
            act()
