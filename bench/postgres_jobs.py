"""The systems that `postgres.py` measures: how each keeps its jobs in one database, and how its workers are started.

A folder for each turn has the database's URL in a file; what runs there tells the bench as `durable_jobs.Teller` says.
The peers have what their documentation and their own benches show to be their fastest, with all that is committed
on the disk:

- Procrastinate: tasks that are coroutines, ten at once (`--concurrency 10`; with 1 or 100 it is slower here), its pool
  of psycopg connections as large as the crowd of callers, `batch_defer` for many.
- PgQueuer: asyncpg, uvloop, batches of 100 (with its default of 10 it is slower), `durable` tables with its autovacuum
  settings, one statement for each thousand of many.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import durable_jobs
from bench.durable_jobs import URL, System, Teller
from bench.services import WORK
from penstock.engines.records import Counts

_BULK: Final = 1_000
_CALLERS: Final = 20


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system on PostgreSQL. *command* starts one worker process; *two* are the commands for two of them."""

    install: Callable[[Path], object]  # its tables, in the empty database that the folder names
    opened: Callable[[Path], System]
    command: Sequence[str]
    two: Sequence[Sequence[str]]

    def fill(self, folder: Path, jobs: int) -> None:
        """*jobs* that wait."""
        system = self.opened(folder)
        system.put_many(range(jobs))
        system.close()


def url_in(folder: Path) -> str:
    """As psycopg and asyncpg understand it."""
    return (folder / URL).read_text().partition("?")[0]


# ---------------------------------------------------------------------------------------------------------------------
# Ours


def penstock_install(folder: Path) -> None:
    app = durable_jobs.penstock_app(folder)
    app.store.find(Counts())
    app.close()


def penstock(task: str) -> Contestant:
    """Ours, with the *task* "nothing" or "anothing", a coroutine."""

    def opened(folder: Path) -> System:
        return durable_jobs.penstock(folder, task)

    return Contestant(penstock_install, opened, WORK, [(*WORK, "--processes", "2")])


# ---------------------------------------------------------------------------------------------------------------------
# Procrastinate


def procrastinate_app(folder: Path) -> Any:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url_in(folder), min_size=1, max_size=_CALLERS))
    teller = Teller(folder)

    @app.task(name="nothing")
    async def nothing(value: int) -> None:
        teller.count()

    @app.task(name="when")
    async def when(sent: float) -> None:
        teller.tell(time.monotonic() - sent)

    return app


def procrastinate_install(folder: Path) -> None:
    with procrastinate_app(folder).open() as app:
        app.schema_manager.apply_schema()


def procrastinate(folder: Path) -> System:
    app = procrastinate_app(folder).open()
    nothing, when = app.tasks["nothing"], app.tasks["when"]

    def put_many(values: Iterable[int]) -> None:
        for some in _batched(values, _BULK):
            nothing.batch_defer(*({"value": value} for value in some))

    opened: list[Any] = []

    async def aput(value: int) -> None:
        if not opened:
            opened.append(await app.open_async())
        await nothing.defer_async(value=value)

    async def aclose() -> None:
        await app.close_async()

    return System(
        lambda value: nothing.defer(value=value),
        put_many,
        app.close,
        lambda sent: when.defer(sent=sent),
        aput,
        aclose,
    )


# ---------------------------------------------------------------------------------------------------------------------
# PgQueuer


def pgqueuer_install(folder: Path) -> None:
    async def install() -> None:
        import asyncpg
        from pgqueuer import Queries

        connection = await asyncpg.connect(url_in(folder))
        queries = Queries.from_asyncpg_connection(connection)
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    asyncio.run(install())


def pgqueuer(folder: Path) -> System:
    import asyncpg
    import psycopg
    from pgqueuer import Queries
    from pgqueuer.db import SyncPsycopgDriver
    from pgqueuer.queries import SyncQueries

    connection = psycopg.connect(url_in(folder), autocommit=True)
    queries = SyncQueries(SyncPsycopgDriver(connection))

    def put_many(values: Iterable[int]) -> None:
        for some in _batched(values, _BULK):
            count = len(some)
            queries.enqueue(["nothing"] * count, [str(value).encode() for value in some], [0] * count)

    pools: list[Any] = []

    async def aput(value: int) -> None:
        if not pools:
            pools.append(await asyncpg.create_pool(url_in(folder), min_size=_CALLERS, max_size=_CALLERS))
            pools.append(Queries.from_asyncpg_pool(pools[0]))
        await pools[1].enqueue("nothing", str(value).encode())

    async def aclose() -> None:
        await pools[0].close()

    return System(
        lambda value: queries.enqueue("nothing", str(value).encode()),
        put_many,
        connection.close,
        lambda sent: queries.enqueue("when", json.dumps(sent).encode()),
        aput,
        aclose,
    )


@contextlib.asynccontextmanager
async def pgqueuer_manager(folder: Path) -> AsyncIterator[Any]:
    """What its worker runs."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.models import Job

    teller = Teller(folder)
    connection = await asyncpg.connect(url_in(folder))
    manager = PgQueuer.from_asyncpg_connection(connection)

    @manager.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        teller.count()

    @manager.entrypoint("when")
    async def when(job: Job) -> None:
        teller.tell(time.monotonic() - json.loads(job.payload or b"0"))

    yield manager
    await connection.close()


def _batched(values: Iterable[int], count: int) -> Iterable[list[int]]:
    iterator = iter(values)
    while some := list(itertools.islice(iterator, count)):
        yield some


# ---------------------------------------------------------------------------------------------------------------------

_PROCRASTINATE_WORK: Final = (
    *("-m", "procrastinate", "--app", "bench.postgres_worker.procrastinate", "--log-level", "warning"),
    *("worker", "--concurrency", "10"),
)
_PGQUEUER_WORK: Final = ("-m", "bench.postgres_worker", "pgqueuer")

PROCRASTINATE: Final = Contestant(
    procrastinate_install, procrastinate, _PROCRASTINATE_WORK, [_PROCRASTINATE_WORK, _PROCRASTINATE_WORK]
)
PGQUEUER: Final = Contestant(pgqueuer_install, pgqueuer, _PGQUEUER_WORK, [_PGQUEUER_WORK, _PGQUEUER_WORK])
