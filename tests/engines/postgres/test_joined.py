"""Jobs that are put, and end, in a transaction of the user's own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from penstock import App, StoreInvalid
from penstock.engines.records import Search
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    Death,
    Fate,
    NewJob,
    Outcome,
    Put,
    Renew,
    Settle,
    Settlement,
    Sweep,
    Want,
)
from penstock.job import JobState
from tests.gates import GUARD
from tests.needs import needed
from tests.postgres import Postgres
from tests.worker.service import Service, until


@pytest.fixture
def app(postgres: Postgres) -> Iterator[App]:
    app = App(postgres.fresh_url())
    app.task(name="double")(double)
    with contextlib.closing(app):
        assert app.store.find(Search()) == []  # the schema is there
        yield app


def double(n: int) -> int:
    return 2 * n


def plain(server: Postgres) -> str:
    return f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"


@contextmanager
def alchemy(server: Postgres) -> Iterator[Any]:
    engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres")
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def of_psycopg(server: Postgres) -> Iterator[Any]:
    with psycopg.connect(plain(server)) as connection:
        yield connection


@contextmanager
def in_a_block(server: Postgres) -> Iterator[Any]:
    with psycopg.connect(plain(server), autocommit=True) as connection, connection.transaction():
        yield connection


@contextmanager
def with_dicts(server: Postgres) -> Iterator[Any]:
    with psycopg.connect(plain(server), row_factory=dict_row) as connection:
        yield connection


@contextmanager
def with_raw_cursors(server: Postgres) -> Iterator[Any]:
    with psycopg.connect(plain(server), cursor_factory=psycopg.RawCursor) as connection:
        yield connection


@contextmanager
def of_sqlalchemy(server: Postgres) -> Iterator[Any]:
    with alchemy(server) as engine, engine.begin() as connection:
        yield connection


@contextmanager
def in_a_session(server: Postgres) -> Iterator[Any]:
    with alchemy(server) as engine, Session(engine) as session, session.begin():
        yield session


WAYS = [of_psycopg, in_a_block, with_dicts, with_raw_cursors, of_sqlalchemy, in_a_session]


@pytest.mark.parametrize("way", WAYS)
def test_jobs_are_there_with_the_commit(
    app: App, postgres: Postgres, way: Callable[[Postgres], AbstractContextManager[Any]]
) -> None:
    task = app.tasks["double"]
    with way(postgres) as connection:
        one = task.options(connection=connection).enqueue(1)
        two, three = task.options(connection=connection).enqueue_many([(2,), (3,)])
        assert app.store.find(Search()) == []

    assert [handle.state for handle in (one, two, three)] == [JobState.READY] * 3


@pytest.mark.parametrize("way", WAYS)
def test_there_never_was_a_job_that_is_rolled_back(
    app: App, postgres: Postgres, way: Callable[[Postgres], AbstractContextManager[Any]]
) -> None:
    with pytest.raises(ZeroDivisionError), way(postgres) as connection:
        app.tasks["double"].options(connection=connection).enqueue(1)
        raise ZeroDivisionError

    assert app.store.find(Search()) == []


AWay = Callable[[Postgres], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def async_psycopg(server: Postgres) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(plain(server)) as connection:
        yield connection


@asynccontextmanager
async def async_alchemy(server: Postgres, driver: str, **options: Any) -> AsyncIterator[Any]:
    engine = create_async_engine(f"postgresql+{driver}://postgres@127.0.0.1:{server.port}/postgres", **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def async_connection(driver: str) -> AWay:
    @asynccontextmanager
    async def way(server: Postgres) -> AsyncIterator[Any]:
        async with async_alchemy(server, driver) as engine, engine.begin() as connection:
            yield connection

    return way


def async_session(driver: str) -> AWay:
    @asynccontextmanager
    async def way(server: Postgres) -> AsyncIterator[Any]:
        async with async_alchemy(server, driver) as engine, AsyncSession(engine) as session, session.begin():
            yield session

    return way


AWAYS: dict[str, AWay] = {
    "psycopg": async_psycopg,
    "sqlalchemy-psycopg": async_connection("psycopg"),
    "sqlalchemy-asyncpg": async_connection("asyncpg"),
    "session-psycopg": async_session("psycopg"),
    "session-asyncpg": async_session("asyncpg"),
}


@pytest.mark.parametrize("way", AWAYS.values(), ids=AWAYS)
def test_jobs_of_coroutines_are_there_with_the_commit(app: App, postgres: Postgres, way: AWay) -> None:
    task = app.tasks["double"]

    async def put() -> list[Any]:
        async with way(postgres) as connection:
            one = await task.options(connection=connection, headers={"a": "b"}, delay=0.0).aenqueue(1)
            two = await task.options(connection=connection).aenqueue_many([(2,), (3,)])
            assert app.store.find(Search()) == []
        return [one, *two]

    assert [handle.state for handle in asyncio.run(put())] == [JobState.READY] * 3


@pytest.mark.parametrize("way", AWAYS.values(), ids=AWAYS)
def test_there_never_was_a_job_of_a_coroutine_that_is_rolled_back(app: App, postgres: Postgres, way: AWay) -> None:
    async def put() -> None:
        async with way(postgres) as connection:
            await app.tasks["double"].options(connection=connection).aenqueue(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(put())
    assert app.store.find(Search()) == []


@pytest.mark.parametrize("way", AWAYS.values(), ids=AWAYS)
def test_a_job_of_a_coroutine_is_done_with_the_commit(app: App, postgres: Postgres, way: AWay) -> None:
    handle = app.tasks["double"].enqueue(1)
    app.store.ask(Renew([Beat(7, first=True, info=b"{}")], 30.0))
    [claimed] = app.store.ask(Claim(7, None, [Want(frozenset({"double"}), 1)]))
    assert isinstance(claimed, Claimed)
    [[job]] = claimed.jobs
    settle = Settle((Settlement(job.seq, job.token, Outcome.DONE, result=b"2"),))

    async def complete() -> list[Any]:
        async with way(postgres) as connection:
            answers = await app.store.join(connection).atransact((settle, settle))
            assert handle.state is JobState.RUNNING
        return list(answers)

    assert asyncio.run(complete()) == [[True], [False]]
    assert handle.state is JobState.DONE


def test_a_coroutine_joins_with_its_own_kind_of_connection(app: App, postgres: Postgres) -> None:
    task = app.tasks["double"]

    async def put() -> Any:
        async with await psycopg.AsyncConnection.connect(plain(postgres)) as connection:
            with pytest.raises(TypeError, match="for coroutines"):
                task.options(connection=connection).enqueue(1)
            return await task.options(connection=connection).aenqueue(1)

    assert asyncio.run(put()).state is JobState.READY


def test_a_coroutine_does_not_block_its_loop(app: App, postgres: Postgres) -> None:
    with psycopg.connect(plain(postgres)) as connection, pytest.raises(TypeError, match="block the loop"):
        asyncio.run(app.tasks["double"].options(connection=connection).aenqueue(1))


def test_a_connection_that_commits_each_statement_is_refused(app: App, postgres: Postgres) -> None:
    with postgres.connect() as connection, pytest.raises(ValueError, match=r"\.transaction\(\)"):
        app.tasks["double"].options(connection=connection).enqueue(1)


def test_a_connection_of_sqlalchemy_that_commits_each_statement_is_refused(app: App, postgres: Postgres) -> None:
    task = app.tasks["double"]
    with alchemy(postgres) as engine:
        each = engine.execution_options(isolation_level="AUTOCOMMIT")
        with each.connect() as connection, pytest.raises(ValueError, match="AUTOCOMMIT"):
            task.options(connection=connection).enqueue(1)
        with Session(each) as session, pytest.raises(ValueError, match="AUTOCOMMIT"):
            task.options(connection=session).enqueue(1)

    async def put(driver: str) -> None:
        async with async_alchemy(postgres, driver, isolation_level="AUTOCOMMIT") as engine:
            async with engine.connect() as connection:
                with pytest.raises(ValueError, match="AUTOCOMMIT"):
                    await task.options(connection=connection).aenqueue(1)
            async with AsyncSession(engine) as session:
                with pytest.raises(ValueError, match="AUTOCOMMIT"):
                    await task.options(connection=session).aenqueue(1)

    asyncio.run(put("psycopg"))
    asyncio.run(put("asyncpg"))
    assert app.store.find(Search()) == []


def test_a_connection_of_sqlalchemy_to_another_database_is_refused(app: App, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    task = app.tasks["double"]
    with engine.begin() as connection, pytest.raises(TypeError, match="is to sqlite, and the jobs are in PostgreSQL"):
        task.options(connection=connection).enqueue(1)
    with Session(engine) as session, pytest.raises(TypeError, match="is to sqlite, and the jobs are in PostgreSQL"):
        task.options(connection=session).enqueue(1)
    engine.dispose()


@pytest.mark.parametrize("way", WAYS)
def test_who_joins_before_there_are_tables_is_told_what_makes_them(
    postgres: Postgres, way: Callable[[Postgres], AbstractContextManager[Any]]
) -> None:
    app = App(postgres.fresh_url())
    task = app.task(name="double")(double)
    with (
        contextlib.closing(app),
        pytest.raises(StoreInvalid, match=r"no schema penstock_\d+, which `penstock migrate` makes"),
        way(postgres) as connection,
    ):
        task.options(connection=connection).enqueue(1)


@pytest.mark.parametrize("way", AWAYS.values(), ids=AWAYS)
def test_a_coroutine_that_joins_before_there_are_tables_is_told_what_makes_them(postgres: Postgres, way: AWay) -> None:
    app = App(postgres.fresh_url())
    task = app.task(name="double")(double)

    async def put() -> None:
        async with way(postgres) as connection:
            await task.options(connection=connection).aenqueue(1)

    with contextlib.closing(app), pytest.raises(StoreInvalid, match="`penstock migrate` makes"):
        asyncio.run(put())


def test_another_error_of_the_server_is_that_of_the_users_own_library(app: App, postgres: Postgres) -> None:
    with alchemy(postgres) as engine, engine.connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(SQLAlchemyError, match="read-only"):
            app.tasks["double"].options(connection=connection).enqueue(1)


def test_what_is_no_connection_is_refused(app: App) -> None:
    with pytest.raises(TypeError, match="is no connection"):
        app.tasks["double"].options(connection=object()).enqueue(1)


TILL = Path(__file__).with_name("till.py")
PLACES = range(5)  # before the first statement of the task's transaction, between two of them, after the commit


@contextmanager
def till(postgres: Postgres, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Iterator[Any]:
    """An app that enqueues what `till.py` has, and what starts a service for it."""
    needed("django")
    database = f"till_{postgres.fresh_schema()}"
    postgres.ask(f"CREATE DATABASE {database}")
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/{database}"
    monkeypatch.setenv("TILL_DATABASE", url)
    monkeypatch.setenv("TILL_JOBS", url)
    spec = importlib.util.spec_from_file_location("till", TILL)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    postgres.ask(module.TABLES, database=database)
    service = None
    try:
        service = Service(folder, 1, options, duty=TILL)
        yield module, service, lambda asked: postgres.ask(asked, database=database)
    finally:
        if service is not None:
            service.close()
        module.app.close()


def paid_once(handles: list[Any], places: list[int], ask: Callable[[str], Any]) -> None:
    """Each has broken once, and is done, and what it wrote is there once."""
    assert [handle.result(GUARD) for handle in handles] == places
    ids = sorted(handle.id for handle in handles)
    until(lambda: sorted(row[0] for row in ask("SELECT job FROM broke")) == ids)  # the last place is after the commit
    assert sorted(row[0] for row in ask("SELECT job FROM paid")) == ids
    assert ask("SELECT count(*) FROM penstock.job WHERE task = 'thank'") == [(len(ids),)]


def test_what_a_task_writes_is_there_once_wherever_it_breaks(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with till(postgres, tmp_path, monkeypatch, "--queues", "default") as (module, service, ask):
        tasks = (
            module.pay_on_a_thread, module.pay_async, module.pay_apart,
            module.pay_in_a_session, module.pay_in_an_async_session, module.pay_in_django,
        )  # fmt: skip
        jobs = [(task, place, how) for task in tasks for place in PLACES for how in ("raise", "cut", "snooze")]
        handles = [task.enqueue(place, how) for task, place, how in jobs]
        paid_once(handles, [place for _, place, _ in jobs], ask)
        assert service.stop() == 0

        # Each is counted as done once; those that broke before the commit have run a second time.
        again = sum(place < 4 for _, place, _ in jobs)
        assert f"{len(jobs)} done, {again} to run again later, 0 abandoned" in service.log
        snoozed = [handle for handle, (_, _, how) in zip(handles, jobs, strict=True) if how == "snooze"]
        assert {handle.record.attempt for handle in snoozed} == {1}, "it cost them none"


@pytest.mark.parametrize("way", ["pay_on_a_thread", "pay_in_a_session", "pay_in_django"])
def test_what_a_task_writes_is_there_once_wherever_its_process_is_killed(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with till(postgres, tmp_path, monkeypatch, "--queues", "default", "--threads", "1") as (module, service, ask):
        task = getattr(module, way)
        handles = [task.enqueue(place, "kill") for place in PLACES]
        paid_once(handles, list(PLACES), ask)
        service.stop()
        paid_once(handles, list(PLACES), ask)


def test_a_claim_that_was_lost_completes_nothing(app: App, postgres: Postgres) -> None:
    handle = app.tasks["double"].enqueue(1)
    store = app.store
    store.ask(Renew([Beat(7, first=True, info=b"{}")], 30.0))
    [claimed] = store.ask(Claim(7, None, [Want(frozenset({"double"}), 1)]))
    assert isinstance(claimed, Claimed)
    [[job]] = claimed.jobs
    settle = Settle((Settlement(job.seq, job.token, Outcome.DONE, result=b"2"),))
    with of_psycopg(postgres) as connection:
        assert store.join(connection).transact((settle,)) == [[True]]
        connection.rollback()
        assert handle.state.value == "running"
    store.ask(Sweep([Death(7, "it was lost", frozenset(), blamed=frozenset())]))

    with of_psycopg(postgres) as connection:
        assert store.join(connection).transact((settle,)) == [[False]]
    assert handle.state.value == "ready"


@pytest.mark.parametrize("loader", [psycopg.types.string.TextLoader, psycopg.types.string.ByteaLoader])
def test_the_answers_are_right_whatever_the_users_connection_makes_of_values(
    app: App, postgres: Postgres, loader: Any
) -> None:
    """As some let numbers come as text, or text as bytes: a claim that was lost must not be taken for a current one."""
    put = Put([NewJob("a", "double"), NewJob("é", "double")])
    lost = Settle((Settlement(7, 1, Outcome.DONE, result=b"2"),))
    app.store.ask(put)
    with of_psycopg(postgres) as connection:
        for kind in ("int8", "text"):
            connection.adapters.register_loader(kind, loader)
        assert app.store.join(connection).transact((put, lost)) == [[Fate.KNOWN] * 2, [False]]


def test_a_commit_wakes_who_waits_and_a_rollback_does_not(app: App, postgres: Postgres) -> None:
    with postgres.connect() as ear, psycopg.connect(plain(postgres)) as connection:
        channel = app.store.engine._news.channel  # type: ignore[attr-defined]
        ear.execute(f'LISTEN "{channel}"')
        app.tasks["double"].options(connection=connection).enqueue(1)
        connection.rollback()
        app.tasks["double"].options(connection=connection).enqueue(2)
        assert not list(ear.notifies(timeout=0))
        connection.commit()
        assert len(list(ear.notifies(timeout=GUARD, stop_after=1))) == 1


DJANGO = """
import sys
import django
from django.conf import settings
port, url = sys.argv[1:]
database = {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": port, "USER": "postgres"}
settings.configure(DATABASES={"default": {**database, "NAME": "postgres"}})
django.setup()
from django.db import connection, connections, transaction
from penstock import App

app = App(url)

@app.task(name="double")
def double(n: int) -> int:
    return 2 * n

with transaction.atomic():
    double.options(connection=connection, id="one").enqueue(1)
    double.options(connection=connections["default"]).enqueue_many([(2,), (3,)])
try:
    with transaction.atomic():
        double.options(connection=connection, id="never").enqueue(4)
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
try:
    double.options(connection=connection, id="outside").enqueue(5)
except ValueError as error:
    print(error)
connection.close()
app.close()
"""


def test_a_job_is_a_part_of_an_atomic_block_of_django(app: App, postgres: Postgres) -> None:
    needed("django")
    url = postgres.url(app.store.engine.url.partition("?schema=")[2])

    ended = subprocess.run(
        [sys.executable, "-c", DJANGO, str(postgres.port), url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 0, ended.stderr
    assert "use transaction.atomic()" in ended.stdout
    records = app.store.find(Search())
    assert len(records) == 3
    assert {"never", "outside"}.isdisjoint(record.id for record in records)
