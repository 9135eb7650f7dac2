"""os.fork in a process that has a pool: the child starts afresh, and the parent notices nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pool.script import SLACK, running

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# 3.12 warns of any fork in a process with threads, which is what these tests are about.
BUSY = """
import warnings

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def wait_for(child):
    _, status = os.waitpid(child, 0)
    say(f"child ended with {os.waitstatus_to_exitcode(status)}")


gate = threading.Event()
pool = ThreadPool(2, backlog=10, name="the parent's")
begun = threading.Semaphore(0)


def wait_at_gate(result=None):
    begun.release()
    gate.wait()
    return result


jobs = [pool.submit(wait_at_gate, n) for n in range(5)]
for _ in range(2):
    begun.acquire()
# The parts that serve the whole process are busy too: the timers, and the callbacks of users.
context = Context(timeout=3600, parent=None)
pool.options(context=context, timeout=3600, retry=Retry(2)).submit(wait_at_gate)
"""

# Ends the parent in good order: its pool is as it was.
END = """
gate.set()
say([job.result() for job in jobs])
pool.shutdown()
say(f"{pool.report.accepted - pool.report.done} of {pool.report.accepted} missing")
"""
ENDED = ("[0, 1, 2, 3, 4]", "0 of 6 missing")


def test_the_child_can_exit_at_once_and_the_parents_pool_goes_on(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if not child:
            sys.exit(7)
        wait_for(child)
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("child ended with 7", *ENDED)

        assert (script.end(within=SLACK), script.errors) == (0, "")


def test_the_child_can_come_to_the_end_of_the_script(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if child:
            wait_for(child)
            gate.set()
            pool.shutdown()
        """
    with running(tmp_path, BUSY, code) as script:
        script.expect("child ended with 0")

        assert (script.end(within=SLACK), script.errors) == (0, "")


def test_the_child_can_use_a_fresh_pool_with_all_that_it_offers(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if not child:
            with ThreadPool(2, backlog=2, stuck_after=0) as fresh:
                say(list(fresh.map(abs, range(-5, 0))))
                say(type(fresh.options(timeout=0.05).submit(hang).exception()).__name__)
                tries = []

                def second_time_lucky():
                    tries.append(1)
                    return 1 / (len(tries) - 1)

                say(fresh.options(retry=Retry(2, wait=0.01)).submit(second_time_lucky).result())
                with Context() as context:
                    resting = fresh.submit(rest)
                    context.cancel("no more")
                try:
                    resting.result()
                except JobCancelled:
                    say("cancelled")
                called = threading.Event()
                fresh.options(timeout=0.01).submit(hang).add_done_callback(lambda job: called.set())
                say(f"called: {called.wait(5)}")
            sys.exit(8)
        wait_for(child)
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("[5, 4, 3, 2, 1]", "hung", "DeadlineExceeded", "1.0")
        said = [script.line()]
        while said[-1] != "child ended with 8":
            said.append(script.line())
        assert "cancelled" in said
        assert "called: True" in said
        script.expect(*ENDED)

        assert script.end(within=SLACK) == 0


def test_the_parents_pool_refuses_jobs_in_the_child_and_says_why(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if not child:
            for submit in (pool.submit, pool.options(timeout=1).submit, pool.map):
                try:
                    submit(abs, [1])
                except PoolClosed as error:
                    say(error)
            sys.exit()
        wait_for(child)
        """
    why = "takes no more jobs, it belongs to the parent process; make a new one after a fork"
    with running(tmp_path, BUSY, code, END) as script:
        script.expect(*[f'cannot schedule new futures: pool "the parent\'s" {why}'] * 3, "child ended with 0", *ENDED)

        assert script.end(within=SLACK) == 0


def test_a_block_of_the_parents_pool_can_be_left_in_the_child(tmp_path: Path) -> None:
    for leave in ("pass", "sys.exit(9)"):
        code = f"""
            with pool:
                child = os.fork()
                if not child:
                    {leave}
                else:
                    wait_for(child)
                    gate.set()
            if not child:
                sys.exit(9)
            """
        with running(tmp_path, BUSY, code, END) as script:
            script.expect("child ended with 9", *ENDED)

            assert (script.end(within=SLACK), script.errors) == (0, "")


def test_stopping_the_parents_pool_in_the_child_returns_at_once(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if not child:
            pool.close()
            pool.wait()
            pool.shutdown()
            pool.shutdown(timeout=60, cancel_futures=True)
            with graceful(pool):
                pass
            sys.exit(10)
        wait_for(child)
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("child ended with 10", *ENDED)

        assert script.end(within=SLACK) == 0


def test_locks_that_other_threads_hold_at_the_fork_do_not_block_the_child(tmp_path: Path) -> None:
    code = """
        from penstock import timers
        from penstock import job as rooms

        crew = pool._crew
        locks = [
            rooms._making_bells,
            timers._timers._changed,
            timers._callbacks._changed,
            crew._lock,
            crew.ledger._lock,
            crew.ledger.failures._lock,
            crew.backlog._lock,
            crew.attempts._lock,
            crew.staff._lock,
            crew.lifecycle._moved,
        ]
        held, let_go = threading.Event(), threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            let_go.wait()
            for lock in locks:
                lock.release()

        holding = threading.Thread(target=hold)
        holding.start()
        held.wait()
        child = os.fork()
        if not child:
            with pool:
                pass
            pool.stats(), pool.report, list(pool.failures)
            context.cancel()
            jobs[-1].cancel()
            pool.shutdown(cancel_futures=True)
            with ThreadPool(1) as fresh:
                fresh.options(timeout=60, context=None).submit(say, "fresh").result()
            sys.exit(11)
        let_go.set()
        holding.join()
        wait_for(child)
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("fresh", "child ended with 11", *ENDED)

        assert script.end(within=SLACK) == 0


def test_a_fork_inside_a_job_gives_a_child_that_can_use_a_fresh_pool_and_exit(tmp_path: Path) -> None:
    code = """
        def fork_and_work():
            child = os.fork()
            if not child:
                with ThreadPool(1) as fresh:
                    say(fresh.submit(divmod, 7, 2).result())
                os._exit(12)
            wait_for(child)

        gate.set()
        pool.submit(fork_and_work).result()
        jobs.append(pool.submit(int, 5))
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("(3, 1)", "child ended with 12", "[0, 1, 2, 3, 4, 5]", "0 of 8 missing")

        assert (script.end(within=SLACK), script.errors) == (0, "")


def test_a_child_that_was_forked_inside_a_job_with_a_deadline_keeps_to_it(tmp_path: Path) -> None:
    """What is left of the job's time counts in the child too, although the parent's timers did not come along."""
    code = """
        def fork_and_work():
            child = os.fork()
            if not child:
                told = threading.Event()
                job = ThreadPool(1).submit(hang)
                job.add_done_callback(lambda job: told.set())
                told.wait(10)
                say(f"{job.state}: {type(job._value).__name__}")
                os._exit(13)
            wait_for(child)

        gate.set()
        pool.options(timeout=1).submit(fork_and_work).exception()
        """
    with running(tmp_path, BUSY, code) as script:
        script.expect("hung", "failed: DeadlineExceeded", "child ended with 13")

        assert script.end(within=SLACK) == 0


def test_a_child_of_a_job_that_returns_or_exits_does_not_run_the_parents_other_jobs(tmp_path: Path) -> None:
    for leave in ("return", "sys.exit(14)", "raise KeyError"):
        code = f"""
            parent = os.getpid()
            told = []

            def tell(n):
                say(f"{{n}} in the {{'parent' if os.getpid() == parent else 'child'}}")

            def fork_and_leave():
                others_are_waiting.wait()
                child = os.fork()
                if not child:
                    {leave}
                told.append(child)

            others_are_waiting = threading.Event()
            gate.set()
            for job in jobs:
                job.result()
            one = ThreadPool(1)
            one.submit(fork_and_leave)
            for n in range(3):
                one.submit(tell, n)
            one.close()
            others_are_waiting.set()
            one.wait()
            os.waitpid(told[0], 0)
            say("child ended")
            """
        with running(tmp_path, BUSY, code) as script:
            said = script.rest()

            assert sorted(said) == ["0 in the parent", "1 in the parent", "2 in the parent", "child ended"]
            assert script.end() == 0


def test_multiprocessing_by_fork_works_beside_a_busy_pool(tmp_path: Path) -> None:
    code = """
        import multiprocessing

        fork = multiprocessing.get_context("fork")

        def work():
            with ThreadPool(2) as fresh:
                say(sum(fresh.map(abs, range(10))))

        process = fork.Process(target=work)
        process.start()
        process.join()
        say(process.exitcode)
        """
    with running(tmp_path, BUSY, code, END) as script:
        script.expect("45", "0", *ENDED)

        assert (script.end(within=SLACK), script.errors) == (0, "")
