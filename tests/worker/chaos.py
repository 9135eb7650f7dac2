"""Services and enqueuers on one store, somebody who does harm to them, and what must be true when all is over.

The choices come from a seed, which a failure prints; `PENSTOCK_SEED=…` repeats them (not the moments).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from penstock.engines.records import ByIds, Complaints, Counts, Search, States, Workers
from penstock.job import JobState
from tests.gates import GUARD
from tests.worker.service import House, Service, until

_CRASHES: Final = 3  # deaths of processes in which a job ran alone; then it is given up
C = TypeVar("C", bound="Chaos")

ENQUEUER = Path(__file__).with_name("enqueuer.py")


@dataclass(frozen=True)
class Size:
    """How much of it. *every*: seconds between two harms. *pace*: a job takes up to four times that."""

    jobs: int  # of each enqueuer
    enqueuers: int
    every: float
    longest: float  # seconds for all of it
    pace: float
    services: int = 2
    options: tuple[str, ...] = ("--processes", "2", "--threads", "4", "--lease", "5", "--grace", "5")  # of a service
    frozen: float = 0.0  # seconds that a service is stopped
    slow: tuple[int, float] = (0, 0.0)  # each so many-th job takes so many seconds: it is late when it wakes up
    decks: int | None = None  # how often all harms are done; None: until all is done


class Chaos:
    """The services, the enqueuers, and who does them harm: `harms`, each with how often it is drawn."""

    def __init__(self, home: House, seed: int, size: Size) -> None:
        self.home = home
        self.size = size
        self.draw = random.Random(seed)
        self.harms: dict[Callable[[], None], int] = {self.kill_child: 6, self.kill_service: 2, self.kill_enqueuer: 2}
        self.done: dict[str, int] = defaultdict(int)  # which harm was done how often
        self.dead: set[int] = set()  # processes that were killed, or whose supervisor was
        self.late: set[int] = set()  # processes that were stopped for longer than their lease
        self.ended: list[str] = []  # what services have logged that ended by themselves
        self._frozen: dict[Service, float] = {}  # until when
        self.services = [self._serve() for _ in range(size.services)]
        self.enqueuers = {f"e{n}": self._enqueue(f"e{n}") for n in range(size.enqueuers)}

    def _serve(self) -> Service:
        return self.home.start(*self.size.options)

    def _enqueue(self, name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(ENQUEUER), name, str(self.size.jobs)], cwd=self.home.folder)

    def acked(self) -> list[str]:
        """The ids that enqueuers were told of."""
        return [id for file in self.home.folder.glob("acked-*") for id in file.read_text().split()]

    def rage(self) -> None:
        """Do harm now and then, until all is enqueued and done, or enough harm; then let the frozen sleep it out."""
        end = time.monotonic() + self.size.longest * 0.7
        decks = range(self.size.decks) if self.size.decks else itertools.count()
        for harm in itertools.chain.from_iterable(self._shuffled() for _ in decks):
            time.sleep(self.size.every)  # the pace of the harm, which no fact sets
            self.done[harm.__name__] += 1
            harm()
            self._revive()
            if time.monotonic() >= end or (self.size.decks is None and self._all_is_done()):
                break
        while self._frozen and time.monotonic() < end:
            time.sleep(0.1)
            self._revive()

    def _shuffled(self) -> list[Callable[[], None]]:
        """A deck rather than a die: each harm is done soon."""
        return self.draw.sample(list(self.harms), sum(self.harms.values()), counts=list(self.harms.values()))

    def _all_is_done(self) -> bool:
        return all(process.poll() == 0 for process in self.enqueuers.values()) and self._nothing_waits()

    # Harms

    def kill_child(self) -> None:
        children = self.draw.choice(self.services).children()
        if children:
            self._kill(self.draw.choice(children))

    def kill_service(self) -> None:
        service = self.draw.choice(self.services)
        self.dead |= set(service.children())
        self._kill(service.process.pid)
        service.process.wait(GUARD)

    def kill_enqueuer(self) -> None:
        running = [process for process in self.enqueuers.values() if process.poll() is None]
        if running:
            process = self.draw.choice(running)
            self._kill(process.pid)
            process.wait(GUARD)

    def freeze_service(self) -> None:
        """Stop all of its processes until its lease is over, and somebody else has its jobs."""
        awake = [service for service in self.services if service not in self._frozen and service.process.poll() is None]
        if len(awake) > 1:
            service = self.draw.choice(awake)
            self.late |= set(service.children())
            service.signal_all(signal.SIGSTOP)
            self._frozen[service] = time.monotonic() + self.size.frozen

    def _kill(self, pid: int) -> None:
        self.dead.add(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _revive(self, *, all_of_them: bool = False) -> None:
        for service, end in list(self._frozen.items()):
            if all_of_them or time.monotonic() >= end:
                del self._frozen[service]
                with contextlib.suppress(ProcessLookupError):
                    service.signal_all(signal.SIGCONT)
        for number, service in enumerate(self.services):
            if service.process.poll() is not None:
                if service.process.pid not in self.dead:
                    self.ended.append(service.log)
                service.close()
                self.services[number] = self._serve()
        for name, process in self.enqueuers.items():
            if process.poll() not in (None, 0):
                self.enqueuers[name] = self._enqueue(name)

    # The end

    def settle(self) -> None:
        """Let it come to its end."""
        self._revive(all_of_them=True)
        for process in self.enqueuers.values():
            assert process.wait(self.size.longest) == 0
        until(self._nothing_waits, self.size.longest, self._what_waits)
        for service in self.services:
            service.ready()
            service.signal(signal.SIGTERM)
        for service in self.services:
            assert service.ended() == 0, service.log

    def excused(self) -> set[int]:
        """Processes whose jobs may run again elsewhere."""
        return self.dead | self.late

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
        """End the enqueuers; the house ends the services."""
        for process in self.enqueuers.values():
            process.kill()
            process.wait(GUARD)


@contextlib.contextmanager
def chaos(home: House, size: Size, monkeypatch: Any, kind: type[C]) -> Iterator[C]:
    """A chaos of this *kind*, of a seed that is printed."""
    seed = int(os.environ.get("PENSTOCK_SEED") or random.randrange(2**32))
    print(f"PENSTOCK_SEED={seed}")
    monkeypatch.setenv("DUTY_PACE", str(size.pace))
    monkeypatch.setenv("DUTY_SLOW", f"{size.slow[0]} {size.slow[1]}")
    made = kind(home, seed, size)
    try:
        yield made
    finally:
        made.close()


def check(chaos: Chaos) -> None:
    """No acknowledged job is lost, no stale result was taken, no repeat is unexplained, and the accounts balance."""
    home, size = chaos.home, chaos.size
    store = home.app.store
    assert chaos.ended == [], "a service ended that nobody had stopped"
    assert store.find(Complaints()) == []
    acked = chaos.acked()
    assert len(acked) == size.jobs * size.enqueuers
    states = dict(zip(acked, store.find(States(acked)), strict=True))
    not_done = [id for id, state in states.items() if state is not JobState.DONE]
    failed = [record for record in store.find(ByIds(not_done)) if record is not None and record.crashes >= _CRASHES]
    assert sorted(not_done) == sorted(record.id for record in failed), "lost, or failed for no reason"

    runs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for _, id, token, pid in home.marks("runs"):
        runs[id].append((int(token), int(pid)))
    assert runs.keys() >= set(acked)
    assert sum(count.jobs for count in store.find(Counts())) == len(runs), "each job in the store has run, and no other"
    assert all(len({token for token, _ in those}) == len(those) for those in runs.values()), "a token for each run"

    excused = chaos.excused()
    unexplained = {id: those for id, those in runs.items() if any(pid not in excused for _, pid in sorted(those)[:-1])}
    assert unexplained == {}, "it ran again although nothing had happened to the process that ran it before"

    repeated = [id for id, those in runs.items() if len(those) > 1]
    records = [record for record in store.find(ByIds(repeated)) if record is not None]
    stale = [record for record in records if record.state is JobState.DONE and record.result != b"%d" % record.token]
    assert stale == [], "its result is that of a claim that was no longer the one"

    print(
        f"{len(acked)} jobs, {len(repeated)} ran twice or more, {len(failed)} were there at {_CRASHES} deaths;"
        f" {len(chaos.dead)} processes were killed, {len(chaos.late)} stopped; {dict(chaos.done)}"
    )
