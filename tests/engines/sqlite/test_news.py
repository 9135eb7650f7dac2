"""Waiting for what another process does."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from penstock.engines.bell import Bell
from penstock.engines.sqlite import SQLiteEngine, news, place
from tests.engines.kinds import A, Clock, Desk
from tests.engines.sqlite.script import with_engine
from tests.gates import GUARD, in_thread

PUTS = """
engine.open()
say("open")
until_told()
say(put("a"))
"""
LISTENS = """
from penstock.engines.sqlite import news

news._LOOK = 3600.0
engine.open()
bell = Bell()
engine.wait(bell, 0)
say("listening")
engine.wait(bell, 3600)
say("woken")
"""


@pytest.fixture
def bell(desk: Desk) -> Iterator[Bell]:
    """One with which the desk's engine has waited before."""
    bell = Bell()
    desk.engine.wait(bell, 0)
    yield bell
    bell.close()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the file: only a message can wake."""
    monkeypatch.setattr(news, "_LOOK", 3600.0)


def waiting(desk: Desk, bell: Bell) -> Future[None]:
    return in_thread(desk.engine.wait, bell, 2 * GUARD)


def sockets(path: Path) -> list[Path]:
    return list(Path(f"{path}-penstock").glob("*.wake"))


def test_a_put_of_another_process_wakes_who_waits(tmp_path: Path, url: str, desk: Desk, bell: Bell, deaf: None) -> None:
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        heard = waiting(desk, bell)
        script.go()
        heard.result(GUARD)


def test_a_put_between_two_waits_is_not_missed(tmp_path: Path, url: str, desk: Desk, bell: Bell, deaf: None) -> None:
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        script.go()
        script.line()
        script.end()

    waiting(desk, bell).result(GUARD)


def test_all_who_wait_in_a_process_hear_of_it(tmp_path: Path, url: str, desk: Desk, deaf: None) -> None:
    bells = [Bell() for _ in range(3)]
    for bell in bells:
        desk.engine.wait(bell, 0)
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        heard = [waiting(desk, bell) for bell in bells]
        script.go()
        for one in heard:
            one.result(GUARD)
    for bell in bells:
        bell.close()


def test_waiting_processes_are_woken_by_a_cancel_and_by_an_end(tmp_path: Path, url: str, desk: Desk) -> None:
    desk.renew(A, first=True)
    desk.put("a")
    for happens in (lambda: desk.done(desk.claim_one(A)), lambda: desk.cancel("b")):
        desk.put("b")
        with with_engine(tmp_path / "script", url, LISTENS) as script:
            script.expect("listening")
            happens()
            script.expect("woken")


@pytest.mark.parametrize("change", ["folder", "socket"])
def test_a_message_that_got_lost_costs_a_second(
    tmp_path: Path, url: str, path: Path, desk: Desk, bell: Bell, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(news, "_LOOK", 0.01)
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        heard = waiting(desk, bell)
        for socket in sockets(path):
            socket.unlink()
        if change == "folder":
            shutil.rmtree(f"{path}-penstock")
        script.go()
        heard.result(GUARD)


def test_a_put_between_two_waits_whose_message_got_lost_is_not_missed(
    tmp_path: Path, url: str, path: Path, desk: Desk, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_LOOK", 0.01)
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        for socket in sockets(path):
            socket.unlink()
        script.go()
        script.line()
        script.end()

    waiting(desk, bell).result(GUARD)


def test_a_folder_that_was_deleted_is_listened_in_again(
    tmp_path: Path, url: str, path: Path, desk: Desk, bell: Bell, deaf: None
) -> None:
    shutil.rmtree(f"{path}-penstock")
    desk.put("b")  # makes it anew
    desk.engine.wait(bell, 0)
    with with_engine(tmp_path / "script", url, PUTS) as script:
        script.expect("open")
        heard = waiting(desk, bell)
        script.go()
        heard.result(GUARD)


def test_a_socket_whose_process_is_gone_is_removed(tmp_path: Path, url: str, path: Path, desk: Desk) -> None:
    with with_engine(tmp_path / "script", url, LISTENS) as script:
        script.expect("listening")
        script.process.kill()
        script.end()
    assert len(sockets(path)) == 1

    desk.put("a")
    assert sockets(path) == []


@pytest.mark.parametrize(
    ("ago", "times"),
    [
        pytest.param(1_000_000_500, 1, id="a second, on a file system that counts parts of it"),
        pytest.param(1_000, 2, id="a microsecond, which is less than its clock can tell"),
        pytest.param(None, 2, id="a second, where nothing less is counted"),
    ],
)
def test_the_folder_is_read_again_only_if_it_may_have_changed(
    url: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, ago: int | None, times: int
) -> None:
    where = place.parse(url)
    changed = 1_700_000_000_123_456_789 if ago is not None else 1_700_000_000_000_000_000
    os.utime(where.folder, ns=(changed, changed))
    monkeypatch.setattr(time, "time_ns", lambda: changed + (1_000_000_500 if ago is None else ago))
    read: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: read.append(path) or listdir(path))  # type: ignore[func-returns-value]

    told = news.News(where)
    told.tell()
    told.tell()

    assert len(read) == times


def test_an_engine_that_is_closed_leaves_no_socket(path: Path, desk: Desk, bell: Bell) -> None:
    assert len(sockets(path)) == 1
    desk.engine.close()
    assert sockets(path) == []


def test_a_folder_with_a_long_name_is_no_hindrance(tmp_path: Path, deaf: None) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    engines = [SQLiteEngine(f"sqlite:///{folder}/jobs.db") for _ in range(2)]
    for engine in engines:
        engine.open()
    bell = Bell()
    engines[0].wait(bell, 0)
    heard = in_thread(engines[0].wait, bell, 2 * GUARD)
    Desk(engines[1], Clock()).put("a")

    heard.result(GUARD)
    bell.close()
    for engine in engines:
        engine.close()


def test_a_claim_or_sweep_that_finds_nothing_is_no_news(desk: Desk, bell: Bell) -> None:
    desk.renew(A, first=True)
    desk.engine.wait(bell, 0)
    desk.claim(A)
    desk.sweep()

    assert not bell.hear()
