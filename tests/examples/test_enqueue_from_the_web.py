"""Durable jobs from web requests: with the kit's clock, and end to end with a worker service of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from flask import Flask

from examples import enqueue_flask, enqueue_starlette
from penstock import StoreUnavailable, testing

EXAMPLES = Path(__file__).parents[2] / "examples"
PROCESS_GUARD = 30.0  # seconds for what takes one, on a machine that is busy with something else


class Web:
    """A web app as its clients see it."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: str = "") -> httpx.Response:
        return asyncio.run(self._ask(method, path, headers, body))

    async def _ask(self, method: str, path: str, headers: dict[str, str] | None, body: str) -> httpx.Response:
        web: Any = self.module.web
        if isinstance(web, Flask):
            with httpx.Client(transport=httpx.WSGITransport(app=web), base_url="http://web") as client:
                return await asyncio.to_thread(client.request, method, path, headers=headers, content=body)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://web") as aclient:
            return await aclient.request(method, path, headers=headers, content=body)

    def hand_in(self, text: str, key: str | None = None) -> httpx.Response:
        return self.ask("POST", "/texts", {"Idempotency-Key": key} if key else None, text)

    def show(self, path: str) -> Any:
        """What the answer says."""
        return self.ask("GET", path).json()


@pytest.fixture(params=[enqueue_flask, enqueue_starlette], ids=["flask", "starlette"])
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    with testing.in_memory(request.param.jobs):
        yield Web(request.param)


def test_a_request_is_answered_with_202_and_a_place_where_the_result_comes(web: Web) -> None:
    accepted = web.hand_in("to be or not to be")
    assert accepted.status_code == 202
    path = accepted.headers["Location"]
    assert web.show(path) == {"state": "ready", "progress": None}
    testing.run_all(web.module.jobs)
    assert web.show(path) == {"state": "done", "result": {"words": 6, "longest": "not"}}


def test_a_request_that_comes_twice_is_one_job(web: Web) -> None:
    first, second, other = (web.hand_in("a b", key).json()["id"] for key in ("k", "k", "l"))
    assert first == second != other
    assert len(testing.enqueued(web.module.jobs)) == 2
    assert web.show(f"/jobs/{quote(first)}")["state"] == "ready"


def test_a_job_that_failed_shows_its_error_and_one_that_nobody_knows_is_not_found(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> None:
        raise ValueError("no text of ours")

    async def afail(text: str) -> None:
        fail(text)

    monkeypatch.setattr(web.module.count, "fn", fail if web.module is enqueue_flask else afail)
    path = web.hand_in("a").headers["Location"]
    testing.run_all(web.module.jobs)
    shown = web.show(path)
    assert shown["state"] == "failed"
    assert "ValueError: no text of ours" in shown["error"]
    assert web.ask("GET", "/jobs/nothing").status_code == 404


def test_a_job_that_was_cancelled_says_so(web: Web) -> None:
    accepted = web.hand_in("a")
    assert web.module.jobs.handle(accepted.json()["id"]).cancel("wrong text")
    shown = web.show(accepted.headers["Location"])
    assert shown["state"] == "cancelled"
    assert "wrong text" in shown["error"]


def test_a_store_that_is_away_is_a_503_that_says_when_to_come_back(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*requests: object, **options: object) -> None:
        raise StoreUnavailable("sqlite:///jobs.db", "it is locked")

    async def aaway(*requests: object, **options: object) -> None:
        away()

    monkeypatch.setattr(web.module.jobs.store, "ask", away)
    monkeypatch.setattr(web.module.jobs.store, "aask", aaway)
    refused = web.hand_in("a")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("name", ["enqueue_flask", "enqueue_starlette"])
def test_a_worker_service_runs_what_requests_hand_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_STORE", f"sqlite:///{tmp_path}/jobs.db")
    web = Web(_fresh(name, monkeypatch))
    path = web.hand_in("to be or not to be").headers["Location"]
    command = [sys.executable, "-m", "penstock", "work", f"{EXAMPLES / name}.py:jobs"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as service:
        try:
            give_up = time.monotonic() + PROCESS_GUARD
            while (shown := web.show(f"{path}?wait=1"))["state"] != "done":
                assert time.monotonic() < give_up, shown
                assert "result" not in shown
            assert shown["result"] == {"words": 6, "longest": "not"}
            service.send_signal(signal.SIGTERM)
            _, log = service.communicate(timeout=PROCESS_GUARD)
            assert service.returncode == 0, log
        finally:
            service.kill()
            web.module.jobs.close()


def _fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, made anew: its jobs are in the store that the environment names."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
