"""Several requests in one step; and bad ones, which fail alone."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.records import Search
from penstock.engines.requests import (
    Beat,
    Cancel,
    Claim,
    Claimed,
    Cut,
    Fate,
    Outcome,
    Pause,
    Progress,
    Prune,
    Put,
    Renew,
    Settle,
    Settlement,
    Sweep,
    Want,
)
from tests.engines.kinds import (
    DONE,
    WORK,
    A,
    Desk,
    Refused,
    new,
)


def test_requests_are_done_in_their_order(desk: Desk) -> None:
    fates, claimed, cuts, more = desk.ask_all(
        Put([new("a")]), Claim(A, None, [WORK]), Cancel(["a"], "no more"), Claim(A, None, [WORK])
    )

    assert fates == [Fate.ACCEPTED]
    assert cuts == [Cut.ASKED]
    assert isinstance(claimed, Claimed)
    assert [job.id for jobs in claimed.jobs for job in jobs] == ["a"]
    assert isinstance(more, Claimed)
    assert [reason for _, _, reason in more.cancels] == ["no more"]


def test_no_requests_have_no_answers(desk: Desk) -> None:
    assert desk.ask_all() == []


def test_empty_requests_have_empty_answers(desk: Desk) -> None:
    answers = desk.ask_all(Put([]), Settle([]), Cancel([]), Claim(A, None, []))

    assert answers[:3] == [[], [], []]
    assert isinstance(answers[3], Claimed)
    assert list(answers[3].jobs) == []


def test_many_jobs_in_one_step_are_all_there(desk: Desk) -> None:
    desk.put(*(f"{n}" for n in range(3_000)))
    jobs = desk.claim(A, limit=3_000)

    assert [job.id for job in jobs] == [f"{n}" for n in range(3_000)]
    assert desk.ask(Settle([Settlement(job.seq, job.token, Outcome.DONE) for job in jobs])) == [True] * 3_000
    assert desk.cancel(*(f"{n}" for n in range(3_000))) == [Cut.ENDED] * 3_000
    assert desk.find(Search(limit=5_000, states=[DONE])) == desk.records(*(f"{n}" for n in range(3_000)))[::-1]


BAD: dict[str, Any] = {
    "no request": "put",
    "an id that is no text": Put([new("fine"), new("bad")._replace(id=7)]),  # type: ignore[arg-type]
    "an id without a letter": Put([new("fine"), new("")]),
    "an id that is no Unicode": Put([new("fine"), new("\ud800")]),
    "a task that is no text": Put([new("fine"), new("bad", None)]),  # type: ignore[arg-type]
    "a queue that is no Unicode": Put([new("fine"), new("bad", queue="\udfff")]),
    "arguments that are no bytes": Put([new("fine"), new("bad", args={"n": 1})]),
    "headers that are no bytes": Put([new("fine"), new("bad", headers="h")]),
    "a priority that is too high": Put([new("fine"), new("bad", priority=2**70)]),
    "a priority that is no number": Put([new("fine"), new("bad", priority="high")]),
    "a negative delay": Put([new("fine"), new("bad", delay=-1)]),
    "a delay that is no number": Put([new("fine"), new("bad", delay=float("nan"))]),
    "a time without end": Put([new("fine"), new("bad", at=float("inf"))]),
    "a worker beyond 63 bits": Claim(2**63, None, [WORK]),
    "a negative limit": Claim(A, None, [Want(frozenset({"work"}), -1)]),
    "an outcome that is none": Settle([Settlement(1, 1, "lost")]),  # type: ignore[arg-type]
    "a settlement with a negative delay": Settle([Settlement(1, 1, Outcome.RETRY, delay=-5)]),
    "a settlement with a delay that is no number": Settle([Settlement(1, 1, Outcome.RETRY, delay=float("nan"))]),
    "a result that is no bytes": Settle([Settlement(1, 1, Outcome.DONE, result="1")]),  # type: ignore[arg-type]
    "progress that is no number": Progress(1, 1, float("nan")),
    "a lease without end": Renew([Beat(A)], float("inf")),
    "a negative lease": Renew([Beat(A)], -1),
    "a sweep that would take at once": Sweep(lease=float("nan")),
    "a reason that is no Unicode": Cancel(["fine"], "\ud800"),
    "a queue to pause that is no text": Pause(None),  # type: ignore[arg-type]
    "a negative limit of pruning": Prune(limit=-1),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_request_that_cannot_be_done_fails_alone_and_in_whole(desk: Desk, bad: str) -> None:
    [job] = desk.put_and_claim(A, "running")
    record = desk.record("running")

    before, refused, after = desk.ask_all(Put([new("before")]), BAD[bad], Put([new("after")]))

    assert (before, after) == ([Fate.ACCEPTED], [Fate.ACCEPTED])
    assert isinstance(refused, (ValueError, TypeError))
    assert str(refused)
    assert desk.searched() == ["after", "before", "running"]
    assert desk.record("running") == record
    assert desk.done(job)


def test_a_refused_request_says_what_is_wrong_with_it(desk: Desk) -> None:
    with pytest.raises(Refused, match="delay"):
        desk.put(new("a", delay=-1))
    with pytest.raises(Refused, match="priority"):
        desk.put(new("a", priority=2**70))
