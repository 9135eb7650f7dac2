"""The primary dies, and its synchronous standby takes over: nothing that was acknowledged is lost, and all goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock.engines import connect
from penstock.engines.records import Complaints, Counts, States
from penstock.engines.requests import Fate, NewJob, Put
from penstock.errors import OutcomeUnknown, StoreError, StoreUnavailable
from penstock.job import JobState
from tests.gates import GUARD, in_thread
from tests.needs import needed, postgres_or_skip
from tests.postgres import Postgres, Standby
from tests.worker.service import House, house, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

WAITS_FOR_STANDBY = {"synchronous_commit": "on"}


@pytest.fixture
def primary() -> Iterator[Postgres]:
    needed("psycopg")
    with postgres_or_skip():
        server = Postgres(settings=WAITS_FOR_STANDBY)
    with server:
        yield server


@pytest.fixture
def standby(primary: Postgres) -> Iterator[Standby]:
    with closing(Standby(primary, settings=WAITS_FOR_STANDBY)) as server:
        yield server


@pytest.fixture
def url(primary: Postgres, standby: Standby) -> str:
    """Of both; the standby first, which is not to be written to."""
    return f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"


def fail_over(primary: Postgres, standby: Standby) -> None:
    primary.kill()
    standby.promote()


@pytest.fixture
def home(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch, url) as made:
        yield made
        assert made.app.store.find(Complaints()) == []


class Stream:
    """Enqueues one job after the other, each again with its id until it is acknowledged, till it is stopped."""

    def __init__(self, task: Any) -> None:
        self.acked: list[str] = []
        self._task = task
        self._stop = threading.Event()
        self._ended: Future[None] = in_thread(self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                id = self._task.options(id=f"stream-{number}", timeout=2.0).enqueue(number).id
            except StoreError:
                self._stop.wait(0.05)  # nothing tells when the store is there again
                continue
            self.acked.append(id)
            number += 1

    def more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        enough = len(self.acked) + count
        until(lambda: len(self.acked) >= enough or self._ended.done())

    def stop(self) -> list[str]:
        self._stop.set()
        self._ended.result(GUARD)
        return self.acked


def test_services_and_those_who_enqueue_go_on_with_a_synchronous_standby(
    home: House, primary: Postgres, standby: Standby
) -> None:
    service = home.work("--processes", "1", "--threads", "3")
    duty, store = home.duty, home.app.store
    held = duty.held.enqueue("gate")
    home.begun()
    stream = Stream(duty.tick)
    try:
        stream.more(30)
        primary.kill()
        acked = list(stream.acked)
        home.open("gate")  # its outcome comes while there is no server that takes it
        until(lambda: home.marks("ends"))
        standby.promote()
        assert {id for (id,) in standby.ask("SELECT id FROM penstock.known")} >= {held.id, *acked}
        stream.more(30)
    finally:
        acked = stream.stop()
    assert held.result(GUARD) == "gate"
    assert len(home.marks("begins")) == 1, "its outcome was kept"
    until(lambda: set(store.find(States(acked))) == {JobState.DONE})
    assert sum(count.jobs for count in store.find(Counts())) == len(acked) + 1
    assert service.stop() == 0


def test_what_the_standby_has_not_is_not_acknowledged(primary: Postgres, standby: Standby, url: str) -> None:
    with closing(connect(url)) as engine:
        engine.open()
        assert engine.transact([Put([NewJob("a", "work")])]) == [[Fate.ACCEPTED]]
        standby.kill()
        for id in ("b", "b", "c", "b"):
            with pytest.raises((OutcomeUnknown, StoreUnavailable)):
                engine.transact([Put([NewJob(id, "work")])], within=0.5)
        standby.start()
        for id in ("b", "c"):
            assert until(lambda id=id: put(engine, id))  # type: ignore[misc]
        fail_over(primary, standby)
        assert until(lambda: put(engine, "d")) == [[Fate.ACCEPTED]]
        assert engine.find(States(["a", "b", "c", "d"])) == [JobState.READY] * 4


def put(engine: Any, id: str) -> Any:
    try:
        return engine.transact([Put([NewJob(id, "work")])], within=2.0)
    except StoreError:
        return None


def test_what_an_asynchronous_standby_had_not_received_runs_again(
    home: House, primary: Postgres, standby: Standby
) -> None:
    primary.ask("ALTER SYSTEM RESET synchronous_standby_names")
    primary.ask("SELECT pg_reload_conf()")
    service = home.work("--processes", "1", "--threads", "3", "--lease", "3")
    held = home.duty.held.enqueue("gate")
    home.begun()
    until(lambda: standby.ask("SELECT 1 FROM penstock.job WHERE state = 2"))
    standby.kill()
    home.open("gate")
    assert held.result(GUARD) == "gate"
    primary.kill()
    standby.start()
    standby.promote()
    until(lambda: len(home.marks("begins")) == 2, 3 * GUARD, lambda: service.log)
    assert held.result(GUARD) == "gate"
    assert service.stop() == 0
