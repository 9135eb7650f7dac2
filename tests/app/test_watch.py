"""Waiting for durable jobs: who is woken, when, and by whom."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import App, Cancelled, Context, Handle, JobUnknown, StoreInvalid, StoreUnavailable, Task, ThreadPool
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import ByIds, States
from penstock.engines.store import Store
from tests.app.service import Service
from tests.gates import GUARD, in_thread


class Counting(MemoryEngine):
    """Counts what is asked, and tells when a wait has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []  # ids in each question for states
        self.moved = threading.Condition()
        self.error: Exception | None = None
        self.hints = True

    def find(self, query: Any, within: float = 10.0) -> Any:
        if isinstance(query, States | ByIds) and self.error is not None:
            raise self.error
        if isinstance(query, States):
            with self.moved:
                self.looks.append(len(query.ids))
                self.moved.notify_all()
        return super().find(query, within)

    def wait(self, bell: Any, timeout: float) -> None:
        if self.hints:
            super().wait(bell, timeout)
        else:
            bell.wait(timeout)  # no news from anywhere

    def wait_looked(self, times: int = 1, ids: int = 1) -> None:
        """Return once there were so many questions for so many ids."""
        with self.moved:
            assert self.moved.wait_for(lambda: sum(look == ids for look in self.looks) >= times, GUARD), self.looks


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
def app(engine: Counting) -> Iterator[App]:
    made = App("memory://", name="shop")
    store = Store(lambda: engine)
    with made.kept_in(store):
        yield made
    store.close()


@pytest.fixture
def pack(app: App) -> Task[[int], str]:
    @app.task(name="shop.pack")
    def pack(order: int) -> str:
        return f"order {order}"

    return pack


@pytest.fixture
def service(app: App, pack: Task[[int], str]) -> Service:
    return Service(app)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "penstock-watch"]


def join_watchers() -> None:
    for thread in watchers():
        thread.join(GUARD)
    assert not watchers()


# Who is woken


def test_a_thread_that_waits_is_woken_when_the_job_ends(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()
    assert not waiting.done()

    service.do()

    assert waiting.result(GUARD) == "order 7"


def test_without_any_news_an_end_is_noticed_all_the_same(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    engine.hints = False
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()

    service.do()

    assert waiting.result(GUARD) == "order 7"


def test_who_comes_later_is_not_kept_waiting_for_the_next_look(
    engine: Counting, pack: Task[[int], str], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("_SHORTEST", "_LONGEST"):
        monkeypatch.setattr(f"penstock.app.watch.{pause}", 6 * GUARD)
    engine.hints = False
    ended, first = pack.enqueue(7), pack.enqueue(8)
    service.do()
    waiting = in_thread(first.result)
    engine.wait_looked()

    assert asyncio.run(ended.aresult(GUARD)) == "order 7"

    service.do()
    assert asyncio.run(first.aresult(GUARD)) == "order 8"
    assert waiting.result(GUARD) == "order 8"


def test_all_who_wait_for_one_job_are_woken_by_one_thread(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)
    waiting = [in_thread(handle.result) for _ in range(10)]
    engine.wait_looked()
    assert len(watchers()) == 1

    service.do()

    assert [future.result(GUARD) for future in waiting] == ["order 7"] * 10


def test_many_jobs_are_asked_for_in_one_question(engine: Counting, pack: Task[[int], str], service: Service) -> None:
    handles = pack.enqueue_many((n,) for n in range(50))

    async def main() -> list[str]:
        waiting = [asyncio.create_task(handle.aresult()) for handle in handles]
        await asyncio.to_thread(engine.wait_looked, 1, 50)
        for _ in handles:
            await asyncio.to_thread(service.do)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [f"order {n}" for n in range(50)]
    assert max(engine.looks) == 50


def test_threads_and_loops_can_wait_for_the_same_job(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)

    async def await_it() -> str:
        return await handle

    waiting = [in_thread(handle.result), in_thread(asyncio.run, await_it()), in_thread(asyncio.run, await_it())]
    engine.wait_looked()
    service.do()

    assert [future.result(GUARD) for future in waiting] == ["order 7"] * 3


def test_a_job_that_has_ended_needs_no_thread(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    service.do()

    assert handle.result() == "order 7"
    assert not watchers()


def test_the_thread_ends_when_nobody_waits(engine: Counting, pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    with pytest.raises(TimeoutError):
        handle.result(0)

    join_watchers()


def test_after_the_thread_has_ended_there_is_another(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    for _ in range(3):
        handle = pack.enqueue(7)
        waiting = in_thread(handle.result)
        engine.wait_looked(len(engine.looks) + 1)
        service.do()
        assert waiting.result(GUARD) == "order 7"
        join_watchers()


def test_a_job_that_is_gone_while_somebody_waits_is_told(engine: Counting, pack: Task[[int], str]) -> None:
    engine.hints = False
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()

    with engine._lock:  # as if it had ended and been pruned between two looks
        del engine._jobs[engine._by_id.pop(handle.id)]

    with pytest.raises(JobUnknown):
        waiting.result(GUARD)


# How long


def test_a_wait_that_was_too_short_is_a_timeout_and_changes_nothing(pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)

    with pytest.raises(TimeoutError, match=f"job {handle.id} has not ended within 0.01 s"):
        handle.result(0.01)
    with pytest.raises(TimeoutError, match=f"job {handle.id} has not ended within 0.01 s"):
        handle.exception(0.01)
    with pytest.raises(TimeoutError, match=f"job {handle.id} has not ended within 0.01 s"):
        asyncio.run(handle.aresult(0.01))

    service.do()
    assert handle.result() == "order 7"


def test_a_coroutine_without_patience_gets_the_result_of_a_job_that_has_ended(
    pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)
    with pytest.raises(TimeoutError):
        asyncio.run(handle.aresult(timeout=0))
    service.do()
    assert asyncio.run(handle.aresult(timeout=0)) == handle.result(timeout=0) == "order 7"
    with pytest.raises(JobUnknown):
        asyncio.run(pack.app.handle("nobody").aresult(timeout=0))


def test_a_task_that_is_cancelled_while_it_awaits_leaves_the_job_alone(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)

    async def main() -> None:
        waiting = asyncio.ensure_future(handle)
        await asyncio.to_thread(engine.wait_looked)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    join_watchers()

    service.do()
    assert handle.result() == "order 7"


def test_a_job_that_waits_for_another_stops_waiting_when_its_context_trips(
    engine: Counting, pack: Task[[int], str]
) -> None:
    handle = pack.enqueue(7)
    with ThreadPool(1) as pool:
        waiting = pool.submit(handle.result)
        engine.wait_looked()

        waiting.cancel("the user left")

        with pytest.raises(Exception, match="the user left"):
            waiting.result(GUARD)
    join_watchers()


def test_a_block_s_deadline_ends_a_wait_inside_it(pack: Task[[int], str]) -> None:
    handle = pack.enqueue(7)

    with pytest.raises(Exception, match="the block exceeded its deadline") as told, Context(timeout=0.01):
        handle.result()
    assert isinstance(told.value.__cause__, Cancelled)
    join_watchers()


# Trouble


def test_who_waits_goes_on_waiting_while_the_store_is_away(
    engine: Counting, pack: Task[[int], str], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.app.watch._LONGEST", 0.01)
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()
    engine.error = StoreUnavailable("memory://", "it is away")

    service.do()
    engine.error = None

    assert waiting.result(GUARD) == "order 7"


def test_without_a_thread_nobody_waits_in_vain_and_the_next_one_tries_again(
    engine: Counting, pack: Task[[int], str], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = pack.enqueue(1)

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            handle.result(GUARD)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            asyncio.run(handle.aresult(GUARD))

    waiting = in_thread(handle.result, GUARD)
    engine.wait_looked()
    service.do()
    assert waiting.result(GUARD) == "order 1"


def test_a_store_that_is_broken_is_told_to_who_waits(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()

    engine.error = StoreInvalid("memory://", "it is damaged")

    with pytest.raises(StoreInvalid):
        waiting.result(GUARD)
    join_watchers()


def test_closing_an_app_tells_all_who_wait(engine: Counting, pack: Task[[int], str], app: App) -> None:
    handles = pack.enqueue_many([(1,), (2,)])

    async def await_it(handle: Handle[str]) -> str:
        return await handle

    waiting = [in_thread(handles[0].result), in_thread(asyncio.run, await_it(handles[1]))]
    engine.wait_looked(ids=2)

    app.watch.close()

    for future in waiting:
        with pytest.raises(StoreUnavailable, match="it was closed here"):
            future.result(GUARD)
    assert not watchers()
    with pytest.raises(StoreUnavailable, match="it was closed here"):
        handles[0].result()


def test_a_loop_that_was_closed_meanwhile_hurts_nobody(
    engine: Counting, pack: Task[[int], str], service: Service
) -> None:
    handle = pack.enqueue(7)
    loop = asyncio.new_event_loop()
    task = loop.create_task(handle.aresult())
    loop.run_until_complete(asyncio.wait([task], timeout=0.01))  # it has begun, and waits
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def await_it() -> str:
        return await handle

    waiting = in_thread(asyncio.run, await_it())
    engine.wait_looked(2)

    service.do()

    assert waiting.result(GUARD) == "order 7"
    task.get_coro().close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_waits_by_itself(engine: Counting, pack: Task[[int], str], service: Service) -> None:
    handle = pack.enqueue(7)
    waiting = in_thread(handle.result)
    engine.wait_looked()

    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        code = 1
        try:
            # Its store starts afresh, in memory of its own; and nobody waits there.
            other = pack.enqueue(8)
            code = 0 if not pack.app.watch._watched and _times_out(other) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    service.do()
    assert waiting.result(GUARD) == "order 7"


def _times_out(handle: Handle[str]) -> bool:
    try:
        handle.result(0.01)
    except TimeoutError:
        return True
    return False
