"""Behind a PgBouncer in transaction mode, whose two connections to the server are everybody's.

That each request is done as without it is the contract's, which runs on the kind `pooled`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from penstock import errors
from penstock.engines.bell import Bell
from penstock.engines.postgres import engine as postgres_engine
from penstock.engines.postgres import news as postgres_news
from penstock.engines.records import Complaints, Counts, HeldBy
from penstock.engines.requests import Beat, Claim, Fate, NewJob, Put, Renew
from penstock.job import JobState
from tests.engines.kinds import WORK, A, B, Desk
from tests.gates import GUARD, in_thread
from tests.needs import needed_pgbouncer
from tests.pgbouncer import SIZE, PgBouncer
from tests.postgres import Postgres
from tests.proxy import Proxy
from tests.worker.service import House, house, until


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut it waits for so long until nothing can begin any more."""
    monkeypatch.setattr(postgres_engine, "_ON_THE_WAY", 1.0)


Reach = Callable[[int], Desk]


@pytest.fixture
def reach(opened: Callable[[str], Desk], postgres: Postgres, schema: str) -> Reach:
    """An engine whose way to the server is a port; see `opened`."""
    return lambda port: opened(postgres.url(schema, port=port))


@pytest.fixture
def near(reach: Reach, postgres: Postgres) -> Desk:
    """Somebody straight at the server."""
    return reach(postgres.port)


@pytest.fixture
def pooler() -> PgBouncer:
    return needed_pgbouncer()


@pytest.fixture(params=["before", "behind"])
def broken(request: pytest.FixtureRequest, postgres: Postgres, pooler: PgBouncer) -> Iterator[tuple[int, Proxy]]:
    """A way that can fail before the pooler, or behind it: its port, and where it fails."""
    if request.param == "before":
        with Proxy(pooler.port) as proxy:
            yield proxy.port, proxy
    else:
        with Proxy(postgres.port) as proxy, PgBouncer(proxy.port) as own:
            yield own.port, proxy


def again(act: Callable[[], Any], times: int = 50) -> Any:
    """What *act* gives once it is done: a cut may be told to the next who comes, too."""
    for _ in range(times):
        with suppress(errors.StoreUnavailable, errors.OutcomeUnknown):
            return act()
    return act()


def test_many_share_two_connections_and_none_is_anybodys(reach: Reach, near: Desk, pooler: PgBouncer) -> None:
    desks = [reach(pooler.port) for _ in range(3 * SIZE)]
    together = threading.Barrier(len(desks))

    def work(number: int) -> int:
        together.wait(GUARD)
        for each in range(20):
            desks[number].put(f"{number}-{each}")
        ended = 0
        while jobs := desks[number].claim(A if number % 2 else B, limit=3):
            ended += sum(desks[number].done(job) for job in jobs)
        return ended

    done = [in_thread(work, number) for number in range(len(desks))]
    assert sum(one.result(GUARD) for one in done) == 20 * len(desks)
    assert {count.state: count.jobs for count in near.find(Counts())} == {JobState.DONE: 20 * len(desks)}
    assert near.complaints() == []
    assert 1 <= len(pooler.to_server()) <= SIZE


def test_an_answer_to_a_put_that_was_lost_is_decided_by_its_id(
    reach: Reach, near: Desk, broken: tuple[int, Proxy]
) -> None:
    port, proxy = broken
    desk = reach(port)
    trap = proxy.cut_after(b"unanswered")
    with suppress(errors.OutcomeUnknown):
        assert desk.put("unanswered") in ([Fate.ACCEPTED], [Fate.KNOWN])
    trap.wait()
    assert again(lambda: desk.put("unanswered")) == [Fate.KNOWN]
    assert near.searched() == ["unanswered"]
    assert near.complaints() == []


def test_what_was_lost_on_its_way_there_is_not_done(reach: Reach, near: Desk, broken: tuple[int, Proxy]) -> None:
    port, proxy = broken
    desk = reach(port)
    trap = proxy.cut_before(b"unheard")
    with suppress(errors.OutcomeUnknown, errors.StoreUnavailable):
        assert desk.put("unheard") == [Fate.ACCEPTED]
    trap.wait()
    assert again(lambda: desk.put("unheard"))[0] in Fate
    assert near.searched() == ["unheard"]


def test_an_answer_to_a_claim_that_was_lost_is_decided_by_who_holds_the_job(
    reach: Reach, near: Desk, broken: tuple[int, Proxy]
) -> None:
    port, proxy = broken
    desk = reach(port)
    near.put(NewJob("a", "work", "only this queue"))
    trap = proxy.cut_after(b"only this queue")
    try:
        given = list(desk.ask(Claim(A, ["only this queue"], [WORK])).jobs[0])
    except (errors.OutcomeUnknown, errors.StoreUnavailable):
        again(lambda: desk.renew(A))  # from now on it is decided
        given = again(lambda: list(desk.find(HeldBy(A))))
    trap.wait()
    assert [job.id for job in given] == ["a"]
    assert desk.done(given[0])
    assert near.complaints() == []


def test_an_answer_to_a_settlement_that_was_lost_counts_once(
    reach: Reach, near: Desk, broken: tuple[int, Proxy]
) -> None:
    port, proxy = broken
    desk = reach(port)
    [job] = desk.put_and_claim(A, "a")
    trap = proxy.cut_after(b"the result")
    with suppress(errors.OutcomeUnknown, errors.StoreUnavailable):
        assert desk.done(job, b'"the result"')
    trap.wait()
    again(lambda: desk.done(job, b'"the result"'))
    record = near.record("a")
    assert (record.state, record.result, record.attempt) == (JobState.DONE, b'"the result"', 1)
    assert near.complaints() == []


def test_a_connection_of_the_poolers_is_not_ended_with_that_of_a_client(
    reach: Reach, near: Desk, postgres: Postgres
) -> None:
    """It may be anybody's by then."""
    with PgBouncer(postgres.port) as own, Proxy(own.port) as proxy:
        desk = reach(proxy.port)
        ends = "SELECT pid FROM pg_stat_activity WHERE client_port = ANY(%s)"
        before = postgres.ask(ends, own.to_server())
        assert before
        assert proxy.cut()
        assert again(lambda: desk.put("a"))
        assert set(before) <= set(postgres.ask(ends, own.to_server()))


@pytest.mark.parametrize("request_", [Claim(A, None, [WORK]), Put([NewJob("late", "work")])], ids=["claim", "put"])
def test_what_was_held_back_is_not_done_once_it_is_decided(
    reach: Reach, near: Desk, broken: tuple[int, Proxy], postgres: Postgres, request_: Any
) -> None:
    port, proxy = broken
    desk = reach(port)
    near.put("a")
    proxy.hang(new=False)
    with pytest.raises((errors.StoreUnavailable, errors.OutcomeUnknown)):
        desk.engine.transact([request_], within=1.0)
    ends = proxy.held()
    assert ends
    again(lambda: desk.engine.transact([Renew([Beat(A)], 30.0)], within=2.0))  # over new ones; now it is decided
    held, states = near.find(HeldBy(A)), {id: near.state(id) for id in ("a", "late")}

    proxy.go_on()
    until(lambda: not proxy.held())
    again(lambda: desk.renew(B))
    # Nothing says when the pooler has passed on what it was given: the server's connections are quiet, then.
    until(lambda: not postgres.ask("SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"))
    assert near.find(HeldBy(A)) == held
    assert {id: near.state(id) for id in ("a", "late")} == states
    assert near.complaints() == []


def test_who_waits_looks_for_himself_as_the_pooler_brings_no_news(
    reach: Reach, near: Desk, pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_news, "_SELDOM", 4 * GUARD)  # as if it heard them
    desk = reach(pooler.port)
    bell = Bell()
    with closing(bell):
        desk.engine.wait(bell, 0.0)
        for id in ("a", "b", "c"):
            waited = in_thread(desk.engine.wait, bell, 2 * GUARD)
            near.put(id)
            waited.result(GUARD)
            assert desk.searched()[0] == id


def test_news_that_the_pooler_gives_to_whoever_is_there_do_not_pile_up(reach: Reach, pooler: PgBouncer) -> None:
    """Who listens has left a LISTEN with a connection that is everybody's."""
    desk = reach(pooler.port)
    bell = Bell()
    with closing(bell):
        desk.engine.wait(bell, 0.0)
        news = desk.engine._news  # type: ignore[attr-defined]
        for number in range(50):
            news._told_at = 0.0  # each is told
            desk.put(f"{number}")
    assert len(desk.engine._link._notifies_backlog) == 0  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------------
# A service


@pytest.fixture
def home(
    tmp_path: Path, postgres: Postgres, schema: str, pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    with house(tmp_path, monkeypatch, postgres.url(schema, port=pooler.port)) as made:
        yield made
        assert made.app.store.find(Complaints()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_two_services_work_through_it(home: House) -> None:
    services = [home.work("--processes", "1", "--threads", "2") for _ in range(2)]
    duty = home.duty
    handles = duty.double.enqueue_many([(n,) for n in range(40)])
    other = [task.enqueue(n) for n in range(5) for task in (duty.double_async, duty.double_apart, duty.fails)]
    assert [handle.result(GUARD) for handle in handles] == [2 * n for n in range(40)]
    assert {handle.exception(2 * GUARD) is None for handle in other} == {True, False}
    held = duty.held.enqueue("gate")
    home.begun()
    held.cancel()
    until(lambda: held.state is JobState.CANCELLED)
    assert [service.stop() for service in services] == [0, 0]
    assert len(home.marks("double")) == 40, "each ran once"
