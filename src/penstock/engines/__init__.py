"""Where durable jobs are kept: one interface, one engine for each kind of store, found by the scheme of its URL."""

from __future__ import annotations

import importlib
import re
from typing import Final

from penstock.engines.engine import Engine

SCHEMES: Final = {  # what a URL begins with: where its engine is, and the extra that brings what the engine needs
    "memory": ("penstock.engines.memory:MemoryEngine", None),
    "postgresql": ("penstock.engines.postgres:PostgresEngine", "postgres"),
    "postgres": ("penstock.engines.postgres:PostgresEngine", "postgres"),
    "sqlite": ("penstock.engines.sqlite:SQLiteEngine", "sqlite"),
}
_SECRET: Final = re.compile("((?:ssl)?password)=[^&]*")


def connect(url: str) -> Engine:
    """The engine for *url*, not opened yet.

    Raises ValueError for a URL that names no engine, and ImportError if the engine needs an extra that isn't installed.
    """
    scheme = scheme_of(url)
    place, extra = SCHEMES[scheme]
    module, name = place.split(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("penstock"):
            raise
        raise ImportError(
            f"{scheme}:// needs {error.name}, which comes with: pip install 'penstock[{extra}]'"
        ) from error
    engine: Engine = made(url)
    return engine


def scheme_of(url: str) -> str:
    """The scheme of *url*. Raises ValueError if it names no engine, TypeError if it is no string."""
    if not isinstance(url, str):
        raise TypeError(f"the URL of a store must be a string, as sqlite:///jobs.db is, not {url!r}")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"{without_password(url)!r} names no store: it must begin with one of {known}, as sqlite:///jobs.db does"
        )
    return scheme


def without_password(url: str) -> str:
    """*url* as it may be shown; also one with a password that is not written as it should be in a URL."""
    head, separator, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    if "@" in query and "@" not in place and re.search(r":(?!\d*([/,]|$))", place):
        place, mark, query = rest, "", ""  # what stands behind the colon is no port
    names, at, host = place.rpartition("@")
    user, colon, _ = names.partition(":")
    if at and colon:
        place = f"{user}:***@{host}"
    return head + separator + place + mark + _SECRET.sub(r"\1=***", query)
