"""What is known of an executor before it gets its first job: whether it is one, and how many jobs it runs at once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any


def check_executor(executor: object) -> None:
    """TypeError or ValueError if *executor* is none, or would not run every job; with what to give instead."""
    if not isinstance(executor, Executor):
        hint = "; of a Dask client give client.get_executor(pure=False)" if hasattr(executor, "get_executor") else ""
        raise TypeError(f"ExecutorPool needs a concurrent.futures.Executor, not {executor!r}{hint}")
    if _dask_client(executor) is not None and "pure" not in getattr(executor, "_kwargs", {"pure": None}):
        raise ValueError(
            "Dask would take equal calls for one and run it once: make the executor with "
            "client.get_executor(pure=False), or with pure=True if that is what you want"
        )


def jobs_at_once(executor: Executor) -> int:
    """How many jobs *executor* runs at once; ValueError if it doesn't tell."""
    count: Any = getattr(executor, "_max_workers", None)
    client = _dask_client(executor)
    if count is None and client is not None:
        cores = client.ncores()
        count = sum(cores.values()) if isinstance(cores, Mapping) else None
        if count == 0:
            raise ValueError("the Dask cluster has no workers yet: wait for them, or give max_workers")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"{type(executor).__qualname__} doesn't tell how many jobs it runs at once: give max_workers, how many may "
            "be in its hands"
        )
    return count


def runs_in_this_process(executor: Executor) -> bool:
    """Whether its workers are threads of this process, for sure."""
    return isinstance(executor, ThreadPoolExecutor)


def _dask_client(executor: Executor) -> Any:
    client = getattr(executor, "_client", None)
    return client if callable(getattr(client, "ncores", None)) else None
