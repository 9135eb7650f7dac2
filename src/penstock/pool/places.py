"""The free places of a bounded backlog, given out without a lock.

    submitter: take() ──no place──> wait(waiter) ──────────────┐ first come, first served
    worker:    give() ──somebody waits──> waiter.grant() <─────┘
                      └─nobody──────────> back to the free ones

A place is a token that is always in exactly one hand: in `_free`, with a submitter, with a job of the backlog, or on
its way to a waiter. So the bound is strict however many threads submit at once.

No lock is taken, because threads that wait for a lock while they need the GIL would form a convoy (measured: half the
rate). It rests on `list.append`, `list.pop`, `deque.append`, `deque.popleft` and `deque.remove` each being atomic:
under the GIL, and by the lock of each object in free-threaded builds. Whoever gives looks for waiters after putting a
token back, and whoever waits looks for a token after lining up; so one of the two sees the other.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Waiter(Protocol):
    """Somebody in the line for a place."""

    @property
    def submits(self) -> bool:
        """Whether it is a thread that looks, on its way out of the line, if a worker has to be woken."""
        ...

    def grant(self) -> bool:
        """A place is yours now, unless you answer False. The thread that gives it calls; don't block or raise."""
        ...

    def nudge(self) -> None:
        """There is no place, but a reason to look whether to wait on. Must not block or raise."""
        ...


class Places:
    """*count* places, and a fair line of those who wait for one.

    Invariants:
      1. Tokens in `free` + held + on their way == *count*.
      2. If somebody waits and no call is under way, `free` is empty.
    """

    __slots__ = ("free", "waiting")

    def __init__(self, count: int) -> None:
        self.free: list[None] = [None] * count
        self.waiting: deque[Waiter] = deque()

    def take(self) -> bool:
        """Take a free place; False if there is none."""
        try:
            self.free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """Hand a place on: to the first in the line, or back to the free ones."""
        while True:
            if not self.waiting:
                self.free.append(None)
                if not self.waiting or not self.take():
                    return
                # Somebody lined up in between, and the place is in our hand again.
            try:
                waiter = self.waiting.popleft()
            except IndexError:  # he has left again
                continue
            if waiter.grant():
                return

    def wait(self, waiter: Waiter) -> None:
        """Line up; *waiter* is granted a place sooner or later, perhaps before this returns."""
        self.waiting.append(waiter)
        if self.free and self.take():
            self.give()

    def next_one_submits(self) -> bool:
        """Whether a thread is first in the line: it will add a job once it has a place."""
        try:
            return self.waiting[0].submits
        except IndexError:
            return False

    def leave(self, waiter: Waiter) -> bool:
        """Stop waiting. False: too late, the place was or is being granted, and has to be used or given back."""
        try:
            self.waiting.remove(waiter)
        except ValueError:
            return False
        return True
