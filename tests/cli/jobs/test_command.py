"""The real command on a real file, as a shell runs it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from penstock.engines.requests import NewJob, Pause, Put
from penstock.engines.sqlite import SQLiteEngine

PENSTOCK = [sys.executable, "-m", "penstock"]


def store_with(folder: Path, jobs: int) -> str:
    url = f"sqlite:///{folder}/jobs.db"
    engine = SQLiteEngine(url)
    engine.open()
    try:
        engine.transact([Put([NewJob(f"a{number}", "resize") for number in range(jobs)]), Pause("default")])
    finally:
        engine.close()
    return url


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PENSTOCK, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def on_terminal(columns: int, *arguments: str, interrupted_at: bytes | None = None) -> str:
    """What a terminal of so many columns is sent; at some words it answers with Ctrl-C."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [*PENSTOCK, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}
    )
    os.close(theirs)
    sent = b""
    try:
        while part := _read(ours):
            sent += part
            if interrupted_at is not None and interrupted_at in sent:
                process.send_signal(signal.SIGINT)
                interrupted_at = None
        assert process.wait(60) == 0
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    return sent.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # so Linux says that the other end is closed
        return b""


def test_the_environment_names_the_store_and_a_pipe_gets_no_colours(tmp_path: Path) -> None:
    url = store_with(tmp_path, 3)

    ended = run("status", PENSTOCK_STORE=url)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "default (paused)  resize      3        0     0       0" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert json.loads(run("show", "a1", "--json", PENSTOCK_STORE=url).stdout)["why"] == [
        "its queue is paused: penstock resume default",
        "no worker is running",
    ]


def test_a_store_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    for file in (tmp_path / "typo.db", tmp_path / "no" / "folder.db"):
        ended = run("status", "--store", f"sqlite:///{file}")

        assert (ended.returncode, ended.stdout) == (3, "")
        assert len(ended.stderr.splitlines()) == 1
        assert "there is no f" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store_is_said_in_one_line_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "picture.db"
    file.write_bytes(b"this is no database at all, whatever its name says" * 100)

    ended = run("jobs", "--store", f"sqlite:///{file}")

    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(f"penstock jobs: sqlite:///{file} is no store that can be used: ")
    assert len(ended.stderr.splitlines()) == 1
    assert file.read_bytes().startswith(b"this is no database")


def test_a_password_is_never_printed(tmp_path: Path) -> None:
    ended = run("status", "--store", "postgres://me:secret@127.0.0.1:1/db")

    assert ended.returncode == 3
    assert "secret" not in ended.stderr
    assert "postgres://me:***@127.0.0.1:1/db" in ended.stderr


def test_a_reader_who_has_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    url = store_with(tmp_path, 2_000)
    process = subprocess.Popen(
        [*PENSTOCK, "jobs", "--json", "--limit", "2000", "--store", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert json.loads(process.stdout.readline())["id"] == "a1999"
        process.stdout.close()
        assert process.stderr.read() == b""
    process.wait(60)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_colours_and_lines_that_fit(tmp_path: Path, columns: int) -> None:
    sent = on_terminal(columns, "jobs", "--store", store_with(tmp_path, 5))

    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in sent.split("\r\n")]
    assert sent.startswith("\x1b[1mid")
    assert [line.split()[0] for line in lines[:-1]] == ["id", "a4", "a3", "a2", "a1", "a0"]
    assert max(map(len, lines)) <= columns


def test_ctrl_c_ends_watching_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    url = store_with(tmp_path, 9)

    sent = on_terminal(80, "status", "--watch", "0.05", "--store", url, interrupted_at=b"resize")

    assert sent.count("\x1b[?1049h") == sent.count("\x1b[?1049l") == 1
    assert "Traceback" not in sent


def test_watching_ends_when_the_terminal_is_gone(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["status", "--watch", "0.05", "--store", store_with(tmp_path, 1)]
    process = subprocess.Popen([*PENSTOCK, *arguments], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert process.stderr is not None
    try:
        with process.stderr:
            os.read(ours, 1)
            os.close(ours)
            assert process.stderr.read() == b""
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
