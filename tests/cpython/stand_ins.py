"""What takes the places of the suite's pool and futures."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import multiprocessing
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

import penstock
from penstock.context import Context
from penstock.errors import JobCancelled
from penstock.job import FINAL, Crew, Job, JobState, new_job
from penstock.pool.processes.staff import ProcessStaff
from penstock.retry import Retry

LASTING = ("penstock-timers", "penstock-callbacks")  # they serve the whole process, and outlive any pool

_START_TAKES = 20.0  # seconds until processes that were asked for are there


class ThreadPool(penstock.ThreadPool):
    """Ours, with the two private names of the stdlib's that the suite reads where it tests behaviour."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._there_before = set(threading.enumerate())

    @property
    def _threads(self) -> set[threading.Thread]:
        # Not asked of the pool, so that its names and ends are seen from outside. No test has jobs in two pools.
        started = set(threading.enumerate()) - self._there_before
        return {thread for thread in started if not thread.name.startswith(LASTING)}

    @property
    def _broken(self) -> bool:
        try:
            self.submit(int)
        except BrokenExecutor:
            return True
        return False


class ProcessPool(penstock.ProcessPool):
    """Ours, with the private names of the stdlib's that the suite reads where it tests behaviour."""

    @property
    def _processes(self) -> dict[int | None, Any]:
        # Those that are there to take jobs; once those that were asked for have been started, which takes a moment.
        staff: ProcessStaff = self._crew.staff
        patience = time.monotonic() + _START_TAKES
        while staff.count() < staff.alive and time.monotonic() < patience:
            time.sleep(0.001)
        workers = [worker for worker in staff.workers() if not worker.told_to_leave]
        return {worker.ends.process.pid: _Process(worker.ends.process) for worker in workers}

    @property
    def _broken(self) -> bool:
        return isinstance(self._crew.refusal(), BrokenExecutor)

    @property
    def _mp_context(self) -> BaseContext:
        return multiprocessing.get_context(self._crew.settings.start_method)

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._crew.staff.dispatcher._thread

    @property
    def _call_queue(self) -> Any:
        return types.SimpleNamespace(join_thread=lambda: None)  # no thread feeds the workers


class _Process:
    """A worker's process, which is nobody's any more once it has ended and its pool has closed it."""

    def __init__(self, process: Any) -> None:
        self.terminate = process.terminate
        self._process = process

    def join(self) -> None:
        with contextlib.suppress(ValueError):
            self._process.join()


class Future(Job[Any]):
    """A Job that no pool owns, for tests that make their futures with `Future()` and move them by hand.

    Whoever calls `set_result` plays the worker; writing the private fields that the suite writes puts the job where a
    pool would have put it. Everything that reads the job is Job's own, and that is what the tests are after.
    """

    def __init__(self) -> None:
        made = new_job(_Terms(), 1, _never_called, (), {}, contextvars.Context(), 0.0)
        for slot in Job.__slots__:
            if hasattr(made, slot):
                setattr(self, slot, getattr(made, slot))

    def set_result(self, result: Any) -> None:
        if self._stage in FINAL:
            super().set_result(result)  # refused, as always
        self._settle(JobState.DONE, result)

    def set_exception(self, exception: BaseException | None) -> None:
        if self._stage in FINAL:
            super().set_exception(exception)
        self._settle(JobState.FAILED, exception)

    # The suite writes `_state`, then `_exception`, then `_result`.

    @property
    def _state(self) -> str:
        # "Cancelled, and the pool has not heard of it yet" is a moment that a Job doesn't have.
        return CANCELLED if self.__dict__.get("unheard") else super()._state

    @_state.setter
    def _state(self, state: str) -> None:
        self.__dict__["unheard"] = state == CANCELLED
        if state == RUNNING:
            self._attempt, self._stage = 1, JobState.RUNNING
        elif state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            self.cancel()
        elif state == FINISHED:
            self._value, self._stage = None, JobState.DONE

    @property
    def _exception(self) -> BaseException | None:
        return super()._exception

    @_exception.setter
    def _exception(self, exception: BaseException | None) -> None:
        if exception is not None:
            self._value, self._stage = exception, JobState.FAILED
            if self._bell is not None:  # somebody waits; the suite holds the bell's lock, and lets go of it next
                threading.Thread(target=self._ring).start()

    @property
    def _result(self) -> Any:
        return super()._result

    @_result.setter
    def _result(self, result: Any) -> None:
        if result is not None:
            self._value = result


class _Nobody:
    """The crew of a job without a pool: cancels like one whose workers are all busy."""

    name = "nobody"

    def cancel(self, job: Job[Any], reason: str) -> bool:
        if job.state is JobState.READY:
            job._settle(JobState.CANCELLED, JobCancelled(job.label, reason))
        return job.cancelled()

    def forget(self, job: Job[Any]) -> bool:
        return self.cancel(job, "forgotten")

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        return block()

    def lending(self, job: Job[Any]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def stack(self, job: Job[Any]) -> str:
        return ""

    def observed(self, job: Job[Any]) -> None:
        pass

    def heed(self, job: Job[Any]) -> None:
        pass


@dataclass
class _Terms:
    crew: Crew = field(default_factory=_Nobody)
    id: int | str | None = None
    name: str | None = None
    timeout: float | None = None
    retry: Retry | None = None
    context: Context | None = None
    inherit: bool = False
    plain: bool = True
    claim: None = None


def _never_called() -> None:
    raise AssertionError("a job without a pool does not run")


class Forgetful(concurrent.futures.Executor):
    """Says that every job is done, and runs none: a test that passes with it is not looking at its pool."""

    def __init__(self, *args: object, **options: object) -> None:
        self._threads: set[object] = set()
        self._processes: dict[int, object] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        job: concurrent.futures.Future[Any] = concurrent.futures.Future()
        job.set_result(None)
        return job
