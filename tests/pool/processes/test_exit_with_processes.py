"""The end of the interpreter, when jobs are in other processes: what was accepted runs, and nothing hung keeps it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.gates import slack
from tests.pool.script import SLACK, running
from tests.pool.watching import until

GRACE: Final = 1.0  # seconds

SAY_AND_SLEEP: Final = """
        def say_and_sleep(word):
            say(word)
            time.sleep(0.3)
            say("slept")
        """

each_method = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@each_method
def test_jobs_that_were_submitted_at_the_end_of_a_script_still_run(tmp_path: Path, method: str) -> None:
    code = f"""
        if __name__ == "__main__":
            pool = ProcessPool(2, start_method={method!r})
            for n in range(20):
                pool.submit(say, n)
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert sorted(map(int, said)) == list(range(20))
        assert (script.end(), script.errors) == (0, "")


def test_a_worker_that_is_killed_and_does_not_end_keeps_no_exit(tmp_path: Path) -> None:
    code = f"""
        from multiprocessing import forkserver

        if __name__ == "__main__":
            pool = ProcessPool(1, grace={GRACE})
            pool.submit(len, "ready").result()
            server = forkserver._forkserver._forkserver_pid
            os.kill(server, signal.SIGSTOP)  # nobody hears any more that a worker has ended
            say(server)
            pool.submit(hang)
        """
    with running(tmp_path, code) as script:
        server = int(script.line())
        try:
            script.expect("hung")
            script.end(within=GRACE + SLACK)
        finally:
            os.kill(server, signal.SIGKILL)


def test_all_inputs_of_a_map_still_run_although_nobody_holds_the_pool(tmp_path: Path) -> None:
    code = """
        if __name__ == "__main__":
            ProcessPool(2, backlog=3).map(say, range(50))
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert sorted(map(int, said)) == list(range(50))
        assert (script.end(), script.errors) == (0, "")


@each_method
def test_a_pool_that_was_shut_down_without_waiting_finishes_and_lets_the_script_end(
    tmp_path: Path, method: str
) -> None:
    code = f"""
        def wait_and_say(n):
            time.sleep(0.1)
            say(n)

        if __name__ == "__main__":
            pool = ProcessPool(3, start_method={method!r})
            pool.map(wait_and_say, range(6))
            pool.shutdown(wait=False)
            say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")
        said = script.rest()

        assert sorted(map(int, said)) == list(range(6))
        assert (script.end(), script.errors) == (0, "")


def test_a_shutdown_without_waiting_that_cancels_lets_the_script_end(tmp_path: Path) -> None:
    code = """
        if __name__ == "__main__":
            pool = ProcessPool(1)
            pool.submit(say_and_sleep, "began")
            until_told()
            jobs = [pool.submit(say, "never") for _ in range(3)]
            pool.shutdown(wait=False, cancel_futures=True)
            say([job.cancelled() for job in jobs])
        """
    with running(tmp_path, SAY_AND_SLEEP, code) as script:
        script.expect("began")
        script.go()
        script.expect(str([True] * 3))

        assert (script.rest(), script.end(), script.errors) == (["slept"], 0, "")


@each_method
def test_a_hung_job_keeps_the_interpreter_no_longer_than_its_grace_and_dies_with_it(
    tmp_path: Path, method: str
) -> None:
    code = f"""
        def with_a_name_to_be_seen():
            say(os.getpid())
            time.sleep(60)

        if __name__ == "__main__":
            pool = ProcessPool(1, grace={GRACE}, start_method={method!r}, name="the hung one")
            pool.submit(with_a_name_to_be_seen)
            pool.submit(say, "never")
            until_told()
        """
    with running(tmp_path, code) as script:
        pid = int(script.line())
        script.go()

        assert script.end(within=GRACE + SLACK) == 0
        assert script.rest() == []
        assert "pool 'the hung one' stopped in " in script.errors
        assert "2 accepted: 0 done, 1 cancelled, 1 killed" in script.errors
        assert "Traceback" not in script.errors
        until(lambda: not is_alive(pid))


def test_a_job_that_listens_ends_by_itself_at_the_end_of_a_script(tmp_path: Path) -> None:
    grace = slack(GRACE)  # a third of it is the job's to end in
    code = f"""
        if __name__ == "__main__":
            pool = ProcessPool(1, grace={grace})
            pool.submit(rest)
            until_told()
        """
    with running(tmp_path, code) as script:
        script.expect("resting")
        script.go()

        assert script.end(within=grace + SLACK) == 0
        assert script.rest() == ["woken by Cancelled"]
        assert "1 accepted: 0 done, 1 cancelled" in script.errors


@each_method
def test_idle_workers_end_by_themselves_and_have_the_time_to_clean_up(tmp_path: Path, method: str) -> None:
    code = f"""
        from multiprocessing import util

        def clean_up():
            time.sleep(0.5)
            say("cleaned up")

        def arrange():
            util.Finalize(None, clean_up, exitpriority=0)

        if __name__ == "__main__":
            pool = ProcessPool(2, start_method={method!r}, initializer=arrange).start()
            say("end of script")
        """
    with running(tmp_path, code) as script:
        script.expect("end of script")

        assert script.rest() == ["cleaned up"] * 2
        assert (script.end(), script.errors) == (0, "")


def test_sys_exit_and_errors_keep_their_codes(tmp_path: Path) -> None:
    for ending, code in (("sys.exit(3)", 3), ("raise KeyError", 1)):
        script_code = f"""
            if __name__ == "__main__":
                pool = ProcessPool(1)
                pool.submit(say, "ran")
                {ending}
            """
        with running(tmp_path, script_code) as script:
            assert script.rest() == ["ran"]
            assert script.end() == code


def test_a_pool_that_never_started_a_worker_costs_the_end_nothing(tmp_path: Path) -> None:
    code = """
        if __name__ == "__main__":
            pool = ProcessPool(2)
        """
    with running(tmp_path, code) as script:
        assert (script.end(), script.rest(), script.errors) == (0, [], "")


def test_a_thread_may_go_on_using_the_pool_after_the_main_thread_is_through(tmp_path: Path) -> None:
    """Workers die and time out meanwhile: new ones start all the same."""
    code = """
        def submit_later():
            threading.main_thread().join()
            say(pool.submit(divmod, 7, 2).result(10))
            say(pool.submit(os._exit, 3).exception(10))
            say(type(pool.options(timeout=0.1).submit(time.sleep, 60).exception(10)).__name__)
            say(pool.submit(divmod, 7, 2).result(10))

        if __name__ == "__main__":
            pool = ProcessPool(1, kill_after=0.1, unobserved="ignore").start()
            threading.Thread(target=submit_later).start()
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert said[0] == said[3] == "(3, 1)", script.errors
        assert said[1].endswith("its worker process exited with code 3")
        assert said[2] == "DeadlineExceeded"
        assert script.end() == 0
        assert "Traceback" not in script.errors


def test_a_thread_that_makes_its_own_pool_after_the_main_thread_is_through_gets_a_result_or_a_clear_error(
    tmp_path: Path,
) -> None:
    code = """
        def work_later():
            threading.main_thread().join()
            pool = ProcessPool(2, unobserved="ignore")
            for _ in range(2):
                try:
                    say(pool.submit(divmod, 7, 2).result(10))
                except Refused as error:
                    say(f"{type(error).__name__}: {error}")
            say(pool.shutdown().balanced)

        if __name__ == "__main__":
            threading.Thread(target=work_later).start()
        """
    with running(tmp_path, code) as script:
        said = script.rest()

        assert said[2:] == ["True"], script.errors
        if sys.version_info[:2] == (3, 12):
            assert said[0] == said[1]
            assert said[0].startswith("ProcessPoolBroken: ")
            assert "no thread can be started" in said[0]
        else:
            assert said[:2] == ["(3, 1)"] * 2
        assert script.end() == 0


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    code = """
        def hang_on():
            say(os.getpid())
            time.sleep(60)

        if __name__ == "__main__":
            pools = [ProcessPool(1, start_method=method) for method in ("forkserver", "spawn")]
            for pool in pools:
                pool.submit(hang_on)
            time.sleep(60)
        """
    with running(tmp_path, code) as script:
        pids = [int(script.line()) for _ in range(2)]
        script.process.kill()

        until(lambda: not any(map(is_alive, pids)))


def test_workers_of_workers_end_with_the_main_process_too(tmp_path: Path) -> None:
    code = """
        OPEN = []

        def go_down(floors):
            say(os.getpid())
            if not floors:
                time.sleep(60)
            OPEN.append(ProcessPool(1))
            return OPEN[0].submit(go_down, floors - 1).result()

        if __name__ == "__main__":
            pool = ProcessPool(1)
            pool.submit(go_down, 2).result()
        """
    with running(tmp_path, code) as script:
        pids = [int(script.line()) for _ in range(3)]
        script.process.kill()

        until(lambda: not any(map(is_alive, pids)))


def test_no_warning_tells_of_forks_beside_threads(tmp_path: Path) -> None:
    """As Python 3.12 and later give when a process with threads is forked."""
    code = """
        import subprocess

        def threads_and_processes():
            with ProcessPool(1) as pool:
                return pool.submit(divmod, 7, 2).result(10)

        if __name__ == "__main__":
            for method in ("forkserver", "spawn"):
                with ProcessPool(2, start_method=method) as pool, ThreadPool(2) as threads:
                    threads.map(time.sleep, [0.1] * 4)
                    say(pool.submit(threads_and_processes).result(10))
        """
    with running(tmp_path, code, flags=("-W", "error")) as script:
        script.expect("(3, 1)", "(3, 1)")

        assert (script.end(), script.errors) == (0, "")
