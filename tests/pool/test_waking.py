"""A woken worker may leave it to a submitter in line to wake the next; nobody leaves that line without doing so."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from penstock import BacklogFull, Context, Job, ThreadPool, clock
from penstock.job import new_job
from penstock.pool.places import Places
from tests.gates import GUARD, Gate, in_thread
from tests.pool.watching import Full, full_pool, until


def waiting_unnoticed(pool: ThreadPool) -> Job[int]:
    """A job that waits in *pool* although its worker sleeps, as when that was left to the next in line."""
    ledger, backlog = pool._crew.ledger, pool._crew.backlog
    assert backlog.places.take()
    cv = contextvars.copy_context()
    job: Job[int] = new_job(pool._terms, next(ledger.numbers), len, ("four",), {}, cv, clock.monotonic())
    backlog.queue.append(job)
    return job


def idle_pool(**options: Any) -> ThreadPool:
    """A pool of one worker, which sleeps, and one place."""
    pool = ThreadPool(1, backlog=1, **options).start()
    until(lambda: pool._crew.staff.idle)
    return pool


def test_who_gives_up_waiting_for_a_place_wakes_a_worker_for_those_that_wait() -> None:
    with idle_pool(submit_timeout=0) as pool:
        job = waiting_unnoticed(pool)

        with pytest.raises(BacklogFull):
            pool.submit(int)

        assert job.result(GUARD) == 4


def test_a_coroutine_that_is_cancelled_in_the_line_wakes_a_worker_too() -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.asubmit(int), 0.01)

    with idle_pool() as pool:
        job = waiting_unnoticed(pool)
        asyncio.run(give_up())

        assert job.result(GUARD) == 4


def test_who_is_interrupted_with_a_place_in_hand_wakes_a_worker_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Context:
        raise KeyboardInterrupt

    with ThreadPool(1, backlog=2).start() as pool:
        until(lambda: pool._crew.staff.idle)
        job = waiting_unnoticed(pool)
        with monkeypatch.context() as patch:
            patch.setattr("penstock.pool.intake.copy_context", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(int)

        assert job.result(GUARD) == 4


def test_only_a_thread_at_the_head_of_the_line_is_trusted_to_wake_the_next_worker() -> None:
    assert not Places(1).next_one_submits()

    with full_pool() as full:
        waiting = in_thread(full.pool.submit, int)
        full.line.wait_for_one_more()
        assert full.pool._crew.backlog.places.next_one_submits()
        full.gate.open()
        waiting.result(GUARD)

    async def wait_for_a_place(full: Full) -> None:
        waiting = asyncio.ensure_future(full.pool.asubmit(int))
        await asyncio.to_thread(full.line.wait_for_one_more)
        assert not full.pool._crew.backlog.places.next_one_submits()
        full.gate.open()
        await (await waiting)

    with full_pool() as full:
        asyncio.run(wait_for_a_place(full))


@pytest.mark.parametrize("workers", [2, 4])
def test_a_burst_from_a_submitter_that_had_to_wait_finds_every_worker(workers: int) -> None:
    gates = [Gate() for _ in range(workers)]
    with ThreadPool(workers, backlog=1).start() as pool:
        until(lambda: len(pool._crew.staff.idle) == workers)
        submitting = in_thread(lambda: [pool.submit(gate) for gate in gates])

        for gate in gates:
            gate.wait_entered()

        assert len(submitting.result(GUARD)) == workers
        for gate in gates:
            gate.open()
