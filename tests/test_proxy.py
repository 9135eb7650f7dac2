"""The network that fails: what it does to a client and to a server is what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gates import GUARD, in_thread
from tests.needs import needed
from tests.postgres import Postgres
from tests.proxy import Proxy


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as made:
        yield made


@pytest.fixture
def table(postgres: Postgres) -> str:
    schema = postgres.fresh_schema()
    postgres.ask(f"CREATE SCHEMA {schema}")
    postgres.ask(f"CREATE TABLE {schema}.words (word text)")
    return f"{schema}.words"


def connect(proxy: Proxy, **options: Any) -> Any:
    psycopg = needed("psycopg")
    return psycopg.connect(f"host=127.0.0.1 port={proxy.port} user=postgres", autocommit=True, **options)


def lost() -> Any:
    return pytest.raises(needed("psycopg").OperationalError)


def words(postgres: Postgres, table: str) -> list[str]:
    return [word for (word,) in postgres.ask(f"SELECT word FROM {table}")]


def test_all_goes_through_in_order(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert connection.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3_000_000,)
        assert connection.execute("SELECT length(%s)", ["y" * 3_000_000]).fetchone() == (3_000_000,)


def test_each_way_takes_as_long_as_it_was_told(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        for there, back in ((0.03, 0.0), (0.0, 0.03), (0.02, 0.02)):
            proxy.delay(there, back)
            began = time.monotonic()
            connection.execute("SELECT 1")
            assert time.monotonic() - began >= there + back


def test_a_connection_that_is_cut_is_gone_for_client_and_server(proxy: Proxy, postgres: Postgres) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        (pid,) = one.execute("SELECT pg_backend_pid() -- one").fetchone()
        assert proxy.cut(b"-- one") == 1
        with lost():
            one.execute("SELECT 1")
        other.execute("SELECT 1")
    gone = in_thread(wait_for_end_of, postgres, pid)
    gone.result(GUARD)


def wait_for_end_of(postgres: Postgres, pid: int) -> None:
    while postgres.ask("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid):
        pass


def test_cut_before_the_server_has_heard(proxy: Proxy, postgres: Postgres, table: str) -> None:
    with connect(proxy) as connection:
        connection.execute(f"INSERT INTO {table} VALUES (%s)", ["kept"])
        trap = proxy.cut_before(b"unheard")
        with lost():
            connection.execute(f"INSERT INTO {table} VALUES (%s)", ["unheard"])
        trap.wait()
    assert words(postgres, table) == ["kept"]
    with connect(proxy) as connection:  # once
        connection.execute(f"INSERT INTO {table} VALUES (%s)", ["unheard"])


def test_cut_after_the_server_has_done_it(proxy: Proxy, postgres: Postgres, table: str) -> None:
    with connect(proxy) as connection:
        trap = proxy.cut_after(b"done")
        with lost():
            connection.execute(f"INSERT INTO {table} VALUES (%s)", ["done"])
        trap.wait()
    assert words(postgres, table) == ["done"]


def test_what_hangs_is_held_back_and_comes_later(proxy: Proxy, postgres: Postgres, table: str) -> None:
    with connect(proxy) as held, connect(proxy) as free:
        held.execute("SELECT 1 -- slow")
        proxy.hang(b"-- slow")
        late = in_thread(held.execute, f"INSERT INTO {table} VALUES ('late')")
        free.execute(f"INSERT INTO {table} VALUES ('soon')")
        assert words(postgres, table) == ["soon"]
        assert not late.done()
        proxy.go_on()
        late.result(GUARD)
    assert words(postgres, table) == ["soon", "late"]


def test_what_a_client_has_said_arrives_though_it_has_given_up(proxy: Proxy, postgres: Postgres, table: str) -> None:
    connection = connect(proxy)
    proxy.hang()
    connection.pgconn.send_query(f"INSERT INTO {table} VALUES ('late')".encode())
    connection.close()
    proxy.go_on()
    arrived = in_thread(wait_for_words, postgres, table)
    arrived.result(GUARD)


def wait_for_words(postgres: Postgres, table: str) -> None:
    while words(postgres, table) != ["late"]:
        pass


def test_a_new_connection_hangs_too(proxy: Proxy) -> None:
    proxy.hang()
    with pytest.raises(needed("psycopg").errors.ConnectionTimeout):
        connect(proxy, connect_timeout=2)  # its least


def test_a_new_connection_may_get_through_though_old_ones_hang(proxy: Proxy, postgres: Postgres, table: str) -> None:
    with connect(proxy) as old:
        proxy.hang(new=False)
        late = in_thread(old.execute, f"INSERT INTO {table} VALUES ('late')")
        with connect(proxy) as new:
            new.execute(f"INSERT INTO {table} VALUES ('soon')")
        proxy.go_on()
        late.result(GUARD)
    assert words(postgres, table) == ["soon", "late"]


def test_refusing_is_for_new_ones_until_they_are_accepted(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.refuse()
        with lost():
            connect(proxy)
        connection.execute("SELECT 1")
        proxy.accept()
        connect(proxy).close()


def test_before_a_server_that_is_down_nobody_gets_a_connection(own_postgres: Postgres) -> None:
    own_postgres.stop()
    with Proxy(own_postgres.port) as proxy, lost():
        connect(proxy)
