"""Gates and threads for tests that wait for facts, never for time; and how long a promise of time may take.

Import them as `from tests.gates import GUARD, Gate, in_thread, slack`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

GUARD = 10.0  # seconds that a test waits for what must come: it may fail a test, never pass one


def slack(seconds: float) -> float:
    """What takes at most so many *seconds* where nothing else runs may take so many here and now."""
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    measured = 3 if "coverage" in sys.modules else 1
    return seconds * measured * max(1.0, load)


class Gate:
    """A job that enters and stays until it is opened. Call it with anything: it returns its first argument, or None.

    A gate that nobody opens fails its job with an AssertionError after GUARD, so that a broken test ends too.
    One gate can hold several jobs: `wait_entered(n)` waits until the n-th is inside, `open` lets all of them out.
    """

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._inside = 0  # how many have entered so far; guarded by _moved
        self._is_open = False  # guarded by _moved
        self.entered = threading.Event()
        """Set once the first has entered."""

    def __call__(self, *args: Any, **_kwargs: Any) -> Any:
        with self._moved:
            self._inside += 1
            self._moved.notify_all()
            self.entered.set()
            assert self._moved.wait_for(lambda: self._is_open, GUARD), "the gate was never opened"
        return args[0] if args else None

    def open(self) -> None:
        """Let out whoever is inside, and let through whoever still comes."""
        with self._moved:
            self._is_open = True
            self._moved.notify_all()

    def wait_entered(self, count: int = 1) -> None:
        """Return once *count* have entered; AssertionError after GUARD."""
        with self._moved:
            arrived = self._moved.wait_for(lambda: self._inside >= count, GUARD)
            assert arrived, f"{self._inside} of {count} entered the gate"


def in_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call *fn* in a fresh daemon thread; its result or error comes through a plain Future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, name=f"in_thread({getattr(fn, '__name__', fn)})", daemon=True).start()
    return future
