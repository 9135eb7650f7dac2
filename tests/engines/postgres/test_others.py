"""What others do in the same database at the same moment, and what they left there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from penstock.app.ids import new_id
from penstock.engines import connect
from penstock.engines.bell import Bell
from penstock.engines.postgres import engine, finding, news, workers
from penstock.engines.postgres.step import Step
from penstock.engines.records import ByIds, Failed, Query
from penstock.engines.requests import (
    Cancel,
    ClaimedJob,
    Fate,
    NewJob,
    Outcome,
    Pause,
    Progress,
    Put,
    Request,
    Settle,
    Settlement,
)
from penstock.errors import StoreUnavailable
from tests.engines.kinds import DONE, READY, RUNNING, A, B, Clock, Desk, new, oops
from tests.gates import GUARD, in_thread
from tests.postgres import Postgres
from tests.worker.service import until


@pytest.fixture
def desk(postgres: Postgres, schema: str) -> Iterator[Desk]:
    with closing(connect(postgres.url(schema))) as store:
        store.open()
        desk = Desk(store, Clock())
        desk.renew(A, B, first=True)
        yield desk
        assert desk.complaints() == []


@contextmanager
def transaction(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """One of somebody else, which is rolled back."""
    with postgres.connect() as other, other.transaction(force_rollback=True):
        yield other


def test_changes_of_a_time_without_sweeps_are_summed_up_little_by_little(
    desk: Desk, postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of them, after a day on which nobody worked, would take any sweep longer than it may."""
    monkeypatch.setattr(workers, "_FOLDED", 10)
    for n in range(25):
        desk.put(f"{n}")

    left = []
    for _ in range(4):
        desk.sweep()
        left += postgres.ask(f"SELECT count(*) FROM {schema}.change")[0]
        assert sum(desk.counts().values()) == 25
    assert left == [15, 5, 0, 0]


def test_a_renewal_does_not_wait_for_a_sweep(desk: Desk, postgres: Postgres, schema: str) -> None:
    """One that has much to take back may take as long as leases last."""
    with transaction(postgres) as sweep:
        sweep.execute(f"UPDATE {schema}.store SET pulse = pulse")

        assert list(in_thread(desk.renew, A).result(GUARD).lost) == []


@pytest.mark.parametrize("limit", ["_TAKEN", "_WORKERS"])
def test_what_a_whole_fleet_held_is_taken_back_little_by_little(
    desk: Desk, postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """At once it would take any sweep longer than it may, and nothing of it would ever come back."""
    monkeypatch.setattr(workers, limit, 1)
    desk.put_and_claim(A, "a", "b")
    desk.put_and_claim(B, "c", "d")
    postgres.ask(f"UPDATE {schema}.worker SET until = 0")

    sweeps = [desk.sweep() for _ in range(3)]
    assert [(list(swept.lost), swept.returned) for swept in sweeps] == [([A], 2), ([B], 2), ([], 0)]
    assert [desk.state(id) for id in "abcd"] == [READY] * 4


def hanging(desk: Desk, other: psycopg.Connection[Any], job: ClaimedJob) -> None:
    """Let *job* be completed in a transaction of *other*, which stays open."""
    other.execute("SELECT 1")
    settle = Settle([Settlement(job.seq, job.token, Outcome.DONE)])
    assert desk.engine.join(other).transact([settle]) == [[True]]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_completion_that_hangs_keeps_no_sweep_from_the_jobs_of_lost_workers(
    desk: Desk, postgres: Postgres, schema: str, how: str
) -> None:
    """As of a machine that has frozen in the middle of it: the server may keep its transaction for hours."""
    [a, b] = desk.put_and_claim(A, "a", "b")
    desk.put_and_claim(B, "c", "d")
    with postgres.connect() as other:
        other.autocommit = False
        hanging(desk, other, a)
        postgres.ask(f"UPDATE {schema}.worker SET until = 0")

        assert sorted(desk.sweep().lost) == sorted([A, B])
        assert [desk.state(id) for id in "abcd"] == [RUNNING, READY, READY, READY]
        assert [desk.record(id).crashes for id in "bcd"] == [0, 0, 0], "none of them was alone"
        assert not desk.done(b), "it is somebody else's now"
        assert desk.sweep().returned == 0
        getattr(other, how)()

    assert desk.sweep().returned == (how == "rollback")
    assert desk.state("a") == (DONE if how == "commit" else READY)


OF_ONE: dict[str, Callable[[ClaimedJob], Request]] = {
    "cancel": lambda job: Cancel([job.id]),
    "settle": lambda job: Settle([Settlement(job.seq, job.token, Outcome.DONE)]),
    "progress": lambda job: Progress(job.seq, job.token, 1.0),
}


@pytest.mark.parametrize("first", OF_ONE)
@pytest.mark.parametrize("then", OF_ONE)
def test_a_transaction_locks_jobs_in_one_order_whatever_it_asks(
    desk: Desk, postgres: Postgres, schema: str, first: str, then: str
) -> None:
    """Else two of them could wait for each other, until the server ends one after a second."""
    a, b = desk.put_and_claim(A, "a", "b")
    with transaction(postgres) as other:
        other.execute(f"SELECT FROM {schema}.job WHERE id = 'a' FOR UPDATE")
        answers = in_thread(desk.ask_all, OF_ONE[first](b), OF_ONE[then](a))
        until(lambda: postgres.waiting(schema))
        other.execute(f"SELECT FROM {schema}.job WHERE id = 'b' FOR UPDATE NOWAIT")
    assert not [answer for answer in answers.result(GUARD) if isinstance(answer, Exception)]


def test_those_who_put_the_same_ids_never_wait_for_each_other(desk: Desk, postgres: Postgres, schema: str) -> None:
    """As two receivers of the same events may do, each in the order in which they came there."""
    with transaction(postgres) as other:
        other.execute(f"INSERT INTO {schema}.known (id) VALUES ('ant')")
        put = in_thread(desk.ask_all, Put([new("zebra"), new("ant"), new("zebra"), new("bee")]))
        until(lambda: postgres.waiting(schema))

        other.execute("SET LOCAL lock_timeout = '100ms'")
        other.execute(f"INSERT INTO {schema}.known (id) VALUES ('zebra')")
    assert put.result(GUARD) == [[Fate.ACCEPTED, Fate.ACCEPTED, Fate.KNOWN, Fate.ACCEPTED]]
    assert [job.id for job in desk.claim(A, limit=9)] == ["zebra", "ant", "bee"], "as they were said"


@pytest.mark.parametrize("alone", [False, True])
def test_who_passes_over_what_another_claim_has_locked_is_told_to_ask_again_soon(
    desk: Desk, postgres: Postgres, schema: str, alone: bool
) -> None:
    """A claim locks the head of each queue and takes one: no news would come of those that it leaves."""
    desk.put("a", new("b", queue="other"))
    postgres.ask(f"UPDATE {schema}.job SET suspect = %s", alone)
    with transaction(postgres) as other:
        other.execute(f"SELECT FROM {schema}.job WHERE id = 'a' FOR UPDATE")
        taken = desk.take(A, limit=1, alone=alone)
        assert ([job.id for job in taken.jobs[0]], taken.next_due) == (["b"], None)
        taken = desk.take(B, limit=1, alone=alone)
        assert list(taken.jobs[0]) == []
        assert taken.next_due is not None
        assert taken.next_due < 0.1
        assert desk.take(B, limit=1, alone=not alone).next_due is None, "it is none of those"
        assert desk.take(B, limit=1, alone=alone, queues=["other"]).next_due is None
    assert desk.take(B, limit=2, alone=alone).next_due is None
    assert desk.take(A, limit=2, alone=alone).next_due is None


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.RETRY])
def test_outcomes_lock_their_jobs_in_that_order_however_they_came(
    desk: Desk, postgres: Postgres, schema: str, outcome: Outcome
) -> None:
    a, b, c = desk.put_and_claim(A, "a", "b", "c")
    with transaction(postgres) as other:
        other.execute(f"SELECT FROM {schema}.job WHERE id = 'a' FOR UPDATE")
        settled = in_thread(desk.ask_all, Settle([Settlement(job.seq, job.token, outcome) for job in (b, a, c)]))
        until(lambda: postgres.waiting(schema))
        other.execute(f"SELECT FROM {schema}.job WHERE id <> 'a' FOR UPDATE NOWAIT")
    assert settled.result(GUARD) == [[True, True, True]]


def test_those_who_count_failures_of_the_same_kinds_never_wait_for_each_other(
    desk: Desk, postgres: Postgres, schema: str
) -> None:
    """Each would wait for what the other has, until the server ends one of them, a second later."""
    jobs = desk.put_and_claim(A, "a", "b", "c", "d")
    for job, print in zip(jobs[:2], ("ant", "zebra"), strict=True):
        desk.settle(job, Outcome.FAILED, error=oops(print))
    settle = Settle(
        [
            Settlement(job.seq, job.token, Outcome.FAILED, error=oops(print))
            for job, print in zip(jobs[2:], ("zebra", "ant"), strict=True)
        ]
    )
    with transaction(postgres) as other:
        other.execute(f"SELECT 1 FROM {schema}.failure WHERE print = 'ant' FOR UPDATE")
        settled = in_thread(desk.engine.transact, [settle])
        until(lambda: postgres.waiting(schema))

        other.execute(f"SELECT 1 FROM {schema}.failure WHERE print = 'zebra' FOR UPDATE NOWAIT")
    assert settled.result(GUARD) == [[True, True]]
    assert {kind.error.print: (kind.count, kind.ids) for kind in desk.find(Failed())} == {
        "ant": (2, ("a", "d")),
        "zebra": (2, ("b", "c")),
    }


def test_what_is_put_soon_after_something_else_is_told_too(
    desk: Desk, postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process says something to all only now and then. What it owes has to be said by the thread that listens."""
    monkeypatch.setattr(news, "_APART", 0.3)
    monkeypatch.setattr(news, "_CALM", 3600.0)
    with closing(connect(postgres.url(schema))) as other, closing(Bell()) as bell:
        other.wait(bell, 0.0)
        until(lambda: desk.put(new_id()) and bell.hear())  # both listen
        for n in range(3):
            desk.put(f"{n}")
            until(bell.hear)


def test_failures_of_one_kind_are_counted_though_they_are_told_at_once(desk: Desk) -> None:
    jobs = desk.put_and_claim(A, *"abcdefgh")
    settlements = [Settlement(job.seq, job.token, Outcome.RETRY, error=oops()) for job in jobs]

    assert desk.ask_all(Settle(settlements[:3]), Settle(settlements[3:])) == [[True] * 3, [True] * 5]

    [kind] = desk.kinds_of_failures()
    assert (kind.count, kind.ids) == (8, tuple("abcde"))


def test_what_the_server_will_not_tell_others_is_done_all_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may their commits wait for ours, as those of transactions that notify do: for one lock until the disk is."""
    monkeypatch.setattr(engine, "TELL", "SELECT 1 / (length(%(channel)s) * 0)")  # its queue is full, say
    monkeypatch.setattr(news.News, "may_tell", lambda _: True)

    assert desk.put("a") == [Fate.ACCEPTED]
    assert desk.done(desk.claim_one(A))
    assert desk.searched() == ["a"]


def test_names_too_long_for_an_index_are_refused_alone(desk: Desk) -> None:
    long = "".join(f"{n:x}" for n in range(9_999))
    answers = desk.ask_all(
        Put([new("a")]), Put([new(long)]), Put([new("b", queue=long)]), Pause(long), Put([NewJob("c", "work")])
    )

    assert [answer for answer in answers if not isinstance(answer, ValueError)] == [[Fate.ACCEPTED], [Fate.ACCEPTED]]
    assert [index for index, answer in enumerate(answers) if isinstance(answer, ValueError)] == [1, 2, 3]
    assert desk.searched() == ["c", "a"]


def test_however_many_look_at_once_a_process_has_few_connections(
    desk: Desk, postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, looking, gate = 0, 0, threading.Lock()
    answer = finding.answer

    def counted(step: Step, query: Query[Any]) -> Any:
        nonlocal most, looking
        with gate:
            looking += 1
            most = max(most, looking)
        try:
            step.rows("SELECT pg_sleep(0.02)")
            return answer(step, query)
        finally:
            with gate:
                looking -= 1

    monkeypatch.setattr(finding, "answer", counted)
    desk.put("a")
    looks = [in_thread(desk.records, "a") for _ in range(20)]

    assert all(look.result(GUARD) for look in looks)
    assert most <= 4


def test_who_finds_no_connection_free_to_look_waits_no_longer_than_it_may(
    desk: Desk, postgres: Postgres, schema: str
) -> None:
    desk.put("a")
    with transaction(postgres) as other:
        other.execute(f"LOCK TABLE {schema}.known IN ACCESS EXCLUSIVE MODE")
        looks = [in_thread(desk.records, "a") for _ in range(4)]
        until(lambda: postgres.waiting(schema) == 4)

        with pytest.raises(StoreUnavailable):
            in_thread(lambda: desk.engine.find(ByIds(("a",)), within=0.05)).result(GUARD)
    assert all(look.result(GUARD) for look in looks)
