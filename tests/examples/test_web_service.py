"""The web service as its clients and its supervisor see it: a real server process, real requests, real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from examples.web_service import Answer, Shelf, count_words
from penstock import ThreadPool
from tests.gates import Gate, slack

ROOT = Path(__file__).parents[2]
PROCESS_GUARD = 30.0  # seconds for what takes one, on a machine that is busy with something else
GRACE = 1.0  # seconds; only the test of the hung job uses it up


class Server:
    """A server process that answers already: its socket was listening before it was started."""

    def __init__(self, process: subprocess.Popen[str], port: int, gate: int, journal: int) -> None:
        self.process = process
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PROCESS_GUARD)
        self._gate = gate
        self._journal = os.fdopen(journal)
        self.log = ""

    def post(self, text: str) -> httpx.Response:
        return self.client.post("/jobs", content=text)

    def next_word(self) -> str:
        """What the jobs tell next, as "started a"; "" once the process is gone. Blocks until there is something."""
        return self._journal.readline().rstrip()

    def open_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def ask_to_stop(self) -> None:
        """Send SIGTERM, and return once the server has begun to end the app's lifespan."""
        assert self.process.stderr is not None
        self.process.send_signal(signal.SIGTERM)
        while "Waiting for application shutdown" not in self.log:
            line = self.process.stderr.readline()
            assert line, f"the server ended without a shutdown:\n{self.log}"
            self.log += line

    def wait_ended(self) -> int:
        """The exit code. What was logged on the way is in `log`."""
        assert self.process.stderr is not None
        self.log += self.process.stderr.read()  # not `communicate`: it would lose what `readline` has read ahead
        return self.process.wait(PROCESS_GUARD)

    def end(self) -> None:
        self.open_gate()
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._journal.close()


GATED = ("-m", "tests.examples.gated_service", "LISTENER", "GATE", "JOURNAL", "GRACE")
AS_USERS_DO = ("-m", "uvicorn", "--app-dir", "examples", "web_service:app", "--fd", "LISTENER")


@contextlib.contextmanager
def serve(command: Sequence[str], *, grace: float = PROCESS_GUARD) -> Iterator[Server]:
    """Run *command* with LISTENER, GATE, JOURNAL and GRACE filled in; end it with the block, however that ends."""
    gate, our_gate = os.pipe()
    our_journal, journal = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = {"LISTENER": listener.fileno(), "GATE": gate, "JOURNAL": journal, "GRACE": grace}
        process = subprocess.Popen(
            [sys.executable, *(str(words.get(word, word)) for word in command)],
            cwd=ROOT,
            pass_fds=(listener.fileno(), gate, journal),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    os.close(gate)
    os.close(journal)
    server = Server(process, port, our_gate, our_journal)
    try:
        yield server  # a read from one of its pipes that never returns ends with pytest's own timeout
    finally:
        server.end()


def fill(server: Server) -> list[str]:
    """Post as many jobs as the gated service takes: "a" runs, "b" and "c" wait. Gives their ids."""
    first = server.post("a")
    assert server.next_word() == "started a"  # from here on, its place in the backlog is free
    return [answer.json()["id"] for answer in (first, server.post("b"), server.post("c"))]


def test_a_job_is_accepted_at_once_and_its_answer_can_be_fetched() -> None:
    with serve(AS_USERS_DO) as server:
        accepted = server.post("to be or not to be")
        assert accepted.status_code == 202
        assert accepted.headers["Location"] == f"/jobs/{accepted.json()['id']}"

        # A client is told nothing when its job ends: it has to ask again.
        give_up = time.monotonic() + PROCESS_GUARD
        while (job := server.client.get(accepted.headers["Location"]).json())["state"] in ("ready", "running"):
            assert time.monotonic() < give_up, job

        assert job["state"] == "done"
        assert job["result"]["words"] == 6


def test_a_full_backlog_answers_503_and_says_when_to_come_back() -> None:
    with serve(GATED) as server:
        fill(server)

        refused = server.post("d")

        assert refused.status_code == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_after_a_503_the_service_takes_jobs_again_as_soon_as_there_is_a_place() -> None:
    with serve(GATED) as server:
        fill(server)
        assert server.post("d").status_code == 503

        server.open_gate()
        while server.next_word() != "started b":
            pass

        assert server.post("e").status_code == 202


def test_health_shows_the_numbers_of_the_pool_even_when_it_is_full() -> None:
    with serve(GATED) as server:
        fill(server)

        health = server.client.get("/health").json()

        assert (health["running"], health["queued"], health["accepted"]) == (1, 2, 3)


def test_a_job_that_has_not_ended_shows_its_state() -> None:
    with serve(GATED) as server:
        first, second, _ = fill(server)

        assert server.client.get(f"/jobs/{first}").json()["state"] == "running"
        assert server.client.get(f"/jobs/{second}").json()["state"] == "ready"


@pytest.mark.parametrize(("body", "status"), [(b"\xff", 400), (b"a" * 1_000_001, 413)])
def test_a_body_that_is_not_a_text_of_bearable_size_is_refused(body: bytes, status: int) -> None:
    with serve(GATED) as server:
        assert server.client.post("/jobs", content=body).status_code == status


def test_an_unknown_job_is_not_found() -> None:
    with serve(GATED) as server:
        assert server.client.get("/jobs/1").status_code == 404


def test_sigterm_lets_every_accepted_job_finish() -> None:
    with serve(GATED) as server:
        fill(server)

        server.ask_to_stop()
        server.open_gate()
        code = server.wait_ended()

        # uvicorn ends by repeating the signal once everything is in order.
        assert code in (0, -signal.SIGTERM), server.log
        words = [server.next_word() for _ in range(6)]
        assert words == ["ended a", "started b", "ended b", "started c", "ended c", ""]


def test_sigterm_ends_the_service_within_its_grace_when_a_job_hangs() -> None:
    with serve(GATED, grace=GRACE) as server:
        fill(server)

        server.ask_to_stop()
        began = time.monotonic()
        server.wait_ended()
        took = time.monotonic() - began

        assert took < slack(GRACE + 1)
        assert server.next_word() == ""  # the jobs that waited were not started
        assert "os.read(GATE, 1)" in server.log  # where the hung one stood


def test_the_shelf_forgets_the_jobs_that_ended_first() -> None:
    shelf = Shelf(keep=2)
    with ThreadPool(1) as pool:
        jobs = [pool.options(id=f"job {n}").submit(count_words, "") for n in range(4)]
        for job in jobs:
            shelf.put(job)

    assert [shelf.get(f"job {n}") for n in range(4)] == [None, None, *jobs[2:]]


def test_the_shelf_keeps_a_job_that_has_not_ended_however_many_others_have() -> None:
    shelf = Shelf(keep=1)
    gate = Gate()

    def slow(text: str) -> Answer:
        gate()
        return {}

    with ThreadPool(2) as pool:
        old = pool.options(id="old").submit(slow, "")
        shelf.put(old)
        for n in range(3):
            shelf.put(pool.options(id=f"new {n}").submit(count_words, ""))
        pool.close()
        kept = shelf.get("old")
        gate.open()

    assert kept is old
