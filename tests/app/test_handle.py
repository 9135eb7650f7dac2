"""What a handle tells of a durable job, and what it can do to it."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from typing import Any

import pytest

from penstock import (
    AnyJob,
    App,
    Handle,
    JobCancelled,
    JobFailed,
    JobState,
    JobUnknown,
    NotDecodable,
    Progress,
    Task,
    ThreadPool,
)
from penstock.engines.requests import Outcome
from tests.app.service import Service
from tests.gates import GUARD


@pytest.fixture
def pack(app: App) -> Task[[int], str]:
    @app.task(name="shop.pack")
    def pack(order: int) -> str:
        if order < 0:
            raise ValueError("no such order")
        return f"order {order} is packed"

    return pack


@pytest.fixture
def service(app: App, pack: Task[[int], str]) -> Service:
    return Service(app)


def test_a_job_that_is_done_has_its_result(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    assert (handle.state, handle.done()) == (JobState.READY, False)

    service.do()

    assert (handle.state, handle.done()) == (JobState.DONE, True)
    assert handle.result() == "order 7 is packed"
    assert handle.exception() is None


def test_a_result_has_the_type_that_the_task_returns(app: App) -> None:
    @app.task
    def sizes() -> set[tuple[int, bytes]]:
        return {(1, b"a")}

    handle = sizes.enqueue()
    Service(app).do()

    assert handle.result() == {(1, b"a")}
    assert app.handle(handle.id).result() == {(1, b"a")}


def test_a_result_of_a_task_that_is_not_known_here_is_what_json_has(app: App, pack: Task[[int], str]) -> None:
    handle = pack.enqueue(7)
    Service(app).do()

    elsewhere = App("memory://")
    with elsewhere.kept_in(app.store):
        assert elsewhere.handle(handle.id).result() == "order 7 is packed"


def test_a_failed_job_tells_in_words_what_it_raised(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(-1)
    service.do()

    with pytest.raises(JobFailed, match=rf"job {handle.id} \(shop.pack\) failed: ValueError: no such order") as told:
        handle.result()
    assert (told.value.type, told.value.message) == ("ValueError", "no such order")
    assert told.value.traceback == "Traceback of the worker\n"
    assert "Traceback of the worker" in "".join(traceback.format_exception(told.value))
    assert isinstance(handle.exception(), JobFailed)
    assert handle.state is JobState.FAILED
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_a_job_that_was_cancelled_while_it_waited_will_not_run(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)

    assert handle.cancel("nobody wants it") is True
    assert handle.cancel() is True

    assert handle.state is JobState.CANCELLED
    with pytest.raises(JobCancelled, match="was cancelled: nobody wants it") as told:
        handle.result()
    assert told.value.started is False
    with pytest.raises(JobCancelled):
        handle.exception()


def test_a_running_job_is_asked_to_end(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    job = service.claim()
    assert handle.state is JobState.RUNNING

    assert handle.cancel("nobody wants it") is False
    assert handle.record.cancelling
    service.settle(job, Outcome.CANCELLED)

    error = handle.exception()
    assert isinstance(error, JobCancelled)
    assert (error.reason, error.started) == ("nobody wants it", True)
    with pytest.raises(JobCancelled, match="was cancelled while it ran"):
        handle.result()
    assert handle.cancel() is False


def test_a_job_that_has_ended_is_not_cancelled(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    service.do()

    assert handle.cancel() is False
    assert handle.result() == "order 7 is packed"


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_job_that_ended_badly_can_run_again(pack: Task[[int], str], service: Service, how: str) -> None:
    handle = pack.enqueue(-1)
    if how == "failed":
        service.do()
    else:
        handle.cancel()

    assert handle.retry() is True
    assert handle.state is JobState.READY


def test_a_job_that_did_not_end_badly_does_not_run_again(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    assert handle.retry() is False
    service.do()
    assert handle.retry() is False
    assert handle.state is JobState.DONE


def test_a_running_job_can_tell_how_far_it_is(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    job = service.claim()
    assert handle.progress is None

    service.progress(job, 3, 10, "packing")

    assert handle.progress == Progress(3, 10, "packing")


def test_the_record_has_all_that_the_store_knows(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    assert handle.record.args == b'{"order":7}'
    assert asyncio.run(handle.arecord()).id == handle.id


def test_a_job_that_nobody_knows_is_told_whatever_is_asked(app: App) -> None:
    handle = app.handle("0190")
    asked: list[Any] = [
        lambda: handle.state,
        lambda: handle.record,
        lambda: handle.progress,
        handle.done,
        handle.result,
        handle.exception,
        handle.cancel,
        handle.retry,
        lambda: asyncio.run(handle.aresult()),
        lambda: asyncio.run(handle.aexception()),
        lambda: asyncio.run(handle.acancel()),
        lambda: asyncio.run(handle.aretry()),
        lambda: asyncio.run(handle.arecord()),
    ]
    for ask in asked:
        with pytest.raises(JobUnknown, match="the store has no job 0190"):
            ask()


def test_a_result_that_does_not_fit_its_task_any_more_is_told(app: App, pack: Task[[int], str]) -> None:
    handle = pack.enqueue(7)
    service = Service(app)
    service.settle(service.claim(), Outcome.DONE, result=b"[1]")

    with pytest.raises(NotDecodable, match="the stored result is not what it returns now"):
        handle.result()


def test_handles_of_one_job_are_equal(app: App, pack: Task[[int], str]) -> None:
    handle = pack.enqueue(7)

    assert handle == app.handle(handle.id)
    assert handle != pack.enqueue(7)
    assert handle != handle.id
    assert handle != App("memory://").handle(handle.id)
    assert repr(handle) == f"<Handle {handle.id} of shop.pack>"


# From coroutines


def test_a_handle_can_be_awaited(pack: Task[[int], str], service: Service) -> None:
    async def main() -> None:
        handle = await pack.aenqueue(7)
        failing = await pack.aenqueue(-1)
        service.do()
        service.do()
        assert await handle == "order 7 is packed"
        assert await handle.aresult(GUARD) == "order 7 is packed"
        assert await handle.aexception() is None
        with pytest.raises(JobFailed):
            await failing
        assert isinstance(await failing.aexception(), JobFailed)
        assert await failing.aretry() is True
        assert await failing.acancel("enough") is True
        assert await failing.acancel() is True
        assert await failing.aretry() is True
        assert await handle.aretry() is False

    asyncio.run(main())


def test_a_job_of_a_pool_and_a_handle_answer_to_the_same_words(pack: Task[[int], str], service: Service) -> None:
    def ask(job: AnyJob[str]) -> Any:
        return job.done(), job.result(GUARD), job.exception(GUARD), job.state, job.cancel("too late")

    handle: Handle[str] = pack.enqueue(7)
    service.do()
    with ThreadPool(1) as pool:
        job = pool.submit(pack, 7)
    assert ask(handle) == ask(job) == (True, "order 7 is packed", None, JobState.DONE, False)
