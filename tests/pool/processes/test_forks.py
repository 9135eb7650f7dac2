"""`os.fork` beside a pool of processes, and inside of its jobs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.pool.script import SLACK, running
from tests.pool.watching import until

# Workers import the script, too: what is not a function is for the main process alone.
MAIN: Final = """
        import warnings

        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

        def hang_on():
            say(os.getpid())
            time.sleep(60)

        def wait_for(child):
            _, status = os.waitpid(child, 0)
            say(f"child ended with {os.waitstatus_to_exitcode(status)}")
        """

each_method = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@each_method
def test_a_forked_child_can_use_a_fresh_pool_and_exit_and_the_parents_goes_on(tmp_path: Path, method: str) -> None:
    code = f"""
        if __name__ == "__main__":
            pool = ProcessPool(2, start_method={method!r}, name="the parent's").start()
            child = os.fork()
            if not child:
                try:
                    pool.submit(abs, -1)
                except PoolClosed as error:
                    say(error.why)
                pool.shutdown()
                with ProcessPool(1, start_method={method!r}) as fresh:
                    say(fresh.submit(divmod, 7, 2).result(10))
                sys.exit(7)
            wait_for(child)
            say(list(pool.map(abs, range(-3, 0))))
            pool.shutdown()
            say(pool.report.done)
        """
    with running(tmp_path, MAIN, code) as script:
        script.expect("it belongs to the parent process; make a new one after a fork", "(3, 1)")
        script.expect("child ended with 7", "[3, 2, 1]", "3")

        assert (script.end(within=SLACK), script.errors) == (0, "")


def test_a_forked_child_can_come_to_the_end_of_the_script(tmp_path: Path) -> None:
    code = """
        if __name__ == "__main__":
            pool = ProcessPool(2)
            job = pool.submit(hang_on)
            until_told()
            child = os.fork()
            if child:
                wait_for(child)
                job.cancel()
                pool.shutdown()
        """
    with running(tmp_path, MAIN, code) as script:
        script.line()
        script.go()
        script.expect("child ended with 0")

        assert (script.end(within=2 * SLACK), script.errors) == (0, "")


@each_method
def test_workers_end_with_the_parent_although_a_child_of_it_lives_on(tmp_path: Path, method: str) -> None:
    code = f"""
        if __name__ == "__main__":
            pool = ProcessPool(1, start_method={method!r})
            pool.submit(hang_on)
            until_told()
            child = os.fork()
            if not child:
                say(os.getpid())
                time.sleep(60)
            wait_for(child)
        """
    with running(tmp_path, MAIN, code) as script:
        worker = int(script.line())
        script.go()
        child = int(script.line())
        script.process.kill()

        until(lambda: not is_alive(worker))
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)


def test_a_child_that_was_forked_while_a_worker_starts_can_use_a_fresh_pool(tmp_path: Path) -> None:
    """Another thread holds the fork server's lock then, and that of the tracker of resources."""
    code = """
        if __name__ == "__main__":
            pool = ProcessPool(1).start()
            from multiprocessing import forkserver, resource_tracker
            held, let_go = threading.Event(), threading.Event()

            def hold():
                with forkserver._forkserver._lock, resource_tracker._resource_tracker._lock:
                    held.set()
                    let_go.wait()

            threading.Thread(target=hold).start()
            held.wait()
            child = os.fork()
            if not child:
                with ProcessPool(1) as fresh:
                    say(fresh.submit(divmod, 7, 2).result(10))
                os._exit(7)
            let_go.set()
            wait_for(child)
            pool.shutdown()
        """
    with running(tmp_path, MAIN, code) as script:
        script.expect("(3, 1)", "child ended with 7")

        assert (script.end(within=SLACK), script.errors) == (0, "")


@pytest.mark.parametrize(
    ("leave", "code", "error"),
    [("return", 0, ""), ("sys.exit(5)", 5, ""), ("raise KeyError('mine')", 1, "KeyError: 'mine'")],
)
def test_the_copy_that_a_job_forks_ends_as_a_program_does_and_does_not_speak_for_the_worker(
    tmp_path: Path, leave: str, code: int, error: str
) -> None:
    script_code = f"""
        import logging

        def fork():
            child = os.fork()
            if not child:
                logging.getLogger("mine").error("not by the worker's lane")
                {leave}
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        if __name__ == "__main__":
            with ProcessPool(1) as pool:
                say(pool.submit(fork).result(10))
                say(pool.submit(divmod, 7, 2).result(10))
        """
    with running(tmp_path, MAIN, script_code) as script:
        script.expect(str(code), "(3, 1)")

        assert script.end() == 0
        assert error in script.errors
        assert "bug" not in script.errors


def test_programs_and_copies_that_a_job_starts_can_be_stopped_by_signals(tmp_path: Path) -> None:
    code = """
        import multiprocessing
        import subprocess

        def stop_others():
            program = subprocess.Popen(["sleep", "60"])
            program.terminate()
            return program.wait(10), {exit_code_of_a_copy() for _ in range(10)}

        def exit_code_of_a_copy():
            copy = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            copy.start()
            copy.terminate()  # at once: it may not have come to itself
            copy.join(10)
            return copy.exitcode

        def survive():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            return "still here"

        if __name__ == "__main__":
            with ProcessPool(1) as pool:
                say(pool.submit(survive).result(10))
                say(pool.submit(stop_others).result(10))
        """
    with running(tmp_path, MAIN, code) as script:
        script.expect("still here", "(-15, {-15})")

        assert (script.end(), script.errors) == (0, "")
