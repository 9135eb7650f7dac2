"""Waiting jobs are cancelled at once, running ones when their worker hears of it."""

from __future__ import annotations

from penstock.engines.requests import (
    Cancel,
    Cut,
    Outcome,
)
from tests.engines.kinds import (
    CANCELLED,
    DONE,
    RUNNING,
    A,
    B,
    Clock,
    Desk,
    new,
)


def test_a_waiting_job_is_cancelled_at_once(desk: Desk, now: Clock) -> None:
    desk.put("a", new("b", delay=10))

    assert desk.cancel("a", "b", reason="no more") == [Cut.CANCELLED, Cut.CANCELLED]

    for record in desk.records("a", "b"):
        assert record is not None
        assert (record.state, record.reason, record.ended, record.attempt) == (CANCELLED, "no more", now(), 0)
    now.advance(11)
    assert desk.claim(A) == []
    assert desk.attempts("a") == []


def test_a_running_job_is_asked_and_goes_on_until_it_is_settled(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")

    assert desk.cancel("a", reason="no more") == [Cut.ASKED]

    record = desk.record("a")
    assert (record.state, record.cancelling, record.reason, record.worker) == (RUNNING, True, "no more", A)
    assert desk.progress(job, 1)
    assert desk.settle(job, Outcome.CANCELLED)
    assert (desk.record("a").state, desk.record("a").reason) == (CANCELLED, "no more")


def test_an_ended_job_is_not_cancelled(desk: Desk) -> None:
    jobs = desk.put_and_claim(A, "a", "b", "c")
    for job, outcome in zip(jobs, (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED), strict=True):
        desk.settle(job, outcome, reason="by itself")
    before = desk.records("a", "b", "c")

    assert desk.cancel("a", "b", "c", reason="too late") == [Cut.ENDED] * 3

    assert desk.records("a", "b", "c") == before


def test_nobody_is_cancelled_who_is_not_there(desk: Desk) -> None:
    desk.put("a")

    assert desk.cancel("b", "a", "a") == [Cut.UNKNOWN, Cut.CANCELLED, Cut.ENDED]


def test_the_first_reason_to_cancel_a_running_job_stays(desk: Desk) -> None:
    desk.put_and_claim(A, "a")

    assert desk.cancel("a", reason="first") + desk.cancel("a", reason="second") == [Cut.ASKED, Cut.ASKED]

    assert desk.record("a").reason == "first"


def test_a_claim_tells_its_worker_of_cancelled_jobs_until_they_are_settled(desk: Desk) -> None:
    a, b = desk.put_and_claim(A, "a", "b")
    desk.put("c")
    desk.claim(B)
    desk.cancel("a", reason="no more")
    desk.cancel("c")

    assert list(desk.take(A).cancels) == [(a.seq, a.token, "no more")]
    desk.cancel("b")
    assert set(desk.take(A).cancels) == {(a.seq, a.token, "no more"), (b.seq, b.token, "cancelled")}
    desk.settle(a, Outcome.CANCELLED)
    desk.done(b)
    assert list(desk.take(A).cancels) == []


def test_a_renewal_tells_workers_of_cancelled_jobs(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    [b] = desk.put_and_claim(B, "b")
    desk.cancel("a", "b", reason="no more")

    assert set(desk.renew(A, B).cancels) == {(A, a.seq, a.token, "no more"), (B, b.seq, b.token, "no more")}
    assert list(desk.renew(B).cancels) == [(B, b.seq, b.token, "no more")]
    desk.settle(b, Outcome.CANCELLED)
    assert list(desk.renew(B).cancels) == []


def test_a_cancelled_job_that_goes_to_another_worker_is_none_of_the_first_ones_business(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.cancel("a")
    desk.settle(a, Outcome.DONE)
    desk.again("a", states=[DONE])
    desk.claim(B)

    assert list(desk.renew(A, B).cancels) == []
    assert list(desk.take(A).cancels) == []


def test_many_who_cancel_at_once_are_told_what_it_did_to_each(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.put("b", "c")

    cuts = desk.ask_all(Cancel(["a", "b"], "first"), Cancel(["b", "x", "a"], "second"), Cancel(["c"], "third"))

    assert cuts == [[Cut.ASKED, Cut.CANCELLED], [Cut.ENDED, Cut.UNKNOWN, Cut.ASKED], [Cut.CANCELLED]]
    assert [desk.record(id).reason for id in ("a", "b", "c")] == ["first", "first", "third"]
    assert desk.done(a)
