"""Many threads at once, switched as often as the interpreter can: whatever happens, the accounts balance.

Each round draws a pool, jobs, submitters, cancellers and stops from its own seed, which a failure prints;
`PENSTOCK_SEED=…` repeats that round (its choices, not the moments at which threads are switched) for the whole time.
`make test` shakes for a few seconds, `make stress` for longer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import (
    BacklogFull,
    Cancelled,
    Context,
    Job,
    JobState,
    PenstockError,
    PoolClosed,
    Report,
    Retry,
    ThreadPool,
    current_context,
    current_job,
    events,
)
from tests.gates import GUARD, in_thread

SECONDS = 2.0  # in `make test`
FULL_SECONDS = 16.0  # for each part in `make stress`, which has others to do and may take two minutes
FULL_PARTS = 3

FINAL = {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.ABANDONED}


class Oops(Exception):
    """What jobs raise that are meant to fail."""


class Runs:
    """Remembers which attempts of each job ran, and sees that none runs twice and no two at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: set[int] = set()
        self._attempts: dict[int, list[int]] = {}
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def of(self, job: Job[Any]) -> Iterator[None]:
        number = id(job)  # the round holds every handle
        with self._lock:
            if number in self._now:
                self.wrong.append(f"{job!r} runs twice at once")
            attempts = self._attempts.setdefault(number, [])
            if job.attempt in attempts:
                self.wrong.append(f"{job!r} runs attempt {job.attempt} again, after {attempts}")
            attempts.append(job.attempt)
            self._now.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._now.discard(number)

    def attempts(self, job: Job[Any]) -> list[int]:
        """Which attempts of *job* ran."""
        return self._attempts.get(id(job), [])


class Round:
    """One pool from its beginning to its end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        draw = self.draw = random.Random(seed)
        self.backlog = draw.randint(1, 20)
        self.pool = ThreadPool(
            draw.randint(1, 6),
            f"round{seed}",
            backlog=self.backlog,
            when_full=draw.choice([None, "block", "reject", "caller"]),
            submit_timeout=draw.choice([None, 0.001, 1.0]),
            stuck_after=GUARD,  # a job that overran comes back before, so that no attempt may run beside another
            unobserved="ignore",
            max_lent=draw.choice([0, 2, 100]),
            max_retrying=draw.choice([0, 3, 1000]),
        )
        self.runs = Runs()
        self.jobs: list[Job[Any]] = []  # appended by many threads
        self.mapped = 0  # accepted jobs whose handles `map` keeps; main thread only
        self.wrong: list[str] = []
        self.told: list[events.Event] = []
        if draw.random() < 0.3:
            self.pool.observe(self.told.append)
        self.enough = threading.Semaphore(0)  # released once for each accepted job

    # The jobs

    def quick(self, value: object) -> object:
        with self.this_run():
            return value

    def fails(self, times: int) -> str:
        with self.this_run() as job:
            if job.attempt <= times:
                raise Oops
            return "in the end"

    def rests(self) -> None:
        with self.this_run():
            current_context().sleep(GUARD)

    def spins(self) -> None:
        with self.this_run():
            patience = time.monotonic() + GUARD
            while time.monotonic() < patience:
                current_context().check()

    def nests(self, depth: int) -> object:
        with self.this_run():
            if not depth:
                return 0
            child = self.keep(self.pool.submit(self.nests, depth - 1))
            return child.result()

    @contextlib.contextmanager
    def this_run(self) -> Iterator[Job[Any]]:
        job = current_job()
        assert job is not None
        with self.runs.of(job):
            yield job

    # Those who use the pool

    def keep(self, job: Job[Any]) -> Job[Any]:
        self.jobs.append(job)
        self.enough.release()
        queued = len(self.pool._crew.backlog.queue)
        if queued > self.backlog:
            self.wrong.append(f"{queued} jobs in a backlog of {self.backlog}")
        return job

    def submit_some(self, seed: int, count: int) -> None:
        draw = random.Random(seed)
        own: list[Job[Any]] = []
        for n in range(count):
            try:
                own.append(self.keep(self.submit_one(draw, n)))
            except PoolClosed:
                return
            except (BacklogFull, Cancelled):
                continue
            if draw.random() < 0.2:
                draw.choice(own).cancel("by its submitter")

    def submit_one(self, draw: random.Random, n: int) -> Job[Any]:
        pool = self.pool
        soon = draw.choice([0.0005, 0.002, 0.01])
        submit: list[Callable[[], Job[Any]]] = [
            lambda: pool.submit(self.quick, n),
            lambda: pool.submit(self.fails, 1),
            lambda: pool.options(retry=Retry(3, on=(Oops,), wait=soon / 10)).submit(self.fails, draw.randint(0, 3)),
            lambda: pool.options(timeout=soon).submit(draw.choice([self.rests, self.spins])),
            lambda: pool.options(timeout=soon, retry=Retry(2, on=(PenstockError,), wait=0)).submit(self.rests),
            lambda: pool.options(context=Context(timeout=soon, parent=None)).submit(self.rests),
            lambda: pool.options(timeout=0.05).submit(self.nests, draw.randint(1, 3)),
        ]
        return draw.choice(submit)()

    def submit_within_contexts(self, seed: int, count: int) -> None:
        """Jobs under a common context, which is cancelled while they wait and run."""
        draw = random.Random(seed)
        for _ in range(count):
            # A deadline in any case: its jobs may fill the pool, and its own submit then waits for one of them to end.
            context = Context(timeout=draw.choice([0.1, 0.005]))
            try:
                with context:
                    for n in range(3):
                        self.keep(self.pool.submit(draw.choice([self.quick, lambda _: self.rests()]), n))
            except PoolClosed:
                return
            except (BacklogFull, PenstockError):
                pass  # the block's own deadline, or no place
            finally:
                context.cancel("with its context")

    def cancel_some(self, seed: int, over: threading.Event) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            if self.jobs:
                job = draw.choice(self.jobs)
                job.cancel("by a stranger")
                assert job.stack() is not None
            over.wait(0.0005)

    def wait_for_some(self, seed: int, over: threading.Event) -> None:
        """As users who wait for results. None may be left waiting when the pool has stopped."""
        draw = random.Random(seed)
        while not over.is_set():
            if self.jobs:
                with contextlib.suppress(Oops, PenstockError, RuntimeError):
                    draw.choice(self.jobs).result(GUARD)
            else:
                over.wait(0.0005)

    def look(self, over: threading.Event) -> None:
        while not over.is_set():
            report = self.pool.report
            if report.ended > report.accepted:
                self.wrong.append(f"more ended than were accepted: {report!r}")
            if report.closed and not report.balanced:
                self.wrong.append(f"closed, and the accounts do not balance: {report!r}")
            self.pool.stats()
            str(report)
            over.wait(0.0005)

    def stop(self, seed: int) -> Report:
        draw = random.Random(seed)
        kind = draw.randrange(6)
        if kind == 0:
            self.pool.close()
            return self.pool.wait(draw.choice([1.0, 0.01]))
        if kind == 1:
            self.pool.shutdown(wait=False, cancel_futures=True)
        if kind == 2:
            self.pool.shutdown(wait=False, timeout=0.05)
        return self.pool.shutdown(timeout=draw.choice([0, 0.001, 0.02, 0.5]), cancel_futures=draw.random() < 0.2)

    # The whole story

    def play(self) -> None:
        draw, over = self.draw, threading.Event()
        count = draw.randint(5, 40)
        users = [in_thread(self.submit_some, draw.randrange(10**9), count) for _ in range(draw.randint(1, 5))]
        if draw.random() < 0.5:
            users.append(in_thread(self.submit_within_contexts, draw.randrange(10**9), count // 3))
        others = [in_thread(self.look, over), in_thread(self.wait_for_some, draw.randrange(10**9), over)]
        if draw.random() < 0.7:
            others.append(in_thread(self.cancel_some, draw.randrange(10**9), over))
        self.map_some()
        for _ in range(draw.randint(0, 2 * count)):
            if not self.enough.acquire(timeout=0.02):
                break  # not all of them come: a full backlog refuses
        stops = [in_thread(self.stop, draw.randrange(10**9)) for _ in range(draw.randint(1, 3))]
        reports = [stop.result(2 * GUARD) for stop in stops]
        for user in users:
            user.result(2 * GUARD)
        over.set()
        for other in others:
            other.result(2 * GUARD)
        self.check(reports)

    def map_some(self) -> None:
        if self.draw.random() < 0.3:
            count = self.draw.randint(1, 50)
            with contextlib.suppress(PenstockError):
                results = self.pool.map(abs, range(count), buffersize=self.draw.choice([None, 3]))
                self.mapped = count
                for _ in range(self.draw.randint(0, count)):
                    next(results)
            self.mapped = -1  # how many were read can't be told from here

    def check(self, reports: list[Report]) -> None:
        patience = time.monotonic() + GUARD
        while workers := self.pool._crew.staff.workers():
            assert time.monotonic() < patience, f"still running: {[worker.name for worker in workers]}"
            for worker in workers:
                with contextlib.suppress(RuntimeError):  # just about to be started, by the timers: it leaves at once
                    if worker.thread is not None:
                        worker.thread.join(GUARD)
        report = self.pool.shutdown(timeout=GUARD)
        assert report.closed, report
        for early in (report, *reports):  # a stop may return while a job passes from one hand to the next
            assert early.balanced or not early.closed, early
        assert not report.stuck, report
        states = Counter(job.state for job in self.jobs)
        assert set(states) <= FINAL, states
        if not self.mapped:
            counted = report.done, report.failed, report.cancelled, report.abandoned
            assert counted == tuple(
                states[state] for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.ABANDONED)
            )
            assert report.accepted == len(self.jobs)
        for job in self.jobs:
            # One whose time ran out as it was about to begin has an attempt that did not run.
            attempts = self.runs.attempts(job)
            assert attempts == sorted(attempts), f"{job!r}: {attempts}"
            assert max(attempts, default=0) <= job.attempt, f"{job!r} ran after its end: {attempts}"
            if job.state is JobState.DONE:
                assert job.attempt in attempts, f"{job!r} never ran: {attempts}"
            assert in_time(job), f"whoever waits for {job!r} waits for ever"
        self.check_events(report)
        assert not self.wrong, "\n".join(self.wrong[:3])
        assert not self.runs.wrong, "\n".join(self.runs.wrong[:3])

    def check_events(self, report: Report) -> None:
        if not self.told:
            return
        patience = time.monotonic() + GUARD
        ended: Counter[object] = Counter()
        while time.monotonic() < patience:  # some are told on a thread of their own, and nobody says when
            ended = Counter(event.id for event in list(self.told) if isinstance(event, events.JobEnded))
            if len(ended) == report.accepted:
                break
            threading.Event().wait(0.001)
        accepted = Counter(event.id for event in self.told if isinstance(event, events.JobAccepted))
        assert ended == accepted
        assert set(ended.values()) <= {1}
        assert len(ended) == report.accepted


def in_time(job: Job[Any]) -> bool:
    try:
        job.exception(0)
    except TimeoutError:
        return False
    except PenstockError:
        pass
    return True


def shake(seconds: float) -> None:
    """Rounds of new seeds until *seconds* have passed."""
    end = time.monotonic() + seconds
    given = os.environ.get("PENSTOCK_SEED")
    rounds = 0
    while time.monotonic() < end:
        seed = int(given) if given else random.randrange(10**9)
        try:
            Round(seed).play()
        except BaseException:
            print(f"PENSTOCK_SEED={seed} (round {rounds})")
            raise
        rounds += 1
    print(f"{rounds} rounds in {seconds:.3g} s")


@pytest.fixture(autouse=True)
def shaken() -> Iterator[None]:
    """Threads are switched all the time, and the log holds its tongue: it would say a million things."""
    log = logging.getLogger("penstock")
    level, interval = log.level, sys.getswitchinterval()
    log.setLevel(logging.CRITICAL + 1)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    log.setLevel(level)


def test_a_few_seconds_of_everything_at_once_leave_the_accounts_balanced() -> None:
    shake(SECONDS)


@pytest.mark.stress
@pytest.mark.parametrize("part", range(1, FULL_PARTS + 1))
def test_everything_at_once_for_long_leaves_the_accounts_balanced(part: int) -> None:
    shake(FULL_SECONDS if os.environ.get("PENSTOCK_STRESS") == "full" else SECONDS)


@pytest.mark.stress
def test_a_pool_that_is_closed_while_many_submit_loses_nothing() -> None:
    for _ in range(200):
        pool, ran = ThreadPool(3, backlog=4), Counter[int]()

        def submit(pool: ThreadPool = pool, ran: Counter[int] = ran) -> int:
            count = 0
            try:
                for n in range(10_000):
                    pool.submit(ran.update, [n])
                    count += 1
            except PoolClosed:
                pass
            return count

        submitting = [in_thread(submit) for _ in range(4)]
        pool.submit(int).result(GUARD)
        pool.close()
        report = pool.wait()
        accepted = 1 + sum(count.result(GUARD) for count in submitting)

        assert (report.accepted, report.done) == (accepted, accepted)


@pytest.mark.stress
def test_pools_that_are_made_and_stopped_in_many_threads_leave_nothing() -> None:
    def live() -> None:
        for n in range(100):
            with ThreadPool(2) as pool:
                assert sum(pool.map(abs, range(n % 7))) == sum(range(n % 7))

    for living in [in_thread(live) for _ in range(6)]:
        living.result(6 * GUARD)
