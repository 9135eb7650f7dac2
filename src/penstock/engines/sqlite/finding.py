"""Answers to questions, from a reading connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import apsw

from penstock.engines import checks
from penstock.engines.records import (
    Attempt,
    Attempts,
    Begins,
    ByIds,
    Complaints,
    Count,
    Counts,
    Failed,
    FailureRecord,
    HeldBy,
    Query,
    QueueRecord,
    Queues,
    Record,
    Search,
    States,
    WorkerRecord,
    Workers,
)
from penstock.engines.requests import ClaimedJob, Error, Progress
from penstock.engines.sqlite.complaints import complaints
from penstock.engines.sqlite.names import Names
from penstock.engines.sqlite.schema import CODES, STATES

_NEW: Final = 20_000  # jobs that a search walks through, from the newest back, before it takes a way around
_ALL: Final = (
    "seq, id, task, queue, priority, state, args, headers, attempt, crashes, suspect, token, worker, enqueued, due,"
    " started, ended, ran, result, error_type, error_message, error_traceback, print, reason, cancelling, progress"
)
_BEGINS: Final = f"SELECT {_ALL} FROM job INDEXED BY job_id WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
# By state. A partial index is used only where its own condition is repeated word for word.
_INDEXED: Final = (
    "INDEXED BY job_due WHERE state = 0",
    "INDEXED BY job_ready WHERE state = 1",
    "INDEXED BY job_running WHERE state = 2",
    "INDEXED BY job_ended WHERE state >= 3 AND state = 3",
    "INDEXED BY job_ended WHERE state >= 3 AND state = 4",
    "INDEXED BY job_ended WHERE state >= 3 AND state = 5",
)

_IN_IDS: Final = "id IN (SELECT value FROM json_each(?))"
_FIRST: Final = """
SELECT priority, due FROM job INDEXED BY job_ready
WHERE state = 1 AND queue = ? AND task = ? AND suspect = ? AND priority < ? ORDER BY priority DESC, due LIMIT 1
"""


class Finding:
    """Looks things up on one connection, at one moment."""

    def __init__(self, db: apsw.Connection, names: Names, now: Callable[[], float]) -> None:
        self._db = db
        self._names = names
        self._now = now

    def answer(self, query: Query[Any]) -> Any:
        """The answer to *query*."""
        match checks.findable(query):
            case ByIds(ids):
                rows: Iterable[Any] = self._db.execute(
                    f"SELECT {_ALL} FROM job WHERE {_IN_IDS}", (json.dumps(list(ids)),)
                )
                found = {row[1]: self._record(row) for row in rows}
                return [found.get(id) for id in ids]
            case States(ids):
                states = dict(self._db.execute(f"SELECT id, state FROM job WHERE {_IN_IDS}", (json.dumps(list(ids)),)))
                return [STATES[states[id]] if id in states else None for id in ids]
            case Begins(prefix, limit):
                rows = self._db.execute(_BEGINS, (prefix, _after(prefix), max(0, limit)))
                return [self._record(row) for row in rows]
            case Search() as search:
                return self._search(search)
            case HeldBy(worker):
                return self._held(worker)
            case Attempts(id):
                return self._attempts(id)
            case Counts():
                return self._counts()
            case Workers():
                return self._workers()
            case Queues():
                return self._queues()
            case Failed(limit):
                return self._failed(limit)
            case Complaints():
                return complaints(self._db)
        raise TypeError(f"{query!r} is no query")

    # Jobs

    def _record(self, row: Sequence[Any]) -> Record:
        progress = row[25]
        return Record(
            seq=row[0],
            id=row[1],
            task=self._name(row[2]),
            queue=self._name(row[3]),
            priority=row[4],
            state=STATES[row[5]],
            args=row[6],
            headers=row[7],
            attempt=row[8],
            crashes=row[9],
            suspect=bool(row[10]),
            token=row[11],
            worker=row[12],
            enqueued=row[13],
            due=row[14],
            started=row[15],
            ended=row[16],
            ran=row[17],
            result=row[18],
            error=_error(row[19:23]),
            reason=row[23],
            cancelling=bool(row[24]),
            progress=None if progress is None else Progress(row[0], row[11], *json.loads(progress)),
        )

    def _search(self, search: Search) -> list[Record]:
        """Newest first: by an index if one fits; else among the newest jobs, and only then among all of the states."""
        states = STATES if search.states is None else search.states
        codes = sorted({CODES[state] for state in states if state in CODES})
        listed = ", ".join(map(str, codes))
        where, given = [f"state IN ({listed})"], []
        before = 2**62 if search.before is None else search.before
        for condition, value in (
            ("queue = ?", self._number(search.queue)),
            ("task = ?", self._number(search.task)),
            ("print = ?", search.print),
            ("seq < ?", before),
        ):
            if value is not None:
                where.append(condition)
                given.append(value)
        limit = self._most(codes, search)
        if limit <= 0:
            return []
        if search.print is not None:
            return self._found(f"INDEXED BY job_print WHERE {' AND '.join(where)}", given, limit)
        newest = self._db.execute("SELECT max(seq) FROM job WHERE seq < ?", (before,)).get or 0
        found = self._found(f"NOT INDEXED WHERE {' AND '.join(where)} AND seq > ?", [*given, newest - _NEW], limit)
        if len(found) < limit and newest > _NEW:
            those = " UNION ALL ".join(f"SELECT seq FROM job {_INDEXED[code]}" for code in codes)
            among = f"NOT INDEXED WHERE seq IN ({those})" if len(codes) < len(STATES) else "NOT INDEXED WHERE 1"
            found = self._found(f"{among} AND {' AND '.join(where)}", given, limit)
        return found

    def _found(self, source: str, given: Sequence[Any], limit: int) -> list[Record]:
        rows: Iterable[Any] = self._db.execute(
            f"SELECT {_ALL} FROM job {source} ORDER BY seq DESC LIMIT ?", (*given, limit)
        )
        return [self._record(row) for row in rows]

    def _most(self, codes: Sequence[int], search: Search) -> int:
        """How many there can be, so that nobody looks for one more than there are."""
        counters: Iterable[Any] = self._db.execute("SELECT state, queue, task, jobs FROM tally")
        jobs: int = sum(
            count
            for state, queue, task, count in counters
            if state in codes and search.queue in (None, self._name(queue)) and search.task in (None, self._name(task))
        )
        return min(search.limit, jobs)

    def _held(self, worker: int) -> list[ClaimedJob]:
        rows: Iterable[Any] = self._db.execute(
            "SELECT seq, token, id, task, queue, priority, args, headers, attempt, enqueued, max(0.0, started - due)"
            " FROM job WHERE state = 2 AND worker = ? ORDER BY seq",
            (worker,),
        )
        return [
            ClaimedJob(seq, token, id, self._name(task), self._name(queue), *rest)
            for seq, token, id, task, queue, *rest in rows
        ]

    def _attempts(self, id: str) -> list[Attempt]:
        rows: Iterable[Any] = self._db.execute(
            "SELECT number, token, worker, started, ended, outcome, reason, error_type, error_message, error_traceback,"
            " print FROM attempt WHERE seq = (SELECT seq FROM job WHERE id = ?) ORDER BY token",
            (id,),
        )
        return [
            Attempt(number, token, worker, started, ended, outcome, _error(error), reason)
            for number, token, worker, started, ended, outcome, reason, *error in rows
        ]

    # Sums

    def _counts(self) -> list[Count]:
        rows: Iterable[Any] = self._db.execute("SELECT queue, task, state, jobs FROM tally WHERE jobs > 0")
        counts = [Count(self._name(queue), self._name(task), STATES[state], jobs) for queue, task, state, jobs in rows]
        return sorted(counts, key=lambda count: (count.queue, count.task, count.state))

    def _workers(self) -> list[WorkerRecord]:
        rows: Iterable[Any] = self._db.execute(
            "SELECT id, info, since, until, (SELECT count(*) FROM job WHERE state = 2 AND worker = worker.id)"
            " FROM worker ORDER BY since, id"
        )
        now = self._now()
        return [WorkerRecord(id, info, since, until - now, running) for id, info, since, until, running in rows]

    def _queues(self) -> list[QueueRecord]:
        paused = {queue for (queue,) in self._db.execute("SELECT queue FROM paused")}
        used = {queue for (queue,) in self._db.execute("SELECT DISTINCT queue FROM tally WHERE jobs > 0")}
        now = self._now()
        records = [QueueRecord(self._name(queue), queue in paused, self._oldest(queue, now)) for queue in paused | used]
        return sorted(records, key=lambda record: record.name)

    def _oldest(self, queue: int, now: float) -> float | None:
        """Of each task and priority the first ready job is the oldest: only those are looked at."""
        tasks = self._db.execute(
            "SELECT task FROM tally WHERE state = 1 AND queue = ? AND jobs > 0", (queue,)
        ).fetchall()
        dues: list[float] = []
        for (task,) in tasks:
            for suspect in (0, 1):
                below = 2**62
                while row := self._db.execute(_FIRST, (queue, task, suspect, below)).fetchone():
                    below, due = row
                    dues.append(due)
        return None if not dues else now - min(dues)

    def _failed(self, limit: int) -> list[FailureRecord]:
        rows: Iterable[Any] = self._db.execute(
            "SELECT error_type, error_message, error_traceback, print, task, count, first, last, ids FROM failure"
            " ORDER BY last DESC LIMIT ?",
            (max(0, limit),),
        )
        return [
            FailureRecord(Error(*error), self._name(task), count, first, last, tuple(json.loads(ids)))
            for *error, task, count, first, last, ids in rows
        ]

    def _name(self, number: int) -> str:
        return self._names.text(self._db, number)

    def _number(self, text: str | None) -> int | None:
        return None if text is None else self._names.number(self._db, text) or 0


def _after(prefix: str) -> str | bytes:
    """What comes behind all that begin with *prefix*, as SQLite sorts: text by code points, and all blobs behind it."""
    rest = prefix.rstrip("\U0010ffff")
    if not rest:
        return b""
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(0xE000 if following == 0xD800 else following)  # halves of pairs are no text


def _error(parts: Sequence[Any]) -> Error | None:
    return None if parts[0] is None else Error(*parts)
