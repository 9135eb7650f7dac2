"""A pool against a model of it, through random lives: whatever the order of events, the two agree after each.

Every job is held at a gate of its own and told how to end, so that each step has one outcome. Where two threads could
both be first (the parts of `test_stopping` and `test_stress`), the model has no step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
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

from penstock import (
    BacklogFull,
    Context,
    Job,
    JobAbandoned,
    JobCancelled,
    JobState,
    PoolClosed,
    Retry,
    ThreadPool,
    current_context,
)
from penstock.lifecycle import Phase
from penstock.pool.ladder import Stop
from tests.gates import GUARD, in_thread

READY, RUNNING, SCHEDULED = JobState.READY, JobState.RUNNING, JobState.SCHEDULED
DONE, FAILED, CANCELLED, ABANDONED = JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.ABANDONED
FINAL = (DONE, FAILED, CANCELLED, ABANDONED)


class Oops(Exception):
    """What a job raises that was told to fail."""


class Held:
    """The function of one job: enters, waits to be told how to end, and ends so."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._ending: Callable[[], Any] | None = None
        self._told = threading.Semaphore(0)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        self.entered.release()
        assert self._told.acquire(timeout=GUARD), "nobody told the job how to end"
        assert self._ending is not None
        return self._ending()

    def end(self, how: Callable[[], Any]) -> None:
        self._ending = how
        self._told.release()


@dataclass(eq=False)
class Tree:
    """The model of a context: whether it is tripped, and what is below it."""

    context: Context
    parent: Tree | None
    own: bool = False

    @property
    def tripped(self) -> bool:
        return self.own or (self.parent is not None and self.parent.tripped)


@dataclass(eq=False)
class Model:
    """The model of a job."""

    held: Held
    tree: Tree | None
    retries: bool
    job: Job[Any]
    state: JobState = READY
    cause: str = ""  # what tripped its context first: "hand", "tree" or "stop"
    error: type[BaseException] | None = None
    attempts: int = 0
    history: list[JobState] = field(default_factory=list)

    @property
    def tripped(self) -> bool:
        return bool(self.cause)

    def trip(self, cause: str) -> None:
        self.cause = self.cause or cause

    def move(self, state: JobState, error: type[BaseException] | None = None) -> None:
        self.state = state
        self.error = error


def fail() -> None:
    raise Oops


def obey() -> None:
    current_context().check()
    raise AssertionError("the job's context was not tripped")


class PoolMachine(RuleBasedStateMachine):
    """Random lives of one pool: each rule does one thing to the pool, and to the model what should come of it."""

    trees: Bundle[Tree] = Bundle("trees")

    @initialize(workers=st.integers(1, 3), backlog=st.integers(1, 4), calm=st.integers(0, 12))
    def start(self, workers: int, backlog: int, calm: int) -> None:
        self.calm = calm  # steps until something may close the pool, or most lives would be short
        self.workers = workers
        self.backlog = backlog
        self.pool = ThreadPool(workers, backlog=backlog, when_full="reject", grace=0, unobserved="ignore")
        self.jobs: list[Model] = []
        self.queue: list[Model] = []
        self.cut = 0
        self.phase = Phase.OPEN

    def having(self, state: JobState) -> list[Model]:
        return [model for model in self.jobs if model.state is state]

    def pick(self, state: JobState, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.having(state)))

    # What follows from a change: free workers take what waits

    def proceed(self) -> None:
        while self.queue and len(self.having(RUNNING)) < self.workers and self.phase < Phase.CANCELLING:
            model = self.queue.pop(0)
            assert model.held.entered.acquire(timeout=GUARD), f"nobody runs {model.job}"
            model.attempts += 1
            model.move(RUNNING)

    def leave_queue(self, model: Model) -> None:
        if model in self.queue:
            self.queue.remove(model)

    # Submitting

    @rule(target=trees, parent=st.none() | trees)
    def make_context(self, parent: Tree | None) -> Tree:
        return Tree(Context(parent=None if parent is None else parent.context), parent)

    @rule(tree=st.none() | trees, kinds=st.lists(st.booleans(), min_size=1, max_size=4))
    def submit_some(self, tree: Tree | None, kinds: list[bool]) -> None:
        for retries in kinds:
            self.submit(tree, retries)

    def submit(self, tree: Tree | None, retries: bool) -> None:
        held = Held()
        view = self.pool.options(
            context=None if tree is None else tree.context, retry=Retry(3, on=(Oops,), wait=3600) if retries else None
        )
        if self.phase is not Phase.OPEN:
            with pytest.raises(PoolClosed):
                view.submit(held)
            return
        if len(self.queue) == self.backlog:
            with pytest.raises(BacklogFull):
                view.submit(held)
            return
        model = Model(held, tree, retries, view.submit(held))
        if tree is not None and tree.tripped:
            model.trip("tree")
        self.jobs.append(model)
        if model.tripped:
            with pytest.raises(JobCancelled):
                model.job.result(GUARD)
            model.move(CANCELLED, JobCancelled)
        else:
            self.queue.append(model)
            self.proceed()

    # Ending a job that runs

    def ended(self, model: Model) -> None:
        """Its worker is free again: wait for the job's end, and for who comes next."""
        if model.state is not SCHEDULED:
            assert model.job.exception(GUARD) is None or model.error is not None
        self.proceed()

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        model = self.pick(RUNNING, data)
        model.move(DONE)
        model.held.end(lambda: model)
        assert model.job.result(GUARD) is model
        self.ended(model)

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        model = self.pick(RUNNING, data)
        again = model.retries and not model.tripped and self.phase < Phase.CANCELLING
        if again:
            scheduled = threading.Event()
            put = self.pool._crew.backlog.put_retry

            def watched(job: Job[Any], delay: float) -> None:
                put(job, delay)
                scheduled.set()

            self.pool._crew.backlog.put_retry = watched  # type: ignore[method-assign]
            model.move(SCHEDULED, Oops)
            model.held.end(fail)
            assert scheduled.wait(GUARD)
            self.pool._crew.backlog.put_retry = put  # type: ignore[method-assign]
        else:
            model.move(FAILED, Oops)
            model.held.end(fail)
            assert isinstance(model.job.exception(GUARD), Oops)
        self.ended(model)

    @precondition(lambda self: any(model.tripped for model in self.having(RUNNING)))
    @rule(data=st.data())
    def obeys(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([model for model in self.having(RUNNING) if model.tripped]))
        model.move(CANCELLED, JobCancelled)
        self.cut += model.cause == "stop"
        model.held.end(obey)
        assert isinstance(model.job.exception(GUARD), JobCancelled)
        assert not model.job.cancelled(), "it had begun"
        self.ended(model)

    # Cancelling

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_a_job(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.jobs))
        waits = model.state in (READY, SCHEDULED)
        was_cancelled_before_it_began = model.state is CANCELLED and model.job.cancelled()
        assert model.job.cancel("by hand") is (waits or was_cancelled_before_it_began)
        if waits:
            model.move(CANCELLED, JobCancelled)
            self.leave_queue(model)
        elif model.state is RUNNING:
            model.trip("hand")
        self.proceed()

    @rule(tree=trees)
    def cancel_a_context(self, tree: Tree) -> None:
        assert tree.context.cancel() is not tree.tripped
        tree.own = True
        for model in self.jobs:
            if model.tree is not None and model.tree.tripped:
                model.trip("tree")
                if model.state in (READY, SCHEDULED):
                    model.move(CANCELLED, JobCancelled)
                    self.leave_queue(model)
        self.proceed()

    # Stopping

    def restless(self) -> bool:
        return self.calm <= 0

    def closes(self, phase: Phase) -> None:
        self.phase = max(self.phase, phase)

    @precondition(restless)
    @rule()
    def close(self) -> None:
        self.pool.close()
        self.closes(Phase.DRAINING)

    @precondition(restless)
    @rule()
    def shut_down_and_cancel_what_waits(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.closes(Phase.DRAINING)
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
    @rule()
    def hurry_a_stop(self) -> None:
        """The second rung, as a second signal takes it."""
        Stop([self.pool._crew], GUARD).hurry()
        if self.phase < Phase.CANCELLING:
            self.cut_waiting()
            for model in self.having(RUNNING):
                model.trip("stop")
        self.closes(Phase.CANCELLING)

    @precondition(restless)
    @rule()
    def stop_at_once(self) -> None:
        """All rungs."""
        report = self.pool.shutdown(timeout=0)
        self.cut_waiting()
        for model in self.having(RUNNING):
            model.move(ABANDONED, JobAbandoned)
            self.cut += 1
        self.closes(Phase.LEAVING)
        assert report.closed
        assert report.abandoned == len(self.having(ABANDONED))

    @precondition(lambda self: self.phase >= Phase.DRAINING and not self.unfinished())
    @rule()
    def wait(self) -> None:
        report = in_thread(self.pool.wait).result(GUARD)
        assert report.balanced
        assert report.closed
        assert (report.cut, report.ok) == (self.cut, self.cut == 0)

    def unfinished(self) -> list[Model]:
        return [model for model in self.jobs if model.state not in FINAL]

    # What must always hold

    @invariant()
    def time_goes_on(self) -> None:
        self.calm -= 1

    @invariant()
    def the_pool_is_as_the_model_says(self) -> None:
        report, stats = self.pool.report, self.pool.stats()
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
        assert report.closing is (self.phase >= Phase.DRAINING)
        if report.closing and not self.unfinished():
            assert self.pool._crew.lifecycle.wait_for(Phase.CLOSED, GUARD), "nothing is left, and it isn't closed"
        else:
            assert not report.closed

    @invariant()
    def each_job_is_as_the_model_says(self) -> None:
        for model in self.jobs:
            job, state = model.job, model.state
            assert job.state is state
            assert job.done() is (state in FINAL)
            assert job.running() is (state is RUNNING)
            assert job.attempt == model.held.calls == model.attempts
            assert job.context.cancelled is model.tripped or state in FINAL
            if state in FINAL and not job.cancelled():
                assert type(job.exception(0)) is (model.error or type(None))
            model.history.append(state)

    @invariant()
    def an_outcome_never_changes(self) -> None:
        for model in self.jobs:
            final = [state for state in model.history if state in FINAL]
            assert len(set(final)) <= 1
            assert model.history[len(model.history) - len(final) :] == final

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        report = self.pool.shutdown(timeout=0)
        assert report.balanced
        assert report.accepted == len(self.jobs)
        for model in self.jobs:
            model.held.end(lambda: None)  # threads that were left behind come back
        for worker in self.pool._crew.staff.workers():
            if worker.thread is not None:
                worker.thread.join(GUARD)
        assert not self.pool.report.stuck


@pytest.mark.usefixtures("quiet")
def test_a_pool_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=400,
            stateful_step_count=50,
            deadline=None,  # threads take what they take
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
