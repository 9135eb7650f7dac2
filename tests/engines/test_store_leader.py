"""Whoever asks the store alone does it on his own thread; and what happens to others when he is interrupted there."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from penstock import clock
from penstock.engines.records import Complaints, Counts, States
from penstock.engines.requests import Fate, Pause, Put
from penstock.engines.store import Store
from penstock.errors import StoreUnavailable
from tests.engines.kinds import KINDS, new
from tests.engines.scripted import ScriptedEngine
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import until


class LedEngine(ScriptedEngine):
    """One that remembers on which thread it was asked."""

    in_caller = True

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def transact(self, *args: Any) -> Any:
        self.threads.append(threading.current_thread())
        return super().transact(*args)


@pytest.fixture
def engine() -> LedEngine:
    return LedEngine()


@pytest.fixture
def store(engine: LedEngine) -> Iterator[Store]:
    store = Store(lambda: engine)
    yield store
    store.close(GUARD)


def test_who_asks_alone_does_it_himself(store: Store, engine: LedEngine) -> None:
    store.ask(Pause("a"))
    store.ask(Pause("b"))

    assert engine.threads == [threading.current_thread()] * 2


def test_who_has_little_time_leaves_it_to_the_thread(store: Store, engine: LedEngine) -> None:
    store.ask(Pause("a"), timeout=2.0)
    store.ask(Pause("b"), timeout=None)

    assert engine.threads == [store._thread, threading.current_thread()]


def test_who_asks_while_somebody_leads_is_served_by_the_thread_with_the_others(store: Store, engine: LedEngine) -> None:
    gate = Gate()
    engine.script.append(gate)
    leader = in_thread(store.ask, Pause("first"))
    gate.wait_entered()
    others = [in_thread(store.ask, Pause(f"{n}")) for n in range(20)]
    until(lambda: len(store._waiting) == 20)
    gate.open()

    assert leader.result(GUARD) == [True]
    assert [other.result(GUARD) for other in others] == [[True]] * 20
    assert [len(requests) for requests in engine.asked] == [1, 20]
    assert engine.threads[1] is store._thread


def test_who_waits_behind_a_leader_gives_up_in_time(store: Store, engine: LedEngine) -> None:
    gate = Gate()
    engine.script.append(gate)
    leader = in_thread(store.ask, Pause("first"))
    gate.wait_entered()
    with pytest.raises(StoreUnavailable, match="too busy"):
        store.ask(Pause("a"), timeout=0.02)
    gate.open()
    leader.result(GUARD)

    store.ask(Pause("b"))
    assert engine.asked == [[Pause("first")], [Pause("b")]]


def test_the_engine_is_closed_after_the_leader_is_through(store: Store, engine: LedEngine) -> None:
    gate = Gate()
    engine.script.append(gate)
    leader = in_thread(store.ask, Pause("first"))
    gate.wait_entered()
    closing = in_thread(store.close)
    until(lambda: store._thread is not None)
    assert not engine.closed
    gate.open()

    closing.result(GUARD)
    assert (leader.result(GUARD), engine.closed) == ([True], 1)


def test_a_store_that_is_closed_while_a_leader_hangs_is_closed_in_time(store: Store, engine: LedEngine) -> None:
    gate = Gate()
    engine.script.append(gate)
    leader = in_thread(store.ask, Pause("first"))
    gate.wait_entered()
    store.close(0.02)
    gate.open()
    leader.result(GUARD)
    until(lambda: engine.closed == 1)


def test_what_a_handler_asks_that_has_interrupted_a_leader_is_refused(store: Store, engine: LedEngine) -> None:
    class Handler(Gate):
        def __call__(self, *args: Any, **kwargs: Any) -> None:
            for timeout in (30.0, 5.0):
                with pytest.raises(StoreUnavailable, match="handler"):
                    store.ask(Pause("within"), timeout=timeout)

    engine.script.append(Handler())
    store.ask(Pause("a"))
    assert engine.asked == [[Pause("a")]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_an_interrupt_is_the_leaders_own_and_others_go_on(
    store: Store, engine: LedEngine, error: type[BaseException]
) -> None:
    engine.script.append(error())
    with pytest.raises(error):
        store.ask(Pause("a"))

    store.ask(Pause("b"))
    assert engine.asked == [[Pause("a")], [], [Pause("b")]]  # the thread has found out how the engine is


def test_who_waits_behind_a_leader_goes_on_though_that_is_interrupted_as_it_steps_down(
    store: Store, engine: LedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, notify = Gate(), store._wanted.notify

    def interrupt() -> None:
        monkeypatch.setattr(store._wanted, "notify", notify)
        raise KeyboardInterrupt

    engine.script.append(gate)
    leader = in_thread(store.ask, Pause("first"))
    gate.wait_entered()
    waiting = in_thread(store.ask, Pause("second"))
    until(lambda: store._asking() == 1)
    monkeypatch.setattr(store._wanted, "notify", interrupt)
    gate.open()

    with pytest.raises(KeyboardInterrupt):
        leader.result(GUARD)
    assert waiting.result(GUARD) == [True]


# An interrupt at each call of a put, on the engines that can bear it


class Interrupt:
    """Calls *handler* in this thread, in the engines' code: *number*-th of all calls, as it begins or ends.

    That is where a signal's handler may raise: the interpreter looks for signals as a function of its own begins, and
    after one of C's has returned.
    """

    def __init__(self, number: int, handler: Callable[[], object]) -> None:
        self.left = number
        self.place = ""
        self._handler = handler

    def __enter__(self) -> Interrupt:
        self._hook = sys.unraisablehook
        sys.unraisablehook = lambda lost: None  # at the end of a generator it is lost, as a signal's would be
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        sys.unraisablehook = self._hook

    def _event(self, frame: FrameType, event: str, arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        is_ours = "penstock" in path.parts and "engines" in path.parts
        if event in ("call", "c_return") and (is_ours or path == Path(threading.__file__)):
            self.left -= 1
            if self.left == 0:
                self.place = f"{path}:{frame.f_lineno} {event}"
                sys.setprofile(None)
                self._handler()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_interrupt_at_any_call_of_a_put_leaves_nothing_in_the_way(tmp_path: Path, kind: str) -> None:
    connect = KINDS[kind](tmp_path, clock.wall)
    store, other = Store(connect), connect()
    store.ask(Put([new("before")]))
    other.open()
    number, places = 0, set[str]()
    while True:
        number += 1
        id = f"job {number}"
        interrupted = Interrupt(number, interrupt)
        with contextlib.suppress(KeyboardInterrupt), interrupted:
            store.ask(Put([new(id)]))
        places.add(interrupted.place)
        if not interrupted.place:
            break  # it has fewer calls
        # Neither another process nor this one is kept out, and the job is there or not.
        assert other.transact([Put([new(f"other {number}")])], 5.0) == [[Fate.ACCEPTED]], interrupted.place
        assert store.ask(Put([new(f"next {number}")]), timeout=5.0) == [[Fate.ACCEPTED]], interrupted.place
        [state] = store.find(States([id]))
        assert store.ask(Put([new(id)])) == [[Fate.ACCEPTED if state is None else Fate.KNOWN]], interrupted.place

    assert len(places) > 60
    assert store.find(Complaints()) == []
    store.close(GUARD)
    other.close()


@pytest.mark.parametrize("timeout", [30.0, 29.0])
def test_what_a_handler_asks_at_any_call_of_a_put_is_done_or_refused(tmp_path: Path, timeout: float) -> None:
    """29 s are less than usual: then the put is left to the thread."""
    store = Store(KINDS["sqlite"](tmp_path, clock.wall))
    store.ask(Put([new("before")]))
    refused, puts = 0, 1

    def put(number: int) -> bool:
        nonlocal refused, puts

        def handle() -> None:
            nonlocal refused, puts
            try:
                store.ask(Put([new(f"handler's {number}")]), timeout=timeout)
                puts += 1
            except StoreUnavailable:
                refused += 1

        interrupted = Interrupt(number, handle)
        with interrupted:
            store.ask(Put([new(f"job {number}")]), timeout=timeout)
        puts += 1
        return bool(interrupted.place)

    number = 1
    while in_thread(put, number).result(GUARD):
        number += 1

    assert refused
    assert [count.jobs for count in store.find(Counts())] == [puts]
    store.close(GUARD)
