"""What a Ctrl-C or an exit in the wrong moment leaves behind: nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from penstock import Context, DeadlineExceeded, ThreadPool, clock
from penstock.events import Event
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import full_pool


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


def test_a_callback_or_observer_that_exits_takes_no_worker_along() -> None:
    def leave(event: Event) -> None:
        sys.exit(3)

    with ThreadPool(1) as pool:
        job = pool.submit(sys.exit, 3)
        job.add_done_callback(lambda job: job.result())
        stop = pool.observe(leave)
        pool.submit(int).result(GUARD)
        stop()

        assert pool.submit(len, "four").result(GUARD) == 4

    assert isinstance(job.exception(), SystemExit)


def test_a_job_in_its_submitters_thread_keeps_to_the_time_of_the_submitters_context() -> None:
    left = threading.Event()
    with full_pool(when_full="caller") as full, Context(timeout=0.1):
        job = full.pool.submit(left.wait, 0.4)

        assert isinstance(job.exception(GUARD), DeadlineExceeded)


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
