"""`map` as the stdlib has it, and `stream` for inputs without end."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import BacklogFull, Job, JobState, PoolClosed, Retry, ThreadPool, current_context, current_job
from penstock.events import JobAccepted
from penstock.pool.ladder import cancel
from penstock.pool.lines import Line
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, full_pool, held_pool, until

BOTH_ORDERS = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


class Reader:
    """Endless inputs, counting how many were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.read += 1
            yield self.read


# map: the stdlib's semantics


def test_map_gives_results_in_the_order_of_the_inputs() -> None:
    first_ended = threading.Event()

    def the_first_ends_last(n: int) -> int:
        if n == 0:
            assert first_ended.wait(GUARD)
        else:
            first_ended.set()
        return n * n

    with ThreadPool(3) as pool:
        assert list(pool.map(the_first_ends_last, range(20))) == [n * n for n in range(20)]


def test_map_of_several_iterables_ends_with_the_shortest() -> None:
    with ThreadPool(2) as pool:
        assert list(pool.map(pow, [2, 3, 4], itertools.repeat(2))) == [4, 9, 16]
        assert list(pool.map(pow, [2, 3], [5])) == [32]
        assert list(pool.map(abs, [])) == []
        assert list(pool.map(abs, [-1, -2], chunksize=100)) == [1, 2]


def test_map_returns_at_once_even_if_the_backlog_is_full() -> None:
    with full_pool() as full:
        results = full.pool.map(abs, range(-50, 0))

        assert full.pool.report.waiting == 51
        full.gate.open()
        assert list(results) == list(range(50, 0, -1))


@pytest.mark.parametrize("when_full", ["reject", "caller", "block"])
def test_map_needs_no_place_whatever_the_pool_does_when_it_is_full(when_full: Any) -> None:
    with full_pool(when_full=when_full) as full:
        results = full.pool.map(abs, range(-5, 0))
        full.gate.open()

        assert list(results) == [5, 4, 3, 2, 1]


def test_the_inputs_of_a_map_never_fill_more_than_the_backlog() -> None:
    with held_pool(backlog=3) as (pool, gate):
        pool.map(abs, range(50))

        assert len(pool._crew.backlog.queue) == 3
        assert not pool._crew.backlog.places.take()
        gate.open()
    assert pool.report.done == 51


def test_submitters_get_their_turn_between_the_inputs_of_a_map() -> None:
    order: list[str] = []

    with full_pool() as full:
        full.pool.map(order.append, ["m"] * 5)
        full.line.wait_for_one_more()
        submitting = in_thread(full.pool.submit, order.append, "s")
        full.line.wait_for_one_more()
        full.gate.open()
        submitting.result(GUARD).result(GUARD)

    assert order.index("s") < 5, "not after all of them"


def test_a_map_runs_even_if_nobody_iterates() -> None:
    ran: list[int] = []

    with ThreadPool(2, backlog=1) as pool:
        pool.map(ran.append, range(30))

    assert sorted(ran) == list(range(30))


def test_a_map_reads_all_inputs_at_the_call() -> None:
    with held_pool(backlog=1) as (pool, _gate):
        inputs = iter(range(10))
        pool.map(abs, inputs)

        assert list(inputs) == []


def test_an_input_that_can_not_be_read_raises_at_the_call_and_the_ones_before_it_run() -> None:
    ran: list[int] = []

    def inputs() -> Iterator[int]:
        yield from range(5)
        raise OSError("no more")

    with held_pool(backlog=1) as (pool, gate):
        with pytest.raises(OSError, match="no more"):
            pool.map(ran.append, inputs())
        gate.open()

    assert ran == [0, 1, 2, 3, 4]


def test_a_map_raises_the_error_of_a_job_where_its_result_would_be_and_cancels_the_rest() -> None:
    gate = Gate()
    ran: list[int] = []

    def work(n: int) -> int:
        if n == 1:
            raise ValueError("the second")
        if n == 2:
            gate()
        ran.append(n)
        return n

    with ThreadPool(1) as pool:
        results = pool.map(work, range(10))
        assert next(results) == 0
        gate.wait_entered()
        with pytest.raises(ValueError, match="the second"):
            next(results)
        assert list(results) == []
        gate.open()

    assert ran == [0, 2], "what had started ran to its end"
    assert (pool.report.done, pool.report.failed, pool.report.cancelled) == (2, 1, 7)


def test_abandoning_a_map_cancels_only_what_has_not_started() -> None:
    gate = Gate()
    asked: list[bool] = []

    def work(n: int) -> int:
        if n == 1:
            gate()
            asked.append(current_context().cancelled)
        return n

    with ThreadPool(1, backlog=2) as pool:
        results = pool.map(work, range(10))
        assert next(results) == 0
        gate.wait_entered()
        results.close()  # type: ignore[attr-defined]
        assert pool.report.cancelled == 8
        gate.open()

    assert asked == [False], "the running one is left in peace"
    assert pool.report.done == 2


def test_dropping_the_iterator_of_a_map_is_abandoning_it() -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        for _ in pool.map(lambda n: n and gate(), range(5)):
            gate.wait_entered()
            break
        until(lambda: pool.report.cancelled == 3)
        gate.open()


def test_the_time_limit_of_a_map_counts_from_the_call() -> None:
    with held_pool() as (pool, gate):
        begun = time.monotonic()
        results = pool.map(abs, [-1], timeout=0.1)
        with pytest.raises(TimeoutError):
            next(results)
        assert time.monotonic() - begun < GUARD / 2

        results = pool.map(abs, [-1], timeout=0)
        with pytest.raises(TimeoutError):
            next(results)
        gate.open()
    assert pool.report.cancelled == 2


def test_a_map_of_a_view_has_its_terms() -> None:
    def fail_once(n: int) -> int:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError
        return n

    with ThreadPool(1) as pool:
        assert list(pool.options(retry=Retry(2, wait=0)).map(fail_once, [1, 2])) == [1, 2]


def test_map_keeps_no_result_that_was_taken() -> None:
    class Thing:
        pass

    with ThreadPool(1) as pool:
        gone = threading.Event()
        results = pool.map(lambda _: Thing(), range(3))
        watch = weakref.ref(next(results), lambda _: gone.set())

        assert gone.wait(GUARD)
        assert watch() is None
        list(results)


# map with a buffersize


def test_a_map_with_a_buffersize_reads_only_so_far_ahead() -> None:
    reader = Reader()

    with ThreadPool(2) as pool:
        results = pool.map(abs, reader, buffersize=3)
        assert reader.read == 3
        assert next(results) == 1
        assert reader.read == 4
        assert list(itertools.islice(results, 10)) == list(range(2, 12))
        assert reader.read == 14
        results.close()  # type: ignore[attr-defined]


def test_a_map_with_a_buffersize_gives_all_of_a_short_input() -> None:
    with ThreadPool(2) as pool:
        assert list(pool.map(abs, range(5), buffersize=2)) == [0, 1, 2, 3, 4]
        assert list(pool.map(abs, range(5), buffersize=50)) == [0, 1, 2, 3, 4]
        assert list(pool.map(abs, [], buffersize=1)) == []


# stream


@BOTH_ORDERS
def test_stream_yields_each_job_once_it_has_ended_well_or_not(ordered: bool) -> None:
    with ThreadPool(3) as pool:
        jobs = list(pool.stream(lambda n: 10 // n, [1, 0, 5], ordered=ordered))

        assert all(job.done() for job in jobs)
        assert sorted(job.id for job in jobs) == [1, 2, 3]
        by_id = {job.id: job for job in jobs}
        assert by_id[1].result(0) == 10
        assert by_id[2].state is JobState.FAILED
        assert by_id[3].result(0) == 2


def test_an_ordered_stream_yields_in_the_order_of_the_inputs() -> None:
    second_ended = threading.Event()

    def the_first_ends_last(n: int) -> int:
        if n == 0:
            assert second_ended.wait(GUARD)
        else:
            second_ended.set()
        return n

    with ThreadPool(2) as pool:
        assert [job.result() for job in pool.stream(the_first_ends_last, range(20), ordered=True)] == list(range(20))


def test_an_unordered_stream_yields_jobs_as_they_end() -> None:
    gate = Gate()

    with ThreadPool(2) as pool:
        jobs = pool.stream(lambda n: gate(n) if n == 0 else n, range(5))

        assert [next(jobs).result() for _ in range(4)] == [1, 2, 3, 4], "while the first is still in the gate"
        gate.open()
        assert next(jobs).result() == 0
        with pytest.raises(StopIteration):
            next(jobs)


@BOTH_ORDERS
def test_stream_takes_inputs_without_end(ordered: bool) -> None:
    reader = Reader()

    with ThreadPool(2, backlog=4) as pool:
        jobs = pool.stream(abs, reader, ordered=ordered)
        assert reader.read == 0, "nothing is read before somebody iterates"
        taken = [next(jobs).result() for _ in range(100)]
        jobs.close()  # type: ignore[attr-defined]

        assert len(set(taken)) == 100
        assert reader.read <= 104
        if ordered:
            assert taken == list(range(1, 101))


@BOTH_ORDERS
def test_no_more_than_buffersize_jobs_of_a_stream_are_under_way(ordered: bool) -> None:
    reader = Reader()

    with ThreadPool(4) as pool:
        jobs = pool.stream(abs, reader, ordered=ordered, buffersize=3)
        for taken in range(1, 50):
            next(jobs)
            assert reader.read - taken <= 3
        jobs.close()  # type: ignore[attr-defined]


@BOTH_ORDERS
def test_a_stream_uses_all_workers_even_with_a_backlog_of_one(ordered: bool) -> None:
    together = threading.Barrier(3)

    with ThreadPool(3, backlog=1) as pool:
        jobs = list(pool.stream(lambda _: together.wait(GUARD), range(3), ordered=ordered))

        assert {job.state for job in jobs} == {JobState.DONE}


@BOTH_ORDERS
@pytest.mark.parametrize("when_full", ["reject", "caller"])
def test_a_stream_keeps_within_the_backlog_so_that_nothing_is_refused(ordered: bool, when_full: Any) -> None:
    with ThreadPool(2, backlog=3, when_full=when_full) as pool:
        jobs = list(pool.stream(abs, range(50), ordered=ordered))

        assert len(jobs) == 50
        assert {job.worker for job in jobs} <= {f"{pool.name}_0", f"{pool.name}_1"}


@BOTH_ORDERS
def test_abandoning_a_stream_cancels_only_what_has_not_started(ordered: bool) -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        jobs = pool.stream(lambda n: n and gate(n), range(10), ordered=ordered)
        assert next(jobs).result() == 0
        gate.wait_entered()
        jobs.close()  # type: ignore[attr-defined]

        assert pool.report.cancelled == 8
        assert pool.stats().running == 1
        gate.open()
    assert pool.report.done == 2


@BOTH_ORDERS
def test_an_input_that_can_not_be_read_ends_the_stream_with_its_error(ordered: bool) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with ThreadPool(1) as pool:
        with pytest.raises(OSError, match="no more"):
            list(pool.stream(abs, inputs(), ordered=ordered))


@BOTH_ORDERS
def test_a_stream_whose_pool_is_closed_yields_what_is_under_way_and_then_says_so(ordered: bool) -> None:
    with ThreadPool(1, backlog=3) as pool:
        taken = []
        with pytest.raises(PoolClosed):
            for job in pool.stream(abs, Reader(), ordered=ordered):
                taken.append(job.result())
                if len(taken) == 5:
                    pool.close()

        assert len(taken) == pool.report.accepted, "each of them was given"


@BOTH_ORDERS
def test_a_stream_whose_inputs_were_all_read_when_its_pool_is_closed_just_ends(ordered: bool) -> None:
    with ThreadPool(1) as pool:
        taken = []
        for job in pool.stream(abs, range(5), ordered=ordered):
            taken.append(job.result())
            pool.close()

        assert sorted(taken) == list(range(5))


def test_a_stream_that_waits_for_a_place_is_woken_by_close() -> None:
    def consume() -> list[int]:
        taken: list[int] = []
        with pytest.raises(PoolClosed):
            for job in full.pool.stream(abs, range(10)):
                taken.append(job.result())
        return taken

    with full_pool() as full:
        consuming = in_thread(consume)
        full.line.wait_for_one_more()
        full.pool.close()

        assert consuming.result(GUARD) == []


@BOTH_ORDERS
def test_two_streams_of_one_pool_both_end(ordered: bool) -> None:
    with ThreadPool(2, backlog=2) as pool:
        streams = [in_thread(lambda: len(list(pool.stream(abs, range(100), ordered=ordered)))) for _ in range(3)]

        assert [stream.result(GUARD) for stream in streams] == [100] * 3


@BOTH_ORDERS
def test_a_stream_keeps_no_job_before_the_last_one_that_was_taken(ordered: bool) -> None:
    with ThreadPool(1) as pool:
        gone = threading.Event()
        jobs = pool.stream(abs, range(3), ordered=ordered)
        watch: weakref.ref[Job[Any]] = weakref.ref(next(jobs), lambda _: gone.set())
        next(jobs)

        assert gone.wait(GUARD)
        assert watch() is None
        list(jobs)


@BOTH_ORDERS
def test_a_stream_on_a_full_pool_that_rejects_says_so(ordered: bool) -> None:
    with full_pool(when_full="reject") as full, pytest.raises(BacklogFull):
        list(full.pool.stream(abs, range(3), ordered=ordered))


def test_each_input_of_a_map_is_told_as_accepted_once() -> None:
    with held_pool(backlog=1) as (pool, gate):
        seen = Seen(pool)
        pool.map(abs, range(5))
        gate.open()

    assert [event.id for event in seen.of(JobAccepted)] == [2, 3, 4, 5, 6]


def test_an_input_that_a_stop_overtakes_on_its_way_outside_the_backlog_is_cut() -> None:
    gate = Gate()
    pool = ThreadPool(1, backlog=1)
    backlog = pool._crew.backlog
    put_in_line = backlog.put_in_line

    def be_overtaken_and_put(job: Job[Any], line: Line) -> None:
        cancel(pool._crew)
        put_in_line(job, line)

    backlog.put_in_line = be_overtaken_and_put  # type: ignore[method-assign]
    pool.submit(gate)
    gate.wait_entered()
    jobs = pool._crew.intake.accept_all(pool._terms, abs, iter([(-1,), (-2,)]))
    gate.open()

    assert [job.cancelled() for job in jobs] == [True, True]
    assert pool.shutdown().balanced
