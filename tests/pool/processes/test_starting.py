"""Starting processes: what goes wrong with it, what it takes, and what is left of one that has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from penstock import PoolClosed, ProcessPool
from penstock.lifecycle import Phase
from penstock.pool.lifeline import LIFELINE
from penstock.pool.processes import ProcessPoolBroken, child
from penstock.pool.processes.dispatcher import Dispatcher
from penstock.pool.processes.launch import Ends, Starter, process_for
from penstock.pool.processes.parcel import Later
from tests.gates import GUARD, Gate, in_thread
from tests.pool.crossing import CrossGate, double
from tests.pool.processes.puppet import Stage
from tests.pool.watching import until


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.pool.processes.dispatcher._FIRST_PAUSE", 0.001)


# What goes wrong


def test_a_process_that_can_not_be_started_is_tried_again(stage: Stage) -> None:
    stage.trouble = [OSError("too many open files")] * 2
    pool = stage.pool()
    job = pool.submit(double, 1)
    ann = stage.ready(pool)

    assert ann.takes() == [1]
    ann.runs(1)
    assert job.result(GUARD) == 2
    assert stage.asked == 3


def test_a_pool_that_can_start_no_process_at_all_breaks_once_with_the_reason(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.trouble = [OSError("too many open files") for _ in range(9)]
    pool = stage.pool(3)
    jobs = [pool.submit(double, n) for n in range(5)]

    assert ["too many open files" in str(job.exception(GUARD)) for job in jobs] == [True] * 5
    assert pool.shutdown().failed == 5
    assert [record.levelno for record in caplog.records].count(logging.CRITICAL) == 1


def test_no_process_is_started_after_one_that_could_not_be_made_ready(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, is_broken, looked = Gate(), Dispatcher._is_broken, threading.Event()

    def takes_time(self: Dispatcher, packed: bytes) -> None:
        gate()
        is_broken(self, packed)

    monkeypatch.setattr(Dispatcher, "_is_broken", takes_time)  # the error may be a user's
    pool = stage.pool()
    job = pool.submit(double, 1)
    ann = stage.next()
    ann.breaks(ValueError("no licence"))
    ann.dies(1)
    until(lambda: ann.is_closed)
    assert pool._crew.staff.dispatcher.do(looked.set)
    assert looked.wait(GUARD)

    assert pool._crew.staff.alive == 0
    waits = pool.submit(double, 2)
    assert pool._crew.staff.alive == 0
    gate.open()
    assert [type(each.exception(GUARD)) for each in (job, waits)] == [ProcessPoolBroken] * 2
    assert stage.asked == 1


def test_a_pool_with_a_worker_goes_on_though_others_can_not_be_started(stage: Stage) -> None:
    pool = stage.pool(2)
    pool.submit(double, 0)
    ann = stage.ready(pool)
    assert ann.takes() == [1]
    stage.trouble = [OSError("too many open files") for _ in range(4)]
    starting = in_thread(pool.start)
    with pytest.raises(OSError, match="too many open files"):
        starting.result(GUARD)
    job = pool.submit(double, 1)
    bob = stage.ready(pool)

    assert bob.takes() == [1]
    bob.runs(1)
    assert job.result(GUARD) == 2
    assert stage.asked == 6


def test_start_ends_when_the_pool_is_closed_meanwhile(stage: Stage) -> None:
    pool = stage.pool(2)
    starting = in_thread(pool.start)
    ann, bob = stage.next(), stage.next()
    pool.close()

    with pytest.raises(PoolClosed):
        starting.result(GUARD)
    for puppet in (ann, bob):
        puppet.ready()
        puppet.leaves()


# What it takes


def slow(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """From now on starting a process takes until the gate is opened."""
    gate, hire = Gate(), stage._hire

    def held(context: object, setup: child.Setup) -> Any:
        gate()
        return hire(context, setup)

    monkeypatch.setattr("penstock.pool.processes.dispatcher.Ends", held)
    return gate


def test_results_arrive_while_a_process_takes_its_time_to_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool(2)
    job = pool.submit(double, 1)
    ann = stage.ready(pool)
    assert ann.takes() == [1]
    gate = slow(stage, monkeypatch)
    pool._crew.staff.grow()
    gate.wait_entered()
    ann.runs(1)

    assert job.result(GUARD) == 2
    gate.open()
    stage.ready(pool)


def test_a_process_that_is_started_into_a_closed_pool_leaves(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow(stage, monkeypatch)
    pool = stage.pool()
    job = pool.submit(double, 1)
    gate.wait_entered()
    assert job.cancel()
    pool.close()
    assert pool._crew.lifecycle.phase is Phase.CLOSED
    gate.open()

    ann = stage.next()
    ann.ready()
    ann.leaves()


def test_a_process_that_is_started_into_a_pool_that_had_to_stop_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = slow(stage, monkeypatch)
    pool = stage.pool()
    pool.submit(double, 1)
    gate.wait_entered()
    stopping = in_thread(pool.shutdown, timeout=0.01)
    until(lambda: pool._crew.staff.none_may_live)
    gate.open()

    assert stage.next().killed.wait(GUARD)
    assert stopping.result(GUARD).cancelled == 1


def test_starts_are_made_one_after_another_and_their_thread_ends() -> None:
    gate = Gate()
    started: list[str] = []

    def start(setup: child.Setup) -> None:
        gate()
        started.append(setup.name)

    starter = Starter("it", start)
    for name in "abc":
        starter.put(child.Setup(name, {}, (), Later({}), {}, {}, False))
    gate.wait_entered()
    threads = [thread for thread in threading.enumerate() if thread.name == "penstock-it-s"]
    gate.open()
    starter.join()

    assert started == ["a", "b", "c"]
    assert len(threads) == 1
    threads[0].join(GUARD)
    starter.put(child.Setup("d", {}, (), Later({}), {}, {}, False))
    starter.join()
    assert started[-1] == "d"


# What is left of it


def descriptors() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{fd} {fd.readlink()}")
    return found


def setup() -> child.Setup:
    return child.Setup("it", {}, (), Later(dict.fromkeys(("initializer", "initargs", "around"))), {}, {}, True)


def test_a_start_that_fails_leaves_nothing_open() -> None:
    forkserver.ensure_running()
    LIFELINE.fileno()  # made once, for the whole process
    before = descriptors()
    with pytest.raises(Exception, match="pickle"):
        Ends(
            process_for("forkserver", ()), dataclasses.replace(setup(), users=Later({"initializer": threading.Lock()}))
        )

    assert descriptors() <= before


def test_no_signal_is_sent_once_all_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    ends = Ends(process_for("forkserver", ()), setup())
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: sent.append(number))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    with ends._lock:
        sending = in_thread(ends.kill)
        ends._is_closed = True  # as `close`, which waits for the lock
    sending.result(GUARD)
    monkeypatch.undo()
    ends._is_closed = False
    ends.kill()
    ends.process.join()
    ends.close()
    ends.kill()

    assert sent == []


def test_the_file_of_stacks_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch, gate: CrossGate) -> None:
    monkeypatch.setattr("penstock.pool.processes.worker._LARGEST", 10_000)
    with ProcessPool(1) as pool:
        job = pool.submit(gate)
        gate.wait_entered()
        (worker,) = pool._crew.staff.workers()
        for _ in range(60):
            assert "_stay" in job.stack()
            assert os.fstat(worker.ends.stacks.fileno()).st_size < 20_000
        gate.open()
        job.result(GUARD)


def test_nothing_is_left_open_of_a_pool_that_has_ended() -> None:
    forkserver.ensure_running()
    ProcessPool(1).start().shutdown()
    before = len(descriptors())
    for _ in range(3):
        with ProcessPool(2) as pool:
            pool.start()

    assert len(descriptors()) <= before


def test_processes_that_die_leave_nothing_behind() -> None:
    with ProcessPool(2, unobserved="ignore") as pool:
        pool.start()
        before = len(descriptors())
        threads = threading.active_count()
        for _ in range(30):
            for job in [pool.submit(os._exit, 1) for _ in range(2)]:
                job.exception(GUARD)
        pool.start()
        until(lambda: len(pool._crew.staff.workers()) == 2)

        assert len(descriptors()) <= before
        assert threading.active_count() <= threads + 1  # the one that starts processes may be about to end
    assert pool.report.failed == 60


# Signals to every process, as a terminal or a service manager sends them


def test_signals_that_stop_programs_end_neither_the_fork_server_nor_a_worker(gate: CrossGate) -> None:
    with ProcessPool(1) as pool:
        worker = pool.submit(os.getpid).result(GUARD)
        job = pool.submit(gate)
        gate.wait_entered()
        server: Any = forkserver._forkserver
        for number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(server._forkserver_pid, number)
            os.kill(worker, number)
        gate.open()
        job.result(GUARD)
        assert pool.submit(double, 2).result(GUARD) == 4
        assert os.waitpid(server._forkserver_pid, os.WNOHANG) == (0, 0), "the server lives"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_they_end_the_processes_of_others_that_the_fork_server_has_forked(number: signal.Signals) -> None:
    with ProcessPool(1) as pool:
        pool.submit(double, 2).result(GUARD)
        other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(GUARD,))
        other.start()
        os.kill(other.pid or 0, number)
        other.join(GUARD)
        assert other.exitcode == -number
