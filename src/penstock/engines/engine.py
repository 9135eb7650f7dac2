"""What a store of durable jobs has to do: the interface of all engines.

    caller ──request──> Store ──(group commit)──> Engine.transact ──> memory | SQLite | PostgreSQL
                                                  Engine.find
                                                  Engine.wait   <── a hint that there may be something to do

An engine knows nothing of functions, retries, signatures or processes. It keeps jobs, gives each to one worker at a
time, and refuses whoever is not (any more) the one. It has its own clock, which all who share the store agree on.

What every engine promises, and the one suite of tests/engines checks:
  1. What `transact` answered is durable, all of it or (if it raised) nothing; `OutcomeUnknown` alone leaves it open.
  2. A job is claimed by one worker at a time; each claim has a higher token than the one before.
  3. Settle and Progress with a token that isn't the current one change nothing, and say so.
  4. A worker's jobs are taken back only by a Sweep: of a death that was seen, or after its lease ran out while the
     store was up. Until then renew and settle succeed, also after the lease's end.
  5. Counts equal the rows; accepted = waiting + running + ended, for as long as ended ones are kept.
  6. A request that can't be done fails alone: the others of its `transact` are done.
  7. What an `OutcomeUnknown` left open is decided by the time the next `transact` of the same engine has answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from penstock.engines.bell import Bell
from penstock.engines.records import Query
from penstock.engines.requests import Reply, Request

T = TypeVar("T")


class Joined(Protocol):
    """The way to do requests as a part of a transaction that is somebody else's: `Put` and `Settle`, and no others.

    What is done is done if and only if that transaction is committed, and nobody else sees it before. An error of the
    database comes as it is: the transaction is its owner's, to end as well.
    """

    def transact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """As `Engine.transact`, within that transaction. TypeError if its connection is one for coroutines."""
        ...

    async def atransact(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """As `transact`, for coroutines. TypeError if its connection would block the loop."""
        ...


class Engine(Protocol):
    """A store of durable jobs. `transact` is called by one thread at a time, all else by any.

    Made with a URL and, for tests, `now`: the clock to use in place of its own.

    Calls raise `StoreUnavailable` if the store can't be reached or is too busy within *within* seconds (nothing was
    changed), `OutcomeUnknown` if the answer to a commit never came, and `StoreInvalid` if it is no store of ours.
    """

    url: str
    """Where it is, for people: without a password."""

    in_caller: bool
    """Whether `transact` may be called on the thread of whoever asks, when nobody else does.

    It keeps to *within* by itself then; and should a signal's handler raise in the middle of it, the next `transact`
    finds all in order: what was interrupted is done or not, and nothing of this engine is left in others' way by then.
    """

    def open(self, within: float = 10.0, *, create: bool = True) -> None:
        """Make or migrate the store if need be, and check that it is one. Safe to repeat.

        *create* False: one that isn't there is not made, but a `StoreUnavailable`.
        """
        ...

    def transact(self, requests: Sequence[Request], within: float = 10.0) -> list[Reply | Exception]:
        """Do all of *requests* in one step, in their order, durable when this returns; the answer to each.

        One that is refused for what it is, whatever the state of the store (see `checks`), has a TypeError or
        ValueError in place of its answer, and nothing of it is done.
        """
        ...

    def find(self, query: Query[T], within: float = 10.0) -> T:
        """The answer to *query*, as things stood at one moment."""
        ...

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news, the bell is rung, or *timeout* seconds have passed.

        News: jobs that became ready, ended or were cancelled. A hint, never relied upon: it may wake for nothing, and
        may miss what another process did for up to a second (ten, where a network lies between and has just failed).
        What came since the last wait with the same bell wakes at once, so that nobody sleeps through what came after he
        looked; the first wait with a bell returns at once.
        """
        ...

    def join(self, connection: object) -> Joined:
        """The way into the transaction that is open on *connection*, a connection of the caller's own to the database.

        TypeError if it is nothing of that kind; ValueError if no transaction could hold both. Asks the database
        nothing.
        """
        ...

    def close(self) -> None:
        """Let go of the store. Safe to repeat. What was answered stays."""
        ...


@runtime_checkable
class Migrating(Protocol):
    """What an engine also has whose store may be made and migrated by somebody else than those who use it."""

    def migrate(self, role: str | None = None, within: float = 600.0) -> tuple[int, int]:
        """Make or migrate the store: the version that it had, 0 for none, and the one that it has.

        *role*: who gets the rights to use it, and no more.
        """
        ...

    def script(self, role: str | None = None, within: float = 10.0) -> str:
        """What `migrate` would do to the store as it is now, for people who do it themselves; empty if nothing."""
        ...
