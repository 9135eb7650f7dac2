"""Memory that goes along with calls and results: none is lost, mixed up or kept, whatever happens on the way."""

from __future__ import annotations

import array
import errno
import os
import pickle
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import DeadlineExceeded, NotPicklable, ProcessPool, Retry, WorkerDied
from penstock.pool.processes import arrivals, worker
from penstock.pool.processes.memory import BIG, Memory, Part, Shelf
from penstock.pool.processes.wire import Garbled, Lane, send_with_fds
from tests.gates import GUARD, in_thread
from tests.pool import crossing
from tests.pool.processes.test_memory import descriptors, same
from tests.pool.watching import until

FOREVER = 3600.0


@pytest.fixture
def freed(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "held"
    yield path
    crossing.free(path)


def late(path: str, value: Any) -> Any:
    """Returns it once it is freed; at once after that."""
    if not Path(f"{path}.end").exists():
        crossing.ignore_everything(path)
    return value


def boxes(value: bytes) -> list[bytes]:
    return [value]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# A result that nobody wants any more


@pytest.mark.parametrize("many", [False, True], ids=["plain", "to be unpacked"])
def test_a_result_that_comes_too_late_leaves_no_memory_behind(freed: Path, many: bool) -> None:
    value: Any = [bytes(BIG)] if many else bytes(BIG)
    with ProcessPool(1, unobserved="ignore", kill_after=FOREVER) as pool:
        pool.submit(int).result(GUARD)
        before = descriptors()
        job = pool.options(timeout=0.05).submit(late, str(freed), value)
        assert isinstance(job.exception(GUARD), DeadlineExceeded)
        crossing.free(freed)
        until(lambda: not pool.report.stuck)

        del value
        assert descriptors() <= before
        for _ in range(10):  # and its place on the page is free for others
            assert pool.submit(boxes, bytes(BIG)).result(GUARD) == [bytes(BIG)]
        assert descriptors() <= before + 3  # a file that is used again, and what stays mapped of it and the worker's


@pytest.mark.parametrize("many", [False, True], ids=["plain", "to be unpacked"])
def test_a_job_whose_late_result_was_dropped_has_its_arguments_for_the_next_attempt(freed: Path, many: bool) -> None:
    data = os.urandom(BIG)
    value: Any = [data] if many else data
    retry = Retry(2, on=(DeadlineExceeded,), wait=0)
    with ProcessPool(1, unobserved="ignore", kill_after=FOREVER) as pool:
        pool.submit(int).result(GUARD)
        job = pool.options(timeout=1, retry=retry).submit(late, str(freed), value)
        until(lambda: pool.report.stuck)
        crossing.free(freed)

        assert job.result(GUARD) == value
        assert job.attempt == 2


def test_a_result_that_could_not_be_unpacked_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Part | None] = []

    def no_memory(packed: bytes, part: Part | None) -> Any:
        read.append(part)
        raise MemoryError

    with ProcessPool(1, unobserved="ignore") as pool:
        pool.submit(int).result(GUARD)
        monkeypatch.setattr(arrivals, "loads", no_memory)
        with pytest.raises(NotPicklable, match="MemoryError"):
            pool.submit(bytes, BIG).result(GUARD)
        monkeypatch.undo()

        assert len(read) == 1
        assert pool.submit(bytes, BIG).result(GUARD) == bytes(BIG)


# A call


def test_a_call_whose_function_is_not_there_leaves_no_memory_in_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    only_here = types.ModuleType("only_here")
    exec("def fn(data): ...", vars(only_here))
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with ProcessPool(1, unobserved="ignore") as pool:
        for _ in range(3):  # from its second use on a file stays mapped there
            pool.submit(same, bytes(BIG)).result(GUARD)
        before = pool.submit(open_files).result(GUARD)
        for _ in range(5):
            job = pool.submit(only_here.fn, bytes(BIG))
            assert "No module named 'only_here'" in str(job.exception(GUARD))

        assert pool.submit(open_files).result(GUARD) == before


def test_a_call_that_finds_no_descriptor_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dup, refused = os.dup, 0

    def none_left(fd: int) -> int:
        nonlocal refused
        refused += 1
        if refused <= 3:
            raise OSError(errno.EMFILE, "too many open files")
        return dup(fd)

    with ProcessPool(1) as pool:
        pool.submit(int).result(GUARD)
        monkeypatch.setattr(os, "dup", none_left)
        assert pool.submit(same, bytes(BIG)).result(GUARD) == bytes(BIG)
        assert pool.report.done == 2
    assert refused == 4


def test_a_call_that_the_system_will_not_take_costs_its_worker_and_not_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    send, refused = send_with_fds, 0

    def too_many(sock: socket.socket, data: bytes, fds: list[int]) -> int:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise OSError(errno.ETOOMANYREFS, "too many descriptors are on their way")
        return send(sock, data, fds)

    with ProcessPool(1) as pool:
        pool.submit(int).result(GUARD)
        monkeypatch.setattr(worker, "send_with_fds", too_many)
        assert pool.submit(same, bytes(BIG)).result(GUARD) == bytes(BIG)
        assert pool.report.failed == 0


# Descriptors that the system has dropped


def test_a_lane_that_lost_a_descriptor_is_not_believed_any_more() -> None:
    here, there = socket.socketpair()
    file = os.open(os.devnull, os.O_RDONLY)
    here.sendmsg([b"frame"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file] * 3))])

    class Small:
        """As a socket in a process that has no room for descriptors."""

        def recvmsg(self, size: int, room: int) -> Any:
            return there.recvmsg(size, socket.CMSG_SPACE(4))

    lane = Lane(Small())  # type: ignore[arg-type]
    with pytest.raises(Garbled):
        lane.recv()
    lane.close()
    for fd in (here, there):
        fd.close()
    os.close(file)


def test_a_worker_whose_descriptors_were_lost_fails_its_job_and_mixes_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recv, lost = Lane.recv, 0

    def loses_one(self: Lane) -> bytes:
        nonlocal lost
        data = recv(self)
        if self._fds and not lost:
            lost += 1
            os.close(self._fds.popleft())
            raise Garbled
        return data

    with ProcessPool(1, unobserved="ignore") as pool:
        pool.submit(int).result(GUARD)
        monkeypatch.setattr(Lane, "recv", loses_one)
        assert isinstance(pool.submit(bytes, BIG).exception(GUARD), WorkerDied)
        assert pool.submit(bytes, BIG).result(GUARD) == bytes(BIG)


# The shelf


def test_the_collector_may_come_while_the_shelf_is_busy() -> None:
    shelf = Shelf(1 << 20)

    def collected_meanwhile() -> None:
        left = Memory(dumped(), shelf)
        with shelf._lock:
            del left  # as the collector does, wherever it likes

    in_thread(collected_meanwhile).result(GUARD)
    assert shelf.in_use == 0


def dumped() -> list[pickle.PickleBuffer]:
    return [pickle.PickleBuffer(bytes(BIG))]
