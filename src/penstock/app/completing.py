"""A job that ends with its own transaction: what it wrote and that it is done are one commit."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from penstock.app.task import Task
from penstock.engines.requests import Outcome, Reply, Request, Settle, Settlement
from penstock.engines.store import Store, all_good
from penstock.errors import LeaseLost
from penstock.job import Job, current_job

R = TypeVar("R")


@overload
def complete(connection: object) -> None: ...
@overload
def complete(connection: object, result: R) -> R: ...
def complete(connection: object, result: object = None) -> object:
    """Let the running job be done, with *result*, if and only if the transaction open on *connection* is committed.

    Called in a task, as the last thing in its transaction; gives *result* back, which the task then returns. With it
    the effects of the task in that database happen exactly once, however often the job is run.

    *connection*: of psycopg, SQLAlchemy (a Session, too) or Django, to the database that has the jobs. Raises
    `LeaseLost` if the job is somebody else's by now: let it leave the transaction, so that nothing is written twice.
    If the transaction is rolled back the job is not done: should the task return all the same, it fails with
    `NotCommitted`. It may raise `Snooze` or `Discard` instead, as it may any error.

    In a function that is called plainly, or runs on a pool, there is nothing to complete: it does nothing.
    """
    job = current_job()
    if job is not None:
        job.complete(connection, result)
    return result


@overload
async def acomplete(connection: object) -> None: ...
@overload
async def acomplete(connection: object, result: R) -> R: ...
async def acomplete(connection: object, result: object = None) -> object:
    """As `complete`, for coroutines and their kind of connections."""
    job = current_job()
    if job is not None:
        await job.acomplete(connection, result)
    return result


class Completing:
    """The claim of a running job, as far as `complete` needs it. *seq* and *token* name it in *store*."""

    __slots__ = ()

    store: Store
    task: Task[Any, Any]
    seq: int
    token: int

    def completed(self) -> None:
        """It was settled within a transaction, which may be committed or not."""
        raise NotImplementedError

    def complete(self, job: Job[Any], connection: object, result: Any) -> None:
        """See `penstock.job.Claim`."""
        settle = self._settle(job, result)
        self._heed(job, self.store.join(connection).transact((settle,)))

    async def acomplete(self, job: Job[Any], connection: object, result: Any) -> None:
        """As `complete`, for coroutines."""
        settle = self._settle(job, result)
        self._heed(job, await self.store.join(connection).atransact((settle,)))

    def _settle(self, job: Job[Any], result: Any) -> Request:
        data = self.task.codec.encode_result(result)
        return Settle((Settlement(self.seq, self.token, Outcome.DONE, result=data, ran=job.ran or 0.0),))

    def _heed(self, job: Job[Any], answers: list[Reply | Exception]) -> None:
        if all_good(answers) != [[True]]:
            raise LeaseLost(job.label)
        self.completed()
