"""What some tests need and `make test` sees to: without it they are skipped, but fail where CI runs."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.pgbouncer import NoPgBouncer, PgBouncer, shared_pooler
from tests.postgres import NoPostgres, Postgres, shared


def needed(module: str) -> Any:
    """The *module*, for a test file that can't do without it."""
    if os.environ.get("CI"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed; `make venv` does that")


def needed_postgres() -> Postgres:
    """The PostgreSQL that tests share: each takes a `fresh_url` of it, and leaves it running."""
    needed("psycopg")
    with postgres_or_skip():
        return shared()


def needed_pgbouncer() -> PgBouncer:
    """The pooler before it, which tests share, too."""
    needed_postgres()
    with postgres_or_skip():
        return shared_pooler()


@contextlib.contextmanager
def postgres_or_skip() -> Iterator[None]:
    """Around what starts a PostgreSQL, or a pooler before it."""
    try:
        yield
    except (NoPostgres, NoPgBouncer) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
