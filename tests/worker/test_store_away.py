"""The store is locked, gone or full for a while: a service says so once, goes on, and loses no outcome."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from penstock.engines.records import Complaints, Counts
from penstock.errors import StoreUnavailable
from penstock.job import JobState
from tests.disk import small_disk
from tests.gates import GUARD
from tests.worker.service import STORE, House, house, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch) as made:
        yield made
        assert made.app.store.find(Complaints()) == []


def locked(home: House) -> apsw.Connection:
    """Another program, which has the file locked: it waits for whoever writes just now."""
    other = apsw.Connection(str(home.folder / STORE))
    other.set_busy_timeout(int(GUARD * 1000))
    other.execute("BEGIN IMMEDIATE")
    return other


def test_an_outcome_is_kept_while_another_locks_the_file_and_told_once_it_is_free(home: House) -> None:
    service = home.work("--threads", "1")
    handle = home.duty.held.enqueue("gate")
    home.begun()
    other = locked(home)
    home.open("gate")
    until(lambda: home.marks("ends"))
    assert handle.state is JobState.RUNNING
    other.execute("ROLLBACK")
    other.close()
    assert handle.result(GUARD) == "gate"
    assert len(home.marks("begins")) == 1
    assert service.stop() == 0


def test_who_starts_a_service_on_a_locked_file_is_soon_told_what_it_waits_for(home: House) -> None:
    handle = home.duty.double.enqueue(1)
    other = locked(home)
    service = home.start()
    service.logged("another program keeps it locked|one is stuck", within=20)  # and not the 30 s of an enqueue
    other.execute("ROLLBACK")
    other.close()
    service.logged("is back")
    assert handle.result(GUARD) == 2
    assert service.stop() == 0


def test_a_file_that_is_gone_for_a_while_costs_nothing_and_is_told_once(home: House) -> None:
    service = home.work("--threads", "1")
    handle = home.duty.held.enqueue("gate")
    home.begun()
    away(home)
    home.open("gate")
    until(lambda: home.marks("ends"))
    service.logged("can't be used now")
    back(home)
    service.logged("is back")
    assert handle.result(GUARD) == "gate"
    assert home.duty.double.enqueue(4).result(GUARD) == 8
    assert service.stop() == 0
    told = [line for line in service.log.splitlines() if "can't be used now" in line]
    assert len(told) <= 2, "once by the child, once by the supervisor"
    assert len(home.marks("begins")) == 1


def away(home: House) -> None:
    """Take the store away."""
    for path in home.folder.glob(f"{STORE}*"):
        if path.is_file():
            path.rename(path.with_name(f"away-{path.name}"))


def back(home: House) -> None:
    """Put it back."""
    for path in home.folder.glob("away-*"):
        path.rename(path.with_name(path.name.removeprefix("away-")))


def test_a_service_that_holds_nothing_stops_soon_though_the_store_is_away(home: House) -> None:
    service = home.work("--grace", "60")
    assert home.duty.double.enqueue(1).result(GUARD) == 2
    until(lambda: home.app.store.find(Counts())[0].state is JobState.DONE)
    away(home)
    assert service.stop() == 0
    assert "1 done, 0 abandoned" in service.log
    back(home)


def test_an_outcome_that_a_service_could_not_tell_before_it_had_to_end_is_owned_up_to(home: House) -> None:
    service = home.work("--threads", "1", "--grace", "2")
    handle = home.duty.held.enqueue("gate")
    home.begun()
    away(home)
    home.open("gate")
    until(lambda: home.marks("ends"))
    service.logged("outcomes are kept")
    assert service.stop() == 1
    assert "killing what still runs: 0 jobs; the store has not heard yet of 1 more" in service.log
    assert "0 done, 0 abandoned; the store had not heard of 1 more job, to run again" in service.log
    back(home)
    home.work()
    assert handle.result(GUARD) == "gate"
    assert len(home.marks("begins")) == 2


def test_a_service_that_never_reached_its_store_stops_soon(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUTY_STORE", f"sqlite:///{home.folder}/nowhere/{STORE}")
    service = home.start("--grace", "60")
    service.logged(f"there is no folder {home.folder}/nowhere")
    assert service.stop() == 0
    assert "0 done, 0 abandoned" in service.log


def test_outcomes_are_kept_while_the_disk_is_full_and_told_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", megabytes=2) as disk, house(disk.folder, monkeypatch) as home:
        service = home.work("--threads", "2")
        first, second = home.duty.held.enqueue("gate"), home.duty.held.enqueue("gate")
        home.begun(2)
        disk.fill()
        with pytest.raises(StoreUnavailable, match="full"):
            for number in range(10_000):  # until the room in the log is used up
                home.duty.double.enqueue(number)
        (home.folder / "gate").symlink_to("/")  # needs no room of its own
        service.logged("can't be used now")
        disk.make_room()
        assert [first.result(GUARD), second.result(GUARD)] == ["gate", "gate"]
        assert service.stop() == 0
        assert len(home.marks("begins")) == 2
        assert home.app.store.find(Complaints()) == []
