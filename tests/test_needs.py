"""A test that can't run says so, and fails where all that it needs was meant to be there."""

from __future__ import annotations

import json

import pytest

from tests.needs import needed


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
