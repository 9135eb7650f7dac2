"""What a Ctrl-C or an exit in the wrong moment leaves behind: nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Context, DeadlineExceeded, Job, ThreadPool, clock
from penstock.events import Event, JobEnded, WorkerStopped
from penstock.pool.lines import Line, SubmitterInLine
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, full_pool, held_pool, until


@pytest.mark.parametrize("many", [False, True], ids=["submit", "map"])
def test_ctrl_c_in_the_middle_of_a_submit_leaves_the_pool_as_it_was(
    monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    gate, here = Gate(), threading.current_thread()
    monotonic = clock.monotonic

    def interrupted() -> float:  # the job has its number and its place, and is not in the backlog yet
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        return monotonic()

    with ThreadPool(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        monkeypatch.setattr(clock, "monotonic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            if many:
                pool.map(len, ["a", "b"])
            else:
                pool.submit(int)
        monkeypatch.setattr(clock, "monotonic", monotonic)

        assert pool.report.accepted == 1
        pool.submit(int)  # the one place is free
        gate.open()

    assert pool.report.done == 2


@pytest.mark.parametrize("step", ["add", "line_up"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_between_an_input_of_a_map_and_its_line_leaves_accounts_that_balance(
    monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    gate, take = Gate(), getattr(Line, step)

    def interrupted(line: Line, *job: Job[Any]) -> None:
        if when == "after":
            take(line, *job)
        if len(inputs) == 2:
            raise KeyboardInterrupt
        if when == "before":
            take(line, *job)

    inputs: list[int] = []

    def read() -> Iterator[int]:
        for number in range(5):
            inputs.append(number)
            yield number

    with ThreadPool(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        with monkeypatch.context() as patched:
            patched.setattr(Line, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.map(abs, read())
        gate.open()

        report = pool.shutdown(timeout=GUARD)

    assert report.ok
    assert report.accepted == 2  # the one in the line was not accepted


def leave(_told: object) -> None:
    sys.exit(3)


def exit_when_it_ends(job: Job[Any]) -> threading.Event:
    """Have a callback of *job*, which has not ended, exit; set is the event that is returned by the one after it."""
    went_on = threading.Event()
    job.add_done_callback(leave)
    job.add_done_callback(lambda job: went_on.set())
    return went_on


def test_a_callback_that_exits_takes_neither_its_worker_nor_other_callbacks_along() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        seen = Seen(pool)
        job = pool.submit(gate)
        gate.wait_entered()
        went_on = exit_when_it_ends(job)
        gate.open()

        assert went_on.wait(GUARD)
        assert pool.submit(len, "four").result(GUARD) == 4
        assert not seen.of(WorkerStopped)


def test_a_callback_that_exits_does_not_end_who_cancels_its_job() -> None:
    with held_pool() as (pool, _gate):
        job = pool.submit(int)
        went_on = exit_when_it_ends(job)

        assert job.cancel()
        assert went_on.is_set()


def test_callbacks_that_exit_when_the_time_of_their_jobs_is_over_leave_their_threads_to_others() -> None:
    gate = Gate()
    with ThreadPool(10) as pool:
        jobs = [pool.options(timeout=0.1).submit(gate) for _ in range(10)]  # more than there are such threads
        went_on = [exit_when_it_ends(job) for job in jobs]

        assert all(event.wait(GUARD) for event in went_on)
        gate.open()


def test_an_observer_that_exits_takes_no_worker_along() -> None:
    with ThreadPool(1) as pool:
        pool.start()
        seen = Seen(pool)
        stop = pool.observe(leave)
        pool.submit(int).result(GUARD)
        stop()

        assert pool.submit(len, "four").result(GUARD) == 4
        assert not seen.of(WorkerStopped)


def test_a_job_in_its_submitters_thread_keeps_to_the_time_of_the_submitters_context() -> None:
    over = threading.Event()

    def note_the_end(event: Event) -> None:
        if isinstance(event, JobEnded):
            over.set()

    with full_pool(when_full="caller") as full, Context(timeout=0.1):
        full.pool.observe(note_the_end)
        job = full.pool.submit(over.wait, GUARD)  # ends once it has failed: it is heard while the thread is inside

        assert isinstance(job.exception(GUARD), DeadlineExceeded)


def test_a_job_in_its_submitters_thread_is_not_begun_when_the_submitters_context_has_tripped() -> None:
    ran: list[bool] = []
    with full_pool(when_full="caller") as full, Context() as context:
        context.cancel("no more")
        job = full.pool.submit(ran.append, True)

        assert job.cancelled()
        assert job.attempt == 0
    assert not ran


def test_the_inputs_of_a_map_run_while_the_next_one_is_waited_for() -> None:
    done: list[int] = []
    fourth = threading.Event()

    def note(number: int) -> None:
        done.append(number)
        if len(done) == 4:
            fourth.set()

    def inputs() -> Iterator[int]:
        yield from range(4)
        assert fourth.wait(GUARD), f"only {done} ran while the fifth was waited for"
        yield 4

    with ThreadPool(1, backlog=1) as pool:
        list(pool.map(note, inputs()))

    assert done == [0, 1, 2, 3, 4]


def test_a_stop_accounts_for_the_inputs_of_a_map_that_waits_for_its_next_one() -> None:
    gate, reading, read_on = Gate(), threading.Event(), threading.Event()

    def inputs() -> Iterator[int]:
        yield from range(5)
        reading.set()
        assert read_on.wait(GUARD)

    pool = ThreadPool(1, backlog=1)
    mapping = in_thread(pool.map, gate, inputs())
    assert reading.wait(GUARD)
    gate.wait_entered()
    begun = time.monotonic()
    try:
        report = pool.shutdown(timeout=0.2)
    finally:
        gate.open()
        read_on.set()
    mapping.result(GUARD)

    assert report.balanced
    assert (report.accepted, report.cancelled, report.abandoned) == (5, 4, 1)
    assert time.monotonic() - begun < GUARD


@pytest.mark.parametrize("granted", [False, True], ids=["as it waits", "just when it gets its place"])
def test_ctrl_c_in_a_submit_that_waits_for_a_place_takes_none(monkeypatch: pytest.MonkeyPatch, granted: bool) -> None:
    with full_pool() as full:

        def interrupted(waiter: SubmitterInLine, deadline: float | None) -> None:
            if granted:
                full.gate.open()
                until(lambda: waiter not in full.line)
            raise KeyboardInterrupt

        monkeypatch.setattr(SubmitterInLine, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            full.pool.submit(int)

        assert not full.line
        full.gate.open()
        full.waiting[0].result(GUARD)
        assert full.pool.submit(len, "four").result(GUARD) == 4, "the place is free"
        assert full.pool.report.accepted == 3
