"""Ended jobs run again, or are forgotten."""

from __future__ import annotations

from penstock.engines.requests import (
    Outcome,
)
from penstock.job import JobState
from tests.engines.kinds import (
    CANCELLED,
    DONE,
    FAILED,
    READY,
    RUNNING,
    SCHEDULED,
    A,
    B,
    Clock,
    Desk,
    died,
    ended,
    new,
    oops,
)

# Again


def test_failed_jobs_run_again_with_all_their_attempts(desk: Desk, now: Clock) -> None:
    desk.put("a")
    desk.settle(desk.claim_one(A), Outcome.RETRY, error=oops())
    desk.settle(desk.claim_one(A), Outcome.FAILED, error=oops(), ran=1)
    now.advance(5)

    assert desk.again() == 1

    record = desk.record("a")
    assert (record.state, record.attempt, record.crashes, record.due) == (READY, 0, 0, now())
    assert (record.started, record.ended, record.ran, record.result, record.reason) == (None, None, None, None, "")
    assert len(desk.attempts("a")) == 2
    assert desk.claim_one(A).attempt == 1


def test_deaths_are_forgotten_when_a_job_is_asked_for_again(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.sweep(died(A, [job]), crashes=1)

    assert desk.again("a") == 1

    record = desk.record("a")
    assert (record.crashes, record.suspect) == (0, False)
    assert desk.claim_ids(B) == ["a"]


def test_only_failed_jobs_run_again_unless_other_states_are_named(desk: Desk) -> None:
    ended(desk)

    assert desk.again() == 1
    assert set(desk.claim_ids(B)) == {"waits", "failed"}
    assert desk.again(states=[DONE, CANCELLED]) == 2
    assert set(desk.claim_ids(B)) == {"done", "cancelled"}
    assert desk.record("cancelled").reason == ""


def test_jobs_that_have_not_ended_do_not_run_again(desk: Desk) -> None:
    ended(desk)

    assert desk.again(states=[READY, RUNNING, SCHEDULED]) == 0
    assert desk.again("runs", "waits", "nobody", states=list(JobState)) == 0

    assert desk.state("runs") is RUNNING


def test_named_jobs_run_again_if_they_are_in_the_named_states(desk: Desk) -> None:
    ended(desk)

    assert desk.again("done", "failed") == 1
    assert desk.again("done", "cancelled", states=[DONE]) == 1

    assert [desk.state(id) for id in ("done", "failed", "cancelled")] == [READY, READY, CANCELLED]


def test_failures_of_one_kind_run_again(desk: Desk) -> None:
    for job, print in zip(desk.put_and_claim(A, "a", "b", "c"), ("this", "that", "this"), strict=True):
        desk.settle(job, Outcome.FAILED, error=oops(print))

    assert desk.again(print="this") == 2
    assert desk.again("a", "b", "c", print="nothing") == 0

    assert [desk.state(id) for id in "abc"] == [READY, FAILED, READY]


def test_no_more_than_the_limit_run_again_the_oldest_first(desk: Desk) -> None:
    for job in reversed(desk.put_and_claim(A, "a", "b", "c")):
        desk.settle(job, Outcome.FAILED)

    assert desk.again(limit=2) == 2

    assert [desk.state(id) for id in "abc"] == [READY, READY, FAILED]


# Prune


def test_prune_forgets_jobs_that_ended_long_ago(desk: Desk, now: Clock) -> None:
    ended(desk)
    now.advance(100)
    desk.done(desk.claim_one(B))  # "waits"

    assert desk.prune(done=50, failed=200) == 2

    assert [id for id in ("done", "failed", "cancelled", "runs", "waits") if desk.state(id) is None] == [
        "done",
        "cancelled",
    ]
    assert desk.prune(done=50, failed=50) == 1
    assert desk.records("failed") == [None]
    assert desk.attempts("failed") == []


def test_prune_never_forgets_a_job_that_has_not_ended(desk: Desk, now: Clock) -> None:
    desk.put_and_claim(A, "runs")
    desk.put("waits", new("scheduled", delay=5000))
    now.advance(1000)

    assert desk.prune() == 0

    assert None not in desk.records("runs", "waits", "scheduled")


def test_prune_forgets_no_more_than_its_limit_of_each_the_oldest_first(desk: Desk, now: Clock) -> None:
    for n in range(3):
        for job in desk.put_and_claim(A, f"done{n}", f"failed{n}"):
            desk.settle(job, Outcome.DONE if job.id.startswith("d") else Outcome.FAILED)
        now.advance(1)

    assert desk.prune(limit=2) == 4

    assert desk.searched() == ["failed2", "done2"]


def test_the_number_of_a_job_that_was_forgotten_is_never_given_out_again(desk: Desk, now: Clock) -> None:
    """Also when the newest of all is forgotten, and all are."""
    seqs = []
    for names in (("a", "b"), ("c",), ("d", "e")):
        jobs = desk.put_and_claim(A, *names)
        seqs += [job.seq for job in jobs]
        for job in jobs:
            desk.done(job)
        now.advance(100)
        assert desk.prune(done=50) == len(names)

    assert seqs == sorted(set(seqs))
