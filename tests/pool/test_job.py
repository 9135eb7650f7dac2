"""The handle of a job: its life, what it tells, and what it is in asyncio and in the stdlib's words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import math
import threading
from collections import defaultdict
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, InvalidStateError, as_completed, wait
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Context, DeadlineExceeded, Job, JobState, Retry, ThreadPool, current_context, current_job
from penstock.job import FINAL, MOVES
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import full_pool, held_pool, until

# Its life


def test_moves_tell_of_every_state_and_no_final_state_has_a_way_out() -> None:
    assert set(MOVES) == set(JobState)
    assert {state for state, ways in MOVES.items() if not ways} == FINAL
    assert {state for ways in MOVES.values() for state in ways} == set(JobState)


def test_a_job_is_made_by_a_pool_alone() -> None:
    with pytest.raises(TypeError, match=r"pool\.submit"):
        Job()
    with ThreadPool(1) as pool:
        job = pool.submit(int)

    assert isinstance(job, Job)
    assert type(job).__qualname__ == "Job"


def test_states_are_lower_case_words() -> None:
    assert [str(state) for state in JobState] == [state.name.lower() for state in JobState]


class WatchedStage:
    """In the place of the slot `_stage`: notes every value that is written to a job, in order."""

    def __init__(self) -> None:
        self._slot: Any = Job.__dict__["_stage"]
        self.lives: dict[Job[Any], list[JobState]] = defaultdict(list)

    def __get__(self, job: Job[Any] | None, kind: type | None = None) -> Any:
        return self if job is None else self._slot.__get__(job, kind)

    def __set__(self, job: Job[Any], stage: JobState) -> None:
        self.lives[job].append(stage)
        self._slot.__set__(job, stage)


def fall() -> None:
    raise ValueError("fell")


def fall_once() -> None:
    job = current_job()
    assert job is not None
    if job.attempt == 1:
        fall()


def rest() -> None:
    current_context().sleep(GUARD)


AGAIN = Retry(2, wait=0)
LATER = Retry(2, wait=3600, max_wait=3600)
DESPITE_ALL = Retry(2, on=(Exception, DeadlineExceeded), wait=0)

# How a job may live: its function, its options, what is done to it after its submit.
LIVES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "returns": (int, {}, ""),
    "raises": (fall, {}, ""),
    "raises once": (fall_once, {"retry": AGAIN}, ""),
    "raises twice": (fall, {"retry": AGAIN}, ""),
    "is cancelled at once": (int, {}, "cancel"),
    "is cancelled in some attempt": (fall_once, {"retry": AGAIN}, "cancel"),
    "waits for long and is cancelled": (fall, {"retry": LATER}, "cancel when scheduled"),
    "is cancelled as it runs": (rest, {}, "cancel when running"),
    "overruns": (rest, {"timeout": 0.001}, ""),
    "overruns twice": (rest, {"timeout": 0.001, "retry": DESPITE_ALL}, ""),
    "comes too late": (int, {"context": "expired"}, ""),
    "has a parent that is cancelled": (rest, {"context": "cancelled later"}, "cancel parent"),
    "is cut": (rest, {}, "leave it"),
    "is cut before another attempt": (fall, {"retry": LATER}, "leave it"),
}


@settings(max_examples=30)
@given(
    names=st.lists(st.sampled_from(sorted(LIVES)), min_size=1, max_size=8),
    workers=st.integers(1, 3),
)
def test_whatever_happens_to_it_a_job_only_makes_allowed_moves(names: list[str], workers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stages = WatchedStage()
        patch.setattr(Job, "_stage", stages)
        pool = ThreadPool(workers, stuck_after=60)
        jobs = [live(pool, *LIVES[name]) for name in names if LIVES[name][2] != "leave it"]
        assert not wait(jobs, GUARD).not_done
        jobs += [live(pool, *LIVES[name]) for name in names if LIVES[name][2] == "leave it"]
        pool.shutdown(timeout=0)

        assert all(job.done() for job in jobs)
        until(lambda: not pool.stats().workers)
        for job in jobs:
            life = stages.lives[job]
            assert life[0] is JobState.READY
            assert life[-1] in FINAL
            assert all(after in MOVES[before] for before, after in itertools.pairwise(life)), life


def live(pool: ThreadPool, fn: Any, options: dict[str, Any], then: str) -> Job[Any]:
    given = dict(options)
    parent = Context(timeout=0 if options.get("context") == "expired" else None)
    if "context" in options:
        given["context"] = parent
    job: Job[Any] = pool.options(**given).submit(fn)
    if then == "cancel":
        job.cancel()
    elif then == "cancel parent":
        parent.cancel()
    elif then == "cancel when scheduled":
        until(lambda: job.state is JobState.SCHEDULED)
        job.cancel()
    elif then == "cancel when running":
        until(lambda: job.running())
        job.cancel()
    return job


def test_the_states_of_a_job_as_its_holder_sees_them() -> None:
    with full_pool() as full:
        states = [str(full.waiting[0].state), str(full.running.state)]
        full.gate.open()
        full.waiting[0].result(GUARD)
        failed = full.pool.submit(fall)
        failed.exception(GUARD)
        states += [str(full.waiting[0].state), str(failed.state)]

    assert states == ["ready", "running", "done", "failed"]


# What it tells


def test_a_job_that_waits_knows_nothing_of_its_run_yet() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)

        assert (job.attempt, job.waited, job.ran, job.worker, job.stack()) == (0, None, None, None, "")
        assert (job.done(), job.running(), job.cancelled()) == (False, False, False)


def test_a_job_that_runs_tells_how_long_and_where() -> None:
    with held_pool(thread_name_prefix="w") as (pool, gate):
        job = pool.submit(int)
        gate.open()
        job.result(GUARD)

        assert job.worker == "w_0"
        assert job.waited is not None
        assert job.waited > 0

    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.submit(gate)
        gate.wait_entered()
        first = job.ran
        assert first is not None
        assert (job.attempt, job.running(), job.done()) == (1, True, False)
        until(lambda: (job.ran or 0.0) > first)
        gate.open()
        job.result(GUARD)
        assert job.ran is not None
        assert job.ran > first


def test_stack_shows_where_a_running_job_stands_from_the_users_first_frame_on() -> None:
    gate = Gate()

    def outer() -> None:
        inner()

    def inner() -> None:
        gate()

    with ThreadPool(1) as pool:
        job = pool.submit(outer)
        gate.wait_entered()
        lines = [line for line in job.stack().splitlines() if line.startswith("  File")]
        assert lines[0].endswith("in outer")
        assert lines[1].endswith("in inner")
        assert "penstock/pool" not in job.stack()
        gate.open()
        job.result(GUARD)
        assert job.stack() == ""


def test_stack_of_a_job_in_its_caller_is_that_of_the_caller() -> None:
    stacks = []

    def look() -> None:
        job = current_job()
        assert job is not None
        stacks.append(job.stack())

    with full_pool(when_full="caller") as full:
        full.pool.submit(look)

    assert "in look" in stacks[0]


def test_repr_tells_id_name_and_state() -> None:
    with held_pool() as (pool, gate):
        job = pool.options(id=7, name="sum").submit(int)
        assert repr(job) == "<Job 7 sum ready>"
        gate.open()
        job.result(GUARD)
        assert repr(job) == "<Job 7 sum done>"


def test_only_the_pool_moves_a_job() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)
        for move in (
            job.set_running_or_notify_cancel,
            lambda: job.set_result(1),
            lambda: job.set_exception(ValueError()),
        ):
            with pytest.raises(InvalidStateError, match="job 2"):
                move()

        assert job.state is JobState.READY


# The Future's contract


def test_result_and_exception_wait_at_most_their_timeout() -> None:
    with held_pool() as (pool, gate):
        job = pool.submit(abs, -1)
        with pytest.raises(TimeoutError):
            job.result(0.05)
        with pytest.raises(TimeoutError):
            job.exception(0)
        gate.open()

        assert job.result(GUARD) == 1
        assert job.exception(0) is None


@pytest.mark.parametrize("timeout", [-1, -0.5, -math.inf, math.nan])
def test_a_timeout_below_zero_is_over_at_once(timeout: float) -> None:
    with held_pool() as (pool, gate):
        job = pool.submit(abs, -1)

        waiting = in_thread(job.exception, timeout)

        assert isinstance(waiting.exception(GUARD), TimeoutError)
        gate.open()


def test_a_job_that_raised_timeout_error_is_not_confused_with_a_wait_that_timed_out() -> None:
    def time_out() -> None:
        raise TimeoutError("of the job itself")

    with ThreadPool(1) as pool:
        job = pool.submit(time_out)

        with pytest.raises(TimeoutError, match="of the job itself"):
            job.result(GUARD)


def test_many_threads_may_wait_for_one_job() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.submit(gate, 5)
        asking = [in_thread(job.result) for _ in range(20)]
        gate.open()

        assert [asked.result(GUARD) for asked in asking] == [5] * 20


def test_result_raises_the_very_error_each_time() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(fall)
        errors = []
        for _ in range(2):
            with pytest.raises(ValueError, match="fell") as caught:
                job.result(GUARD)
            errors.append(caught.value)

        assert errors[0] is errors[1] is job.exception(0)


def test_jobs_are_futures_for_wait_and_as_completed() -> None:
    gate = Gate()
    with ThreadPool(2) as pool:
        held, quick, bad = pool.submit(gate), pool.submit(abs, -1), pool.submit(fall)
        assert isinstance(held, Future)

        done, not_done = wait([held, quick, bad], GUARD, FIRST_EXCEPTION)
        assert bad in done
        assert held in not_done
        assert next(as_completed([held, quick], GUARD)) is quick
        with pytest.raises(TimeoutError):
            list(as_completed([held], 0))
        assert wait([held], 0).not_done == {held}
        gate.open()
        assert wait([held, quick, bad], GUARD, ALL_COMPLETED).done == {held, quick, bad}


def test_as_completed_yields_every_job_once_while_they_end() -> None:
    with ThreadPool(4) as pool:
        for _ in range(20):
            jobs = [pool.submit(int) for _ in range(50)]

            assert len(list(as_completed(jobs, GUARD))) == 50


def test_callbacks_are_called_in_order_with_the_job_on_the_worker() -> None:
    gate = Gate()
    called: list[tuple[int, Any, str]] = []

    with ThreadPool(1, thread_name_prefix="w") as pool:
        job = pool.submit(gate)
        for number in range(3):
            job.add_done_callback(lambda j, n=number: called.append((n, j, threading.current_thread().name)))  # type: ignore[misc]
        gate.open()

    assert called == [(number, job, "w_0") for number in range(3)]


def test_a_callback_on_a_job_that_has_ended_is_called_at_once() -> None:
    called: list[tuple[Future[int], int]] = []
    with ThreadPool(1) as pool:
        job = pool.submit(int)
        job.result(GUARD)
        job.add_done_callback(lambda j: called.append((j, threading.get_ident())))

    assert called == [(job, threading.get_ident())]


def test_a_callback_that_raises_harms_neither_the_others_nor_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    called: list[Any] = []

    def broken(_job: Future[Any]) -> None:
        raise RuntimeError("broken callback")

    with ThreadPool(1) as pool:
        job = pool.submit(gate)
        job.add_done_callback(broken)
        job.add_done_callback(called.append)
        gate.open()
        assert pool.submit(int).result(GUARD) == 0

    assert called == [job]
    assert "broken callback" in caplog.text


def test_a_callback_may_submit_the_next_job() -> None:
    second: Future[Job[int]] = Future()
    with ThreadPool(1) as pool:
        pool.submit(int).add_done_callback(lambda _: second.set_result(pool.submit(abs, -2)))

        assert second.result(GUARD).result(GUARD) == 2


@pytest.mark.parametrize("settled_by", ["worker", "cancel", "deadline", "stop"])
def test_whoever_settles_a_job_each_callback_is_called_once(settled_by: str) -> None:
    called: list[Any] = []
    was_called = threading.Event()

    def note(job: Any) -> None:
        called.append(job)
        was_called.set()

    with held_pool() as (pool, gate):
        context = Context(timeout=0.05 if settled_by == "deadline" else None)
        job = pool.options(context=context).submit(int)
        job.add_done_callback(note)
        if settled_by == "cancel":
            job.cancel()
        elif settled_by == "worker":
            gate.open()
        elif settled_by == "stop":
            pool.shutdown(wait=False, cancel_futures=True)
        assert was_called.wait(GUARD)
        gate.open()

    assert called == [job]


# asyncio


def test_a_job_can_be_awaited() -> None:
    async def main(pool: ThreadPool) -> int:
        with pytest.raises(ValueError, match="fell"):
            await pool.submit(fall)
        return await pool.submit(abs, -1)

    with ThreadPool(1) as pool:
        assert asyncio.run(main(pool)) == 1


def test_a_job_that_has_ended_can_be_awaited_more_than_once() -> None:
    async def main(job: Job[int]) -> list[int]:
        return [await job, await job, await asyncio.wrap_future(job)]

    with ThreadPool(1) as pool:
        job = pool.submit(abs, -1)
        job.result(GUARD)

        assert asyncio.run(main(job)) == [1, 1, 1]


def test_many_jobs_can_be_gathered() -> None:
    async def main(pool: ThreadPool) -> list[int]:
        return await asyncio.gather(*(pool.run(abs, -n) for n in range(200)))

    with ThreadPool(2, backlog=3) as pool:
        assert asyncio.run(main(pool)) == list(range(200))


def test_an_awaited_job_that_runs_out_of_time_raises_deadline_exceeded() -> None:
    async def main(pool: ThreadPool) -> None:
        with pytest.raises(DeadlineExceeded):
            await pool.options(timeout=0.05).run(rest)

    with ThreadPool(1) as pool:
        asyncio.run(main(pool))


def test_concurrent_futures_sees_a_cancelled_job_as_cancelled() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)
        job.cancel()

        assert wait([job], 0).done == {job}
        with pytest.raises(concurrent.futures.CancelledError):
            next(as_completed([job])).result()
