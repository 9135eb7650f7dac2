"""`penstock migrate`: who makes the tables, and what those need who only use them."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import main
from penstock.engines import connect
from penstock.engines.engine import Engine
from penstock.engines.postgres import schema
from penstock.engines.records import Complaints, States
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    Fate,
    NewJob,
    Outcome,
    Progress,
    Prune,
    Put,
    Renew,
    Settle,
    Settlement,
    Sweep,
    Want,
)
from penstock.errors import StoreError, StoreInvalid
from penstock.job import JobState
from tests.gates import GUARD, in_thread
from tests.postgres import Postgres, programs
from tests.worker.service import until

Captured = pytest.CaptureFixture[str]

WORKER = 7
ROLE = 'clerk "7"'  # to be quoted


@pytest.fixture
def role(postgres: Postgres) -> str:
    """A role that may do nothing; the server, and the role with it, is gone after the tests."""
    if not postgres.ask("SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
        postgres.ask(f"CREATE ROLE {quoted(ROLE)} LOGIN")
    return ROLE


def quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def of_role(url: str) -> str:
    return url.replace("postgres@", "clerk%20%227%22@")


def schema_of(url: str) -> str:
    return url.rpartition("=")[2]


def version(postgres: Postgres, url: str) -> Any:
    [[found]] = postgres.ask(f"SELECT version FROM {schema_of(url)}.store")
    return found


def do_all(engine: Engine) -> None:
    """All that services and those who enqueue ask for."""
    engine.transact([Renew([Beat(WORKER, True)], 30.0), Put([NewJob("a", "work"), NewJob("b", "work")])])
    [claimed] = engine.transact([Claim(WORKER, None, [Want(frozenset(["work"]), 10)])])
    assert isinstance(claimed, Claimed)
    [jobs] = claimed.jobs
    first, second = jobs
    answers = engine.transact(
        [
            Progress(first.seq, first.token, 1.0, 2.0, "half"),
            Settle([Settlement(first.seq, first.token, Outcome.DONE, result=b"1")]),
            Settle([Settlement(second.seq, second.token, Outcome.DONE, result=b"1")]),
            Renew([Beat(WORKER)], 30.0),
            Sweep([], 30.0, 15.0, 3),
        ]
    )
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert engine.find(States(["a", "b"])) == [JobState.DONE, JobState.DONE]
    assert engine.find(Complaints()) == []
    assert engine.transact([Prune(0.0, 0.0)]) == [2]


def test_a_schema_is_made_once_and_it_says_from_which_version(postgres: Postgres, capsys: Captured) -> None:
    url = postgres.fresh_url()

    assert main(["migrate", url]) == 0
    assert capsys.readouterr().out.endswith(": from version 0 to 1\n")
    assert main(["migrate", url]) == 0
    assert capsys.readouterr().out.endswith(": nothing to do, it is of version 1\n")
    assert version(postgres, url) == 1


def test_ten_that_open_a_new_store_at_once_make_it_once(postgres: Postgres) -> None:
    url = postgres.fresh_url()
    engines = [connect(url) for _ in range(10)]
    together = threading.Barrier(len(engines))
    failed: list[StoreError] = []

    def be_open(engine: Engine) -> None:
        together.wait()
        try:
            engine.open(60.0)
        except StoreError as error:
            failed.append(error)
        finally:
            engine.close()

    threads = [threading.Thread(target=be_open, args=[engine]) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert version(postgres, url) == 1


def test_a_store_of_a_later_version_is_used_as_it_is(postgres: Postgres, capsys: Captured) -> None:
    """Else no service of the version before could start again once somebody has migrated."""
    url = postgres.fresh_url()
    assert main(["migrate", url]) == 0
    postgres.ask(f"UPDATE {schema_of(url)}.store SET version = 99")
    capsys.readouterr()

    assert main(["migrate", url]) == 0
    assert capsys.readouterr().out.endswith(": nothing to do, it is of version 99\n")
    assert main(["migrate", url, "--sql"]) == 0
    assert capsys.readouterr().out == "-- nothing to do\n"
    with contextlib.closing(connect(url)) as engine:
        engine.open()
        assert engine.transact([Put([NewJob("a", "work")])]) == [[Fate.ACCEPTED]]
    assert version(postgres, url) == 99


def test_a_store_that_is_too_new_is_refused_and_left_alone(postgres: Postgres, capsys: Captured) -> None:
    url = postgres.fresh_url()
    assert main(["migrate", url]) == 0
    postgres.ask(f"UPDATE {schema_of(url)}.store SET version = 100")
    capsys.readouterr()

    for options in ([], ["--sql"]):
        assert main(["migrate", url, *options]) == 3
        told = capsys.readouterr()
        assert told.out == ""
        assert "it was made by a newer penstock (its schema is 100, this one knows 1)" in told.err
    assert version(postgres, url) == 100


def test_a_schema_of_another_program_is_refused_and_left_alone(postgres: Postgres, capsys: Captured) -> None:
    url = postgres.fresh_url()
    where = schema_of(url)
    postgres.ask(f"CREATE SCHEMA {where}")
    postgres.ask(f"CREATE TABLE {where}.orders (id integer)")

    assert main(["migrate", url]) == 3

    assert f"its schema {where} is another program's; ?schema= names another one" in capsys.readouterr().err
    assert postgres.ask("SELECT tablename FROM pg_tables WHERE schemaname = %s", where) == [("orders",)]


def test_the_printed_script_makes_a_store_for_a_role_and_changes_nothing_by_itself(
    postgres: Postgres, role: str, capsys: Captured, tmp_path: Path
) -> None:
    url = postgres.fresh_url()

    assert main(["migrate", url, "--sql", "--role", role]) == 0
    script = capsys.readouterr().out
    assert postgres.ask("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema_of(url)) == []
    psql = [
        str(programs() / "psql"),
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        "127.0.0.1",
        "-p",
        str(postgres.port),
    ]
    subprocess.run([*psql, "-U", "postgres"], input=script, text=True, check=True, timeout=60, capture_output=True)

    assert main(["migrate", url, "--sql"]) == 0
    assert capsys.readouterr().out == "-- nothing to do\n"
    engine = connect(of_role(url))
    try:
        engine.open()
        do_all(engine)
    finally:
        engine.close()


def test_a_role_with_its_rights_can_do_all_but_change_the_tables(postgres: Postgres, role: str) -> None:
    url = postgres.fresh_url()
    assert main(["migrate", url, "--role", role]) == 0
    engine = connect(of_role(url))
    try:
        engine.open()
        do_all(engine)
    finally:
        engine.close()

    import psycopg

    where = schema_of(url)
    with psycopg.connect(host="127.0.0.1", port=postgres.port, user=role, dbname="postgres", autocommit=True) as it:
        for statement in (f"DROP TABLE {where}.job", f"CREATE TABLE {where}.mine ()", f"TRUNCATE {where}.job"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                it.execute(statement)


def test_a_role_without_rights_makes_no_store_and_is_told_so(postgres: Postgres, role: str, capsys: Captured) -> None:
    url = postgres.fresh_url()

    assert main(["migrate", of_role(url)]) == 3
    assert "permission denied" in capsys.readouterr().err
    assert main(["migrate", url]) == 0
    engine = connect(of_role(url))
    with pytest.raises(StoreInvalid, match="permission denied"):
        engine.open()
    engine.close()


def test_who_owns_a_schema_makes_the_tables_though_it_may_create_no_schemas(
    postgres: Postgres, role: str, capsys: Captured
) -> None:
    url = postgres.fresh_url()
    postgres.ask(f"CREATE SCHEMA {schema_of(url)} AUTHORIZATION {quoted(role)}")

    assert main(["migrate", of_role(url)]) == 0, capsys.readouterr().err

    postgres.ask(f"DROP SCHEMA {schema_of(url)} CASCADE")


def test_a_migration_may_take_longer_than_a_role_may_for_a_statement(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", ("SELECT pg_sleep(0.3);\n" + schema.MIGRATIONS[0],))

    assert main(["migrate", f"{postgres.fresh_url()}&options=-cstatement_timeout%3D100"]) == 0, capsys.readouterr().err


def test_a_migration_that_has_to_wait_for_somebody_holds_nobody_up(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of a user's, which has enqueued and stays open, say: behind it all would wait for the migration."""
    url = postgres.fresh_url()
    with contextlib.closing(connect(url)) as engine, postgres.connect() as other:
        engine.open()
        steps = (*schema.MIGRATIONS, "ALTER TABLE penstock.job ADD COLUMN note text;")
        monkeypatch.setattr(schema, "MIGRATIONS", steps)
        with other.transaction():
            other.execute(f"LOCK TABLE {schema_of(url)}.job IN ROW EXCLUSIVE MODE")
            migrating = in_thread(main, ["migrate", url])
            until(lambda: postgres.waiting(schema_of(url)))

            assert engine.transact([Put([NewJob("a", "work")])], GUARD / 2) == [[Fate.ACCEPTED]]
        assert migrating.result(GUARD) == 0
    assert version(postgres, url) == len(steps)


def test_a_role_that_there_is_not_is_said_and_nothing_is_made(postgres: Postgres, capsys: Captured) -> None:
    url = postgres.fresh_url()

    assert main(["migrate", url, "--role", "nobody_here"]) == 3

    assert 'role "nobody_here" does not exist' in capsys.readouterr().err
    assert postgres.ask("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema_of(url)) == []


def test_a_file_is_made_and_has_no_sql_and_no_roles(tmp_path: Path, capsys: Captured) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"

    for options in (["--sql"], ["--role", "clerk"]):
        assert main(["migrate", url, *options]) == 2
        assert "has neither SQL to apply nor roles" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["migrate", url]) == 0
    assert capsys.readouterr().out == f"{url} is of today's version\n"
    assert (tmp_path / "jobs.db").exists()


def test_memory_is_said_to_be_within_one_process(capsys: Captured) -> None:
    assert main(["migrate", "memory://"]) == 2
    assert "memory:// is within one process" in capsys.readouterr().err
