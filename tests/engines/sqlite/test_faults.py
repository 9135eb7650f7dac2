"""A file that can't be used for a while: each cause has its words, and when it is gone the engine goes on by itself."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from penstock import clock, errors
from penstock.engines.records import Complaints, Counts
from penstock.engines.requests import Fate, NewJob, Put
from penstock.engines.sqlite import SQLiteEngine
from tests.engines.kinds import A, B, C, Clock, Desk
from tests.engines.kinds import new as new_job
from tests.gates import GUARD

PUT = Put([NewJob("a", "work")])
NOBODY = 65534


def put_big(desk: Desk, id: str) -> None:
    desk.put(new_job(id, args=bytes(100_000)))


def test_locked_by_another_program(desk: Desk, path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(errors.StoreUnavailable, match="another program keeps it locked"):
        desk.engine.transact([PUT], within=0.05)
    assert desk.searched() == []

    other.execute("ROLLBACK")
    other.close()
    assert desk.put("a") == [Fate.ACCEPTED]


def test_a_missing_folder(tmp_path: Path) -> None:
    engine = SQLiteEngine(f"sqlite:///{tmp_path}/later/jobs.db")
    with pytest.raises(errors.StoreUnavailable, match="no folder"):
        engine.open()

    (tmp_path / "later").mkdir()
    engine.open()
    assert Desk(engine, Clock()).put("a") == [Fate.ACCEPTED]
    engine.close()


def test_the_path_is_a_folder(tmp_path: Path) -> None:
    engine = SQLiteEngine(f"sqlite:///{tmp_path}")
    with pytest.raises(errors.StoreUnavailable, match="can't be opened"):
        engine.open()
    engine.close()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """The superuser may write anywhere, so it has to be somebody else for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def test_a_read_only_file(public: Path, unprivileged: None) -> None:
    engine = SQLiteEngine(f"sqlite:///{public}/jobs.db")
    engine.open()
    engine.close()
    (public / "jobs.db").chmod(0o444)
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable, match="read-only"):
            engine.transact([PUT])

    (public / "jobs.db").chmod(0o644)
    assert engine.transact([PUT]) == [[Fate.ACCEPTED]]
    engine.close()


def test_a_read_only_folder(public: Path, unprivileged: None) -> None:
    folder = public / "mine"
    folder.mkdir()
    folder.chmod(0o555)
    engine = SQLiteEngine(f"sqlite:///{folder}/jobs.db")
    with pytest.raises(errors.StoreUnavailable, match="can't be opened"):
        engine.open()

    folder.chmod(0o755)
    engine.open()
    assert engine.transact([PUT]) == [[Fate.ACCEPTED]]
    engine.close()


def test_who_only_looks_does_not_wait_for_who_writes(desk: Desk, path: Path) -> None:
    desk.put("a")
    looking = SQLiteEngine(f"sqlite:///{path}")
    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE")
    with cast(SQLiteEngine, desk.engine)._turn.taken(clock.monotonic() + GUARD):  # one that waits for the other
        looking.open(0.05, create=False)
        assert [count.jobs for count in looking.find(Counts(), 0.05)] == [1]

    other.execute("ROLLBACK")
    other.close()
    looking.close()


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "penstock", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        if os.environ.get("CI") and not os.geteuid():
            pytest.fail(f"a small disk can't be mounted: {mounted.stderr}")
        pytest.skip(f"a small disk can't be mounted: {mounted.stderr}")
    try:
        engine = SQLiteEngine(f"sqlite:///{disk}/jobs.db")
        engine.open()
        desk = Desk(engine, Clock())
        for n in range(1_000):
            try:
                put_big(desk, f"{n}")
            except errors.StoreUnavailable:
                break
        kept = desk.searched()
        assert sorted(kept) == sorted(f"{n}" for n in range(len(kept)))  # those that were acknowledged, no more
        with pytest.raises(errors.StoreUnavailable, match="full"):
            put_big(desk, "more")

        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        put_big(desk, "more")
        assert desk.searched() == ["more", *kept]
        assert desk.complaints() == []
        engine.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fails_to_write(desk: Desk) -> None:
    put_big(desk, "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(errors.StoreUnavailable, match="I/O"):
                put_big(desk, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)

    assert desk.searched() == ["before"]
    put_big(desk, "a")
    assert desk.complaints() == []


class DoubtfulConnection:
    """Commits, but the answer from the disk is an error."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, *rest: Any) -> Any:
        cursor = self._db.execute(sql, *rest)
        if sql == "COMMIT":
            error: Any = apsw.IOError("disk I/O error")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        return cursor


def test_a_commit_that_may_not_have_reached_the_disk_has_an_unknown_outcome(desk: Desk) -> None:
    desk.put("before")
    engine: Any = desk.engine
    engine._db = DoubtfulConnection(engine._db)

    with pytest.raises(errors.OutcomeUnknown, match="a, b"):
        desk.put("a", "b")
    assert desk.put("a", "b") == [Fate.KNOWN] * 2


def test_a_file_that_was_deleted_is_missed_not_made_anew(desk: Desk, path: Path) -> None:
    desk.put("a")
    delete(path)
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable, match="no file"):
            desk.put("b")
        with pytest.raises(errors.StoreUnavailable, match="no file"):
            desk.find(Counts())

    assert not path.exists()


def test_a_file_that_was_deleted_and_made_anew_is_noticed(desk: Desk, path: Path, opened: Callable[[], Desk]) -> None:
    desk.put("a", new_job("b", "other", queue="slow"))
    desk.find(Counts())
    delete(path)
    anew = opened()
    anew.put(new_job("c", "third", queue="other"), new_job("d", "work", queue="third"))

    assert desk.searched() == ["d", "c"]
    assert desk.put("e") == [Fate.ACCEPTED]  # names have other numbers in this file
    assert [(record.id, record.task, record.queue) for record in anew.records("e") if record] == [
        ("e", "work", "default")
    ]
    assert anew.counts() == desk.counts()


def test_claims_of_a_file_that_was_deleted_change_nothing_in_the_one_that_was_made_anew(
    desk: Desk, path: Path, opened: Callable[[], Desk]
) -> None:
    """Numbers begin anew there: the first claim of the first job looks like the other one."""
    desk.renew(A, first=True)
    [old] = desk.put_and_claim(A, "a")
    delete(path)
    anew = opened()
    anew.renew(B, first=True)
    [new] = anew.put_and_claim(B, "b")
    assert (new.seq, new.token) == (old.seq, old.token)

    assert not desk.progress(old, 1)
    assert not desk.done(old)
    assert anew.record("b").progress is None

    desk.renew(C, first=True)  # who has a name there has claims of it, and no other
    [mine] = desk.put_and_claim(C, "c")
    assert desk.done(mine)
    assert anew.done(new)


def test_a_log_that_outlived_its_database_is_not_mixed_with_a_new_one(
    desk: Desk, path: Path, opened: Callable[[], Desk]
) -> None:
    desk.put(*(f"{n}" for n in range(100)))
    path.unlink()  # and not path-wal
    anew = opened()
    anew.put("new")

    assert desk.searched() == ["new"]
    assert anew.complaints() == []


def test_a_folder_beside_it_that_was_deleted_is_made_anew(desk: Desk, path: Path) -> None:
    desk.put("a")
    shutil.rmtree(f"{path}-penstock")

    assert desk.put("b") == [Fate.ACCEPTED]
    desk.renew(A, first=True)
    assert desk.claim_ids(A) == ["a", "b"]


def test_who_only_puts_makes_a_folder_that_was_deleted_anew_too(desk: Desk, path: Path) -> None:
    """One job later: it looks when it tells others of the one before."""
    desk.put("a")
    desk.put("b")
    shutil.rmtree(f"{path}-penstock")

    desk.put("c")
    desk.put("d")

    assert Path(f"{path}-penstock", "turn").exists()


def test_damage_is_told_from_trouble_that_passes(desk: Desk, path: Path) -> None:
    desk.put(*(f"{n}" for n in range(2_000)))
    desk.engine.close()
    with path.open("r+b") as file:
        for page in range(3, 60):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)

    with pytest.raises(errors.StoreInvalid, match="damaged"):
        desk.put("a")
    with pytest.raises(errors.StoreInvalid, match="damaged"):
        desk.searched(limit=10_000)


def test_complaints_name_what_is_wrong(desk: Desk, path: Path) -> None:
    desk.renew(A, first=True)
    desk.put("a", "b")
    desk.claim(A, limit=1)
    db = apsw.Connection(str(path))
    db.execute("UPDATE counter SET jobs = 7 WHERE state = 1; DELETE FROM worker; UPDATE store SET counted = 9")
    db.close()

    runs, counter, number = desk.find(Complaints())
    assert "job a runs, but nobody knows its worker" in runs
    assert "1 jobs of task 'work' in queue 'default' are ready, but the counter says 7" in counter
    assert "number 9 is counted, and there was none behind 2" in number


def test_one_request_with_a_fault_of_ours_fails_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.engines.sqlite import changes

    def broken(*args: object) -> bool:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(changes, "pause", broken)
    from penstock.engines.requests import Pause

    before, refused, after = desk.ask_all(Put([new_job("a")]), Pause("default"), Put([new_job("b")]))
    assert (before, after) == ([Fate.ACCEPTED], [Fate.ACCEPTED])
    assert isinstance(refused, RuntimeError)
    assert desk.searched() == ["b", "a"]
    assert desk.complaints() == []


def test_growth_is_bounded_for_a_job_that_never_ends(desk: Desk) -> None:
    from penstock.engines.requests import Outcome

    desk.renew(A, first=True)
    desk.put("a")
    for _ in range(150):
        assert desk.settle(desk.claim_one(A), Outcome.SNOOZE)

    attempts = desk.attempts("a")
    assert [attempt.token for attempt in attempts] == list(range(51, 151))


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
