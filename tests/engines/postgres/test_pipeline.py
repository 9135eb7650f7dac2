"""Statements in a pipeline: values arrive as they were, what fails is told, and what was prepared may be lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.engines import connect
from penstock.engines.postgres import engine as postgres_engine
from penstock.engines.postgres import link as links
from penstock.engines.postgres import place
from penstock.engines.postgres.engine import PostgresEngine
from penstock.engines.postgres.link import Link, TooLate
from penstock.engines.postgres.pipeline import Pipeline
from penstock.engines.postgres.settling import DONE
from penstock.engines.postgres.workers import SUSPECTS
from penstock.engines.requests import Claim, Cut, Fate, Outcome, Pause, Put, Settle, Settlement
from penstock.job import JobState
from tests.engines.kinds import WORK, A, Clock, Desk, new
from tests.gates import GUARD
from tests.postgres import Postgres


@pytest.fixture
def link(postgres: Postgres) -> Iterator[Link]:
    made = links.connect(place.parse(postgres.url()), time.monotonic() + GUARD)
    yield made
    made.drop()


def asked(link: Link, statement: str, **values: Any) -> list[Any]:
    with Pipeline(link) as pipeline:
        answer = pipeline.run(statement, values)
        pipeline.sync()
        pipeline.finish()
    return answer.fetchall()


# ---------------------------------------------------------------------------------------------------------------------
# Values

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBER = st.integers(-(2**63), 2**63 - 1)
VALUES = {
    "text": TEXT,
    "bytea": st.binary(),
    "bigint": NUMBER,
    "float8": st.floats(allow_nan=False),
    "boolean": st.booleans(),
}


@pytest.mark.parametrize("kind", VALUES)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data())
def test_values_arrive_as_they_are(link: Link, kind: str, data: st.DataObject) -> None:
    one = data.draw(st.none() | VALUES[kind])
    many = data.draw(st.lists(st.none() | VALUES[kind]))

    statement = f"SELECT %(one)s::{kind}, %(many)s::{kind}[], 'a % b' = 'a ' || chr(37) || ' b'"
    assert asked(link, statement, one=one, many=many) == [(one, many, True)]


@pytest.mark.parametrize("value", ["a\0b", ["a", "b\0"], ["a\0", None]])
def test_what_text_can_not_hold_is_refused_and_not_cut_short(link: Link, value: Any) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        asked(link, "SELECT %(value)s", value=value)
    assert asked(link, "SELECT 1") == [(1,)]


def test_much_goes_both_ways_at_once(link: Link) -> None:
    much = bytes(1 << 20)
    with Pipeline(link) as pipeline:
        answers = [pipeline.run("SELECT %(much)s::bytea", {"much": much}) for _ in range(40)]
        pipeline.sync()
        pipeline.finish()
    assert all(answer.fetchall() == [(much,)] for answer in answers)


# ---------------------------------------------------------------------------------------------------------------------
# Transactions


def test_all_up_to_a_sync_is_one_transaction(link: Link, postgres: Postgres) -> None:
    link.execute("CREATE TEMPORARY TABLE one (number integer)")
    with pytest.raises(psycopg.errors.DivisionByZero), Pipeline(link) as pipeline:
        pipeline.run("INSERT INTO one VALUES (1)", {})
        first = pipeline.sync()
        pipeline.run("INSERT INTO one VALUES (2)", {})
        pipeline.run("SELECT 1 / 0", {})
        passed_over = pipeline.run("SELECT 1", {})
        second = pipeline.sync()
        pipeline.finish()

    assert (first.is_done, second.is_done) == (True, False)
    assert asked(link, "SELECT number FROM one") == [(1,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        passed_over.fetchall()


@pytest.mark.parametrize("looks", [False, True], ids=["sent", "answered"])
@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1 / 0"])
def test_a_block_that_raises_leaves_nothing(link: Link, looks: bool, statement: str) -> None:
    link.execute("CREATE TEMPORARY TABLE one (number integer)")
    with pytest.raises((ValueError, psycopg.DataError)), Pipeline(link) as pipeline:
        pipeline.run("INSERT INTO one VALUES (1)", {})
        answer = pipeline.run(statement, {})
        if looks:
            answer.fetchall()
        raise ValueError

    assert link.is_well()
    assert asked(link, "SELECT number FROM one") == []


def test_a_commit_that_fails_is_told(link: Link) -> None:
    link.execute("CREATE TEMPORARY TABLE one (number integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(psycopg.errors.UniqueViolation), Pipeline(link) as pipeline:
        pipeline.run("INSERT INTO one VALUES (1), (1)", {})
        commit = pipeline.sync()
        pipeline.run("INSERT INTO one VALUES (2)", {})
        pipeline.sync()
        pipeline.finish()

    assert not commit.is_done
    assert link.is_well()
    assert asked(link, "SELECT number FROM one") == [(2,)]


def test_after_an_interrupt_nobody_uses_the_connection(link: Link) -> None:
    with pytest.raises(KeyboardInterrupt), Pipeline(link) as pipeline:
        pipeline.run("SELECT 1", {})
        raise KeyboardInterrupt
    assert not link.is_well()


class Interrupted(Exception):
    """As a signal's handler raises it that measures the time of a request, say."""


class Libpq:
    """A connection of libpq, at which a signal comes right behind the call *at* of *name*."""

    def __init__(self, libpq: Any, name: str, at: int) -> None:
        self._libpq = libpq
        self._name = name
        self._left = at

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._libpq, name)

        def called(*values: Any) -> Any:
            result = call(*values)
            if name == self._name:
                self._left -= 1
                if not self._left:
                    raise Interrupted
            return result

        return called if callable(call) else call


CALLS = ("send_prepare", "send_query_prepared", "pipeline_sync", "flush", "is_busy", "get_result")


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("name", CALLS)
def test_what_a_handler_raises_comes_out_wherever_it_was_and_the_next_answers_are_the_right_ones(
    link: Link, name: str, at: int
) -> None:
    came_out = False
    try:
        with Pipeline(link, prepares=True) as pipeline:
            pipeline._libpq = Libpq(link.pgconn, name, at)  # type: ignore[assignment]
            for n in range(6):
                pipeline.run(f"SELECT {n}", {}, prepared=True)
                pipeline.sync()
            pipeline.finish()
    except Interrupted:
        came_out = True

    assert came_out or (name, at) in {("flush", n) for n in range(2, 6)}, "all of it is sent in one go"
    assert not link.is_well() or [asked(link, f"SELECT {n}") for n in range(6)] == [[(n,)] for n in range(6)]


def test_a_session_that_is_ended_has_said_nothing_for_certain(link: Link) -> None:
    with pytest.raises(psycopg.OperationalError), Pipeline(link) as pipeline:
        pipeline.run("SELECT pg_terminate_backend(pg_backend_pid())", {})
        commit = pipeline.sync()
        pipeline.finish()
    assert not commit.is_done
    assert link.closed


def test_no_answer_is_waited_for_longer_than_the_connection_may(link: Link, postgres: Postgres) -> None:
    pid = link.info.backend_pid
    link.until = time.monotonic() + 0.05
    with pytest.raises(TooLate):
        asked(link, "SELECT pg_sleep(60)")
    assert link.closed
    postgres.ask("SELECT pg_terminate_backend(%s, 10000)", pid)  # it would sleep on, beside the tests that come


# ---------------------------------------------------------------------------------------------------------------------
# What the server is told to keep


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[PostgresEngine]:
    made = connect(postgres.fresh_url())
    assert isinstance(made, PostgresEngine)
    made.open()
    yield made
    made.close()


@pytest.fixture
def desk(engine: PostgresEngine) -> Desk:
    return Desk(engine, Clock())


def kept(engine: PostgresEngine) -> list[Any]:
    assert engine._link is not None
    return engine._link.execute("SELECT name FROM pg_prepared_statements").fetchall()


def test_on_a_connection_of_its_own_it_prepares(desk: Desk, engine: PostgresEngine) -> None:
    desk.put("a")
    before = kept(engine)
    desk.put("b")
    assert before
    assert kept(engine) == before


def looks_after(engine: PostgresEngine) -> str:
    """How long the server waits until it looks whether the other end is still there."""
    assert engine._link is not None
    [[said]] = engine._link.execute("SHOW tcp_keepalives_idle").fetchall()
    return str(said)


def test_the_server_is_to_notice_that_a_machine_vanished_in_mid_transaction(engine: PostgresEngine) -> None:
    """It holds rows locked there, and a lease that ends brings no locked job back."""
    assert looks_after(engine) == "10"


def test_behind_a_pooler_it_prepares_nothing_and_leaves_settings_alone(
    desk: Desk, engine: PostgresEngine, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_engine, "is_direct", lambda link, pid: False)
    engine.close()  # it connects anew
    desk.put("a")
    desk.put("b", "c")
    assert kept(engine) == []
    assert looks_after(engine) == postgres.ask("SHOW tcp_keepalives_idle")[0][0] != "10"


def forget(link: Link) -> None:
    link.execute("DEALLOCATE ALL")


def tell_another(link: Link) -> None:
    for words in link.words.values():
        words.is_kept = False


def change(link: Link) -> None:
    """As a migration might: what a statement gives is of another type now."""
    [words] = (words for statement, words in link.words.items() if statement == postgres_engine._BEGIN)
    name = words.name.decode()
    link.execute(f"DEALLOCATE {name}".encode())
    link.execute("CREATE TEMPORARY TABLE one (number integer)")
    link.execute(f"PREPARE {name} (float8, text, boolean, boolean, bigint) AS SELECT number FROM one".encode())
    link.execute("ALTER TABLE one ALTER number TYPE text")


@pytest.mark.parametrize("surprise", [forget, tell_another, change])
def test_what_was_kept_may_be_gone(desk: Desk, engine: PostgresEngine, surprise: Callable[[Link], None]) -> None:
    """A pooler that doesn't look like one has given the connection to somebody else; or the tables were changed."""
    desk.put("a")
    assert engine._link is not None
    surprise(engine._link)

    assert desk.put("b") == [Fate.ACCEPTED]
    assert desk.put("c") == [Fate.ACCEPTED]
    assert kept(engine) == []
    desk.renew(A, first=True)
    assert sorted(job.id for job in desk.claim(A)) == ["a", "b", "c"]
    assert desk.complaints() == []


def test_a_statement_is_prepared_once_though_it_is_sent_twice_at_first(link: Link) -> None:
    with Pipeline(link, prepares=True) as pipeline:
        answers = [pipeline.run("SELECT %(one)s::bigint", {"one": one}, prepared=True) for one in (1, 2)]
        pipeline.sync()
        pipeline.finish()
    assert [answer.fetchall() for answer in answers] == [[(1,)], [(2,)]]


def test_a_statement_that_was_passed_over_is_prepared_the_next_time(link: Link) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), Pipeline(link, prepares=True) as pipeline:
        pipeline.run("SELECT 1 / 0", {})
        pipeline.run("SELECT 1", {}, prepared=True)
        pipeline.sync()
        pipeline.finish()
    with Pipeline(link, prepares=True) as pipeline:
        answer = pipeline.run("SELECT 1", {}, prepared=True)
        pipeline.sync()
        pipeline.finish()
    assert answer.fetchall() == [(1,)]


READ = """
    SELECT sum(seq_tup_read) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = %(schema)s)
    FROM pg_stat_user_tables WHERE schemaname = %(schema)s
"""


def read(engine: PostgresEngine) -> int:
    """How many rows its own connection, and others in this schema, have looked at."""
    link = engine._link
    assert link is not None
    link.execute("SELECT pg_stat_force_next_flush()")
    [[rows]] = link.execute(READ, {"schema": engine._place.schema}).fetchall()
    return int(rows)


def test_a_plan_of_empty_tables_does_for_full_ones(desk: Desk, engine: PostgresEngine) -> None:
    """What is prepared may be planned once, and long ago."""
    desk.renew(A, first=True)
    desk.put("before")
    for table in ("job", "known", "past"):
        engine._link.execute(f"VACUUM ANALYZE {engine._place.schema}.{table}".encode())  # type: ignore[union-attr]
    for n in range(8):  # after five times the server may keep a plan
        [job] = desk.put_and_claim(A, f"{n}") if n else desk.claim(A)
        assert desk.done(job)
        desk.engine.transact([Settle([Settlement(job.seq, job.token, Outcome.DONE)]), Claim(A, None, [WORK])])
    desk.put(*(f"new {n}" for n in range(5000)))

    before = read(engine)
    for job in desk.claim(A, limit=10):
        assert desk.done(job)
    desk.put("after")
    assert read(engine) - before < 1000


def test_what_is_rare_is_planned_for_what_it_asks(desk: Desk, engine: PostgresEngine) -> None:
    """Named jobs are not looked for among all that ended, nor the oldest."""
    desk.renew(A, first=True)
    desk.put(*(f"job {n}" for n in range(5000)))
    claims = desk.claim(A, limit=5000)
    desk.engine.transact([Settle([Settlement(job.seq, job.token, Outcome.DONE) for job in claims])])
    for table in ("job", "known", "past"):
        engine._link.execute(f"VACUUM ANALYZE {engine._place.schema}.{table}".encode())  # type: ignore[union-attr]

    before = read(engine)
    assert desk.again("job 7", "job 4711", states=[JobState.DONE]) == 2
    assert desk.cancel("job 7", "job 8") == [Cut.CANCELLED, Cut.ENDED]
    assert desk.prune(limit=10) == 10
    assert read(engine) - before < 1000


def test_together_with_what_is_rare_nothing_is_prepared(desk: Desk, engine: PostgresEngine) -> None:
    """The server might keep a plan that it has made for what is rare: with any way through a table."""
    engine.transact([Put([new("a")]), Claim(A, None, [WORK]), Pause("a queue")])
    assert kept(engine) == []
    engine.transact([Put([new("b")]), Claim(A, None, [WORK])])
    assert kept(engine)


def test_a_kept_plan_does_not_compare_each_end_with_each(desk: Desk, engine: PostgresEngine) -> None:
    """A plan that is kept knows nothing of how many there are: a few, by the server's guess."""
    link = engine._link
    assert link is not None
    names = dict.fromkeys(re.findall(r"%\((\w+)\)s", DONE))
    places = {name: place for place, name in enumerate(names, 1)}
    text = re.sub(r"%\((\w+)\)s", lambda found: f"${places[found[1]]}", engine._place.sql(DONE))
    desk.put(*(f"job {n}" for n in range(5000)))
    link.execute(engine._place.sql("VACUUM ANALYZE penstock.job").encode())
    link.execute(f"PREPARE ends AS {text}".encode())
    link.execute("SET plan_cache_mode = force_generic_plan")
    lines = link.execute(f"EXPLAIN EXECUTE ends ({', '.join(['NULL'] * len(places))})".encode()).fetchall()
    assert not any("Join Filter" in line for (line,) in lines), lines


def test_what_was_cancelled_is_not_looked_for_among_all_that_a_worker_holds(desk: Desk, engine: PostgresEngine) -> None:
    desk.renew(A, first=True)
    desk.put(*(f"job {n}" for n in range(5_000)))
    desk.claim(A, limit=5_000)

    before = read(engine)
    desk.claim(A, limit=0)
    desk.renew(A)
    assert read(engine) - before < 1000


def test_suspects_are_not_looked_for_among_all_that_wait(desk: Desk, engine: PostgresEngine) -> None:
    """Numbers of rows that were read don't show it: an index is read in which there are none that match."""
    desk.put(*(f"job {n}" for n in range(5_000)))
    plan = engine._link.execute(engine._place.sql(f"EXPLAIN {SUSPECTS}").encode()).fetchall()  # type: ignore[union-attr]
    assert any("job_suspect" in line for (line,) in plan), plan
