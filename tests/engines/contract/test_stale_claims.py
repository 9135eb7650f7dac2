"""Tokens: who has lost a job, or has settled it, changes nothing any more."""

from __future__ import annotations

import pytest

from penstock.engines.requests import (
    ClaimedJob,
    Outcome,
    Settle,
    Settlement,
)
from tests.engines.kinds import (
    DONE,
    LEASE,
    A,
    B,
    Clock,
    Desk,
    died,
    oops,
)


def test_tokens_of_a_job_rise_with_every_claim(desk: Desk, now: Clock) -> None:
    desk.put("a")
    tokens = []
    for outcome in (Outcome.RELEASE, Outcome.RETRY, Outcome.SNOOZE, Outcome.DONE):
        job = desk.claim_one(A)
        tokens.append(job.token)
        desk.settle(job, outcome)
    desk.again("a", states=[DONE])
    tokens.append(desk.claim_one(A).token)
    desk.sweep(died(A, []))
    tokens.append(desk.claim_one(B).token)

    assert tokens == sorted(set(tokens))


def unchanged(desk: Desk, job: ClaimedJob) -> None:
    """*job* is a stale claim: it can't do anything any more."""
    before = (desk.record(job.id), desk.attempts(job.id), desk.counts(), desk.kinds_of_failures())

    assert not desk.progress(job, 1, 2, "late")
    for outcome in Outcome:
        assert not desk.settle(job, outcome, result=b"late", error=oops("late"), delay=1, reason="late", ran=1)

    assert (desk.record(job.id), desk.attempts(job.id), desk.counts(), desk.kinds_of_failures()) == before


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_claim_that_was_settled_is_stale(desk: Desk, outcome: Outcome) -> None:
    [job] = desk.put_and_claim(A, "a")

    assert desk.settle(job, outcome, delay=5)

    unchanged(desk, job)


@pytest.mark.parametrize("outcome", [Outcome.RELEASE, Outcome.RETRY, Outcome.SNOOZE])
def test_an_old_claim_is_stale_though_the_same_worker_has_the_job_again(desk: Desk, outcome: Outcome) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.settle(old, outcome)
    job = desk.claim_one(A)

    unchanged(desk, old)
    assert desk.done(job)


def test_a_claim_is_stale_after_a_sweep_gave_the_job_away(desk: Desk) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.pass_time(LEASE + 1, B)
    desk.sweep()

    unchanged(desk, old)
    job = desk.claim_one(B, alone=True)
    unchanged(desk, old)
    assert desk.done(job)
    unchanged(desk, old)


def test_a_claim_is_stale_after_its_worker_was_reported_dead(desk: Desk) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.sweep(died(A, []))

    unchanged(desk, old)
    job = desk.claim_one(B)
    unchanged(desk, old)
    assert desk.done(job)


def test_a_claim_of_before_is_stale_when_the_job_was_asked_for_again(desk: Desk) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.settle(old, Outcome.FAILED)
    desk.again("a")

    unchanged(desk, old)
    job = desk.claim_one(A)
    unchanged(desk, old)
    assert desk.done(job)


def test_a_claim_of_a_pruned_job_fits_no_other(desk: Desk, now: Clock) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.done(old)
    now.advance(1)
    assert desk.prune() == 1
    for id in ("a", "b"):
        [job] = desk.put_and_claim(A, id)

        assert (job.seq, job.token) != (old.seq, old.token)
        assert not desk.progress(old, 1)
        assert not desk.done(old)
        assert desk.done(job)


def test_a_token_that_was_never_given_is_stale(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.put("waits")
    waiting = job._replace(id="waits", seq=desk.record("waits").seq, token=0)

    unchanged(desk, job._replace(token=job.token + 1))
    unchanged(desk, job._replace(token=job.token - 1))
    unchanged(desk, waiting)
    assert not desk.done(job._replace(seq=job.seq + 1_000_000))
    assert desk.done(job)


def test_each_settlement_is_answered_in_its_place(desk: Desk) -> None:
    a, b, c = desk.put_and_claim(A, "a", "b", "c")
    desk.done(b)

    answers = desk.ask(
        Settle([Settlement(job.seq, job.token, Outcome.DONE) for job in (a, b, c, a)])  # a twice: once is enough
    )

    assert answers == [True, False, True, False]
