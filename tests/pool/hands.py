"""An executor in the hands of a test: it does nothing by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from penstock import ExecutorPool
from tests.gates import GUARD


class HandsFuture(Future[Any]):
    """A future that tells when its giver listens to how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.is_listened_to = threading.Event()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(fn)
        self.is_listened_to.set()


class Held:
    """One call that the executor was given, to be ended by the test."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], future: HandsFuture):
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.future = future

    def begin(self) -> None:
        """A worker has it: the future can't be cancelled any more."""
        assert self.future.set_running_or_notify_cancel(), "it was cancelled"

    def run(self) -> None:
        """Call the function in this thread, and end the future so."""
        if not self.future.running():
            self.begin()
        try:
            value = self.fn(*self.args, **self.kwargs)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)

    def end(self, value: object = None) -> None:
        """A result, whatever the function would have said."""
        self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """An error, likewise."""
        self.future.set_exception(error)

    def drop(self) -> None:
        """The executor cancels it, of its own accord."""
        assert self.future.cancel()


class Hands(Executor):
    """Keeps what it is given until the test does something with it.

    *make*: makes the futures. `refusal`: what `submit` raises. `closed`: what `shutdown` was called with.
    """

    def __init__(self, make: Callable[[], HandsFuture] = HandsFuture) -> None:
        self._moved = threading.Condition()
        self._make = make
        self.given: list[Held] = []  # all, in order; guarded by _moved
        self.most = 0  # how many futures were open at once; guarded by _moved
        self.refusal: BaseException | None = None
        self.closed: list[bool] = []
        self.is_closed = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.refusal is not None:
            raise self.refusal
        held = Held(fn, args, kwargs, self._make())
        with self._moved:
            self.given.append(held)
            self.most = max(self.most, len(self.open()))
            self._moved.notify_all()
        return held.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed.append(wait)
        self.is_closed.set()

    def open(self) -> list[Held]:
        """What has not ended."""
        return [held for held in self.given if not held.future.done()]

    def wait_given(self, count: int) -> Held:
        """The *count*-th call, once its giver listens to how it ends; AssertionError after GUARD."""
        with self._moved:
            assert self._moved.wait_for(lambda: len(self.given) >= count, GUARD), f"{len(self.given)} were given"
            held = self.given[count - 1]
        assert held.future.is_listened_to.wait(GUARD), "nobody listens to how it ends"
        return held


@contextmanager
def pool_in_hands(
    max_workers: int = 1, make: Callable[[], HandsFuture] = HandsFuture, **options: Any
) -> Iterator[tuple[ExecutorPool, Hands]]:
    """A pool around hands. At the end of the block everything that is still there is run."""
    hands = Hands(make)
    with ExecutorPool(hands, max_workers, **options) as pool:
        try:
            yield pool, hands
        finally:
            finish(pool, hands)


def finish(pool: ExecutorPool, hands: Hands) -> None:
    """Run what was given and what still comes, until the pool has nothing left; then what it has left behind."""
    pool.close()
    done = 0
    while True:
        for held in hands.given[done:]:
            done += 1
            if not held.future.done():
                held.run()
        with hands._moved:
            if pool.report.closed and len(hands.given) == done:
                return
            hands._moved.wait(0.01)  # polls: nothing tells that it was the last
