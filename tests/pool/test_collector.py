"""The collector runs wherever Python code runs, so where a lock is held, too: what it ends there must not need one."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock import ExecutorPool, ThreadPool, timers
from penstock.events import Event, PoolStopped
from penstock.lifecycle import Phase
from penstock.pool.crew import Crew
from penstock.pool.executor import Pool
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import full_pool, until


class CollectsInside:
    """A lock. The first time that it is taken after `armed` is set, the collector runs while it is held.

    Where a real one would be waited for for ever, by the thread that holds it, this one raises.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._was_taken_again = False
        self._has_collected = threading.Event()
        self.armed = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._holder == threading.get_ident():
            if not blocking:
                return False
            self._was_taken_again = True
            raise RuntimeError("taken again by the thread that holds it")
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._holder = threading.get_ident()
        if taken and self.armed:
            self.armed = False
            gc.collect()
            self._has_collected.set()
        return taken

    def release(self) -> None:
        self._holder = None
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def check(self) -> None:
        """Wait until the collector has run inside; AssertionError if the lock was taken again there."""
        assert self._has_collected.wait(GUARD)
        assert not self._was_taken_again


for method in (CollectsInside.acquire, CollectsInside.__enter__):  # the frames of a real one are not to be seen
    method.__code__ = method.__code__.replace(co_filename="<lock>")


@pytest.fixture(autouse=True)
def only_where_it_is_told() -> Iterator[None]:
    """The collector runs nowhere else, so that it finds what it is to find where it is to find it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Ring:
    """Something that only the collector takes away, and *held* with it."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.itself = self


def forget(pool: ThreadPool) -> Crew:
    Ring(pool)
    return pool._crew


# Pools


def test_a_pool_that_is_found_while_its_worker_holds_the_ledgers_lock_is_closed_all_the_same() -> None:
    gate = Gate()
    pool = ThreadPool(1)
    job = pool.submit(lambda: divmod(1, gate() or 0))
    gate.wait_entered()
    pool._crew.ledger._lock = lock = CollectsInside()  # type: ignore[assignment]
    crew = forget(pool)
    del pool

    lock.armed = True
    gate.open()

    lock.check()
    assert isinstance(job.exception(GUARD), ZeroDivisionError)
    assert crew.lifecycle.wait_for(Phase.CLOSED, GUARD)


def test_a_pool_that_is_found_while_its_last_worker_moves_it_to_its_end_is_at_its_end() -> None:
    gate = Gate()
    pool = ThreadPool(1)
    pool.submit(gate)
    gate.wait_entered()
    pool.close()
    lock = CollectsInside()
    pool._crew.lifecycle._moved = threading.Condition(lock)  # type: ignore[arg-type]
    crew = forget(pool)
    del pool

    lock.armed = True
    gate.open()

    lock.check()
    assert crew.lifecycle.wait_for(Phase.CLOSED, GUARD)


def test_a_pool_that_is_found_by_who_stops_it_stops() -> None:
    gate = Gate()
    pool = ThreadPool(1)
    pool.submit(gate)
    gate.wait_entered()
    pool._crew._lock = lock = CollectsInside()  # type: ignore[assignment]
    pool.shutdown(wait=False, timeout=GUARD)
    crew = forget(pool)
    del pool

    lock.armed = True
    gate.open()

    lock.check()
    assert crew.lifecycle.wait_for(Phase.CLOSED, GUARD)
    until(lambda: crew._reported)


def test_a_pool_with_observers_that_is_found_where_callbacks_are_handed_over_tells_them_of_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timers, "_callbacks", timers.Callbacks())
    lock = CollectsInside()
    timers._callbacks._changed = threading.Condition(lock)  # type: ignore[arg-type]
    stopped = threading.Event()

    def note(event: Event) -> None:
        if isinstance(event, PoolStopped):
            stopped.set()

    gate = Gate()
    pool = ThreadPool(1)
    pool.observe(note)
    pool.start()
    forget(pool)
    del pool

    def hand_over() -> None:
        lock.armed = True
        timers.run_user_code(gate)

    timers.call_at(0.0, hand_over)

    gate.wait_entered()
    lock.check()
    assert stopped.wait(GUARD)
    gate.open()


# Iterators


def by_map(pool: ThreadPool, fn: Callable[[int], int]) -> Iterator[Any]:
    return pool.map(fn, range(5))


def by_stream(pool: ThreadPool, fn: Callable[[int], int]) -> Iterator[Any]:
    return pool.stream(fn, range(5))


def by_ordered_stream(pool: ThreadPool, fn: Callable[[int], int]) -> Iterator[Any]:
    return pool.stream(fn, range(5), ordered=True)


EVERY_ITERATOR = pytest.mark.parametrize(
    "iterate", [by_map, by_stream, by_ordered_stream], ids=lambda iterate: iterate.__name__
)


@EVERY_ITERATOR
def test_an_iterator_that_is_found_where_a_lock_is_held_cancels_what_has_not_started(
    iterate: Callable[[ThreadPool, Callable[[int], int]], Iterator[Any]],
) -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        results = iterate(pool, lambda number: number and gate(number))
        next(results)
        gate.wait_entered()
        pool._crew.ledger._lock = lock = CollectsInside()  # type: ignore[assignment]
        Ring(results)
        del results

        lock.armed = True
        in_thread(pool.stats).result(GUARD)

        lock.check()
        until(lambda: pool.report.cancelled == 3)
        gate.open()
    assert pool.report.done == 2


@EVERY_ITERATOR
@pytest.mark.parametrize("in_a_job", [False, True], ids=["outside", "in a job"])
def test_an_iterator_that_its_user_leaves_has_cancelled_what_has_not_started(
    iterate: Callable[[ThreadPool, Callable[[int], int]], Iterator[Any]], in_a_job: bool
) -> None:
    gate = Gate()

    def leave() -> int:
        for _ in iterate(pool, lambda number: number and gate(number)):
            gate.wait_entered()
            break
        return pool.report.cancelled

    with ThreadPool(1) as pool, ThreadPool(1) as other:
        try:
            assert (other.submit(leave).result(GUARD) if in_a_job else leave()) == 3
        finally:
            gate.open()


# Coroutines


def left_by_its_loop(coroutine: Coroutine[Any, Any, Any], fact: Callable[[], object]) -> None:
    """Run *coroutine* until *fact* is true, and close the loop: nobody but the collector ends it."""
    loop = asyncio.new_event_loop()
    Ring(loop.create_task(coroutine))
    while not fact():
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


class NeedsLock:
    """Somebody in the line for a place who needs *lock* to take it."""

    submits = False

    def __init__(self, lock: CollectsInside) -> None:
        self._lock = lock
        self.granted = threading.Event()

    def grant(self) -> bool:
        with self._lock:
            self.granted.set()
        return False

    def nudge(self) -> None:
        pass


def test_a_coroutine_with_a_place_that_is_found_where_a_lock_is_held_gives_the_place_to_the_next() -> None:
    lock = CollectsInside()
    next_one = NeedsLock(lock)
    with full_pool() as full:
        left_by_its_loop(full.pool.asubmit(int), lambda: full.line)
        full.gate.open()
        until(lambda: not full.line)  # it has its place, and will never know
        full.line.append(next_one)

        def is_granted() -> bool:
            in_thread(collect_inside, lock).result(GUARD)
            return next_one.granted.is_set()

        until(is_granted)  # whoever gave the place may hold on to the coroutine for another moment


def collect_inside(lock: CollectsInside) -> None:
    lock.armed = True
    with lock:
        pass
    lock.check()


def test_a_coroutine_in_a_job_that_is_found_where_a_lock_is_held_lends_no_slot_any_more() -> None:
    gate = Gate()
    lock = CollectsInside()

    def wait_and_forget() -> None:
        left_by_its_loop(pool.run(gate), gate.entered.is_set)
        gate.open()
        worker = staff._here[threading.get_ident()]
        until(lambda: wait_and_collect(pool, lock) and not worker.waits)

    with ThreadPool(1) as pool:
        staff = pool._crew.staff
        staff._lock = lock  # type: ignore[assignment]
        pool.submit(wait_and_forget).result(GUARD)


def wait_and_collect(pool: Pool, lock: CollectsInside) -> bool:
    lock.armed = True
    pool.submit(int).result()
    lock.check()
    return True


def test_a_coroutine_in_a_job_of_an_executor_that_is_found_where_a_lock_is_held_waits_no_more() -> None:
    gate = Gate()
    lock = CollectsInside()

    def wait_and_forget() -> None:
        left_by_its_loop(pool.run(gate), gate.entered.is_set)
        gate.open()
        until(lambda: wait_and_collect(pool, lock) and not staff._waits)

    with ThreadPoolExecutor(2) as executor, ExecutorPool(executor, 2, timeout=60) as pool:
        staff: Any = pool._crew.staff
        staff._lock = lock
        pool.submit(wait_and_forget).result(GUARD)
