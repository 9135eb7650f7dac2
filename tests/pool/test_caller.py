"""Who runs an event loop must not be blocked, but for a notebook, whose cells are meant to wait."""

from __future__ import annotations

import asyncio
import sys
import types
from collections import deque
from typing import Any

import pytest

from penstock import BacklogFull, ThreadPool
from penstock.pool.caller import on_event_loop
from tests.gates import GUARD, Gate, in_thread


async def ask() -> bool:
    return on_event_loop()


def ipython(kernel: object) -> types.ModuleType:
    """IPython, as far as it is asked; *kernel* is there in a notebook only."""
    module = types.ModuleType("IPython")
    shell = types.SimpleNamespace() if kernel is None else types.SimpleNamespace(kernel=kernel)
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    return module


def test_a_plain_thread_runs_no_loop() -> None:
    assert not on_event_loop()
    assert not in_thread(on_event_loop).result(GUARD)


def test_a_coroutine_is_on_its_loop() -> None:
    assert asyncio.run(ask())


def test_a_thread_beside_a_loop_is_not_on_it() -> None:
    async def ask_elsewhere() -> bool:
        return await asyncio.to_thread(on_event_loop)

    assert not asyncio.run(ask_elsewhere())


def test_without_asyncio_there_is_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "asyncio")

    assert not on_event_loop()
    assert "asyncio" not in sys.modules, "asking must not import it"


def test_the_loop_of_a_notebook_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython(kernel=object()))

    assert not asyncio.run(ask())


def test_a_loop_beside_that_of_a_notebook_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython(kernel=object()))

    assert in_thread(asyncio.run, ask()).result(GUARD)


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython(kernel=None))

    assert asyncio.run(ask())


def test_ipython_that_was_only_imported_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)

    assert asyncio.run(ask())


def test_a_module_that_is_not_all_there_yet_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))

    assert asyncio.run(ask())


def test_a_cell_waits_for_a_place_where_a_coroutine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def submit() -> int:
        return pool.submit(len, "four").result(GUARD)

    gate = Gate()
    with ThreadPool(1, backlog=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        pool.submit(len, "x")

        with pytest.raises(BacklogFull, match=r"await pool\.asubmit"):
            asyncio.run(submit())
        monkeypatch.setitem(sys.modules, "IPython", ipython(kernel=object()))
        pool._crew.backlog.places.waiting = OpensTheGate(gate)

        assert asyncio.run(submit()) == 4


class OpensTheGate(deque[Any]):
    """A line in which somebody's coming opens *gate*."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self.gate.open()
