"""The worker's side of the lanes, in a thread of the test, which plays the parent."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest

from penstock.pool.processes import child, wire
from penstock.pool.processes.memory import BIG, OURS, Memory, dumps
from penstock.pool.processes.page import Page
from penstock.pool.processes.parcel import Later, pack_call, unpack_error
from penstock.pool.processes.wire import ANSWER, CALL, CHUNK, MEMORY, WITH_FD, Incoming, message, send_with_fds
from tests.gates import GUARD, in_thread
from tests.pool import crossing
from tests.pool.crossing import CrossGate, double, fail
from tests.pool.watching import until

SETUP = child.Setup("child", {}, (), Later({}), {}, {}, False)


class Parent:
    """What a worker sees of its parent."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._jobs, jobs = socket.socketpair()
        self._control, control = socket.socketpair()
        self._jobs.settimeout(GUARD)
        with (folder / "page").open("w+b") as file:
            file.truncate(Page.SIZE)
            self.page = Page(file.fileno())
        self.exited = threading.Event()
        monkeypatch.setattr(os, "_exit", lambda code: self.exited.set())
        self.worker = child._Worker(jobs, control, self.page, SETUP, open(os.devnull, "wb"))  # noqa: SIM115, PTH123
        self._ends = [jobs, control]
        self._incoming = Incoming(ANSWER)
        self._came: list[tuple[int, int, Any]] = []
        self.running = in_thread(self.worker.run)
        self.hearing = in_thread(self.worker.hear)

    def calls(self, seq: int, fn: Any, *args: Any) -> None:
        packed = b"" if fn is None else pack_call(fn, args)[0]
        self._jobs.sendall(CALL.pack(0, seq, seq, 1, 0, 0, len(packed)) + packed)

    def says(self, seq: int, reason: str) -> None:
        self._control.sendall(message((seq, reason, False)))

    def hears(self) -> tuple[int, int, Any]:
        """The next answer."""
        while not self._came:
            for (kind, _, seq, *_), body in self._incoming.feed(self._jobs.recv(CHUNK)):
                opened: dict[int, Callable[[bytes], Any]] = {wire.DONE: pickle.loads, wire.RAISED: unpack_error}
                value = opened.get(kind, bytes)(body)
                self._came.append((kind, seq, value))
        return self._came.pop(0)

    def close(self) -> None:
        self._jobs.shutdown(socket.SHUT_WR)
        self.running.result(GUARD)
        self._control.close()
        self.hearing.result(GUARD)
        self._jobs.close()
        for end in self._ends:
            end.close()
        self.worker._file.close()
        self.page.close()


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    parent = Parent(tmp_path, monkeypatch)
    yield parent
    parent.close()


def test_every_call_gets_one_answer_in_order(parent: Parent) -> None:
    parent.page.take_back(2)
    parent.calls(1, double, 1)
    parent.calls(2, double, 2)
    parent.calls(3, fail, 3)
    parent.calls(4, None)
    parent.calls(5, double, 5)

    assert parent.hears() == (wire.DONE, 1, 2)
    assert parent.hears() == (wire.SKIPPED, 2, b"")
    kind, seq, error = parent.hears()
    assert (kind, seq, error.args) == (wire.RAISED, 3, ("it failed", 3))
    assert parent.hears() == (wire.SKIPPED, 4, b"")
    assert parent.hears() == (wire.DONE, 5, 10)
    assert parent.page.begun == 5


def test_memory_that_came_with_a_call_that_was_taken_back_is_there_for_the_next(parent: Parent) -> None:
    _, memory = pack_call(len, (bytes(BIG),))
    assert memory is not None
    memory.use_again()  # from its second use on a file stays mapped, and its descriptor comes once
    packed, memory = pack_call(len, (bytes(BIG),))
    assert memory is not None
    assert memory.part
    parent.page.take_back(1)
    first = CALL.pack(MEMORY | WITH_FD, 1, 1, 1, 0, 0, len(packed))
    second = CALL.pack(MEMORY, 2, 2, 1, 0, 0, len(packed))
    send_with_fds(parent._jobs, first + packed + second + packed, [memory.fd])

    assert parent.hears() == (wire.SKIPPED, 1, b"")
    assert parent.hears() == (wire.DONE, 2, BIG)
    memory.use_again()


def test_memory_of_a_result_that_is_copied_while_the_next_is_packed_is_used_again(parent: Parent) -> None:
    def packed() -> Memory:
        _, memory = dumps(PickleBuffer(bytes(BIG)), pickle.HIGHEST_PROTOCOL)
        assert memory is not None
        return memory

    before = OURS.in_use
    first, second = packed(), packed()
    parent.worker._lend(first)
    parent.page.copied(0)
    parent.worker._lend(second)

    assert OURS.in_use == before + 1
    assert first.fd == -1, "it was given back"
    file = second.fd
    parent.page.copied(0)
    parent.worker._take_back_what_was_copied()
    assert packed().fd == file
    del first, second
    assert OURS.in_use == before


def test_a_running_job_hears_that_it_is_to_stop(parent: Parent, tmp_path: Path) -> None:
    parent.calls(1, crossing.sleep_until_cancelled, str(tmp_path / "told"))
    until(lambda: parent.worker._running is not None)
    parent.says(1, "enough")

    kind, _, error = parent.hears()
    assert (kind, str(error)) == (wire.RAISED, "enough")


def test_a_job_hears_what_was_said_before_it_began(parent: Parent, gate: CrossGate, tmp_path: Path) -> None:
    parent.calls(1, gate)
    gate.wait_entered()
    parent.calls(2, crossing.sleep_until_cancelled, str(tmp_path / "told"))
    parent.says(2, "early")
    until(lambda: parent.worker._tripped)
    gate.open()

    assert parent.hears() == (wire.DONE, 1, 0)
    assert str(parent.hears()[2]) == "early"


def test_nothing_is_kept_of_what_was_said_too_late_or_of_a_job_that_was_skipped(
    parent: Parent, gate: CrossGate
) -> None:
    parent.calls(1, double, 1)
    parent.hears()
    parent.calls(2, gate)
    gate.wait_entered()
    parent.page.take_back(3)
    parent.calls(3, double, 3)
    parent.says(3, "and it is skipped")
    until(lambda: parent.worker._tripped)
    parent.says(1, "too late")
    parent.says(2, "heard after that")
    job = parent.worker._running
    assert job is not None
    until(lambda: job[1].context.cancelled)
    gate.open()
    parent.hears()
    assert parent.hears() == (wire.SKIPPED, 3, b"")

    assert parent.worker._tripped == {}


def test_a_worker_ends_at_once_when_its_parent_is_gone_though_a_job_runs(parent: Parent, gate: CrossGate) -> None:
    parent.calls(1, gate)
    gate.wait_entered()
    parent._control.close()

    assert parent.exited.wait(GUARD)
    gate.open()
