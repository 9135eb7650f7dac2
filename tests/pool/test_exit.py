"""The end of the interpreter: accepted jobs still run, and nothing that hangs keeps the process.

Since Python 3.12 no thread can be started once the main thread is through; some tests are about just that.
"""

from __future__ import annotations

import signal
from pathlib import Path

from tests.pool.script import SLACK, running

GRACE = 1.0  # seconds


def test_jobs_that_were_submitted_at_the_end_of_a_script_still_run(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(2)
        for n in range(20):
            pool.submit(say, n)
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert sorted(map(int, said)) == list(range(20))
        assert (script.end(), script.errors) == (0, "")


def test_all_inputs_of_a_map_still_run_although_nobody_iterates(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(2, backlog=3)
        pool.map(say, range(50))
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert sorted(map(int, said)) == list(range(50))
        assert (script.end(), script.errors) == (0, "")


def test_a_job_may_take_its_time_at_the_end_of_a_script(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1, grace=60)

        def last():
            until_told()
            say("told")

        pool.submit(last)
        say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")
        script.go()
        script.expect("told")

        assert (script.end(within=SLACK), script.errors) == (0, "")


def test_a_hung_job_does_not_keep_the_interpreter_and_is_shown(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE}, name="the hung one")

        def with_a_name_to_be_seen():
            hang()

        pool.submit(with_a_name_to_be_seen)
        pool.submit(say, "never")
        """
    with running(tmp_path, code) as script:
        script.expect("hung")

        assert script.end(within=GRACE + SLACK) == 0
        assert script.rest() == []
        assert "pool 'the hung one' stopped in " in script.errors
        assert "2 accepted: 0 done, 1 cancelled, 1 abandoned" in script.errors
        assert "abandoned: job 1 (with_a_name_to_be_seen) on the hung one_0" in script.errors
        assert "in with_a_name_to_be_seen" in script.errors
        assert "threading.Event().wait()" in script.errors
        assert "Traceback" not in script.errors
        assert "Fatal" not in script.errors


def test_a_job_that_listens_ends_by_itself_at_the_end_of_a_script(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE})
        pool.submit(rest)
        """
    with running(tmp_path, code) as script:
        script.expect("resting")

        assert script.end(within=GRACE + SLACK) == 0
        assert script.rest() == ["woken by Cancelled"]
        assert "1 accepted: 0 done, 1 cancelled" in script.errors


def test_several_hung_pools_take_the_time_of_one(tmp_path: Path) -> None:
    code = f"""
        pools = [ThreadPool(1, grace={GRACE}) for _ in range(5)]
        for pool in pools:
            pool.submit(hang)
        """
    with running(tmp_path, code) as script:
        script.expect(*["hung"] * 5)

        assert script.end(within=GRACE + SLACK) == 0
        assert script.errors.count("1 accepted: 0 done, 1 abandoned") == 5


def test_a_hung_pool_takes_nothing_from_the_time_that_others_have_to_clean_up(tmp_path: Path) -> None:
    code = f"""
        import logging

        logging.basicConfig(level=logging.INFO)

        def clean_up_when_asked():
            say("polite")
            try:
                current_context().sleep(60)
            finally:
                threading.Event().wait(0.02)  # what it takes to clean up
                say("cleaned up")

        hung = [ThreadPool(1, grace={GRACE}, name="hung") for _ in range(6)]
        polite = ThreadPool(1, grace={GRACE}, name="polite")
        for pool in hung:
            pool.submit(hang)
        polite.submit(clean_up_when_asked)
        """
    with running(tmp_path, code) as script:
        script.expect_in_any_order(*["hung"] * 6, "polite")
        script.expect("cleaned up")

        assert script.end(within=SLACK) == 0
        assert script.errors.count("1 accepted: 0 done, 1 abandoned") == 6
        assert script.errors.count("1 accepted: 0 done, 1 cancelled") == 1


def test_callbacks_that_hang_do_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE})
        job = pool.submit(hang)
        job.context.on_cancel(until_told)
        job.add_done_callback(until_told)
        pool.submit(say, "never").add_done_callback(until_told)
        """
    with running(tmp_path, code) as script:
        script.expect("hung")

        assert script.end(within=GRACE + SLACK) == 0
        assert "2 accepted: 0 done, 1 cancelled, 1 abandoned" in script.errors


def test_done_callbacks_of_jobs_that_the_end_cuts_are_called(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE})
        pool.submit(rest)
        pool.submit(int).add_done_callback(lambda job: say(f"called: {{job.state}}"))
        """
    with running(tmp_path, code) as script:
        script.expect("resting")

        assert script.end(within=GRACE + SLACK) == 0
        assert sorted(script.rest()) == ["called: cancelled", "woken by Cancelled"]


def test_a_thread_may_go_on_submitting_after_the_main_thread_is_through(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(2, grace=60).start()

        def submit_later():
            until_told()
            jobs = [pool.submit(say, n) for n in range(10)]
            say([job.result() for job in jobs])

        threading.Thread(target=submit_later).start()
        say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")
        script.go()
        said = script.rest()

        assert sorted(said[:-1]) == sorted(map(str, range(10)))
        assert said[-1] == str([None] * 10)
        assert (script.end(), script.errors) == (0, "")


def test_a_thread_that_makes_its_own_pool_after_the_main_thread_is_through_gets_a_result_or_a_clear_error(
    tmp_path: Path,
) -> None:
    code = """
        def work_later():
            threading.main_thread().join()
            with ThreadPool(2) as pool:
                try:
                    say(pool.submit(divmod, 7, 2).result(60))
                except (PoolBroken, PoolClosed) as error:
                    say(f"refused: {error}")
                except Incomplete:
                    say("unclear")
            try:
                pool.submit(int)
            except PoolClosed:
                say("closed")

        def end_quietly():
            try:
                work_later()
            except Incomplete as error:
                say("incomplete")

        threading.Thread(target=end_quietly).start()
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert script.end() == 0
        assert "Traceback" not in script.errors
        if said[0] == "(3, 1)":
            assert said == ["(3, 1)", "closed"]
        else:
            assert said[0].startswith("refused: ")
            assert "no thread can be started" in said[0]
            assert said[1:] == ["incomplete"]


def test_times_and_retries_in_a_thread_after_the_main_thread_is_through_do_not_break_the_pool(tmp_path: Path) -> None:
    """The thread that keeps the time may not be startable any more: then a clear end, and nothing that hangs."""
    code = f"""
        pool = ThreadPool(2, grace={GRACE}).start()
        calls = []

        def fail_once():
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError

        def outcome(submit, *args):
            try:
                return str(submit(*args).result(4))
            except BaseException as error:
                return type(error).__name__

        def submit_later():
            threading.main_thread().join()
            outcomes = {{
                "timeout": outcome(pool.options(timeout=60).submit, int),
                "retry": outcome(pool.options(retry=Retry(2, wait=0)).submit, fail_once),
                "plain": outcome(pool.submit, int),
            }}
            with Context(timeout=60):
                outcomes["context"] = outcome(pool.submit, int)
            for name, value in outcomes.items():
                say(f"{{name}}: {{value}}")

        threading.Thread(target=submit_later).start()
        """
    with running(tmp_path, code) as script:
        said = dict(line.split(": ") for line in script.rest())

        assert script.end() == 0
        assert said["plain"] == "0"
        assert said["retry"] == "None"
        assert said["timeout"] in ("0", "PoolBroken", "PoolClosed", "RuntimeError")
        assert said["context"] in ("0", "PoolBroken", "PoolClosed", "RuntimeError")
        assert "Traceback" not in script.errors
        assert "abandoned" not in script.errors


def test_the_first_deadline_that_is_set_at_the_end_of_the_interpreter_breaks_nothing(tmp_path: Path) -> None:
    """In 3.12 nobody can be told of it any more: whoever asks finds it."""
    code = """
        def set_a_deadline(when):
            context = Context(timeout=0.01)
            undo = context.on_cancel(lambda: None)
            while not context.cancelled:
                threading.Event().wait(0.001)
            undo()
            say(when + ": " + context.reason)
            try:
                with Context(timeout=0.01):
                    current_context().sleep(60)
            except DeadlineExceeded:
                say(when + ": over")

        def set_one_later():
            threading.main_thread().join()
            set_a_deadline("after the main thread")

        import atexit

        atexit.register(set_a_deadline, "at exit")
        threading.Thread(target=set_one_later).start()
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert said == [
            f"{when}: {what}"
            for when in ("after the main thread", "at exit")
            for what in ("its deadline passed", "over")
        ]
        assert (script.end(), script.errors) == (0, "")


def test_a_hung_job_whose_deadline_is_the_first_of_all_fails_on_time_at_the_very_end_too(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE})
        pool.submit(int).result()  # its worker is there

        def submit_later():
            threading.main_thread().join()
            job = pool.options(timeout=0.05).submit(hang)
            try:
                job.result()
            except DeadlineExceeded as error:
                say(f"after {{error.limit}} s")

        threading.Thread(target=submit_later).start()
        """
    with running(tmp_path, code) as script:
        script.expect("hung", "after 0.05 s")

        assert script.end(within=GRACE + SLACK) == 0


STOPS_IN_THE_BACKGROUND = """
    def stop_in_the_background():
        report = pool.shutdown(wait=False, timeout=GRACE)
        say("closing" if report.closing and not report.closed else report)
"""


def test_a_stop_in_the_background_after_the_main_thread_is_through_keeps_its_budget(tmp_path: Path) -> None:
    """In 3.12 it can't have a thread of its own there."""
    code = f"""
        GRACE = {GRACE}
        pool = ThreadPool(2, grace=60, name="late").start()

        def stop_later():
            threading.main_thread().join()
            pool.submit(hang)
            pool.submit(rest)
            until_told()
            stop_in_the_background()

        threading.Thread(target=stop_later).start()
        """
    with running(tmp_path, STOPS_IN_THE_BACKGROUND, code) as script:
        script.expect_in_any_order("hung", "resting")
        script.go()
        script.expect("closing", "woken by Cancelled")

        assert script.end(within=GRACE + SLACK) == 0
        assert "pool 'late' stopped in " in script.errors
        assert "2 accepted: 0 done, 1 cancelled, 1 abandoned" in script.errors


def test_a_stop_in_the_background_that_a_handler_of_atexit_begins_keeps_its_budget(tmp_path: Path) -> None:
    code = f"""
        import atexit

        GRACE = {GRACE}
        pool = ThreadPool(1, grace=60, name="last")
        pool.submit(hang)
        atexit.register(lambda: stop_in_the_background())
        """
    with running(tmp_path, STOPS_IN_THE_BACKGROUND, code) as script:
        script.expect_in_any_order("hung", "closing")

        assert script.end(within=GRACE + SLACK) == 0
        assert "pool 'last' stopped in " in script.errors
        assert "1 accepted: 0 done, 1 abandoned" in script.errors


def test_daemon_threads_that_submit_for_ever_do_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(2, backlog=5, grace={GRACE})
        refused = threading.Event()

        def submit_for_ever():
            try:
                while True:
                    pool.submit(time.sleep, 0)
            except PoolClosed:
                say("refused")

        for _ in range(3):
            threading.Thread(target=submit_for_ever, daemon=True).start()
        pool.submit(say, "end of script").result()
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")

        assert script.end(within=GRACE + SLACK) == 0
        assert set(script.rest()) <= {"refused"}
        assert "Traceback" not in script.errors
        assert "Fatal" not in script.errors


def test_a_thread_that_is_blocked_in_a_full_submit_is_let_go_when_the_interpreter_ends(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, backlog=1, grace={GRACE})
        pool.submit(hang)
        full = threading.Event()

        def fill():
            try:
                pool.submit(int)
                full.set()
                pool.submit(int)
            except PoolClosed as error:
                say(str(error).split(", ")[1])

        threading.Thread(target=fill, daemon=True).start()
        full.wait()
        """
    with running(tmp_path, code) as script:
        script.expect("hung")
        script.expect("the interpreter is ending")

        assert script.end(within=GRACE + SLACK) == 0


def test_sys_exit_in_a_block_lets_accepted_jobs_end_and_keeps_its_code(tmp_path: Path) -> None:
    code = """
        with ThreadPool(1, grace=60) as pool:
            pool.submit(say, "ran")
            sys.exit(3)
        """
    with running(tmp_path, code) as script:
        assert script.rest() == ["ran"]
        assert (script.end(), script.errors) == (3, "")


def test_sys_exit_in_a_block_with_a_hung_job_takes_the_grace_once(tmp_path: Path) -> None:
    code = f"""
        with ThreadPool(1, grace={GRACE}) as pool:
            pool.submit(hang)
            sys.exit(3)
        """
    with running(tmp_path, code) as script:
        script.expect("hung")

        assert script.end(within=GRACE + SLACK) == 3


def test_sys_exit_in_a_job_fails_the_job_and_not_the_process(tmp_path: Path) -> None:
    code = """
        with ThreadPool(1) as pool:
            job = pool.submit(sys.exit, 5)
            say(repr(job.exception()))
            pool.submit(say, "the worker goes on").result()
        """
    with running(tmp_path, code) as script:
        script.expect("SystemExit(5)", "the worker goes on")

        assert script.end() == 0


def test_an_error_that_ends_the_script_still_lets_accepted_jobs_end(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1)
        pool.submit(say, "ran")
        raise KeyError("the script's")
        """
    with running(tmp_path, code) as script:
        assert script.rest() == ["ran"]
        assert script.end() == 1
        assert script.errors.count("Traceback") == 1


def test_a_job_between_two_attempts_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE})

        def fail():
            say("failed")
            raise ConnectionError("always")

        pool.options(retry=Retry(5, wait=3600)).submit(fail)
        """
    with running(tmp_path, code) as script:
        script.expect("failed")

        assert script.end(within=GRACE + SLACK) == 0
        assert script.rest() == []
        assert "1 accepted: 0 done, 1 failed" in script.errors


def test_a_job_whose_next_attempt_is_due_in_time_gets_it_at_the_end_of_a_script(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1, grace=60)
        calls = []

        def fail_once():
            calls.append(1)
            if len(calls) == 1:
                until_told()
                raise ConnectionError
            say("second attempt")

        pool.options(retry=Retry(2, wait=0.01)).submit(fail_once)
        say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")
        script.go()
        script.expect("second attempt")

        assert script.end() == 0
        assert "Traceback" not in script.errors


def test_a_job_that_overran_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = f"""
        pool = ThreadPool(1, grace={GRACE}, timeout=0.05)
        pool.submit(hang).exception()
        say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("hung", "end of script")

        assert script.end(within=GRACE + SLACK) == 0


def test_a_pool_that_was_stopped_before_costs_the_end_nothing(tmp_path: Path) -> None:
    code = """
        pool = ThreadPool(1)
        pool.submit(hang)
        pool.shutdown(timeout=0.1)
        say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("hung", "end of script")

        assert script.end(within=SLACK) == 0
        assert script.errors.count("abandoned: job 1") == 1, "said once"


def test_ctrl_c_at_the_end_of_the_interpreter_moves_the_stop_on(tmp_path: Path) -> None:
    code = """
        import atexit

        atexit.register(say, "ending")
        pool = ThreadPool(1, grace=60)
        pool.submit(rest)
        """
    with running(tmp_path, code) as script:
        script.expect_in_any_order("resting", "ending")
        while not script.has_said():
            script.signal(signal.SIGINT)
        script.expect("woken by Cancelled")

        script.end(within=SLACK)


def test_a_handler_of_atexit_that_runs_first_may_still_use_the_pool(tmp_path: Path) -> None:
    code = """
        import atexit

        pool = ThreadPool(1).start()

        @atexit.register
        def save():
            say(pool.submit(divmod, 7, 2).result())
        """
    with running(tmp_path, code) as script:
        assert script.rest() == ["(3, 1)"]
        assert (script.end(), script.errors) == (0, "")
