"""`around=` in Flask and in Django: each job has what a request has, and gives it back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from flask import Flask, current_app, g

from examples import around_django, around_flask
from penstock import ThreadPool
from tests.gates import GUARD

ROOT = Path(__file__).parents[2]
PROCESS_GUARD = 30.0  # seconds for what takes one, on a machine that is busy with something else


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = around_flask.create_app(tmp_path / "stock.sqlite")
    yield app
    app.extensions["penstock"].shutdown()


@pytest.fixture
def pool(app: Flask) -> ThreadPool:
    pool = app.extensions["penstock"]
    assert isinstance(pool, ThreadPool)
    return pool


def test_a_job_that_a_view_submits_uses_the_app_and_its_database(app: Flask, pool: ThreadPool) -> None:
    with app.test_client() as client:
        answers = [client.post("/orders/lamp").status_code for _ in range(5)]
    pool.close()
    report = pool.wait()

    assert answers == [202] * 5
    assert report.done == 5, pool.failures
    with app.app_context():
        assert around_flask.pieces("lamp") == 995


def test_a_view_refuses_what_there_is_nothing_of(app: Flask) -> None:
    assert app.test_client().post("/orders/unicorn").status_code == 404


def test_a_view_answers_503_when_the_pool_takes_no_more_jobs(app: Flask, pool: ThreadPool) -> None:
    pool.close()

    answer = app.test_client().post("/orders/lamp")

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


def test_a_job_that_nothing_of_flask_submits_has_an_app_too(app: Flask, pool: ThreadPool) -> None:
    assert pool.submit(lambda: current_app.name).result(GUARD) == app.name


@pytest.mark.parametrize("with_around", [True, False], ids=["with around", "without"])
def test_only_with_around_a_job_has_a_g_of_its_own(app: Flask, with_around: bool) -> None:
    with app.app_context(), ThreadPool(1, around=app.app_context if with_around else None) as pool:
        g.opened_by = "a view"

        leaked = pool.submit(lambda: "opened_by" in g).result(GUARD)

    assert leaked is not with_around


def test_flask_tears_the_context_of_each_job_down_and_is_told_its_error(app: Flask, pool: ThreadPool) -> None:
    torn_down: list[BaseException | None] = []

    @app.teardown_appcontext
    def note(error: BaseException | None) -> None:
        torn_down.append(error)

    one, other = pool.submit(around_flask.pack, "lamp"), pool.submit(around_flask.pack, ["not a name"])  # type: ignore[arg-type]
    pool.close()
    pool.wait()

    assert one.exception() is None
    assert other.exception() is not None
    assert sorted(torn_down, key=str) == sorted([None, other.exception()], key=str)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> None:
    around_django.set_up(tmp_path_factory.mktemp("django") / "orders.sqlite")


def pack_and_show_connection() -> Any:
    """Use the database of this worker thread, and give its handle: the open connection is inside."""
    around_django.pack("lamp")
    handle = connections["default"]
    assert handle.connection is not None
    return handle


@pytest.mark.usefixtures("database")
def test_after_each_job_its_django_connection_is_closed() -> None:
    with ThreadPool(1, around=around_django.fresh_connections) as pool:
        job = pool.submit(pack_and_show_connection)

    assert job.result().connection is None


@pytest.mark.usefixtures("database")
def test_the_django_connection_of_a_failed_job_is_closed_too() -> None:
    handles = []

    def fail() -> None:
        handles.append(pack_and_show_connection())
        raise ZeroDivisionError

    with ThreadPool(1, around=around_django.fresh_connections) as pool:
        job = pool.submit(fail)

    assert isinstance(job.exception(), ZeroDivisionError)
    assert handles[0].connection is None


@pytest.mark.usefixtures("database")
def test_without_around_a_django_connection_stays_open() -> None:
    with ThreadPool(1) as pool:
        handle = pool.submit(pack_and_show_connection).result(GUARD)
        stayed_open = handle.connection is not None
        pool.submit(connections.close_all).result(GUARD)

    assert stayed_open


@pytest.mark.usefixtures("database")
def test_a_job_does_not_get_an_old_django_connection() -> None:
    def is_connected() -> bool:
        return connections["default"].connection is not None

    # The initializer runs once, before any job: it stands for whatever left a connection open on this thread.
    with ThreadPool(1, initializer=pack_and_show_connection, around=around_django.fresh_connections) as pool:
        connected = pool.submit(is_connected).result(GUARD)

    assert not connected


def test_the_django_example_runs() -> None:
    ran = subprocess.run(
        [sys.executable, "examples/around_django.py"], cwd=ROOT, capture_output=True, text=True, timeout=PROCESS_GUARD
    )

    assert ran.stdout == "lamps packed: 10\n", ran.stderr
