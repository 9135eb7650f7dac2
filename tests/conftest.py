"""What holds for every test: nothing is left running, and the accounts of every pool balance."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from penstock.pool.executor import AnyPool
from tests.needs import needed, needed_postgres, postgres_or_skip
from tests.pgbouncer import close_shared_pooler
from tests.postgres import Postgres, close_shared

LINGER = 5.0  # seconds that threads may take to end after their test; joined, not slept

# These serve the whole process and outlive any pool: the clock's thread, and the few that run users' callbacks.
LASTING = ("penstock-timers", "penstock-callbacks")

# How long an example takes says more about what else the machine does.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")


@pytest.fixture(autouse=True)
def accounts_balance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every pool that a test made, and still has, has told one outcome of each job that it accepted."""
    pools: list[weakref.ref[AnyPool]] = []  # weak: a test may be about a pool that goes away
    make = AnyPool.__init__

    @functools.wraps(make)
    def remembered(self: AnyPool, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        pools.append(weakref.ref(self))

    monkeypatch.setattr(AnyPool, "__init__", remembered)
    yield
    for report in [pool.report for ref in pools if (pool := ref())]:
        assert report.balanced, f"the accounts do not balance: {report!r}"
        unsettled = report.waiting + report.running + report.retrying
        assert not unsettled, f"all threads have ended, and {unsettled} jobs have no outcome: {report!r}"


@pytest.fixture(autouse=True)
def leaves_nothing_running(accounts_balance: None) -> Iterator[None]:
    """A test that leaves a thread or process behind fails here, by name. Stuck on purpose? Then the test frees it."""
    before = set(threading.enumerate())
    yield
    patience = time.monotonic() + LINGER
    started = [t for t in threading.enumerate() if t not in before and not t.name.startswith(LASTING)]
    for thread in started:
        thread.join(max(0.0, patience - time.monotonic()))
    left = [t.name for t in started if t.is_alive()]
    assert not left, f"threads still running: {left}"
    assert not multiprocessing.active_children(), "processes still running"


@pytest.fixture(scope="session", autouse=True)
def ends_postgres() -> Iterator[None]:
    """The server that tests share, and the pooler before it, end with the last of them."""
    yield
    close_shared_pooler()
    close_shared()


@pytest.fixture
def postgres() -> Postgres:
    """The PostgreSQL that tests share, on which a test takes a schema of its own: `fresh_url`. See `tests.postgres`."""
    return needed_postgres()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for this test alone, durable, which it may stop, kill and start."""
    needed("psycopg")
    with postgres_or_skip():
        server = Postgres(durable=True)
    with server:
        yield server


@pytest.fixture
def quiet() -> Iterator[None]:
    """Thousands of lives would say thousands of things."""
    log = logging.getLogger("penstock")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(before)
