"""Time that runs out: in the queue, in the function, in a thread that never comes back, and in children."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import pytest

from penstock import (
    Cancelled,
    Context,
    DeadlineExceeded,
    Job,
    JobState,
    Retry,
    ThreadPool,
    current_context,
    current_job,
)
from penstock.events import JobRetried, JobStarted, WorkerStopped, WorkerStuck
from penstock.pool.ladder import cancel
from tests.fake_time import FakeTime
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, full_pool, held_pool, until

SHORT = 0.05  # seconds: a deadline that is meant to pass


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def deadline_error(job: Job[Any]) -> DeadlineExceeded:
    error = job.exception(GUARD)
    assert isinstance(error, DeadlineExceeded), error
    return error


# In the queue


def test_a_job_whose_time_is_over_before_it_starts_is_not_run() -> None:
    ran: list[int] = []

    with held_pool() as (pool, gate):
        job = pool.options(context=Context(timeout=SHORT)).submit(ran.append, 1)
        error = deadline_error(job)  # while the only worker is still in the gate
        gate.open()
        pool.submit(int).result(GUARD)

    assert not error.started
    assert (job.state, job.attempt, job.worker, job.ran) == (JobState.FAILED, 0, None, None)
    assert ran == []
    assert "never started" in str(error)


def test_a_job_whose_time_is_over_in_the_queue_gives_its_place_back() -> None:
    with held_pool(backlog=1, when_full="reject") as (pool, _gate):
        deadline_error(pool.options(context=Context(timeout=SHORT)).submit(int))

        assert pool.submit(int).state is JobState.READY


def test_a_job_of_a_map_whose_time_is_over_while_it_waits_outside_the_backlog_is_not_run() -> None:
    ran: list[int] = []

    with held_pool(backlog=1) as (pool, gate):
        view = pool.options(context=Context(timeout=SHORT))
        results = view.map(ran.append, range(5))
        until(lambda: pool.report.failed == 5)  # while the only worker is still in the gate
        with pytest.raises(DeadlineExceeded):
            next(results)
        gate.open()

    assert ran == []


def test_a_job_submitted_when_its_time_is_over_already_is_not_run() -> None:
    ran: list[int] = []
    context = Context(timeout=0)

    with ThreadPool(1) as pool:
        error = deadline_error(pool.options(context=context).submit(ran.append, 1))

    assert not error.started
    assert ran == []


def test_timeout_is_running_time_so_that_waiting_does_not_use_it_up() -> None:
    with held_pool(timeout=30) as (pool, gate):
        job = pool.submit(lambda: current_context().remaining())
        assert job.context.remaining() == math.inf, "it has not started"
        gate.open()

        assert job.result(GUARD) > 30 - GUARD


# In the function


def test_a_job_that_overruns_fails_on_time_while_its_thread_still_runs() -> None:
    gate = Gate()
    left = threading.Event()

    def overrun() -> None:
        gate()
        left.set()

    with ThreadPool(1, timeout=SHORT) as pool:
        begun = time.monotonic()
        job = pool.submit(overrun)
        error = deadline_error(job)

        assert time.monotonic() - begun < GUARD / 2
        assert not left.is_set()
        assert error.started
        assert error.limit == SHORT
        assert f"exceeded its limit of {SHORT} s" in str(error)
        assert job.state is JobState.FAILED
        assert job.ran is not None
        assert job.ran >= SHORT
        gate.open()


def test_the_waiters_of_an_overrunning_job_are_woken_and_its_callbacks_called() -> None:
    gate, called = Gate(), threading.Event()

    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT).submit(gate)
        job.add_done_callback(lambda _: called.set())
        with pytest.raises(DeadlineExceeded):
            job.result(GUARD)

        assert called.wait(GUARD)
        gate.open()


def test_the_context_of_an_overrunning_job_trips() -> None:
    tripped = threading.Event()
    caught: list[BaseException] = []

    def overrun() -> None:
        current_context().on_cancel(tripped.set)
        assert tripped.wait(GUARD)
        try:
            current_context().check()
        except Cancelled as error:
            caught.append(error)
            raise

    with ThreadPool(1, timeout=SHORT) as pool:
        deadline_error(pool.submit(overrun))

    assert caught
    assert pool.report.failed == 1


def test_a_job_that_stops_itself_at_its_deadline_fails_with_deadline_exceeded_and_is_never_stuck() -> None:
    with ThreadPool(1, stuck_after=0) as pool:
        job = pool.options(timeout=SHORT).submit(lambda: current_context().sleep(GUARD))

        assert deadline_error(job).started


def test_except_exception_does_not_eat_the_deadline() -> None:
    eaten: list[Exception] = []

    def careless() -> None:
        for _ in range(3):
            try:
                current_context().sleep(GUARD)
            except Exception as error:
                eaten.append(error)

    with ThreadPool(1, timeout=SHORT) as pool:
        deadline_error(pool.submit(careless))

    assert eaten == []


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_what_comes_after_the_deadline_is_ignored(ending: str) -> None:
    gate = Gate()

    def overrun() -> str:
        gate()
        if ending == "raises":
            raise ValueError("too late")
        return "too late"

    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT).submit(overrun)
        error = deadline_error(job)
        ran = job.ran
        gate.open()
        pool.submit(int).result(GUARD)  # the worker is back

        assert job.exception() is error
        assert (job.state, job.ran) == (JobState.FAILED, ran)
    assert (pool.report.done, pool.report.failed) == (1, 1)
    assert [failure.type for failure in pool.failures] == ["DeadlineExceeded"]


def test_a_deadline_is_no_timeout_error() -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT).submit(gate)
        error = deadline_error(job)
        gate.open()

    assert not isinstance(error, OSError)


def test_the_failure_says_where_the_overrunning_thread_stood() -> None:
    gate = Gate()

    def dawdle() -> None:
        gate()

    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT).submit(dawdle)
        deadline_error(job)
        stack = job.stack()
        gate.open()

    assert "in dawdle" in stack
    assert "in dawdle" in next(iter(pool.failures)).traceback


def test_the_report_says_overran_for_as_long_as_that_is_so() -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT, name="slow").submit(gate)
        deadline_error(job)
        [stuck] = pool.report.stuck
        gate.open()
        pool.submit(int).result(GUARD)

        assert (stuck.id, stuck.name, stuck.outcome) == (1, "slow", "overran")
        assert stuck.worker == job.worker
        assert "gates.py" in stuck.stack
        assert pool.report.stuck == ()
        assert job.stack() == ""


# Stuck threads


def test_a_stuck_thread_is_shown_with_its_stack_and_its_slot_goes_to_a_fresh_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()

    def get_stuck() -> None:
        gate()

    with ThreadPool(1, stuck_after=SHORT) as pool:
        seen = Seen(pool)
        try:
            job = pool.options(timeout=SHORT).submit(get_stuck)
            event = seen.wait_for(WorkerStuck)

            assert (event.id, event.worker, event.replaced) == (job.id, job.worker, True)
            assert "in get_stuck" in event.stack
            assert event.ran >= 2 * SHORT
            other = pool.submit(threading.current_thread)
            assert other.result(GUARD).name != job.worker, "while the first is still in the gate"
        finally:
            gate.open()

    [record] = [record for record in caplog.records if "is stuck" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "in get_stuck" in record.getMessage()
    assert "replaced by a fresh one" in record.getMessage()


def test_a_job_that_waited_behind_a_stuck_one_runs_without_anybody_asking() -> None:
    gate = Gate()

    with ThreadPool(1, stuck_after=SHORT) as pool:
        pool.options(timeout=SHORT).submit(gate)
        behind = pool.submit(abs, -1)

        assert behind.result(GUARD) == 1
        gate.open()


def test_a_stuck_thread_that_comes_back_leaves_the_pool_and_the_finished_job_alone() -> None:
    gate = Gate()

    with ThreadPool(1, stuck_after=SHORT) as pool:
        seen = Seen(pool)
        job = pool.options(timeout=SHORT).submit(gate, "late")
        stuck = seen.wait_for(WorkerStuck)
        assert pool.submit(int).result(GUARD) == 0

        gate.open()

        seen.wait_for(WorkerStopped, worker=stuck.worker)
        seen.wait_for_workers(1)
        deadline_error(job)
        assert pool.report.stuck == ()
        assert pool.submit(int).result(GUARD) == 0
    assert (pool.report.done, pool.report.failed) == (2, 1)


def test_no_more_than_max_stuck_threads_are_replaced_at_once() -> None:
    first, second = Gate(), Gate()

    with ThreadPool(1, stuck_after=SHORT, max_stuck=1) as pool:
        seen = Seen(pool)
        view = pool.options(timeout=SHORT)
        try:
            view.submit(first)
            assert seen.wait_for(WorkerStuck).replaced
            view.submit(second)
            assert not seen.wait_for(WorkerStuck, 2).replaced
            waiting = pool.submit(abs, -1)
            assert pool.stats().workers == 2
            assert not waiting.done()

            second.open()

            assert waiting.result(GUARD) == 1, "a thread that was not replaced goes on when it comes back"
        finally:
            first.open()
            second.open()
        seen.wait_for_workers(1)


def test_a_place_among_the_stuck_is_free_again_when_one_came_back() -> None:
    with ThreadPool(1, stuck_after=SHORT, max_stuck=1) as pool:
        seen = Seen(pool)
        for number in (1, 2):
            gate = Gate()
            pool.options(timeout=SHORT).submit(gate)
            event = seen.wait_for(WorkerStuck, number)
            assert event.replaced
            assert pool.submit(int).result(GUARD) == 0, "by a fresh thread"

            gate.open()
            seen.wait_for(WorkerStopped, worker=event.worker)


def test_with_a_max_stuck_of_zero_no_thread_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    with ThreadPool(1, stuck_after=SHORT, max_stuck=0) as pool:
        seen = Seen(pool)
        pool.options(timeout=SHORT).submit(gate)

        assert not seen.wait_for(WorkerStuck).replaced
        gate.open()
        assert pool.submit(int).result(GUARD) == 0

    assert "not replaced (max_stuck)" in caplog.text


def test_a_pool_that_has_stopped_replaces_no_thread_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    gate, pool = Gate(), ThreadPool(1, stuck_after=SHORT)
    seen = Seen(pool)
    pool.options(timeout=SHORT).submit(gate)
    gate.wait_entered()
    pool.close()

    assert not seen.wait_for(WorkerStuck).replaced

    gate.open()
    pool.wait()
    assert "not replaced (the pool has stopped)" in caplog.text


def test_a_thread_that_comes_back_within_the_margin_was_never_stuck() -> None:
    gate = Gate()

    with ThreadPool(1, stuck_after=60) as pool:
        seen = Seen(pool)
        deadline_error(pool.options(timeout=SHORT).submit(gate))
        gate.open()

        assert pool.submit(int).result(GUARD) == 0
    assert seen.of(WorkerStuck) == []


def test_a_stuck_job_in_its_caller_is_shown_and_gives_no_workers_slot_away() -> None:
    gate = Gate()

    with full_pool(when_full="caller", stuck_after=SHORT) as full:
        seen = Seen(full.pool)
        submitting = in_thread(full.pool.options(timeout=SHORT, name="slow").submit, gate)
        try:
            event = seen.wait_for(WorkerStuck)
            shown = [stuck.name for stuck in full.pool.report.stuck]

            assert not event.replaced
            assert full.pool.stats().workers == 1
            assert shown == ["slow"]
        finally:
            gate.open()
        deadline_error(submitting.result(GUARD))


# Another attempt


def test_an_overrun_is_not_retried_unless_deadline_exceeded_is_named() -> None:
    gate = Gate()

    with ThreadPool(1, retry=Retry(5, wait=0)) as pool:
        job = pool.options(timeout=SHORT).submit(gate)

        deadline_error(job)
        assert job.attempt == 1
        gate.open()


class FirstIsSlow:
    """Stays in its gate in its first attempt; every attempt gives its number."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside = 0
        self.most_inside = 0

    def __call__(self) -> int:
        job = current_job()
        assert job is not None
        attempt = job.attempt
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if attempt == 1:
            self.gate()
        self.inside -= 1
        return attempt


# So many attempts that on a slow machine later ones may overrun as well.
PATIENT = Retry(50, on=(DeadlineExceeded,), wait=0)


def test_another_attempt_waits_until_the_overrunning_thread_has_left() -> None:
    slow = FirstIsSlow()

    with ThreadPool(2, timeout=SHORT, stuck_after=60, retry=PATIENT) as pool:
        seen = Seen(pool)
        job = pool.submit(slow)
        until(lambda: pool.report.retrying)
        pool.options(timeout=None).submit(int).result(GUARD)  # there is a free worker

        assert seen.of(JobRetried) == []
        assert (job.attempt, job.done()) == (1, False)
        slow.gate.open()
        assert job.result(GUARD) >= 2
        assert seen.of(JobRetried)[0].attempt == 1
    assert slow.most_inside == 1, "never two attempts at once"


def test_another_attempt_begins_when_the_overrunning_thread_is_stuck() -> None:
    slow = FirstIsSlow()

    with ThreadPool(1, timeout=SHORT, stuck_after=SHORT, retry=PATIENT, max_stuck=50) as pool:
        job = pool.submit(slow)

        assert job.result(GUARD) >= 2, "while the first attempt is still in the gate"
        slow.gate.open()
    assert pool.report.done == 1


def test_another_attempt_has_a_context_that_is_not_tripped_and_time_of_its_own() -> None:
    def second_time_round() -> float:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            current_context().sleep(GUARD)
        current_context().check()
        return current_context().remaining()

    with ThreadPool(1, timeout=0.2, retry=PATIENT) as pool:
        assert pool.submit(second_time_round).result(GUARD) > 0


def test_a_deadline_that_covers_all_attempts_is_not_retried() -> None:
    with ThreadPool(1, retry=PATIENT) as pool:
        job = pool.options(context=Context(timeout=SHORT)).submit(lambda: current_context().sleep(GUARD))

        deadline_error(job)
        assert job.attempt == 1


def test_a_job_is_not_tried_again_past_the_deadline_of_its_context() -> None:
    with ThreadPool(1) as pool:
        view = pool.options(context=Context(timeout=0.2), retry=Retry(10, wait=GUARD, max_wait=GUARD, jitter=0))
        job = view.submit(divmod, 1, 0)
        error = deadline_error(job)

        assert job.attempt == 1
        assert error is job.exception()


def test_a_cancel_while_the_overrunning_thread_is_waited_for_ends_the_job() -> None:
    slow = FirstIsSlow()

    with ThreadPool(1, timeout=SHORT, stuck_after=60, retry=PATIENT) as pool:
        seen = Seen(pool)
        job = pool.submit(slow)
        until(lambda: pool.report.retrying)

        job.cancel("enough")
        slow.gate.open()

        until(job.done)
        assert job.state is JobState.CANCELLED
        assert len(seen.of(JobStarted)) == 1, "no other attempt"


def test_a_parents_cancel_while_the_overrunning_thread_is_waited_for_ends_the_job() -> None:
    slow, parent = FirstIsSlow(), Context()

    with ThreadPool(1, timeout=SHORT, stuck_after=60, retry=PATIENT) as pool:
        seen = Seen(pool)
        job = pool.options(context=parent).submit(slow)
        until(lambda: pool.report.retrying)

        parent.cancel("enough")
        slow.gate.open()

        until(job.done)
        assert job.state is JobState.CANCELLED
        assert len(seen.of(JobStarted)) == 1, "no other attempt"


# Children


def test_a_child_inherits_what_is_left_of_its_parents_time() -> None:
    def parent() -> tuple[float | None, float | None]:
        child = pool.submit(lambda: current_context().deadline)
        return current_context().deadline, child.result()

    with ThreadPool(1) as pool:
        ours, theirs = pool.options(timeout=60).submit(parent).result(GUARD)

    assert ours is not None
    assert theirs == ours


def test_a_child_has_its_own_time_if_that_is_shorter() -> None:
    def parent() -> float:
        child: Job[float] = pool.options(timeout=30).submit(lambda: current_context().remaining())
        return child.result()

    with ThreadPool(1) as pool:
        assert pool.options(timeout=60).submit(parent).result(GUARD) <= 30


def test_a_child_in_another_pool_inherits_it_too() -> None:
    def parent() -> float:
        return other.submit(lambda: current_context().remaining()).result()

    with ThreadPool(1) as pool, ThreadPool(1) as other:
        assert pool.options(timeout=60).submit(parent).result(GUARD) <= 60


def test_a_child_that_waits_fails_when_its_parents_time_is_over() -> None:
    children: list[Job[Any]] = []
    ran: list[int] = []
    submitted = threading.Event()

    def parent() -> None:
        children.append(pool.submit(ran.append, 1))
        submitted.set()
        gate()

    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.options(timeout=SHORT).submit(parent)
        assert submitted.wait(GUARD)

        deadline_error(job)
        assert not deadline_error(children[0]).started
        gate.open()
    assert ran == []


def test_a_detached_child_outlives_its_parents_time() -> None:
    children: list[Job[float]] = []
    gate = Gate()

    def parent() -> None:
        children.append(pool.options(context=None, timeout=None).submit(lambda: current_context().remaining()))
        gate()

    with ThreadPool(1) as pool:
        deadline_error(pool.options(timeout=SHORT).submit(parent))
        gate.open()

        assert children[0].result(GUARD) == math.inf


def test_a_block_ends_with_deadline_exceeded_when_its_jobs_took_too_long() -> None:
    gate = Gate()

    with ThreadPool(1) as pool:
        with pytest.raises(DeadlineExceeded), Context(timeout=SHORT):
            pool.submit(gate).result()

        gate.open()


def test_what_a_stuck_thread_returns_at_last_is_not_taken_for_what_the_next_attempt_returns() -> None:
    first, second = Gate(), Gate()
    gates = [first, second]
    retry = Retry(2, on=(DeadlineExceeded,), wait=0)
    with ThreadPool(1, stuck_after=0, timeout=GUARD, retry=retry) as pool:
        job = pool.submit(lambda: gates.pop(0)(2 - len(gates)))
        first.wait_entered()
        job.context.limit(0.001)
        second.wait_entered()
        first.open()
        until(lambda: not pool.report.stuck)

        assert job.running()
        second.open()
        assert job.result(GUARD) == 2


# At the very moment


class Interrupted:
    """Whoever calls it waits inside until it is told to go on."""

    def __init__(self) -> None:
        self._arrived, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, *_args: object) -> None:
        self._arrived.set()
        assert self._goes_on.wait(GUARD)

    def wait_arrived(self) -> None:
        assert self._arrived.wait(GUARD)

    def go_on(self) -> None:
        self._goes_on.set()


class FailsFirst:
    """Has a gate for each attempt; the first raises, the others give their number."""

    def __init__(self) -> None:
        self.gates = [Gate(), Gate()]

    def __call__(self) -> int:
        job = current_job()
        assert job is not None
        self.gates[job.attempt - 1]()
        if job.attempt == 1:
            raise ValueError
        return job.attempt


def test_a_deadline_that_is_told_late_does_not_end_the_wait_for_the_next_attempt(fake_time: FakeTime) -> None:
    """Somebody cancels a job past its deadline, and is interrupted before the pool hears of it."""
    fn, interrupted = FailsFirst(), Interrupted()
    with held_pool() as (pool, gate):
        job = pool.options(timeout=5, retry=Retry(2, wait=30, jitter=0)).submit(fn)
        job.context.listen(interrupted)  # before the pool does, so that it is told first
        gate.open()
        fn.gates[0].wait_entered()
        fake_time.now += 5
        cancelling = in_thread(job.cancel)
        interrupted.wait_arrived()

        fn.gates[0].open()
        until(lambda: pool.report.retrying)
        interrupted.go_on()
        cancelling.result(GUARD)

        fake_time.advance(29)
        assert job.state is JobState.SCHEDULED
        fn.gates[1].open()
        fake_time.advance(1)
        assert job.result(GUARD) == 2


def test_a_deadline_that_takes_the_next_attempt_out_of_its_room_puts_it_back(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, and the one who cancels is interrupted when the pool has found that the context is tripped."""
    fn, interrupted = FailsFirst(), Interrupted()
    with ThreadPool(1) as pool:
        crew = pool._crew
        take_out = crew.take_out

        def be_interrupted_and_take_out(job: Job[Any]) -> bool:
            if job.context.cancelled:
                interrupted()
            return take_out(job)

        monkeypatch.setattr(crew, "take_out", be_interrupted_and_take_out)
        job = pool.options(timeout=5, retry=Retry(2, wait=30)).submit(fn)
        fn.gates[0].wait_entered()
        fake_time.now += 5
        cancelling = in_thread(job.context.cancel)
        interrupted.wait_arrived()

        fn.gates[0].open()
        until(lambda: pool.report.retrying)
        interrupted.go_on()
        cancelling.result(GUARD)

        fn.gates[1].open()
        fake_time.advance(0)
        assert job.result(GUARD) == 2


def test_a_deadline_that_is_told_late_does_not_fail_the_next_attempt(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, and the one who cancels is interrupted later: the pool knows that the job runs, and that it is late."""
    fn, interrupted = FailsFirst(), Interrupted()
    retry = Retry(2, on=(ValueError,), wait=0)
    with ThreadPool(1) as pool:
        attempts = pool._crew.attempts
        delay_of = attempts._delay

        def delay_and_be_interrupted(job: Job[Any], error: BaseException) -> float | None:
            delay = delay_of(job, error)
            if isinstance(error, DeadlineExceeded):
                interrupted()
            return delay

        monkeypatch.setattr(attempts, "_delay", delay_and_be_interrupted)
        job = pool.options(timeout=5, retry=retry).submit(fn)
        fn.gates[0].wait_entered()
        fake_time.now += 5
        cancelling = in_thread(job.cancel)
        interrupted.wait_arrived()

        fn.gates[0].open()
        until(lambda: pool.report.retrying)
        fake_time.advance(0)
        fn.gates[1].wait_entered()
        interrupted.go_on()
        cancelling.result(GUARD)

        assert job.running()
        fn.gates[1].open()
        assert job.result(GUARD) == 2


def test_an_overrun_that_is_to_be_retried_and_is_overtaken_by_a_stop_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop looks for jobs that wait for another attempt just before this one does, while its thread is inside."""
    gate = Gate()
    pool = ThreadPool(1, timeout=SHORT, stuck_after=60, retry=PATIENT)
    attempts = pool._crew.attempts
    delay_of = attempts._delay

    def delay_and_be_overtaken(job: Job[Any], error: BaseException) -> float | None:
        delay = delay_of(job, error)
        cancel(pool._crew)
        return delay

    monkeypatch.setattr(attempts, "_delay", delay_and_be_overtaken)
    job = pool.submit(gate)
    try:
        error = deadline_error(job)

        assert error.__notes__ == ["not retried: the pool is stopping"]
        assert pool.report.cut == 1
        assert [stuck.outcome for stuck in pool.report.stuck] == ["overran"]
    finally:
        gate.open()
        pool.shutdown()
