"""Each test of this room runs on each kind of event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pool.coroutines import looping


@pytest.fixture(autouse=True, params=looping.KINDS)
def kind_of_loop(request: pytest.FixtureRequest) -> Iterator[str]:
    looping.kind = request.param
    yield request.param
    looping.kind = looping.KINDS[0]
