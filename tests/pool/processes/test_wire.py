"""Frames and messages come out as they went in, however the stream was cut; and lanes that are full or end."""

from __future__ import annotations

import itertools
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import ProcessPool, WorkerDied
from penstock.pool.processes.dispatcher import Dispatcher
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.processes.wire import ANSWER, CALL, Incoming, message, messages
from tests.gates import GUARD, in_thread
from tests.pool.crossing import double
from tests.pool.processes.puppet import Puppet, Stage
from tests.pool.watching import until

small = st.integers(0, 2**32 - 1)
times = st.floats(allow_nan=False)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in itertools.pairwise(at)]


parts = st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=99)


@given(st.lists(st.tuples(small, small, small, *parts)), st.lists(small))
def test_calls_survive_any_cutting_of_the_stream(
    calls: list[tuple[int, int, int, bytes, bytes, bytes]], places: list[int]
) -> None:
    stream = b"".join(
        CALL.pack(False, seq, number, attempt, len(extra), len(function), len(extra + function + call))
        + extra
        + function
        + call
        for seq, number, attempt, extra, function, call in calls
    )
    incoming = Incoming(CALL)
    came = []
    for part in cut(stream, places):
        for (_, seq, number, attempt, extra, function, _), packed in incoming.feed(part):
            second = extra + function
            came.append((seq, number, attempt, packed[:extra], packed[extra:second], packed[second:]))

    assert came == calls
    assert not incoming._rest


@given(st.lists(st.tuples(st.integers(1, 9), small, times, times, st.binary(max_size=99))), st.lists(small))
def test_answers_survive_any_cutting_of_the_stream(
    answers: list[tuple[int, int, float, float, bytes]], places: list[int]
) -> None:
    stream = b"".join(
        ANSWER.pack(kind, 0, seq, began, ended, len(body)) + body for kind, seq, began, ended, body in answers
    )
    incoming = Incoming(ANSWER)
    came = [(fields[0], *fields[2:5], body) for part in cut(stream, places) for fields, body in incoming.feed(part)]

    assert came == answers


@given(st.lists(st.tuples(small, st.text(), st.booleans()), max_size=20), st.lists(small))
def test_messages_survive_any_cutting_of_the_stream(said: list[tuple[int, str, bool]], places: list[int]) -> None:
    here, there = socket.socketpair()

    def say() -> None:
        for part in cut(b"".join(map(message, said)), places):
            here.sendall(part)
        here.close()

    saying = in_thread(say)
    assert list(messages(there)) == said
    saying.result(GUARD)
    there.close()


def test_a_frame_that_is_not_whole_costs_no_look_at_each_part_of_it() -> None:
    class Counted(struct.Struct):
        looks = 0

        def unpack_from(self, *args: object) -> tuple[object, ...]:
            Counted.looks += 1
            return super().unpack_from(*args)  # type: ignore[arg-type]

    incoming = Incoming(Counted(ANSWER.format))
    frame = ANSWER.pack(3, 0, 1, 0.0, 0.0, 10_000) + bytes(10_000)
    came = [body for at in range(len(frame)) for _, body in incoming.feed(frame[at : at + 1])]

    assert came == [bytes(10_000)]
    assert Counted.looks <= 3


# Full lanes


def one_running(stage: Stage) -> tuple[ProcessPool, Puppet]:
    pool = stage.pool(kill_after=3600)
    pool.submit(double, 1)
    worker = stage.ready(pool)
    assert worker.takes() == [1]
    worker.begins(1)
    return pool, worker


def test_a_message_that_has_no_room_on_the_lane_arrives_whole(stage: Stage) -> None:
    pool, ann = one_running(stage)
    job = next(iter(pool._crew.attempts.running))
    reason = "why? " * 200_000
    assert not job.cancel(reason)

    assert ann.is_told() == (1, reason, False)


def test_a_call_that_has_no_room_on_the_lane_arrives_whole_and_holds_nobody_up(stage: Stage) -> None:
    pool = stage.pool()
    large = "x" * 5_000_000
    job = pool.submit(len, large)
    ann = stage.ready(pool)
    until(lambda: job.running())

    assert not ann.killed.is_set()
    assert ann.takes() == [1]
    ann.runs(1)
    assert job.result(GUARD) == 5_000_000


def test_nothing_more_is_sent_ahead_to_a_lane_that_is_full(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessStaff, "_room", lambda self, worker: 1)
    monkeypatch.setattr("penstock.pool.processes.dispatcher._LONG", 3600.0)
    pool, ann = one_running(stage)
    staff, looked = pool._crew.staff, threading.Event()
    (worker,) = staff.workers()
    large = pool.submit(len, "x" * 5_000_000)
    small = pool.submit(double, 2)
    for _ in range(2):
        staff.dispatcher.do(lambda: staff.send_ahead(worker))
    staff.dispatcher.do(looked.set)
    assert looked.wait(GUARD)

    assert list(staff.ahead) == [large]
    assert list(pool._crew.backlog.queue) == [small]
    assert large.cancel()
    ann.answers(1)
    ann.runs_all_up_to(3)
    assert small.result(GUARD) == 4


# Lanes that end


@pytest.mark.parametrize("lane", ["_jobs", "_control"])
def test_a_lane_that_ends_keeps_nobody_busy(stage: Stage, monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    pool, ann = one_running(stage)
    steps = 0
    step = Dispatcher._step

    def counted(self: Dispatcher) -> None:
        nonlocal steps
        steps += 1
        step(self)

    monkeypatch.setattr(Dispatcher, "_step", counted)
    ann.obeys = False
    getattr(ann, lane).close()
    (worker,) = pool._crew.staff.workers()
    until(lambda: worker.watched is False or worker.heard is False)
    begun = steps
    for _ in range(5):
        done = threading.Event()
        pool._crew.staff.dispatcher.do(done.set)
        assert done.wait(GUARD)

    assert steps - begun <= 6


def test_a_worker_whose_lane_has_ended_can_answer_no_more_and_is_replaced(stage: Stage) -> None:
    pool, ann = one_running(stage)
    job = next(iter(pool._crew.attempts.running))
    ann._jobs.close()
    bob = stage.ready(pool)

    assert isinstance(job.exception(GUARD), WorkerDied)
    later = pool.submit(double, 2)
    assert bob.takes() == [1]
    bob.runs(1)
    assert later.result(GUARD) == 4


def test_a_worker_that_was_told_to_leave_is_given_time_to(stage: Stage) -> None:
    pool, ann = one_running(stage)
    ann.answers(1)
    pool.close()
    ann.lane_ends()
    ann._jobs.close()
    (worker,) = pool._crew.staff.workers()
    until(lambda: worker.watched is False)

    assert not ann.killed.is_set()
    ann.dies(0)
