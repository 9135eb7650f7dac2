"""The books balance: every accepted job is counted once, and whoever wants to know is told."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Job, JobState, ThreadPool, clock, timers
from penstock.events import Event, PoolStopping
from penstock.pool.ledger import Ledger, Tally
from tests.gates import GUARD, Gate, in_thread

STOPPING = PoolStopping("mail")


def ledger(*, keep_unobserved: bool = False) -> Ledger:
    return Ledger("mail", keep_unobserved=keep_unobserved)


def finish(tally: Tally) -> None:
    """What a worker does for a job that returned."""
    tally.done += 1
    tally.ended += 1


# Counting


def test_handing_out_a_number_is_accepting_a_job() -> None:
    books = ledger()

    assert [next(books.numbers) for _ in range(3)] == [1, 2, 3]
    assert books.accepted == 3
    assert books.accepted == 3, "asking counts nothing"


def test_a_job_that_was_refused_after_all_was_not_accepted() -> None:
    books = ledger()
    for _ in range(3):
        next(books.numbers)

    books.withdraw()

    assert books.accepted == 2
    assert next(books.numbers) == 4, "a number is not used twice"


OUTCOMES = st.sampled_from(["returned", "told", JobState.FAILED, JobState.CANCELLED, JobState.KILLED, "withdrawn"])


@given(st.lists(st.tuples(OUTCOMES, st.integers(0, 2), st.booleans())), st.sets(st.integers(0, 2)))
def test_the_books_balance_once_every_accepted_job_has_told_its_waiters(
    jobs: list[tuple[str, int, bool]], left: set[int]
) -> None:
    books = ledger()
    tallies = [books.open_tally() for _ in range(3)]
    not_told, cut, counted = 0, 0, dict.fromkeys(JobState, 0)

    for outcome, worker, was_cut in jobs:
        next(books.numbers)
        assert not books.balances()
        if outcome == "withdrawn":
            books.withdraw()
        elif outcome in ("returned", "told"):
            counted[JobState.DONE] += 1
            tallies[worker].done += 1
            if outcome == "told":
                tallies[worker].ended += 1
            else:
                not_told += 1
        else:
            counted[JobState(outcome)] += 1
            cut += was_cut
            books.count(JobState(outcome), cut=was_cut)
            books.one_ended()
        if not_told:
            break  # from here on the books can't balance
    for number in left:
        books.close_tally(tallies[number])
        books.close_tally(tallies[number])

    assert books.counts() == (counted, cut)
    assert books.balances() == (not_told == 0)


def test_a_worker_that_has_left_is_still_counted() -> None:
    books = ledger()
    stayed, left = books.open_tally(), books.open_tally()
    for tally in (stayed, left, left):
        next(books.numbers)
        finish(tally)

    books.close_tally(left)

    assert books.counts()[0][JobState.DONE] == 3
    assert books.balances()


def test_many_threads_count_without_losing_one() -> None:
    books = ledger()

    def work() -> None:
        tally = books.open_tally()
        for number in range(1_000):
            next(books.numbers)
            if number % 3:
                finish(tally)
            else:
                books.count(JobState.FAILED)
                books.one_ended()
        books.close_tally(tally)

    for thread in [in_thread(work) for _ in range(8)]:
        thread.result(GUARD)

    counts, _ = books.counts()
    assert (counts[JobState.DONE], counts[JobState.FAILED]) == (8 * 666, 8 * 334)
    assert books.balances()


def test_times_are_those_of_the_last_jobs_of_each_worker_in_rising_order() -> None:
    books = ledger()
    for offset in (0, 1):
        tally = books.open_tally()
        for number in range(1_000):
            accepted, began = 0.0, 2.0 * number + offset
            tally.times.extend((accepted, began, began + 2_000 - number))

    waits, runs = books.times()

    assert waits == [float(number) for number in range(976, 2_000)], "512 of each"
    assert runs == sorted([*range(1_001, 1_513)] * 2)


def test_the_times_of_the_first_jobs_are_all_kept_and_then_those_of_one_in_eight() -> None:
    tally = Tally()
    kept: list[int] = []

    for number in range(1, 601):
        tally.done += 1
        if tally.skip:
            tally.skip -= 1
        else:
            tally.sample(0.0, float(number), float(number))
            kept.append(number)

    assert kept == [*range(1, 513), *range(520, 601, 8)]
    assert list(tally.times)[1::3] == kept[-512:]


def test_times_can_be_asked_for_while_workers_write_them() -> None:
    books, stop = ledger(), threading.Event()
    tally = books.open_tally()

    def work() -> None:
        while not stop.is_set():
            tally.times.extend((1.0, 2.0, 3.0))

    working = in_thread(work)
    try:
        for _ in range(300):
            books.times()
    finally:
        stop.set()
        working.result(GUARD)


# Telling


def test_observers_are_told_until_they_stop() -> None:
    books, first, second = ledger(), list[Event](), list[Event]()
    stop = books.observe(first.append)
    books.observe(second.append)

    books.tell(STOPPING)
    stop()
    stop()
    books.tell(STOPPING)

    assert (len(first), len(second)) == (1, 2)


def test_who_observes_twice_and_stops_once_is_told_once() -> None:
    books, told = ledger(), []

    def observer(event: Event) -> None:
        told.append(event)

    stop = books.observe(observer)
    books.observe(observer)
    stop()
    books.tell(STOPPING)

    assert told == [STOPPING]


def test_an_observer_that_raises_is_logged_and_the_next_is_told(caplog: pytest.LogCaptureFixture) -> None:
    books, told = ledger(), list[Event]()
    books.observe(lambda event: 1 / 0)
    books.observe(told.append)

    books.tell(STOPPING)

    assert told == [STOPPING]
    assert [(record.name, record.levelno) for record in caplog.records] == [("penstock.pool", logging.ERROR)]


def test_an_observer_may_stop_and_begin_while_it_is_told() -> None:
    books, told = ledger(), list[str]()

    def first(event: Event) -> None:
        told.append("first")
        stop()
        books.observe(lambda event: told.append("late"))

    stop = books.observe(first)
    books.observe(lambda event: told.append("second"))

    books.tell(STOPPING)
    assert told == ["first", "second"]
    books.tell(STOPPING)
    assert told == ["first", "second", "second", "late"]


def test_an_observer_must_be_callable() -> None:
    with ThreadPool(1) as pool, pytest.raises(TypeError, match=r"^an observer must be callable, not 'me'$"):
        pool.observe("me")  # type: ignore[arg-type]


def test_an_observer_that_hangs_does_not_stop_the_time() -> None:
    books, gate, came = ledger(), Gate(), threading.Event()
    books.observe(gate)
    now = clock.monotonic()

    timers.call_at(now, lambda: books.tell(STOPPING))
    gate.wait_entered()
    timers.call_at(now, came.set)

    assert came.wait(GUARD)
    gate.open()


# Failures that nobody looked at


def failed(number: int) -> Job[Any]:
    """The ledger asks nothing of a job, so that a number will do."""
    return cast("Job[Any]", number)


def test_failures_that_nobody_looked_at_are_handed_out_once() -> None:
    books = ledger(keep_unobserved=True)
    for number in range(3):
        books.failed(failed(number))

    books.observed(failed(1))

    assert books.take_unobserved() == [failed(0), failed(2)]
    assert books.take_unobserved() == []


def test_at_most_a_thousand_failures_are_held() -> None:
    books = ledger(keep_unobserved=True)

    for number in range(1_500):
        books.failed(failed(number))

    assert books.take_unobserved() == [failed(number) for number in range(1_000)]


def test_no_failure_is_held_if_the_block_is_not_to_raise_them() -> None:
    books = ledger()

    books.failed(failed(1))
    books.observed(failed(1))

    assert books.take_unobserved() == []
