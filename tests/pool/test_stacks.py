"""Where a thread stands is told in the user's words: our own frames tell nobody anything."""

from __future__ import annotations

import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock import ThreadPool
from penstock.pool.stacks import drop_our_frames, stack_of, where_it_stands
from tests.gates import GUARD, Gate


def wait_in(gate: Gate) -> None:
    gate()


def wait_deep_in(gate: Gate, depth: int) -> None:
    if depth:
        wait_deeper_in(gate, depth - 1)
    else:
        gate()


def wait_deeper_in(gate: Gate, depth: int) -> None:
    wait_deep_in(gate, depth)  # in turns, because a printed stack folds lines that are the same


def test_a_stack_begins_with_the_users_first_call() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.submit(wait_in, gate)
        gate.wait_entered()
        stack = job.stack()
        gate.open()

    first = stack.splitlines()[0]
    assert first.startswith(f'  File "{__file__}", line ')
    assert first.endswith(", in wait_in")
    assert "in __call__" in stack
    assert "penstock/pool" not in stack


def test_a_thread_of_the_users_own_begins_with_what_it_runs() -> None:
    gate = Gate()
    thread = threading.Thread(target=wait_in, args=(gate,))
    thread.start()
    gate.wait_entered()

    stack = stack_of(thread)
    gate.open()
    thread.join(GUARD)

    assert stack.splitlines()[0].endswith(", in wait_in")


def test_a_thread_of_the_stdlibs_pool_begins_with_what_it_runs() -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(wait_in, gate)
        gate.wait_entered()
        (thread,) = executor._threads
        stack = stack_of(thread)
        gate.open()

    assert stack.splitlines()[0].endswith(", in wait_in")


def test_of_a_deep_stack_the_innermost_frames_are_shown() -> None:
    gate = Gate()
    with ThreadPool(1) as pool:
        job = pool.submit(wait_deep_in, gate, 100)
        gate.wait_entered()
        stack = job.stack()
        gate.open()

    assert stack.count("  File ") == 30
    assert "threading.py" in stack.splitlines()[-2]


def test_the_calling_thread_has_a_stack_too() -> None:
    assert "in test_the_calling_thread_has_a_stack_too" in stack_of(threading.current_thread())


def test_who_does_not_run_stands_nowhere() -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join(GUARD)

    assert stack_of(None) == ""
    assert stack_of(threading.Thread(target=int)) == ""
    if ended.ident not in sys._current_frames():
        assert stack_of(ended) == ""


def test_a_thread_that_has_ended_does_not_stand_where_another_does() -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join(GUARD)
    gate = Gate()
    others = [threading.Thread(target=gate) for _ in range(5)]
    for other in others:
        other.start()
    gate.wait_entered(5)

    stack = stack_of(ended)
    gate.open()
    for other in others:
        other.join(GUARD)

    assert stack == ""


def test_a_job_that_has_ended_stands_nowhere() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(len, "four")
        job.result(GUARD)

        assert job.stack() == ""


def test_the_traceback_of_a_failed_job_begins_in_the_users_code() -> None:
    def fail() -> None:
        raise ValueError("bad")

    with ThreadPool(1) as pool:
        error = pool.submit(fail).exception(GUARD)

    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fail"]


def test_the_traceback_of_an_error_in_a_thread_of_the_stdlibs_pool_begins_in_the_users_code() -> None:
    def fail() -> None:
        raise ValueError("bad")

    with ThreadPoolExecutor(1) as executor:
        error = executor.submit(fail).exception(GUARD)
    assert error is not None

    drop_our_frames(error)

    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fail"]


def test_a_sentence_says_where_a_job_stands_or_that_nobody_can_see_it() -> None:
    assert where_it_stands("  in f\n") == "stands at:\n  in f"
    assert where_it_stands("") == "can't be seen from here"


def test_an_error_without_traceback_stays_so() -> None:
    error = ValueError("bad")

    drop_our_frames(error)

    assert error.__traceback__ is None


def test_an_error_that_is_all_the_users_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    before = caught.value.__traceback__

    drop_our_frames(caught.value)

    assert caught.value.__traceback__ is before
