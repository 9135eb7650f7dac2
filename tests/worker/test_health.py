"""The health checks of a worker service, and who comes to ask."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.worker import health
from penstock.worker.health import Health
from tests.gates import GUARD
from tests.worker.service import until


@pytest.fixture
def checks() -> Iterator[Health]:
    made = Health(0, lambda: (True, {"turns": 1}), lambda: (False, {"children_ready": 0}))
    yield made
    made.close()


def ask(checks: Health, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{checks.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=GUARD) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_each_question_has_its_answer_and_others_are_told_what_to_ask(checks: Health) -> None:
    assert ask(checks, "/live") == (200, json.dumps({"turns": 1}))
    assert ask(checks, "/ready?now") == (503, json.dumps({"children_ready": 0}))
    assert ask(checks, "/") == (404, json.dumps({"ask": ["/live", "/ready"]}))
    assert ask(checks, "/live", "HEAD") == (200, "")


def test_who_hangs_up_in_the_middle_leaves_nothing_on_standard_error(
    checks: Health, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "penstock.work")
    client = socket.create_connection(("127.0.0.1", checks.port))
    client.sendall(b"GET /li")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # to be cut, not closed
    client.close()
    until(lambda: "given up" in caplog.text)
    assert ask(checks, "/live")[0] == 200
    assert capfd.readouterr().err == ""


def test_who_never_asks_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.05)
    checks = Health(0, lambda: (True, {}), lambda: (True, {}))
    before = threading.active_count()
    silent: list[Any] = [socket.create_connection(("127.0.0.1", checks.port), timeout=GUARD) for _ in range(5)]
    for client in silent:
        assert client.recv(1) == b"", "it hangs up"
        client.close()
    until(lambda: threading.active_count() <= before)
    checks.close()
