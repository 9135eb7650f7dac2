"""A pool around an executor against a model of it, through random lives.

The executor is in the model's hands: it begins, ends, fails, drops, breaks what it holds in any order. Time is, too.
Only the pool's own thread acts by itself, so each step ends when the model's next jobs have been handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock import (
    BacklogFull,
    DeadlineExceeded,
    ExecutorPool,
    Job,
    JobAbandoned,
    JobCancelled,
    JobDropped,
    JobState,
    PoolBroken,
    PoolClosed,
    Retry,
)
from penstock.lifecycle import Phase
from tests.fake_time import FakeTime
from tests.gates import GUARD
from tests.pool.hands import Hands, Held
from tests.pool.watching import until

READY, RUNNING, SCHEDULED = JobState.READY, JobState.RUNNING, JobState.SCHEDULED
DONE, FAILED, CANCELLED, ABANDONED = JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.ABANDONED
FINAL = (DONE, FAILED, CANCELLED, ABANDONED)
STUCK_AFTER = 5.0  # seconds, as all that follow, of a time that the model moves
PAUSE = 50.0


class Oops(Exception):
    """What a job raises that was told to fail."""


AGAIN = Retry(3, on=(Oops, DeadlineExceeded), wait=PAUSE, factor=1, jitter=0)


@dataclass(eq=False)
class Model:
    """The model of a job."""

    job: Job[Any]
    retries: bool
    timeout: float | None
    state: JobState = READY
    error: type[BaseException] | None = None
    attempts: int = 0
    tripped: str = ""  # "hand" or "stop"
    waits: bool = False  # for its future to end, before it is tried again
    due: float = 0.0
    history: list[JobState] = field(default_factory=list)

    def move(self, state: JobState, error: type[BaseException] | None = None) -> None:
        self.state = state
        self.error = error
        self.waits = False


@dataclass(eq=False)
class Grip:
    """The model of one attempt in the executor's hands; it stays there until its future ends."""

    held: Held
    model: Model | None  # None: whatever became of the job, it is not this attempt's any more
    deadline: float | None
    begun: bool = False
    stuck_at: float | None = None
    overran: Model | None = None
    replaced: bool = False


class ExecutorMachine(RuleBasedStateMachine):
    """Random lives: no job is lost, the accounts balance, and the executor never has more than it may."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.time = FakeTime(self.patch)
        self.pool: ExecutorPool | None = None

    @initialize(workers=st.integers(1, 3), backlog=st.integers(1, 4), most=st.integers(0, 2), calm=st.integers(0, 50))
    def start(self, workers: int, backlog: int, most: int, calm: int) -> None:
        self.calm = calm  # steps until something may close the pool, or most lives would be short
        self.workers, self.backlog, self.max_stuck = workers, backlog, most
        self.hands = Hands()
        self.hands.answers = True
        self.ask_at: float | None = None  # it has dropped a job, and nothing came back since
        self.questions = 0
        self.pool = ExecutorPool(
            self.hands, workers, backlog=backlog, when_full="reject", stuck_after=STUCK_AFTER, max_stuck=most,
            grace=0, unobserved="ignore",
        )  # fmt: skip
        self.jobs: list[Model] = []
        self.queue: list[Model] = []
        self.due: list[Model] = []
        self.scheduled: list[Model] = []  # in the order in which they will be due
        self.grips: list[Grip] = []
        self.replaced = 0
        self.cut = 0
        self.broken_in_a_row = 0
        self.phase = Phase.OPEN
        self.is_dead = False

    def having(self, *states: JobState) -> list[Model]:
        return [model for model in self.jobs if model.state in states and not model.waits]

    @property
    def capacity(self) -> int:
        return self.workers + self.replaced

    # What follows from a change: free slots are filled

    def proceed(self) -> None:
        assert self.pool is not None
        while (self.due or self.queue) and len(self.grips) < self.capacity and self.phase < Phase.CANCELLING:
            if self.is_dead:
                self.breaks()
                return
            model = self.due.pop(0) if self.due else self.queue.pop(0)
            held = self.hands.wait_given(self.given + 1)
            self.given += 1
            model.attempts += 1
            model.move(RUNNING)
            deadline = None if model.timeout is None else self.time.now + model.timeout
            self.grips.append(Grip(held, model, deadline))

    given = 0

    def breaks(self) -> None:
        assert self.pool is not None
        lifecycle = self.pool._crew.lifecycle
        until(lambda: lifecycle.cutting)
        for model in [*self.queue, *self.due, *self.having(SCHEDULED), *(m for m in self.jobs if m.waits)]:
            if model.state not in FINAL:
                until(model.job.done)
                model.move(FAILED, model.error if model.attempts else PoolBroken)
                self.cut += 1
        self.queue.clear()
        self.due.clear()
        self.phase = max(self.phase, Phase.CANCELLING)
        self.is_broken = True
        if self.ask_at is not None:  # what it has may be lost: that is not waited for
            self.ask_at = None
            for grip in [grip for grip in self.grips if not grip.begun]:
                until(grip.held.future.done)
                if grip.model is not None:
                    until(grip.model.job.done)
                    grip.model.move(FAILED, JobDropped)
                self.free(grip)
            self.pool_has_heard()

    def pool_has_heard(self) -> None:
        """Futures were cancelled on other threads: wait until the pool knows of all that have ended."""
        assert self.pool is not None
        slots = self.pool._crew.staff._slots  # type: ignore[attr-defined]
        until(lambda: sum(slot.hold is not None for slot in list(slots)) == len(self.grips))

    def hears(self, error: type[BaseException] | None) -> None:
        """What the future that ends says of the executor."""
        self.broken_in_a_row = self.broken_in_a_row + 1 if error is BrokenExecutor else 0
        if error is JobDropped:
            if self.ask_at is None and not self.is_broken and not self.is_over():
                self.ask_at = self.time.now + 1
        elif error is not JobCancelled:
            self.ask_at = None

    def is_over(self) -> bool:
        return self.phase >= Phase.DRAINING and all(model.state in FINAL for model in self.jobs)

    is_broken = False

    def may_retry(self, model: Model) -> bool:
        return model.retries and not model.tripped and model.attempts < 3 and self.phase < Phase.CANCELLING

    def schedule(self, model: Model, error: type[BaseException]) -> None:
        model.move(SCHEDULED, error)
        model.due = self.time.now + PAUSE
        self.scheduled.append(model)

    def free(self, grip: Grip) -> None:
        """Its future has ended."""
        self.grips.remove(grip)
        self.replaced -= grip.replaced
        if grip.overran is not None and grip.overran.waits:
            self.schedule(grip.overran, DeadlineExceeded)

    # Submitting

    @rule(kinds=st.lists(st.tuples(st.booleans(), st.sampled_from([True, True, False])), min_size=1, max_size=4))
    def submit_some(self, kinds: list[tuple[bool, bool]]) -> None:
        for retries, limited in kinds:
            # No two deadlines at one moment, so that the pool's own thread has one thing to do at a time; exact sums.
            self.submit(retries, 10.0 + len(self.jobs) / 1024 if limited else None)

    def submit(self, retries: bool, timeout: float | None) -> None:
        assert self.pool is not None
        view = self.pool.options(retry=AGAIN if retries else None, timeout=timeout)
        if self.phase is not Phase.OPEN:
            with pytest.raises((PoolClosed, PoolBroken)):
                view.submit(str)
            return
        if len(self.queue) == self.backlog:
            with pytest.raises(BacklogFull):
                view.submit(str)
            return
        model = Model(view.submit(str), retries, timeout)
        self.jobs.append(model)
        self.queue.append(model)
        self.proceed()

    # The executor

    def pick(self, data: st.DataObject, which: Callable[[Grip], bool] = lambda grip: True) -> Grip:
        return data.draw(st.sampled_from([grip for grip in self.grips if which(grip)]))

    @precondition(lambda self: any(not grip.begun for grip in self.grips))
    @rule(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        waiting = [grip for grip in self.grips if not grip.begun]
        for grip in waiting if data.draw(st.booleans()) else waiting[:1]:
            grip.held.begin()
            grip.begun = True

    @precondition(lambda self: self.grips)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        grip = self.pick(data)
        self.hears(None)
        if grip.model is not None:
            grip.model.move(DONE)
        grip.held.end(7)
        self.free(grip)
        self.proceed()

    @precondition(lambda self: self.grips)
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        grip = self.pick(data)
        self.hears(Oops)
        if grip.model is not None:
            if self.may_retry(grip.model):
                self.schedule(grip.model, Oops)
            else:
                grip.model.move(FAILED, Oops)
        grip.held.fail(Oops())
        self.free(grip)
        self.proceed()

    @precondition(lambda self: self.grips)
    @rule(data=st.data())
    def goes_wrong(self, data: st.DataObject) -> None:
        grip = self.pick(data)
        if grip.begun or data.draw(st.booleans()):
            self.says_that_it_is_broken(grip)
        else:
            self.drops(grip)

    def drops(self, grip: Grip) -> None:
        self.hears(JobDropped)
        if grip.model is not None:
            grip.model.move(FAILED, JobDropped)
        grip.held.drop()
        self.free(grip)
        self.proceed()

    def says_that_it_is_broken(self, grip: Grip) -> None:
        self.hears(BrokenExecutor)
        is_broken = self.broken_in_a_row > 2 * self.capacity
        if grip.model is not None:
            grip.model.move(FAILED, BrokenExecutor)
        grip.held.fail(BrokenExecutor())
        if is_broken:
            self.breaks()
        self.free(grip)
        self.proceed()

    def restless(self) -> bool:
        return self.calm <= 0

    @precondition(restless)
    @rule()
    def dies(self) -> None:
        self.hands.refusal = BrokenExecutor("dead")
        self.is_dead = True

    # Time

    @precondition(lambda self: self.times())
    @rule()
    def the_next_thing_is_due(self) -> None:
        self.time_passes(min(self.times()) - self.time.now)

    @rule(seconds=st.sampled_from([1, 4, 10, 50]))
    def time_passes(self, seconds: float) -> None:
        end = self.time.now + seconds
        while (then := min([when for when in self.times() if when <= end], default=None)) is not None:
            self.time.advance(then - self.time.now)
            for grip in list(self.grips):
                if grip.deadline is not None and grip.deadline <= then:
                    self.time_is_over(grip)
            for grip in list(self.grips):
                if grip.stuck_at is not None and grip.stuck_at <= then:
                    self.is_stuck(grip)
            for model in [model for model in self.scheduled if model.state is SCHEDULED and model.due <= then]:
                self.scheduled.remove(model)
                model.state = READY
                self.due.append(model)
            if self.ask_at is not None and self.ask_at <= then:
                self.is_asked()
            self.proceed()
        self.time.advance(end - self.time.now)

    def times(self) -> list[float]:
        times = [*(grip.deadline for grip in self.grips), *(grip.stuck_at for grip in self.grips), self.ask_at]
        return [when for when in times if when is not None] + [model.due for model in self.having(SCHEDULED)]

    def is_asked(self) -> None:
        """Does the executor live? It says so at once, if it does."""
        assert self.pool is not None
        staff = self.pool._crew.staff
        if self.is_over():
            self.ask_at = None
            return
        if self.grips and not self.is_dead:
            until(lambda: self.hands.questions == self.questions + 1)
        # Without a grip nothing is asked, unless that was lost at this very moment: then either may come first.
        until(lambda: staff._doubt is None or staff.broken is not None)  # type: ignore[attr-defined]
        if self.is_dead and (self.grips or staff.broken is not None):
            self.breaks()
        else:
            self.ask_at = None
            self.broken_in_a_row = self.broken_in_a_row if self.hands.questions == self.questions else 0
            self.questions = self.hands.questions

    def time_is_over(self, grip: Grip) -> None:
        grip.deadline = None
        model, grip.model = grip.model, None
        if model is None or model.tripped:
            grip.model = model  # it was asked to stop before: its deadline says nothing new
            return
        again = self.may_retry(model)
        if not again:
            model.move(FAILED, DeadlineExceeded)
        if grip.begun:
            grip.stuck_at = self.time.now + STUCK_AFTER
            grip.overran = model
            model.waits = again
            model.error = DeadlineExceeded
        else:
            self.hears(JobCancelled)
            assert grip.held.future.cancelled()
            if again:
                self.schedule(model, DeadlineExceeded)
            self.free(grip)

    def is_stuck(self, grip: Grip) -> None:
        grip.stuck_at = None
        if self.replaced < self.max_stuck and self.pool is not None and not self.pool.report.closed:
            self.replaced += 1
            grip.replaced = True
        if grip.overran is not None and grip.overran.waits:
            self.schedule(grip.overran, DeadlineExceeded)

    # Cancelling and stopping

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_a_job(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.jobs))
        waits = model.state in (READY, SCHEDULED) or model.waits
        was_cancelled = model.state is CANCELLED and model.job.cancelled()
        assert model.job.cancel("by hand") is (waits or was_cancelled)
        if waits:
            model.move(CANCELLED, JobCancelled)
            for room in (self.queue, self.due):
                if model in room:
                    room.remove(model)
        elif model.state is RUNNING and not model.tripped:
            model.tripped = "hand"
            grip = next(grip for grip in self.grips if grip.model is model)
            if not grip.begun:
                self.hears(JobCancelled)
                model.move(CANCELLED, JobCancelled)
                self.free(grip)
        self.proceed()

    @precondition(restless)
    @rule()
    def close(self) -> None:
        assert self.pool is not None
        self.pool.close()
        self.phase = max(self.phase, Phase.DRAINING)

    @precondition(restless)
    @rule()
    def stop_at_once(self) -> None:
        """Whether the executor forgets a job that it has not begun, or that is left behind first, nobody knows."""
        assert self.pool is not None
        report = self.pool.shutdown(timeout=0)
        assert report.closed
        self.phase = Phase.LEAVING
        for model in self.jobs:
            if model.state in FINAL:
                continue
            waited, began = model.state in (READY, SCHEDULED) or model.waits, model.attempts > 0
            if waited:
                model.move(FAILED if began else CANCELLED, model.error if began else JobCancelled)
                if began and model.error is None:
                    model.error = DeadlineExceeded
                self.cut += 1
            else:
                grip = next(grip for grip in self.grips if grip.model is model)
                if not grip.begun:
                    until(grip.held.future.done)
                state = model.job.state
                assert state is ABANDONED or (state is CANCELLED and not grip.begun)
                by_hand = bool(model.tripped) and state is CANCELLED
                model.move(state, JobAbandoned if state is ABANDONED else JobCancelled)
                self.cut += not by_hand
                grip.model = None
        self.queue.clear()
        self.due.clear()
        for grip in [grip for grip in self.grips if grip.held.future.done()]:
            self.hears(JobCancelled)
            self.free(grip)
        self.pool_has_heard()

    # What must always hold

    @invariant()
    def time_goes_on(self) -> None:
        self.calm = getattr(self, "calm", 0) - 1

    @invariant()
    def the_executor_never_has_more_than_it_may(self) -> None:
        if self.pool is None:
            return
        assert len(self.hands.given) == self.given, "it was given a job that should wait"
        assert len(self.hands.open()) == len(self.grips)
        assert self.hands.most <= self.workers + self.max_stuck

    @invariant()
    def the_pool_is_as_the_model_says(self) -> None:
        if self.pool is None:
            return
        report = self.pool.report
        waiting = sum(model.waits for model in self.jobs)
        assert report.accepted == len(self.jobs)
        assert (report.waiting, report.running, report.retrying) == (
            len(self.having(READY)), len(self.having(RUNNING)), len(self.having(SCHEDULED)) + waiting
        )  # fmt: skip
        assert (report.done, report.failed, report.cancelled, report.killed, report.abandoned) == (
            len(self.having(DONE)), len(self.having(FAILED)), len(self.having(CANCELLED)), 0,
            len(self.having(ABANDONED)),
        )  # fmt: skip
        assert report.cut == self.cut
        assert report.waiting <= self.backlog + len(self.due)
        assert len(report.stuck) == sum(grip.model is None for grip in self.grips)
        if self.is_over():
            self.ask_at = None
            assert self.pool._crew.lifecycle.wait_for(Phase.CLOSED, GUARD), "nothing is left, and it isn't closed"
        else:
            assert not report.closed

    @invariant()
    def each_job_is_as_the_model_says(self) -> None:
        for model in self.jobs if self.pool is not None else ():
            job, state = model.job, model.state
            assert job.state is state
            assert job.attempt == model.attempts
            if state in FINAL and not job.cancelled():
                assert type(job.exception(0)) is (model.error or type(None))
            model.history.append(state)
            final = [state for state in model.history if state in FINAL]
            assert len(set(final)) <= 1, "an outcome never changes"
            assert model.history[len(model.history) - len(final) :] == final

    def teardown(self) -> None:
        try:
            if self.pool is not None:
                report = self.pool.shutdown(timeout=0)
                assert report.balanced
                assert report.accepted == len(self.jobs)
                for held in self.hands.open():
                    if not held.future.cancel():
                        held.end()
                until(lambda: self.pool is not None and not self.pool.report.stuck)
                until(lambda: self.pool is not None and not self.pool.stats().workers)
                self.pool._crew.staff.join(None)
        finally:
            self.patch.undo()


@pytest.mark.usefixtures("quiet")
@pytest.mark.timeout(240)  # 200 lives; a busy machine takes its time
def test_a_pool_around_an_executor_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        ExecutorMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
