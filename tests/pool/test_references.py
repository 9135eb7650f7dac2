"""What is let go, and when: arguments, results, jobs, pools and their threads."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import Job, Retry, ThreadPool, current_context, current_job
from penstock.events import JobEnded
from tests.gates import GUARD, Gate
from tests.pool.watching import Seen, held_pool


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """A log record of a failure holds its traceback, whose frames hold the arguments; and pytest keeps all records."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What goes away here goes because nobody holds it, not because the collector found a cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Thing:
    """Something that can be watched."""


class Fault(Exception):
    """An error that can be watched."""


class Watched:
    """A Thing that is watched: `wait_gone` returns once nobody holds it."""

    def __init__(self, thing: object) -> None:
        self._gone = threading.Event()
        self._ref = weakref.ref(thing, lambda _: self._gone.set())

    def wait_gone(self) -> None:
        if not self._gone.wait(GUARD):
            holders = [type(holder).__name__ for holder in gc.get_referrers(self._ref())]
            raise AssertionError(f"it is held by {holders}")


def fail(*_args: object, **_kwargs: object) -> None:
    raise Fault


def rest(*_args: object) -> None:
    current_context().sleep(GUARD)


# Arguments and results


@pytest.mark.parametrize("options", [{}, {"timeout": 60}, {"retry": Retry(2, wait=0)}], ids=str)
@pytest.mark.parametrize("fn", [lambda *_args, **_kwargs: None, fail], ids=["returns", "raises"])
def test_a_finished_job_keeps_nothing_of_its_arguments(fn: Callable[..., Any], options: dict[str, Any]) -> None:
    thing, keyword = Thing(), Thing()
    watched = [Watched(thing), Watched(keyword)]

    with ThreadPool(1) as pool:
        job = pool.options(**options).submit(fn, thing, key=keyword)
        del thing, keyword
        error = job.exception(GUARD)
        if error is not None:
            error.__traceback__ = None  # its frames have the arguments: those are the error's, not the job's
        for one in watched:
            one.wait_gone()
        assert job.done()


def test_a_finished_job_keeps_nothing_of_its_function() -> None:
    thing = Thing()
    watched = Watched(thing)

    with ThreadPool(1) as pool:
        job = pool.submit(functools.partial(id, thing))
        del thing
        job.result(GUARD)

        watched.wait_gone()
        assert job.name == "id"


def test_a_job_that_never_ran_keeps_nothing_of_its_arguments() -> None:
    thing = Thing()
    watched = Watched(thing)

    with held_pool() as (pool, _gate):
        job = pool.submit(id, thing)
        del thing
        job.cancel()

        watched.wait_gone()
        assert job.cancelled()


def test_a_result_is_held_by_its_job_alone() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(Thing)
        watched = Watched(job.result(GUARD))

        assert job.result(0) is job.result(0)
        del job
        watched.wait_gone()


def test_the_result_of_a_job_whose_handle_nobody_keeps_is_not_kept() -> None:
    made: list[Watched] = []

    def make() -> Thing:
        thing = Thing()
        made.append(Watched(thing))
        return thing

    with ThreadPool(1) as pool:
        seen = Seen(pool)
        pool.submit(make)
        seen.wait_for(JobEnded)

        made[0].wait_gone()


def test_a_job_is_held_by_nobody_once_it_has_ended() -> None:
    with ThreadPool(2) as pool:
        view = pool.options(timeout=60)
        for fn in (int, fail):
            watched = [Watched(pool.submit(fn)), Watched(view.submit(fn))]

            for one in watched:
                one.wait_gone()


def test_a_job_that_somebody_waited_for_is_held_by_nobody_afterwards() -> None:
    with ThreadPool(1) as pool:
        job = pool.submit(fail)
        watched = Watched(job)
        with pytest.raises(Fault):
            job.result(GUARD)
        del job

        watched.wait_gone()


def test_a_context_that_somebody_asked_for_does_not_hold_its_job() -> None:
    with ThreadPool(1) as pool:
        job = pool.options(timeout=60).submit(int)
        context = job.context
        watched = Watched(job)
        job.result(GUARD)
        del job

        watched.wait_gone()
        assert not context.cancelled


def test_an_error_in_a_job_makes_no_cycle() -> None:
    def fail_with(thing: Thing) -> None:
        raise ValueError("it", id(thing))

    thing = Thing()
    watched = Watched(thing)
    with ThreadPool(1) as pool:
        job = pool.submit(fail_with, thing)
        del thing
        assert job.exception(GUARD) is not None

        del job
        watched.wait_gone()


def test_a_job_whose_time_is_over_makes_no_cycle() -> None:
    thing = Thing()
    watched = Watched(thing)
    with ThreadPool(1) as pool:
        job = pool.options(timeout=0.05).submit(rest, thing)
        del thing
        assert job.exception(GUARD) is not None

        del job
        watched.wait_gone()


def test_a_job_that_was_cancelled_as_it_ran_makes_no_cycle() -> None:
    began = threading.Event()

    def begin_and_rest(_thing: Thing) -> None:
        began.set()
        rest()

    thing = Thing()
    watched = Watched(thing)
    with ThreadPool(1) as pool:
        job = pool.submit(begin_and_rest, thing)
        del thing
        assert began.wait(GUARD)
        job.cancel()
        assert job.exception(GUARD) is not None

        del job
        watched.wait_gone()


def test_a_chain_of_jobs_that_each_submit_the_next_does_not_grow() -> None:
    contexts: list[weakref.ref[Any]] = []
    ended = threading.Event()

    def link(n: int) -> None:
        contexts.append(weakref.ref(current_context()))
        if n:
            pool.submit(link, n - 1)
        else:
            ended.set()

    with ThreadPool(1) as pool:
        pool.submit(link, 200)
        assert ended.wait(GUARD)
        pool.submit(int).result(GUARD)
        alive = sum(context() is not None for context in contexts)

    assert alive < 20


def test_an_idle_worker_holds_nothing_of_its_last_job() -> None:
    with ThreadPool(1) as pool:
        thing = Thing()
        watched = Watched(thing)
        pool.submit(lambda given: given, thing)
        del thing

        watched.wait_gone()
        assert pool.stats().workers == 1


def test_a_retry_holds_the_arguments_until_the_last_attempt_and_no_longer() -> None:
    gate = Gate()

    def fail_then_hold(thing: Thing) -> None:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError
        gate()

    thing = Thing()
    watched = Watched(thing)
    with ThreadPool(1, retry=Retry(2, wait=0)) as pool:
        job = pool.submit(fail_then_hold, thing)
        del thing
        gate.wait_entered()
        assert watched._ref() is not None
        gate.open()
        job.result(GUARD)

        watched.wait_gone()


def test_the_failures_of_a_pool_keep_no_job_and_no_error() -> None:
    with ThreadPool(1) as pool:
        error = pool.submit(fail).exception(GUARD)
        watched = Watched(error)
        del error

        watched.wait_gone()
        assert pool.failures.total == 1


# Pools


def test_a_pool_that_is_forgotten_runs_what_it_accepted_and_its_threads_end() -> None:
    gate = Gate()
    pool = ThreadPool(2, thread_name_prefix="forgotten")
    held = [pool.submit(gate, number) for number in range(2)]
    gate.wait_entered(2)
    jobs = [pool.submit(abs, -number) for number in range(20)]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("forgotten_")]
    watched = Watched(pool)

    del pool
    watched.wait_gone()
    assert not any(job.done() for job in [*held, *jobs])
    gate.open()

    assert [job.result(GUARD) for job in jobs] == list(range(20))
    assert [job.result(GUARD) for job in held] == [0, 1]
    assert len(threads) == 2
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()


def test_a_forgotten_pool_without_jobs_ends_its_idle_threads() -> None:
    pool = ThreadPool(3, thread_name_prefix="idle").start()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("idle_")]
    assert len(threads) == 3

    del pool

    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()


def test_a_forgotten_pool_makes_the_attempts_to_come() -> None:
    def fail_once() -> int:
        job = current_job()
        assert job is not None
        if job.attempt == 1:
            raise ValueError
        return job.attempt

    job = ThreadPool(1, retry=Retry(2, wait=0.05)).submit(fail_once)

    assert job.result(GUARD) == 2


def test_a_map_holds_no_pool_but_runs_to_its_end() -> None:
    pool = ThreadPool(1, backlog=1)
    watched = Watched(pool)
    results = pool.map(abs, range(-10, 0))
    del pool
    watched.wait_gone()

    assert list(results) == list(range(10, 0, -1))


def test_a_job_does_not_hold_its_pool() -> None:
    pool = ThreadPool(1)
    job = pool.submit(abs, -1)
    watched = Watched(pool)
    del pool

    watched.wait_gone()
    assert job.result(GUARD) == 1


def test_a_pool_that_was_left_is_held_by_nobody() -> None:
    with ThreadPool(1) as pool:
        pool.submit(int)
    watched = Watched(pool)
    del pool

    watched.wait_gone()


def test_a_waiting_job_is_small() -> None:
    with held_pool(backlog=10_000) as (pool, _gate):
        job = pool.submit(abs, -1)
        parts: list[object] = [job, job._args, job._cv]

        assert sum(sys.getsizeof(part) for part in parts) < 800
        assert isinstance(job, Job)
