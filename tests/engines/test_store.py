"""Group commit: what threads and loops ask at one time meets in few transactions, and each gets its own answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from penstock.engines import store as store_
from penstock.engines.bell import Bell
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import ByIds, Query, States
from penstock.engines.requests import (
    Again,
    Cancel,
    Claim,
    Fate,
    NewJob,
    Outcome,
    Pause,
    Put,
    Request,
    Settle,
    Settlement,
    Want,
)
from penstock.engines.store import Store
from penstock.errors import OutcomeUnknown, StoreError, StoreInvalid, StoreUnavailable
from penstock.job import JobState
from tests.engines.kinds import new
from tests.engines.scripted import ScriptedEngine
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import until

SHORT = 0.02  # seconds that somebody is willing to wait who is meant to wait in vain


def pause(queue: str) -> Pause:
    """A request that is easy to tell from others."""
    return Pause(queue)


def many(count: int, name: str = "job") -> Put:
    """A request of so many rows."""
    return Put([new(f"{name}{n}") for n in range(count)])


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def store(engine: ScriptedEngine) -> Iterator[Store]:
    store = Store(lambda: engine)
    yield store
    store.close(GUARD)


class Held:
    """A store whose thread is in a transaction until the gate opens; what is asked meanwhile meets in the next one."""

    def __init__(self, store: Store, engine: ScriptedEngine) -> None:
        self.store = store
        self.gate = Gate()
        self.expected = 0
        engine.script.append(self.gate)
        self.first = in_thread(store.ask, pause("first"))
        self.gate.wait_entered()

    def ask(self, *requests: Request, **options: Any) -> Future[Any]:
        """Let a thread ask, and wait until that is in the queue."""
        asking = in_thread(self.store.ask, *requests, **options)
        self.wait_for_one_more()
        return asking

    def wait_for_one_more(self, count: int = 1) -> None:
        self.expected += count
        until(lambda: self.queued() == self.expected)

    def queued(self) -> int:
        return len(self.store._waiting) + len(self.store._urgent)

    def open(self) -> None:
        self.gate.open()
        self.first.result(GUARD)


@pytest.fixture
def held(store: Store, engine: ScriptedEngine) -> Iterator[Held]:
    held = Held(store, engine)
    yield held
    held.gate.open()


# Meeting in one transaction


def test_many_threads_and_a_loop_with_a_hundred_callers_meet_in_one_transaction(
    held: Held, engine: ScriptedEngine
) -> None:
    async def hundred() -> list[Any]:
        return await asyncio.gather(*(held.store.aask(pause(f"c{n}")) for n in range(100)))

    threads = [held.ask(pause(f"t{n}")) for n in range(30)]
    loop = in_thread(asyncio.run, hundred())
    held.wait_for_one_more(100)
    held.open()

    assert [thread.result(GUARD) for thread in threads] == [[True]] * 30
    assert loop.result(GUARD) == [[True]] * 100
    assert [len(requests) for requests in engine.asked] == [1, 130]


def test_each_caller_gets_the_answers_to_its_own_requests(held: Held, engine: ScriptedEngine) -> None:
    engine.script.append([1, 2, 3, 4, 5, 6])
    asking = [held.ask(pause("a")), held.ask(pause("b"), pause("c")), held.ask(*map(pause, "def")), held.ask()]
    held.open()

    assert [it.result(GUARD) for it in asking] == [[1], [2, 3], [4, 5, 6], []]
    assert engine.asked[1] == [pause(queue) for queue in "abcdef"]


def test_two_loops_are_both_told(held: Held, engine: ScriptedEngine) -> None:
    engine.script.append([1, 2])
    loops = []
    for queue in "ab":
        loops.append(in_thread(asyncio.run, held.store.aask(pause(queue))))
        held.wait_for_one_more()
    held.open()

    assert [loop.result(GUARD) for loop in loops] == [[1], [2]]


def test_a_lone_caller_is_not_made_to_wait_for_others(store: Store, engine: ScriptedEngine) -> None:
    """A delay of five milliseconds to gather requests would take the guard's whole time, and fail."""
    calls = round(GUARD / 0.005)

    def ask() -> None:
        for _ in range(calls):
            store.ask(pause("a"))

    in_thread(ask).result(GUARD)

    assert len(engine.asked) == calls


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the store awaits whom it has told for as long as a test may take."""
    monkeypatch.setattr(store_, "_MOMENT", GUARD)
    monkeypatch.setattr(store_, "_GATHERED", 1e9)
    monkeypatch.setattr(store_, "_LONG", GUARD)


def test_those_who_were_told_and_those_who_wait_go_on_together(
    held: Held, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would be two groups for ever, with a commit for each."""
    second = Gate()
    engine.script.append(second)
    a, b = held.ask(pause("a")), held.ask(pause("b"))
    held.gate.open()
    second.wait_entered()
    be_patient(monkeypatch)
    c = in_thread(held.store.ask, pause("c"))
    until(lambda: held.queued() == 1)
    second.open()
    a.result(GUARD), b.result(GUARD)

    again = [in_thread(held.store.ask, pause(queue)) for queue in "ab"]

    for it in (c, *again):
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 2, 3]


def test_who_waits_is_not_kept_for_those_who_were_told_and_do_not_come(
    held: Held, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_, "_SELDOM", 7)
    for _ in range(20):  # each time one is told while another waits
        gate = Gate()
        engine.script.append(gate)
        waits = in_thread(held.store.ask, pause("a"))
        until(lambda: held.queued() == 1)
        held.gate.open()
        gate.wait_entered()
        held.gate = gate

        assert not waits.done()
    assert held.store._in_vain == 7
    assert 0 <= held.store._at_once <= 7


@pytest.mark.parametrize("way", ["urgent", "close"])
def test_what_is_urgent_and_the_end_are_not_kept_for_those_who_may_come(
    held: Held, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    second = Gate()
    engine.script.append(second)
    held.ask(pause("a"))
    held.ask(pause("a"))
    held.gate.open()
    second.wait_entered()
    be_patient(monkeypatch)
    waits = in_thread(held.store.ask, pause("b"))
    until(lambda: held.queued() == 1)
    second.open()
    until(lambda: held.store._enough == 3)
    assert not waits.done()

    if way == "urgent":
        in_thread(held.store.ask, pause("urgent"), urgent=True).result(GUARD / 2)
    else:
        in_thread(held.store.close).result(GUARD / 2)

    waits.result(GUARD / 2)


def test_transactions_are_bounded(held: Held, engine: ScriptedEngine) -> None:
    asking = [held.ask(many(600)), held.ask(many(300)), held.ask(pause("a")), held.ask(many(600)), held.ask(many(1))]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 3, 2]


def test_what_is_larger_than_a_transaction_should_be_goes_alone(held: Held, engine: ScriptedEngine) -> None:
    asking = [held.ask(pause("a")), held.ask(many(5_000)), held.ask(pause("b"))]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 1, 1, 1]


def test_large_arguments_and_results_share_a_transaction_with_few_others(held: Held, engine: ScriptedEngine) -> None:
    """A thousand of a megabyte are more than a server takes at once, and their copies more than a process should."""
    large = bytes(1024 * 1024)
    put, settle = Put([new("a", args=large)]), Settle([Settlement(1, 1, Outcome.DONE, result=large)])
    asking = [held.ask(put if n % 2 else settle) for n in range(20)]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 7, 7, 6]


def test_claims_count_as_many_rows_as_they_may_give(held: Held, engine: ScriptedEngine) -> None:
    claim = Claim(1, None, [Want(frozenset({"work"}), 400), Want(frozenset({"play"}), 400)])
    asking = [held.ask(claim), held.ask(claim)]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 1, 1]


def test_what_is_urgent_goes_first(held: Held, engine: ScriptedEngine) -> None:
    asking = [held.ask(pause("a")), held.ask(pause("b")), held.ask(pause("urgent"), urgent=True)]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert engine.asked[1] == [pause("urgent"), pause("a"), pause("b")]


def test_what_is_not_urgent_never_passes_what_is(held: Held, engine: ScriptedEngine) -> None:
    """Though it would fit into the transaction, and the other doesn't."""
    asking = [held.ask(pause("a")), held.ask(many(800), urgent=True), held.ask(many(800), urgent=True)]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert [len(requests) for requests in engine.asked] == [1, 1, 2]
    assert engine.asked[2][-1] == pause("a")


# Time


def test_a_thread_whose_time_is_over_before_its_request_was_taken_knows_that_nothing_was_done(
    held: Held, engine: ScriptedEngine
) -> None:
    with pytest.raises(StoreUnavailable, match="scripted://"):
        held.store.ask(pause("late"), timeout=SHORT)
    held.open()

    held.store.ask(pause("b"))
    assert engine.asked == [[pause("first")], [pause("b")]]


def test_a_coroutine_whose_time_is_over_before_its_request_was_taken_knows_that_nothing_was_done(
    held: Held, engine: ScriptedEngine
) -> None:
    with pytest.raises(StoreUnavailable):
        asyncio.run(held.store.aask(pause("late"), timeout=SHORT))
    held.open()

    held.store.ask(pause("b"))
    assert engine.asked == [[pause("first")], [pause("b")]]


def test_a_thread_whose_time_is_over_after_its_request_was_taken_knows_nothing(
    store: Store, engine: ScriptedEngine
) -> None:
    engine.script.append(gate := Gate())

    with pytest.raises(OutcomeUnknown) as caught:
        store.ask(Put([new("a"), new("b")]), pause("x"), Put([new("c")]), timeout=SHORT)

    gate.open()
    assert caught.value.ids == ("a", "b", "c")
    assert store.ask(pause("b")) == [True]


def test_a_coroutine_whose_time_is_over_after_its_request_was_taken_knows_nothing(
    store: Store, engine: ScriptedEngine
) -> None:
    engine.script.append(gate := Gate())

    async def late() -> list[Any]:
        with pytest.raises(OutcomeUnknown) as caught:
            await store.aask(Put([new("a")]), timeout=SHORT)
        assert caught.value.ids == ("a",)
        gate.open()
        return await store.aask(pause("b"))  # the answer to the first comes before, to nobody

    assert asyncio.run(late()) == [True]


def test_coroutines_of_one_loop_each_wait_as_long_as_they_are_willing_to(held: Held, engine: ScriptedEngine) -> None:
    """One timer serves them all: it has to be set anew for one who is less patient, and for the next when it is due."""

    async def ask(queue: str, timeout: float | None) -> list[Any]:
        return await asyncio.wait_for(held.store.aask(pause(queue), timeout=timeout), GUARD)

    async def ask_all() -> list[Any]:
        patient = [asyncio.create_task(ask(queue, timeout)) for queue, timeout in (("a", 2 * GUARD), ("b", None))]
        hasty = [asyncio.create_task(ask("late", timeout)) for timeout in (3 * SHORT, SHORT, 2 * SHORT)]
        for _ in range(2):
            await asyncio.gather(*hasty, return_exceptions=True)
            assert [type(task.exception()) for task in hasty] == [StoreUnavailable] * len(hasty)
            hasty = [asyncio.create_task(ask("late", SHORT))]
        await asyncio.gather(*hasty, return_exceptions=True)
        assert not any(task.done() for task in patient)
        held.open()
        return [await task for task in patient]

    assert asyncio.run(ask_all()) == [[True], [True]]
    assert engine.asked[1:] == [[pause("a"), pause("b")]]


@pytest.mark.parametrize("timeout", [0, -5])
def test_who_has_no_time_at_all_is_told_at_once(held: Held, engine: ScriptedEngine, timeout: float) -> None:
    with pytest.raises(StoreUnavailable):
        held.store.ask(pause("late"), timeout=timeout)
    with pytest.raises(StoreUnavailable):
        asyncio.run(held.store.aask(pause("late"), timeout=timeout))
    held.open()

    held.store.ask(pause("b"))
    assert engine.asked[1:] == [[pause("b")]]


def test_the_engine_has_a_little_less_time_than_its_caller(store: Store, engine: ScriptedEngine) -> None:
    """So that its answer, that nothing was done, comes before the caller has to say that nobody knows."""
    store.ask(pause("a"), timeout=20)

    assert 15 < engine.within[0] < 19


def test_the_engine_has_as_long_as_the_most_patient_would_wait(held: Held, engine: ScriptedEngine) -> None:
    asking = [held.ask(pause("a"), timeout=20), held.ask(pause("b"), timeout=100), held.ask(pause("c"), timeout=None)]
    held.open()

    for it in asking:
        it.result(GUARD)
    assert 80 < engine.within[1] < 100


def test_endless_patience_is_no_time_without_end_for_the_engine(store: Store, engine: ScriptedEngine) -> None:
    store.ask(pause("a"), timeout=float("inf"))
    asyncio.run(store.aask(pause("a"), timeout=None))

    assert max(engine.within) <= 24 * 3600


def test_a_thread_that_is_interrupted_while_it_waits_takes_its_request_back(held: Held, engine: ScriptedEngine) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def once_queued() -> None:
        held.wait_for_one_more()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        sent = in_thread(once_queued)
        with pytest.raises(Interrupted):
            held.store.ask(pause("late"), timeout=GUARD)
        sent.result(GUARD)
    finally:
        signal.signal(signal.SIGUSR1, before)
    held.open()

    held.store.ask(pause("b"))
    assert engine.asked[1:] == [[pause("b")]]


# Cancelled coroutines


def test_a_coroutine_that_is_cancelled_before_its_request_was_taken_takes_it_back(
    held: Held, engine: ScriptedEngine
) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(held.store.aask(pause("late")))
        await asyncio.sleep(0)
        assert held.queued() == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    held.open()

    held.store.ask(pause("b"))
    assert engine.asked[1:] == [[pause("b")]]


def test_what_a_cancelled_coroutine_asked_is_done_if_it_was_taken(
    store: Store, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script.extend([gate := Gate(), RuntimeError("to nobody"), True])

    async def cancelled() -> list[Any]:
        tasks = [asyncio.create_task(store.aask(pause("a")))]
        await asyncio.to_thread(gate.wait_entered)
        tasks.append(asyncio.create_task(store.aask(pause("b"))))
        for task in tasks:
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()
        with contextlib.suppress(RuntimeError):  # of those that are left, the first has that error
            await store.aask(pause("c"))
        return await store.aask(pause("d"))

    assert asyncio.run(cancelled()) == [True]

    assert engine.asked[0] == [pause("a")]
    assert not caplog.records, "an error that nobody took is no news: nobody waits for it"


# Errors


def test_a_request_that_is_refused_fails_alone() -> None:
    engine = MemoryEngine()
    store = Store(lambda: engine)
    ready = threading.Barrier(9)

    def put(id: str) -> Any:
        ready.wait(GUARD)
        return store.ask(Put([new(id)]))

    asking = [in_thread(put, id) for id in ["a", "b", "", "c", "", "d", "e", "f"]]
    ready.wait(GUARD)

    answers = [it.exception(GUARD) or it.result(GUARD) for it in asking]
    assert [type(answer) for answer in answers].count(ValueError) == 2
    assert answers.count([[Fate.ACCEPTED]]) == 6
    store.close(GUARD)


def test_of_several_requests_the_first_that_is_refused_is_raised_and_the_others_are_done() -> None:
    store = Store(MemoryEngine)
    with pytest.raises(ValueError, match="id"):
        store.ask(Put([new("a")]), Put([new("")]), Cancel(["a"]), Put([new("b", delay=-1)]))

    assert store.find(States(["a", "b"])) == [JobState.CANCELLED, None]
    store.close(GUARD)


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("scripted://", "full"), StoreInvalid("scripted://", "torn"), OutcomeUnknown(), OSError("oops")],
    ids=lambda error: type(error).__name__,
)
def test_an_engine_that_raises_fails_that_transaction_only(
    held: Held, engine: ScriptedEngine, error: Exception
) -> None:
    engine.script.append(error)
    asking = [held.ask(pause("a")), in_thread(asyncio.run, held.store.aask(pause("b")))]
    held.wait_for_one_more()
    held.open()

    raised = [it.exception(GUARD) for it in asking]
    assert [(type(it), str(it)) for it in raised] == [(type(error), str(error))] * 2
    if isinstance(error, StoreError):
        assert raised[0] is not raised[1], "each has its own traceback"
        assert raised[0] is not None
        assert raised[0].__cause__ is error
    assert held.store.ask(pause("c")) == [True]


def test_whose_outcome_is_unknown_is_told_of_his_own_jobs(held: Held, engine: ScriptedEngine) -> None:
    engine.script.append(OutcomeUnknown(("a", "b", "c")))
    asking = [held.ask(Put([new("a"), new("b")])), held.ask(Put([new("c")])), held.ask(pause("x"))]
    held.open()

    errors = [it.exception(GUARD) for it in asking]
    assert [error.ids for error in errors if isinstance(error, OutcomeUnknown)] == [("a", "b"), ("c",), ()]


@pytest.mark.parametrize("answer", [SystemExit(3), KeyboardInterrupt(), StopIteration(), [], [True] * 5])
def test_an_engine_that_breaks_its_promise_hangs_nobody(held: Held, engine: ScriptedEngine, answer: Any) -> None:
    engine.script.append(answer)
    asking = [held.ask(pause("a")), in_thread(asyncio.run, held.store.aask(pause("b")))]
    held.wait_for_one_more()
    held.open()

    assert [type(it.exception(GUARD)) for it in asking] == [RuntimeError] * 2
    assert held.store.ask(pause("c")) == [True]


def test_a_store_that_cannot_be_opened_is_tried_again_for_the_next_caller(store: Store, engine: ScriptedEngine) -> None:
    engine.cannot_open = StoreUnavailable("scripted://", "gone")
    with pytest.raises(StoreUnavailable, match="gone"):
        store.ask(pause("a"))
    with pytest.raises(StoreUnavailable, match="gone"):
        store.find(ByIds([]))
    assert engine.asked == []
    engine.cannot_open = None

    assert store.ask(pause("b")) == [True]
    store.ask(pause("c"))
    assert len(engine.opened) == 3


def test_without_a_thread_nothing_is_done_and_the_next_caller_tries_again(
    store: Store, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            store.ask(pause("a"))
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            asyncio.run(store.aask(pause("a")))

    assert store.ask(pause("b")) == [True]
    assert engine.asked == [[pause("b")]]


# Loops that are gone


def test_a_loop_that_was_closed_meanwhile_harms_nobody(store: Store, engine: ScriptedEngine) -> None:
    engine.script.append(gate := Gate())
    loop = asyncio.new_event_loop()
    task = loop.create_task(store.aask(pause("a")))
    loop.run_until_complete(asyncio.sleep(0))
    gate.wait_entered()
    other = in_thread(store.ask, pause("b"))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gate.open()

    assert other.result(GUARD) == [True]
    assert store.ask(pause("c")) == [True]


# Posts


def test_a_post_is_done_and_nobody_is_told(store: Store, engine: ScriptedEngine) -> None:
    engine.script.extend([RuntimeError("nobody cares"), True])
    store.post(pause("a"))
    until(lambda: engine.asked)
    store.post(pause("b"), pause("c"))
    store.ask(pause("d"))

    assert [request for requests in engine.asked for request in requests] == [pause(queue) for queue in "abcd"]


def test_posts_do_not_grow_without_limit(held: Held, engine: ScriptedEngine) -> None:
    for _ in range(5_000):
        held.store.post(pause("posted"))

    assert held.queued() <= 1_000
    held.expected = held.queued()
    asked = held.ask(pause("a"))
    held.open()
    assert asked.result(GUARD) == [True], "who waits for an answer is never dropped"


# Finding


def test_a_query_is_answered_beside_the_transactions(held: Held) -> None:
    """Though one is under way. The scripted engine answers with the query itself."""
    queries: list[Query[Any]] = [ByIds(["a"]), ByIds(["b"])]

    assert held.store.find(queries[0]) is queries[0]
    assert asyncio.run(held.store.afind(queries[1])) is queries[1]


def test_a_query_opens_the_engine_and_has_its_own_time(store: Store, engine: ScriptedEngine) -> None:
    store.find(ByIds([]), timeout=3)

    assert len(engine.opened) == 1
    assert 2 < engine.opened[0] <= 3
    assert 2 < engine.within[0] <= 3


def test_who_waits_for_news_opens_the_engine(store: Store, engine: ScriptedEngine) -> None:
    bell = Bell()
    bell.ring()
    store.wait(bell, GUARD)
    bell.close()

    assert len(engine.opened) == 1


# Closing


def test_a_closed_store_takes_nothing_more(store: Store, engine: ScriptedEngine) -> None:
    store.ask(pause("a"))
    store.close()
    bell = Bell()

    with pytest.raises(StoreUnavailable, match="closed"):
        store.ask(pause("b"))
    with pytest.raises(StoreUnavailable, match="closed"):
        asyncio.run(store.aask(pause("b")))
    with pytest.raises(StoreUnavailable, match="closed"):
        store.post(pause("b"))
    with pytest.raises(StoreUnavailable, match="closed"):
        store.find(ByIds([]))
    with pytest.raises(StoreUnavailable, match="closed"):
        asyncio.run(store.afind(ByIds([])))
    with pytest.raises(StoreUnavailable, match="closed"):
        store.wait(bell, 0)
    bell.close()

    assert engine.asked == [[pause("a")]]
    assert engine.closed


def test_a_coroutine_that_was_refused_by_a_closed_store_leaves_nothing_behind(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """No timer, above all, that puts an error into a future that nobody looks at."""
    store.close()

    async def ask() -> None:
        with pytest.raises(StoreUnavailable):
            await store.aask(pause("a"), timeout=SHORT)
        await asyncio.sleep(2 * SHORT)  # until such a timer would have come: nothing tells of one that isn't there

    asyncio.run(ask())

    gc.collect()
    assert not caplog.records


def test_closing_answers_what_was_asked_before(held: Held, engine: ScriptedEngine) -> None:
    asking = [held.ask(many(800)), held.ask(many(800)), in_thread(asyncio.run, held.store.aask(pause("a")))]
    held.wait_for_one_more()
    closing = in_thread(held.store.close)
    until(lambda: held.store._is_closed)
    assert not closing.done()
    held.gate.open()

    closing.result(GUARD)
    assert [len(it.result(GUARD)) for it in asking] == [1, 1, 1]
    assert engine.closed == 1


def test_a_store_can_be_closed_twice_also_by_two_threads(store: Store, engine: ScriptedEngine) -> None:
    store.ask(pause("a"))

    closing = [in_thread(store.close) for _ in range(2)]
    for it in closing:
        it.result(GUARD)
    store.close()

    assert engine.closed >= 1


def test_a_store_that_nobody_used_is_closed_without_being_opened(store: Store, engine: ScriptedEngine) -> None:
    store.close()

    assert engine.opened == []


def test_closing_ends_in_time_though_the_engine_is_stuck_and_lets_go_of_it_once_it_is_not(
    held: Held, engine: ScriptedEngine
) -> None:
    in_thread(held.store.close, SHORT).result(GUARD)
    assert not engine.closed, "nobody may close an engine under a transaction"
    asking = in_thread(held.store.ask, pause("late"))
    assert isinstance(asking.exception(GUARD), StoreUnavailable)

    held.open()

    until(lambda: engine.closed)


def test_a_store_at_rest_holds_nothing_of_what_it_did(store: Store) -> None:
    class Jobs(list[NewJob]):  # a weak reference to it can be had
        pass

    def ask() -> weakref.ref[Jobs]:
        jobs = Jobs([new("a")])
        store.ask(Put(jobs), Again())
        store.engine.asked.clear()  # type: ignore[attr-defined]
        return weakref.ref(jobs)

    seen = ask()

    until(lambda: seen() is None)
