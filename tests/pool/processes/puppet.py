"""Worker processes that a test plays itself, step by step: what a pool's parent side does in every order of events.

    pool = stage.pool(2)
    job = pool.submit(double, 1)
    ann = stage.ready(pool)     the next one that is started, once it has said that it is ready
    ann.takes()                 the numbers of the calls on its lane, waited for
    ann.begins(1)
    ann.answers(1, 2)

The parent's side is the real one, thread and all.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import tempfile
import threading
from typing import Any

import pytest

from penstock import ProcessPool, clock
from penstock.pool.processes import dispatcher as dispatcher_module
from penstock.pool.processes import wire
from penstock.pool.processes.child import Setup
from penstock.pool.processes.page import Page
from penstock.pool.processes.parcel import pack_error, pack_result
from penstock.pool.processes.wire import ANSWER, CALL, CHUNK, CONTROL, Incoming
from tests.gates import GUARD
from tests.pool.watching import until


class Stage:
    """Hires puppets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._came: queue.SimpleQueue[Puppet] = queue.SimpleQueue()
        self.puppets: list[Puppet] = []
        self._pools: list[ProcessPool] = []
        self.trouble: list[BaseException] = []
        """What the next attempts to start a process raise."""
        self.asked = 0
        monkeypatch.setattr(dispatcher_module, "Ends", self._hire)

    def _hire(self, context: object, setup: Setup) -> Puppet:
        self.asked += 1
        if self.trouble:
            raise self.trouble.pop(0)
        puppet = Puppet(setup)
        self.puppets.append(puppet)
        self._came.put(puppet)
        return puppet

    def pool(self, workers: int = 1, **options: Any) -> ProcessPool:
        """A pool of puppets; it is stopped when the test ends."""
        pool = ProcessPool(workers, **{"unobserved": "ignore", **options})
        self._pools.append(pool)
        return pool

    def next(self) -> Puppet:
        """The next one that was started."""
        try:
            return self._came.get(timeout=GUARD)
        except queue.Empty:
            raise AssertionError("no worker was started") from None

    def ready(self, pool: ProcessPool) -> Puppet:
        """One that was started, is ready, and known to be."""
        puppet = self.next()
        puppet.ready()
        until(lambda: any(worker.ready for worker in pool._crew.staff.workers() if worker.name == puppet.name))
        return puppet

    def close(self) -> None:
        """The pools are stopped, which kills all that live."""
        for puppet in self.puppets:
            puppet.obeys = True
            if puppet.killed.is_set() and not puppet.is_dead:
                puppet.dies(-9)
        for pool in self._pools:
            report = pool.shutdown(timeout=0)
            assert report.closed
            assert report.balanced
        assert all(puppet.is_closed for puppet in self.puppets), "an end of theirs was not closed"


class Puppet:
    """What `Ends` is to the parent; and what its process would do, if it were one."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.name
        self.setup = setup
        self.jobs, self._jobs = socket.socketpair()
        self.control, self._control = socket.socketpair()
        for sock in (self.jobs, self.control):
            sock.setblocking(False)
        for sock in (self._jobs, self._control):
            sock.settimeout(GUARD)
        with tempfile.TemporaryFile() as memory:
            memory.truncate(Page.SIZE)
            self.page = Page(memory.fileno())
        self.stacks: Any = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - closed with the rest
        self.process = FakeProcess()
        self.killed = threading.Event()
        self.obeys = True  # it dies of a SIGKILL
        self.is_dead = False
        self.is_closed = False
        self._incoming = Incoming(CALL)
        self._messages = Incoming(CONTROL)
        self.calls: dict[int, tuple[bytes, bytes]] = {}  # taken off the lane so far, by number
        self.attempts: dict[int, int] = {}

    # As Ends

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL and not self.is_dead:
            self.killed.set()
            if self.obeys:
                self.dies(-9)

    def close(self) -> None:
        assert self.is_dead
        self.is_closed = True
        self.jobs.close()
        self.control.close()
        self.stacks.close()
        self.page.close()
        self.process.close()

    # As the process

    def ready(self) -> None:
        self._say(wire.READY, 0, b"")

    def breaks(self, error: BaseException) -> None:
        """It can't be made ready, and no other could."""
        self._say(wire.BROKEN, 0, pack_error(error))

    def takes(self, count: int = 1) -> list[int]:
        """The numbers of the next *count* calls; AssertionError if they don't come."""
        found: list[int] = []
        while len(found) < count:
            try:
                data = self._jobs.recv(CHUNK)
            except TimeoutError:
                raise AssertionError(f"only calls {found} came") from None
            assert data, f"the lane has ended after calls {found}"
            for (_, seq, _, attempt, extra, function, _), packed in self._incoming.feed(data):
                self.attempts[seq] = attempt
                self.calls[seq] = packed[extra : extra + function], packed[extra + function :]
                found.append(seq)
        return found

    def begins(self, seq: int) -> bool:
        return self.page.begin(seq)

    def answers(self, seq: int, value: Any = None) -> None:
        now = clock.monotonic()
        self._say(wire.DONE, seq, pack_result(value)[0], now, now)

    def raises(self, seq: int, error: BaseException) -> None:
        now = clock.monotonic()
        self._say(wire.RAISED, seq, pack_error(error), now, now)

    def skips(self, seq: int) -> None:
        self._say(wire.SKIPPED, seq, b"")

    def runs(self, seq: int) -> Any:
        """Do what a process does with call *seq*."""
        function, call = self.calls[seq]
        if not self.begins(seq) or not (function or call):
            self.skips(seq)
            return None
        if function:
            fn, args = pickle.loads(function), pickle.loads(call) if call else ()
        else:
            fn, args = pickle.loads(call)
        value = fn(*args)
        self.answers(seq, value)
        return value

    def runs_all_up_to(self, last: int) -> None:
        """Take calls and do what a process does with each, up to number *last*."""
        done = max((seq for seq in self.calls if seq <= self.page.begun), default=0)
        while done < last:
            for seq in [seq for seq in self.calls if seq > done] or self.takes():
                self.runs(seq)
                done = seq

    def is_told(self) -> tuple[int, str, bool]:
        """The next message on its control lane."""
        while True:
            for _, packed in self._messages.feed(self._control.recv(CHUNK)):
                told: tuple[int, str, bool] = pickle.loads(packed)
                return told

    def lane_ends(self) -> None:
        """Return once it was told to leave."""
        assert self._jobs.recv(CHUNK) == b""

    def leaves(self) -> None:
        """It is told to leave, and does."""
        self.lane_ends()
        self.dies(0)

    def dies(self, exitcode: int) -> None:
        assert not self.is_dead
        self.is_dead = True
        self._jobs.close()
        self._control.close()
        self.process.ends(exitcode)

    def _say(self, kind: int, seq: int, body: bytes, began: float = 0.0, ended: float = 0.0) -> None:
        self._jobs.sendall(ANSWER.pack(kind, wire.NO_MEMORY, seq, began, ended, len(body)) + body)


class FakeProcess:
    """The part of multiprocessing.Process that the parent uses."""

    def __init__(self) -> None:
        self.sentinel, self._end = os.pipe()
        self.exitcode: int | None = None
        self.pid: int | None = None

    def ends(self, exitcode: int) -> None:
        self.exitcode = exitcode
        os.close(self._end)

    def join(self, timeout: float | None = None) -> None:
        assert self.exitcode is not None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.sentinel)
