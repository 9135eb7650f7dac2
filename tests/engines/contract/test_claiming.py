"""Which jobs a claim gives, and in which order."""

from __future__ import annotations

import pytest

from penstock.engines.records import HeldBy
from penstock.engines.requests import (
    Fate,
    Want,
)
from tests.engines.kinds import (
    LEASE,
    RUNNING,
    WORK,
    A,
    B,
    C,
    Clock,
    Desk,
    new,
)


def test_jobs_of_one_priority_come_in_the_order_they_were_put(desk: Desk) -> None:
    ids = [f"{n}" for n in range(20)]
    desk.put(*ids[:7])
    desk.put(*ids[7:])

    assert desk.claim_ids(A) == ids


def test_a_higher_priority_comes_first(desk: Desk) -> None:
    desk.put(new("low", priority=-1), new("none"), new("high", priority=2), new("higher", priority=10))

    assert desk.claim_ids(A) == ["higher", "high", "none", "low"]


def test_of_one_priority_the_one_that_could_run_first_comes_first(desk: Desk, now: Clock) -> None:
    desk.put(new("later", delay=20), new("sooner", delay=10))
    now.advance(15)
    desk.put("last but one", new("urgent", priority=1))
    now.advance(10)
    desk.put("last")

    assert desk.claim_ids(A) == ["urgent", "sooner", "last but one", "later", "last"]


def test_a_claim_takes_no_more_than_its_limit_and_the_next_takes_the_rest(desk: Desk) -> None:
    desk.put("a", "b", "c")

    assert desk.claim_ids(A, limit=2) == ["a", "b"]
    assert desk.claim_ids(A, limit=2) == ["c"]
    assert desk.claim_ids(A, limit=2) == []


def test_a_limit_of_zero_takes_nothing(desk: Desk) -> None:
    desk.put("a")

    assert desk.claim(A, limit=0) == []
    assert desk.claim(A, limit=0, alone=True) == []


def test_a_job_is_given_to_one_worker_only(desk: Desk) -> None:
    desk.put("a", "b")

    assert desk.claim_ids(A, limit=1) + desk.claim_ids(B) == ["a", "b"]
    assert desk.claim(A) == []
    assert desk.claim(B) == []


def test_tasks_that_the_asker_does_not_know_are_left_for_others(desk: Desk) -> None:
    desk.put(new("a", "draw"), new("b", "work"), new("c", "draw"))

    assert desk.claim_ids(A, tasks=["work", "sing"]) == ["b"]
    assert desk.claim_ids(A, tasks=["sing"]) == []
    assert desk.claim_ids(A, tasks=[]) == []
    assert desk.claim_ids(B, tasks=["draw"]) == ["a", "c"]


def test_each_want_has_its_own_limit_and_its_own_answer(desk: Desk) -> None:
    desk.put(*(new(f"{task}{n}", task) for n in range(3) for task in ("threads", "loop", "process")))

    claimed = desk.take(
        A,
        Want(frozenset({"threads"}), 2),
        Want(frozenset({"sing"}), 5),
        Want(frozenset({"loop", "process"}), 3),
    )

    assert [[job.id for job in jobs] for jobs in claimed.jobs] == [
        ["threads0", "threads1"],
        [],
        ["loop0", "process0", "loop1"],
    ]


def test_a_task_of_two_wants_is_given_once_to_the_first_with_room(desk: Desk) -> None:
    desk.put("a", "b", "c")

    claimed = desk.take(A, Want(frozenset({"work"}), 2), Want(frozenset({"work", "other"}), 2))

    assert [[job.id for job in jobs] for jobs in claimed.jobs] == [["a", "b"], ["c"]]


def test_a_claim_can_be_of_some_queues_alone(desk: Desk) -> None:
    desk.put(new("a", queue="slow"), new("b", queue="fast"), new("c", queue="other"))

    assert desk.claim_ids(A, queues=["fast", "other"]) == ["b", "c"]
    assert desk.claim_ids(A, queues=["nowhere"]) == []
    assert desk.claim_ids(A, queues=[]) == []
    assert desk.claim_ids(A) == ["a"]


def test_the_order_goes_across_queues(desk: Desk) -> None:
    desk.put(new("a", queue="x"), new("b", queue="y", priority=1), new("c", queue="x"), new("d", queue="y"))

    assert desk.claim_ids(A, limit=3, queues=["y", "x"]) == ["b", "a", "c"]


def test_a_paused_queue_gives_nothing_until_it_is_resumed(desk: Desk) -> None:
    desk.put(new("a", queue="x"), new("b", queue="y"))

    assert desk.pause("x")
    assert desk.claim_ids(A) == ["b"]
    assert desk.claim_ids(A, queues=["x"]) == []
    assert desk.resume("x")

    assert desk.claim_ids(A) == ["a"]


def test_a_pause_says_whether_it_changed_anything(desk: Desk) -> None:
    assert [desk.pause("x"), desk.pause("x"), desk.resume("x"), desk.resume("x")] == [True, False, True, False]


def test_a_paused_queue_takes_jobs_and_lets_running_ones_end(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.pause("default")

    assert desk.put("b") == [Fate.ACCEPTED]
    assert desk.progress(job, 1)
    assert desk.done(job)


def test_a_scheduled_job_of_a_paused_queue_waits_on_when_its_time_comes(desk: Desk, now: Clock) -> None:
    desk.put(new("a", delay=5))
    desk.pause("default")
    now.advance(6)

    assert desk.sweep().due == 1
    assert desk.claim(A) == []
    desk.resume("default")
    assert desk.claim_ids(A) == ["a"]


def test_a_claimed_job_brings_all_that_it_needs(desk: Desk, now: Clock) -> None:
    desk.put(new("a", queue="images", priority=3, args=b"[]", headers=b"h", delay=5))
    now.advance(7)

    job = desk.claim_one(A)

    assert (job.id, job.task, job.queue, job.priority, job.args, job.headers) == (
        "a", "work", "images", 3, b"[]", b"h",
    )  # fmt: skip
    assert (job.attempt, job.enqueued) == (1, now() - 7)
    assert job.waited == pytest.approx(2)
    assert job.seq == desk.record("a").seq


def test_a_claim_shows_in_the_record(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")

    record = desk.record("a")
    assert (record.state, record.worker, record.token) == (RUNNING, A, job.token)
    assert (record.attempt, record.started, record.ended) == (1, now(), None)


def test_a_claim_says_when_the_next_scheduled_job_may_run(desk: Desk, now: Clock) -> None:
    assert desk.take(A).next_due is None
    desk.put(new("a", delay=30), new("b", delay=20, queue="other", task="sing"))
    now.advance(5)

    assert desk.take(A, queues=["default"]).next_due == pytest.approx(15)
    now.advance(16)
    assert desk.take(A).next_due == pytest.approx(9)


def test_a_worker_can_ask_what_it_holds(desk: Desk) -> None:
    desk.put("a", "b", "c")
    held = desk.claim(A, limit=2)
    desk.claim(B)

    assert {job.id: job for job in desk.find(HeldBy(A))} == {job.id: job for job in held}
    desk.done(held[0])
    assert desk.find(HeldBy(A)) == [held[1]]
    assert desk.find(HeldBy(C)) == []


def test_a_worker_that_nobody_knows_gets_no_jobs_and_is_told(desk: Desk) -> None:
    desk.put("a")

    claimed = desk.take(C, WORK, Want(frozenset({"other"}), 1))

    assert [list(jobs) for jobs in claimed.jobs] == [[], []]
    assert not claimed.known
    assert desk.take(A).known
    assert desk.record("a").token == 1


def test_a_worker_whose_lease_is_over_may_claim_until_a_sweep_gives_it_up(desk: Desk, now: Clock) -> None:
    desk.put("a", "b")
    desk.pass_time(LEASE + 1, B)

    assert desk.claim_ids(A, limit=1) == ["a"]
    assert list(desk.sweep().lost) == [A]

    assert not desk.take(A).known
    assert desk.claim_ids(B) == ["b"]
