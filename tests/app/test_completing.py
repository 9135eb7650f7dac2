"""Jobs that are put, or end, with a transaction of their task's own: what holds whatever the database is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penstock import App, Discard, JobFailed, LeaseLost, NotCommitted, Snooze, ThreadPool, acomplete, complete, testing
from penstock.engines.memory import MemoryEngine
from penstock.engines.requests import Death, Reply, Request, Sweep
from penstock.job import JobState, current_job
from tests.needs import needed

CONNECTION = object()


class RolledBack:
    """A transaction that does what it is asked, and comes to nothing."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def transact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        return [[True] for _ in requests]

    async def atransact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        return self.transact(requests)


def own_id() -> str:
    job = current_job()
    assert job is not None
    assert job.id is not None
    return str(job.id)


def test_a_function_that_is_called_plainly_has_nothing_to_complete() -> None:
    assert complete(CONNECTION, 7) == 7
    assert asyncio.run(acomplete(CONNECTION, 7)) == 7


def test_a_job_of_a_pool_has_nothing_to_complete() -> None:
    with ThreadPool(1) as pool:
        assert pool.submit(complete, CONNECTION, 7).result() == 7


def test_a_job_is_done_as_soon_as_it_has_completed_itself(app: App) -> None:
    states: list[JobState] = []

    @app.task
    def count() -> int:
        result = complete(CONNECTION, 7)
        states.append(app.handle(own_id()).state)
        return result

    with testing.in_memory(app):
        handle = count.enqueue()
        testing.run_all(app)
        assert (states, handle.result()) == ([JobState.DONE], 7)


def test_a_coroutine_completes_itself_too(app: App) -> None:
    @app.task
    async def count() -> int:
        return await acomplete(CONNECTION, 7)

    with testing.in_memory(app):
        handle = count.enqueue()
        testing.run_all(app)
        assert handle.result() == 7


def test_what_it_completes_with_is_checked_as_what_it_returns(app: App) -> None:
    @app.task
    def count() -> int:
        complete(CONNECTION, "seven")
        return 7

    with testing.in_memory(app):
        handle = count.enqueue()
        testing.run_all(app)
        with pytest.raises(JobFailed, match="NotEncodable"):
            handle.result()


def test_a_job_that_is_somebody_elses_can_not_be_completed(app: App) -> None:
    @app.task
    def count() -> None:
        [worker] = [app.handle(own_id()).record.worker]
        assert worker is not None
        app.store.ask(Sweep([Death(worker, "it is gone", began=frozenset())]))
        with pytest.raises(LeaseLost):
            complete(CONNECTION)
        caught.append(True)

    caught: list[bool] = []
    with testing.in_memory(app):
        handle = count.enqueue()
        testing.run_all(app)
        assert (caught, handle.state) == ([True], JobState.READY)


def test_a_job_whose_transaction_was_rolled_back_is_not_done(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    def count() -> int:
        return complete(CONNECTION, 7)

    with testing.in_memory(app):
        monkeypatch.setattr(MemoryEngine, "join", lambda engine, connection: RolledBack(engine))
        handle = count.enqueue()
        testing.run_all(app)
        with pytest.raises(JobFailed) as failed:
            handle.result()
        assert failed.value.type.endswith(NotCommitted.__name__)


@pytest.mark.parametrize(("asked", "state"), [(Snooze(1.0), JobState.DONE), (Discard("paid"), JobState.CANCELLED)])
def test_a_job_that_was_rolled_back_may_ask_for_something_else(
    app: App, monkeypatch: pytest.MonkeyPatch, asked: Exception, state: JobState
) -> None:
    """As one does whose transaction met another one."""
    calls = []

    @app.task
    def count() -> int:
        calls.append(complete(CONNECTION, 7))
        if len(calls) == 1:
            raise asked
        monkeypatch.undo()
        return complete(CONNECTION, 7)

    with testing.in_memory(app):
        monkeypatch.setattr(MemoryEngine, "join", lambda engine, connection: RolledBack(engine))
        handle = count.enqueue()
        testing.run_all(app)
        assert handle.state == state
        assert handle.record.attempt == 1


def test_in_memory_an_enqueue_within_a_transaction_is_done_at_once(app: App) -> None:
    @app.task
    def count() -> None:
        raise AssertionError

    with testing.in_memory(app):
        handle = count.options(connection=CONNECTION).enqueue()
        handles = count.options(connection=CONNECTION).enqueue_many([(), ()])
        handles.append(asyncio.run(count.options(connection=CONNECTION).aenqueue()))
        assert [it.state for it in (handle, *handles)] == [JobState.READY] * 4


@pytest.mark.parametrize("enqueue", [lambda task: task.enqueue(), lambda task: task.enqueue_many([()])])
def test_a_file_of_jobs_has_no_part_in_transactions(tmp_path: Path, enqueue: Callable[..., object]) -> None:
    needed("apsw")
    with App(f"sqlite:///{tmp_path}/jobs.db") as app:

        @app.task
        def count() -> None:
            raise AssertionError

        with pytest.raises(ValueError, match="no part in your transactions"):
            enqueue(count.options(connection=CONNECTION))
