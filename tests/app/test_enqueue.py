"""Enqueuing: what is kept of a job, and what is told when it isn't accepted."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import os
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock import App, EnqueuedInPart, JobState, NotEncodable, OutcomeUnknown, StoreUnavailable, Task
from penstock.app.codec.codec import decode_headers
from penstock.app.ids import new_id, new_ids
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import Record, Search
from penstock.engines.requests import Put
from penstock.engines.store import Store


@pytest.fixture
def pack(app: App) -> Task[[int, bool], str]:
    @app.task(name="shop.pack", queue="parcels", priority=2)
    def pack(order: int, gift: bool = False) -> str:
        return f"order {order}"

    return pack


def waiting(app: App) -> list[Record]:
    return app.store.find(Search(limit=10_000))[::-1]


# One


def test_an_enqueued_job_waits_in_the_store(app: App, pack: Task[..., str]) -> None:
    handle = pack.enqueue(7, gift=True)

    (record,) = waiting(app)
    assert record.id == handle.id
    assert record.state is JobState.READY
    assert (record.task, record.queue, record.priority) == ("shop.pack", "parcels", 2)
    assert record.args == b'{"order":7,"gift":true}'
    assert record.headers is None


def test_wrong_arguments_are_refused_when_they_are_enqueued(app: App, pack: Task[..., str]) -> None:
    with pytest.raises(NotEncodable, match=r"shop.pack: Expected `int`, got `str` - at `\$.order`"):
        pack.enqueue("7")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'order'"):
        pack.enqueue()
    assert not waiting(app)


def test_options_change_what_is_asked_for_and_nothing_else(app: App, pack: Task[..., str]) -> None:
    pack.options(queue="night", priority=-1, headers={"trace": "1"}).enqueue(7)
    pack.enqueue(8)

    first, second = waiting(app)
    assert (first.queue, first.priority, decode_headers(first.headers)) == ("night", -1, {"trace": "1"})
    assert (second.queue, second.priority, second.headers) == ("parcels", 2, None)


def test_options_of_a_view_go_on_from_there(app: App, pack: Task[..., str]) -> None:
    pack.options(queue="night").options(priority=5).enqueue(7)

    (record,) = waiting(app)
    assert (record.queue, record.priority) == ("night", 5)


@pytest.mark.parametrize("delay", [90, 90.0, datetime.timedelta(minutes=1.5)], ids=repr)
def test_a_delayed_job_is_scheduled(app: App, pack: Task[..., str], delay: Any) -> None:
    pack.options(delay=delay).enqueue(7)

    (record,) = waiting(app)
    assert record.state is JobState.SCHEDULED
    assert record.due - record.enqueued == pytest.approx(90)


def test_a_job_for_a_moment_is_scheduled_for_it_in_any_zone(app: App, pack: Task[..., str]) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=5))
    moment = datetime.datetime.now(zone) + datetime.timedelta(hours=1)

    pack.options(at=moment).enqueue(7)
    pack.options(at=moment - datetime.timedelta(hours=2)).enqueue(8)

    first, second = waiting(app)
    assert (first.state, second.state) == (JobState.SCHEDULED, JobState.READY)
    assert first.due == pytest.approx(moment.timestamp(), abs=1.0)


def test_a_delay_takes_the_place_of_a_moment_and_the_other_way_around(app: App, pack: Task[..., str]) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)

    pack.options(at=tomorrow).options(delay=0).enqueue(7)
    pack.options(delay=90).options(at=tomorrow).enqueue(8)

    first, second = waiting(app)
    assert first.state is JobState.READY
    assert second.due == pytest.approx(tomorrow.timestamp(), abs=1.0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"delay": -1}, "delay must be zero or more seconds"),
        ({"delay": "soon"}, "delay must be a number of seconds"),
        ({"delay": None}, "delay must be a number of seconds"),
        ({"delay": float("inf")}, "delay must be a number of seconds"),
        ({"at": datetime.datetime(2026, 2, 28)}, r"at must have a time zone: .*\.astimezone\(\)"),
        ({"at": 5.0}, "at must be a datetime, not 5.0; for seconds from now there is delay="),
        ({"delay": 5, "at": datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)}, "give a delay or a time"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"queue": None}, "queue must be a string"),
        ({"id": 5}, "id must be a string"),
        ({"id": ""}, "id must have 1 to 250 printable characters"),
        ({"headers": {"a": 1}}, "headers must be a mapping of strings to strings"),
        ({"timeout": -1}, "timeout must be zero or more seconds"),
        ({"dealy": 1}, "unexpected keyword argument 'dealy'"),
    ],
    ids=repr,
)
def test_an_option_that_makes_no_sense_is_refused_at_once(
    pack: Task[..., str], options: dict[str, Any], why: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        pack.options(**options)


# Ids


def test_the_same_id_again_is_the_same_job(app: App, pack: Task[..., str]) -> None:
    first = pack.options(id="order 7").enqueue(7)
    second = pack.options(id="order 7").enqueue(7, gift=True)

    assert first == second
    assert len({first, second}) == 1
    (record,) = waiting(app)
    assert record.args == b'{"order":7}'


def test_an_id_of_another_task_is_refused(app: App, pack: Task[..., str]) -> None:
    @app.task(name="shop.weigh")
    def weigh(order: int) -> float:
        return 1.5

    pack.options(id="order 7").enqueue(7)

    with pytest.raises(
        ValueError, match=r"the id 'order 7' is that of a job of shop\.pack: a job of shop.weigh needs an"
    ):
        weigh.options(id="order 7").enqueue(7)
    with pytest.raises(ValueError, match=r"is that of a job of shop\.pack"):
        asyncio.run(weigh.options(id="order 7").aenqueue(7))


def test_ids_are_uuids_of_version_7_in_the_order_of_their_time() -> None:
    before = time.time()
    ids = [new_id() for _ in range(3)]
    made = [uuid.UUID(id) for id in ids]

    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert [str(one) for one in made] == ids
    assert before - 0.002 <= (made[0].int >> 80) / 1000 <= time.time() + 0.002


def test_an_id_made_later_sorts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count(1_772_280_000_000_000_000, 300)  # nanoseconds: a little more than an id can tell apart
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))

    ids = [new_id() for _ in range(10_000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_a_seed_that_a_test_sets_makes_no_id_twice() -> None:
    random.seed(1)
    first = new_id()
    random.seed(1)

    assert new_id()[20:] != first[20:]


def test_many_ids_at_once_are_all_different() -> None:
    assert len(set(new_ids(10_000))) == 10_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_makes_no_id_twice() -> None:
    new_id()  # so that the child may inherit what is kept for the next ones
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        os.write(write, new_id().encode())
        os._exit(0)
    here = new_id()
    os.waitpid(pid, 0)
    there = os.read(read, 100).decode()
    os.close(read)
    os.close(write)

    assert uuid.UUID(there).int & (2**62 - 1) != uuid.UUID(here).int & (2**62 - 1)


# Many


class Refusing(Store):
    """A store that does one thing wrong: fails at the Put with this number, or counts them."""

    def __init__(self, fail_at: int | None = None, error: Exception | None = None) -> None:
        super().__init__(MemoryEngine)
        self.sizes: list[int] = []
        self._fail_at = fail_at
        self._error = error or StoreUnavailable("memory://", "it is full")

    def _note(self, requests: tuple[Any, ...]) -> None:
        for request in requests:
            if isinstance(request, Put):
                if len(self.sizes) == self._fail_at:
                    raise self._error
                self.sizes.append(len(request.jobs))

    def ask(self, *requests: Any, **how: Any) -> Any:
        self._note(requests)
        return super().ask(*requests, **how)

    async def aask(self, *requests: Any, **how: Any) -> Any:
        self._note(requests)
        return await super().aask(*requests, **how)


@pytest.fixture(params=["threads", "loops"])
def many(request: pytest.FixtureRequest) -> Any:
    """`enqueue_many`, and its twin for coroutines."""
    if request.param == "threads":
        return lambda task, calls: task.enqueue_many(calls)
    return lambda task, calls: asyncio.run(task.aenqueue_many(calls))


def test_many_jobs_are_enqueued_in_their_order(app: App, pack: Task[..., str], many: Any) -> None:
    handles = many(pack, [(1,), (2, True), {"order": 3}, {"order": 4, "gift": False}])

    assert [record.args for record in waiting(app)] == [
        b'{"order":1}', b'{"order":2,"gift":true}', b'{"order":3}', b'{"order":4,"gift":false}',
    ]  # fmt: skip
    assert [handle.id for handle in handles] == [record.id for record in waiting(app)]


def test_no_jobs_are_no_mistake(app: App, pack: Task[..., str], many: Any) -> None:
    assert many(pack, []) == []


def test_options_hold_for_each_of_many(app: App, pack: Task[..., str], many: Any) -> None:
    many(pack.options(queue="night"), [(1,), (2,)])
    assert [record.queue for record in waiting(app)] == ["night", "night"]


def test_many_jobs_can_not_have_one_id(pack: Task[..., str], many: Any) -> None:
    with pytest.raises(ValueError, match="many jobs can't have one id"):
        many(pack.options(id="order 7"), [(1,), (2,)])


def test_many_jobs_are_stored_a_thousand_at_a_time(app: App, pack: Task[..., str], many: Any) -> None:
    store = Refusing()
    with app.kept_in(store):
        many(pack, ((n,) for n in range(2_500)))
    store.close()

    assert store.sizes == [1_000, 1_000, 500]


def test_large_arguments_are_stored_fewer_at_a_time(app: App, many: Any) -> None:
    @app.task
    def keep(text: str) -> None: ...

    store = Refusing()
    with app.kept_in(store):
        many(keep, (("a" * 1_000_000,) for n in range(20)))
    store.close()

    assert store.sizes == [9, 9, 2]


def test_an_endless_iterable_is_read_as_it_is_needed(app: App, pack: Task[..., str], many: Any) -> None:
    read = itertools.count()
    store = Refusing(fail_at=1)
    with app.kept_in(store), pytest.raises(EnqueuedInPart):
        many(pack, ((n,) for n in read))
    store.close()

    assert next(read) == 2_000


@pytest.mark.parametrize("item", [1, "ab", [1], None, {1}], ids=repr)
def test_an_item_that_is_no_call_is_refused_with_a_hint(app: App, pack: Task[..., str], many: Any, item: Any) -> None:
    with pytest.raises(
        TypeError, match="item 1 must be a tuple of positional arguments or a dict of keyword ones, not"
    ) as told:
        many(pack, [(1,), item])
    assert f"write ({item!r},)" in str(told.value)
    assert not waiting(app)


def broken(after: int, error: BaseException) -> Iterator[tuple[int]]:
    for n in range(after):
        yield (n,)
    raise error


@pytest.mark.parametrize(
    "calls",
    [
        lambda: broken(1_500, OSError("the line is dead")),
        lambda: itertools.chain(((n,) for n in range(1_500)), ["x"]),
        lambda: itertools.chain(((n,) for n in range(1_500)), [("x",)]),
        lambda: itertools.chain(((n,) for n in range(1_500)), [(1, 2, 3)]),
    ],
    ids=["iterable", "no call", "wrong type", "wrong number"],
)
def test_what_was_accepted_before_a_mistake_stays_and_is_told(
    app: App, pack: Task[..., str], many: Any, calls: Any
) -> None:
    with pytest.raises(EnqueuedInPart, match="the first 1000 were accepted") as told:
        many(pack, calls())

    assert [record.id for record in waiting(app)] == list(told.value.ids)
    assert isinstance(told.value.__cause__, (OSError, TypeError))


def test_a_mistake_before_anything_was_accepted_comes_as_it_is(app: App, pack: Task[..., str], many: Any) -> None:
    with pytest.raises(OSError, match="the line is dead"):
        many(pack, broken(999, OSError("the line is dead")))
    assert not waiting(app)


def test_ctrl_c_stays_ctrl_c_and_says_what_was_accepted(app: App, pack: Task[..., str]) -> None:
    with pytest.raises(KeyboardInterrupt) as told:
        pack.enqueue_many(broken(1_500, KeyboardInterrupt()))
    assert told.value.__notes__ == [
        "not all jobs of shop.pack were enqueued: the first 1000 were accepted and will run"
    ]


@pytest.mark.parametrize("error", [StoreUnavailable("memory://", "it is full"), OutcomeUnknown(("a",))], ids=repr)
def test_a_store_that_fails_half_way_leaves_what_it_accepted(
    app: App, pack: Task[..., str], many: Any, error: Exception
) -> None:
    store = Refusing(fail_at=2, error=error)
    with app.kept_in(store), pytest.raises(EnqueuedInPart) as told:
        many(pack, ((n,) for n in range(5_000)))
    store.close()

    assert len(told.value.ids) == 2_000
    assert told.value.__cause__ is error


# From a loop


def test_a_coroutine_can_enqueue_without_blocking_its_loop(app: App, pack: Task[..., str]) -> None:
    async def main() -> str:
        return (await pack.aenqueue(7, gift=True)).id

    id = asyncio.run(main())

    (record,) = waiting(app)
    assert (record.id, record.args) == (id, b'{"order":7,"gift":true}')


def test_other_tasks_of_the_loop_go_on_while_many_are_enqueued(
    app: App, pack: Task[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.app.task._STINT", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        other = asyncio.create_task(others())
        await asyncio.sleep(0)
        store = app.store.aask

        async def at_once(*requests: Any, **how: Any) -> Any:  # so that no turn comes from waiting for the store
            return [[]]

        app.store.aask = at_once  # type: ignore[method-assign]
        try:
            await pack.aenqueue_many((n,) for n in range(900))
        finally:
            app.store.aask = store  # type: ignore[method-assign]
            other.cancel()

    asyncio.run(main())

    assert turns > 800


def test_an_async_iterable_can_be_enqueued(app: App, pack: Task[..., str]) -> None:
    async def orders() -> AsyncIterator[tuple[int]]:
        for n in range(3):
            await asyncio.sleep(0)
            yield (n,)

    handles = asyncio.run(pack.aenqueue_many(orders()))

    assert len(handles) == len(waiting(app)) == 3


# Time


class Slow(MemoryEngine):
    """An engine whose transactions wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def transact(self, requests: Any, within: float = 10.0) -> Any:
        self.entered.set()
        assert self.let_go.wait(10)
        return super().transact(requests, within)


def test_an_enqueue_takes_no_longer_than_it_may_and_can_be_asked_again(app: App, pack: Task[..., str]) -> None:
    engine = Slow()
    store = Store(lambda: engine)
    with app.kept_in(store):
        hurried = pack.options(id="order 7", timeout=0.01)
        with pytest.raises(OutcomeUnknown) as told:
            hurried.enqueue(7)  # the engine has taken it, and doesn't answer
        assert told.value.ids == ("order 7",)
        assert engine.entered.is_set()
        with pytest.raises(StoreUnavailable):
            hurried.enqueue(7)  # it was never taken: the engine is busy with the first
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            asyncio.run(hurried.aenqueue(7))

        engine.let_go.set()
        assert pack.options(id="order 7").enqueue(7).state is JobState.READY
        assert len(waiting(app)) == 1
    store.close()
