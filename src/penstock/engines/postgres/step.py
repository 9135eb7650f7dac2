"""One transaction: what its requests share, and the statements that they send.

Within a pipeline a statement is sent without waiting for the one before. So a request sends what it can in one go and
gives a function that fetches its answer later; only what must look before it can change anything waits in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock.engines import rules
from penstock.engines.postgres.pipeline import Answer, Pipeline
from penstock.engines.requests import Error

NOW: Final = "coalesce(%(now)s::float8, extract(epoch from now())::float8)"
"""The time at which all of a transaction happens: the server's, unless a test has its own."""

_FAILURE: Final = f"""
INSERT INTO penstock.failure AS kind VALUES (%(print)s, %(type)s, %(message)s, %(traceback)s, %(task)s, %(count)s,
    {NOW}, {NOW}, (%(ids)s::text[])[:{rules.SAMPLES}])
ON CONFLICT (print) DO UPDATE SET count = kind.count + excluded.count, last = excluded.last,
    ids = (kind.ids || ARRAY(
        SELECT id FROM unnest(excluded.ids) WITH ORDINALITY AS new (id, place) WHERE id <> ALL(kind.ids) ORDER BY place)
    )[:{rules.SAMPLES}]
"""


class _Failures(NamedTuple):
    """Those of one kind."""

    first: Error
    task: str
    ids: list[str]  # of the jobs, one for each failure


class Step:
    """What all requests of one transaction use. *now*: a test's clock, or None.

    Failures are gathered, and written by `finish`: transactions that lock the rows of the same kinds do so at their
    very end, and all in one order, so that none waits for one that waits for it.
    """

    def __init__(self, pipeline: Pipeline, now: float | None) -> None:
        self._pipeline = pipeline
        self.now = now
        self.has_news = False  # something that others may be waiting for
        self._failures: dict[str, _Failures] = {}  # by print

    def run(self, statement: str, **values: Any) -> Answer:
        """Send *statement*, whose `%(now)s` is the time; its rows are fetched from what this returns."""
        values["now"] = self.now
        return self._pipeline.run(statement, values)

    def run_prepared(self, statement: str, **values: Any) -> Answer:
        """As `run`. Its plan may be made once, being a good one whatever the tables hold later."""
        values["now"] = self.now
        return self._pipeline.run(statement, values, prepared=True)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """The rows of *statement*, waited for."""
        return self.run(statement, **values).fetchall()

    def count(self, changes: Iterable[tuple[int, str, str, int]]) -> None:
        """Note changes of the numbers of jobs: state, queue, task, and how many more."""
        sums: dict[tuple[int, str, str], int] = {}
        for state, queue, task, jobs in changes:
            sums[state, queue, task] = sums.get((state, queue, task), 0) + jobs
        some = [(*key, jobs) for key, jobs in sums.items() if jobs]
        if some:
            states, queues, tasks, jobs_ = (list(column) for column in zip(*some, strict=True))
            self.run(
                "INSERT INTO penstock.change SELECT * FROM unnest(%(states)s::smallint[], %(queues)s::text[],"
                " %(tasks)s::text[], %(jobs)s::bigint[])",
                states=states, queues=queues, tasks=tasks, jobs=jobs_,
            )  # fmt: skip

    def count_failure(self, id: str, task: str, error: Error) -> None:
        """Note that the job *id* failed, to be counted among its kind."""
        print = storable(error.print)
        self._failures.setdefault(print, _Failures(error, task, [])).ids.append(id)

    def finish(self) -> None:
        """Write what was gathered: the last thing before the commit."""
        for print, failures in sorted(self._failures.items()):
            ids = failures.ids
            told = {name: storable(text) for name, text in failures.first._asdict().items()}
            self.run(
                _FAILURE, **{**told, "print": print}, task=failures.task, count=len(ids),
                ids=list(dict.fromkeys(ids)),
            )  # fmt: skip


def storable(text: str) -> str:
    """*text* as PostgreSQL can hold it: a NUL, which it can't, is shown."""
    return text.replace("\0", "\\x00")


def columns(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> Mapping[str, list[Any]]:
    """*rows* as one list for each of *names*, for `unnest`."""
    if not rows:
        return {name: [] for name in names}
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
