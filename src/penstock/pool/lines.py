"""Those who wait for a place in the backlog: a thread in `submit`, a coroutine in `asubmit`, the inputs of a `map`."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock import clock
from penstock.job import Job
from penstock.pool.places import Places

if TYPE_CHECKING:
    import asyncio


class SubmitterInLine:
    """A thread that waits in `submit`. A wake may come without a place: ask `Places.leave` after it."""

    __slots__ = ("_lock",)
    submits = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def grant(self) -> bool:
        """There is a place: wake up."""
        self.nudge()
        return True

    def nudge(self) -> None:
        """The pool was closed or the caller's context tripped: wake up and see."""
        with contextlib.suppress(RuntimeError):  # released already
            self._lock.release()

    def sleep(self, deadline: float | None) -> None:
        """Block the calling thread until it is woken or *deadline* has come."""
        left = clock.remaining(deadline)
        self._lock.acquire(timeout=-1 if left is None else left)


class CoroutineInLine:
    """A coroutine that waits in `asubmit`, on the loop that made this. A wake may come without a place, too."""

    __slots__ = ("_loop", "_thread", "_woken")
    submits = False  # its loop may be busy for long

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._woken: asyncio.Future[None] = loop.create_future()

    def grant(self) -> bool:
        """There is a place: wake up."""
        self.nudge()
        return True

    def nudge(self) -> None:
        """The pool was closed or the caller's context tripped: wake up and see."""
        # If the loop was closed, the coroutine will not wake; it gives a place that it has back when it is destroyed.
        with contextlib.suppress(RuntimeError):
            if threading.get_ident() == self._thread:
                self._wake()
            else:
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def sleep(self, deadline: float | None) -> None:
        """Wait until woken or *deadline* has come."""
        if deadline is None:
            await self._woken
            return
        import asyncio

        await asyncio.wait([self._woken], timeout=clock.remaining(deadline))


class Line:
    """The accepted jobs of one `map` that found no place; each moves up when one becomes free.

    It stands in the line of `places` while it has jobs, so that it takes its turn among submitters. Jobs may be added
    while it moves up: who adds looks afterwards whether it stands there, and it looks for jobs after it has left. To
    stand there twice does no harm: a place that it has no job for goes on to the next.
    """

    __slots__ = ("_places", "_put", "_stands", "jobs")
    submits = False

    def __init__(self, places: Places, put: Callable[[Job[Any]], None]) -> None:
        self._places = places
        self._put = put
        self._stands = False  # in the line of `places`
        self.jobs: deque[Job[Any]] = deque()

    def line_up(self) -> None:
        """Stand in the line of `places`, unless it does."""
        if not self._stands:
            self._stands = True
            self._places.wait(self)

    def grant(self) -> bool:
        """A place for the first job; and more, as long as nobody else wants them. False if there was none."""
        used = self._move_one_up()
        while used and self.jobs and self._places.take():
            if not self._move_one_up():
                self._places.give()
        self._stands = False
        if self.jobs:
            self.line_up()
        return used

    def _move_one_up(self) -> bool:
        try:
            job = self.jobs.popleft()
        except IndexError:
            return False
        self._put(job)
        return True

    def nudge(self) -> None:
        """Nothing to see: its jobs are accepted, and wait on."""

    def take_out(self, job: Job[Any]) -> bool:
        """Take *job* out of the line; False if it isn't in it."""
        try:
            self.jobs.remove(job)
        except ValueError:
            return False
        return True

    def take_all(self) -> list[Job[Any]]:
        """Take all jobs out."""
        taken = []
        while True:
            try:
                taken.append(self.jobs.popleft())
            except IndexError:
                return taken
