"""How a file becomes a store, and which files are none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from penstock import errors
from penstock.engines.records import Counts
from penstock.engines.requests import Fate
from penstock.engines.sqlite import SQLiteEngine, place, schema
from tests.engines.kinds import A, Clock, Desk
from tests.engines.sqlite.script import with_engine


def touch(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(url: str, path: Path) -> None:
    path.write_bytes(b"my diary\n" * 200)
    engine = SQLiteEngine(url)
    for _ in range(2):
        with pytest.raises(errors.StoreInvalid, match="no SQLite database"):
            engine.open()
    engine.close()

    assert path.read_bytes() == b"my diary\n" * 200
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE mine (x)", "PRAGMA application_id = 252006673", "PRAGMA user_version = 3"]
)
def test_a_database_of_another_program_is_refused_and_left_alone(url: str, path: Path, statement: str) -> None:
    touch(path, statement)
    before = path.read_bytes()
    engine = SQLiteEngine(url)
    with pytest.raises(errors.StoreInvalid, match="another program"):
        engine.open()
    engine.close()

    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(url: str, path: Path) -> None:
    path.touch()
    engine = SQLiteEngine(url)
    engine.open()
    assert Desk(engine, Clock()).put("a") == [Fate.ACCEPTED]
    engine.close()


def test_a_newer_schema_is_refused(desk: Desk, url: str, path: Path) -> None:
    desk.put("a")
    desk.engine.close()
    touch(path, "PRAGMA user_version = 1000")

    engine = SQLiteEngine(url)
    with pytest.raises(errors.StoreInvalid, match="newer"):
        engine.open()
    with pytest.raises(errors.StoreInvalid, match="newer"):
        engine.transact([])
    engine.close()


def test_an_older_schema_is_brought_up_to_date_with_its_jobs(
    desk: Desk, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("a")
    desk.engine.close()
    monkeypatch.setattr(
        schema,
        "MIGRATIONS",
        (*schema.MIGRATIONS, "ALTER TABLE job ADD COLUMN color TEXT; UPDATE job SET color = 'red'"),
    )

    engine = SQLiteEngine(url)
    engine.open()
    assert Desk(engine, Clock()).put("a") == [Fate.KNOWN]
    engine.close()


def test_a_store_of_the_first_version_keeps_its_accounts(url: str, path: Path) -> None:
    touch(
        path,
        "PRAGMA journal_mode = wal",
        schema.MIGRATIONS[0],
        "INSERT INTO name VALUES (1, 'default'), (2, 'work')",
        "INSERT INTO job (seq, id, state, queue, task, priority, enqueued, due, args)"
        " VALUES (3, 'a', 1, 1, 2, 0, 5, 5, x'7b7d'), (4, 'b', 1, 1, 2, 0, 5, 5, x'7b7d')",
        "INSERT INTO counter VALUES (1, 1, 2, 2)",
        "UPDATE store SET next_seq = 7",  # the last two were pruned
        f"PRAGMA application_id = {schema.APPLICATION}",
        "PRAGMA user_version = 1",
    )

    engine = SQLiteEngine(url)
    engine.open()
    desk = Desk(engine, Clock())
    assert desk.put("a", "c") == [Fate.KNOWN, Fate.ACCEPTED]
    assert [record.seq for record in desk.records("a", "b", "c") if record is not None] == [3, 4, 8]
    assert sum(count.jobs for count in desk.find(Counts())) == 3
    assert desk.complaints() == []
    engine.close()


def test_new_jobs_are_counted_whoever_counts_them(desk: Desk, opened: Callable[[], Desk]) -> None:
    for number in range(600):  # more than wait to be counted
        desk.put(f"{number}")
        if number in (0, 255, 256, 257, 511, 512, 513, 599):
            assert [count.jobs for count in opened().find(Counts())] == [number + 1]
    desk.renew(A, first=True)
    desk.claim(A, limit=7)
    assert sorted(count.jobs for count in desk.find(Counts())) == [7, 593]
    assert desk.complaints() == []


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    desk: Desk, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("a")
    desk.engine.close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "DROP TABLE job; SELECT * FROM nowhere"))
        engine = SQLiteEngine(url)
        with pytest.raises(errors.StoreInvalid, match="nowhere"):
            engine.open()
        engine.close()

    engine = SQLiteEngine(url)
    engine.open()
    assert Desk(engine, Clock()).put("a") == [Fate.KNOWN]
    engine.close()


def test_a_store_that_is_made_while_somebody_looks_is_new_or_there_and_no_other_programs(
    path: Path, url: str, opened: Callable[[], Desk]
) -> None:
    """Of several processes that begin at once, each looks before it makes the store or finds it made."""
    looked = apsw.Connection(str(path))
    statements = 0

    def another_is_faster(*_: object) -> bool:
        nonlocal statements
        statements += 1
        if statements == 2:
            opened()
        return True

    looked.exec_trace = another_is_faster
    assert not schema.is_current(looked, place.parse(url))
    looked.exec_trace = None
    opened()
    assert schema.is_current(looked, place.parse(url))
    looked.close()


def test_ten_processes_can_open_a_new_store_at_once(tmp_path: Path, url: str, opened: Callable[[], Desk]) -> None:
    code = """
        say("ready")
        until_told()
        engine.open()
        say(put(f"by {os.getpid()}") == [Fate.ACCEPTED])
        engine.close()
    """
    with contextlib.ExitStack() as stack:
        scripts = [stack.enter_context(with_engine(tmp_path / str(n), url, code)) for n in range(10)]
        for script in scripts:
            script.expect("ready")
        for script in scripts:
            script.go()
        for script in scripts:
            script.expect("True")

    desk = opened()
    assert sorted(desk.searched()) == sorted(f"by {script.process.pid}" for script in scripts)
    assert desk.complaints() == []
