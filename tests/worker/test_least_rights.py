"""A role with the rights that `penstock migrate --role` gives, and no others: all that services and people do works."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.cli import main
from penstock.engines.records import Complaints, Search
from penstock.errors import StoreError
from penstock.job import JobState
from tests.gates import GUARD
from tests.postgres import Postgres
from tests.worker.service import House, house, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """Of a database in which nobody may do anything, nor make a temporary table, but one role what it was given."""
    name = f"least_{postgres.fresh_schema()}"
    postgres.ask(f"CREATE DATABASE {name}")
    postgres.ask(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    postgres.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC", database=name)
    postgres.ask(f"CREATE ROLE {name} LOGIN")
    postgres.ask(f"GRANT CONNECT ON DATABASE {name} TO {name}")
    assert main(["migrate", postgres.url(database=name), "--role", name]) == 0
    yield postgres.url(database=name, user=name)
    postgres.ask(f"DROP DATABASE {name} WITH (FORCE)")
    postgres.ask(f"DROP ROLE {name}")


@pytest.fixture
def home(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch, url) as made:
        yield made
        assert made.app.store.find(Complaints()) == []


@pytest.fixture
def say(url: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What a command prints as JSON, once it went well."""

    def said(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = main([*words, "--store", url, "--json"])
        told = capsys.readouterr()
        assert ended == code, told.err
        documents = [json.loads(line) for line in told.out.splitlines()]
        return documents[0] if len(documents) == 1 else documents

    return said


def test_a_service_and_every_command_work(home: House, say: Callable[..., Any], postgres: Postgres) -> None:
    service = home.work("--processes", "1", "--threads", "2")
    duty = home.duty
    done, fails = duty.double.enqueue(4), duty.fails.enqueue(9)
    told = duty.tells.enqueue("gate")
    home.begun()
    assert done.result(GUARD) == 8
    assert fails.exception(GUARD) is not None
    until(lambda: told.progress is not None)

    assert say("status")
    assert {job["id"] for job in say("jobs")} == {done.id, fails.id, told.id}
    assert say("show", fails.id)
    assert say("failures")
    say("pause", "default")
    later = duty.double.enqueue(5)
    say("retry", fails.id)
    say("cancel", told.id)
    until(lambda: told.state is JobState.CANCELLED)
    say("resume", "default")
    assert later.result(GUARD) == 10
    assert fails.exception(GUARD) is not None
    say("check")
    say("prune", "--done", "0s", "--failed", "0s")
    say("jobs", code=1)
    assert home.app.store.find(Search()) == []
    assert main(["enqueue", f"{duty.__file__}:app", "double", "[6]"]) == 0
    until(lambda: home.marks("double", "6"))

    # And when it has to end what may be left of a connection.
    sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    assert postgres.ask(sessions, url_database(home))
    assert until(lambda: _enqueued(duty.double, 7)).result(GUARD) == 14
    assert service.stop() == 0
    assert "permission denied" not in service.log


def url_database(home: House) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(home.app.url.partition("?")[0])["dbname"])


def _enqueued(task: Any, n: int) -> Any:
    try:
        return task.options(id=f"once-{n}").enqueue(n)
    except StoreError:
        return None
