"""Which database and which schema a URL names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from penstock.engines import without_password

_HOW: Final = "postgresql://user@host/database is one; within a password are / @ % ? and spaces %2F %40 %25 %3F %20"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,53}")  # with `penstock_` before it, it is still the name of a channel
_OURS: Final = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_DEFAULT: Final = "penstock"


@dataclass(frozen=True, slots=True)
class Place:
    """A schema of a database. *options*: how libpq connects to it."""

    url: str  # for people: without a password
    options: dict[str, Any]
    schema: str

    @property
    def name(self) -> str:
        """The schema as SQL names it: quoted, since it may be a word of SQL's own, as `user` is."""
        return f'"{self.schema}"'

    def sql(self, statement: str) -> str:
        """*statement*, which names things as `penstock.job`, for this schema."""
        return statement if self.schema == _DEFAULT else statement.replace("penstock.", f"{self.name}.")


def parse(url: str) -> Place:
    """The place that *url* names. Raises ValueError if it names none."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    head, _, query = url.partition("?")
    schema, rest = _DEFAULT, []
    for given in filter(None, query.split("&")):  # as it stands: libpq reads a + in another way than the web does
        name, _, value = given.partition("=")
        if name == "schema":
            schema = unquote_plus(value)
        else:
            rest.append(given)
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
        raise ValueError(
            f"{schema!r} can't be the schema of a store: small letters, digits and _, no digit first, 54 at most"
        )
    shown = without_password(url)
    try:
        told = conninfo_to_dict(f"{head}?{'&'.join(rest)}" if rest else head)
    except psycopg.ProgrammingError as error:
        why = re.sub('".*"', "…", str(error).strip())  # what libpq quotes may be the password
        raise ValueError(f"{shown!r} names no database: {why}; {_HOW}") from None
    if not re.fullmatch(r"[\d,]*", str(told.get("port") or "")) or "@" in str(told.get("host") or ""):
        raise ValueError(f"the port in {shown!r} is no number, or its host no name; {_HOW}")
    options = {"target_session_attrs": "read-write", "application_name": "penstock", **_OURS, **told}
    return Place(shown, options, schema)
