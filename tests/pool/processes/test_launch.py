"""Starting a worker process, and what is left when that fails."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from penstock import PoolBroken, ProcessPool
from penstock.pool.processes import launch
from tests.gates import GUARD


def test_a_process_that_cannot_be_started_breaks_the_pool_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_processes(**told: Any) -> Any:
        raise OSError("no more processes")

    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(launch, "_FromForkServer", no_more_processes)
    pool = ProcessPool(1, unobserved="ignore")
    with pytest.raises(PoolBroken, match="no more processes"):
        pool.submit(int).result(GUARD)
    pool.shutdown(timeout=GUARD)
    gc.collect()  # a socket that nobody closed warns here

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_worker_that_is_gone_can_still_be_waited_for_as_multiprocessing_does_at_the_end(method: str) -> None:
    with ProcessPool(1, start_method=method) as pool:
        pool.start()
        (process,) = multiprocessing.active_children()
    process.join()
    assert not multiprocessing.active_children()
