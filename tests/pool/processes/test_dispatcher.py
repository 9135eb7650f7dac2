"""The thread that hears the workers waits for no code of a user, and does not die; if it does, everybody is told."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import DeadlineExceeded, Job, JobAbandoned, JobState, NotPicklable, PoolBroken, ProcessPool, Retry, clock
from penstock.events import Event, JobEnded, JobStarted
from penstock.lifecycle import Phase
from penstock.pool.processes import staff, wire
from penstock.pool.processes.arrivals import _MOST, Arrivals
from penstock.pool.processes.dispatcher import Dispatcher
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.processes.wire import ANSWER
from tests.gates import GUARD, Gate, in_thread
from tests.pool import crossing
from tests.pool.crossing import Explodes, Hangs, Mute, Thing, double, fail, free
from tests.pool.processes.puppet import Puppet, Stage
from tests.pool.watching import Seen, until


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """What hangs says so here, and is freed in the end."""
    path = tmp_path / "held"
    yield path
    free(path)


@pytest.fixture
def pool(held: Path) -> Iterator[ProcessPool]:
    with ProcessPool(2, unobserved="ignore", grace=1) as pool:
        yield pool
        free(held)


def goes_on(pool: ProcessPool) -> None:
    """Plain results, objects and errors arrive."""
    jobs: list[Job[Any]] = [pool.submit(double, 4), pool.submit(Thing), pool.submit(fail)]
    assert jobs[0].result(GUARD) == 8
    assert isinstance(jobs[1].result(GUARD), Thing)
    assert isinstance(jobs[2].exception(GUARD), ValueError)


# A result or an error that does not get through


def test_a_result_whose_unpickling_hangs_holds_up_no_other(pool: ProcessPool, held: Path) -> None:
    job = pool.submit(Hangs, str(held))
    until(held.exists)

    for _ in range(3):
        goes_on(pool)
    assert job.running()
    assert "in ignore_everything" in job.stack()
    free(held)
    assert isinstance(job.result(GUARD), Hangs)


def test_an_error_whose_message_hangs_holds_up_no_other(pool: ProcessPool, held: Path) -> None:
    job = pool.submit(crossing.raise_mute, str(held))
    until(held.exists)

    for _ in range(3):
        goes_on(pool)
    free(held)
    assert isinstance(job.exception(GUARD), Mute)


def test_a_deadline_ends_a_job_whose_result_does_not_get_through(pool: ProcessPool, held: Path) -> None:
    job = pool.options(timeout=0.3).submit(Hangs, str(held))
    assert isinstance(job.exception(GUARD), DeadlineExceeded)

    goes_on(pool)
    until(lambda: pool.report.stuck)
    assert "in ignore_everything" in pool.report.stuck[0].stack
    free(held)
    until(lambda: not pool.report.stuck)


def test_a_stop_ends_in_time_though_a_result_does_not_get_through(held: Path) -> None:
    pool = ProcessPool(1, unobserved="ignore")
    job = pool.submit(Hangs, str(held))
    until(held.exists)
    report = in_thread(pool.shutdown, timeout=0.1).result(GUARD)

    assert (report.closed, report.abandoned, report.balanced) == (True, 1, True)
    assert isinstance(job.exception(0), JobAbandoned)
    free(held)
    until(lambda: not [t for t in threading.enumerate() if t.name == f"penstock-{pool.name}-arrivals"])


def test_what_gets_through_in_the_last_moment_of_a_stop_keeps_its_outcome(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "_TO_ARRIVE", GUARD)
    pool = ProcessPool(1, unobserved="ignore")
    job = pool.submit(Hangs, str(held))
    until(held.exists)
    stopping = in_thread(pool.shutdown, timeout=0.1)
    assert pool._crew.lifecycle.wait_for(Phase.LEAVING, GUARD)
    free(held)

    report = stopping.result(GUARD)
    assert (report.closed, report.done, report.abandoned) == (True, 1, 0)
    assert isinstance(job.result(0), Hangs)


def test_many_results_that_hang_hold_up_the_others_only_when_there_are_as_many_as_may(
    pool: ProcessPool, held: Path
) -> None:
    jobs = [pool.submit(Hangs, str(held)) for _ in range(_MOST - 1)]
    goes_on(pool)

    assert all(job.running() for job in jobs)
    free(held)
    for job in jobs:
        job.result(GUARD)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no")], ids=repr)
def test_a_result_whose_unpickling_raises_fails_its_job_alone(pool: ProcessPool, error: BaseException) -> None:
    job = pool.submit(Explodes, error)

    with pytest.raises(NotPicklable, match=f"the result can't be unpickled: {type(error).__name__}: no"):
        job.result(GUARD)
    assert type(job.exception().__cause__) is type(error)  # type: ignore[union-attr]
    assert job.state is JobState.FAILED
    goes_on(pool)


def test_a_job_that_failed_in_its_worker_is_tried_again(pool: ProcessPool, tmp_path: Path) -> None:
    view = pool.options(retry=Retry(3, on=(ConnectionError,), wait=0))
    assert view.submit(crossing.fail_until, str(tmp_path / "tries"), 2).result(GUARD) == 3


def test_the_times_of_a_job_are_those_of_its_worker_whatever_it_returns(pool: ProcessPool) -> None:
    for fn in (Thing, int):
        job: Job[Any] = pool.submit(fn)
        job.result(GUARD)
        assert job.ran is not None
        assert 0 <= job.ran < 0.1
    assert pool.stats().done == 2


def test_arrivals_are_in_order_and_their_threads_end() -> None:
    arrivals, came, gate = Arrivals("it"), [], Gate()
    arrivals.put([gate, lambda: came.append(1)])
    gate.wait_entered()
    arrivals.put([lambda: came.append(2), lambda: came.append(3)])
    assert arrivals.waiting == 3
    gate.open()
    until(lambda: len(came) == 3)
    arrivals.end()

    assert came == [1, 2, 3]
    assert not [t for t in threading.enumerate() if t.name == "penstock-it-arrivals"]


# Observers, callbacks, log handlers


class Hanging(logging.Handler):
    """A handler that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.seen: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:  # not `emit`, which runs with the handler's lock held
        self.seen.append(record.getMessage())
        self.gate()
        return True


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    handler = Hanging()
    logging.getLogger().addHandler(handler)
    yield handler
    handler.gate.open()
    logging.getLogger().removeHandler(handler)


def test_a_callback_that_hangs_holds_up_no_result(pool: ProcessPool) -> None:
    gate = Gate()
    for fn in (double, fail):
        pool.submit(fn, 1).add_done_callback(gate)
    gate.wait_entered(2)
    goes_on(pool)
    gate.open()


def test_an_observer_that_hangs_holds_up_no_result(pool: ProcessPool) -> None:
    pool.start()
    gate, here = Gate(), threading.current_thread()

    def observe(event: Event) -> None:
        if threading.current_thread() is not here:
            gate()

    pool.observe(observe)
    goes_on(pool)
    gate.wait_entered()
    goes_on(pool)
    gate.open()


def hangs_nobody(pool: ProcessPool, hanging: Hanging, log: Callable[[], object], line: str) -> None:
    pool.start()
    log()
    hanging.gate.wait_entered()
    assert line in hanging.seen[0]
    for _ in range(3):
        assert pool.submit(double, 4).result(GUARD) == 8
        assert isinstance(pool.submit(Thing).result(GUARD), Thing)
        pool.submit(fail).exception(GUARD)


def test_a_log_handler_that_hangs_at_a_failure_holds_up_no_result(hanging: Hanging, tmp_path: Path) -> None:
    with ProcessPool(2) as pool:
        hangs_nobody(pool, hanging, lambda: pool.submit(fail), "fail) failed: ValueError")
        hanging.gate.open()


def test_a_log_handler_that_hangs_at_a_workers_record_holds_up_no_result(hanging: Hanging) -> None:
    with ProcessPool(2) as pool:
        hangs_nobody(pool, hanging, lambda: pool.submit(crossing.log_lines, 1, "hello"), "hello 0")
        hanging.gate.open()


def test_a_log_handler_that_hangs_at_a_deadline_keeps_no_other_from_its_own(hanging: Hanging, held: Path) -> None:
    with ProcessPool(2, timeout=0.1, kill_after=0) as pool:
        for _ in range(3):
            job = pool.submit(crossing.ignore_everything, str(held))
            assert isinstance(job.exception(GUARD), DeadlineExceeded)
        hanging.gate.wait_entered()
        hanging.gate.open()


# If it does fail


def test_if_the_dispatcher_fails_every_job_is_told_and_nothing_is_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = stage.pool()
    running, waiting = pool.submit(double, 1), pool.submit(double, 2)
    ann = stage.ready(pool)
    assert ann.takes() == [1]

    def broken(self: Dispatcher, *args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Dispatcher, "_read", broken)
    ann.answers(1)

    for job in (running, waiting):
        assert job.exception(GUARD) is not None
    with pytest.raises(PoolBroken, match="this is a bug in Penstock"):
        pool.submit(double, 3)
    assert pool.shutdown().balanced
    until(lambda: ann.is_closed)
    until(lambda: "ZeroDivisionError" in caplog.text)


@pytest.mark.parametrize(
    "written",
    [b"hello world\n" * 3, ANSWER.pack(wire.DONE, 0, 7, 0, 0, 0), ANSWER.pack(wire.SKIPPED, 0, 0, 0, 0, 0), bytes(64)],
    ids=["text", "another number", "none", "zeros"],
)
def test_a_worker_whose_job_writes_to_the_lane_is_replaced(stage: Stage, written: bytes) -> None:
    pool = stage.pool()
    job = pool.submit(double, 1)
    ann = stage.ready(pool)
    assert ann.takes() == [1]
    ann.begins(1)
    ann._jobs.sendall(written)
    bob = stage.ready(pool)

    assert "ended by SIGKILL" in str(job.exception(GUARD))
    later = pool.submit(double, 2)
    assert bob.takes() == [1]
    bob.runs(1)
    assert later.result(GUARD) == 4


# Answers that come together


def several_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, count: int
) -> tuple[ProcessPool, Puppet, list[Job[Any]]]:
    """A worker that has *count* jobs and has begun the first; nothing looks whether that takes long."""
    monkeypatch.setattr(ProcessStaff, "_room", lambda self, worker: count)
    for name in ("_LONG", "_LONG_IF_ONE_IS_IDLE"):
        monkeypatch.setattr(f"penstock.pool.processes.dispatcher.{name}", 3600.0)
    pool = stage.pool()
    jobs: list[Job[Any]] = [pool.submit(double, n) for n in range(1, count + 1)]
    ann = stage.ready(pool)
    assert ann.takes() == [1]
    ann.begins(1)
    staff, sent = pool._crew.staff, threading.Event()
    (worker,) = staff.workers()
    staff.dispatcher.do(lambda: staff.send_ahead(worker))
    staff.dispatcher.do(sent.set)
    assert sent.wait(GUARD)
    assert ann.takes(count - 1) == list(range(2, count + 1))
    return pool, ann, jobs


def answer(seq: int, value: Any, kind: int = wire.DONE) -> bytes:
    now = clock.monotonic()
    body = pickle.dumps(value)
    return ANSWER.pack(kind, wire.NO_MEMORY, seq, now, now, len(body)) + body


def test_answers_that_come_together_reach_each_its_job(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, ann, jobs = several_sent(stage, monkeypatch, 5)
    ann.begins(5)
    skipped = ANSWER.pack(wire.SKIPPED, wire.NO_MEMORY, 4, 0.0, 0.0, 0)
    made = answer(3, [3, 3], wire.MADE)
    ann._jobs.sendall(answer(1, None) + answer(2, 22) + made + skipped + answer(5, "five"))

    assert [job.result(GUARD) for job in jobs[:3]] == [None, 22, [3, 3]]
    assert jobs[4].result(GUARD) == "five"
    assert ann.takes() == [6], "what was skipped is sent again"
    ann.runs(6)
    assert jobs[3].result(GUARD) == 8
    assert [job.attempt for job in jobs] == [1] * 5
    assert pool.report.done == 5


def test_what_was_answered_before_a_worker_wrote_nonsense_counts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ann, jobs = several_sent(stage, monkeypatch, 3)
    ann.begins(3)
    ann._jobs.sendall(answer(1, 11) + answer(2, 22) + answer(7, 77))

    assert [job.result(GUARD) for job in jobs[:2]] == [11, 22]
    assert "ended by SIGKILL" in str(jobs[2].exception(GUARD))


def test_an_observer_is_told_of_each_of_the_jobs_whose_answers_come_together(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, _ = several_sent(stage, monkeypatch, 4)
    seen = Seen(pool)
    ann.begins(4)
    ann._jobs.sendall(b"".join(answer(n, n) for n in range(1, 5)))

    seen.wait_for(JobEnded, 4)
    assert [event.id for event in seen.of(JobStarted)] == [2, 3, 4]
    assert [event.id for event in seen.of(JobEnded)] == [1, 2, 3, 4]


def test_a_job_that_is_not_its_workers_any_more_is_left_out_of_the_answers_that_come_together(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, jobs = several_sent(stage, monkeypatch, 3)
    ann.begins(2)
    assert jobs[2].cancel()  # it is marked, and will be skipped
    ann.begins(3)
    ann._jobs.sendall(answer(1, 1) + answer(2, 2) + answer(3, "run all the same"))
    later = pool.submit(double, 4)
    assert ann.takes() == [4]
    ann.runs(4)

    assert later.result(GUARD) == 8
    assert jobs[2].cancelled()
    assert (pool.report.done, pool.report.cancelled) == (3, 1)
