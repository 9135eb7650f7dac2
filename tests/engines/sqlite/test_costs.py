"""What things cost must not grow with what is there: how SQLite finds its rows, and how many connections there are."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from penstock import errors
from penstock.engines.records import Attempts, Begins, ByIds, Counts, Failed, HeldBy, Queues, Search, States, Workers
from penstock.engines.requests import Beat, Outcome, Renew, Settle, Settlement
from penstock.engines.sqlite import finding, place
from penstock.engines.sqlite.readers import Readers
from penstock.engines.sqlite.step import TAIL
from tests.engines.kinds import DONE, FAILED, READY, A, B, Desk, died, ended, new, oops
from tests.gates import GUARD, in_thread

# All jobs, or all that are in one state.
MANY = re.compile(r"SCAN (job|attempt)\b|SEARCH job USING .*\(state[=>]\?\)|SEARCH job USING .*\(rowid[<>]\?\)")


# Of a put with an id that is known: which of its jobs are there.
NEW_ONES = "SELECT seq FROM job WHERE seq >= ?: SEARCH job USING INTEGER PRIMARY KEY (rowid>?)"


@pytest.fixture
def plans(desk: Desk) -> Iterator[Callable[[], list[str]]]:
    """What SQLite says of how it does each statement that was asked since the last call."""
    engine: Any = desk.engine
    asked: set[str] = set()
    connect = apsw.Connection

    def watch(db: apsw.Connection) -> None:
        db.exec_trace = lambda cursor, sql, bindings: asked.add(sql) or True  # type: ignore[func-returns-value]

    watch(engine._db)
    apsw.connection_hooks.append(watch)

    def explain() -> list[str]:
        db = connect(engine._place.path)
        lines = []
        for sql in sorted(asked):
            if sql.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                given = [None] * sql.count("?")
                lines += [f"{sql}: {row[3]}" for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", given)]
        db.close()
        asked.clear()
        return lines

    yield explain
    apsw.connection_hooks.remove(watch)


def work(desk: Desk) -> None:
    """Everything that engines do all the time."""
    desk.renew(A, B, first=True)
    ended(desk)
    desk.put("a", "b", "c", new("later", delay=5), new("other", "unknown"), new("d", queue="second", priority=3))
    desk.put("a")
    desk.put("a", "b")
    [a, b, *_] = desk.claim(A)
    desk.settle(a, Outcome.RETRY, error=oops(), delay=3)
    desk.done(b)
    desk.progress(b, 1)
    desk.pause("second")
    desk.cancel("c", "later")
    desk.claim(B, alone=True)
    desk.take(B, queues=["default"])
    desk.renew(A, B)
    desk.again("done")
    desk.again(print="oops")
    desk.sweep(died(A))
    desk.sweep()
    desk.prune()


def test_no_statement_of_daily_work_looks_at_all_jobs(desk: Desk, plans: Callable[[], list[str]]) -> None:
    work(desk)
    lines = plans()

    assert len(lines) > 40
    assert [line for line in lines if MANY.search(line)] == [NEW_ONES]


def test_new_jobs_are_counted_now_and_then_and_never_many_of_them_wait_for_it(
    desk: Desk, opened: Callable[[], Desk]
) -> None:
    """Whoever puts one by one knows only now and then how far others have counted."""
    other, began, counting = opened(), 0, []
    engine: Any = desk.engine

    def watch(_cursor: object, sql: str, _bindings: object) -> bool:
        nonlocal began
        began += sql.startswith("BEGIN")
        return True

    desk.put("first")
    engine._db.exec_trace = watch
    look = apsw.Connection(engine._place.path)
    for number in range(1_500):
        if number % 500 == 300:
            other.put("of", f"another {number}")
        desk.put(f"{number}")
        counting.append(look.execute("SELECT (SELECT max(seq) FROM job) - counted FROM store").get)
    look.close()

    assert max(counting) <= TAIL
    assert 1_500 // TAIL <= began <= 1_500 // TAIL + 2


def test_no_query_looks_at_all_jobs_but_for_a_walk_back_through_the_newest(
    desk: Desk, plans: Callable[[], list[str]]
) -> None:
    work(desk)
    plans()
    for query in (
        ByIds(["a"]),
        States(["a"]),
        HeldBy(A),
        Attempts("a"),
        Counts(),
        Workers(),
        Queues(),
        Failed(),
        Search(states=[FAILED]),
        Search(print="oops"),
    ):
        desk.find(query)

    assert [line for line in plans() if re.search(r"SCAN job\b", line)] == []


@pytest.mark.parametrize("new", [1, 40, 1_000])
def test_a_search_finds_the_same_whether_jobs_are_new_or_not(
    desk: Desk, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_NEW", new)
    desk.renew(A, first=True)
    desk.put(*(f"{n}" for n in range(200)))
    for job in desk.claim(A, limit=150):
        desk.done(job)
    for job in desk.claim(A, limit=2):
        desk.settle(job, Outcome.FAILED)

    assert desk.searched(states=[DONE], limit=5) == ["149", "148", "147", "146", "145"]
    assert desk.searched(states=[FAILED], limit=5) == ["151", "150"]
    assert desk.searched(states=[FAILED, READY], limit=3) == ["199", "198", "197"]
    assert desk.searched(states=[DONE, FAILED], limit=3) == ["151", "150", "149"]
    assert desk.searched(limit=3) == ["199", "198", "197"]
    assert len(desk.searched(limit=1_000)) == 200
    assert desk.searched(queue="nowhere") == []


def test_many_threads_that_read_share_a_few_connections(desk: Desk, path: Path) -> None:
    desk.put("a")
    together = threading.Barrier(40)

    def read() -> list[str]:
        together.wait(GUARD)
        return desk.searched()

    for found in [in_thread(read) for _ in range(40)]:
        assert found.result(GUARD) == ["a"]

    assert open_files().count(path) <= 9  # eight readers and the writer
    desk.engine.close()
    assert path not in open_files()


def open_files() -> list[Path]:
    files = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            files.append(link.readlink())
    return files


def test_no_more_read_at_once_than_may(desk: Desk) -> None:
    readers = Readers(place.parse(desk.engine.url))
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(readers.reading(GUARD))
        with pytest.raises(errors.StoreUnavailable, match="too many"), readers.reading(0.01):
            pass
    with readers.reading(0.01):
        pass
    readers.close()


def test_a_connection_that_was_in_use_when_the_file_went_away_is_not_used_again(desk: Desk) -> None:
    readers = Readers(place.parse(desk.engine.url))
    with readers.reading(GUARD) as old:
        readers.close()
    with readers.reading(GUARD) as new:
        assert new is not old
    with readers.reading(GUARD) as again:
        assert again is new
    readers.close()


def test_only_claims_and_signs_of_life_may_be_lost_in_a_power_cut(desk: Desk) -> None:
    engine: Any = desk.engine

    def is_safe() -> bool:
        return bool(engine._db.pragma("synchronous") >= 2)

    desk.put("a", "b")
    assert is_safe()
    desk.renew(A, first=True)
    assert not is_safe()
    [a, b] = desk.claim(A)
    assert not is_safe()
    desk.progress(a, 1)
    assert not is_safe()
    desk.done(a)
    assert is_safe()
    desk.ask_all(Renew([Beat(A)], 30), Settle([Settlement(b.seq, b.token, Outcome.DONE)]))
    assert is_safe()


def test_readers_wait_for_no_writer(desk: Desk, path: Path) -> None:
    desk.put("a")
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM job")

    assert desk.searched() == ["a"]
    other.execute("ROLLBACK")
    other.close()


def test_space_of_pruned_jobs_is_used_again(desk: Desk, path: Path) -> None:
    desk.renew(A, first=True)
    sizes = []
    for _ in range(4):
        desk.put(*(new(f"{n}", args=bytes(1_000)) for n in range(300)))
        for job in desk.claim(A, limit=300):
            desk.done(job)
        assert desk.prune() == 300
        desk.engine.close()
        sizes.append(path.stat().st_size)

    assert sizes[-1] == sizes[1]


def test_space_of_a_rush_is_given_back_a_little_at_a_time(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.engines.sqlite import changes

    monkeypatch.setattr(changes, "_SPARE", 100)
    monkeypatch.setattr(changes, "_SHRUNK", 200)
    desk.renew(A, first=True)
    desk.put(*(new(f"{n}", args=bytes(10_000)) for n in range(400)))
    for job in desk.claim(A, limit=400):
        desk.done(job)
    sizes = []
    for _ in range(8):
        desk.prune()
        desk.engine.close()
        sizes.append(path.stat().st_size // 4096)

    given_back = [before - after for before, after in itertools.pairwise(sizes)]
    assert all(200 <= pages <= 202 for pages in given_back[:3])  # and SQLite's own, which say where the others are
    assert sizes[-1] == sizes[-2] < 250
    assert desk.complaints() == []


def test_prune_forgets_counters_at_zero_and_old_kinds_of_failures(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.engines import rules

    monkeypatch.setattr(rules, "KINDS", 2)
    desk.renew(A, first=True)
    for n in range(5):
        desk.put(new(f"{n}", queue=f"of tenant {n}"))
        desk.settle(desk.claim_one(A), Outcome.FAILED, error=oops(f"kind {n}"))
    desk.prune()

    assert [kind.error.print for kind in desk.kinds_of_failures()] == ["kind 4", "kind 3"]
    db = apsw.Connection(str(path))
    assert db.execute("SELECT count(*) FROM counter").get == 0
    db.close()


def test_ids_are_found_by_their_beginnings_whatever_these_are(desk: Desk) -> None:
    ids = ["a", "ab", "ab\U0010ffff", "ab\U0010ffff\U0010ffffz", "ac", "\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff"]
    desk.put(*ids)
    for prefix in ("", *ids):
        found = desk.engine.find(Begins(prefix, 100))
        assert [job.id for job in found] == sorted(id for id in ids if id.startswith(prefix))


def test_a_claim_takes_the_best_of_many_lanes(desk: Desk) -> None:
    desk.renew(A, first=True)
    desk.put(*(new(f"{n}", queue=f"{n % 7}", priority=n % 5) for n in range(70)))
    expected = sorted(range(70), key=lambda n: (-(n % 5), n))

    claimed = [desk.claim_ids(A, limit=limit) for limit in (1, 3, 20, 100)]
    assert [int(id) for ids in claimed for id in ids] == expected
