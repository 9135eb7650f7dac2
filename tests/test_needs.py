"""A test that can't run says so, and fails where all that it needs was meant to be there."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from tests import postgres
from tests.needs import needed, needed_postgres


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


@pytest.fixture
def no_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> NoReturn:
        raise postgres.NoPostgres

    needed("psycopg")
    monkeypatch.setattr("tests.needs.shared", postgres.Postgres)  # none that runs already
    monkeypatch.setattr(postgres, "programs", none)
