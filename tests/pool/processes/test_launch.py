"""Starting a worker process, and what is left when that fails."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from penstock import PoolBroken, ProcessPool
from penstock.pool.processes import launch
from tests.gates import GUARD


def test_a_process_that_cannot_be_started_breaks_the_pool_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_processes(method: str, preload: Any) -> Any:
        class Context:
            def Process(self, **told: Any) -> Any:  # noqa: N802 - as multiprocessing has it
                raise OSError("no more processes")

        return Context()

    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(launch, "context_for", no_more_processes)
    monkeypatch.setattr("penstock.pool.processes.dispatcher.context_for", no_more_processes)
    pool = ProcessPool(1, unobserved="ignore")
    with pytest.raises(PoolBroken, match="no more processes"):
        pool.submit(int).result(GUARD)
    pool.shutdown(timeout=GUARD)
    gc.collect()  # a socket that nobody closed warns here

    assert len(list(Path("/proc/self/fd").iterdir())) <= before
