"""A pool of coroutines from the inside: what it adds to `Crew`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from penstock.context import scope
from penstock.job import Job
from penstock.lifecycle import Phase
from penstock.pool.coroutines.attempts import TaskAttempts
from penstock.pool.coroutines.door import Door
from penstock.pool.coroutines.home import Home
from penstock.pool.coroutines.slots import Slots
from penstock.pool.crew import Crew
from penstock.pool.ladder import cancel, leave
from penstock.pool.terms import PoolSettings, check_count, check_length

AroundCoroutine = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

_at_home: Final[set[CoroutineCrew]] = set()
"""Those that have a loop and are not closed: asyncio holds tasks weakly, and a forgotten pool still runs its jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoroutineSettings(PoolSettings):
    """How a pool of coroutines was asked to be."""

    around_each: AroundCoroutine | None
    max_stuck: int
    max_lent: int

    def check(self) -> None:
        """TypeError or ValueError that names what is wrong."""
        PoolSettings.check(self)
        for name in ("max_stuck", "max_lent"):
            check_count(name, getattr(self, name), least=0)
        check_length("stuck_after", self.margin)
        around = self.around_each
        if around is not None and not callable(around):
            raise TypeError(f"around must be a callable that gives a context manager for each job, not {around!r}")


class CoroutineCrew(Crew):
    """The inside of one pool of coroutines.

    What is shared with other kinds (rooms, ledger, contexts) is safe from any thread, as it is there: who takes a job
    out of its room owns its next move. The rest is the loop's: see `Slots`.
    """

    settings: CoroutineSettings
    staff: Slots
    attempts: TaskAttempts
    intake: Door

    def __init__(self, settings: CoroutineSettings) -> None:
        self.home = Home()
        self.around: _Around | None = None
        if settings.around_each is not None:
            self.around = _Around(settings.around_each)
        super().__init__(settings)
        self.staff.open()
        self.intake = Door(self)

    def _hire(self) -> tuple[Slots, TaskAttempts]:
        return Slots(self), TaskAttempts(self)

    def settle_in(self) -> None:
        """Make the running loop the pool's, if it has none; RuntimeError if it has another one."""
        is_new = self.home.loop is None
        self.home.settle(self.name)
        if is_new and self.home.loop is not None:
            self.staff.settle(self.home.loop)
            if not self.lifecycle.closing:
                _at_home.add(self)

    def let_go(self) -> None:
        """It is closed: nothing of it has to be held."""
        _at_home.discard(self)

    def heed(self, job: Job[Any]) -> None:
        """Its context was made just now: its task is to be cancelled when that trips."""
        self.attempts.listen(job)

    def close(self, why: str = "it was closed") -> None:
        """Take no more jobs. Accepted ones run on, if there is a loop for them."""
        super().close(why)
        if self.home.is_gone():
            cancel(self)
            leave(self)
        else:
            self.home.call(self.intake.stop_readers)

    def check_may_block(self) -> None:
        """RuntimeError if this thread must go on for the jobs to end; the pool is closed then."""
        if self.home.is_here() and self.lifecycle.phase is not Phase.CLOSED:
            self.close()
            raise RuntimeError(
                f"waiting here for the end of pool {self.name!r} would stop the event loop that runs its jobs; "
                "leave its own block first, or write `async with graceful(…)`"
            )


class _Around:
    """Runs a job inside of what the pool's `around` gives."""

    def __init__(self, around: AroundCoroutine) -> None:
        self._around = around

    async def __call__(self, job: Job[Any], fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        """What the job returns; None if what is around swallows its error."""
        scope.set(job)
        del job  # the frames of an error reach this one, and the job keeps its error: a cycle
        manager: Any = self._around()
        if hasattr(type(manager), "__aenter__"):
            async with manager:
                return await fn(*args)
        with manager:
            return await fn(*args)
