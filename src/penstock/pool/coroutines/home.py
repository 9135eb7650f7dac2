"""The event loop that a pool lives on, and the one way to it from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

get_running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop


class Home:
    """The loop of one pool: the one that first uses it, and no other later.

    All is written once, on the loop's thread, before anything is on the loop; any thread may read.
    """

    __slots__ = ("ident", "loop", "runs", "thread")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None
        self.ident: int | None = None  # of the thread
        self.runs: Callable[[], bool] = _never  # whether the loop does

    def settle(self, pool: str) -> None:
        """Make the running loop the pool's; RuntimeError if it has another one already, or if none runs here."""
        loop = asyncio.get_running_loop()
        if self.loop is None:
            self.thread = threading.current_thread()
            self.ident = threading.get_ident()
            self.runs = loop.is_running
            self.loop = loop
        elif self.loop is not loop:
            raise RuntimeError(f"pool {pool!r} belongs to another event loop: make one pool for each loop")

    def is_here(self) -> bool:
        """Whether the calling thread is running the loop now."""
        return self.loop is not None and get_running_loop() is self.loop

    def is_gone(self) -> bool:
        """Whether the loop was closed, so that nothing can ever run on it again."""
        return self.loop is not None and self.loop.is_closed()

    def call(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call *fn* on the loop's thread: now if this is it, else soon; never if there is no loop or it is closed."""
        if self.loop is None:
            return
        if self.is_here():
            fn(*args, **kwargs)
            return
        try:
            self.loop.call_soon_threadsafe(lambda: fn(*args, **kwargs))
        except RuntimeError:  # closed: what is left is the stop's to tell
            pass


def _never() -> bool:
    return False
