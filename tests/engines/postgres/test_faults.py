"""A server, or a network before it, that fails: nothing is lost, nothing is done twice, and no call blocks for ever.

What a cut leaves open, the engine may find out and answer, or tell as an `OutcomeUnknown`; it may never say that
nothing was changed when something was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from penstock import errors
from penstock.engines import connect
from penstock.engines.bell import Bell
from penstock.engines.engine import Engine
from penstock.engines.postgres import engine as postgres_engine
from penstock.engines.records import Counts, HeldBy
from penstock.engines.requests import Beat, Claim, Fate, NewJob, Outcome, Put, Renew, Request, Settle, Settlement
from penstock.job import JobState
from tests.engines.kinds import WORK, A, B, Clock, Desk
from tests.gates import GUARD, in_thread, slack
from tests.needs import postgres_or_skip
from tests.postgres import Postgres, free_port
from tests.proxy import Proxy
from tests.worker.service import until

MORE = 2.0  # seconds that a call may take beyond its deadline, where nothing else runs: libpq connects by whole ones


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as made:
        yield made


Open = Callable[[str], Desk]


@pytest.fixture
def desk(opened: Open, postgres: Postgres, proxy: Proxy, schema: str) -> Desk:
    """Its way to the server is the proxy."""
    return opened(postgres.url(schema, port=proxy.port))


@pytest.fixture
def near(opened: Open, desk: Desk, postgres: Postgres, schema: str) -> Desk:
    """Somebody else on the same store, straight at the server."""
    return opened(postgres.url(schema))


def again(act: Callable[[], Any], times: int = 50) -> Any:
    """What *act* gives once the store is there: it may be told a few times that nothing was changed."""
    for _ in range(times):
        try:
            return act()
        except errors.StoreUnavailable:
            time.sleep(0.05)  # nothing tells when it is
    return act()


def in_time(act: Callable[[], Any], within: float) -> BaseException | None:
    """What *act* raised, which it has to have done *within* so many seconds, or a little more."""
    began = time.monotonic()
    done = in_thread(act)
    error = done.exception(within + slack(MORE) + GUARD)
    assert time.monotonic() - began < within + slack(MORE), f"it took longer than {within:g} s: {error!r}"
    return error


# ---------------------------------------------------------------------------------------------------------------------
# A connection that is cut in the middle


def test_what_the_server_never_heard_was_not_done(desk: Desk, near: Desk, proxy: Proxy) -> None:
    trap = proxy.cut_before(b"unheard")
    try:
        fates = desk.put("unheard")
    except errors.StoreUnavailable:
        assert near.state("unheard") is None
        fates = again(lambda: desk.put("unheard"))
    except errors.OutcomeUnknown:
        fates = again(lambda: desk.put("unheard"))
    trap.wait()
    assert fates == [Fate.ACCEPTED]
    assert near.searched() == ["unheard"]


def test_a_put_whose_answer_never_came_is_decided_by_its_id(desk: Desk, near: Desk, proxy: Proxy) -> None:
    trap = proxy.cut_after(b"unanswered")
    with suppress(errors.OutcomeUnknown):
        assert desk.put("unanswered") in ([Fate.ACCEPTED], [Fate.KNOWN])
    trap.wait()
    assert again(lambda: desk.put("unanswered")) == [Fate.KNOWN]
    assert near.searched() == ["unanswered"]
    assert near.complaints() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_claim_that_was_cut_gives_its_jobs_to_one_worker(desk: Desk, near: Desk, proxy: Proxy, when: str) -> None:
    near.put("a", "b")
    request = Claim(A, ["only this queue"], [WORK])
    near.put(*(NewJob(id, "work", "only this queue") for id in ("c", "d")))
    trap = proxy.cut_before(b"only this queue") if when == "before" else proxy.cut_after(b"only this queue")
    try:
        given = {job.id: job for job in desk.ask(request).jobs[0]}
    except errors.StoreUnavailable:
        assert near.find(HeldBy(A)) == []
        given = {job.id: job for job in again(lambda: desk.ask(request)).jobs[0]}
    except errors.OutcomeUnknown:
        again(lambda: desk.renew(A))  # from now on it is decided
        given = {job.id: job for job in near.find(HeldBy(A))}
        if not given:
            given = {job.id: job for job in desk.ask(request).jobs[0]}
    trap.wait()
    assert given.keys() == {"c", "d"}
    assert {job.id for job in near.claim(B, WORK)} == {"a", "b"}
    assert all(desk.done(job) for job in given.values())
    assert near.complaints() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_settlement_that_was_cut_is_done_once(desk: Desk, near: Desk, proxy: Proxy, when: str) -> None:
    [job] = desk.put_and_claim(A, "a")
    trap = proxy.cut_before(b"the result") if when == "before" else proxy.cut_after(b"the result")
    try:
        assert desk.done(job, b'"the result"')
    except errors.StoreUnavailable:
        assert near.state("a") is JobState.RUNNING
        assert again(lambda: desk.done(job, b'"the result"'))
    except errors.OutcomeUnknown:
        again(lambda: desk.done(job, b'"the result"'))
    trap.wait()
    record = near.record("a")
    assert (record.state, record.result, record.attempt) == (JobState.DONE, b'"the result"', 1)
    assert not again(lambda: desk.settle(job, Outcome.RELEASE))
    assert near.complaints() == []


def test_one_step_is_done_whole_or_not_at_all_when_it_is_cut(desk: Desk, near: Desk, proxy: Proxy) -> None:
    for number in range(12):
        [job] = again(lambda number=number: desk.put_and_claim(A, f"old-{number}"))  # type: ignore[misc]
        word = f"new-{number}"
        trap = (proxy.cut_before if number % 2 else proxy.cut_after)(word.encode())
        requests: list[Request] = [
            Settle([Settlement(job.seq, job.token, Outcome.DONE, b"1")]),
            Put([NewJob(word, "other")]),
        ]
        try:
            desk.ask_all(*requests)
            committed = True
        except errors.StoreUnavailable:
            committed = False
        except errors.OutcomeUnknown:
            again(lambda: desk.renew(A))  # from now on it is decided
            committed = near.state(word) is not None
        trap.wait()
        assert (near.state(word) is not None) is committed
        assert (near.state(f"old-{number}") is JobState.DONE) is committed
        if not committed:
            assert again(lambda job=job: desk.done(job))  # type: ignore[misc]
    assert near.complaints() == []


def test_it_goes_on_when_all_its_connections_were_cut(desk: Desk, near: Desk, proxy: Proxy) -> None:
    for number in range(5):
        proxy.cut()
        assert again(lambda number=number: desk.put(f"{number}"), times=1) == [Fate.ACCEPTED]  # type: ignore[misc]
        proxy.cut()
        assert again(lambda: desk.find(Counts()), times=1)[0].jobs == number + 1
    assert near.complaints() == []


def test_it_goes_on_when_its_sessions_were_ended_by_an_administrator(desk: Desk, postgres: Postgres) -> None:
    assert postgres.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    with suppress(errors.OutcomeUnknown):
        desk.put("a")
    assert again(lambda: desk.put("b")) == [Fate.ACCEPTED]
    assert again(lambda: desk.put("a"))[0] in Fate
    assert sorted(desk.searched()) == ["a", "b"]


# ---------------------------------------------------------------------------------------------------------------------
# A network that hangs and closes nothing


CALLS: dict[str, Callable[[Engine, float], object]] = {
    "put": lambda engine, within: engine.transact([Put([NewJob("a", "work")])], within),
    "claim": lambda engine, within: engine.transact([Claim(A, None, [WORK])], within),
    "renew": lambda engine, within: engine.transact([Renew([Beat(A)], 30.0)], within),
    "find": lambda engine, within: engine.find(Counts(), within),
    "open": lambda engine, within: engine.open(within),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_call_takes_longer_than_its_deadline_when_the_network_hangs(desk: Desk, proxy: Proxy, call: str) -> None:
    proxy.hang()
    error = in_time(lambda: CALLS[call](desk.engine, 1.0), within=1.0)
    assert isinstance(error, errors.StoreUnavailable | errors.OutcomeUnknown) or call == "open"
    error = in_time(lambda: CALLS[call](desk.engine, 1.0), within=1.0)  # with no connection that it could have kept
    assert isinstance(error, errors.StoreUnavailable | errors.OutcomeUnknown) or call == "open"

    proxy.go_on()
    again(lambda: CALLS[call](desk.engine, 5.0))


def test_closing_does_not_wait_for_a_network_that_hangs(desk: Desk, proxy: Proxy) -> None:
    bell = Bell()
    desk.engine.wait(bell, 0.0)
    proxy.hang()
    assert in_time(desk.engine.close, within=1.0) is None
    bell.close()


def test_a_new_engine_does_not_wait_for_a_network_that_hangs(postgres: Postgres, proxy: Proxy) -> None:
    proxy.hang()
    engine = connect(postgres.url(postgres.fresh_schema(), port=proxy.port))
    assert isinstance(in_time(lambda: engine.open(1.0), within=1.0), errors.StoreUnavailable)
    engine.close()


def test_a_wait_ends_in_time_when_the_network_hangs(desk: Desk, proxy: Proxy) -> None:
    bell = Bell()
    desk.engine.wait(bell, 0.0)
    proxy.hang()
    assert in_time(lambda: desk.engine.wait(bell, 0.5), within=0.5) is None
    bell.ring()
    assert in_time(lambda: desk.engine.wait(bell, 60.0), within=0.5) is None
    bell.close()


@pytest.mark.parametrize("pooler", [False, True], ids=["direct", "pooler"])
@pytest.mark.parametrize("request_", [Claim(A, None, [WORK]), Put([NewJob("late", "work")])], ids=["claim", "put"])
def test_what_arrives_at_the_server_after_all_changes_nothing_once_it_is_decided(
    desk: Desk,
    near: Desk,
    proxy: Proxy,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    request_: Any,
    pooler: bool,
) -> None:
    """Else a worker would hold jobs that nobody runs, for as long as it lives.

    Behind a pooler the connection isn't ours, and mustn't be ended. It may have lain there until one was free.
    """
    if pooler:
        monkeypatch.setattr(postgres_engine, "is_direct", lambda link, pid: False)
        desk.engine.close()  # it connects anew
        desk.renew(A)
    near.put("a")
    proxy.hang(new=False)
    with pytest.raises((errors.StoreUnavailable, errors.OutcomeUnknown)):
        desk.engine.transact([request_], within=1.0)
    ports, moment = proxy.held(), postgres.ask("SELECT clock_timestamp()")[0][0]
    assert ports
    again(lambda: desk.renew(A))  # over a new connection; from now on it is decided
    assert bool(postgres.ask("SELECT 1 FROM pg_stat_activity WHERE client_port = ANY(%s)", ports)) is pooler
    held, states = near.find(HeldBy(A)), {id: near.state(id) for id in ("a", "late")}

    proxy.go_on()
    until(lambda: not postgres.ask(NOT_YET, ports, moment))
    assert near.find(HeldBy(A)) == held
    assert {id: near.state(id) for id in ("a", "late")} == states
    assert near.complaints() == []


def test_a_server_whose_clock_is_set_is_asked_for_the_time_anew(desk: Desk) -> None:
    for request, answer in ((Put([NewJob("a", "work")]), [Fate.ACCEPTED]), (Put([NewJob("", "work")]), None)):
        desk.engine._ahead -= 3600.0  # type: ignore[attr-defined]
        first, second = desk.engine.transact([request, Put([NewJob("b", "work")])], 5.0)

        assert first == answer or isinstance(first, ValueError)
        assert second in ([Fate.ACCEPTED], [Fate.KNOWN])
    assert desk.searched() == ["b", "a"]


# Connections of these ports that have not come to the end of what was held back.
NOT_YET = """
    SELECT 1 FROM pg_stat_activity
    WHERE client_port = ANY(%s) AND NOT (state = 'idle' AND state_change > %s)
"""


def test_news_come_though_the_connection_that_listens_has_died(desk: Desk, near: Desk, proxy: Proxy) -> None:
    with waiting(desk) as waited:
        proxy.cut()
        near.put("a")
        waited.result(GUARD)
    with waiting(desk) as waited:  # and once it listens again
        near.put("b")
        waited.result(GUARD)


def test_news_come_though_the_connection_that_listens_hangs(desk: Desk, near: Desk, proxy: Proxy) -> None:
    with waiting(desk) as waited:
        proxy.hang(b"LISTEN", new=False)
        near.put("a")
        waited.result(GUARD)


@contextmanager
def waiting(desk: Desk) -> Iterator[Future[None]]:
    """Somebody waits for news, and gives up long after the test would."""
    bell = Bell()
    desk.engine.wait(bell, 0.0)
    waited = in_thread(desk.engine.wait, bell, 60.0)
    try:
        yield waited
    finally:
        bell.ring()
        waited.result(GUARD)
        bell.close()


# ---------------------------------------------------------------------------------------------------------------------
# A server that is away, or has too much to do


def test_a_server_that_was_restarted_costs_nothing(own_postgres: Postgres, opened: Open) -> None:
    desk = opened(own_postgres.fresh_url())
    [job] = desk.put_and_claim(A, "a")
    own_postgres.restart()
    assert again(lambda: desk.done(job))
    assert again(lambda: desk.put("b")) == [Fate.ACCEPTED]
    assert desk.complaints() == []


def test_what_was_acknowledged_is_there_after_the_server_was_killed(own_postgres: Postgres, opened: Open) -> None:
    desk = opened(own_postgres.fresh_url())
    ids = [f"{number}" for number in range(20)]
    for id in ids:
        assert desk.put(id) == [Fate.ACCEPTED]
    [job, *_] = desk.claim(A)
    assert desk.done(job)
    own_postgres.kill()
    own_postgres.start()
    assert sorted(again(desk.searched)) == sorted(ids)
    assert desk.state(job.id) is JobState.DONE
    assert {held.id for held in desk.find(HeldBy(A))} == set(ids) - {job.id}
    assert desk.complaints() == []


def test_while_the_server_is_away_calls_say_so_in_time(own_postgres: Postgres, opened: Open) -> None:
    desk = opened(own_postgres.fresh_url())
    desk.put("a")
    own_postgres.stop()
    for act in (
        lambda: desk.engine.transact([Put([NewJob("b", "work")])], 0.5),
        lambda: desk.engine.find(Counts(), 0.5),
        lambda: connect(desk.engine.url).open(0.5),
    ):
        said = in_time(act, within=0.5)
        assert isinstance(said, errors.StoreUnavailable)
        assert len(str(said).splitlines()) == 1  # a line of a log is one
    own_postgres.start()
    assert again(lambda: desk.put("b")) == [Fate.ACCEPTED]
    assert sorted(desk.searched()) == ["a", "b"]


def test_no_place_for_one_more_connection(opened: Open) -> None:
    with postgres_or_skip():
        server = Postgres(
            settings={"max_connections": "6", "superuser_reserved_connections": "0", "max_wal_senders": "0"}
        )
    with server, ExitStack() as taken:
        url = server.fresh_url()
        desk = opened(url)
        desk.put("a")
        desk.engine.close()
        until(lambda: len(server.ask("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")) == 1)
        for _ in range(6):
            taken.callback(server.connect().close)
        engine = connect(url)
        error = in_time(lambda: engine.open(0.5), within=0.5)
        assert isinstance(error, errors.StoreUnavailable)
        assert "connection" in str(error)
        taken.close()
        again(lambda: engine.open(1.0))
        assert Desk(engine, Clock()).put("b") == [Fate.ACCEPTED]
        engine.close()


# ---------------------------------------------------------------------------------------------------------------------
# Others who hold what we need


@contextmanager
def locked(postgres: Postgres, schema: str, *, rows: bool) -> Iterator[None]:
    """Somebody else keeps all tables of the store locked; or only all of their *rows*."""
    tables = [name for (name,) in postgres.ask("SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)]
    assert tables
    with postgres.connect() as other, other.transaction():
        for table in tables:
            lock = f"SELECT 1 FROM {schema}.{table} FOR UPDATE" if rows else f"LOCK TABLE {schema}.{table}"
            other.execute(lock)
        yield


def test_a_table_that_somebody_keeps_locked(desk: Desk, postgres: Postgres, schema: str) -> None:
    desk.put("a")
    with locked(postgres, schema, rows=False):
        for act in (
            lambda: desk.engine.transact([Put([NewJob("b", "work")])], 0.5),
            lambda: desk.engine.transact([Claim(A, None, [WORK])], 0.5),
            lambda: desk.engine.find(Counts(), 0.5),
        ):
            assert isinstance(in_time(act, within=0.5), errors.StoreUnavailable)
    assert desk.searched() == ["a"]
    assert again(lambda: desk.put("b")) == [Fate.ACCEPTED]
    assert {job.id for job in desk.claim(A)} == {"a", "b"}


def test_rows_that_somebody_keeps_locked_are_left_until_later(desk: Desk, postgres: Postgres, schema: str) -> None:
    desk.put("a")
    with locked(postgres, schema, rows=True):
        error = in_time(lambda: desk.engine.transact([Claim(A, None, [WORK])], 0.5), within=0.5)
        assert error is None or isinstance(error, errors.StoreUnavailable)
        assert desk.find(HeldBy(A)) == []
    assert [job.id for job in again(lambda: desk.claim(A))] == ["a"]


def test_a_statement_that_the_server_cuts_short(desk: Desk, postgres: Postgres, schema: str) -> None:
    """An administrator cancels what takes too long."""
    with locked(postgres, schema, rows=False):
        put = in_thread(desk.engine.transact, [Put([NewJob("a", "work")])], 60.0)
        until(lambda: postgres.ask(CANCEL_WAITING) or put.done())
        error = put.exception(GUARD)
        assert isinstance(error, errors.StoreUnavailable)
    assert desk.searched() == []
    assert again(lambda: desk.put("a")) == [Fate.ACCEPTED]


CANCEL_WAITING = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


# ---------------------------------------------------------------------------------------------------------------------
# A URL with several addresses


def two_hosts(postgres: Postgres, schema: str, *ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://postgres@{hosts}/postgres?schema={schema}"


def test_an_address_where_nobody_answers_is_passed_over(postgres: Postgres, opened: Open, schema: str) -> None:
    desk = opened(two_hosts(postgres, schema, free_port(), postgres.port))
    assert desk.put("a") == [Fate.ACCEPTED]


def test_it_goes_over_to_the_other_address(postgres: Postgres, opened: Open, proxy: Proxy, schema: str) -> None:
    desk = opened(two_hosts(postgres, schema, proxy.port, postgres.port))
    [job] = desk.put_and_claim(A, "a")
    proxy.refuse()
    proxy.cut()
    assert again(lambda: desk.done(job))
    assert again(lambda: desk.put("b")) == [Fate.ACCEPTED]
    with waiting(desk) as waited:
        again(lambda: desk.put("c"))
        waited.result(GUARD)
    assert desk.complaints() == []


def test_it_goes_over_from_an_address_that_hangs(postgres: Postgres, opened: Open, proxy: Proxy, schema: str) -> None:
    desk = opened(two_hosts(postgres, schema, proxy.port, postgres.port))
    desk.put("a")
    proxy.hang()
    with suppress(errors.StoreUnavailable, errors.OutcomeUnknown):
        desk.engine.transact([Put([NewJob("b", "work")])], 1.0)
    assert again(lambda: desk.put("b"))
    assert sorted(again(desk.searched)) == ["a", "b"]
