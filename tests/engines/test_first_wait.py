"""What happened between somebody's last look and the first wait is not missed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.engines import connect
from penstock.engines.bell import Bell
from penstock.engines.requests import NewJob, Put
from penstock.engines.store import Store
from tests.gates import GUARD, in_thread


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    made = Store(lambda: connect(url))
    yield made
    made.close()


@contextlib.contextmanager
def new_bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def test_the_first_wait_of_a_bell_ends_at_once_so_that_its_owner_looks_again(store: Store) -> None:
    with new_bell() as bell:
        store.ask(Put([NewJob("1", "task")]))  # after the owner's last look

        in_thread(store.wait, bell, 6 * GUARD).result(GUARD)


def test_later_waits_end_with_the_news(store: Store) -> None:
    with new_bell() as bell:
        store.wait(bell, 6 * GUARD)
        waiting = in_thread(store.wait, bell, 6 * GUARD)
        store.ask(Put([NewJob("1", "task")]))
        waiting.result(GUARD)


def test_a_bell_that_was_rung_ends_a_wait_and_one_that_was_closed_rings_no_more(store: Store) -> None:
    with new_bell() as bell:
        store.wait(bell, 6 * GUARD)
        waiting = in_thread(store.wait, bell, 6 * GUARD)
        bell.ring()
        waiting.result(GUARD)
    bell.ring()
    bell.close()
    store.ask(Put([NewJob("1", "task")]))
