"""The PostgreSQL that tests start: it is theirs alone, it survives what they do to it, and nothing of it is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.killed import said_by_killed
from tests.needs import needed
from tests.postgres import Postgres
from tests.worker.service import until


def test_the_shared_one_gives_each_test_a_schema_of_its_own(postgres: Postgres) -> None:
    one, two = postgres.fresh_schema(), postgres.fresh_schema()
    assert one != two
    assert postgres.ask("SELECT nspname FROM pg_namespace WHERE nspname IN (%s, %s)", one, two) == []


@pytest.mark.parametrize("end", [Postgres.stop, Postgres.kill], ids=["stopped", "killed"])
def test_what_was_committed_is_there_after_a_new_start(own_postgres: Postgres, end: Callable[[Postgres], None]) -> None:
    own_postgres.ask("CREATE TABLE kept AS SELECT 7 AS number")
    pid = own_postgres.ask("SELECT pg_backend_pid()")
    port = own_postgres.port
    with own_postgres.connect() as connection:  # it does not wait for those that are connected
        end(own_postgres)
        psycopg = needed("psycopg")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            own_postgres.connect()
    own_postgres.start()
    assert own_postgres.port == port
    assert own_postgres.ask("SELECT number FROM kept") == [(7,)]
    assert own_postgres.ask("SELECT pg_backend_pid()") != pid


def test_its_own_settings_are_those_of_a_careful_server(own_postgres: Postgres, postgres: Postgres) -> None:
    asked = (
        "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')"
    )
    assert own_postgres.ask(asked) == [("on", "on", "on")]
    assert postgres.ask(asked) == [("off", "off", "off")]


def test_nothing_is_left_of_a_closed_one(own_postgres: Postgres) -> None:
    pid = server_of(own_postgres)
    own_postgres.close()
    assert not own_postgres.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own_postgres.close()


def test_nothing_is_left_when_the_tests_are_killed(postgres: Postgres) -> None:
    script = """
        from tests.postgres import Postgres
        server = Postgres()
        print(server.folder, (server.folder / "data" / "postmaster.pid").read_text().split()[0], flush=True)
        input()
    """
    folder, pid = said_by_killed(script).split()
    until(lambda: not Path(folder).exists())
    until(lambda: not is_running(int(pid)))


def server_of(server: Postgres) -> int:
    return int((server.folder / "data" / "postmaster.pid").read_text().split()[0])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
