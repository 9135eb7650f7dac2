"""An app in memory, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock import App


@pytest.fixture
def app() -> Iterator[App]:
    with App("memory://", name="shop") as made:
        yield made
