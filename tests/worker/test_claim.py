"""What a running job says on its way reaches the store, whatever it is."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.checks import why_refused
from penstock.engines.requests import Progress
from penstock.worker.claim import StoreClaim


class Posted:
    """A store that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def post(self, request: Any) -> None:
        self.told.append(request)


@pytest.mark.parametrize(
    ("note", "said"),
    [("half", "half"), ("caf\udce9", "caf\\udce9"), (2_000_000 * "x", 1_000 * "x" + "…")],
    ids=["a word", "an odd file name", "a flood"],
)
def test_a_note_on_progress_is_told_however_odd_or_long_it_is(note: str, said: str) -> None:
    posted: Any = Posted()
    claim = type("Claim", (StoreClaim,), {"store": posted})(1, 2, 1)

    claim.progress(1, 2, note)

    assert posted.told == [Progress(1, 2, 1, 2, said)]
    assert why_refused(posted.told[0]) is None
