"""Many jobs, while children, supervisors and enqueuers are killed: none is lost, and no repeat is unexplained.

`make test` plays a small round, `make chaos` the whole: 20,000 jobs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.chaos import Chaos, Size, chaos, check
from tests.worker.service import House, house

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SMALL = Size(jobs=300, enqueuers=2, every=0.4, longest=50, pace=0.001)
FULL = Size(jobs=5_000, enqueuers=4, every=0.3, longest=280, pace=0.02)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=[pytest.mark.chaos, pytest.mark.timeout(600)]),
    ],
)
def test_no_acknowledged_job_is_lost_and_repeats_are_those_of_the_dead(
    home: House, size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chaos(home, size, monkeypatch, Chaos) as made:
        made.rage()
        made.settle()
    check(made)
