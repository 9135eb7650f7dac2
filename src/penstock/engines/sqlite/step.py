"""One write transaction: what its requests share, and what they leave for its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import apsw

from penstock.engines.sqlite.living import Living
from penstock.engines.sqlite.names import Names

_COUNT: Final = """
INSERT INTO counter (state, queue, task, jobs) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs
"""
_ROW: Final = "UPDATE store SET next_seq = ?, pulse = ?, hold_until = ?, ahead = ?, counted = ?, latest = ?"
_NEW: Final = "SELECT state, queue, task, count(*) FROM job WHERE seq > ? AND seq < ? GROUP BY state, queue, task"
TAIL: Final = 256  # jobs that may wait to be counted: whoever wants a sum has to look at each


class Step:
    """What all requests of one transaction use. Its time stands still: everything in it happens at *now*.

    *wall* is the wall clock at the same moment. Changes to the store's one row and to the counters are gathered, and
    written by `finish`.

    A put alone writes neither, since each page that a commit writes takes its time. The next number is one more than
    the last there is (`next_seq` says what it may not fall below), and new jobs are in the counters up to the number
    `counted`: those behind it are as they were put, until they are counted by whoever comes to change any job.
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
        self._counts: defaultdict[tuple[int, int, int], int] = defaultdict(int)
        row: tuple[Any, ...] | None = db.execute(
            "SELECT next_seq, pulse, hold_until, ahead, counted FROM store"
        ).fetchone()
        assert row is not None
        self._row = row
        self._next_seq: int = row[0]
        self.pulse: float | None = row[1]
        self.hold_until: float = row[2]
        self.ahead: float = row[3]
        self.counted: int = row[4]

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

    def next_seq(self) -> int:
        """The number that no job has had yet."""
        last: int = self.db.execute("SELECT max(seq) FROM job").get or 0
        return max(self._next_seq, last + 1)

    def keep_next_seq(self) -> None:
        """Give no number again, though the jobs that have the last ones may be deleted now."""
        self._next_seq = self.next_seq()

    def come_in(self, first: int, lanes: Iterable[tuple[int, int, int]], numbers: int) -> None:
        """Note that jobs came in, which took *numbers* from *first* on; *lanes*: state, queue and task of each."""
        following = first + numbers
        if following - self.counted > TAIL:
            self._count_up_to(first)
            for lane in lanes:
                self._counts[lane] += 1
            self.counted = following - 1

    def count_all(self) -> None:
        """Count the new jobs: before anything changes their state, or wants their sum."""
        last: int = self.db.execute("SELECT max(seq) FROM job").get or 0
        if last > self.counted:
            self._count_up_to(last + 1)
            self.counted = last

    def _count_up_to(self, seq: int) -> None:
        new: list[Any] = self.db.execute(_NEW, (self.counted, seq)).fetchall()
        for state, queue, task, jobs in new:
            self._counts[state, queue, task] += jobs

    def count(self, queue: int, task: int, before: int | None, after: int | None, jobs: int = 1) -> None:
        """Note that *jobs* went from one state to another; None: from or to nowhere."""
        if before is not None:
            self._counts[before, queue, task] -= jobs
        if after is not None:
            self._counts[after, queue, task] += jobs

    def write_counts(self) -> None:
        """Let the table of counters be right, for somebody who is about to read it."""
        if not self._counts:
            return
        changed = [(*key, jobs) for key, jobs in self._counts.items() if jobs]
        self._counts.clear()
        if changed:
            self.db.executemany(_COUNT, changed)

    def finish(self) -> None:
        """Write what was gathered: the last thing before the commit."""
        self.write_counts()
        row = (self._next_seq, self.pulse, self.hold_until, self.ahead, self.counted)
        if row != self._row:
            self.db.execute(_ROW, (*row, self.now))

    def done(self) -> None:
        """It is committed."""
        if self._fresh:
            self._names.learn(self._fresh)
        for act in self.when_done:
            act()

    def undone(self) -> None:
        """It is rolled back."""
        for act in self.when_undone:
            act()
