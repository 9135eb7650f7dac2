"""A server whose disk is full says no to what writes, and goes on when there is room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from penstock.engines import connect
from penstock.engines.records import Complaints, Counts
from penstock.engines.requests import NewJob, Outcome, Put
from penstock.errors import StoreUnavailable
from penstock.job import JobState
from tests.disk import small_disk
from tests.engines.kinds import A, Clock, Desk, oops
from tests.gates import GUARD
from tests.postgres import Postgres
from tests.worker.service import house

SAYS_SO = """
CREATE FUNCTION {schema}.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full',
        HINT = 'Check free disk space.';
END $$;
CREATE TRIGGER full_job BEFORE INSERT ON {schema}.job EXECUTE FUNCTION {schema}.full();
CREATE TRIGGER full_past BEFORE INSERT ON {schema}.past EXECUTE FUNCTION {schema}.full();
CREATE TRIGGER full_attempt BEFORE INSERT ON {schema}.attempt EXECUTE FUNCTION {schema}.full();
"""


def test_what_it_says_then_is_said_and_nothing_was_changed(postgres: Postgres) -> None:
    """Said by triggers, in the server's words: also where no disk can be made that is full."""
    schema = postgres.fresh_schema()
    with closing(connect(postgres.url(schema))) as engine:
        engine.open()
        desk = Desk(engine, Clock())
        desk.renew(A, first=True)
        [one, two] = desk.put_and_claim(A, "one", "two")
        with full(postgres, schema):
            for act in (
                lambda: desk.put("three"),
                lambda: engine.transact([Put([NewJob("four", "work")]), Put([NewJob("five", "work")])]),
                lambda: desk.done(one),
                lambda: desk.settle(two, Outcome.RETRY, error=oops()),
            ):
                with pytest.raises(StoreUnavailable, match="No space left on device"):
                    act()
            assert {count.state: count.jobs for count in desk.find(Counts())} == {JobState.RUNNING: 2}
            desk.renew(A)
        assert desk.done(one)
        assert desk.settle(two, Outcome.RETRY, error=oops())
        desk.put("three")
        assert desk.searched() == ["three", "two", "one"]
        assert desk.complaints() == []


@contextmanager
def full(postgres: Postgres, schema: str) -> Iterator[None]:
    postgres.ask(SAYS_SO.format(schema=schema))
    yield
    postgres.ask(f"DROP FUNCTION {schema}.full() CASCADE")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_service_keeps_its_outcomes_while_the_disk_is_full_and_tells_them_when_there_is_room(
    tmp_path: Path, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the tables; on that of the log the server would go down, which is as if it were restarted."""
    with small_disk(own_postgres.folder / "small", megabytes=24) as disk:
        own_postgres.give(disk.folder)
        own_postgres.ask(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
        own_postgres.ask("CREATE DATABASE small TABLESPACE small")
        with house(tmp_path, monkeypatch, own_postgres.url(database="small")) as home:
            service = home.work("--processes", "1", "--threads", "2")
            first, second = home.duty.held.enqueue("gate"), home.duty.held.enqueue("gate")
            home.begun(2)
            disk.fill()
            with pytest.raises(StoreUnavailable, match="No space left on device"):
                home.duty.says.enqueue("word" * 100_000)
            home.open("gate")
            service.logged("can't be used now: .*No space left on device")
            disk.make_room()
            assert [first.result(GUARD), second.result(GUARD)] == ["gate", "gate"]
            service.logged("is back")
            assert home.duty.double.enqueue(4).result(GUARD) == 8
            assert service.stop() == 0
            assert len(home.marks("begins")) == 2
            assert home.app.store.find(Complaints()) == []
