"""A fleet on one PostgreSQL: services killed and frozen, the server killed and restarted, connections cut.

`make test` plays a small round, `make chaos` the whole: 50,000 jobs.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.proxy import Proxy
from tests.worker.chaos import Chaos, Size, chaos, check
from tests.worker.service import House, house

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SMALL = Size(
    jobs=150, enqueuers=3, every=0.7, longest=90, pace=0.02, services=4, frozen=10.0, slow=(8, 5.0), decks=1,
    options=("--processes", "1", "--threads", "4", "--lease", "4", "--grace", "5"),
)  # fmt: skip
FULL = Size(
    jobs=16_667, enqueuers=3, every=1.0, longest=600, pace=0.02, services=4, frozen=12.0, slow=(150, 5.0),
    options=("--processes", "1", "--threads", "4", "--lease", "5", "--grace", "5"),
)  # fmt: skip


@pytest.fixture
def proxy(own_postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(own_postgres.port) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, own_postgres: Postgres, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch, own_postgres.url(port=proxy.port)) as made:
        yield made


class Fleet(Chaos):
    """All that, and harm to the server and to the network before it."""

    def let_loose(self, postgres: Postgres, proxy: Proxy) -> None:
        self.postgres, self.proxy = postgres, proxy
        self.harms = {
            self.kill_child: 2,
            self.kill_service: 1,
            self.kill_enqueuer: 1,
            self.freeze_service: 2,
            self.cut_connections: 3,
            self.hold_back: 1,
            self.restart_server: 1,
            self.kill_server: 1,
        }

    def excused(self) -> set[int]:
        """Those too that were told of a lost lease: with little processor, or no network for a while, it happens."""
        logs = [path.read_text() for path in self.home.folder.glob("service-*.log")]
        told = [re.findall(r"(\d+) lost the lease", log) for log in logs]
        return super().excused() | {int(pid) for pids in told for pid in pids}

    def cut_connections(self) -> None:
        self.proxy.cut()

    def hold_back(self) -> None:
        """Nothing comes through, for a while that is shorter than any lease."""
        self.proxy.hang()
        time.sleep(self.draw.random())
        self.proxy.go_on()

    def restart_server(self) -> None:
        self.postgres.restart()

    def kill_server(self) -> None:
        self.postgres.kill()
        time.sleep(self.draw.random())
        self.postgres.start()


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=[pytest.mark.chaos, pytest.mark.timeout(900)]),
    ],
)
def test_a_fleet_loses_no_job_and_repeats_only_those_of_lost_leases(
    home: House, size: Size, own_postgres: Postgres, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chaos(home, size, monkeypatch, Fleet) as fleet:
        fleet.let_loose(own_postgres, proxy)
        fleet.rage()
        fleet.settle()
    check(fleet)
