"""One suite for every kind of pool: what `Pool` promises, whatever its workers are."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    BacklogFull,
    Context,
    DeadlineExceeded,
    ExecutorPool,
    Incomplete,
    JobAbandoned,
    JobCancelled,
    JobKilled,
    JobState,
    PoolBroken,
    PoolClosed,
    ProcessPool,
    Retry,
    ThreadPool,
    events,
)
from penstock.pool.executor import Pool
from tests.gates import GUARD, in_thread, slack
from tests.pool import crossing
from tests.pool.crossing import (
    CrossGate,
    cancel_itself,
    capture,
    double,
    fail,
    fail_until,
    sleep_until_cancelled,
    wait_for_itself,
)
from tests.pool.watching import Seen, until

Make = Callable[..., Pool]


def threads(workers: int, **options: Any) -> Pool:
    return ThreadPool(workers, **options)


def processes(workers: int, **options: Any) -> Pool:
    return ProcessPool(workers, **options)


def around_threads(workers: int, **options: Any) -> Pool:
    return ExecutorPool(concurrent.futures.ThreadPoolExecutor(workers), shutdown_executor=True, **options)


@pytest.fixture(params=[threads, processes, around_threads])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


kinds_that_make_their_workers = pytest.mark.parametrize("make", [threads, processes])
"""In place of all kinds: for what an ExecutorPool refuses, as its workers are the executor's."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[CrossGate]:
    gate = CrossGate(tmp_path)
    yield gate
    gate.close()


# Submitting


def test_a_job_gives_what_its_function_returns(make: Make) -> None:
    with make(2) as pool:
        jobs = [pool.submit(double, n) for n in range(50)]

        assert [job.result(GUARD) for job in jobs] == [2 * n for n in range(50)]
        assert {job.state for job in jobs} == {JobState.DONE}
        assert all(job.attempt == 1 for job in jobs)
        assert all(job.ran is not None and job.ran >= 0 and job.waited is not None for job in jobs)
    assert pool.report.done == 50


def test_every_keyword_is_the_functions(make: Make) -> None:
    with make(1) as pool:
        assert pool.submit(capture, 1, self=2, fn=3).result(GUARD) == ((1,), {"self": 2, "fn": 3})


def test_an_error_comes_out_where_the_result_is_asked_for_with_the_place_where_it_was_raised(make: Make) -> None:
    with make(1, unobserved="ignore") as pool:
        job = pool.submit(fail, 7)

        with pytest.raises(ValueError, match="it failed") as caught:
            job.result(GUARD)

    assert caught.value.args == ("it failed", 7)
    text = "".join(traceback.format_exception(caught.value))
    assert "in fail" in text
    assert 'raise ValueError("it failed", *args)' in text


def test_an_exit_in_a_job_is_its_own_and_takes_no_worker_along(make: Make) -> None:
    with make(1, unobserved="ignore") as pool:
        with pytest.raises(SystemExit):
            pool.submit(sys.exit, 3).result(GUARD)
        assert pool.submit(double, 2).result(GUARD) == 4


def test_the_stdlibs_wait_and_as_completed_and_wrap_future_work(make: Make) -> None:
    with make(2) as pool:
        jobs = [pool.submit(double, n) for n in range(5)]
        assert concurrent.futures.wait(jobs, GUARD).done == set(jobs)
        assert {job.result() for job in concurrent.futures.as_completed(jobs, GUARD)} == {0, 2, 4, 6, 8}

        async def wrapped() -> int:
            loop = asyncio.get_running_loop()
            return await asyncio.wrap_future(pool.submit(double, 4)) + await loop.run_in_executor(pool, double, 5)

        assert asyncio.run(wrapped()) == 18


def test_a_coroutine_can_submit_await_and_run(make: Make) -> None:
    async def talk() -> list[int]:
        job = await pool.asubmit(double, 1)
        return [await job, await pool.run(double, 2)]

    with make(1) as pool:
        assert asyncio.run(talk()) == [2, 4]


def test_a_pool_starts_its_workers_before_traffic(make: Make) -> None:
    with make(3) as pool:
        assert pool.start() is pool
        assert pool.stats().workers == 3


@pytest.mark.parametrize("fn", ["text", None, 7])
def test_what_is_no_function_is_refused_at_the_call(make: Make, fn: Any) -> None:
    with make(1) as pool, pytest.raises(TypeError, match="callable"):
        pool.submit(fn)


def test_generators_and_coroutines_are_refused_at_the_call(make: Make) -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    with make(1) as pool:
        for fn in (coroutine, generator):
            with pytest.raises(TypeError, match="function"):
                pool.submit(fn)


# Map and stream


def test_map_gives_results_in_order_and_runs_all_even_if_nobody_iterates(make: Make) -> None:
    with make(2, backlog=3) as pool:
        assert list(pool.map(double, range(100))) == [2 * n for n in range(100)]
        pool.map(double, range(20))
    assert pool.report.done == 120


def test_map_with_a_chunksize_gives_the_same_results(make: Make) -> None:
    with make(2) as pool:
        assert list(pool.map(pow, range(100), itertools.repeat(2), chunksize=7)) == [n * n for n in range(100)]
        assert list(pool.map(len, [(1, 2), (), (3,)], chunksize=2)) == [2, 0, 1]
        assert list(pool.map(pow, chunksize=2)) == []


def test_stream_takes_endless_inputs(make: Make) -> None:
    with make(2, backlog=5) as pool:
        stream = pool.stream(double, itertools.count(), ordered=True)
        assert [job.result() for job in itertools.islice(stream, 30)] == [2 * n for n in range(30)]
        stream.close()  # type: ignore[attr-defined]


# The backlog


def test_no_more_wait_than_the_backlog_takes(make: Make, gate: CrossGate) -> None:
    with make(1, backlog=3, when_full="reject") as pool:
        running = pool.submit(gate)
        gate.wait_entered()
        waiting = [pool.submit(double, n) for n in range(3)]
        with pytest.raises(BacklogFull):
            pool.submit(double, 4)
        assert pool.report.waiting == 3
        assert (running.state, {job.state for job in waiting}) == (JobState.RUNNING, {JobState.READY})
        gate.open()


def test_a_full_submit_goes_on_when_a_place_is_free(make: Make, gate: CrossGate) -> None:
    with make(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        third = in_thread(pool.submit, double, 2)
        assert not third.done()
        gate.open()
        assert third.result(GUARD).result(GUARD) == 4


def test_a_full_backlog_runs_the_job_in_the_caller_if_asked_to(make: Make, gate: CrossGate) -> None:
    with make(1, backlog=1, when_full="caller") as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        here = pool.submit(crossing.pid_of_worker)
        assert here.done()
        assert here.result() == crossing.pid_of_worker()
        gate.open()


def test_a_job_that_runs_in_its_caller_can_not_wait_for_itself_either(make: Make, gate: CrossGate) -> None:
    with make(1, backlog=1, when_full="caller") as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        assert "can't wait for itself" in pool.submit(wait_for_itself).result(GUARD)
        gate.open()


def test_a_job_that_failed_in_its_caller_is_tried_again_by_a_worker(
    make: Make, gate: CrossGate, tmp_path: Path
) -> None:
    retry = Retry(3, on=(ConnectionError,), wait=0)
    with make(1, backlog=1, when_full="caller", retry=retry) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        jobs = [
            pool.submit(crossing.fail_until, str(tmp_path / "tries"), 1),
            pool.submit(crossing.fail_until, path=str(tmp_path / "more tries"), times=1),
        ]
        assert [(job.done(), job.attempt) for job in jobs] == [(False, 1), (False, 1)]
        gate.open()
        assert [(job.result(GUARD), job.attempt) for job in jobs] == [(2, 2), (2, 2)]


def test_a_full_backlog_is_refused_on_the_thread_of_a_loop(make: Make, gate: CrossGate) -> None:
    async def submit() -> None:
        with pytest.raises(BacklogFull, match="asubmit"):
            pool.submit(double, 2)

    with make(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        asyncio.run(submit())
        gate.open()


def test_no_more_run_than_there_are_workers(make: Make, gate: CrossGate) -> None:
    with make(2, backlog=10) as pool:
        jobs = [pool.submit(gate) for _ in range(6)]
        gate.wait_entered(2)
        assert pool.stats().running == 2
        assert sum(job.running() for job in jobs) == 2
        gate.open()
        for job in jobs:
            job.result(GUARD)


# Cancelling


def test_a_waiting_job_is_cancelled_at_once_and_its_waiters_hear_it(make: Make, gate: CrossGate) -> None:
    with make(1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        jobs = [pool.submit(double, n) for n in range(5)]
        waiting = in_thread(concurrent.futures.wait, jobs[1:2])

        assert jobs[1].cancel()
        assert jobs[1].cancelled()
        assert waiting.result(GUARD).done == {jobs[1]}
        with pytest.raises(JobCancelled):
            jobs[1].result(0)
        gate.open()
        assert [job.result(GUARD) for job in jobs if job is not jobs[1]] == [0, 4, 6, 8]
    assert (pool.report.cancelled, pool.report.done) == (1, 5)


def test_cancel_reaches_a_running_job_through_its_context(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with make(1) as pool:
        job = pool.submit(sleep_until_cancelled, str(told))
        until(lambda: Path(f"{told}.begun").exists())

        assert not job.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            job.result(GUARD)
    assert told.read_text() == "enough"
    assert pool.report.cancelled == 1


def test_a_job_may_cancel_itself(make: Make) -> None:
    with make(1) as pool:
        job = pool.submit(cancel_itself)

        with pytest.raises(JobCancelled, match="it had enough"):
            job.result(GUARD)


def test_a_job_that_waits_for_itself_is_refused(make: Make) -> None:
    with make(1) as pool:
        assert "can't wait for itself" in pool.submit(wait_for_itself).result(GUARD)


def test_the_context_of_a_running_job_can_be_cancelled_too(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with make(1) as pool:
        job = pool.submit(sleep_until_cancelled, str(told))
        until(lambda: Path(f"{told}.begun").exists())
        job.context.cancel("no more")
        with pytest.raises(JobCancelled, match="no more"):
            job.result(GUARD)


def test_a_context_given_to_jobs_cancels_those_that_wait_and_those_that_run(make: Make, tmp_path: Path) -> None:
    context = Context()
    told = tmp_path / "told"
    with make(1) as pool:
        view = pool.options(context=context)
        running = view.submit(sleep_until_cancelled, str(told))
        waiting = view.submit(double, 1)
        until(lambda: Path(f"{told}.begun").exists())
        context.cancel("all of it")
        for job in (running, waiting):
            with pytest.raises(JobCancelled, match="all of it"):
                job.result(GUARD)
        assert waiting.cancelled()


def test_a_task_that_times_out_in_asyncio_trips_the_job_it_waits_for(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def give_up() -> None:
        loop = asyncio.get_running_loop()
        waiting = loop.run_in_executor(pool, sleep_until_cancelled, str(told))
        await asyncio.to_thread(until, lambda: Path(f"{told}.begun").exists())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.01)

    with make(1) as pool:
        asyncio.run(give_up())
        until(told.exists)


# Time


def test_a_job_whose_time_is_over_before_it_began_is_not_run(make: Make, gate: CrossGate, tmp_path: Path) -> None:
    with make(1, unobserved="ignore") as pool:
        pool.submit(gate)
        gate.wait_entered()
        late = pool.options(context=Context(0.05)).submit(fail_until, str(tmp_path / "ran"), 0)
        with pytest.raises(DeadlineExceeded, match="never started") as caught:
            late.result(GUARD)
        assert not caught.value.started
        gate.open()
    assert not (tmp_path / "ran").exists()


def test_a_job_that_looks_at_its_context_stops_at_its_deadline(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with make(1, timeout=0.2, unobserved="ignore") as pool:
        job = pool.submit(sleep_until_cancelled, str(told))
        with pytest.raises(DeadlineExceeded, match=r"its limit of 0\.2 s"):
            job.result(GUARD)
        until(told.exists)
        assert pool.options(timeout=GUARD).submit(double, 3).result(GUARD) == 6
    assert pool.report.failed == 1


def test_a_job_inherits_what_is_left_of_its_time_and_the_values(make: Make) -> None:
    with make(1) as pool:
        with Context(30, values={"user": "ann"}):
            job = pool.options(id="seven", name="look").submit(crossing.seen)
        id_, name, attempt, values, left = job.result(GUARD)
    assert (id_, name, attempt, values) == ("seven", "look", 1, {"user": "ann"})
    assert isinstance(left, float)
    assert 0 < left <= 30


def test_nothing_of_one_job_is_seen_by_the_next(make: Make) -> None:
    with make(1) as pool:
        assert (
            pool.options(context=Context(values={"user": "ann"})).submit(crossing.value_of, "user").result(GUARD)
            == "ann"
        )
        assert pool.submit(crossing.value_of, "user").result(GUARD) is None


# Retry and failures


def test_a_failed_job_is_tried_again(make: Make, tmp_path: Path) -> None:
    with make(1) as pool:
        view = pool.options(retry=Retry(3, on=(ConnectionError,), wait=0))
        job = view.submit(fail_until, str(tmp_path / "tries"), 2)
        assert job.result(GUARD) == 3
        assert job.attempt == 3


def test_failures_are_counted_by_kind(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with make(2) as pool:
        for n in range(10):
            pool.submit(fail, n)
        pool.submit(fail_until, "/nowhere/at/all", 0)
    kinds = {failure.type: failure for failure in pool.failures}
    assert pool.failures.total == 11
    assert kinds["ValueError"].count == 10
    assert "in fail" in kinds["ValueError"].where
    assert "raise ValueError" in kinds["ValueError"].traceback
    assert kinds["FileNotFoundError"].count == 1


def test_failures_that_nobody_saw_leave_the_block(make: Make) -> None:
    with pytest.raises(ExceptionGroup) as caught, make(1, unobserved="raise") as pool:
        pool.submit(fail, 1)
        seen = pool.submit(fail, 2)
        assert isinstance(seen.exception(GUARD), ValueError)
    assert [error.args for error in caught.value.exceptions] == [("it failed", 1)]


@pytest.mark.parametrize("kind", crossing.ODD_ERRORS)
def test_an_error_that_is_odd_itself_ends_its_job_and_no_worker(make: Make, kind: type[Exception]) -> None:
    with make(1) as pool:
        job = pool.submit(crossing.raise_one, kind)
        assert type(job.exception(GUARD)) is kind
        assert pool.submit(double, 2).result(GUARD) == 4

    assert (pool.report.failed, pool.report.done, pool.failures.total) == (1, 1, 1)
    assert [failure.type for failure in pool.failures] == [kind.__name__]


def test_odd_errors_that_nobody_looked_at_leave_the_block_together(make: Make) -> None:
    with pytest.raises(ExceptionGroup) as caught, make(1, unobserved="raise") as pool:
        for kind in crossing.ODD_ERRORS:
            pool.submit(crossing.raise_one, kind)

    assert [type(error) for error in caught.value.exceptions] == crossing.ODD_ERRORS


# Around, initializer, observers


@kinds_that_make_their_workers
def test_each_job_runs_inside_of_around(make: Make) -> None:
    with make(1, around=crossing.around_each) as pool:
        assert pool.submit(crossing.inside_of_around).result(GUARD) == "inside"


@kinds_that_make_their_workers
def test_the_initializer_runs_before_the_first_job(make: Make) -> None:
    crossing.INITIALIZED.clear()
    with make(1, initializer=crossing.initialize, initargs=(5,)) as pool:
        assert pool.submit(crossing.initialized).result(GUARD) == [5]


@kinds_that_make_their_workers
def test_an_initializer_that_raises_breaks_the_pool_once(make: Make) -> None:
    pool = make(2, initializer=crossing.fail_to_initialize)
    job = pool.submit(double, 1)
    with pytest.raises(PoolBroken):
        job.result(GUARD)
    with pytest.raises(PoolBroken, match="no licence"):
        pool.submit(double, 1)
    with pytest.raises(ValueError, match="no licence"):
        pool.start()
    report = pool.shutdown(timeout=GUARD)
    assert report.balanced
    assert report.failed == 1


def test_observers_hear_of_every_step(make: Make) -> None:
    with make(1) as pool:
        seen = Seen(pool)
        job = pool.submit(double, 1)
        job.result(GUARD)
    ended = seen.wait_for(events.JobEnded)
    assert (ended.id, ended.state, ended.attempt) == (job.id, "done", 1)
    seen.wait_for(events.JobAccepted)
    seen.wait_for(events.JobStarted)
    seen.wait_for(events.WorkerStarted)
    seen.wait_for(events.WorkerStopped)
    seen.wait_for(events.PoolStopped)


# Stopping


def test_leaving_the_block_waits_for_accepted_jobs(make: Make, gate: CrossGate) -> None:
    def live() -> Pool:
        with make(1) as pool:
            for _ in range(3):
                pool.submit(gate)
        return pool

    living = in_thread(live)
    gate.wait_entered()
    assert not living.done()
    gate.open()
    report = living.result(GUARD).report
    assert (report.done, report.ok, report.closed) == (3, True, True)


def test_a_closed_pool_takes_no_job(make: Make) -> None:
    with make(1) as pool:
        pool.close()
        with pytest.raises(PoolClosed, match="cannot schedule new futures"):
            pool.submit(double, 1)


def test_a_stop_ends_in_time_though_a_job_hangs_and_says_what_became_of_each(make: Make, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    pool = make(1)
    hung = pool.submit(crossing.ignore_everything, str(hangs))
    waiting = [pool.submit(double, n) for n in range(3)]
    until(hangs.exists)
    begun = time.monotonic()

    report = pool.shutdown(timeout=0.6)

    assert time.monotonic() - begun < slack(1.6)
    assert report.balanced
    assert report.cancelled == 3
    assert report.killed + report.abandoned == 1
    assert report.cut == 4
    assert not report.ok
    assert hung.state in (JobState.KILLED, JobState.ABANDONED)
    with pytest.raises((JobKilled, JobAbandoned), match="its pool had to stop"):
        hung.result(0)
    assert all(job.cancelled() for job in waiting)
    crossing.free(hangs)


def test_a_stop_asks_running_jobs_first(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    pool = make(1)
    job = pool.submit(sleep_until_cancelled, str(told))
    until(lambda: Path(f"{told}.begun").exists())
    report = pool.shutdown(timeout=3)
    assert told.read_text() == "the pool is stopping"
    assert job.state is JobState.CANCELLED
    assert (report.cancelled, report.cut, report.killed, report.abandoned) == (1, 1, 0, 0)


def test_an_exception_that_leaves_the_block_stops_within_the_grace(make: Make, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    begun = time.monotonic()
    with pytest.raises(KeyError) as caught, make(1, grace=0.6) as pool:
        pool.submit(crossing.ignore_everything, str(hangs))
        until(hangs.exists)
        begun = time.monotonic()
        raise KeyError("mine")
    assert time.monotonic() - begun < slack(1.6)
    assert "1 accepted" in caught.value.__notes__[0]
    crossing.free(hangs)


def test_a_block_whose_jobs_were_cut_is_incomplete(make: Make, gate: CrossGate) -> None:
    with pytest.raises(Incomplete), make(1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(double, 1)
        stopping = in_thread(pool.shutdown, timeout=0.3)
        stopping.result(GUARD)


def test_close_and_wait_are_the_pair_of_go(make: Make) -> None:
    pool = make(2)
    for n in range(5):
        pool.submit(double, n)
    pool.close()
    report = pool.wait(GUARD)
    assert (report.done, report.ok) == (5, True)
    assert pool.shutdown() == pool.report


def test_many_may_stop_a_pool_at_once(make: Make) -> None:
    pool = make(2)
    jobs = [pool.submit(double, n) for n in range(20)]
    stops = [in_thread(pool.shutdown, timeout=GUARD) for _ in range(4)]
    assert {stop.result(GUARD).done for stop in stops} == {20}
    assert all(job.done() for job in jobs)


def test_shutdown_can_cancel_what_waits(make: Make, gate: CrossGate) -> None:
    pool = make(1)
    pool.submit(gate)
    gate.wait_entered()
    waiting = [pool.submit(double, n) for n in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(job.cancelled() for job in waiting)
    gate.open()
    assert pool.shutdown().done == 1


def test_a_forgotten_pool_does_what_was_accepted(make: Make) -> None:
    pool = make(1)
    jobs = [pool.submit(double, n) for n in range(5)]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert [job.result(GUARD) for job in jobs] == [0, 2, 4, 6, 8]


def test_a_long_wait_says_what_it_waits_for(
    make: Make, gate: CrossGate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pool.ladder._BETWEEN_WORDS", 0.05)
    with caplog.at_level(logging.WARNING, "penstock.stop"):
        pool = make(1)
        pool.submit(gate)
        gate.wait_entered()
        closing = in_thread(pool.shutdown)
        until(lambda: "still waiting" in caplog.text)
        gate.open()
        closing.result(GUARD)
    assert "has run for" in caplog.text
    assert "_stay" in caplog.text


def test_no_reference_is_kept_to_arguments_and_results(make: Make) -> None:
    with make(1) as pool:
        thing = crossing.Thing()
        gone = weakref.ref(thing)
        pool.submit(crossing.ignore, thing).result(GUARD)
        del thing
        until(lambda: gc.collect() is not None and gone() is None)


def test_threads_of_ours_end_with_the_pool(make: Make) -> None:
    before = set(threading.enumerate())
    with make(2) as pool:
        pool.submit(double, 1)
    lasting = ("penstock-timers", "penstock-callbacks")
    left = [t.name for t in set(threading.enumerate()) - before if t.is_alive() and not t.name.startswith(lasting)]
    assert not left
