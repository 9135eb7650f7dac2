"""What a store says of its jobs is so: counts, queues, kinds of failures, searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from penstock.engines.records import Attempts, Begins, ByIds, Search, States
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
    Clock,
    Desk,
    died,
    ended,
    new,
    oops,
)

# Counting


def rows(desk: Desk) -> dict[tuple[str, str, JobState], int]:
    found = desk.find(Search(limit=1_000))
    return dict(Counter((record.queue, record.task, record.state) for record in found))


def test_counts_equal_the_rows_whatever_happens(desk: Desk, now: Clock) -> None:
    assert desk.counts() == {}
    desk.put(*(new(f"{n}", f"task{n % 2}", queue=f"queue{n % 3}", delay=(n % 4) * 5) for n in range(40)))
    assert desk.counts() == rows(desk)
    for step, outcome in enumerate(Outcome):
        now.advance(3)
        for job in desk.claim(A, tasks=["task0", "task1"], limit=4):
            desk.settle(job, outcome, error=oops(), delay=step)
        assert desk.counts() == rows(desk)
    desk.claim(A, tasks=["task0"])
    assert desk.counts() == rows(desk)
    steps: list[Callable[[], object]] = [
        lambda: desk.cancel(*(f"{n}" for n in range(0, 40, 3))),
        lambda: desk.sweep(died(A)),
        lambda: desk.again(states=[FAILED, CANCELLED]),
        lambda: now.advance(60),
        lambda: desk.sweep(),
        lambda: desk.prune(),
    ]
    for take in steps:
        take()
        assert desk.counts() == rows(desk)
    assert desk.complaints() == []


def test_counts_have_no_zeros(desk: Desk, now: Clock) -> None:
    [a] = desk.put_and_claim(A, "a")
    assert desk.counts() == {("default", "work", RUNNING): 1}
    desk.done(a)
    assert desk.counts() == {("default", "work", DONE): 1}
    now.advance(1)
    desk.prune()

    assert desk.counts() == {}


def test_queues_are_those_with_jobs_and_the_paused_ones(desk: Desk, now: Clock) -> None:
    desk.put(new("a", queue="x"), new("b", queue="y", delay=60))
    now.advance(7)
    desk.put(new("c", queue="x"))
    desk.pause("x")
    desk.pause("z")

    assert desk.queues() == {"x": (True, pytest.approx(7)), "y": (False, None), "z": (True, None)}

    desk.resume("x")
    desk.resume("z")
    for job in desk.claim(A):
        desk.done(job)
    assert desk.queues() == {"x": (False, None), "y": (False, None)}
    now.advance(1)
    desk.prune()
    assert desk.queues() == {"y": (False, None)}


# Failures by kind


def test_failures_are_counted_by_kind_the_latest_first(desk: Desk, now: Clock) -> None:
    began = now()
    jobs = desk.put_and_claim(A, "a", "b", "c", "d")
    for job, print in zip(jobs, ("this", "that", "this", "this"), strict=True):
        desk.settle(job, Outcome.FAILED, error=oops(print, f"{print} of {job.id}"))
        now.advance(1)

    this, that = desk.kinds_of_failures()

    assert (this.error, this.task, this.count) == (oops("this", "this of a"), "work", 3)
    assert (this.first, this.last) == (began, began + 3)
    assert 1 <= len(this.ids) <= 3
    assert set(this.ids) <= {"a", "c", "d"}
    assert (that.error, that.count, list(that.ids)) == (oops("that", "that of b"), 1, ["b"])
    assert [kind.error.print for kind in desk.kinds_of_failures(limit=1)] == ["this"]


def test_every_attempt_that_was_settled_with_an_error_counts_also_of_jobs_that_are_forgotten(
    desk: Desk, now: Clock
) -> None:
    desk.put("a")
    for outcome in (Outcome.RETRY, Outcome.RETRY, Outcome.FAILED):
        desk.settle(desk.claim_one(A), outcome, error=oops())
    now.advance(1)
    desk.prune()
    [job] = desk.put_and_claim(A, "b")
    desk.settle(job, Outcome.FAILED)  # of no kind

    [kind] = desk.kinds_of_failures()
    assert (kind.count, list(kind.ids)) == (3, ["a"])


def test_deaths_that_are_laid_to_a_job_are_failures_of_a_kind(desk: Desk) -> None:
    [job] = desk.put_and_claim(A, "a")
    desk.sweep(died(A, [job]))

    [kind] = desk.kinds_of_failures()
    assert (kind.count, kind.task, list(kind.ids)) == (1, "work", ["a"])
    assert kind.error == desk.record("a").error


# Finding


def test_jobs_are_found_in_the_order_in_which_they_were_asked_for(desk: Desk) -> None:
    desk.put("a", "b")

    assert [None if it is None else it.id for it in desk.records("b", "nobody", "a", "b")] == ["b", None, "a", "b"]
    assert desk.records() == []


def test_states_are_found_by_id(desk: Desk, now: Clock) -> None:
    ended(desk)
    desk.put(new("scheduled", delay=5))

    states = {id: desk.state(id) for id in ("done", "failed", "cancelled", "runs", "waits", "scheduled", "nobody")}

    assert list(states.values()) == [DONE, FAILED, CANCELLED, RUNNING, READY, SCHEDULED, None]


def test_a_search_finds_what_matches_all_that_is_given_newest_first(desk: Desk) -> None:
    ended(desk)
    desk.put(new("other", "draw", queue="x"), new("later", queue="x", delay=60))

    assert desk.searched() == ["later", "other", "waits", "runs", "cancelled", "failed", "done"]
    assert desk.searched(states=[DONE, RUNNING]) == ["runs", "done"]
    assert desk.searched(states=[]) == []
    assert desk.searched(queue="x") == ["later", "other"]
    assert desk.searched(queue="x", task="work") == ["later"]
    assert desk.searched(task="draw", states=[SCHEDULED]) == []
    assert desk.searched(print="oops") == ["failed"]
    assert desk.searched(print="oops", states=[READY]) == []


def test_a_search_goes_on_page_by_page(desk: Desk) -> None:
    ids = [f"{n}" for n in range(10)]
    desk.put(*ids)
    found: list[str] = []
    before: int | None = None
    while page := desk.find(Search(states=[READY], before=before, limit=4)):
        assert len(page) <= 4
        found += [record.id for record in page]
        before = page[-1].seq

    assert found == ids[::-1]


def test_all_ways_to_find_a_job_agree(desk: Desk, now: Clock) -> None:
    ended(desk)
    desk.put(new("later", delay=60))

    for record in desk.find(Search()):
        assert desk.record(record.id) == record
        assert desk.state(record.id) is record.state


@pytest.mark.parametrize("text", ["a\0", "\ud800", "a\udcff"])
def test_what_no_store_can_have_is_not_found(desk: Desk, text: str) -> None:
    """A NUL, or half a pair: what the command line makes of bytes that are no text."""
    desk.put("a")

    assert [record and record.id for record in desk.find(ByIds([text, "a"]))] == [None, "a"]
    assert desk.find(States([text, "a"])) == [None, READY]
    assert desk.find(Begins(text, 5)) == []
    assert desk.find(Attempts(text)) == []
    for search in (Search(queue=text), Search(task=text), Search(print=text)):
        assert desk.find(search) == []
