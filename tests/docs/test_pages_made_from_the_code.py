"""What the docs hold that is made from the code says what the code says now."""

from __future__ import annotations

import inspect
from pathlib import Path

import penstock
from docs import make_reference
from penstock import errors
from tests.docs.pages import read

STALE = "run `make docs`"


def test_the_reference_says_what_the_docstrings_say() -> None:
    assert read(Path("docs/reference.md")) == make_reference.reference(), STALE


def test_the_picture_of_a_jobs_life_shows_the_table_of_moves() -> None:
    page = read(Path("docs/jobs.md"))
    assert page == make_reference.with_part(page, "moves", make_reference.moves()), STALE


def test_every_public_name_has_a_place_in_the_reference() -> None:
    headings = [line[4:] for line in read(Path("docs/reference.md")).splitlines() if line.startswith("### ")]
    missing = set(penstock.__all__) - set(headings)
    assert not missing
    assert len(headings) == len(set(headings)), "a name stands twice"


def test_every_method_of_a_public_class_is_in_the_reference_or_listed_as_not_promised() -> None:
    page = read(Path("docs/reference.md"))
    for name in penstock.__all__:
        cls = getattr(penstock, name)
        if not inspect.isclass(cls) or issubclass(cls, BaseException) or issubclass(cls, penstock.JobState):
            continue
        hidden = make_reference.NOT_PROMISED.get(name, frozenset())
        for method, value in inspect.getmembers(cls):
            if method.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)):
                continue
            is_there = f"#### {name}.{method}" in page
            assert is_there != (method in hidden), f"{name}.{method}"


def test_what_is_listed_as_not_promised_exists() -> None:
    for name, methods in make_reference.NOT_PROMISED.items():
        assert not {method for method in methods if not hasattr(getattr(penstock, name), method)}


def test_the_page_on_errors_has_a_row_for_every_error() -> None:
    page = read(Path("docs/errors.md"))
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__:
            assert f"| `{name}` |" in page, name


def test_the_page_on_jobs_explains_every_state() -> None:
    page = read(Path("docs/jobs.md"))
    for state in penstock.JobState:
        assert f"| `{state}` |" in page, state
