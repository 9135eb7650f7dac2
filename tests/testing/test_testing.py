"""The kit for users' tests: memory for a store, jobs run inline or drained, time that is moved, and assertions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    App,
    Context,
    Discard,
    JobCancelled,
    JobFailed,
    JobState,
    NotEncodable,
    Progress,
    Retry,
    Snooze,
    clock,
    current_context,
    current_job,
    testing,
)
from penstock.engines.records import Workers
from penstock.engines.requests import Pause

entered: list[str] = []
who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@contextlib.contextmanager
def around() -> Iterator[None]:
    entered.append("in")
    token = who.set("the app")
    try:
        yield
    finally:
        who.reset(token)
        entered.append("out")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path}/never-made.db", name="shop")


@pytest.fixture
def seen() -> list[Any]:
    return []


# A store in memory


def test_in_the_block_nothing_touches_the_store_of_the_app(app: App, tmp_path: Path) -> None:
    @app.task
    def pack(order: int) -> str:
        return f"order {order}"

    with testing.in_memory(app):
        handle = pack.enqueue(7)
        assert handle.state is JobState.READY
    assert not any(tmp_path.iterdir())


def test_each_block_begins_with_an_empty_store(app: App) -> None:
    @app.task
    def pack() -> None: ...

    for _ in range(2):
        with testing.in_memory(app):
            assert testing.enqueued(app) == []
            pack.enqueue()


def test_after_the_block_the_app_has_its_own_store_and_the_clock_is_back(app: App) -> None:
    before, wall = app.store, clock.wall
    with testing.in_memory(app):
        assert app.store is not before
    assert app.store is before
    assert clock.wall is wall
    app.close()


def test_blocks_can_stand_in_one_another(app: App) -> None:
    @app.task
    def pack() -> None: ...

    with testing.in_memory(app):
        pack.enqueue()
        with testing.inline(app):
            assert pack.enqueue().state is JobState.DONE
        assert [job.state for job in testing.enqueued(app)] == [JobState.READY]


# Running what waits


def test_what_waits_is_run_in_this_thread_and_the_handles_have_their_results(app: App, seen: list[Any]) -> None:
    @app.task
    def pack(order: int) -> str:
        seen.append(threading.current_thread())
        return f"order {order}"

    with testing.in_memory(app):
        handles = [pack.enqueue(n) for n in range(3)]
        assert testing.run_all(app) == handles
        assert [handle.result(0) for handle in handles] == ["order 0", "order 1", "order 2"]
    assert set(seen) == {threading.current_thread()}


def test_jobs_run_by_priority_and_so_do_those_that_they_enqueue(app: App, seen: list[Any]) -> None:
    @app.task
    def child(name: str) -> None:
        seen.append(name)

    @app.task
    def parent() -> None:
        seen.append("parent")
        child.options(priority=9).enqueue("of the parent")

    with testing.in_memory(app):
        parent.enqueue()
        child.enqueue("later")
        child.options(priority=1).enqueue("first")
        assert len(testing.run_all(app)) == 4
    assert seen == ["first", "parent", "of the parent", "later"]


def test_a_failure_stays_in_its_handle(app: App) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("an empty parcel")

    with testing.in_memory(app):
        handle = fail.enqueue()
        testing.run_all(app)
        with pytest.raises(JobFailed, match="ValueError: an empty parcel") as told:
            handle.result()
    assert "in fail" in told.value.traceback


def test_retries_come_at_their_time_without_anybody_waiting(app: App, seen: list[Any]) -> None:
    @app.task(retry=Retry(3, wait=3600, max_wait=86400, jitter=0))
    def flaky() -> str:
        job = current_job()
        assert job is not None
        seen.append((job.attempt, time_now()))
        if job.attempt < 3:
            raise OSError("not yet")
        return "at last"

    with testing.in_memory(app) as time_now:
        start, began = time_now(), time.monotonic()
        handle = flaky.enqueue()
        testing.run_all(app)
        assert handle.result() == "at last"
    assert [(number, round(at - start)) for number, at in seen] == [(1, 0), (2, 3600), (3, 3600 + 7200)]
    assert time.monotonic() - began < 60


def test_a_retry_that_would_come_too_late_does_not_come(app: App, seen: list[Any]) -> None:
    @app.task(retry=Retry(5, wait=60, jitter=0, max_elapsed=100))
    def flaky() -> None:
        seen.append("tried")
        raise OSError

    with testing.in_memory(app):
        handle = flaky.enqueue()
        testing.run_all(app)
        assert handle.state is JobState.FAILED
    assert seen == ["tried", "tried"]


def test_what_can_not_be_coded_is_not_tried_again(app: App, seen: list[Any]) -> None:
    @app.task(retry=Retry(5))
    def wrong() -> int:
        seen.append("tried")
        return "no number"  # type: ignore[return-value]

    with testing.in_memory(app):
        handle = wrong.enqueue()
        testing.run_all(app)
        with pytest.raises(JobFailed, match=r"NotEncodable: .*its result is not what its annotation promises"):
            handle.result()
    assert seen == ["tried"]


def test_delayed_jobs_run_in_the_order_of_their_time(app: App, seen: list[Any]) -> None:
    @app.task
    def note(name: str) -> None:
        seen.append((name, round(time_now() - start)))

    with testing.in_memory(app) as time_now:
        start = time_now()
        note.options(delay=datetime.timedelta(days=2)).enqueue("in two days")
        note.options(at=time_now.now + datetime.timedelta(days=1)).enqueue("tomorrow")
        note.enqueue("now")
        testing.run_all(app)
    assert seen == [("now", 0), ("tomorrow", 86400), ("in two days", 2 * 86400)]


def test_time_that_is_moved_by_hand_lets_delayed_jobs_be_ready(app: App) -> None:
    @app.task
    def pack() -> None: ...

    with testing.in_memory(app) as time_now:
        handle = pack.options(delay=90).enqueue()
        time_now.advance(89)
        assert testing.enqueued(app)[0].delay == pytest.approx(90)
        assert handle.state is JobState.SCHEDULED
        pack.options(at=time_now.now).enqueue()
        assert testing.enqueued(app)[1].state is JobState.READY


def test_a_task_may_snooze_and_that_costs_no_attempt(app: App, seen: list[Any]) -> None:
    @app.task
    def wait_for_it() -> str:
        seen.append(current_job().attempt)  # type: ignore[union-attr]
        if len(seen) < 3:
            raise Snooze(3600)
        return "there it is"

    with testing.in_memory(app):
        handle = wait_for_it.enqueue()
        testing.run_all(app)
        assert handle.result() == "there it is"
    assert seen == [1, 1, 1]


def test_a_coroutine_may_snooze_and_discard_itself_too(app: App, seen: list[Any]) -> None:
    @app.task
    async def wait_for_it() -> None:
        seen.append("looked")
        if len(seen) < 3:
            raise Snooze(3600)
        raise Discard("it never came")

    with testing.in_memory(app):
        handle = wait_for_it.enqueue()
        testing.run_all(app)
        with pytest.raises(JobCancelled, match="it never came"):
            handle.result()
    assert len(seen) == 3


def test_a_task_may_cancel_itself(app: App) -> None:
    @app.task
    def pack() -> None:
        job = current_job()
        assert job is not None
        job.context.cancel("it was sold")
        job.context.check()

    with testing.in_memory(app):
        handle = pack.enqueue()
        testing.run_all(app)
        with pytest.raises(JobCancelled, match="it was sold") as told:
            handle.result()
        assert told.value.started


def test_a_task_may_discard_itself(app: App) -> None:
    @app.task(retry=Retry(3))
    def pack() -> None:
        raise Discard("the order was cancelled")

    with testing.in_memory(app):
        handle = pack.enqueue()
        testing.run_all(app)
        with pytest.raises(JobCancelled, match="the order was cancelled"):
            handle.result()


def test_a_job_that_overruns_its_time_fails(app: App) -> None:
    @app.task(timeout=0.01)
    def slow() -> None:
        current_context().sleep(60)

    @app.task(timeout=0.01)
    async def aslow() -> None:
        await asyncio.sleep(60)

    with testing.in_memory(app):
        handles = [slow.enqueue(), aslow.enqueue()]
        testing.run_all(app)
        for handle in handles:
            with pytest.raises(JobFailed, match="DeadlineExceeded"):
                handle.result()


def test_a_running_job_knows_what_it_would_know_in_a_service(app: App) -> None:
    @app.task(name="shop.pack")
    def pack() -> list[Any]:
        job = current_job()
        assert job is not None
        job.progress(3, 10, "packing")
        return [job.id, job.name, job.attempt, job.token]

    with testing.in_memory(app):
        handle = pack.enqueue()
        testing.run_all(app)
        assert handle.result() == [handle.id, "shop.pack", 1, 1]
        assert handle.progress == Progress(3, 10, "packing")


def test_a_job_runs_in_what_the_app_has_around_it() -> None:
    app = App("memory://", around=around)

    @app.task
    def pack() -> str:
        return who.get()

    @app.task
    async def apack() -> str:
        return who.get()

    entered.clear()
    with testing.inline(app):
        assert pack.enqueue().result() == apack.enqueue().result() == "the app"
    assert entered == ["in", "out"] * 2


def test_coroutines_and_tasks_for_processes_run_here_too(app: App) -> None:
    @app.task
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        return url

    @app.task(process=True)
    def crunch(number: int) -> int:
        return number + 1

    with testing.in_memory(app):
        fetched, crunched = fetch.enqueue("a"), crunch.enqueue(1)
        testing.run_all(app)
        assert (fetched.result(), crunched.result()) == ("a", 2)


def test_a_paused_queue_is_left_alone(app: App) -> None:
    @app.task
    def pack() -> None: ...

    with testing.in_memory(app):
        app.store.ask(Pause("default"))
        handle = pack.enqueue()
        assert testing.run_all(app) == []
        app.store.ask(Pause("default", paused=False))
        assert testing.run_all(app) == [handle]


def test_a_task_that_enqueues_itself_does_not_run_for_ever(app: App) -> None:
    @app.task
    def again() -> None:
        again.enqueue()

    with testing.in_memory(app):
        again.enqueue()
        with pytest.raises(RuntimeError, match="20 attempts were run, and there are still more"):
            testing.run_all(app, limit=20)


def test_nothing_to_do_is_no_mistake_and_leaves_no_worker_behind(app: App) -> None:
    with testing.in_memory(app):
        assert testing.run_all(app) == []
        assert app.store.find(Workers()) == []


def test_a_store_with_a_clock_of_its_own_is_drained_of_what_is_due() -> None:
    with App("memory://") as app:

        @app.task
        def pack() -> None: ...

        now, later = pack.enqueue(), pack.options(delay=3600).enqueue()

        assert testing.run_all(app) == [now]
        assert later.state is JobState.SCHEDULED


def test_jobs_of_tasks_that_the_app_does_not_know_are_left(app: App) -> None:
    other = App("memory://")

    @other.task(name="elsewhere")
    def elsewhere() -> None: ...

    with testing.in_memory(app):
        with other.kept_in(app.store):
            elsewhere.enqueue()
        assert testing.run_all(app) == []
        assert testing.enqueued(app) == []


# Inline


def test_inline_a_job_has_run_when_enqueue_returns(app: App, seen: list[Any]) -> None:
    @app.task
    def pack(order: int) -> str:
        seen.append(threading.current_thread())
        return f"order {order}"

    with testing.inline(app):
        assert pack.enqueue(7).result(0) == "order 7"
        assert [handle.result(0) for handle in pack.enqueue_many([(1,), {"order": 2}])] == ["order 1", "order 2"]
    assert set(seen) == {threading.current_thread()}


def test_inline_arguments_travel_as_they_always_do(app: App, seen: list[Any]) -> None:
    @app.task
    def keep(items: list[int]) -> None:
        seen.append(items)

    mine = [1, 2]
    with testing.inline(app):
        keep.enqueue(mine)
        with pytest.raises(NotEncodable):
            keep.enqueue(["a"])  # type: ignore[list-item]
    assert seen == [mine]
    assert seen[0] is not mine


def test_inline_a_failure_stays_in_the_handle_after_all_its_attempts(app: App, seen: list[Any]) -> None:
    @app.task(retry=Retry(3, wait=3600))
    def fail() -> None:
        seen.append("tried")
        raise ValueError("an empty parcel")

    with testing.inline(app):
        handle = fail.enqueue()
        assert handle.state is JobState.FAILED
        assert isinstance(handle.exception(), JobFailed)
    assert len(seen) == 3


def test_inline_a_job_may_enqueue_others_and_wait_for_them(app: App) -> None:
    @app.task
    def half(number: int) -> int:
        return number // 2

    @app.task
    def both(number: int) -> int:
        return half.enqueue(number).result(0) + half.enqueue(number).result(0)

    with testing.inline(app):
        assert both.enqueue(8).result(0) == 8


def test_inline_a_delayed_job_waits_for_its_time(app: App) -> None:
    @app.task
    def pack() -> None: ...

    with testing.inline(app) as time_now:
        handle = pack.options(delay=3600).enqueue()
        assert not handle.done()
        before = time_now()
        testing.run_all(app)
        assert handle.state is JobState.DONE
        assert time_now() - before == pytest.approx(3600, abs=1)


def test_a_job_has_nothing_of_the_context_in_which_a_test_runs_it(app: App) -> None:
    @app.task
    def pack() -> list[Any]:
        context = current_context()
        return [context.value("user"), context.deadline]

    with testing.inline(app), Context(timeout=60, values={"user": 7}):
        assert pack.enqueue().result() == [None, None]


def test_inline_the_same_id_again_does_not_run_again(app: App, seen: list[Any]) -> None:
    @app.task
    def pack() -> None:
        seen.append("packed")

    with testing.inline(app):
        assert pack.options(id="order 7").enqueue() == pack.options(id="order 7").enqueue()
    assert seen == ["packed"]


def test_inline_in_a_loop_coroutines_run_on_it_and_functions_on_a_thread(app: App, seen: list[Any]) -> None:
    @app.task
    async def fetch() -> None:
        seen.append(asyncio.get_running_loop())

    @app.task
    def pack() -> int:
        return asyncio.run(asyncio.sleep(0, 7))  # as a worker's thread may, where no loop runs

    async def main() -> None:
        await fetch.aenqueue()
        assert seen == [asyncio.get_running_loop()]
        fetch.enqueue()
        assert seen[1] is not seen[0]
        assert await (await pack.aenqueue()) == 7
        assert pack.enqueue().result(0) == 7
        assert len(await fetch.aenqueue_many([(), ()])) == 2

    with testing.inline(app):
        asyncio.run(main())
    assert len(seen) == 4


# What was enqueued


def test_what_was_enqueued_is_shown_as_the_function_will_get_it(app: App) -> None:
    @app.task(name="shop.pack", priority=1)
    def pack(order: int, *items: str, gift: bool = False) -> None: ...

    @app.task(name="shop.weigh")
    def weigh(order: int) -> None: ...

    with testing.in_memory(app):
        handle = pack.options(queue="night", delay=60, headers={"trace": "1"}).enqueue(7, "lamp", "rug")
        weigh.enqueue(order=7)
        first, second = testing.enqueued(app)
        assert testing.enqueued(app, weigh) == [second]

    assert (first.task, first.id, first.handle) == (pack, handle.id, handle)
    assert (first.args, first.kwargs) == ((7, "lamp", "rug"), {"gift": False})
    assert first.arguments == {"order": 7, "items": ("lamp", "rug"), "gift": False}
    assert (first.queue, first.priority, first.delay, first.headers) == ("night", 1, 60, {"trace": "1"})
    assert first.state is JobState.SCHEDULED
    assert str(second) == "shop.weigh(order=7), ready"


def test_more_than_a_page_of_jobs_is_shown_in_the_order_of_enqueuing(app: App) -> None:
    @app.task
    def note(number: int) -> None: ...

    with testing.in_memory(app):
        note.enqueue_many((n,) for n in range(2_500))
        assert [job.args for job in testing.enqueued(app)] == [(n,) for n in range(2_500)]


def test_a_job_is_found_however_its_arguments_were_given(app: App) -> None:
    @app.task(name="shop.pack")
    def pack(order: int, gift: bool = False) -> None: ...

    with testing.in_memory(app):
        handle = pack.enqueue(7)
        assert testing.assert_enqueued(pack, 7).handle == handle
        assert testing.assert_enqueued(pack, order=7, gift=False).handle == handle


def test_a_job_that_was_not_enqueued_is_told_with_those_that_were(app: App) -> None:
    @app.task(name="shop.pack")
    def pack(order: int, gift: bool = False) -> None: ...

    with testing.in_memory(app):
        with pytest.raises(AssertionError, match=r"shop.pack\(order=7, gift=True\) was not enqueued; .* none at all$"):
            testing.assert_enqueued(pack, 7, gift=True)
        pack.enqueue(7)
        with pytest.raises(
            AssertionError, match=r"(?s)was not enqueued; .*\n  shop.pack\(order=7, gift=False\), ready$"
        ):
            testing.assert_enqueued(pack, 7, gift=True)
        with pytest.raises(TypeError):
            testing.assert_enqueued(pack, "7")  # type: ignore[arg-type]


# Time


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    fake = testing.FakeClock(1_772_280_000)

    assert (fake(), fake()) == (1_772_280_000, 1_772_280_000)
    fake.advance(1.5)
    fake.advance(datetime.timedelta(minutes=1))

    assert fake() == 1_772_280_061.5
    assert fake.now == datetime.datetime(2026, 2, 28, 12, 1, 1, 500_000, tzinfo=datetime.UTC)
    assert repr(fake) == "<FakeClock 2026-02-28T12:01:01.500000+00:00>"


@pytest.mark.parametrize("seconds", [-1, None, "5", float("nan")])
def test_a_fake_clock_does_not_go_back(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        testing.FakeClock().advance(seconds)


def test_a_clock_that_is_given_is_used(app: App) -> None:
    fake = testing.FakeClock(1_772_280_000)

    @app.task
    def pack() -> None: ...

    with testing.in_memory(app, fake) as used:
        assert used is fake
        assert pack.enqueue().record.enqueued == 1_772_280_000
    with testing.inline(app, fake) as used:
        assert used is fake
