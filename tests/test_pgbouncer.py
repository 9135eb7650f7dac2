"""The pooler that tests start: it is theirs alone, it shares few connections, and nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.killed import said_by_killed
from tests.needs import needed, needed_pgbouncer
from tests.pgbouncer import SIZE, PgBouncer
from tests.postgres import Postgres
from tests.worker.service import until


def test_who_asks_twice_may_be_answered_by_two_connections_and_all_share_a_few(postgres: Postgres) -> None:
    psycopg = needed("psycopg")
    port = needed_pgbouncer().port
    clients = [psycopg.connect(f"host=127.0.0.1 port={port} user=postgres") for _ in range(3 * SIZE)]
    pids = set()
    for client in clients:
        with client:
            pids.add(client.execute("SELECT pg_backend_pid()").fetchone()[0])
            client.commit()
            assert client.info.backend_pid not in pids
    assert len(pids) <= SIZE


def test_nothing_is_left_of_a_closed_one(postgres: Postgres) -> None:
    needed_pgbouncer()
    psycopg = needed("psycopg")
    pooler = PgBouncer(postgres.port)
    pooler.close()
    assert not pooler.folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host=127.0.0.1 port={pooler.port} user=postgres")
    pooler.close()


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    needed_pgbouncer()
    script = """
        from tests.pgbouncer import PgBouncer
        pooler = PgBouncer(1)
        print(pooler.folder, flush=True)
        input()
    """
    folder = said_by_killed(script)
    until(lambda: not Path(folder).exists())  # the pooler has ended before
