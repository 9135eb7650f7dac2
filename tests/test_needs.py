"""A test that can't run says so, and fails where all that it needs was meant to be there."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from tests import pgbouncer, postgres
from tests.needs import needed, needed_pgbouncer, needed_postgres
from tests.postgres import Postgres


def test_what_is_there_is_given() -> None:
    assert needed("json") is json


def test_what_is_missing_skips_the_tests_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no_such_module is not installed; `make venv` does that"):
        needed("no_such_module")


def test_what_is_missing_fails_them_where_ci_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ImportError):
        needed("no_such_module")


def test_where_there_is_no_postgresql_the_tests_that_need_it_are_skipped(
    no_postgresql: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="PostgreSQL is not installed; `make test` as root does that"):
        needed_postgres()


def test_where_ci_runs_they_fail(no_postgresql: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(postgres.NoPostgres):
        needed_postgres()


def test_where_there_is_no_pooler_the_tests_that_need_it_are_skipped_and_fail_where_ci_runs(
    postgres: Postgres, no_pgbouncer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="PgBouncer is not installed; `make test` as root does that"):
        needed_pgbouncer()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pgbouncer.NoPgBouncer):
        needed_pgbouncer()


@pytest.fixture
def no_pgbouncer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.needs.shared_pooler", lambda: pgbouncer.PgBouncer(0))
    monkeypatch.setattr("shutil.which", lambda *args, **options: None)


@pytest.fixture
def no_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> NoReturn:
        raise postgres.NoPostgres

    needed("psycopg")
    monkeypatch.setattr("tests.needs.shared", postgres.Postgres)  # none that runs already
    monkeypatch.setattr(postgres, "programs", none)
