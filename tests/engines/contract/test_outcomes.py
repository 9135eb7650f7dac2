"""How an attempt ends, and what becomes of its job."""

from __future__ import annotations

import pytest

from penstock.engines.requests import (
    Outcome,
    Progress,
)
from penstock.job import JobState
from tests.engines.kinds import (
    CANCELLED,
    DONE,
    FAILED,
    READY,
    SCHEDULED,
    A,
    B,
    Clock,
    Desk,
    oops,
)

# How an attempt ends


def test_done_keeps_the_result(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")
    now.advance(3)

    assert desk.settle(job, Outcome.DONE, result=b"42", ran=2.5)

    record = desk.record("a")
    assert (record.state, record.result, record.ran, record.ended) == (DONE, b"42", 2.5, now())
    assert (record.attempt, record.worker, record.error, record.reason) == (1, None, None, "")
    assert desk.attempts("a") == []


def test_no_result_is_not_an_empty_one(desk: Desk) -> None:
    for id, result in (("none", None), ("empty", b"")):
        desk.put(id)
        desk.settle(desk.claim_one(A), Outcome.DONE, result=result)

        assert desk.record(id).result == result


def test_failed_keeps_the_error_and_the_attempt(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")
    now.advance(3)

    assert desk.settle(job, Outcome.FAILED, error=oops(), ran=2.5)

    record = desk.record("a")
    assert (record.state, record.error, record.ran, record.ended) == (FAILED, oops(), 2.5, now())
    assert (record.attempt, record.worker, record.result) == (1, None, None)
    [attempt] = desk.attempts("a")
    assert (attempt.number, attempt.token, attempt.worker, attempt.outcome) == (1, job.token, A, "failed")
    assert (attempt.started, attempt.ended, attempt.error) == (now() - 3, now(), oops())


def test_cancelled_keeps_its_reason(desk: Desk) -> None:
    a, b = desk.put_and_claim(A, "a", "b")

    desk.settle(a, Outcome.CANCELLED, reason="gave up")
    desk.settle(b, Outcome.CANCELLED)

    assert [(desk.record(id).state, desk.record(id).reason) for id in "ab"] == [
        (CANCELLED, "gave up"),
        (CANCELLED, "cancelled"),
    ]
    [attempt] = desk.attempts("a")
    assert (attempt.outcome, attempt.reason) == ("cancelled", "gave up")


def test_retry_runs_again_after_its_delay_and_counts_the_attempt(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.settle(job, Outcome.RETRY, error=oops(), delay=10, ran=1.5)

    record = desk.record("a")
    assert (record.state, record.due, record.attempt) == (SCHEDULED, now() + 10, 1)
    assert (record.error, record.ran, record.worker, record.ended) == (oops(), 1.5, None, None)
    assert [(it.number, it.outcome, it.error) for it in desk.attempts("a")] == [(1, "retry", oops())]
    now.advance(9)
    assert desk.claim(A) == []
    now.advance(2)
    job = desk.claim_one(B)
    assert job.attempt == 2
    assert job.waited == pytest.approx(1)


def test_retry_without_delay_goes_to_the_end_of_the_line(desk: Desk, now: Clock) -> None:
    desk.put("a", "b")
    now.advance(1)
    desk.settle(desk.claim_one(A), Outcome.RETRY)

    assert desk.state("a") is READY
    assert desk.claim_ids(A) == ["b", "a"]


def test_snooze_runs_again_after_its_delay_and_costs_no_attempt(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.settle(job, Outcome.SNOOZE, delay=10, reason="not yet")

    record = desk.record("a")
    assert (record.state, record.due, record.attempt, record.reason) == (SCHEDULED, now() + 10, 0, "not yet")
    assert [(it.number, it.outcome, it.reason) for it in desk.attempts("a")] == [(1, "snooze", "not yet")]
    now.advance(11)
    job = desk.claim_one(A)
    assert job.attempt == 1
    desk.settle(job, Outcome.SNOOZE)
    assert desk.state("a") is READY


def test_release_costs_no_attempt_and_keeps_its_place_in_the_line(desk: Desk, now: Clock) -> None:
    desk.put("a", "b")
    now.advance(5)
    desk.put("c")
    b = desk.claim(A, limit=2)[1]
    now.advance(5)

    desk.settle(b, Outcome.RELEASE, reason="stopping", delay=60)  # a release has no delay

    record = desk.record("b")
    assert (record.state, record.attempt, record.reason, record.due) == (READY, 0, "stopping", now() - 10)
    assert [(it.number, it.outcome, it.reason) for it in desk.attempts("b")] == [(1, "release", "stopping")]
    assert [(job.id, job.attempt, job.waited) for job in desk.claim(B)] == [("b", 1, 10), ("c", 1, 5)]


def test_crashed_uses_no_attempt_but_one_death_and_runs_again_alone(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")

    desk.settle(job, Outcome.CRASHED, error=oops("died"), ran=1)

    record = desk.record("a")
    assert (record.state, record.attempt, record.crashes, record.suspect) == (READY, 0, 1, True)
    assert (record.error, record.worker) == (oops("died"), None)
    assert [(it.outcome, it.error) for it in desk.attempts("a")] == [("crashed", oops("died"))]
    assert desk.claim(A) == []
    assert desk.claim_ids(A, alone=True) == ["a"]


def test_the_third_crash_fails_the_job(desk: Desk) -> None:
    desk.put("a")
    desk.settle(desk.claim_one(A), Outcome.CRASHED, error=oops("died"))
    for _ in range(2):
        desk.settle(desk.claim_one(A, alone=True), Outcome.CRASHED, error=oops("died"))

    record = desk.record("a")
    assert (record.state, record.crashes, record.suspect, record.attempt) == (FAILED, 3, False, 0)
    assert record.error == oops("died")
    assert record.ended is not None
    assert [it.outcome for it in desk.attempts("a")] == ["crashed"] * 3


@pytest.mark.parametrize(
    ("outcome", "state", "used"),
    [
        (Outcome.DONE, DONE, 1),
        (Outcome.FAILED, FAILED, 1),
        (Outcome.CANCELLED, CANCELLED, 1),
        (Outcome.RETRY, CANCELLED, 1),
        (Outcome.SNOOZE, CANCELLED, 0),
        (Outcome.RELEASE, CANCELLED, 0),
        (Outcome.CRASHED, CANCELLED, 0),
    ],
)
def test_what_was_cancelled_meanwhile_does_not_run_again(
    desk: Desk, outcome: Outcome, state: JobState, used: int
) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.cancel("a", reason="no more")

    assert desk.settle(job, outcome, error=oops(), delay=5)

    record = desk.record("a")
    assert (record.state, record.attempt, record.cancelling, record.worker) == (state, used, False, None)
    assert record.ended is not None
    assert record.reason == ("no more" if state is CANCELLED else "")
    assert desk.claim(A) == []
    assert desk.sweep().due == 0


def test_attempts_are_on_record_oldest_first_and_the_last_good_one_is_not(desk: Desk, now: Clock) -> None:
    desk.put("a")
    wanted = []
    for number, outcome in ((1, Outcome.RETRY), (2, Outcome.RELEASE), (2, Outcome.SNOOZE), (2, Outcome.RETRY)):
        now.advance(1)
        job = desk.claim_one(A)
        now.advance(1)
        desk.settle(job, outcome, error=oops() if outcome is Outcome.RETRY else None)
        wanted.append((number, job.token, now() - 1, now(), outcome.value))
    desk.done(desk.claim_one(A))

    assert [(it.number, it.token, it.started, it.ended, it.outcome) for it in desk.attempts("a")] == wanted
    assert desk.record("a").attempt == 3
    assert desk.attempts("nobody") == []


def test_the_last_error_stays_with_a_job_that_is_done_in_the_end(desk: Desk) -> None:
    desk.put("a")
    desk.settle(desk.claim_one(A), Outcome.RETRY, error=oops())
    desk.done(desk.claim_one(A))

    assert (desk.record("a").state, desk.record("a").error) == (DONE, oops())


# Progress


def test_progress_shows_in_the_record_until_the_next_claim(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")

    assert desk.progress(job, 3, 10, "third page")
    assert desk.record("a").progress == Progress(job.seq, job.token, 3, 10, "third page")
    assert desk.progress(job, 4.5)
    assert desk.record("a").progress == Progress(job.seq, job.token, 4.5, None, "")

    desk.settle(job, Outcome.RETRY)
    desk.claim(A)
    assert desk.record("a").progress is None
