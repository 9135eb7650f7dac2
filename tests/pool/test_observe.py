"""What observers are told, in which order; and the numbers that can be asked for."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import pytest

from penstock import Retry, ThreadPool, current_context, current_job, events
from penstock.events import (
    Event,
    JobAccepted,
    JobEnded,
    JobRetried,
    JobStarted,
    PoolStopped,
    PoolStopping,
    WorkerStarted,
    WorkerStopped,
    WorkerStuck,
)
from tests.gates import GUARD, Gate
from tests.pool.watching import Seen, full_pool, held_pool


def kinds(seen: Seen, number: int) -> list[type[Event]]:
    return [type(event) for event in seen.events if getattr(event, "id", None) == number]


def test_the_life_of_a_pool_is_told_in_order() -> None:
    pool = ThreadPool(1, name="told")
    seen = Seen(pool)
    with pool:
        pool.submit(int).result(GUARD)
    seen.wait_for(WorkerStopped)

    assert {event.pool for event in seen.events} == {"told"}
    order = [type(event) for event in seen.events]
    assert sorted(order, key=str) == sorted(
        [JobAccepted, WorkerStarted, JobStarted, JobEnded, PoolStopping, PoolStopped, WorkerStopped], key=str
    )
    assert order.index(WorkerStarted) < order.index(JobStarted)
    assert order.index(PoolStopping) < order.index(PoolStopped) < order.index(WorkerStopped)
    assert order.index(JobEnded) < order.index(PoolStopped)


def test_the_life_of_a_job_is_told_in_order_with_what_is_known() -> None:
    with ThreadPool(1, thread_name_prefix="w") as pool:
        seen = Seen(pool)
        pool.options(id="a", name="the job").submit(int).result(GUARD)
        ended = seen.wait_for(JobEnded)

    accepted, started, ended_too = (event for event in seen.events if getattr(event, "id", None) == "a")
    assert accepted == JobAccepted(pool.name, "a", "the job")
    assert isinstance(started, JobStarted)
    assert (started.id, started.name, started.worker, started.attempt) == ("a", "the job", "w_0", 1)
    assert started.waited >= 0
    assert ended is ended_too
    assert (ended.state, ended.attempt, ended.waited, ended.error) == ("done", 1, started.waited, None)
    assert ended.ran is not None
    assert ended.ran >= 0


def test_a_failed_job_is_told_with_its_error() -> None:
    with ThreadPool(1) as pool:
        seen = Seen(pool)
        error = pool.submit(divmod, 1, 0).exception(GUARD)

    ended = seen.wait_for(JobEnded)
    assert (ended.state, ended.error) == ("failed", error)


def test_every_attempt_is_told() -> None:
    def fail_once() -> None:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError

    with ThreadPool(1, retry=Retry(2, wait=0)) as pool:
        seen = Seen(pool)
        pool.submit(fail_once)

    assert kinds(seen, 1) == [JobAccepted, JobStarted, JobRetried, JobStarted, JobEnded]


def test_a_job_that_was_cancelled_while_it_waited_never_started() -> None:
    with held_pool() as (pool, _gate):
        seen = Seen(pool)
        job = pool.submit(int)
        job.cancel()

        assert kinds(seen, 2) == [JobAccepted, JobEnded]
        [ended] = seen.of(JobEnded)
        assert (ended.state, ended.attempt, ended.waited, ended.ran) == ("cancelled", 0, None, None)


def test_an_overrun_is_told_once_even_if_the_thread_comes_back() -> None:
    gate = Gate()

    with ThreadPool(1, stuck_after=0.05) as pool:
        seen = Seen(pool)
        pool.options(timeout=0.05).submit(gate)
        seen.wait_for(WorkerStuck)
        gate.open()

    assert kinds(seen, 1) == [JobAccepted, JobStarted, JobEnded, WorkerStuck]


def test_jobs_that_run_in_their_caller_or_come_from_a_map_are_told_too() -> None:
    with full_pool(when_full="caller") as full:
        seen = Seen(full.pool)
        in_caller = full.pool.submit(int)
        assert kinds(seen, 3) == [JobAccepted, JobStarted, JobEnded]
        assert in_caller.done()

        results = full.pool.map(abs, [-1, -2])
        assert [event.id for event in seen.of(JobAccepted)] == [3, 4, 5]
        full.gate.open()
        assert list(results) == [1, 2]
        seen.wait_for(JobEnded, id=5)


def test_a_refused_job_is_not_told() -> None:
    with full_pool(when_full="reject") as full:
        seen = Seen(full.pool)
        with pytest.raises(Exception, match="full"):
            full.pool.submit(int)

        assert seen.events == []


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)],
    ids=lambda kind: kind.__name__,
)
def test_events_are_frozen_values(kind: type[Event]) -> None:
    fields = dataclasses.fields(kind)
    event = kind(*[field.name for field in fields])

    assert event == kind(*[field.name for field in fields])
    for field in fields:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, "changed")
    with pytest.raises((AttributeError, TypeError)):
        event.more = 1  # type: ignore[attr-defined]


# Observers


def test_an_observer_that_raises_harms_nobody_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_event: Event) -> None:
        raise RuntimeError("broken observer")

    with ThreadPool(2, retry=Retry(2, wait=0)) as pool:
        pool.observe(broken)
        seen = Seen(pool)
        assert pool.submit(abs, -1).result(GUARD) == 1
        assert isinstance(pool.submit(divmod, 1, 0).exception(GUARD), ZeroDivisionError)
        assert list(pool.map(abs, [-1])) == [1]

    assert pool.report.ok
    assert [event.id for event in seen.of(JobAccepted)] == [1, 2, 3], "the other one is told all the same"
    records = [record for record in caplog.records if "observer" in record.getMessage()]
    assert records
    assert {(record.name, record.levelno) for record in records} == {("penstock.pool", logging.ERROR)}


def test_an_observer_is_told_nothing_after_it_was_taken_off() -> None:
    seen = Seen()
    with ThreadPool(1) as pool:
        stop = pool.observe(seen)
        pool.submit(int).result(GUARD)
        seen.wait_for(JobEnded)
        stop()
        stop()
        before = len(seen.events)
        pool.submit(int).result(GUARD)

    assert len(seen.events) == before


def test_an_observer_may_use_the_pool() -> None:
    def ask(event: Event) -> None:
        asked.append((pool.stats().accepted, pool.report.accepted, len(pool.failures)))
        if isinstance(event, JobEnded) and event.id == 1:
            again.append(pool.submit(abs, -5))

    asked: list[tuple[int, int, int]] = []
    again: list[Any] = []
    with ThreadPool(1) as pool:
        pool.observe(ask)
        pool.submit(int).result(GUARD)

    assert again[0].result(0) == 5
    assert asked


def test_an_observer_is_not_called_on_the_thread_that_keeps_the_time() -> None:
    threads: list[str] = []
    gate = Gate()

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        pool.observe(lambda event: threads.append(threading.current_thread().name))
        pool.options(timeout=0.05).submit(gate)
        seen.wait_for(JobEnded, state="failed")
        gate.open()

    assert "penstock-timers" not in threads


def test_an_observer_that_hangs_at_a_deadline_holds_up_no_other_deadline() -> None:
    held, gate = Gate(), Gate()

    def hang(event: Event) -> None:
        if isinstance(event, JobEnded) and event.id == 1:
            held()

    with ThreadPool(2) as pool:
        pool.observe(hang)
        view = pool.options(timeout=0.05)
        view.submit(gate)
        held.wait_entered()

        assert view.submit(lambda: current_context().sleep(GUARD)).exception(GUARD) is not None
        held.open()
        gate.open()


# Numbers


def test_stats_tell_what_the_pool_does_now() -> None:
    with full_pool(backlog=3) as full:
        stats = full.pool.stats()
        assert (stats.queued, stats.running, stats.retrying, stats.workers) == (3, 1, 0, 1)
        assert (stats.accepted, stats.done, stats.failed, stats.cancelled) == (4, 0, 0, 0)
        assert stats.oldest_queued > 0
        assert (stats.waited_p50, stats.ran_p50) == (None, None)

        full.waiting[0].cancel()
        full.pool.options(name="bad", when_full="reject").submit(divmod, 1, 0)
        full.gate.open()
        full.pool.close()
        full.pool.wait()

        stats = full.pool.stats()
        assert (stats.queued, stats.running, stats.oldest_queued) == (0, 0, 0)
        assert (stats.accepted, stats.done, stats.failed, stats.cancelled) == (5, 3, 1, 1)


def test_stats_tell_how_long_jobs_waited_and_ran_lately() -> None:
    with ThreadPool(2) as pool:
        seen = Seen(pool)
        list(pool.map(abs, range(20)))
        seen.wait_for(JobEnded, 20)

        stats = pool.stats()
        assert stats.waited_p50 is not None
        assert stats.waited_p99 is not None
        assert stats.ran_p50 is not None
        assert stats.ran_p99 is not None
        assert 0 <= stats.waited_p50 <= stats.waited_p99 < GUARD
        assert 0 <= stats.ran_p50 <= stats.ran_p99 < GUARD


def test_stats_tell_that_still_when_the_pool_has_ended() -> None:
    with ThreadPool(2) as pool:
        list(pool.map(abs, range(20)))

    assert pool.stats().ran_p50 is not None


def test_the_report_can_be_read_at_any_time_and_says_where_the_pool_is() -> None:
    with full_pool(name="read") as full:
        assert str(full.pool.report) == "pool 'read' is open; 2 accepted: 0 done, 1 waiting, 1 running"
        assert "pool 'read' is open" in repr(full.pool)
        full.pool.close()
        assert str(full.pool.report) == "pool 'read' is stopping; 2 accepted: 0 done, 1 waiting, 1 running"
        full.gate.open()
        assert "2 accepted: 2 done" in str(full.pool.wait())
