"""Who has a job, while it goes from one hand to the next: the submitter's, the dispatcher's, a worker's, another's.

Workers are puppets, and the dispatcher sends ahead whatever waits, and takes it back when the test says so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from penstock import DeadlineExceeded, Job, JobCancelled, ProcessPool, Retry, WorkerDied
from penstock.events import JobStarted
from penstock.pool.places import Places
from penstock.pool.processes import ProcessPoolBroken
from penstock.pool.processes.staff import ProcessStaff
from penstock.pool.processes.worker import ProcessWorker
from tests.gates import GUARD, in_thread
from tests.pool.crossing import double
from tests.pool.processes.puppet import Puppet, Stage
from tests.pool.watching import Seen, until

FOREVER = 3600.0
ROOM = ProcessStaff._room


@pytest.fixture(autouse=True)
def _all_is_sent_ahead_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessStaff, "_room", lambda self, worker: 100)
    for name in ("_LONG", "_LONG_IF_ONE_IS_IDLE"):
        monkeypatch.setattr(f"penstock.pool.processes.dispatcher.{name}", FOREVER)


def on_dispatcher(pool: ProcessPool, do: Callable[[], object]) -> None:
    """Have the pool's dispatcher *do* something, and wait for it."""
    done = threading.Event()
    pool._crew.staff.dispatcher.do(do)
    pool._crew.staff.dispatcher.do(done.set)
    assert done.wait(GUARD)


def inside(pool: ProcessPool, puppet: Puppet) -> ProcessWorker:
    """The pool's side of *puppet*."""
    return next(worker for worker in pool._crew.staff.workers() if worker.name == puppet.name)


def return_those_behind(pool: ProcessPool, puppet: Puppet) -> None:
    on_dispatcher(pool, lambda: pool._crew.staff.return_those_behind(inside(pool, puppet)))


def idle_worker(stage: Stage, pool: ProcessPool) -> Puppet:
    """One more worker, which is ready."""
    pool._crew.staff.grow()
    return stage.ready(pool)


def with_jobs_ahead(
    stage: Stage, count: int, view: Callable[[ProcessPool], Any] = lambda pool: pool, **options: Any
) -> tuple[ProcessPool, Puppet, list[Job[int]]]:
    """A worker that is in call 2, with *count* jobs sent ahead to it, as calls 3 and so on."""
    pool = stage.pool(**options)
    worker = idle_worker(stage, pool)
    first, second = pool.submit(double, 0), pool.submit(double, 0)
    assert worker.takes() == [1]
    worker.runs(1)
    assert worker.takes() == [2]
    assert first.result(GUARD) == 0
    worker.begins(2)
    jobs = [view(pool).submit(double, n) for n in range(1, count + 1)]
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, worker)))
    assert worker.takes(count) == list(range(3, 3 + count))
    assert list(pool._crew.staff.ahead) == jobs
    assert second.running()
    assert not any(job.running() for job in jobs)
    return pool, worker, jobs


# Between two rooms


class Slow(deque[Job[Any]]):
    """A room in which the dispatcher stops for a moment, with a job in its hands."""

    def __init__(self, jobs: deque[Job[Any]]) -> None:
        super().__init__(jobs)
        self.is_there, self.go_on = threading.Event(), threading.Event()

    def popleft(self) -> Job[Any]:
        job = super().popleft()
        self._stop()
        return job

    def appendleft(self, job: Job[Any]) -> None:
        self._stop()
        super().appendleft(job)

    def _stop(self) -> None:
        self.is_there.set()
        assert self.go_on.wait(GUARD)


def test_a_cancel_finds_a_job_that_is_about_to_be_sent_ahead(stage: Stage) -> None:
    pool, ann, _ = with_jobs_ahead(stage, 0)
    job = pool.submit(double, 1)
    room = pool._crew.backlog.queue = Slow(pool._crew.backlog.queue)
    sending = in_thread(on_dispatcher, pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    assert room.is_there.wait(GUARD)
    cancelling = in_thread(job.cancel)
    room.go_on.set()

    assert cancelling.result(GUARD)
    assert job.cancelled()
    sending.result(GUARD)


def test_a_cancel_finds_a_job_that_is_on_its_way_back(stage: Stage) -> None:
    pool, ann, (first, second) = with_jobs_ahead(stage, 2)
    room = pool._crew.backlog.queue = Slow(pool._crew.backlog.queue)
    returning = in_thread(return_those_behind, pool, ann)
    assert room.is_there.wait(GUARD)
    cancelling = in_thread(second.cancel)
    room.go_on.set()

    assert cancelling.result(GUARD)
    assert second.cancelled()
    returning.result(GUARD)
    assert list(pool._crew.backlog.queue) == [first]


def test_a_job_that_came_back_and_was_sent_again_waits_until_its_new_number_begins(stage: Stage) -> None:
    """The worker comes to the old number first, and sees that it has to be skipped."""
    pool, ann, (job,) = with_jobs_ahead(stage, 1)
    return_those_behind(pool, ann)
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    assert ann.takes() == [4]
    assert not ann.begins(3)
    ann.answers(2, 0)
    until(lambda: pool.report.done == 2)
    on_dispatcher(pool, lambda: None)  # what follows from the answer is done, too

    assert not job.running()
    ann.skips(3)
    ann.runs(4)
    assert job.result(GUARD) == 2
    assert job.attempt == 1


def test_those_behind_come_back_in_their_order(stage: Stage) -> None:
    pool, ann, jobs = with_jobs_ahead(stage, 3)
    later = pool.submit(double, 9)
    return_those_behind(pool, ann)

    assert list(pool._crew.backlog.queue) == [*jobs, later]
    assert pool.report.waiting == 4


def test_a_place_is_given_back_with_no_lock_held(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, ann, (first, second, _) = with_jobs_ahead(stage, 3)
    staff, held, give = pool._crew.staff, [], Places.give

    def watched(self: Places) -> None:
        held.append(staff._taking.locked() or staff._lock.locked())
        give(self)

    monkeypatch.setattr(Places, "give", watched)
    ann.begins(3)
    assert not first.cancel()  # too late
    assert second.cancel()
    ann.skips(2)
    return_those_behind(pool, ann)

    assert held
    assert not any(held)


def send_once(monkeypatch: pytest.MonkeyPatch, fact: Callable[[list[Job[Any]]], object]) -> None:
    """From now on jobs are put on a lane only once *fact* is true of them."""
    send = ProcessWorker.send

    def late(self: ProcessWorker, jobs: list[Job[Any]]) -> bool:
        until(lambda: fact(jobs))
        return send(self, jobs)

    monkeypatch.setattr(ProcessWorker, "send", late)


def test_a_job_that_is_cancelled_just_before_it_is_sent_ahead_harms_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, _ = with_jobs_ahead(stage, 0)
    doomed, other = pool.submit(double, 1), pool.submit(double, 2)
    send_once(monkeypatch, lambda jobs: doomed not in jobs or doomed.done())
    sending = in_thread(on_dispatcher, pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    until(lambda: doomed in pool._crew.staff.ahead)
    assert doomed.cancel()
    sending.result(GUARD)

    assert ann.takes(2) == [3, 4]
    for seq in (2, 3, 4):
        ann.runs(seq)
    assert other.result(GUARD) == 4
    assert doomed.cancelled()


def test_a_job_whose_time_is_over_just_before_it_is_sent_harms_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = stage.pool(kill_after=FOREVER)
    ann = idle_worker(stage, pool)
    send_once(monkeypatch, lambda jobs: all(job.done() for job in jobs))
    late = pool.options(timeout=0.01).submit(double, 1)
    assert isinstance(late.exception(GUARD), DeadlineExceeded)

    assert ann.takes() == [1]
    ann.runs(1)
    until(lambda: pool._crew.staff.idle)
    assert pool.report.stuck == ()


def test_an_idle_worker_is_handed_jobs_by_one_thread_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool()
    reading, go_on = threading.Event(), threading.Event()
    is_ready = ProcessStaff.is_ready

    def slow(self: ProcessStaff, worker: ProcessWorker) -> None:
        is_ready(self, worker)
        reading.set()
        assert go_on.wait(GUARD)  # it is on the stack of idle ones, and the dispatcher still has its READY in hand

    monkeypatch.setattr(ProcessStaff, "is_ready", slow)
    pool._crew.staff.grow()
    ann = stage.next()
    ann.ready()
    assert reading.wait(GUARD)
    worker = pool._crew.staff.idle.pop()  # as a submitter who is about to give it a job
    waiting = pool._crew.backlog.queue
    go_on.set()
    job = pool.submit(double, 1)
    on_dispatcher(pool, lambda: None)

    assert list(waiting) == [job]
    pool._crew.staff.hand_over(worker)
    assert ann.takes() == [1]


# A job that was sent to one worker, and then to another


def sent_to_two(stage: Stage, **options: Any) -> tuple[ProcessPool, Puppet, Puppet, Job[int]]:
    """A job that was sent ahead to one worker, as its call 3, was taken back, and went ahead to another, as call 3."""
    pool, ann, (job,) = with_jobs_ahead(stage, 1, workers=2, kill_after=FOREVER, **options)
    return_those_behind(pool, ann)
    pool._crew.backlog.queue.clear()
    bob = idle_worker(stage, pool)
    for seq in (1, 2):
        pool.submit(double, 0)
        assert bob.takes() == [seq]
        bob.begins(seq)
        if seq == 1:
            bob.answers(1)
            until(lambda: pool._crew.staff.idle)
    pool._crew.backlog.queue.append(job)
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, bob)))
    assert bob.takes() == [3]
    return pool, ann, bob, job


def test_a_worker_that_comes_to_a_job_that_was_taken_back_does_not_speak_for_the_other(stage: Stage) -> None:
    pool, ann, _, job = sent_to_two(stage)
    other = pool.submit(double, 2)
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    assert ann.takes() == [4]
    ann.answers(2)
    assert not ann.begins(3)
    on_dispatcher(pool, lambda: None)

    assert not job.running(), "only the other worker could say so"
    assert job.cancel()
    ann.skips(3)
    ann.begins(4)
    ann.answers(4, 4)
    assert other.result(GUARD) == 4


def test_a_worker_that_dies_at_a_job_that_was_taken_back_leaves_the_other_in_peace(stage: Stage) -> None:
    _, ann, bob, job = sent_to_two(stage)
    bob.begins(3)
    bob.answers(2)
    until(job.running)
    ann.answers(2)
    assert not ann.begins(3)
    ann.dies(-11)
    until(lambda: ann.is_closed)

    assert job.running()
    bob.answers(3, 33)
    assert job.result(GUARD) == 33


def test_a_job_that_came_to_the_same_worker_again_is_known_by_its_new_number(stage: Stage) -> None:
    pool, ann, (job,) = with_jobs_ahead(stage, 1, kill_after=FOREVER)
    return_those_behind(pool, ann)
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    assert ann.takes() == [4]
    assert not ann.begins(3)
    assert ann.begins(4)
    assert not job.cancel("enough"), "it is found to run"
    assert ann.is_told() == (4, "enough", False)
    ann.answers(2)
    ann.skips(3)
    on_dispatcher(pool, lambda: None)
    assert job.running()
    ann.answers(4, 44)
    assert job.result(GUARD) == 44


# Both sides saw each other: it is taken for running, and was not run


def test_a_job_that_was_taken_for_running_and_skipped_runs_elsewhere(stage: Stage) -> None:
    pool, ann, (job,) = with_jobs_ahead(stage, 1)
    page = ann.page
    page._skips[3] = 1
    assert not page.begin(3)  # the parent has marked it, and has not looked yet
    on_dispatcher(pool, lambda: pool._crew.staff.has_begun(inside(pool, ann), 3, job, 0.0))  # … and finds: too late
    assert (job.running(), job.attempt) == (True, 1)
    ann.answers(2)
    ann.skips(3)

    assert ann.takes() == [4]
    ann.runs(4)
    assert job.result(GUARD) == 2
    assert job.attempt == 1


def test_the_time_of_a_job_begins_again_if_it_was_not_run(stage: Stage) -> None:
    pool, ann, (job,) = with_jobs_ahead(stage, 1, lambda pool: pool.options(timeout=FOREVER))
    on_dispatcher(pool, lambda: pool._crew.staff.has_begun(inside(pool, ann), 3, job, 0.0))
    assert job.context.deadline is not None
    on_dispatcher(pool, lambda: pool._crew.attempts.take(job, inside(pool, ann)))
    on_dispatcher(pool, lambda: pool._crew.staff.has_not_run(job))

    assert job.context.deadline is None
    assert job in pool._crew.backlog.due


def test_a_worker_that_skipped_a_job_whose_time_was_over_is_not_killed_for_it(stage: Stage) -> None:
    pool, ann, (job,) = with_jobs_ahead(stage, 1, lambda pool: pool.options(timeout=0.01), kill_after=FOREVER)
    on_dispatcher(pool, lambda: pool._crew.staff.has_begun(inside(pool, ann), 3, job, 0.0))
    assert isinstance(job.exception(GUARD), DeadlineExceeded)
    until(lambda: len(pool.report.stuck) == 1)
    ann.answers(2)
    ann.begins(3)
    ann.skips(3)

    until(lambda: pool._crew.staff.idle)
    assert pool.report.stuck == ()


# Death, at every moment


def test_a_job_that_a_dead_worker_had_not_begun_goes_to_one_that_is_idle(stage: Stage) -> None:
    pool = stage.pool(2)
    bob, ann = idle_worker(stage, pool), idle_worker(stage, pool)
    seen = Seen(pool)
    job = pool.submit(double, 1)
    assert ann.takes() == [1]
    ann.dies(-9)

    assert bob.takes() == [1]
    bob.runs(1)
    assert (job.result(GUARD), job.attempt) == (2, 1)
    seen.wait_for(JobStarted, 2)
    assert [event.worker for event in seen.of(JobStarted)] == [ann.name, bob.name]


def test_jobs_sent_ahead_to_a_dead_worker_come_back_in_their_order(stage: Stage) -> None:
    pool, ann, jobs = with_jobs_ahead(stage, 3)
    running = next(iter(pool._crew.attempts.running))
    ann.dies(-9)
    bob = stage.ready(pool)

    assert isinstance(running.exception(GUARD), WorkerDied)
    assert bob.takes() == [1]
    assert jobs[0].running()
    bob.runs(1)
    bob.runs_all_up_to(3)
    assert [job.result(GUARD) for job in jobs] == [2, 4, 6]


def test_what_a_dead_worker_had_answered_counts(stage: Stage) -> None:
    pool, ann, (first, second, third) = with_jobs_ahead(stage, 3)
    blocked, go_on = threading.Event(), threading.Event()
    pool._crew.staff.dispatcher.do(blocked.set)
    pool._crew.staff.dispatcher.do(lambda: go_on.wait(GUARD))
    assert blocked.wait(GUARD)
    ann.answers(2)
    ann.runs(3)
    ann.begins(4)
    ann.dies(-9)
    go_on.set()

    assert first.result(GUARD) == 2
    assert isinstance(second.exception(GUARD), WorkerDied)
    assert not third.done()


def test_a_job_whose_time_was_over_before_its_worker_died_is_tried_again_and_stands_nowhere(stage: Stage) -> None:
    pool = stage.pool(kill_after=FOREVER)
    ann = idle_worker(stage, pool)
    job = pool.options(timeout=0.01, retry=Retry(2, on=(DeadlineExceeded,), wait=0)).submit(double, 1)
    assert ann.takes() == [1]  # and never begins it
    until(lambda: pool.report.stuck)
    ann.dies(-9)
    bob = stage.ready(pool)

    assert bob.takes() == [1]
    bob.runs(1)
    assert job.attempt == 2
    assert pool.report.stuck == ()


def test_a_worker_that_dies_before_it_is_ready_is_replaced(stage: Stage) -> None:
    pool = stage.pool()
    job = pool.submit(double, 1)
    stage.next().dies(1)
    bob = stage.ready(pool)

    assert bob.takes() == [1]
    bob.runs(1)
    assert job.result(GUARD) == 2


def test_a_pool_does_not_grow_by_a_death(stage: Stage) -> None:
    pool = stage.pool(4)
    ann = idle_worker(stage, pool)
    ann.dies(-9)
    bob = stage.ready(pool)
    on_dispatcher(pool, lambda: None)

    assert pool.stats().workers == 1
    assert stage.asked == 2
    assert not bob.is_dead


def test_three_that_die_before_they_are_ready_break_the_pool_once_with_the_reason(stage: Stage) -> None:
    pool = stage.pool()
    job = pool.submit(double, 1)
    for _ in range(3):
        stage.next().dies(7)

    error = job.exception(GUARD)
    assert "exited with code 7" in str(error)
    with pytest.raises(ProcessPoolBroken, match="exited with code 7"):
        pool.submit(double, 2)
    assert pool.shutdown().failed == 1


# Killing one for its job


def test_a_worker_that_has_gone_on_to_the_next_job_is_not_killed_for_the_last(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, (late, innocent) = with_jobs_ahead(stage, 2, lambda pool: pool.options(timeout=FOREVER), kill_after=0)
    ann.begins(3)
    ann.answers(2)
    until(late.running)
    ann.begins(4)  # the answer for 3 is on its way
    late.context.limit(0.001)
    assert isinstance(late.exception(GUARD), DeadlineExceeded)
    worker = inside(pool, ann)
    until(lambda: worker.overrun is not None)
    looked, is_still_in = threading.Event(), worker.is_still_in

    def watched(job: Job[Any]) -> bool:
        try:
            return is_still_in(job)
        finally:
            looked.set()

    monkeypatch.setattr(worker, "is_still_in", watched)
    assert looked.wait(GUARD)
    on_dispatcher(pool, lambda: None)

    assert not ann.killed.is_set()
    ann.answers(3)
    ann.answers(4, 40)
    assert innocent.result(GUARD) == 40


def test_jobs_behind_one_that_is_killed_are_taken_back_first(stage: Stage) -> None:
    pool, ann, jobs = with_jobs_ahead(stage, 2, kill_after=0)
    running = next(iter(pool._crew.attempts.running))
    ann.obeys = False
    running.cancel("enough")
    assert ann.killed.wait(GUARD)

    assert not ann.begins(3)  # it was just done as the signal came
    ann.dies(-9)
    error = running.exception(GUARD)
    assert isinstance(error, JobCancelled)
    assert "its worker was killed" in str(error)
    assert not any(job.done() for job in jobs)


def test_a_worker_that_is_being_killed_gets_no_other_job(stage: Stage) -> None:
    pool, ann, _ = with_jobs_ahead(stage, 0, kill_after=0)
    running = next(iter(pool._crew.attempts.running))
    waiting = pool.submit(double, 1)
    ann.obeys = False
    running.cancel("enough")
    assert ann.killed.wait(GUARD)
    ann.answers(2, 22)

    assert running.result(GUARD) == 22
    on_dispatcher(pool, lambda: None)
    assert not waiting.running()
    ann.dies(-9)
    bob = stage.ready(pool)
    assert bob.takes() == [1]
    assert waiting.running()


# Recycling


def retires_after_five(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[ProcessPool, Puppet, list[Job[int]]]:
    monkeypatch.setattr(ProcessStaff, "_room", ROOM)
    return with_jobs_ahead(stage, 3, max_tasks_per_child=5)


def test_jobs_that_were_taken_back_do_not_count_for_the_life_of_a_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, jobs = retires_after_five(stage, monkeypatch)
    return_those_behind(pool, ann)
    ann.runs(2)
    ann.runs_all_up_to(8)

    assert [job.result(GUARD) for job in jobs] == [2, 4, 6]
    ann.leaves()
    assert stage.asked == 2


def test_the_replacement_is_started_when_the_last_job_of_a_worker_begins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ann, jobs = retires_after_five(stage, monkeypatch)
    more = pool.submit(double, 9)
    for seq in (2, 3, 4):
        ann.runs(seq)
    bob = stage.ready(pool)
    on_dispatcher(pool, lambda: None)

    assert not jobs[2].cancel(), "it is the last, and nothing is before it"
    assert not ann.is_dead
    assert not more.running(), "as many run as may: the replacement waits for the one that it replaces"
    ann.runs(5)
    assert jobs[2].result(GUARD) == 6
    assert bob.takes() == [1]
    bob.runs(1)
    assert more.result(GUARD) == 18
    ann.leaves()


def test_a_worker_never_runs_more_than_it_may(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool(max_tasks_per_child=1)
    ann = idle_worker(stage, pool)
    dispatcher = pool._crew.staff.dispatcher
    retire, go_on = dispatcher.retire, threading.Event()
    # The submitter's word that it is to retire comes after its answer.
    monkeypatch.setattr(dispatcher, "retire", lambda worker: (go_on.wait(GUARD), retire(worker)))
    first = in_thread(pool.submit, double, 1)
    assert ann.takes() == [1]
    second = in_thread(pool.submit, double, 2)
    until(lambda: pool._crew.backlog.queue)
    monkeypatch.setattr(dispatcher, "retire", retire)
    ann.runs(1)
    bob = stage.ready(pool)
    go_on.set()

    assert bob.takes() == [1]
    bob.runs(1)
    assert [job.result(GUARD).result(GUARD) for job in (first, second)] == [2, 4]
    ann.leaves()


# Attempts


def test_an_attempt_that_is_sent_ahead_knows_its_number(stage: Stage) -> None:
    pool, ann, _ = with_jobs_ahead(stage, 0)
    job = pool.submit(double, 1)
    job._attempt = 1  # it has failed once, and waits
    on_dispatcher(pool, lambda: pool._crew.staff.send_ahead(inside(pool, ann)))
    assert ann.takes() == [3]
    ann.begins(3)
    ann.answers(2)
    until(job.running)

    assert (ann.attempts[3], job.attempt) == (2, 2)
    assert ann.attempts[2] == 1
