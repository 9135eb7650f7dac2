"""A waiting job is in one room, and leaves it once: with whoever took it."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock import Job, JobState, clock, timers
from penstock.job import new_job
from penstock.pool.backlog import Backlog
from penstock.pool.lines import Line
from penstock.pool.terms import JobTerms
from tests.fake_time import FakeTime
from tests.gates import GUARD, in_thread


class NoCrew:
    """Nobody runs these jobs."""

    name = "nobody"

    def cancel(self, job: Job[Any], reason: str) -> bool:
        raise AssertionError

    def forget(self, job: Job[Any]) -> bool:
        raise AssertionError

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        raise AssertionError

    def observed(self, job: Job[Any]) -> None:
        raise AssertionError

    def stack(self, job: Job[Any]) -> str:
        raise AssertionError


TERMS = JobTerms.checked(crew=NoCrew(), when_full=None, submit_timeout=None, timeout=None, retry=None)


def job(number: int = 1) -> Job[Any]:
    made = new_job(TERMS, number, len, ("four",), {}, contextvars.copy_context(), clock.monotonic())
    made._began = made._ended = made._since  # as a first attempt would have left it
    return made


class Wakes:
    """How often somebody was to be woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def put(backlog: Backlog, one: Job[Any]) -> Job[Any]:
    assert backlog.places.take()
    backlog.put(one)
    return one


def line_of(backlog: Backlog, *some: Job[Any]) -> Line:
    line = Line(backlog.places, backlog.put)
    for one in some:
        backlog.put_in_line(one, line)
    return line


def test_a_job_that_is_put_waits_and_somebody_is_woken() -> None:
    wakes = Wakes()
    backlog = Backlog(2, wakes)

    first = put(backlog, job())

    assert list(backlog.queue) == [first]
    assert (backlog.waiting, wakes.count) == (1, 1)


def test_taking_a_job_out_of_the_queue_gives_its_place_back() -> None:
    backlog = Backlog(1, Wakes())
    first = put(backlog, job())

    assert backlog.take_out(first)
    assert not backlog.take_out(first)

    assert backlog.waiting == 0
    assert len(backlog.places.free) == 1


def test_the_place_of_a_job_that_was_taken_out_goes_to_the_next_in_a_line() -> None:
    backlog = Backlog(1, Wakes())
    first, second = put(backlog, job(1)), job(2)
    line_of(backlog, second)

    assert backlog.take_out(first)

    assert list(backlog.queue) == [second]


def test_a_job_can_be_taken_out_of_a_line() -> None:
    backlog = Backlog(1, Wakes())
    put(backlog, job(1))
    second, third = job(2), job(3)
    line_of(backlog, second, third)
    assert backlog.waiting == 3

    assert backlog.take_out(second)
    assert not backlog.take_out(second)

    assert backlog.waiting == 2
    assert not backlog.places.free, "it held none"


def test_an_empty_line_does_not_line_up() -> None:
    backlog = Backlog(1, Wakes())

    line_of(backlog)

    assert not backlog.places.waiting


def test_a_job_to_be_tried_again_comes_when_its_time_has_come(time: FakeTime) -> None:
    wakes = Wakes()
    backlog = Backlog(1, wakes)
    again = job()

    backlog.put_retry(again, 5)
    time.advance(4)
    assert (again.state, backlog.retrying, backlog.waiting, wakes.count) == (JobState.SCHEDULED, 1, 0, 0)
    time.advance(1)

    assert (again.state, backlog.retrying, backlog.waiting, wakes.count) == (JobState.READY, 0, 1, 1)
    assert list(backlog.due) == [again]
    assert len(backlog.places.free) == 1, "it needs no place"


def test_the_wait_of_a_job_that_is_due_begins_anew(time: FakeTime) -> None:
    backlog = Backlog(1, Wakes())
    again = job()
    backlog.put_retry(again, 5)

    time.advance(5)

    assert again._since == time.now
    assert (again.waited, again.ran) == (0, 0), "what is told of the last attempt stays as it was"


def test_a_job_can_be_taken_out_before_and_after_it_is_due(time: FakeTime) -> None:
    wakes = Wakes()
    backlog = Backlog(1, wakes)
    early, late = job(1), job(2)
    backlog.put_retry(early, 5)
    backlog.put_retry(late, 5)

    assert backlog.take_out(early)
    time.advance(5)
    assert list(backlog.due) == [late]
    assert backlog.take_out(late)

    assert not backlog.take_out(early)
    assert not backlog.take_out(late)
    assert (backlog.retrying, backlog.waiting, wakes.count) == (0, 0, 1)
    assert not time.to_come


def test_a_job_that_was_taken_out_as_its_time_came_is_not_due(time: FakeTime) -> None:
    wakes = Wakes()
    backlog = Backlog(1, wakes)
    again = job()
    backlog.put_retry(again, 5)
    begun = time.to_come[0].fn  # the timers' thread has it in hand already
    assert begun is not None

    assert backlog.take_out(again)
    begun()

    assert (backlog.waiting, wakes.count) == (0, 0)


def test_a_job_is_due_at_once_when_nobody_keeps_the_time_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(when: float, fn: Callable[[], None]) -> timers.Timer:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(timers, "call_at", refuse)
    wakes = Wakes()
    backlog = Backlog(1, wakes)
    again = job()

    backlog.put_retry(again, 3600)

    assert (list(backlog.due), again.state, wakes.count) == ([again], JobState.READY, 1)


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.DONE, JobState.ABANDONED])
def test_a_job_that_runs_or_has_ended_is_in_no_room(state: JobState) -> None:
    one = job()
    one._stage = state

    assert not Backlog(1, Wakes()).take_out(one)


def test_taking_all_empties_every_room_and_brings_no_job_in(time: FakeTime) -> None:
    wakes = Wakes()
    backlog = Backlog(1, wakes)
    queued, due, retrying, in_line = put(backlog, job(1)), job(2), job(3), job(4)
    line_of(backlog, in_line)
    backlog.put_retry(due, 0)
    time.advance(0)
    backlog.put_retry(retrying, 5)
    woken = wakes.count

    taken = backlog.take_all()

    assert sorted(one.id for one in taken) == [1, 2, 3, 4]
    assert {queued, due, retrying, in_line} == set(taken)
    time.advance(10)
    assert (backlog.waiting, backlog.retrying, wakes.count) == (0, 0, woken)
    assert len(backlog.places.free) == 1
    assert not time.to_come


def test_the_oldest_is_the_first_of_the_queue(time: FakeTime) -> None:
    backlog = Backlog(2, Wakes())
    assert backlog.oldest() == 0

    put(backlog, job(1))
    time.advance(3)
    put(backlog, job(2))
    time.advance(1)

    assert backlog.oldest() == 4


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching_often")
def test_of_many_threads_that_take_a_job_one_gets_it() -> None:
    backlog = Backlog(100, Wakes())
    some = [put(backlog, job(number)) for number in range(100)]

    def take_each() -> list[Job[Any]]:
        return [one for one in some if backlog.take_out(one)]

    def take_first() -> list[Job[Any]]:
        taken = []
        while True:
            try:
                taken.append(backlog.queue.popleft())
            except IndexError:
                return taken
            backlog.places.give()

    threads = [in_thread(take) for take in (take_each, take_first, take_each, backlog.take_all)]
    taken = [one for thread in threads for one in thread.result(GUARD)]

    assert sorted(int(one.id) for one in taken) == list(range(100))
    assert len(backlog.places.free) == 100


class BacklogMachine(RuleBasedStateMachine):
    """Whatever the order of events: each job is in one room or was taken out once, and no place is lost or made."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.time = FakeTime(self.patch)
        self.jobs: list[Job[Any]] = []
        self.taken: list[Job[Any]] = []

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(size=st.integers(1, 3))
    def begin(self, size: int) -> None:
        self.size = size
        self.backlog = Backlog(size, Wakes())

    @rule()
    def submit(self) -> None:
        if self.backlog.places.take():
            self.backlog.put(self.a_new_one())

    @rule(count=st.integers(1, 4))
    def map(self, count: int) -> None:
        line_of(self.backlog, *[self.a_new_one() for _ in range(count)])

    @rule(delay=st.integers(0, 3))
    def try_again(self, delay: int) -> None:
        self.backlog.put_retry(self.a_new_one(), delay)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.time.advance(seconds)

    @rule()
    def run_one(self) -> None:
        if self.backlog.due:
            self.take(self.backlog.due.popleft())
        elif self.backlog.queue:
            self.take(self.backlog.queue.popleft())
            self.backlog.places.give()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.jobs))
        assert self.backlog.take_out(one) == (one not in self.taken)
        if one not in self.taken:
            self.take(one)

    @rule()
    def stop(self) -> None:
        for one in self.backlog.take_all():
            self.take(one)

    def a_new_one(self) -> Job[Any]:
        one = job(len(self.jobs) + 1)
        self.jobs.append(one)
        return one

    def take(self, one: Job[Any]) -> None:
        assert one not in self.taken
        self.taken.append(one)

    @invariant()
    def every_job_is_in_one_room_or_taken(self) -> None:
        backlog = self.backlog
        in_lines = [one for line in backlog._lines for one in line.jobs]
        rooms = [*backlog.queue, *backlog.due, *backlog._retrying, *in_lines, *self.taken]
        assert sorted(int(one.id) for one in rooms) == list(range(1, len(self.jobs) + 1))
        assert backlog.waiting == len(backlog.queue) + len(backlog.due) + len(in_lines)

    @invariant()
    def each_place_is_free_or_of_a_job_in_the_queue(self) -> None:
        assert len(self.backlog.places.free) + len(self.backlog.queue) == self.size

    @invariant()
    def a_timer_runs_for_each_that_is_to_be_tried_again(self) -> None:
        assert len(self.time.to_come) == self.backlog.retrying


BacklogMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestBacklog = BacklogMachine.TestCase
