"""The write-ahead log: it has room before that is needed, and is begun anew before it gets long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from penstock.engines.records import Counts
from penstock.engines.sqlite import SQLiteEngine, log
from tests.engines.kinds import Clock, Desk


def size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def copied(path: Path) -> Path:
    """A copy of the file and its log, as a power cut would leave them."""
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    return copy


def jobs(desk: Desk) -> int:
    return sum(count.jobs for count in desk.find(Counts()))


def test_most_commits_leave_the_log_as_long_as_it_was(desk: Desk, path: Path) -> None:
    """A longer one costs a second write to the disk."""
    sizes = []
    for number in range(200):
        desk.put(f"{number}")
        sizes.append(size(path))

    assert len(set(sizes[20:])) < 10


def test_who_puts_one_job_makes_no_room(desk: Desk, path: Path, opened: Callable[[], Desk]) -> None:
    desk.put("a")
    desk.engine.close()

    opened().put("b")

    assert size(path) < 10 * 4_200
    assert (size(path) - 32) % 4_120 == 0, "nothing but its head and pages"


def test_the_log_is_begun_anew_after_a_thousand_pages(url: str, path: Path) -> None:
    engine = SQLiteEngine(f"{url}?synchronous=normal")
    engine.open()
    desk = Desk(engine, Clock())
    for number in range(1_000):
        desk.put(f"{number}")

    assert size(path) < 1_200 * 4_200
    assert path.stat().st_size > 30 * 4_096, "what was in the log is in the file"
    engine.close()


def test_what_was_put_is_found_by_who_has_only_the_file_and_its_log(desk: Desk, path: Path) -> None:
    """As after a power cut: the room is no part of what was written."""
    for number in range(300):
        desk.put(f"{number}")
    saved = copied(path)
    assert size(saved) > 100 * 4_120

    engine = SQLiteEngine(f"sqlite:///{saved}")
    engine.open()
    found = Desk(engine, Clock())
    assert jobs(found) == 300
    assert found.complaints() == []
    found.put("more")
    engine.close()


def test_room_is_never_made_over_what_another_program_writes(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made after a commit, when others may write: here just before."""
    monkeypatch.setattr(log, "_FIRST", 0)
    other = apsw.Connection(str(path))
    other.execute("INSERT INTO name (text) VALUES ('a')")
    fstat = os.fstat

    def fstat_and_write(descriptor: int) -> os.stat_result:
        stat = fstat(descriptor)
        while size(path) < stat.st_size + 20_000:
            other.execute("UPDATE name SET text = text || 'a'")
        return stat

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fstat_and_write)
        desk.put("a")
    said = other.execute("SELECT text FROM name ORDER BY number DESC LIMIT 1").get
    other.close()

    saved = copied(path)
    found = apsw.Connection(str(saved))
    assert len(said) > 3
    assert found.execute("SELECT text FROM name ORDER BY number DESC LIMIT 1").get == said
    assert found.execute("PRAGMA integrity_check").get == "ok"
    found.close()


def test_a_log_that_cannot_be_made_longer_is_no_hindrance(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(28, "No space left on device")

    desk.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        for number in range(100):
            desk.put(f"{number}")

    assert jobs(desk) == 101
