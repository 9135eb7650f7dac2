"""`graceful`: what SIGTERM and Ctrl-C do to a process with pools, seen from outside and from inside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from penstock import Incomplete, PoolClosed, Shutdown, ThreadPool, graceful
from tests.gates import GUARD, Gate, in_thread, slack
from tests.pool.script import SLACK, running
from tests.pool.watching import until

# --- real processes, real signals -----------------------------------------------------------------------------------

END = """
print(*(str(report).split("; ")[1] for report in shutdown.reports), sep="\\n", flush=True)
sys.exit(shutdown.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    code = """
        pool = ThreadPool(1)
        with graceful(pool) as shutdown:
            pool.submit(until_told)
            pool.submit(say, "the one that waited")
            say("ready")
            assert shutdown.requested.wait(60)
            try:
                pool.submit(say, "never")
            except PoolClosed as error:
                say(str(error).split(", ")[1])
        assert shutdown.signal is not None and not shutdown.reports[0].cut
        """
    with running(tmp_path, code, END) as script:
        script.expect("ready")
        script.signal(number)
        script.expect(f"{number.name} came")
        script.go()
        script.expect("the one that waited", "2 accepted: 2 done")

        assert script.end(within=SLACK) == 128 + number
        assert script.errors == ""


def test_the_second_signal_cancels(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1)
        with graceful(pool, timeout=60) as shutdown:
            pool.submit(rest)
            pool.submit(say, "never")
            say("submitted")
            shutdown.requested.wait()
            say("draining")
        """
    with running(tmp_path, code, END) as script:
        script.expect_in_any_order("resting", "submitted")
        script.signal(signal.SIGTERM)
        script.expect("draining")
        script.signal(signal.SIGTERM)
        script.expect("woken by Cancelled", "2 accepted: 0 done, 2 cancelled")

        assert script.end(within=SLACK) == 128 + signal.SIGTERM
        assert "SIGTERM again: cancelling; once more to exit at once" in script.errors


def test_the_third_signal_ends_the_process_whatever_hangs(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1)
        with graceful(pool, timeout=60) as shutdown:
            job = pool.submit(hang)
            job.context.on_cancel(lambda: say("asked to stop"))
            shutdown.requested.wait()
            say("draining")
        """
    with running(tmp_path, code) as script:
        script.expect("hung")
        script.signal(signal.SIGTERM)
        script.expect("draining")
        script.signal(signal.SIGTERM)
        script.expect("asked to stop")
        script.signal(signal.SIGINT)

        assert script.end(within=SLACK) == 128 + signal.SIGINT
        assert "SIGINT for the third time: exiting" in script.errors


def test_a_hung_job_costs_the_time_of_the_stop_and_no_more(tmp_path: Path) -> None:
    timeout = 1.0
    code = f"""
        pool = ThreadPool(1, name="stuck pool")
        with graceful(pool, timeout={timeout}) as shutdown:
            pool.submit(hang)
            pool.submit(say, "never")
            say("submitted")
            shutdown.requested.wait()
        """
    with running(tmp_path, code, END) as script:
        script.expect_in_any_order("hung", "submitted")
        begun = time.monotonic()
        script.signal(signal.SIGTERM)
        script.expect("2 accepted: 0 done, 1 cancelled, 1 abandoned")

        assert script.end() == 128 + signal.SIGTERM
        assert timeout <= time.monotonic() - begun < slack(timeout + SLACK)
        assert "pool 'stuck pool' stopped in " in script.errors
        assert "abandoned: job 1 (hang) on stuck pool_0" in script.errors
        assert "threading.Event().wait()" in script.errors


def test_a_signal_reaches_a_main_thread_that_is_blocked_in_a_full_submit(tmp_path: Path) -> None:
    code = """
        from penstock.pool import lines

        sleep = lines.SubmitterInLine.sleep

        def told(*args):
            say("blocked")
            sleep(*args)

        lines.SubmitterInLine.sleep = told
        begun = threading.Event()

        def begin():
            begun.set()
            until_told()

        def tell(shutdown):
            shutdown.requested.wait()
            say("requested")

        pool = ThreadPool(1, backlog=1)
        with graceful(pool, timeout=60) as shutdown:
            threading.Thread(target=tell, args=(shutdown,)).start()
            pool.submit(begin)
            begun.wait()
            while True:
                pool.submit(until_told)
        """
    with running(tmp_path, code, END) as script:
        script.expect("blocked")
        script.signal(signal.SIGTERM)
        script.expect("requested")
        script.go(2)

        script.expect("2 accepted: 2 done")
        assert script.end(within=SLACK) == 128 + signal.SIGTERM
        assert script.errors == "", "PoolClosed did not leave the block"


def test_several_pools_stop_in_the_order_given_and_under_one_budget(tmp_path: Path) -> None:
    timeout = 1.5
    code = f"""
        first, second = ThreadPool(1, name="first"), ThreadPool(2, name="second")

        def feed():
            say("feeding")
            os.read(0, 1)
            second.submit(say, "fed while the first pool drained").result()
            hang()

        with graceful(first, second, timeout={timeout}) as shutdown:
            first.submit(feed)
            second.submit(int).result()
            shutdown.requested.wait()
            say("draining")
            second.submit(rest)
        """
    with running(tmp_path, code, END) as script:
        script.expect("feeding")
        begun = time.monotonic()
        script.signal(signal.SIGTERM)
        script.expect_in_any_order("draining", "resting")
        script.go()
        script.expect("fed while the first pool drained", "hung", "woken by Cancelled")
        script.expect("1 accepted: 0 done, 1 abandoned", "3 accepted: 2 done, 1 cancelled")

        assert script.end() == 128 + signal.SIGTERM
        assert timeout <= time.monotonic() - begun < slack(timeout + SLACK)


@pytest.mark.parametrize(("job", "exit_code"), [("int", 0), ("hang", 1)])
def test_without_a_signal_the_exit_code_tells_whether_all_ran(tmp_path: Path, job: str, exit_code: int) -> None:
    code = f"""
        pool = ThreadPool(1)
        with graceful(pool) as shutdown:
            pool.submit({job})
            if {job} is hang:
                pool.shutdown(timeout=0.1)
        """
    with running(tmp_path, code, END) as script:
        assert script.end() == exit_code


def test_incomplete_of_a_block_inside_is_swallowed_after_a_signal_and_what_was_there_is_called(tmp_path: Path) -> None:
    code = """
        signal.signal(signal.SIGTERM, lambda number, frame: say(f"the handler before: {number}"))
        pool = ThreadPool(1)
        with graceful(pool, timeout=0.5) as shutdown:
            with pool:
                pool.submit(hang)
                shutdown.requested.wait()
                say("requested")
        say("after the block")
        """
    with running(tmp_path, code, END) as script:
        script.expect("hung")
        script.signal(signal.SIGTERM)
        script.expect_in_any_order(f"the handler before: {int(signal.SIGTERM)}", "requested")
        script.expect("after the block", "1 accepted: 0 done, 1 abandoned")

        assert script.end() == 128 + signal.SIGTERM
        assert "Traceback" not in script.errors


def test_a_signal_while_the_block_waits_for_its_jobs_stops_that_wait(tmp_path: Path) -> None:
    code = """
        from penstock.pool import graceful as room

        wait_for_all = room.wait_for_all

        def told(crew):
            say("leaving")
            return wait_for_all(crew)

        room.wait_for_all = told
        pool = ThreadPool(1)
        with graceful(pool, timeout=0.6) as shutdown:
            pool.submit(rest)
        """
    with running(tmp_path, code, END) as script:
        script.expect_in_any_order("resting", "leaving")
        script.signal(signal.SIGTERM)
        script.expect("woken by Cancelled", "1 accepted: 0 done, 1 cancelled")

        assert script.end(within=SLACK) == 128 + signal.SIGTERM


def test_after_the_block_signals_mean_what_they_meant_before(tmp_path: Path) -> None:
    code = """
        with graceful(ThreadPool(1)):
            pass
        say("after")
        signal.pause()
        """
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path, code) as script:
            script.expect("after")
            script.signal(number)

            assert script.end(within=SLACK) == -number


def test_an_error_that_a_signal_did_not_cause_leaves_the_block(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1)
        with graceful(pool, timeout=60):
            pool.submit(say, "begun")
            os.kill(os.getpid(), signal.SIGTERM)
            raise KeyError("of the user's own")
        """
    with running(tmp_path, code) as script:
        script.expect("begun")

        assert script.end() == 1
        assert "KeyError" in script.errors


def test_a_process_under_a_storm_of_signals_ends(tmp_path: Path) -> None:
    """More signals than anybody sends, from the first moment to the last: no dead-lock, no lost process."""
    code = """
        pool = ThreadPool(2, backlog=4)
        with graceful(pool, timeout=60):
            say("ready")
            while True:
                pool.submit(sum, range(1000))
        """
    with running(tmp_path, code) as script:
        script.expect("ready")
        while script.process.poll() is None:
            script.signal(signal.SIGTERM)

        assert script.end() in (128 + signal.SIGTERM, 0, -signal.SIGTERM)


# --- inside this process --------------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of this process are as before, whatever a test does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


pytestmark = pytest.mark.usefixtures("handlers")


def ignore(number: int, frame: FrameType | None) -> None:
    pass


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, ignore])
def test_the_handlers_are_put_back_as_they_were(before: signal._HANDLER) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        signal.signal(number, before)
    with graceful(ThreadPool(1)):
        assert all(signal.getsignal(number) != before for number in numbers)

    assert [signal.getsignal(number) for number in numbers] == [before] * 2


def test_the_handlers_are_put_back_when_an_error_leaves_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), graceful(ThreadPool(1)):
        raise KeyError

    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_signals_that_were_asked_for_are_handled() -> None:
    before = signal.getsignal(signal.SIGTERM)
    pool = ThreadPool(1)
    with graceful(pool, signals=[signal.SIGUSR1]) as shutdown:
        assert signal.getsignal(signal.SIGTERM) is before
        signal.raise_signal(signal.SIGUSR1)
        assert shutdown.requested.wait(GUARD)

    assert (shutdown.signal, shutdown.exit_code) == (signal.SIGUSR1, 128 + signal.SIGUSR1)


def test_nothing_of_it_is_left_after_the_block() -> None:
    files = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []  # noqa: PTH208, PTH112
    with graceful(ThreadPool(1)):
        assert any(thread.name == "penstock-signals" for thread in threading.enumerate())

    assert not any(thread.name == "penstock-signals" for thread in threading.enumerate())
    if files:
        assert os.listdir("/proc/self/fd") == files  # noqa: PTH208


def test_a_signal_that_nobody_can_handle_is_an_error_that_changes_nothing() -> None:
    before, threads = signal.getsignal(signal.SIGTERM), threading.enumerate()

    with (
        ThreadPool(1) as pool,
        pytest.raises(OSError, match="Invalid"),
        graceful(pool, signals=[signal.SIGTERM, signal.SIGKILL]),
    ):
        pytest.fail("it was entered")

    assert signal.getsignal(signal.SIGTERM) == before
    assert threading.enumerate() == threads


def test_blocks_can_stand_in_one_another_and_a_signal_stops_both() -> None:
    inner, outer = ThreadPool(1), ThreadPool(1)
    with graceful(outer) as outside:
        with graceful(inner) as inside:
            signal.raise_signal(signal.SIGTERM)
            assert inside.requested.wait(GUARD)
            assert outside.requested.wait(GUARD)
            with pytest.raises(PoolClosed):
                outer.submit(int)

    assert (inside.exit_code, outside.exit_code) == (143, 143)
    assert inside.reports[0].closed
    assert outside.reports[0].closed


def test_blocks_that_are_left_in_the_order_they_were_entered_leave_nothing_either() -> None:
    """As those of two tasks of a loop may be."""
    at_first = signal.getsignal(signal.SIGTERM)
    with ThreadPool(1) as first, ThreadPool(1) as second, ThreadPool(1) as third:
        blocks = [graceful(pool, signals=[signal.SIGTERM]) for pool in (first, second, third)]
        for block in blocks:
            block.__enter__()
        blocks[0].__exit__(None, None, None)
        signal.raise_signal(signal.SIGTERM)
        assert all(block.requested.wait(GUARD) for block in blocks[1:])
        assert blocks[0].signal is None
        blocks[1].__exit__(None, None, None)
        blocks[2].__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) == at_first
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_it_is_an_error_that_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    pool = ThreadPool(1)
    shutdown = graceful(pool)

    with pytest.raises(RuntimeError, match="works in the main thread only"):
        in_thread(shutdown.__enter__).result(GUARD)

    assert signal.getsignal(signal.SIGTERM) is before
    assert pool.submit(int).result(GUARD) == 0
    pool.shutdown()


def test_entering_it_twice_at_once_is_an_error() -> None:
    shutdown = graceful(ThreadPool(1))
    with shutdown, pytest.raises(RuntimeError, match="entered already"):
        shutdown.__enter__()


def test_a_clean_block_waits_for_the_jobs_and_reports() -> None:
    gate, pool = Gate(), ThreadPool(1)
    with graceful(pool) as shutdown:
        jobs = [pool.submit(gate, n) for n in range(3)]
        assert (shutdown.signal, shutdown.requested.is_set(), shutdown.reports) == (None, False, [])
        gate.open()

    assert [job.result(0) for job in jobs] == [0, 1, 2]
    (report,) = shutdown.reports
    assert (report.done, report.ok, shutdown.exit_code) == (3, True, 0)


def test_failed_jobs_do_not_change_the_exit_code() -> None:
    pool = ThreadPool(1)
    with graceful(pool) as shutdown:
        pool.submit(int, "x")

    assert (shutdown.reports[0].failed, shutdown.exit_code) == (1, 0)


def test_an_exception_that_leaves_the_block_stops_the_pools_within_the_time() -> None:
    hung, timeout = Gate(), 0.3
    pools = [ThreadPool(1), ThreadPool(1)]
    begun = time.monotonic()
    with pytest.raises(KeyError):
        with graceful(*pools, timeout=timeout) as shutdown:
            for pool in pools:
                pool.submit(hung)
            hung.wait_entered(2)
            raise KeyError
    took = time.monotonic() - begun
    hung.open()

    assert timeout <= took < slack(timeout + 0.7)
    assert [report.abandoned for report in shutdown.reports] == [1, 1]
    assert shutdown.exit_code == 1


def test_closed_pools_that_no_signal_closed_leave_the_block_as_errors() -> None:
    pool, hung = ThreadPool(1), Gate()
    with pytest.raises(PoolClosed):
        with graceful(pool):
            pool.close()
            pool.submit(int)

    pool = ThreadPool(1)
    with pytest.raises(Incomplete):
        with graceful(pool), pool:
            pool.submit(hung)
            hung.wait_entered()
            pool.shutdown(timeout=0)
    hung.open()


def test_a_strangers_closed_pool_leaves_the_block_as_an_error_in_spite_of_a_signal() -> None:
    pool, stranger = ThreadPool(1), ThreadPool(1)
    stranger.shutdown()
    with pytest.raises(PoolClosed, match=stranger.name):
        with graceful(pool) as shutdown:
            signal.raise_signal(signal.SIGTERM)
            assert shutdown.requested.wait(GUARD)
            stranger.submit(int)

    assert shutdown.exit_code == 143


def test_requested_is_set_only_when_the_pools_stop_is_under_way() -> None:
    for _ in range(20):
        pool = ThreadPool(1)
        with graceful(pool) as shutdown:
            signal.raise_signal(signal.SIGTERM)
            assert shutdown.requested.wait(GUARD)
            assert shutdown.signal == signal.SIGTERM

        assert shutdown.reports[0].closed


@pytest.mark.parametrize(
    ("pools", "options", "error"),
    [
        ([], {}, "at least one pool"),
        (["pool"], {}, "takes pools, not 'pool'"),
        ([None], {"timeout": -1}, "timeout must be zero or more seconds"),
        ([None], {"timeout": None}, "timeout must be a number of seconds"),
        ([None], {"timeout": "soon"}, "timeout must be a number of seconds"),
        ([None], {"signals": [12345]}, "12345 is not a valid Signals"),
    ],
)
def test_a_wrong_argument_is_refused_at_the_call(pools: list[object], options: dict[str, object], error: str) -> None:
    pool = ThreadPool(1)
    with pytest.raises((TypeError, ValueError), match=error):
        graceful(*[pool if given is None else given for given in pools], **options)  # type: ignore[arg-type]


def test_what_graceful_gives_is_public() -> None:
    assert isinstance(graceful(ThreadPool(1)), Shutdown)


def signal_to_another_thread(number: signal.Signals) -> None:
    """Once the main thread sleeps. It hears nothing of it: as when one comes just before it falls asleep."""
    until(main_sleeps)
    in_thread(lambda: signal.pthread_kill(threading.get_ident(), number)).result(GUARD)


def main_sleeps() -> bool:
    """Whether the main thread waits, and not for a thread to start."""
    main = threading.main_thread().ident
    assert main is not None
    frame: FrameType | None = sys._current_frames()[main]
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[0] in ("wait", "select") and "start" not in names[:4]


def test_a_signal_that_did_not_wake_the_main_thread_is_heard_all_the_same() -> None:
    with graceful(ThreadPool(1), timeout=5) as shutdown:
        signalled = in_thread(signal_to_another_thread, signal.SIGTERM)
        assert shutdown.requested.wait(GUARD)
        signalled.result(GUARD)
    assert shutdown.signal == signal.SIGTERM


def test_a_signal_that_did_not_wake_the_loop_is_heard_all_the_same() -> None:
    async def main() -> None:
        async with graceful(ThreadPool(1), timeout=5) as shutdown:
            signalled = in_thread(signal_to_another_thread, signal.SIGTERM)
            assert await shutdown.arequested(GUARD)
            signalled.result(GUARD)

    asyncio.run(main())


def test_a_signal_to_the_copy_of_a_process_is_not_its_own(quiet: None) -> None:
    with graceful(ThreadPool(1), timeout=5) as shutdown:
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(pid, 0)
    assert shutdown.signal is None


def test_other_signals_of_the_program_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with graceful(ThreadPool(1), timeout=5) as shutdown:
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: came)
        assert shutdown.signal is None
    finally:
        signal.signal(signal.SIGUSR1, before)
