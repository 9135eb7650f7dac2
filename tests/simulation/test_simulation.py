"""Many short simulations: whatever fails, and between whichever two steps, no promise is broken.

A seed that fails is told with the command that plays it again. `PENSTOCK_SEED=…` begins at that seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.engines.engine import Engine
from penstock.engines.memory import MemoryEngine
from tests.needs import needed, needed_postgres
from tests.simulation.play import Make, play
from tests.simulation.truth import Wrong

PARTS, SEEDS = 2, 500  # in `make test`, a few seconds
FULL_SECONDS = 20.0 if os.environ.get("PENSTOCK_STRESS") == "full" else 1.0  # `make stress` may take two minutes
ON_FILES = 40
ON_A_SERVER = 10  # half a second each: a schema, and a thousand transactions


def first_seed() -> int:
    seed = os.environ.get("PENSTOCK_SEED")
    return int(seed) if seed else random.SystemRandom().randrange(10**9)


def play_many(count: int, make: Make | None = None) -> Counter[str]:
    """So many simulations; what happened in all of them."""
    first, counts = first_seed(), Counter[str]()
    for seed in range(first, first + count):
        try:
            counts += play(seed) if make is None else play(seed, make)
        except Exception as error:
            raise AssertionError(f"{error!r}; to see it again: python -m tests.simulation {seed}") from error
    return counts


@pytest.mark.parametrize("_part", range(PARTS))
def test_no_promise_is_broken_whatever_fails(_part: int) -> None:
    counts = play_many(SEEDS)

    for what in ("done", "failed", "cancelled", "retry", "snooze", "lost", "refused"):
        assert counts[what], f"simulations in which nothing is {what} show nothing: {counts}"


@pytest.mark.stress
def test_no_promise_is_broken_for_long() -> None:
    end = time.monotonic() + FULL_SECONDS
    while time.monotonic() < end:
        play_many(20)


def test_nor_on_files(tmp_path: Path) -> None:
    needed("apsw")
    from penstock.engines.sqlite import SQLiteEngine

    made: list[Engine] = []

    def make(now: Callable[[], float]) -> Engine:
        made.append(SQLiteEngine(f"sqlite:///{tmp_path}/{len(made)}.db?synchronous=normal", now=now))
        return made[-1]

    play_many(ON_FILES, make)


def test_nor_on_a_server() -> None:
    server = needed_postgres()
    from penstock.engines.postgres import PostgresEngine

    play_many(ON_A_SERVER, lambda now: PostgresEngine(server.fresh_url(), now=now))


@pytest.mark.stress
def test_nor_on_a_server_for_long() -> None:
    server = needed_postgres()
    from penstock.engines.postgres import PostgresEngine

    end = time.monotonic() + FULL_SECONDS
    while time.monotonic() < end:
        play_many(1, lambda now: PostgresEngine(server.fresh_url(), now=now))


# The simulation itself


def test_a_seed_tells_the_same_story_again_also_in_another_process() -> None:
    """Sets of text have another order in each process: nothing may hang on that."""
    stories = set()
    for hashes in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "17"],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.add(told.stdout)

    assert len(stories) == 1
    assert "seed 17: all is well" in stories.pop()


class Forgetful(MemoryEngine):
    """An engine without a fence: who comes late is heard."""

    def _current(self, seq, token):  # type: ignore[no-untyped-def]
        job = self._jobs.get(seq)
        return job if job is not None and job.worker is not None else None


def test_an_engine_that_breaks_a_promise_is_found_out() -> None:
    with pytest.raises(Wrong, match="stale claim"):
        for seed in range(1_000):
            play(seed, lambda now: Forgetful(now=now))
