"""Many jobs, while children, supervisors and enqueuers are killed: none is lost, and no repeat is unexplained.

The choices come from a seed, which a failure prints; `PENSTOCK_SEED=…` repeats them (not the moments). `make test`
plays a small round, `make chaos` the whole: 20,000 jobs.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.engines.records import ByIds, Complaints, Counts, Record, Search, States, Workers
from penstock.engines.requests import CRASHES
from penstock.job import JobState
from tests.gates import GUARD
from tests.worker.service import House, Service, house, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ENQUEUER = Path(__file__).with_name("enqueuer.py")


@dataclass(frozen=True)
class Size:
    """How much of it. *every*: seconds between two kills. *pace*: a job takes up to four times that."""

    jobs: int  # of each enqueuer
    enqueuers: int
    every: float
    longest: float  # seconds for all of it
    pace: float


SMALL = Size(jobs=300, enqueuers=2, every=0.4, longest=50, pace=0.001)
FULL = Size(jobs=5_000, enqueuers=4, every=0.3, longest=280, pace=0.02)


class Chaos:
    """Two services and some enqueuers on one store, and somebody who kills them."""

    def __init__(self, home: House, seed: int, size: Size) -> None:
        self.home = home
        self.size = size
        self.draw = random.Random(seed)
        self.dead: set[int] = set()  # processes that were killed, or whose supervisor was
        self.services = [self._serve(), self._serve()]
        self.enqueuers = {f"e{n}": self._enqueue(f"e{n}") for n in range(size.enqueuers)}

    def _serve(self) -> Service:
        return self.home.start("--processes", "2", "--threads", "4", "--lease", "5", "--grace", "5")

    def _enqueue(self, name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(ENQUEUER), name, str(self.size.jobs)], cwd=self.home.folder)

    def acked(self) -> list[str]:
        """The ids that enqueuers were told of."""
        return [id for file in self.home.folder.glob("acked-*") for id in file.read_text().split()]

    def rage(self) -> None:
        """Kill somebody now and then, until all is enqueued and done; then once more."""
        end = time.monotonic() + self.size.longest * 0.7
        while time.monotonic() < end:
            time.sleep(self.size.every)  # the pace of the killer, which no fact sets
            self._kill_somebody()
            self._revive()
            if all(process.poll() == 0 for process in self.enqueuers.values()) and self._nothing_waits():
                break
        self._kill_somebody()
        self._revive()

    def _kill_somebody(self) -> None:
        service = self.draw.choice(self.services)
        match self.draw.choices(["child", "service", "enqueuer"], [6, 2, 2])[0]:
            case "child":
                children = service.children()
                if children:
                    self._kill(self.draw.choice(children))
            case "service":
                self.dead |= set(service.children())
                self._kill(service.process.pid)
                service.process.wait(GUARD)
            case "enqueuer":
                running = [process for process in self.enqueuers.values() if process.poll() is None]
                if running:
                    process = self.draw.choice(running)
                    self._kill(process.pid)
                    process.wait(GUARD)

    def _kill(self, pid: int) -> None:
        self.dead.add(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _revive(self) -> None:
        for number, service in enumerate(self.services):
            if service.process.poll() is not None:
                service.close()
                self.services[number] = self._serve()
        for name, process in self.enqueuers.items():
            if process.poll() not in (None, 0):
                self.enqueuers[name] = self._enqueue(name)

    def settle(self) -> None:
        """Let it come to its end."""
        for process in self.enqueuers.values():
            assert process.wait(self.size.longest) == 0
        until(self._nothing_waits, self.size.longest, self._what_waits)
        for service in self.services:
            service.ready()
            service.signal(signal.SIGTERM)
        for service in self.services:
            assert service.ended() == 0, service.log

    def _what_waits(self) -> str:
        store = self.home.app.store
        for service in self.services:
            for pid in service.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
        time.sleep(1)  # they write where they stand into their logs
        waiting = [*store.find(Search([JobState.RUNNING], limit=5)), *store.find(Search([JobState.READY], limit=5))]
        return "\n".join(map(str, [*(service.log for service in self.services), *waiting, *store.find(Workers())]))

    def _nothing_waits(self) -> bool:
        counts = self.home.app.store.find(Counts())
        return not any(count.jobs for count in counts if count.state not in (JobState.DONE, JobState.FAILED))

    def close(self) -> None:
        for process in self.enqueuers.values():
            process.kill()
            process.wait(GUARD)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house(tmp_path, monkeypatch) as made:
        yield made


def was_killed_to_the_end(record: Record | None) -> bool:
    """Whether it was alone in its process when that was killed, so often that nobody tries again: bad luck."""
    return (
        record is not None
        and (record.state, record.crashes) == (JobState.FAILED, CRASHES)
        and record.error is not None
        and record.error.type == "WorkerDied"
    )


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
    seed = int(os.environ.get("PENSTOCK_SEED") or random.randrange(2**32))
    print(f"PENSTOCK_SEED={seed}")
    monkeypatch.setenv("DUTY_PACE", str(size.pace))
    chaos = Chaos(home, seed, size)
    try:
        chaos.rage()
        chaos.settle()
    finally:
        chaos.close()

    assert home.app.store.find(Complaints()) == []
    acked = chaos.acked()
    assert len(acked) == size.jobs * size.enqueuers
    states = dict(zip(acked, home.app.store.find(States(acked)), strict=True))
    others = [id for id, state in states.items() if state is not JobState.DONE]

    runs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for _, id, token, pid in home.marks("runs"):
        runs[id].append((int(token), int(pid)))
    assert runs.keys() >= set(acked)
    assert [record for record in home.app.store.find(ByIds(others)) if not was_killed_to_the_end(record)] == []
    assert all(pid in chaos.dead for id in others for _, pid in runs[id])
    unexplained = {
        id: those for id, those in runs.items() if any(pid not in chaos.dead for _, pid in sorted(those)[:-1])
    }
    assert unexplained == {}, "it ran again although the process that ran it before was not killed"
    assert all(len({token for token, _ in those}) == len(those) for those in runs.values()), "a token for each run"
    print(f"{len(acked)} jobs, {sum(map(len, runs.values())) - len(runs)} ran twice, {len(chaos.dead)} were killed")
