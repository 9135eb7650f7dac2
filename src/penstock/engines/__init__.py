"""Where durable jobs are kept: one interface, one engine for each kind of store, found by the scheme of its URL."""

from __future__ import annotations

import importlib
from typing import Final
from urllib.parse import urlsplit

from penstock.engines.engine import Engine

SCHEMES: Final = {  # what a URL begins with: where its engine is, and the extra that brings what the engine needs
    "memory": ("penstock.engines.memory:MemoryEngine", None),
    "sqlite": ("penstock.engines.sqlite:SQLiteEngine", "sqlite"),
}


def connect(url: str) -> Engine:
    """The engine for *url*, not opened yet.

    Raises ValueError for a URL that names no engine, and ImportError if the engine needs an extra that isn't installed.
    """
    scheme = urlsplit(url).scheme if isinstance(url, str) else None
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{url!r} names no store: it must begin with one of {known}, as sqlite:///jobs.db does")
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
