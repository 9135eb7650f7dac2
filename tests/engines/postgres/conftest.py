"""What tests of PostgreSQL's engine begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from penstock.engines import connect
from tests.engines.kinds import A, B, Clock, Desk
from tests.postgres import Postgres


@pytest.fixture
def schema(postgres: Postgres) -> str:
    return postgres.fresh_schema()


@pytest.fixture
def opened() -> Iterator[Callable[[str], Desk]]:
    """An engine on a URL, opened, that knows workers A and B; closed after the test."""
    with ExitStack() as closed:

        def make(url: str) -> Desk:
            engine = closed.enter_context(closing(connect(url)))
            engine.open()
            desk = Desk(engine, Clock())
            desk.renew(A, B, first=True)
            return desk

        yield make
