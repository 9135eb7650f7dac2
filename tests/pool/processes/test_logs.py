"""Log records of workers come home: with their job, in their order, all of them, and within bounds."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path

import pytest

from penstock import JobCancelled, ProcessPool, WorkerDied
from penstock.pool.processes.records import MOST
from tests.gates import GUARD, Gate, in_thread
from tests.pool import crossing
from tests.pool.crossing import Explodes, double, log_lines
from tests.pool.watching import until


class Handler(logging.Handler):
    """Remembers what comes; and waits at the gate, if there is one."""

    def __init__(self, gate: Gate | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.gate is not None:
            self.gate()


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler, logger = Handler(), logging.getLogger("crossing")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_record_arrives_with_all_it_says_and_the_job_that_said_it(handler: Handler) -> None:
    with ProcessPool(1) as pool:
        job = pool.options(id="seven").submit(crossing.log_and_raise)

    (record,) = handler.records
    assert (record.getMessage(), record.levelno, record.name) == ("it went wrong", logging.ERROR, "crossing.deep")
    assert (record.job, record.worker, record.shelf) == ("seven", job.worker, 7)  # type: ignore[attr-defined]
    assert "KeyError: 'lost'" in (record.exc_text or "")
    assert record.funcName == "log_and_raise"
    assert record.process is not None


def test_a_level_has_the_name_that_it_has_here(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logging._levelToName, 35, "NOTICE")  # as addLevelName, and taken back
    with ProcessPool(1) as pool:
        pool.submit(crossing.log_at, 35)
        pool.submit(crossing.log_at, 36)

    assert [record.levelname for record in handler.records] == ["NOTICE", "Level 36"]


def test_records_come_in_their_order_and_all_before_the_pool_is_left(handler: Handler) -> None:
    with ProcessPool(2) as pool:
        jobs = [pool.submit(log_lines, 200, text) for text in "ab"]

    for text in "ab":
        said = [record.getMessage() for record in handler.records if record.getMessage().startswith(text)]
        assert said == [f"{text} {number}" for number in range(200)]
    assert all(job.done() for job in jobs)


def test_what_is_logged_in_the_midst_of_a_record_arrives_after_it(handler: Handler) -> None:
    with ProcessPool(1, timeout=GUARD) as pool:
        pool.submit(crossing.log_with, crossing.LogsWhenPickled()).result(GUARD)

    assert sorted({record.getMessage() for record in handler.records}) == ["it is pickled", "with something"]


def test_a_signal_s_handler_may_log_while_its_worker_does(handler: Handler) -> None:
    with ProcessPool(1, timeout=GUARD) as pool:
        interrupted = pool.submit(crossing.log_in_a_signals_handler, 2_000).result(GUARD)

    said = [record.getMessage() for record in handler.records]
    assert [line for line in said if line != "in the handler"] == [f"line {number}" for number in range(2_000)]
    assert said.count("in the handler") == interrupted > 0


def test_what_an_initializer_logs_arrives_and_belongs_to_no_job(handler: Handler) -> None:
    with ProcessPool(1, initializer=crossing.log_in_initializer) as pool:
        pool.start()

    assert [record.getMessage() for record in handler.records] == ["ready soon"]
    assert not hasattr(handler.records[0], "job")


def test_levels_of_the_parent_are_those_of_its_workers(handler: Handler) -> None:
    logger = logging.getLogger("crossing")
    logger.setLevel(logging.ERROR)
    try:
        with ProcessPool(1) as pool:
            pool.submit(log_lines, 3, "not so bad")
            pool.submit(crossing.log_and_raise)
    finally:
        logger.setLevel(logging.NOTSET)

    assert [record.getMessage() for record in handler.records] == ["it went wrong"]


@pytest.mark.parametrize("number", [None, signal.SIGKILL, signal.SIGSEGV], ids=["exit", "SIGKILL", "SIGSEGV"])
def test_the_last_words_of_a_worker_that_dies_arrive(handler: Handler, number: int | None) -> None:
    busy = Gate()
    with ProcessPool(1, unobserved="ignore") as pool:
        pool.start()
        (worker,) = pool._crew.staff.workers()
        pool._crew.staff.dispatcher.do(busy)  # it hears of the death when it has heard none of the records
        busy.wait_entered()
        job = pool.submit(crossing.log_and_die, "goodbye" * 200, 40, number)  # more than is read at once
        assert connection.wait([worker.ends.process.sentinel], GUARD)
        busy.open()
        assert isinstance(job.exception(GUARD), WorkerDied)

    assert len(handler.records) == 40


def test_a_record_that_can_not_be_unpickled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with ProcessPool(1) as pool:
        pool.submit(log_exploding).result(GUARD)

    assert "a log record of a worker can't be unpickled: ValueError: no" in caplog.text


def log_exploding() -> None:
    crossing.log_with(Explodes(ValueError("no")))


def log_what_can_not_be_pickled() -> None:
    crossing.log_with(lambda: None)


def test_a_record_whose_extra_can_not_be_pickled_arrives_without_it(handler: Handler) -> None:
    with ProcessPool(1) as pool:
        pool.submit(log_what_can_not_be_pickled).result(GUARD)

    (record,) = handler.records
    assert record.getMessage() == "with something"
    assert not hasattr(record, "it")


def test_a_flood_of_records_fills_no_memory_while_a_handler_hangs_and_none_is_lost(handler: Handler) -> None:
    gate = handler.gate = Gate()
    count, line = 4_000, "x" * 2_000  # eight times as much as may wait
    with ProcessPool(2) as pool:
        flood = pool.submit(log_lines, count, line)
        gate.wait_entered()
        records, dispatcher = pool._crew.staff.dispatcher._records, pool._crew.staff.dispatcher
        until(lambda: dispatcher._is_deaf)

        for _ in range(50):
            assert pool.submit(double, 1).result(GUARD) == 2
        assert records.waiting < MOST + 2 * 1024 * 1024
        assert flood.running(), "it waits, as for a handler of its own"
        handler.gate = None
        gate.open()
        flood.result(GUARD)

    assert [record.getMessage() for record in handler.records] == [f"{line} {number}" for number in range(count)]


def test_a_worker_that_waits_for_a_handler_can_be_cancelled_and_replaced(handler: Handler) -> None:
    gate = handler.gate = Gate()
    with ProcessPool(1, kill_after=0) as pool:
        flood = pool.submit(log_lines, 4_000, "x" * 2_000)
        gate.wait_entered()
        until(lambda: pool._crew.staff.dispatcher._is_deaf)
        assert not flood.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            flood.result(GUARD)

        assert pool.submit(double, 1).result(GUARD) == 2
        handler.gate = None
        gate.open()


def test_a_stop_ends_in_time_though_a_handler_hangs(handler: Handler, tmp_path: Path) -> None:
    gate = handler.gate = Gate()
    pool = ProcessPool(1)
    pool.submit(log_lines, 1, "hello").result(GUARD)
    gate.wait_entered()
    report = in_thread(pool.shutdown, timeout=0.2).result(GUARD)

    assert report.ok
    handler.gate = None
    gate.open()
