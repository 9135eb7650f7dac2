"""A pool against a model of it, through random lives: whatever the order of events, the two agree after each.

Every job is held at a gate of its own and told how to end, so that each step has one outcome. Where two threads could
both be first (the parts of `test_stopping` and `test_stress`), the model has no step.

A pool of processes is in no other state than one of threads, but it may be there a moment later: what happened in a
worker has to be heard of first. And waiting jobs need not begin in their order, since some are sent ahead: so that the
same draws mean the same life, none of its draws depends on which of them was first.
"""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Hypothesis
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
    JobKilled,
    JobState,
    PoolClosed,
    ProcessPool,
    Retry,
    ThreadPool,
    WorkerDied,
    clock,
)
from penstock.lifecycle import Phase
from penstock.pool.executor import Pool
from penstock.pool.ladder import Stop
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.processes.worker import ProcessWorker
from tests.gates import GUARD, in_thread
from tests.pool.held import FAIL, GIVE, OBEY, Door, Held, HeldElsewhere, Oops
from tests.pool.watching import until

READY, RUNNING, SCHEDULED = JobState.READY, JobState.RUNNING, JobState.SCHEDULED
DONE, FAILED, CANCELLED = JobState.DONE, JobState.FAILED, JobState.CANCELLED
KILLED, ABANDONED = JobState.KILLED, JobState.ABANDONED
FINAL = (DONE, FAILED, CANCELLED, KILLED, ABANDONED)


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


Models = Callable[["PoolMachine"], list[Model]]
ANY = st.integers(0, 999)
KINDS = st.lists(st.booleans(), min_size=1, max_size=5)  # of jobs: whether they are tried again
A_MOMENT = 0.05  # seconds that jobs which were sent ahead stay so, or a busy machine would not come to it


def for_any(which: Models) -> Callable[[Callable[[Any, Model], None]], Any]:
    """A rule for any one of *which*, if there are some."""

    def as_rule(fn: Callable[[Any, Model], None]) -> Any:
        @functools.wraps(fn)
        def with_one(self: PoolMachine, number: int) -> None:
            self.just_before(number)
            if models := which(self):
                fn(self, models[number % len(models)])

        return precondition(lambda self: self.draws_blindly or bool(which(self)))(rule(number=ANY)(with_one))

    return as_rule


class PoolMachine(RuleBasedStateMachine):
    """Random lives of one pool: each rule does one thing to the pool, and to the model what should come of it."""

    left: JobState = ABANDONED
    left_error: type[BaseException] = JobAbandoned
    """What becomes of a job that still runs when its pool has to stop."""
    draws_blindly = False
    """Whether a rule is drawn, though it may have nothing to do."""
    pool: Pool
    trees: Bundle[Tree] = Bundle("trees")

    @initialize(workers=st.integers(1, 3), backlog=st.integers(1, 4), calm=st.integers(0, 30), kinds=KINDS)
    def start(self, workers: int, backlog: int, calm: int, kinds: list[bool]) -> None:
        self.calm = calm  # steps until something may close the pool, or most lives would be short
        self.workers = workers
        self.backlog = backlog
        self.pool = self.make_pool(workers, backlog=backlog, when_full="reject", grace=0, unobserved="ignore")
        self.jobs: list[Model] = []
        self.queue: list[Model] = []
        self.cut = 0
        self.phase = Phase.OPEN
        self.submit_some(None, kinds)

    # What is different for each kind

    def make_pool(self, workers: int, **options: Any) -> Pool:
        return ThreadPool(workers, **options)

    def hold(self) -> Held:
        return Held()

    def next_to_run(self) -> Model:
        """The one in the queue that begins next; it has entered."""
        model = self.queue.pop(0)
        assert model.held.entered.acquire(timeout=GUARD), f"nobody runs {model.job}"
        return model

    def agree(self, check: Callable[[], None]) -> None:
        check()

    def just_before(self, number: int = 0) -> None:
        """What may go on inside of the pool when the next thing happens to it."""

    def let_all_go(self) -> None:
        for model in self.jobs:
            model.held.end(GIVE)  # threads that were left behind come back
        for worker in self.pool._crew.staff.workers():  # type: ignore[attr-defined]
            if worker.thread is not None:
                worker.thread.join(GUARD)

    def having(self, state: JobState) -> list[Model]:
        return [model for model in self.jobs if model.state is state]

    # What follows from a change: free workers take what waits

    def proceed(self) -> None:
        while self.queue and len(self.having(RUNNING)) < self.workers and self.phase < Phase.CANCELLING:
            model = self.next_to_run()
            model.attempts += 1
            model.move(RUNNING)

    def leave_queue(self, model: Model) -> None:
        if model in self.queue:
            self.queue.remove(model)

    # Submitting

    @rule(target=trees, parent=st.none() | trees)
    def make_context(self, parent: Tree | None) -> Tree:
        return Tree(Context(parent=None if parent is None else parent.context), parent)

    @rule(tree=st.none() | trees, kinds=KINDS)
    def submit_more(self, tree: Tree | None, kinds: list[bool]) -> None:
        self.submit_some(tree, kinds)

    def submit_some(self, tree: Tree | None, kinds: list[bool]) -> None:
        for retries in kinds:
            self.submit(tree, retries)

    def submit(self, tree: Tree | None, retries: bool) -> None:
        held = self.hold()
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

    @for_any(lambda self: self.having(RUNNING))
    def finish(self, model: Model) -> None:
        model.move(DONE)
        model.held.end(GIVE)
        assert model.job.result(GUARD) == model.held.number
        self.ended(model)

    @for_any(lambda self: self.having(RUNNING))
    def fails(self, model: Model) -> None:
        again = model.retries and not model.tripped and self.phase < Phase.CANCELLING
        if again:
            scheduled = threading.Event()
            put = self.pool._crew.backlog.put_retry

            def watched(job: Job[Any], delay: float) -> None:
                put(job, delay)
                scheduled.set()

            self.pool._crew.backlog.put_retry = watched  # type: ignore[method-assign]
            model.move(SCHEDULED, Oops)
            model.held.end(FAIL)
            assert scheduled.wait(GUARD)
            self.pool._crew.backlog.put_retry = put  # type: ignore[method-assign]
        else:
            model.move(FAILED, Oops)
            model.held.end(FAIL)
            assert isinstance(model.job.exception(GUARD), Oops)
        self.ended(model)

    @for_any(lambda self: [model for model in self.having(RUNNING) if model.tripped])
    def obeys(self, model: Model) -> None:
        model.move(CANCELLED, JobCancelled)
        self.cut += model.cause == "stop"
        model.held.end(OBEY)
        assert isinstance(model.job.exception(GUARD), JobCancelled)
        assert not model.job.cancelled(), "it had begun"
        self.ended(model)

    # Cancelling

    @for_any(lambda self: self.jobs)
    def cancel_a_job(self, model: Model) -> None:
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
        self.just_before()
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
        self.just_before()
        self.pool.close()
        self.closes(Phase.DRAINING)

    @precondition(restless)
    @rule()
    def shut_down_and_cancel_what_waits(self) -> None:
        self.just_before()
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
        self.just_before()
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
        self.just_before()
        report = self.pool.shutdown(timeout=0)
        self.cut_waiting()
        for model in self.having(RUNNING):
            model.move(self.left, self.left_error)
            self.cut += 1
        self.closes(Phase.LEAVING)
        assert report.closed
        assert report.abandoned + report.killed == len(self.having(self.left))

    @precondition(lambda self: self.phase >= Phase.DRAINING and (self.draws_blindly or not self.unfinished()))
    @rule()
    def wait(self) -> None:
        if self.unfinished():
            return
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
        self.agree(self.compare_pool)

    def compare_pool(self) -> None:
        report, stats = self.pool.report, self.pool.stats()
        counts = {state: len(self.having(state)) for state in JobState}
        assert report.accepted == len(self.jobs)
        assert (report.waiting, report.running, report.retrying) == (
            (counts[READY], counts[RUNNING], counts[SCHEDULED])
        )
        assert (report.done, report.failed, report.cancelled, report.killed, report.abandoned) == (
            (counts[DONE], counts[FAILED], counts[CANCELLED], counts[KILLED], counts[ABANDONED])
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
        self.agree(self.compare_jobs)
        for model in self.jobs:
            model.history.append(model.job.state)

    def compare_jobs(self) -> None:
        for model in self.jobs:
            job, state = model.job, model.state
            assert job.state is state
            assert job.done() is (state in FINAL)
            assert job.running() is (state is RUNNING)
            assert job.attempt == model.held.calls == model.attempts
            assert job.context.cancelled is model.tripped or state in FINAL
            if state in FINAL and not job.cancelled():
                assert type(job.exception(0)) is (model.error or type(None))

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
        self.let_all_go()
        assert not self.pool.report.stuck


class ProcessMachine(PoolMachine):
    """The same lives on processes; and some workers are killed."""

    left, left_error = KILLED, JobKilled
    draws_blindly = True
    pool: ProcessPool
    door: Door

    def make_pool(self, workers: int, **options: Any) -> Pool:
        return ProcessPool(workers, kill_after=3600, **options)

    def hold(self) -> Held:
        return HeldElsewhere(self.door)

    def next_to_run(self) -> Model:
        patience = time.monotonic() + GUARD
        while True:
            for number, model in enumerate(self.queue):
                if model.held.entered.acquire(blocking=False):
                    return self.queue.pop(number)
            assert time.monotonic() < patience, f"nobody runs one of {self.queue}"
            time.sleep(0.0005)  # polls: any of them may be the one

    def agree(self, check: Callable[[], None]) -> None:
        patience = time.monotonic() + GUARD
        while True:
            try:
                return check()
            except AssertionError:
                if time.monotonic() > patience:
                    raise
            time.sleep(0.0005)  # polls: see the top of this file

    def just_before(self, number: int = 0) -> None:
        """Some of those that wait are sent ahead: for a moment, as these jobs are long."""
        busy = self.having(RUNNING)
        if not self.queue or not busy:
            return
        worker = self.pool._crew.attempts.running.get(busy[number % len(busy)].job)
        sent = threading.Event()

        def send_ahead() -> None:
            if isinstance(worker, ProcessWorker):
                worker.moved_at = clock.monotonic() + A_MOMENT
                self.pool._crew.staff.send_ahead(worker)
            sent.set()

        if self.pool._crew.staff.dispatcher.do(send_ahead):
            assert sent.wait(GUARD)

    def let_all_go(self) -> None:
        """They were killed."""

    @for_any(lambda self: self.having(RUNNING))
    def a_worker_is_killed(self, model: Model) -> None:
        until(lambda: model.job.worker is not None)
        (worker,) = [worker for worker in self.pool._crew.staff.workers() if worker.name == model.job.worker]
        model.move(FAILED, WorkerDied)
        worker.ends.signal(signal.SIGKILL)
        assert isinstance(model.job.exception(GUARD), WorkerDied)
        self.ended(model)


@pytest.mark.usefixtures("quiet")
def test_a_pool_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.usefixtures("quiet")
def test_a_pool_of_processes_does_what_its_model_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessStaff, "_room", lambda self, worker: 10)  # held jobs are long: few would be sent ahead
    door = ProcessMachine.door = Door(tmp_path)
    try:
        run_state_machine_as_test(
            ProcessMachine,
            settings=settings(
                max_examples=60,
                stateful_step_count=50,
                phases=[Hypothesis.generate],  # a life is not quite the same twice: one that failed gets no shorter
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        door.close()
