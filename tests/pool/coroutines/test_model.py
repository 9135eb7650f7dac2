"""A pool of coroutines against a model of it, through random lives: whatever the order of events, the two agree.

Each job stays until it is told how to end, and swallows cancellations until then, so that each step has one outcome.
Between two steps the loop has its turns. The stops come from this thread or another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock import AsyncPool, BacklogFull, Context, Job, JobAbandoned, JobCancelled, JobState, PoolClosed, Retry
from penstock.lifecycle import Phase
from penstock.pool.ladder import Stop
from tests.gates import GUARD, in_thread
from tests.pool.coroutines.looping import Oops, new_loop, turns

READY, RUNNING, SCHEDULED = JobState.READY, JobState.RUNNING, JobState.SCHEDULED
DONE, FAILED, CANCELLED, ABANDONED = JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.ABANDONED
FINAL = (DONE, FAILED, CANCELLED, ABANDONED)


class Held:
    """The function of one job: stays until it is told how to end, whatever cancels it."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.inside = 0
        self._told: asyncio.Future[Callable[[], Any]] | None = None

    async def __call__(self) -> Any:
        self.calls += 1
        self.inside += 1
        self._told = asyncio.get_running_loop().create_future()
        try:
            while True:
                try:
                    await asyncio.wait([self._told])
                except asyncio.CancelledError:
                    self.cancelled += 1
                else:
                    return self._told.result()()
        finally:
            self.inside -= 1

    def end(self, how: Callable[[], Any]) -> None:
        if self._told is not None and not self._told.done():
            self._told.set_result(how)


async def hold(held: Held) -> Any:
    """As a plain function, which the pool knows again at its next call."""
    return await held()


@dataclass(eq=False)
class Model:
    """The model of a job."""

    held: Held
    tree: Tree | None
    retries: bool
    job: Job[Any]
    state: JobState = READY
    cause: str = ""  # what tripped its context first
    error: type[BaseException] | None = None
    attempts: int = 0
    history: list[JobState] = field(default_factory=list)

    def trip(self, cause: str) -> None:
        self.cause = self.cause or cause

    def move(self, state: JobState, error: type[BaseException] | None = None) -> None:
        self.state, self.error = state, error


@dataclass(eq=False)
class Tree:
    """The model of a context, with nothing above it."""

    context: Context
    tripped: bool = False


def fail() -> None:
    raise Oops


def obey() -> None:
    raise asyncio.CancelledError


class PoolMachine(RuleBasedStateMachine):
    """Random lives of one pool: each rule does one thing to the pool, and to the model what should come of it."""

    trees: Bundle[Tree] = Bundle("trees")

    @initialize(workers=st.integers(1, 3), backlog=st.integers(1, 4), calm=st.integers(0, 12), eager=st.booleans())
    def start(self, workers: int, backlog: int, calm: int, eager: bool) -> None:
        self.loop = new_loop()
        self.calm = calm  # steps until something may close the pool, or most lives would be short
        self.workers, self.backlog = workers, backlog
        self.pool = AsyncPool(workers, backlog=backlog, when_full="reject", grace=0, unobserved="ignore")
        self.run(self.pool.start())
        self.pool._crew.staff.starts_eagerly &= eager
        self.jobs: list[Model] = []
        self.queue: list[Model] = []
        self.cut = 0
        self.phase = Phase.OPEN

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        async def with_turns() -> Any:
            try:
                return await step
            finally:
                await turns(8)

        return self.loop.run_until_complete(asyncio.wait_for(with_turns(), GUARD))

    def having(self, state: JobState) -> list[Model]:
        return [model for model in self.jobs if model.state is state]

    def pick(self, state: JobState, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.having(state)))

    def proceed(self) -> None:
        """What follows from a change: free slots take what waits."""
        while self.queue and len(self.having(RUNNING)) < self.workers and self.phase < Phase.CANCELLING:
            model = self.queue.pop(0)
            model.attempts += 1
            model.move(RUNNING)

    # Submitting

    @rule(target=trees)
    def make_context(self) -> Tree:
        return Tree(Context(parent=None))

    @rule(tree=st.none() | trees, kinds=st.lists(st.booleans(), min_size=1, max_size=4))
    def submit_some(self, tree: Tree | None, kinds: list[bool]) -> None:
        for retries in kinds:
            self.submit(tree, retries)

    def submit(self, tree: Tree | None, retries: bool) -> None:
        held = Held()
        view: Any = self.pool
        if tree is not None or retries:
            view = self.pool.options(
                context=None if tree is None else tree.context,
                retry=Retry(3, on=(Oops,), wait=3600) if retries else None,
            )
        if self.phase is not Phase.OPEN:
            with pytest.raises(PoolClosed):
                self.run(view.asubmit(hold, held))
            return
        if len(self.queue) == self.backlog and len(self.having(RUNNING)) == self.workers:
            with pytest.raises(BacklogFull):
                self.run(view.asubmit(hold, held))
            return
        model = Model(held, tree, retries, self.run(view.asubmit(hold, held)))
        self.jobs.append(model)
        if tree is not None and tree.tripped:
            model.trip("tree")
            model.move(CANCELLED, JobCancelled)
        else:
            self.queue.append(model)
            self.proceed()

    # Ending a job that runs

    def end(self, model: Model, how: Callable[[], Any], state: JobState, error: type[BaseException] | None) -> None:
        async def tell() -> None:
            model.held.end(how)

        model.move(state, error)
        self.run(tell())
        self.proceed()

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.end(self.pick(RUNNING, data), lambda: "result", DONE, None)

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        model = self.pick(RUNNING, data)
        again = model.retries and not model.cause and model.attempts < 3 and self.phase < Phase.CANCELLING
        self.end(model, fail, SCHEDULED if again else FAILED, Oops)

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def leaves_by_cancellation(self, data: st.DataObject) -> None:
        model = self.pick(RUNNING, data)
        self.cut += model.cause == "stop"
        self.end(model, obey, CANCELLED, JobCancelled)

    # Cancelling

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), elsewhere=st.booleans())
    def cancel_a_job(self, data: st.DataObject, elsewhere: bool) -> None:
        model = data.draw(st.sampled_from(self.jobs))
        waits = model.state in (READY, SCHEDULED)
        before_it_began = model.state is CANCELLED and model.job.cancelled()

        async def cancel() -> bool:
            if elsewhere:
                return await asyncio.wrap_future(in_thread(model.job.cancel))
            return model.job.cancel()

        assert self.run(cancel()) is (waits or before_it_began)
        if waits:
            model.move(CANCELLED, JobCancelled)
            if model in self.queue:
                self.queue.remove(model)
        elif model.state is RUNNING:
            model.trip("hand")
        self.proceed()

    @rule(tree=trees)
    def cancel_a_context(self, tree: Tree) -> None:
        async def cancel() -> bool:
            return tree.context.cancel()

        assert self.run(cancel()) is not tree.tripped
        tree.tripped = True
        for model in self.jobs:
            if model.tree is tree:
                model.trip("tree")
                if model.state in (READY, SCHEDULED):
                    model.move(CANCELLED, JobCancelled)
                    if model in self.queue:
                        self.queue.remove(model)
        self.proceed()

    # Stopping

    def restless(self) -> bool:
        return self.calm <= 0

    @precondition(restless)
    @rule()
    def close(self) -> None:
        self.pool.close()
        self.phase = max(self.phase, Phase.DRAINING)

    @precondition(restless)
    @rule()
    def shut_down_and_cancel_what_waits(self) -> None:
        self.run(self.pool.shutdown(wait=False, cancel_futures=True))
        self.phase = max(self.phase, Phase.DRAINING)
        for model in self.having(READY) + self.having(SCHEDULED):
            model.move(CANCELLED, JobCancelled)
        self.queue.clear()

    def cut_waiting(self) -> None:
        for model in self.having(READY):
            model.move(CANCELLED, JobCancelled)
            self.cut += 1
        for model in self.having(SCHEDULED):
            model.move(FAILED, Oops)
            self.cut += 1
        self.queue.clear()

    @precondition(restless)
    @rule(elsewhere=st.booleans())
    def hurry_a_stop(self, elsewhere: bool) -> None:
        async def hurry() -> None:
            stop = Stop([self.pool._crew], GUARD)
            if elsewhere:
                await asyncio.wrap_future(in_thread(stop.hurry))
            else:
                stop.hurry()

        self.run(hurry())
        if self.phase < Phase.CANCELLING:
            self.cut_waiting()
            for model in self.having(RUNNING):
                model.trip("stop")
        self.phase = max(self.phase, Phase.CANCELLING)

    @precondition(restless)
    @rule()
    def stop_at_once(self) -> None:
        report = self.run(self.pool.shutdown(timeout=0))
        self.cut_waiting()
        for model in self.having(RUNNING):
            model.move(ABANDONED, JobAbandoned)
            self.cut += 1
        self.phase = max(self.phase, Phase.LEAVING)
        assert report.closed

    @precondition(lambda self: self.phase >= Phase.DRAINING and not self.unfinished())
    @rule()
    def wait(self) -> None:
        report = self.run(self.pool.wait())
        assert report.balanced
        assert (report.cut, report.ok) == (self.cut, self.cut == 0 and not report.stuck)

    def unfinished(self) -> list[Model]:
        return [model for model in self.jobs if model.state not in FINAL]

    # What must always hold

    @invariant()
    def time_goes_on(self) -> None:
        self.calm -= 1

    @invariant()
    def the_pool_is_as_the_model_says(self) -> None:
        report, stats, staff = self.pool.report, self.pool.stats(), self.pool._crew.staff
        counts = {state: len(self.having(state)) for state in JobState}
        assert report.accepted == len(self.jobs)
        assert (report.waiting, report.running, report.retrying) == (
            (counts[READY], counts[RUNNING], counts[SCHEDULED])
        )
        assert (report.done, report.failed, report.cancelled, report.killed, report.abandoned) == (
            (counts[DONE], counts[FAILED], counts[CANCELLED], 0, counts[ABANDONED])
        )
        assert (stats.queued, stats.running, stats.done) == (counts[READY], counts[RUNNING], counts[DONE])
        assert report.waiting <= self.backlog
        assert report.cut == self.cut
        assert staff.busy == counts[RUNNING] + len(report.stuck)
        assert staff.busy <= staff.capacity == self.workers
        assert len(self.pool._crew.backlog.places.free) == self.backlog - report.waiting
        if report.closing and not self.unfinished():
            assert self.pool._crew.lifecycle.wait_for(Phase.CLOSED, GUARD), "nothing is left, and it isn't closed"
        else:
            assert not report.closed

    @invariant()
    def each_job_is_as_the_model_says(self) -> None:
        for model in self.jobs:
            job, state, held = model.job, model.state, model.held
            assert job.state is state
            assert job.attempt == held.calls == model.attempts
            assert held.inside == (state in (RUNNING, ABANDONED))
            if state is RUNNING:
                assert (held.cancelled > 0) is bool(model.cause)
            if state in FINAL and not job.cancelled():
                assert type(job.exception(0)) is (model.error or type(None))
            model.history.append(state)
            final = [state for state in model.history if state in FINAL]
            assert len(set(final)) <= 1, "an outcome never changes"

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        report = self.run(self.pool.shutdown(timeout=0))
        assert report.balanced

        async def let_go() -> None:
            for model in self.jobs:
                model.held.end(lambda: None)

        self.run(let_go())
        assert not self.pool.report.stuck
        assert not asyncio.all_tasks(self.loop), "it leaves no task behind"
        self.loop.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Thousands of lives would say thousands of things."""
    log = logging.getLogger("penstock")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(before)


@pytest.mark.usefixtures("quiet")
def test_a_pool_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
