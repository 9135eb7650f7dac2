"""Starting workers: all of them before traffic, or one by one; and initializers that fail."""

from __future__ import annotations

import concurrent.futures.thread
import logging
import threading
from collections.abc import Callable

import pytest

from penstock import Incomplete, JobCancelled, PoolBroken, PoolClosed, Refused, ThreadPool, current_context
from penstock.events import Event, JobAccepted, WorkerStarted
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Seen, watch_line


def names(prefix: str) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)}


def test_no_thread_is_started_before_the_first_job() -> None:
    with ThreadPool(3, thread_name_prefix="lazy") as pool:
        assert names("lazy") == set()
        pool.submit(int).result(GUARD)
        assert names("lazy") == {"lazy_0"}


def test_an_idle_worker_is_used_before_another_is_started() -> None:
    with ThreadPool(3) as pool:
        for _ in range(20):
            pool.submit(int).result(GUARD)
            assert pool.stats().workers <= 2, "the first may still be on its way to rest"


def test_as_many_workers_as_needed_and_no_more_than_max_workers() -> None:
    gate = Gate()
    with ThreadPool(3, thread_name_prefix="busy") as pool:
        for _ in range(10):
            pool.submit(gate)
        gate.wait_entered(3)

        assert names("busy") == {"busy_0", "busy_1", "busy_2"}
        assert (pool.stats().running, pool.stats().queued) == (3, 7)
        gate.open()


def test_start_makes_all_workers_and_returns_the_pool() -> None:
    with ThreadPool(4, thread_name_prefix="ready") as pool:
        seen = Seen(pool)

        assert pool.start() is pool
        assert names("ready") == {f"ready_{number}" for number in range(4)}
        assert pool.stats().workers == 4
        seen.wait_for(WorkerStarted, 4)
        assert pool.start() is pool, "again"
        assert pool.stats().workers == 4


def test_start_returns_when_every_initializer_has_returned() -> None:
    initialized: list[int] = []

    def initializer() -> None:
        initialized.append(threading.get_ident())

    with ThreadPool(4, initializer=initializer) as pool:
        pool.start()

        assert len(set(initialized)) == 4


def test_start_waits_for_a_slow_initializer() -> None:
    gate = Gate()
    with ThreadPool(2, initializer=gate) as pool:
        starting = in_thread(pool.start)
        gate.wait_entered(2)
        assert not starting.done()
        gate.open()

        assert starting.result(GUARD) is pool


def test_start_gives_up_when_the_pool_stops_while_an_initializer_hangs() -> None:
    gate = Gate()
    pool = ThreadPool(2, initializer=gate)
    starting = in_thread(pool.start)
    gate.wait_entered(2)

    pool.shutdown(timeout=0)

    assert isinstance(starting.exception(GUARD), PoolClosed)
    gate.open()


def test_a_closed_pool_does_not_start() -> None:
    pool = ThreadPool(2, thread_name_prefix="late")
    pool.shutdown()

    with pytest.raises(PoolClosed):
        pool.start()
    assert names("late") == set()


def test_the_workers_are_daemons_and_named_after_the_prefix_or_the_name() -> None:
    with ThreadPool(1, name="mail") as pool:
        thread = pool.submit(threading.current_thread).result(GUARD)
        assert (pool.name, thread.name, thread.daemon) == ("mail", "mail_0", True)
    with ThreadPool(1, "post", name="mail") as pool:
        thread = pool.submit(threading.current_thread).result(GUARD)
        assert (pool.name, thread.name) == ("mail", "post_0")
    with ThreadPool(1) as first, ThreadPool(1) as second:
        assert first.name.startswith("ThreadPool-")
        assert first.name != second.name


def test_the_stdlibs_four_arguments_are_there_in_its_order() -> None:
    given: list[tuple[int, int]] = []

    with ThreadPool(1, "four", lambda a, b: given.append((a, b)), (1, 2)) as pool:
        assert pool.submit(threading.current_thread).result(GUARD).name == "four_0"

    assert given == [(1, 2)]


def test_the_initializer_runs_once_on_each_worker_before_its_first_job() -> None:
    local = threading.local()
    gate = Gate()

    def initializer() -> None:
        local.count = getattr(local, "count", 0) + 1

    def count() -> int:
        gate()
        return int(local.count)

    with ThreadPool(3, initializer=initializer) as pool:
        jobs = [pool.submit(count) for _ in range(9)]
        gate.wait_entered(3)
        gate.open()

        assert [job.result(GUARD) for job in jobs] == [1] * 9


# An initializer that fails


def fail() -> None:
    raise LookupError("no database")


def test_start_raises_what_the_initializer_raised() -> None:
    pool = ThreadPool(3, initializer=fail)

    with pytest.raises(LookupError, match="no database"):
        pool.start()
    with pytest.raises(LookupError, match="no database"):
        pool.start()
    assert pool.wait().accepted == 0


def test_jobs_that_wait_fail_with_pool_broken_and_its_cause() -> None:
    gate = Gate()

    def fail_when_told() -> None:
        gate()
        fail()

    pool = ThreadPool(1, initializer=fail_when_told, name="db")
    jobs = [pool.submit(int) for _ in range(3)]
    gate.wait_entered()
    assert not any(job.done() for job in jobs)
    gate.open()

    for job in jobs:
        error = job.exception(GUARD)
        assert isinstance(error, PoolBroken)
        assert isinstance(error, concurrent.futures.thread.BrokenThreadPool)
        assert isinstance(error.__cause__, LookupError)
        assert "'db' is broken" in str(error)
    report = pool.wait()
    assert (report.accepted, report.failed, report.ok) == (3, 3, False)


def test_a_broken_pool_refuses_further_jobs_as_broken() -> None:
    pool = ThreadPool(1, initializer=fail)
    with pytest.raises(LookupError):
        pool.start()

    for _ in range(2):
        with pytest.raises(PoolBroken, match="no database") as caught:
            pool.submit(int)
        assert isinstance(caught.value, Refused)
        assert not isinstance(caught.value, PoolClosed)
        assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(PoolBroken):
        pool.map(abs, [1])
    assert pool.wait().accepted == 0


def test_it_breaks_once_with_the_first_error_however_many_workers_fail(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(3)

    def fail_together() -> None:
        together.wait(GUARD)
        fail()

    pool = ThreadPool(3, initializer=fail_together, name="db")
    with pytest.raises(LookupError):
        pool.start()
    pool.wait()

    records = [record for record in caplog.records if record.name == "penstock.pool"]
    assert [(record.levelno, record.getMessage()) for record in records] == [
        (logging.CRITICAL, "the initializer of pool 'db' raised")
    ]
    assert records[0].exc_info is not None


def test_a_job_that_is_accepted_just_when_the_pool_breaks_fails_too() -> None:
    gate = Gate()

    def fail_when_told() -> None:
        gate()
        fail()

    def let_it_break_meanwhile(event: Event) -> None:
        if isinstance(event, JobAccepted) and event.id == 2:
            gate.open()
            assert isinstance(first.exception(GUARD), PoolBroken)

    pool = ThreadPool(1, initializer=fail_when_told)
    pool.observe(let_it_break_meanwhile)
    first = pool.submit(int)
    gate.wait_entered()
    second = pool.submit(int)  # accepted before the pool breaks, in its queue only after

    try:
        assert isinstance(second.exception(1), PoolBroken)
    finally:
        pool.shutdown(timeout=0)


def test_those_who_wait_for_a_place_of_a_pool_that_breaks_are_refused() -> None:
    gate = Gate()

    def fail_when_told() -> None:
        gate()
        fail()

    pool = ThreadPool(1, backlog=1, initializer=fail_when_told)
    line = watch_line(pool)
    job = pool.submit(int)
    gate.wait_entered()
    submitting = in_thread(pool.submit, int)
    line.wait_for_one_more()
    gate.open()

    assert isinstance(job.exception(GUARD), PoolBroken)
    with pytest.raises(PoolBroken):
        submitting.result(GUARD)
    assert pool.wait().accepted == 1


def test_the_block_of_a_broken_pool_does_not_hang_and_tells_that_jobs_were_cut() -> None:
    with pytest.raises(Incomplete), ThreadPool(2, initializer=fail) as pool:
        try:
            pool.submit(int)
        except PoolBroken:
            pytest.fail("the first is accepted: no worker has tried yet")


def test_a_worker_whose_initializer_fails_late_ends_the_pool_while_another_finishes_its_job() -> None:
    gate = Gate()
    numbers = iter([False, True])

    def fail_on_the_second() -> None:
        if next(numbers):
            fail()

    pool = ThreadPool(2, initializer=fail_on_the_second)
    running = pool.submit(gate, "its result")
    gate.wait_entered()
    waiting = pool.submit(int)

    assert isinstance(waiting.exception(GUARD), PoolBroken)
    assert running.running()
    gate.open()
    assert running.result(GUARD) == "its result"
    assert pool.wait().balanced


def test_a_job_that_runs_when_the_pool_breaks_is_asked_to_stop_by_a_stop() -> None:
    is_second = threading.Event()

    def fail_later() -> None:
        if is_second.is_set():
            raise ValueError("no licence")
        is_second.set()

    pool = ThreadPool(2, initializer=fail_later)
    begun = threading.Event()

    def rest() -> None:
        begun.set()
        current_context().sleep(GUARD)

    resting = pool.submit(rest)
    assert begun.wait(GUARD)
    broken = pool.submit(int)
    assert isinstance(broken.exception(GUARD), PoolBroken)

    report = pool.shutdown(timeout=0.3)

    assert isinstance(resting.exception(0), JobCancelled)
    assert (report.cancelled, report.abandoned) == (1, 0)


# No thread to be had


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on no thread can be started, as in a process that has as many as it may."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


def test_jobs_of_a_pool_that_can_have_no_thread_fail_with_pool_broken(
    no_more_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    pool = ThreadPool(2, name="bare")
    no_more_threads()

    jobs = [pool.submit(int) for _ in range(3)]

    for job in jobs:
        error = job.exception(GUARD)
        assert isinstance(error, PoolBroken)
        assert str(error) == "pool 'bare' is broken: no thread can be started: can't start new thread"
        assert isinstance(error.__cause__, RuntimeError)
    assert pool.shutdown().cut == 3
    assert caplog.text.count("pool 'bare' can't start another thread: can't start new thread") == 1, "said once"
    assert "Traceback" not in caplog.text, "nobody's code is to blame"


def test_a_pool_that_can_have_no_more_threads_goes_on_with_those_it_has(no_more_threads: Callable[[], None]) -> None:
    gate = Gate()
    with ThreadPool(3) as pool:
        held = pool.submit(gate, 1)
        gate.wait_entered()
        no_more_threads()
        jobs = [pool.submit(abs, -number) for number in range(5)]
        gate.open()

        assert [job.result(GUARD) for job in (held, *jobs)] == [1, 0, 1, 2, 3, 4]
        assert pool.stats().workers == 1


def test_a_job_that_waits_for_its_pool_which_can_have_no_thread_in_its_place_gets_an_error_and_no_deadlock(
    no_more_threads: Callable[[], None],
) -> None:
    def parent() -> int:
        no_more_threads()
        return pool.submit(abs, -1).result()

    pool = ThreadPool(1)
    error = pool.submit(parent).exception(GUARD)

    assert isinstance(error, PoolBroken)
    pool.shutdown()


def test_start_says_how_many_threads_it_could_start(no_more_threads: Callable[[], None]) -> None:
    pool = ThreadPool(2)
    pool.submit(int).result(GUARD)
    no_more_threads()

    with pytest.raises(RuntimeError, match="only 1 of 2 worker threads could be started"):
        pool.start()
    pool.shutdown()
