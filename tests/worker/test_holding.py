"""What a worker holds and asks for next: rules without a thread, a clock or a pool, beside the reference engine."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.memory import MemoryEngine
from penstock.engines.records import Attempts, ByIds, HeldBy
from penstock.engines.requests import (
    Beat,
    Cancel,
    Claim,
    Death,
    NewJob,
    Outcome,
    Put,
    Renew,
    Reply,
    Request,
    Settle,
    Settlement,
    Sweep,
    Want,
)
from penstock.job import JobState
from penstock.worker import holding
from penstock.worker.holding import Held, Holding, Lane

WORKER = 7


class Bench:
    """A worker's holding and the store that it asks, step by step."""

    def __init__(self, slots: int = 2, *, both: bool = False, **options: Any) -> None:
        self.engine = MemoryEngine()
        self.lanes = {"threads": Lane(slots, frozenset({"work"}))}
        if both:
            self.lanes["loop"] = Lane(slots, frozenset({"wait"}))
        self.holding: Holding[str] = Holding(WORKER, self.lanes, **options)
        self.do(Renew([Beat(WORKER, first=True)], 30))

    def do(self, *requests: Request) -> list[Reply]:
        replies = self.engine.transact(requests)
        assert not any(isinstance(reply, Exception) for reply in replies)
        return replies  # type: ignore[return-value]

    def put(self, *ids: str, task: str = "work") -> None:
        self.do(Put([NewJob(id, task) for id in ids]))

    def step(self) -> list[Held[str]]:
        requests = self.holding.requests()
        return self.holding.answered(self.do(*requests))[0] if requests else []

    def end(self, held: Held[str], outcome: Outcome = Outcome.DONE, ran: float = 1.0) -> None:
        self.holding.ended(held, Settlement(held.job.seq, held.job.token, outcome, ran=ran))

    def prove(self) -> None:
        """What stands on record of what is doubted."""
        became = []
        for doubt in self.holding.doubted():
            [record] = self.engine.find(ByIds([doubt.held.job.id]))
            attempts = self.engine.find(Attempts(doubt.held.job.id)) if doubt.needs_attempts(record) else ()
            became.append(doubt.became(record, attempts))
        self.holding.proved(became)

    def state(self, id: str) -> JobState:
        [record] = self.engine.find(ByIds([id]))
        assert record is not None
        return record.state


@pytest.fixture
def bench() -> Bench:
    return Bench()


def names(taken: list[Held[str]]) -> list[str]:
    return [held.job.id for held in taken]


def test_it_claims_no_more_than_can_run_while_nobody_knows_how_long_jobs_take(bench: Bench) -> None:
    bench.put("a", "b", "c")
    assert names(bench.step()) == ["a", "b"]
    assert bench.holding.requests() == []


def test_each_kind_has_room_of_its_own() -> None:
    bench = Bench(both=True)
    bench.put("a", "b", "c")
    bench.put("d", "e", "f", task="wait")
    taken = bench.step()
    assert names(taken) == ["a", "b", "d", "e"]
    assert [held.lane for held in taken] == ["threads", "threads", "loop", "loop"]


def test_large_results_are_told_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that came while the store was away may be more than it takes in one step, or ever."""
    monkeypatch.setattr(holding, "_BYTES", 1_000)
    bench = Bench(slots=5)
    bench.put(*"abcde")
    for held in bench.step():
        bench.holding.ended(held, Settlement(held.job.seq, held.job.token, Outcome.DONE, bytes(500)))

    told = [bench.holding.requests()[0]]
    bench.holding.unknown()  # and what was told is told again, no more with it
    while bench.holding.has_outcomes:
        [settle, *_] = requests = bench.holding.requests()
        told.append(settle)
        bench.holding.answered(bench.do(*requests))
    assert [len(settle.settlements) for settle in told if isinstance(settle, Settle)] == [2, 2, 2, 1]
    assert bench.holding.counts[Outcome.DONE] == 5


def test_an_outcome_and_the_next_claim_go_in_one_step(bench: Bench) -> None:
    bench.put("a", "b", "c")
    first, _ = bench.step()
    bench.end(first)
    requests = bench.holding.requests()
    assert [type(request) for request in requests] == [Settle, Claim]
    taken, claimed = bench.holding.answered(bench.do(*requests))
    assert names(taken) == ["c"]
    assert claimed is not None
    assert bench.state("a") is JobState.DONE
    assert bench.holding.counts[Outcome.DONE] == 1


def test_jobs_that_are_short_are_claimed_ahead_and_long_ones_are_not(bench: Bench) -> None:
    bench.put(*(str(n) for n in range(100)))
    for held in bench.step():
        bench.end(held, ran=0.001)  # 2 slots, 20 ms ahead: 40 beside the two that run
    assert len(bench.step()) == 42
    for held in bench.holding.held():
        bench.end(held, ran=10.0)
    assert len(bench.step()) == 2


def test_the_mean_is_of_late_jobs_and_one_that_waited_here_counts_as_long(bench: Bench) -> None:
    lane = bench.lanes["threads"]
    lane.ran(0.001)
    assert lane.room() == 42
    bench.holding.is_slow("threads", 1.0)
    assert lane.room() == 2


def test_what_the_store_did_not_answer_is_sent_again_and_nothing_is_lost(bench: Bench) -> None:
    bench.put("a", "b", "c")
    for held in bench.step():
        bench.end(held)
    lost = bench.holding.requests()
    again = bench.holding.requests()
    assert again == lost
    assert names(bench.holding.answered(bench.do(*again))[0]) == ["c"]
    assert (bench.holding.counts[Outcome.DONE], bench.holding.stale) == (2, 0)


def test_outcomes_that_were_done_though_nobody_heard_it_are_told_again_and_refused(bench: Bench) -> None:
    bench.put("a")
    [held] = bench.step()
    bench.end(held)
    bench.do(*bench.holding.requests())  # and the answer was lost
    bench.holding.unknown()
    bench.step()
    assert bench.state("a") is JobState.DONE
    assert bench.holding.held() == []
    bench.prove()
    assert (bench.holding.counts[Outcome.DONE], bench.holding.stale) == (1, 0)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_that_was_told_twice_counts_once_and_as_what_it_was(bench: Bench, outcome: Outcome) -> None:
    bench.put("a")
    [held] = bench.step()
    bench.end(held, outcome)
    bench.do(*bench.holding.requests())  # and the answer was lost
    bench.holding.unknown()
    bench.holding.close()
    bench.step()
    bench.prove()
    assert (bench.holding.counts, bench.holding.stale) == ({**dict.fromkeys(Outcome, 0), outcome: 1}, 0)
    assert bench.holding.doubted() == []


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_that_was_told_twice_but_too_late_counts_as_stale(bench: Bench, outcome: Outcome) -> None:
    bench.put("a")
    [held] = bench.step()
    bench.end(held, outcome)
    bench.do(Sweep([Death(WORKER, "frozen", began=frozenset())]))
    bench.do(*bench.holding.requests())
    bench.holding.unknown()
    bench.step()
    bench.prove()
    assert (sum(bench.holding.counts.values()), bench.holding.stale) == (0, 1)


def test_a_crash_counts_as_the_failure_that_it_is_only_if_it_was_the_last() -> None:
    bench = Bench(alone=True)
    bench.put("a")
    bench.do(Renew([Beat(8, first=True)], 30))
    [[first]] = bench.do(Claim(8, None, [Want(frozenset({"work"}), 1)]))[0].jobs  # type: ignore[union-attr]
    bench.do(Settle([Settlement(first.seq, first.token, Outcome.CRASHED)]))  # a suspect from now on
    [held] = bench.step()
    bench.end(held, Outcome.CRASHED)
    [held] = bench.step()
    bench.prove()
    bench.end(held, Outcome.CRASHED)
    assert bench.step() == []
    bench.prove()
    assert (bench.holding.counts[Outcome.CRASHED], bench.holding.counts[Outcome.FAILED]) == (1, 1)
    account = bench.holding.account()
    assert (account.again, account.failed) == (1, 1)


def test_a_closed_one_claims_nothing_and_is_over_when_all_is_told(bench: Bench) -> None:
    bench.put("a", "b", "c")
    first, second = bench.step()
    bench.holding.close()
    assert bench.holding.requests() == []
    bench.end(first)
    assert not bench.holding.is_over
    assert bench.step() == []
    assert not bench.holding.is_over
    bench.end(second, Outcome.RELEASE)
    assert not bench.holding.is_over
    bench.step()
    assert bench.holding.is_over
    assert (bench.state("a"), bench.state("b"), bench.state("c")) == (JobState.DONE, JobState.READY, JobState.READY)


def test_who_lost_the_lease_holds_nothing_and_tells_nothing(bench: Bench) -> None:
    bench.put("a", "b")
    first, second = bench.step()
    bench.end(first)
    bench.do(Sweep([Death(WORKER, "so it seemed", frozenset())]))
    assert bench.holding.forget_all(8) == [first, second]
    bench.end(second)
    bench.do(Renew([Beat(8, first=True)], 30))
    assert names(bench.step()) == ["a", "b"]
    assert bench.holding.stale == 2, "each job once, however often it ends"


def test_an_outcome_that_comes_late_does_not_free_the_place_of_another_job(bench: Bench) -> None:
    bench.put("a", "b", "c", "d")
    first, _ = bench.step()
    bench.holding.forget_all(8)
    bench.do(Renew([Beat(8, first=True)], 30))
    assert names(bench.step()) == ["c", "d"]
    bench.end(first)
    bench.step()
    assert bench.holding.requests() == [], "two run, and there are two slots"


def test_one_that_runs_suspects_takes_one_at_a_time_and_no_others() -> None:
    bench = Bench(alone=True)
    other = Holding(8, {"threads": Lane(3, frozenset({"work"}))})
    bench.put("a", "b", "c")
    bench.do(Renew([Beat(8, first=True)], 30))
    assert names(other.answered(bench.do(*other.requests()))[0]) == ["a", "b", "c"]
    bench.do(Sweep([Death(8, "killed", frozenset({1, 2}))]))
    [held] = bench.step()
    assert held.job.id == "a"
    assert bench.holding.requests() == []
    bench.end(held)
    assert names(bench.step()) == ["b"]
    assert bench.state("c") is JobState.READY


def test_who_has_no_room_can_ask_what_was_cancelled(bench: Bench) -> None:
    bench.put("a", "b", "c")
    first, _ = bench.step()
    bench.do(Cancel(["a"], "by hand"))
    assert bench.holding.requests() == []
    taken, claimed = bench.holding.answered(bench.do(*bench.holding.only_ask()))
    assert taken == []
    assert claimed is not None
    assert list(claimed.cancels) == [(first.job.seq, first.job.token, "by hand")]


def test_queues_that_it_was_not_given_are_left_alone() -> None:
    bench = Bench(queues=("mail",))
    bench.do(Put([NewJob("a", "work"), NewJob("b", "work", queue="mail")]))
    assert names(bench.step()) == ["b"]


def held_by(bench: Bench) -> list[str]:
    return names(bench.holding.found(bench.engine.find(HeldBy(WORKER))))


def test_jobs_of_a_claim_that_nobody_heard_of_are_looked_for(bench: Bench) -> None:
    bench.put("a", "b", "c")
    bench.do(*bench.holding.requests())  # and the answer was lost
    bench.holding.unknown()
    assert bench.holding.is_unsure
    [request] = bench.holding.requests()
    assert isinstance(request, Claim)
    assert [want.limit for want in request.wants] == [0], "nothing is claimed while it doesn't know what it has"
    assert names(bench.step()) == []
    assert held_by(bench) == ["a", "b"]
    assert not bench.holding.is_unsure
    assert [held.job.id for held in bench.holding.held()] == ["a", "b"]


def test_a_job_that_the_store_holds_again_after_its_outcome_was_told_is_run_once_more(bench: Bench) -> None:
    bench.put("a", "b")
    first, _ = bench.step()
    before = bench.engine.find(HeldBy(WORKER))  # what a standby knows that has not received the rest
    bench.end(first)
    bench.step()
    assert bench.holding.found(before) == [], "nobody has asked for it"

    bench.holding.look_again()
    assert bench.holding.is_unsure
    assert names(bench.holding.found(before)) == ["a"]
    assert sorted(held.job.id for held in bench.holding.held()) == ["a", "b"]
    assert not bench.holding.is_unsure


def test_who_only_looks_again_claims_meanwhile_and_may_end_without_an_answer(bench: Bench) -> None:
    bench.holding.look_again()
    bench.put("a")
    [held] = bench.step()
    bench.end(held)
    bench.step()
    bench.holding.close()
    assert bench.holding.is_over


def test_a_claim_that_is_done_after_its_caller_gave_up_leaves_no_job_that_nobody_runs(bench: Bench) -> None:
    bench.put("a", "b", "c")
    late = bench.holding.requests()
    bench.holding.unknown()
    bench.do(*late)  # before the next one of this process: one thread does them all
    bench.step()
    assert held_by(bench) == ["a", "b"]


def test_outcomes_are_told_again_beside_the_look_for_claims(bench: Bench) -> None:
    bench.put("a", "b", "c")
    first, _ = bench.step()
    bench.end(first)
    bench.do(*bench.holding.requests())
    bench.holding.unknown()
    assert [type(request) for request in bench.holding.requests()] == [Settle, Claim]
    bench.step()
    assert held_by(bench) == ["c"]
    assert bench.state("a") is JobState.DONE


def test_nobody_is_over_who_does_not_know_what_it_has(bench: Bench) -> None:
    bench.put("a")
    bench.do(*bench.holding.requests())
    bench.holding.unknown()
    bench.holding.close()
    assert not bench.holding.is_over
    bench.step()
    assert held_by(bench) == ["a"]
    assert not bench.holding.is_over


def test_the_answer_to_what_was_asked_before_the_lease_was_lost_is_of_no_use(bench: Bench) -> None:
    bench.put("a", "b", "c")
    first, _ = bench.step()
    bench.end(first)
    replies = bench.do(*bench.holding.requests())
    bench.holding.forget_all(8)  # the supervisor heard of it first
    assert bench.holding.answered(replies) == ([], None)
    assert bench.holding.held() == []


def test_what_was_held_under_another_name_does_not_run_again(bench: Bench) -> None:
    bench.put("a", "b")
    bench.step()
    bench.holding.only_ask()
    bench.holding.unknown()
    claims = bench.engine.find(HeldBy(WORKER))
    bench.holding.forget_all(8)  # between the question and the answer
    assert bench.holding.found(claims) == []
    assert bench.holding.held() == []


def test_a_job_that_has_completed_itself_counts_as_done_once_the_store_says_so() -> None:
    bench = Bench()
    bench.put("a")
    [held] = bench.step()
    held.has_completed = True
    bench.do(Settle([Settlement(held.job.seq, held.job.token, Outcome.DONE)]))  # in a transaction of its own
    bench.end(held, Outcome.FAILED)
    bench.holding.close()
    bench.step()

    assert ([doubt.held for doubt in bench.holding.doubted()], bench.holding.is_over) == ([held], False)
    bench.prove()
    assert (bench.holding.counts[Outcome.DONE], bench.holding.stale, bench.holding.is_over) == (1, 0, True)


def test_a_job_that_has_completed_itself_and_was_taken_away_counts_as_stale() -> None:
    bench = Bench()
    bench.put("a")
    [held] = bench.step()
    held.has_completed = True
    bench.do(Sweep([Death(WORKER, "frozen", began=frozenset())]))
    bench.end(held, Outcome.FAILED)
    bench.step()

    bench.prove()
    assert (bench.holding.counts[Outcome.DONE], bench.holding.stale) == (0, 1)


def test_a_job_whose_own_transaction_came_to_nothing_is_settled_as_any_other() -> None:
    bench = Bench()
    bench.put("a")
    [held] = bench.step()
    held.has_completed = True
    bench.end(held, Outcome.FAILED)
    bench.step()

    assert (bench.holding.doubted(), bench.holding.counts[Outcome.FAILED]) == ([], 1)
