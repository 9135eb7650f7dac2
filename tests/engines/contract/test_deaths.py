"""What becomes of the jobs of a worker that died, and who is to blame."""

from __future__ import annotations

import pytest

from penstock.engines.records import Workers
from penstock.engines.requests import (
    Outcome,
    Want,
)
from tests.engines.kinds import (
    CANCELLED,
    FAILED,
    LEASE,
    READY,
    WORK,
    A,
    B,
    Clock,
    Desk,
    died,
    new,
)

# Deaths


def test_jobs_that_had_not_begun_go_back_as_if_never_claimed(desk: Desk, now: Clock) -> None:
    desk.put("a", "b")
    now.advance(5)
    desk.put("c")
    a, _ = desk.claim(A, limit=2)
    now.advance(5)
    desk.sweep(died(A, [a]))

    record = desk.record("b")
    assert (record.state, record.attempt, record.crashes, record.suspect) == (READY, 0, 0, False)
    assert (record.worker, record.due, record.reason) == (None, now() - 10, "")
    assert desk.attempts("b") == []
    assert desk.claim_ids(B) == ["b", "c"]


def test_a_death_is_laid_to_the_job_that_was_alone(desk: Desk, now: Clock) -> None:
    a, _ = desk.put_and_claim(A, "a", "b")
    now.advance(1)

    swept = desk.sweep(died(A, [a]))

    assert (swept.returned, swept.failed, swept.suspects) == (2, 0, 1)
    record = desk.record("a")
    assert (record.state, record.attempt, record.crashes, record.suspect) == (READY, 0, 1, True)
    [attempt] = desk.attempts("a")
    assert (attempt.number, attempt.outcome, attempt.started, attempt.ended) == (1, "crashed", now() - 1, now())
    assert attempt.reason == "killed by SIGKILL"
    assert attempt.error is not None
    assert "SIGKILL" in attempt.error.message
    assert record.error == attempt.error


def test_several_that_ran_become_suspects_and_the_death_is_laid_to_none(desk: Desk) -> None:
    a, b, _ = desk.put_and_claim(A, "a", "b", "c")

    assert desk.sweep(died(A, [a, b])).suspects == 2

    assert [(desk.record(id).crashes, desk.record(id).suspect) for id in "abc"] == [(0, True), (0, True), (0, False)]
    [attempt] = desk.attempts("a")
    assert (attempt.outcome, attempt.reason, attempt.error) == ("crashed", "killed by SIGKILL", None)
    assert desk.claim_ids(B) == ["c"]


def test_if_nobody_can_tell_what_had_begun_all_that_were_held_had(desk: Desk) -> None:
    desk.put_and_claim(A, "a", "b")
    desk.put_and_claim(B, "c")

    desk.sweep(died(A), died(B))

    assert [(desk.record(id).crashes, desk.record(id).suspect) for id in "abc"] == [(0, True), (0, True), (1, True)]


def test_a_lost_lease_is_a_death_of_all_that_was_held(desk: Desk) -> None:
    desk.put_and_claim(A, "a")
    desk.put_and_claim(B, "b", "c")
    desk.pass_time(LEASE + 1)
    desk.sweep()

    assert [(desk.record(id).crashes, desk.record(id).suspect) for id in "abc"] == [(1, True), (0, True), (0, True)]
    assert [[it.outcome for it in desk.attempts(id)] for id in "abc"] == [["lost"]] * 3
    assert desk.attempts("a")[0].reason != ""


def test_a_death_can_be_laid_to_some_and_the_others_are_innocent(desk: Desk) -> None:
    a, b, _ = desk.put_and_claim(A, "a", "b", "c")

    desk.sweep(died(A, [a, b], blamed=[b]))

    assert [(desk.record(id).crashes, desk.record(id).suspect) for id in "abc"] == [(0, False), (1, True), (0, False)]
    assert [it.outcome for it in desk.attempts("a")] == ["crashed"]
    assert desk.claim_ids(B) == ["a", "c"]


def test_a_death_can_be_laid_to_nobody(desk: Desk) -> None:
    a, _ = desk.put_and_claim(A, "a", "b")

    desk.sweep(died(A, [a], blamed=[]))

    assert [(desk.record(id).crashes, desk.record(id).suspect) for id in "ab"] == [(0, False), (0, False)]
    assert [(job.id, job.attempt) for job in desk.claim(B)] == [("a", 1), ("b", 1)]


def test_the_third_death_ends_the_job_as_failed(desk: Desk) -> None:
    desk.put("a")
    for death in range(1, 4):
        job = desk.claim_one(A, alone=death > 1)
        swept = desk.sweep(died(A, [job]))
        assert (swept.returned, swept.failed) == ((1, 0) if death < 3 else (0, 1))
        desk.renew(A, first=True)

    record = desk.record("a")
    assert (record.state, record.crashes, record.suspect, record.attempt) == (FAILED, 3, False, 0)
    assert record.error is not None
    assert record.ended is not None
    assert [it.outcome for it in desk.attempts("a")] == ["crashed"] * 3
    assert desk.claim(B, alone=True) == []


def test_how_many_deaths_end_a_job_is_said_by_the_sweep(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")

    assert desk.sweep(died(A, [job]), crashes=1).failed == 1

    assert desk.state("a") is FAILED


@pytest.mark.parametrize("began", [True, False])
def test_a_cancelled_job_does_not_come_back_from_a_death(desk: Desk, began: bool) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.cancel("a", reason="no more")

    swept = desk.sweep(died(A, [job] if began else []))

    assert swept.returned == 0
    record = desk.record("a")
    assert (record.state, record.reason, record.attempt, record.cancelling) == (CANCELLED, "no more", 0, False)
    assert [it.outcome for it in desk.attempts("a")] == (["crashed"] if began else [])
    assert desk.claim(B) == []


def test_a_death_that_was_seen_is_no_lost_lease_though_the_lease_is_over(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.pass_time(LEASE + 1, B)

    assert list(desk.sweep(died(A, [a])).lost) == []

    assert [it.outcome for it in desk.attempts("a")] == ["crashed"]


def test_a_death_of_one_worker_leaves_the_jobs_of_others(desk: Desk) -> None:
    desk.put_and_claim(A, "a")
    [b] = desk.put_and_claim(B, "b")

    assert desk.sweep(died(A, [b])).returned == 1

    assert desk.done(b)


def test_a_worker_that_ended_in_good_order_is_a_death_without_jobs(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.done(a)

    assert desk.sweep(died(A, [])).returned == 0

    assert {it.worker for it in desk.find(Workers())} == {B}


# Suspects


def suspects(desk: Desk, *ids: str) -> None:
    """Put these jobs; a death that they shared makes suspects of them."""
    jobs = desk.put_and_claim(A, *ids)
    desk.sweep(died(A, jobs, blamed=jobs if len(jobs) == 1 else None))
    desk.renew(A, first=True)


def test_a_claim_of_its_own_gives_one_suspect_at_a_time_and_nothing_else(desk: Desk) -> None:
    suspects(desk, "a", "b")
    desk.put(new("c", priority=9), new("d", "draw"))

    assert desk.claim_ids(B, Want(frozenset({"draw"}), 5), alone=True) == []
    assert desk.claim_ids(B, WORK, Want(frozenset({"work", "draw"}), 5), alone=True) == ["a"]
    assert desk.claim_ids(B, Want(frozenset({"draw"}), 5), WORK, alone=True) == ["b"]
    assert desk.claim_ids(B, WORK, alone=True) == []
    assert desk.claim_ids(B, WORK) == ["c"]


def test_a_suspect_obeys_queues_and_pauses(desk: Desk) -> None:
    suspects(desk, "a")
    desk.pause("default")
    assert desk.claim(B, alone=True) == []
    desk.resume("default")

    assert desk.claim(B, alone=True, queues=["other"]) == []
    assert desk.claim_ids(B, alone=True, queues=["default"]) == ["a"]


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.SNOOZE])
def test_an_attempt_that_ends_otherwise_than_by_a_death_clears_a_suspect(desk: Desk, outcome: Outcome) -> None:
    suspects(desk, "a")

    desk.settle(desk.claim_one(B, alone=True), outcome)

    assert not desk.record("a").suspect
    assert desk.claim_ids(B) == ["a"]


def test_a_suspect_that_is_handed_back_is_one_still(desk: Desk) -> None:
    suspects(desk, "a")

    desk.settle(desk.claim_one(B, alone=True), Outcome.RELEASE)

    assert desk.record("a").suspect
    assert desk.claim(B) == []
    assert desk.claim_ids(B, alone=True) == ["a"]


@pytest.mark.parametrize("began", [True, False])
def test_a_suspect_is_one_still_after_a_death_that_is_not_laid_to_it(desk: Desk, began: bool) -> None:
    suspects(desk, "a")
    job = desk.claim_one(A, alone=True)

    assert desk.sweep(died(A, [job] if began else [], blamed=[])).suspects == 1

    record = desk.record("a")
    assert (record.crashes, record.suspect, record.attempt) == (1, True, 0)


def test_an_attempt_that_ends_well_does_not_forget_deaths(desk: Desk) -> None:
    suspects(desk, "a")

    desk.settle(desk.claim_one(B, alone=True), Outcome.RETRY)

    assert desk.record("a").crashes == 1


def test_a_cancelled_suspect_is_none_any_more(desk: Desk) -> None:
    suspects(desk, "a")
    desk.cancel("a")

    assert not desk.record("a").suspect
    assert desk.sweep().suspects == 0
    assert desk.claim(B, alone=True) == []
