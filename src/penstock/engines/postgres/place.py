"""Which database and which schema a URL names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

_HOW: Final = "postgresql://user@host/database is one"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,59}")
_OURS: Final = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_DEFAULT: Final = "penstock"


@dataclass(frozen=True, slots=True)
class Place:
    """A schema of a database. *options*: how libpq connects to it."""

    url: str  # for people: without a password
    options: dict[str, Any]
    schema: str

    def sql(self, statement: str) -> str:
        """*statement*, which names things as `penstock.job`, for this schema."""
        return statement if self.schema == _DEFAULT else statement.replace("penstock.", f"{self.schema}.")


def parse(url: str) -> Place:
    """The place that *url* names. Raises ValueError if it names none."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    head, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    schema = dict(given).get("schema", _DEFAULT)
    rest = urlencode([(name, value) for name, value in given if name != "schema"])
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
        raise ValueError(f"{schema!r} can't be the schema of a store: small letters, digits and _, and no digit first")
    try:
        told = conninfo_to_dict(f"{head}?{rest}" if rest else head)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"{_shown(url)!r} names no database: {str(error).strip()}; {_HOW}") from None
    options = {"target_session_attrs": "read-write", "application_name": "penstock", **_OURS, **told}
    return Place(_shown(url), options, schema)


def _shown(url: str) -> str:
    """*url* without the passwords that it may have, also among its options."""
    url = re.sub(r"(?<=://)([^/@?]*?):[^/@?]*@", r"\1:***@", url)
    return re.sub(r"(?<=[?&])((?:ssl)?password)=[^&]*", r"\1=***", url)
