"""`penstock work` as its users run it: real processes on a real file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import JobCancelled, JobFailed, JobState
from penstock.engines.records import Attempts, ByIds, Complaints, Record, Workers
from penstock.engines.requests import NewJob, Pause, Put
from penstock.errors import StoreError
from tests.gates import GUARD
from tests.worker.service import DUTY, House, Service, house, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FAST = ("--lease", "1")  # where a lease has to run out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch) as made:
        yield made
        assert made.app.store.find(Complaints()) == []


def record(home: House, id: str) -> Record:
    found: list[Record | None] = home.app.store.find(ByIds([id]))
    assert found[0] is not None
    return found[0]


def outcomes(home: House, id: str) -> list[tuple[str, str]]:
    """What is on record of its attempts: outcome and reason."""
    return [(attempt.outcome, attempt.reason) for attempt in home.app.store.find(Attempts(id))]


def state_of(pid: int) -> str:
    """One letter, as the kernel has it; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


# What it is for


def test_tasks_of_every_kind_are_run_and_their_results_come_back(home: House) -> None:
    handles = [home.duty.double.enqueue(21), home.duty.double_async.enqueue(22), home.duty.double_apart.enqueue(23)]
    service = home.work()
    assert [handle.result(GUARD) for handle in handles] == [42, 44, 46]
    assert service.stop() == 0
    assert "3 done, 0 abandoned" in service.log


def test_a_task_is_found_in_its_process_by_its_own_name(home: House) -> None:
    service = home.work()
    handle = home.duty.double_apart.enqueue(1)
    assert handle.result(GUARD) == 2
    [[_, _, pid]] = home.marks("double_apart")
    assert int(pid) not in (service.process.pid, os.getpid())


def test_a_failed_job_is_tried_again_as_its_task_says_and_its_error_comes_back_in_words(home: House) -> None:
    home.work()
    assert home.duty.fails.enqueue(2).result(GUARD) == 3
    handle = home.duty.fails.enqueue(9)
    with pytest.raises(JobFailed, match="ValueError: attempt 3") as failed:
        handle.result(GUARD)
    assert "in fails" in failed.value.traceback
    assert [outcome for outcome, _ in outcomes(home, handle.id)] == ["retry", "retry", "failed"]


def test_failures_are_logged_the_first_of_a_kind_at_once_with_its_traceback(home: House) -> None:
    service = home.work("--threads", "1")
    handles = [home.duty.fails.enqueue(9) for _ in range(3)]
    for handle in handles:
        handle.exception(GUARD)
    assert service.stop() == 0
    assert service.log.count("(fails) failed: ValueError: attempt 1\nTraceback") == 1
    assert service.log.count("Traceback") == 1


def test_a_failure_without_a_line_to_blame_is_logged_though_another_task_failed_alike(home: House) -> None:
    service = home.work("--threads", "1")
    for task in (home.duty.lies, home.duty.lies_too):
        task.enqueue().exception(GUARD)
    assert service.stop() == 0
    assert "(lies) failed: NotEncodable" in service.log
    assert "(lies_too) failed: NotEncodable" in service.log


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("at once", "KeyboardInterrupt"),
        ("later", "KeyboardInterrupt"),
        ("in a task of its own", "SystemExit"),
        ("in a callback", None),
        ("by its own word", None),
    ],
)
def test_a_coroutine_that_would_end_its_loop_is_no_other_job_s_affair(home: House, how: str, error: str | None) -> None:
    before, ends = home.duty.double_async.enqueue(1), home.duty.ends_the_loop.enqueue(how)
    behind = [home.duty.double_async.enqueue(number) for number in range(3)]
    service = home.work()
    assert [handle.result(GUARD) for handle in (before, *behind)] == [2, 0, 2, 4]
    if error is None:
        ends.result(GUARD)
    else:
        with pytest.raises(JobFailed, match=error):
            ends.result(GUARD)
    assert home.duty.double_async.enqueue(5).result(GUARD) == 10
    assert service.stop() == 0
    assert [outcome for outcome, _ in outcomes(home, ends.id)] == ([] if error is None else ["failed"])


def test_a_task_can_ask_for_later_or_give_up(home: House) -> None:
    home.work()
    handle = home.duty.snoozes.enqueue()
    assert handle.result(GUARD) == "awake"
    assert record(home, handle.id).attempt == 1
    given_up = home.duty.discards.enqueue()
    with pytest.raises(JobCancelled, match="nobody needs it"):
        given_up.result(GUARD)


def test_a_job_past_its_timeout_fails_on_time(home: House) -> None:
    home.work()
    handle = home.duty.limited.enqueue("never")
    with pytest.raises(JobFailed, match="DeadlineExceeded"):
        handle.result(GUARD)
    assert (record(home, handle.id).ran or 0) < 3


def test_progress_can_be_read_by_whoever_holds_the_handle(home: House) -> None:
    home.work()
    handle = home.duty.tells.enqueue("gate")
    home.begun()
    told = until(lambda: handle.progress)
    assert (told.done, told.total, told.note) == (1, 3, "a third")
    home.open("gate")
    handle.result(GUARD)


def test_a_running_job_hears_that_it_was_cancelled(home: House) -> None:
    home.work("--threads", "1")
    handle = home.duty.held.enqueue("never")
    home.begun()
    assert not handle.cancel("by hand")
    with pytest.raises(JobCancelled, match="by hand"):
        handle.result(GUARD)
    assert home.marks("ends")[0][-1] == "Cancelled"


def test_jobs_of_unknown_tasks_are_left_to_those_who_know_them(home: House) -> None:
    home.app.store.ask(Put([NewJob("strange", "unheard_of")]))
    home.work()
    assert home.duty.double.enqueue(1).result(GUARD) == 2
    assert record(home, "strange").state is JobState.READY


def test_a_job_whose_arguments_no_longer_fit_fails_in_words_and_is_kept(home: House) -> None:
    home.app.store.ask(Put([NewJob("old", "double", args=b'{"m": 1}')]))
    home.work()
    with pytest.raises(JobFailed, match="NotDecodable"):
        home.duty.double.options(id="old").enqueue(1).result(GUARD)


def test_queues_that_were_not_named_are_left_alone(home: House) -> None:
    service = home.work("--queues", "mail, news")
    left = home.duty.double.enqueue(1)
    assert home.duty.double.options(queue="mail").enqueue(2).result(GUARD) == 4
    assert left.state is JobState.READY
    assert ", of queues mail, news, in 1 process\n" in service.log


# A child dies


def test_the_jobs_of_a_killed_child_start_again_at_once_and_once(home: House) -> None:
    service = home.work("--processes", "2", "--threads", "1")
    handle = home.duty.held.enqueue("gate")
    [[_, _, _, pid]] = home.begun()
    os.kill(int(pid), signal.SIGKILL)
    killed = time.monotonic()
    home.begun(2)
    assert time.monotonic() - killed < 5
    home.open("gate")
    assert handle.result(GUARD) == "gate"
    assert [outcome for outcome, _ in outcomes(home, handle.id)] == ["crashed"]
    assert service.stop() == 0
    assert "died: its process was ended by SIGKILL" in service.log


def test_a_job_that_kills_its_process_is_run_alone_and_ends_at_the_third_time(home: House) -> None:
    service = home.work()
    handle = home.duty.dies.enqueue()
    with pytest.raises(JobFailed, match=r"WorkerDied.*SIGKILL"):
        handle.result(GUARD)
    assert len(home.marks("dies")) == 3
    assert home.duty.double.enqueue(1).result(GUARD) == 2, "and the service goes on"
    assert service.stop() == 0
    assert "1 done, 1 failed, 0 abandoned" in service.log


def test_one_that_was_merely_there_when_a_process_died_runs_alone_and_then_well(home: House) -> None:
    home.work("--threads", "2")
    innocent = home.duty.held.enqueue("gate")
    home.begun()
    guilty = home.duty.dies.enqueue()
    home.begun(2)  # the innocent one once more: both are suspects now, and it was first
    home.open("gate")
    assert innocent.result(GUARD) == "gate"
    assert record(home, innocent.id).crashes == 0
    with pytest.raises(JobFailed, match="WorkerDied"):
        guilty.result(GUARD)


def test_a_process_that_a_task_has_for_itself_takes_nobody_along(home: House) -> None:
    service = home.work()
    bystander = home.duty.held.enqueue("gate")
    home.begun()
    with pytest.raises(JobFailed, match="WorkerDied"):
        home.duty.dies_apart.enqueue().result(GUARD)
    assert len(home.marks("dies_apart")) == 3
    home.open("gate")
    assert bystander.result(GUARD) == "gate"
    assert record(home, bystander.id).attempt == 1
    assert "died: its process" not in service.log


def test_a_child_that_is_stopped_past_the_time_of_its_job_is_killed_and_replaced(home: House) -> None:
    service = home.work("--threads", "1")
    handle = home.duty.limited.enqueue("never")
    [[_, _, _, pid]] = home.begun()
    os.kill(int(pid), signal.SIGSTOP)
    service.logged("hangs: 1 job past its time")
    until(lambda: not state_of(int(pid)))
    until(lambda: record(home, handle.id).crashes == 1)
    assert home.duty.double.enqueue(1).result(GUARD) == 2


def test_a_coroutine_that_blocks_the_loop_past_its_time_fails_and_is_no_crash(home: House) -> None:
    service = home.work()
    handle = home.duty.blocks.enqueue("gate")
    with pytest.raises(JobFailed, match="DeadlineExceeded"):
        handle.result(GUARD)
    assert (record(home, handle.id).attempt, record(home, handle.id).crashes) == (1, 0)
    service.logged("is replaced: 1 job stuck there")
    home.open("gate")
    assert home.duty.double_async.enqueue(1).result(GUARD) == 2
    assert "hangs" not in service.log


def test_a_process_in_which_a_job_is_stuck_is_replaced_when_its_other_jobs_have_ended(home: House) -> None:
    service = home.work("--threads", "2")
    stuck, other = home.duty.stuck.enqueue("never"), home.duty.held.enqueue("gate")
    pids = {int(pid) for _, _, _, pid in home.begun(2)}
    with pytest.raises(JobFailed, match="DeadlineExceeded"):
        stuck.result(GUARD)
    service.logged("is replaced: 1 job stuck there")
    assert "in stuck" in service.log, "where it stands"
    later = home.duty.held.enqueue("gate")
    home.begun(3)
    home.open("gate")
    assert [other.result(GUARD), later.result(GUARD)] == ["gate", "gate"]
    until(lambda: not any(state_of(pid) for pid in pids))
    assert record(home, other.id).attempt == 1


# The whole service


def test_a_job_that_keeps_the_gil_for_three_leases_keeps_its_lease(home: House) -> None:
    home.work(*FAST)
    rival = home.work(*FAST)
    handle = home.duty.hold_gil.enqueue(4)
    assert handle.result(GUARD) is None
    assert len(home.marks("begins")) == 1
    assert "lost the lease" not in rival.log


def test_a_killed_service_leaves_no_process_and_its_jobs_run_elsewhere_soon(home: House) -> None:
    service = home.work("--threads", "1")
    handle = home.duty.held.enqueue("gate")
    home.begun()
    children = service.children()
    service.signal(signal.SIGKILL)
    until(lambda: not any(state_of(pid) not in ("", "Z") for pid in children))
    begun = time.monotonic()
    home.work("--threads", "1")
    home.begun(2)
    assert time.monotonic() - begun < 15, "long before the lease of 30 s runs out: it is known to be dead"
    home.open("gate")
    assert handle.result(GUARD) == "gate"


def test_a_service_that_was_stopped_past_its_lease_loses_its_jobs_and_what_it_says_late_is_refused(home: House) -> None:
    frozen = home.work("--threads", "1", *FAST)
    handle = home.duty.deaf.enqueue("gate")
    home.begun()
    freeze(home, frozen)
    home.work("--threads", "1", *FAST)
    first, second = home.begun(2)
    assert (first[1], int(second[2]) > int(first[2])) == (second[1], True), "a higher token"
    frozen.signal_all(signal.SIGCONT)
    frozen.logged("lost the lease")
    home.open("gate")
    handle.result(GUARD)
    until(lambda: len(home.marks("ends")) == 2)
    assert frozen.stop() == 0
    assert record(home, handle.id).token == int(second[2])
    assert [outcome for outcome, _ in outcomes(home, handle.id)] == ["lost"]


def freeze(home: House, service: Service) -> None:
    """Stop all of *service*; at a moment when it doesn't write, since nobody could write while it is stopped there."""
    while True:
        service.signal_all(signal.SIGSTOP)
        try:
            home.app.store.ask(Pause("nobody's", paused=False), timeout=0.5)
        except StoreError:
            service.signal_all(signal.SIGCONT)
        else:
            return


def test_workers_that_have_left_are_forgotten(home: House) -> None:
    service = home.work()
    assert len(home.app.store.find(Workers())) == 1
    service.stop()
    assert home.app.store.find(Workers()) == []


def test_what_ended_longer_ago_than_its_app_keeps_it_is_forgotten_what_failed_is_not(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = home.work()
    done, failed = home.duty.double.enqueue(1), home.duty.lies.enqueue()
    assert done.result(GUARD) == 2
    failed.exception(GUARD)
    assert first.stop() == 0
    monkeypatch.setenv("DUTY_KEEP", "0.001")
    home.work()
    until(lambda: home.app.store.find(ByIds([done.id])) == [None])
    assert failed.state is JobState.FAILED


# Stopping


def test_a_job_whose_process_died_counts_as_failed_the_last_time_only(home: House) -> None:
    service = home.work()
    home.duty.dies_apart.enqueue().exception(GUARD)
    assert service.stop() == 0
    assert "0 done, 1 failed, 2 to run again later, 0 abandoned" in service.log


def test_what_a_child_has_done_counts_though_it_was_killed_right_after(home: House) -> None:
    service = home.work()
    for handle in [home.duty.double.enqueue(n) for n in range(20)]:
        handle.result(GUARD)
    home.duty.double.enqueue(20).result(GUARD)  # when it was claimed, those before had been counted
    [child] = service.children()
    os.kill(child, signal.SIGKILL)
    service.logged("died")
    assert service.stop() == 0
    assert "20 done" in service.log or "21 done" in service.log


def test_sigterm_lets_what_runs_end_and_begins_nothing_new(home: House) -> None:
    service = home.work("--threads", "1")
    running, waiting = home.duty.held.enqueue("gate"), home.duty.double.enqueue(1)
    home.begun()
    service.signal(signal.SIGTERM)
    service.logged("stopping")
    home.open("gate")
    assert service.ended() == 0
    assert (running.state, waiting.state) == (JobState.DONE, JobState.READY)
    assert "1 done" in service.log


def test_what_does_not_end_in_time_is_cancelled_and_handed_back_without_the_cost_of_an_attempt(home: House) -> None:
    service = home.work("--threads", "1", "--grace", "5")
    handle = home.duty.held.enqueue("gate")
    home.begun()
    begun = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - begun < 6
    assert home.marks("ends")[0][-1] == "Cancelled"
    assert handle.state is JobState.READY
    assert record(home, handle.id).attempt == 0
    assert outcomes(home, handle.id) == [("release", "the worker is stopping")]
    assert "1 handed back, 0 abandoned" in service.log


def test_what_does_not_listen_is_killed_within_the_grace_and_runs_again_elsewhere(home: House) -> None:
    service = home.work("--threads", "1", "--grace", "2")
    handle = home.duty.deaf.enqueue("gate")
    home.begun()
    begun = time.monotonic()
    assert service.stop() == 1
    assert time.monotonic() - begun < 3
    assert "1 abandoned" in service.log
    found = record(home, handle.id)
    assert (found.state, found.attempt, found.crashes, found.suspect) == (JobState.READY, 0, 0, False)


def test_a_second_signal_cancels_and_a_third_kills(home: House) -> None:
    service = home.work("--threads", "2", "--grace", "60")
    polite, deaf = home.duty.held.enqueue("gate"), home.duty.deaf.enqueue("gate")
    home.begun(2)
    service.signal(signal.SIGINT)
    service.logged("stopping")
    service.signal(signal.SIGINT)
    service.logged("cancelling what still runs: 2 jobs")
    until(lambda: polite.state is JobState.READY)
    service.signal(signal.SIGINT)
    assert service.ended(within=10) == 1
    assert "killing what still runs: 1 job\n" in service.log
    assert deaf.state is JobState.READY


def test_a_terminal_that_tells_all_processes_stops_them_in_good_order_also_those_that_only_start(home: House) -> None:
    service = home.start("--processes", "2")
    until(service.children)
    service.signal_all(signal.SIGINT)
    assert service.ended() == 0
    assert service.log.find("working on") < service.log.find("stopping")
    assert "Traceback" not in service.log
    assert "died" not in service.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_all_of_its_processes_lets_what_runs_end(home: House, number: signal.Signals) -> None:
    service = home.work()
    handles = [home.duty.held.enqueue("gate"), home.duty.held_apart.enqueue("gate")]
    home.begun(2)
    service.signal_all(number)
    service.logged("stopping")
    home.open("gate")
    assert service.ended() == 0
    assert [handle.state for handle in handles] == [JobState.DONE] * 2, service.log


def test_what_was_claimed_ahead_goes_back_at_once(home: House) -> None:
    service = home.work("--threads", "1")
    for n in range(200):
        home.duty.double.enqueue(n)
    until(lambda: len(home.marks("double")) == 200)
    held = [home.duty.deaf.enqueue("gate") for _ in range(50)]  # it has learned that jobs are short
    home.begun()
    service.signal(signal.SIGTERM)
    until(lambda: [handle.state for handle in held].count(JobState.READY) == 49)
    home.open("gate")
    assert service.ended() == 0
    assert [record(home, handle.id).attempt for handle in held].count(0) == 49


def test_what_waits_behind_a_long_job_is_left_to_others(home: House) -> None:
    home.work("--threads", "1")
    for n in range(200):
        home.duty.double.enqueue(n)
    until(lambda: len(home.marks("double")) == 200)
    for _ in range(3):
        home.duty.deaf.enqueue("gate")
    home.begun()
    home.work("--threads", "8")
    assert len(home.begun(3)) == 3
    home.open("gate")


# Bad input, and being watched


def refused(home: House, *arguments: str) -> str:
    """What `penstock work` says when it can't begin; it ends by itself, with exit code 2."""
    told = subprocess.run(
        [sys.executable, "-m", "penstock", "work", *arguments],
        capture_output=True,
        text=True,
        timeout=GUARD,
        cwd=home.folder,
        check=False,
    )
    assert told.returncode == 2, told.stderr
    return told.stderr


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("no_such_module:app", "there is no module 'no_such_module' in"),
        (f"{DUTY}:double", f"there is no App in 'double', but Task in {DUTY}; did you mean {DUTY}:app?"),
        (f"{DUTY}:nothing", f"there is no 'nothing' in {DUTY}; did you mean {DUTY}:app?"),
        ("nothing.py:app", "there is no file nothing.py"),
        ("app", "write module:app"),
    ],
)
def test_an_app_that_is_not_there_is_told_in_one_line_and_ends_the_service(home: House, app: str, why: str) -> None:
    lines = refused(home, app, "--processes", "2").splitlines()
    assert 1 <= len(lines) <= 2, "both processes may have said it before the first was heard"
    assert any(why in line for line in lines)  # the other process may have been told to stop meanwhile


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "from penstock import App\napp = App('memory://')\n@app.task\ndef f() -> None: ...\n",
            "no other process sees",
        ),
        ("from penstock import App\napp = App('sqlite:///jobs.db')\n", "it has no tasks"),
        ("from penstock import App\napp = App('sqlite:///')\n@app.task\ndef f() -> None: ...\n", "names no file"),
        (
            "from __future__ import annotations\nfrom penstock import App\napp = App('sqlite:///jobs.db')\n"
            "@app.task\ndef f(x: Later) -> None: ...\n",
            "a type hint names something that isn't there: name 'Later' is not defined",
        ),
    ],
    ids=["in memory", "no tasks", "no file", "a hint of nothing"],
)
def test_an_app_that_nothing_can_be_done_for_is_told_in_one_line(home: House, source: str, why: str) -> None:
    (home.folder / "other.py").write_text(source)
    (line,) = refused(home, "other:app").splitlines()
    assert why in line


@pytest.mark.parametrize("library", ["apsw", "msgspec"])
def test_an_extra_that_is_not_installed_is_named(home: House, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    stubs = home.folder / "stubs"
    stubs.mkdir()
    (stubs / f"{library}.py").write_text(f"raise ModuleNotFoundError('no', name={library!r})")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(stubs), os.environ.get("PYTHONPATH")])))
    line, *_ = refused(home, f"{DUTY}:app").splitlines()
    assert f"{library}, which comes with: pip install 'penstock[sqlite]'" in line


def test_an_error_of_the_app_s_own_module_is_shown_from_its_first_line_on(home: House) -> None:
    (home.folder / "other.py").write_text("\n\nimport no_such_library\n")
    told = refused(home, "other:app")
    assert "importing other failed: ModuleNotFoundError: No module named 'no_such_library'" in told
    assert 'other.py", line 3' in told
    assert "penstock/worker" not in told


def test_a_file_that_is_no_store_is_told_and_ends_the_service_and_stays_as_it_is(home: House) -> None:
    file = home.folder / "notes.db"
    file.write_text("dear diary\n" * 100)
    (home.folder / "other.py").write_text(
        f"from penstock import App\napp = App('sqlite:///{file}')\n@app.task\ndef f() -> None: ...\n"
    )
    assert "notes.db is no store that can be used" in refused(home, "other.py:app")
    assert file.read_text().startswith("dear diary")


def test_a_port_that_is_taken_is_told_and_ends_the_service(home: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"no health checks on port {port}" in refused(home, f"{DUTY}:app", "--health", str(port))


def test_health_tells_whether_it_lives_and_is_ready(home: House) -> None:
    service = home.work("--health", "0")
    base = service.logged(r"health: (http://127\.0\.0\.1:\d+)/live")[1]

    def ask(path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(base + path, timeout=GUARD) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    assert ask("/live")[0] == 200
    until(lambda: ask("/ready")[0] == 200)
    handle = home.duty.held.enqueue("gate")
    home.begun()
    service.signal(signal.SIGTERM)
    service.logged("stopping")
    status, words = ask("/ready")
    assert (status, words["stopping"]) == (503, True)
    assert ask("/live")[0] == 200
    home.open("gate")
    handle.result(GUARD)


def test_what_a_job_logs_has_its_id_whichever_kind_of_task_it_is(home: House) -> None:
    service = home.work("--log-json")
    handles = [task.enqueue(f"a word of {task.name}") for task in (home.duty.says, home.duty.says_async)]
    handles.append(home.duty.says_apart.enqueue("a word of says_apart"))
    for handle in handles:
        handle.result(GUARD)
    service.stop()
    lines = [json.loads(line) for line in service.log.splitlines()]
    said = {line["message"]: line["job"] for line in lines if line["logger"] == "duty"}
    assert said == {
        f"a word of {name}": handle.id
        for name, handle in zip(("says", "says_async", "says_apart"), handles, strict=True)
    }


def test_logs_can_be_json_lines(home: House) -> None:
    service = home.work("--log-json")
    service.stop()
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert any("stopped in" in line["message"] for line in lines)
