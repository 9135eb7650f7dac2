"""Jobs come into the store once, with all that was said of them."""

from __future__ import annotations

import pytest

from penstock.engines.requests import (
    Fate,
    Outcome,
)
from tests.engines.kinds import (
    READY,
    SCHEDULED,
    A,
    B,
    Clock,
    Desk,
    new,
)


def test_a_job_that_was_put_is_there_with_all_that_was_said_of_it(desk: Desk, now: Clock) -> None:
    asked = new("a", "resize", queue="images", priority=3, args=b'{"n":1}', headers=b"{}", delay=5)

    assert desk.put(asked) == [Fate.ACCEPTED]

    record = desk.record("a")
    assert (record.id, record.task, record.queue, record.priority) == ("a", "resize", "images", 3)
    assert (record.args, record.headers) == (b'{"n":1}', b"{}")
    assert (record.enqueued, record.due, record.state) == (now(), now() + 5, SCHEDULED)
    assert (record.attempt, record.crashes, record.suspect, record.worker) == (0, 0, False, None)
    assert (record.started, record.ended, record.ran, record.result) == (None, None, None, None)
    assert (record.error, record.reason, record.cancelling, record.progress) == (None, "", False, None)


def test_arguments_and_names_come_back_byte_by_byte(desk: Desk) -> None:
    names = ["plain", "späte Größe", "名前", "🚰", "a'b\"c;--", "x" * 500]
    args = bytes(range(256))

    desk.put(*(new(name, name, queue=name, args=args, headers=args) for name in names))

    claimed = desk.claim(A, tasks=names)
    assert [(job.id, job.task, job.queue, job.args, job.headers) for job in claimed] == [
        (name, name, name, args, args) for name in names
    ]


def test_no_headers_are_not_empty_headers(desk: Desk) -> None:
    desk.put(new("none", headers=None), new("empty", headers=b""))

    assert [job.headers for job in desk.claim(A)] == [None, b""]
    assert [desk.record("none").headers, desk.record("empty").headers] == [None, b""]


def test_each_job_of_a_put_has_its_fate_in_its_place(desk: Desk) -> None:
    desk.put("b")

    assert desk.put("a", "b", "c") == [Fate.ACCEPTED, Fate.KNOWN, Fate.ACCEPTED]


def test_an_id_twice_in_one_put_is_one_job_the_first(desk: Desk) -> None:
    assert desk.put(new("a", args=b"first"), new("a", args=b"second")) == [Fate.ACCEPTED, Fate.KNOWN]

    assert [job.args for job in desk.claim(A)] == [b"first"]


def test_jobs_that_are_put_again_cost_those_after_them_nothing(desk: Desk) -> None:
    """An engine that counts its jobs later may not take for counted what was refused."""
    many = [f"{number}" for number in range(1_000)]
    desk.put(*many)

    assert set(desk.put(*many)) == {Fate.KNOWN}
    for id in ("a", "a", "b"):
        desk.put(id)

    assert desk.counts() == {("default", "work", READY): 1_002}
    assert [job.id for job in desk.claim(A, limit=2_000)] == [*many, "a", "b"]


def test_one_that_was_put_one_by_one_and_is_put_again_costs_those_after_it_nothing(desk: Desk) -> None:
    ids = [f"{number}" for number in range(600)]
    for id in ids:
        desk.put(id)
        desk.put(id)

    assert desk.counts() == {("default", "work", READY): 600}
    assert desk.claim_ids(A, limit=1_000) == ids


def test_an_id_that_waits_is_known_and_stays_as_it_is(desk: Desk) -> None:
    desk.put(new("ready", args=b"first"), new("later", args=b"first", delay=60))

    assert desk.put(new("ready", "other", priority=9), new("later", "other")) == [Fate.KNOWN, Fate.KNOWN]

    for record in desk.records("ready", "later"):
        assert record is not None
        assert (record.args, record.task, record.priority) == (b"first", "work", 0)
    assert desk.claim_ids(A, tasks=["work", "other"]) == ["ready"]


def test_an_id_that_runs_is_known_and_the_claim_stays_current(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")

    assert desk.put("a") == [Fate.KNOWN]

    assert desk.claim(B) == []
    assert desk.done(job)


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED])
def test_an_id_that_has_ended_is_known_and_does_not_run_again(desk: Desk, outcome: Outcome) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.settle(job, outcome)

    assert desk.put("a") == [Fate.KNOWN]

    assert desk.claim(A) == []
    assert desk.record("a").token == job.token


def test_an_id_that_was_pruned_can_be_put_anew(desk: Desk, now: Clock) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.done(job)
    now.advance(1)
    desk.prune()

    assert desk.put("a") == [Fate.ACCEPTED]

    assert desk.claim_ids(A) == ["a"]


def test_a_delay_makes_a_job_wait_for_its_time(desk: Desk, now: Clock) -> None:
    desk.put(new("a", delay=10))

    now.advance(9)
    assert desk.claim(A) == []
    assert desk.state("a") is SCHEDULED
    now.advance(2)

    assert desk.claim_ids(A) == ["a"]


def test_at_is_a_time_of_the_wall_clock_in_place_of_a_delay(desk: Desk, now: Clock) -> None:
    desk.put(new("a", delay=1000, at=now() + 10))

    assert desk.record("a").due == pytest.approx(now() + 10, abs=0.01)
    now.advance(9)
    assert desk.claim(A) == []
    now.advance(2)

    assert desk.claim_ids(A) == ["a"]


def test_at_in_the_past_means_now(desk: Desk, now: Clock) -> None:
    desk.put(new("a"))
    now.advance(5)
    desk.put(new("b", at=now() - 3600))

    assert desk.state("b") is READY
    assert desk.claim_ids(A) == ["a", "b"]
