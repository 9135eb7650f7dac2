"""How workers come and go: threads that can't be had, and workers that do not leave."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from penstock import Job, PoolBroken, ProcessPool
from penstock.events import Event, JobEnded
from penstock.pool.processes import dispatcher as dispatchers
from tests.gates import GUARD, in_thread
from tests.pool.crossing import double


def leave_a_thread_behind(path: str) -> None:
    """A thread that keeps its process from ending."""
    thread = threading.Thread(target=threading.Event().wait, daemon=False)
    thread.start()
    Path(path).touch()


# Starting


class NoThreads:
    """Stands in for `threading.Thread.start` at the end of the interpreter."""

    def __init__(self) -> None:
        self._real = threading.Thread.start

    def __get__(self, thread: threading.Thread, kind: type) -> Any:
        return self._refuse if thread.name.startswith("penstock-ProcessPool") else self._real.__get__(thread, kind)

    def _refuse(self) -> None:
        raise RuntimeError("can't start new thread")


def test_jobs_fail_as_long_as_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ProcessPool(1, unobserved="ignore")
    with monkeypatch.context() as late:
        late.setattr(threading.Thread, "start", NoThreads())
        for _ in range(2):
            job = pool.submit(double, 1)
            with pytest.raises(BrokenProcessPool, match="no thread can be started: can't start new thread"):
                job.result(GUARD)

    assert pool.submit(double, 1).result(GUARD) == 2
    assert pool.shutdown().failed == 2


def test_who_hears_that_no_thread_can_be_started_may_submit_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[Job[int]] = []
    heard = itertools.count()

    def submit_once_more(event: Event) -> None:
        if isinstance(event, JobEnded) and next(heard) == 0:
            again.append(pool.submit(double, 2))

    pool = ProcessPool(1, unobserved="ignore")
    pool.observe(submit_once_more)
    monkeypatch.setattr(threading.Thread, "start", NoThreads())
    in_thread(pool.submit, double, 1).result(GUARD)

    assert isinstance(again[0].exception(GUARD), PoolBroken)
    pool.shutdown()


# Leaving


@pytest.mark.parametrize("most", [None, 1])
def test_a_worker_that_does_not_leave_is_killed(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it told to leave by the end of the pool, or because another has taken its place."""
    monkeypatch.setattr(dispatchers, "_LEAVING_TAKES", 0.2)
    pool = ProcessPool(1, max_tasks_per_child=most)
    pool.submit(leave_a_thread_behind, str(tmp_path / "left")).result(GUARD)

    assert in_thread(pool.shutdown).result(GUARD).done == 1
