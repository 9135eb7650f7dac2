"""Which database a URL names, what of it is shown, and what that database may be like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from penstock.engines import connect
from penstock.engines.postgres import place
from penstock.engines.records import ByIds
from penstock.engines.requests import Fate, NewJob, Put
from penstock.errors import StoreInvalid
from tests.engines.kinds import A, Clock, Desk
from tests.postgres import Postgres


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:sesame@host/db",
        "postgresql://me:ses/ame@host/db",
        "postgresql://me:ses@ame@host/db",
        "postgresql://me:ses?ame@host/db",
        "postgresql://me:100%sesame@host/db",
        "postgresql://me:ses ame@host/db",
        "postgresql://me:ses%00ame@host/db",
        "postgresql://host/db?user=me&password=sesame",
        "postgresql://host/db?user=me&password=100%sesame",
        "postgresql://host/db?sslkey=key&sslpassword=sesame",
    ],
)
def test_no_part_of_a_password_is_shown_however_it_is_written(url: str) -> None:
    try:
        shown = place.parse(url).url
    except ValueError as error:
        shown = str(error)

    assert "ses" not in shown
    assert "ame@" not in shown
    assert "host" in shown


def test_the_options_of_a_url_are_what_libpq_reads_in_it() -> None:
    options = place.parse("postgresql://h/db?options=-c%20a%3Db&schema=jobs&password=a+b%2Bc&host=x,y").options

    assert {name: options[name] for name in ("options", "password", "host")} == {
        "options": "-c a=b",
        "password": "a+b+c",
        "host": "x,y",
    }


def test_a_schema_whose_channel_had_too_long_a_name_is_refused() -> None:
    place.parse(f"postgresql://h/db?schema={54 * 'a'}")
    with pytest.raises(ValueError, match="can't be the schema"):
        place.parse(f"postgresql://h/db?schema={55 * 'a'}")


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The name of a database that is gone after the test."""
    name = postgres.fresh_schema()
    yield name
    postgres.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize("schema", ["user", "select", "s" * 54])
def test_a_schema_may_have_any_name(postgres: Postgres, database: str, schema: str) -> None:
    postgres.ask(f"CREATE DATABASE {database}")
    with closing(connect(postgres.url(schema, database=database))) as store:
        store.open()
        desk = Desk(store, Clock())
        desk.renew(A, first=True)
        [job] = desk.put_and_claim(A, "a")
        assert desk.done(job)
        assert desk.complaints() == []


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP"])
def test_a_database_that_can_not_hold_each_text_is_refused(postgres: Postgres, database: str, encoding: str) -> None:
    """It would refuse the words of an error, and a worker could never tell how that job ended."""
    postgres.ask(f"CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0")
    with closing(connect(postgres.url(database=database))) as store:
        with pytest.raises(StoreInvalid, match=f"its encoding is {encoding}"):
            store.open()


def test_a_database_without_an_encoding_holds_each_text(postgres: Postgres, database: str) -> None:
    postgres.ask(f"CREATE DATABASE {database} ENCODING 'SQL_ASCII' TEMPLATE template0")
    with closing(connect(postgres.url(database=database))) as store:
        store.open()
        assert store.transact([Put([NewJob("日本", "work", args=b"")])]) == [[Fate.ACCEPTED]]
        [record] = store.find(ByIds(("日本",)))
        assert record is not None
        assert record.id == "日本"


@pytest.mark.parametrize(
    "setting",
    [
        "client_encoding = 'latin1'",
        "DateStyle = 'German'",
        "DateStyle = 'SQL'",
        "TimeZone = '<+03>-03'",
        "default_transaction_isolation = 'serializable'",
        "search_path = ''",
        "lock_timeout = 1",
    ],
)
def test_what_a_role_is_set_to_changes_nothing(
    postgres: Postgres, database: str, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.ask(f"CREATE DATABASE {database}")
    postgres.ask(f"ALTER DATABASE {database} SET {setting}")
    with closing(connect(postgres.url(database=database))) as store:
        store.open()
        desk = Desk(store, Clock())
        desk.renew(A, first=True)
        [job] = desk.put_and_claim(A, "日本")
        assert desk.done(job)
        [record] = store.find(ByIds(("日本",)))
        assert record is not None
        assert record.id == "日本"
    assert caplog.messages == []
