"""A worker process of `penstock work`: claims jobs, runs them on the pools of this process, and settles them.

    main thread     hears the supervisor: drain, cancel, revoke; if the supervisor is gone, this process ends
    claiming        one thread: settle what ended and claim the next, in one step; then wait for news
    the lanes       pools: threads, a loop, processes

It holds no lease: the supervisor keeps that for it, so that a job may keep this process as busy as it likes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from penstock import clock, failures
from penstock.app.task import Kind
from penstock.engines.bell import Bell
from penstock.engines.records import Attempts, ByIds, HeldBy
from penstock.engines.requests import Beat, Claimed, Error, Outcome, Renew, Settlement
from penstock.errors import OutcomeUnknown, StoreInvalid, StoreUnavailable
from penstock.job import Job
from penstock.pool.lifeline import hang_on
from penstock.worker.backoff import Backoff
from penstock.worker.board import Board
from penstock.worker.counted import counted
from penstock.worker.holding import Held, Holding
from penstock.worker.holding import Lane as Room
from penstock.worker.lanes import Lane, LoopLane, ProcessLane, ThreadLane
from penstock.worker.logs import set_up_logs
from penstock.worker.named import AppNotFound, find_app_to_serve
from penstock.worker.signals import leave_to_supervisor
from penstock.worker.verdict import verdict
from penstock.worker.words import Line

log = logging.getLogger("penstock.work")

IMPATIENT: Final = 1.0  # seconds: what was claimed ahead and has not begun by then is handed back
_SOON_SAID: Final = 5.0  # seconds until somebody who starts a service is told that the store is what it waits for
_LONGEST_SLEEP: Final = 30.0  # seconds between two looks at a store that gives no hint
_BETWEEN_LOOKS: Final = 1.0
_PATIENCE: Final = 3.0  # seconds that a job may be stuck before its process is given up


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What the supervisor tells a child at its start. Descriptors are inherited."""

    app: str
    threads: int
    tasks: int
    processes: int
    queues: tuple[str, ...] | None
    lease: float
    alone: bool  # it runs suspects, one at a time
    log_level: str
    log_json: bool
    number: int
    line: int = -1
    board: int = -1
    lifeline: int = -1

    def packed(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def unpacked(cls, text: str) -> ChildSettings:
        """What was packed."""
        told = json.loads(text)
        return cls(**{**told, "queues": None if told["queues"] is None else tuple(told["queues"])})

    @property
    def slots(self) -> int:
        """Jobs that can have begun at once, with some over for those that overran and still run."""
        return 2 * (self.threads + self.tasks + self.processes) + 2_000


class Child:
    """One worker process, from its start to its end. `run` is its main thread."""

    def __init__(self, settings: ChildSettings, line: Line) -> None:
        self._settings = settings
        self._line = line
        self._board = Board(settings.board, settings.slots)
        self._bell = Bell()
        self._lanes: dict[Kind, Lane] = {}
        self._store_is_down = False
        self._sleeps = False  # the claiming thread waits, or is about to
        self._lock = threading.Lock()  # guards `_holding` against the main thread's look at it
        self._cancels = False
        self._is_over = False
        self._main = Bell()  # rung when the main thread has something to do
        self._is_tired = False  # it has said that it wants to be replaced
        self._stuck_since = 0.0  # monotonic: no job was stuck before
        self._look_at = 0.0  # monotonic: when to look for jobs that wait here in vain
        self._ask_at = 0.0  # when the store may be asked for nothing but cancellations again
        self._compare_at = 0.0  # when it is to be asked what is held here, though nothing is unknown

    # Its life

    def run(self) -> int:
        """Live; the exit code."""
        try:
            self._app = find_app_to_serve(self._settings.app)
            self._tasks = self._app.tasks
        except AppNotFound as error:
            self._line.say(**{"is": "failed", "why": f"{error}\n{error.where}".rstrip()})
            return 3
        self._open_lanes()
        self._holding = Holding(0, self._rooms(), self._settings.queues, alone=self._settings.alone)
        claiming = threading.Thread(target=self._claim, name="penstock-claiming", daemon=True)
        claiming.start()
        self._listen()
        return 0

    def _open_lanes(self) -> None:
        settings, kinds = self._settings, {task.kind for task in self._app.tasks.values()}
        made: dict[Kind, Any] = {
            Kind.THREAD: lambda: ThreadLane(self._app, self._board, self._has_ended, settings.threads),
            Kind.ASYNC: lambda: LoopLane(self._app, self._board, self._has_ended, settings.tasks),
            Kind.PROCESS: lambda: ProcessLane(
                self._app, settings.app, self._board, self._has_ended, settings.processes
            ),
        }
        self._lanes = {kind: made[kind]() for kind in Kind if kind in kinds}

    def _rooms(self) -> dict[Kind, Room]:
        slots = {
            Kind.THREAD: self._settings.threads,
            Kind.ASYNC: self._settings.tasks,
            Kind.PROCESS: self._settings.processes,
        }
        tasks = self._app.tasks.values()
        return {
            kind: Room(slots[kind], frozenset(task.name for task in tasks if task.kind is kind)) for kind in self._lanes
        }

    # The main thread: what the supervisor says

    def _listen(self) -> None:
        while not self._is_over:
            if self._main.wait(_BETWEEN_LOOKS, self._line.fileno()):
                for word in self._line.hear():
                    self._obey(word)
                if self._line.is_over:
                    log.error("the supervisor is gone: this worker ends, and its jobs are others' to run again")
                    os._exit(4)
            self._look_for_stuck(clock.monotonic())
        self._line.say(**{"is": "over"})

    def _look_for_stuck(self, now: float) -> None:
        """A thread that overran keeps its memory, and may keep a lock: the process is to end, when others are done."""
        if self._is_tired or not any(lane.stuck() for lane in self._lanes.values()):
            self._stuck_since = now
        elif now - self._stuck_since > _PATIENCE:
            self._is_tired = True
            stuck = [job for lane in self._lanes.values() for job in lane.stuck()]
            for job in stuck:
                log.error("job %s (%s) overran and still runs; it stands at:\n%s", job.id, job.name, job.stack)
            self._line.say(**{"is": "tired", "stuck": len(stuck)})

    def _obey(self, word: dict[str, Any]) -> None:
        match word:
            case {"do": "drain"}:
                self._do(self._drain)
            case {"do": "cancel"}:
                self._do(self._cancel_all)
            case {"do": "revoke"}:
                self._do(functools.partial(self._revoke, word["seq"], word["token"], word["cause"], word["reason"]))
            case {"do": "lost", "worker": worker}:
                self._do(functools.partial(self._lose, worker))

    def _do(self, step: Any) -> None:
        with self._lock:
            step()
        self._bell.ring()

    def _drain(self) -> None:
        """Claim nothing more; what has not begun goes back."""
        self._holding.close()
        for held in self._holding.held():
            self._give_back(held, "the worker is stopping")

    def _give_back(self, held: Held[Kind], reason: str) -> None:
        """Hand it back if it has not begun."""
        if held.cause is None:
            held.cause, held.reason = "stop", reason
            if not self._lanes[held.lane].forget(held):
                held.cause, held.reason = None, ""

    def _cancel_all(self) -> None:
        self._cancels = True
        self._drain()
        for held in self._holding.held():
            self._ask_to_end(held, "stop", "the worker is stopping")

    def _revoke(self, seq: int, token: int, cause: str, reason: str) -> None:
        held = self._holding.find(seq, token)
        if held is not None:
            self._ask_to_end(held, cause, reason)

    def _ask_to_end(self, held: Held[Kind], cause: str, reason: str) -> None:
        if held.cause != cause:
            held.cause, held.reason = cause, reason
            self._lanes[held.lane].cancel(held, reason)

    def _lose(self, worker: int) -> None:
        """The store has given up this worker: its jobs are others' now, and it goes on under another name."""
        if worker != self._holding.worker:
            return  # said twice
        log.warning("lost the lease: what runs here is others' now: %s", counted(len(self._holding.held()), "job"))
        for held in self._holding.forget_all(0):
            self._ask_to_end(
                held, "lost", "LeaseLost: the lease of this worker ran out, and the job is somebody else's"
            )
        self._board.keep(self._holding.account())

    # The claiming thread

    def _claim(self) -> None:
        try:
            while not self._holding.is_over:
                self._step()
        except StoreInvalid as error:
            self._line.say(**{"is": "failed", "why": str(error)})
            os._exit(3)
        except BaseException:
            log.critical("claiming broke; this worker ends, and others will run its jobs", exc_info=True)
            os._exit(5)
        for lane in self._lanes.values():
            with contextlib.suppress(Exception):
                lane.close(1.0)
        self._is_over = True
        self._main.ring()

    def _step(self) -> None:
        """Settle and claim once; then wait, if there is nothing to do at once."""
        if not self._holding.worker:
            self._register()
            if not self._holding.worker:
                return  # it is to stop before it has begun
        with self._lock:
            requests = self._holding.requests()
        if not requests:
            if not self._sleep(_LONGEST_SLEEP) or clock.monotonic() < self._ask_at:
                return
            self._ask_at = clock.monotonic() + _BETWEEN_LOOKS
            requests = self._holding.only_ask()
        try:
            replies = self._app.store.ask(*requests, urgent=True)
        except (StoreUnavailable, OutcomeUnknown) as error:
            if isinstance(error, OutcomeUnknown):
                self._holding.unknown()
            self._wait_for_store(error)
            return
        self._store_is_back()
        with self._lock:
            taken, claimed = self._holding.answered(replies)
            self._board.keep(self._holding.account())
        self._start(taken)
        if clock.monotonic() >= self._compare_at:
            self._compare_at = clock.monotonic() + self._settings.lease
            self._holding.look_again()
        if self._holding.is_unsure:
            self._find_out()
        self._find_the_doubted()
        if claimed is not None:
            self._heed(claimed)
        self._hand_back_what_waits()
        if not taken and not self._holding.has_outcomes:
            due = None if claimed is None else claimed.next_due
            self._sleep(_LONGEST_SLEEP if due is None else due)

    def _register(self) -> None:
        worker = new_worker()
        info = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "app": self._settings.app,
            "queues": self._settings.queues,
            "tasks": sorted(self._app.tasks),
            "alone": self._settings.alone,
        }
        beat = Beat(worker, first=True, info=json.dumps(info).encode())
        while True:
            try:
                self._app.store.ask(Renew([beat], self._settings.lease), timeout=_SOON_SAID, urgent=True)
                break
            except (StoreUnavailable, OutcomeUnknown) as error:
                self._wait_for_store(error)
            if self._holding.is_over:
                return
        self._store_is_back()
        with self._lock:
            self._holding.worker = worker
        app = self._app
        word = {"url": app.url, "shown": app.store.engine.url, "tasks": len(app.tasks), "keep": app.keep}
        self._line.say(**{"is": "ready", "worker": worker, "keep_failed": app.keep_failed, **word})

    def _find_out(self) -> None:
        """It may be held here and nobody knows of it: take what the store says is."""
        try:
            claims = self._app.store.find(HeldBy(self._holding.worker))
        except StoreUnavailable as error:
            self._wait_for_store(error)
            return
        with self._lock:
            taken = self._holding.found(claims)
            self._board.keep(self._holding.account())
        self._start(taken)

    def _find_the_doubted(self) -> None:
        """Ask what is on record where the store's answer doesn't say what an outcome came to."""
        doubts = self._holding.doubted()
        if not doubts:
            return
        store, became = self._app.store, []
        try:
            records = store.find(ByIds([doubt.held.job.id for doubt in doubts]))
            for doubt, record in zip(doubts, records, strict=True):
                needed = doubt.needs_attempts(record)
                became.append(doubt.became(record, store.find(Attempts(doubt.held.job.id)) if needed else ()))
        except StoreUnavailable as error:
            self._wait_for_store(error)
            return
        with self._lock:
            self._holding.proved(became)
            self._board.keep(self._holding.account())
        if Outcome.CRASHED in became:
            self._line.say(**{"is": "crashed"})

    def _start(self, taken: Sequence[Held[Kind]]) -> None:
        by_lane: dict[Kind, list[Held[Kind]]] = {}
        for held in taken:
            by_lane.setdefault(held.lane, []).append(held)
        now = clock.monotonic()
        for held in taken:
            held.since = now
        for kind, batch in by_lane.items():
            self._lanes[kind].start(batch)

    def _heed(self, claimed: Claimed) -> None:
        with self._lock:
            if not claimed.known:
                self._lose(self._holding.worker)
            for seq, token, reason in claimed.cancels:
                self._revoke(seq, token, "cancel", reason)

    def _sleep(self, longest: float) -> bool:
        """Wait for news: a job ended here, or may be ready there. Whether there was any before *longest* seconds."""
        with self._lock:
            waits = any(not held.has_begun for held in self._holding.held()) or bool(self._holding.doubted())
        longest = min(longest, IMPATIENT) if waits else longest
        self._sleeps = True
        begun = clock.monotonic()
        try:
            if self._holding.has_outcomes or self._holding.is_over:
                return True
            self._app.store.wait(self._bell, longest)
        except StoreUnavailable as error:
            self._wait_for_store(error)
            return False
        finally:
            self._sleeps = False
        self._hand_back_what_waits()
        return clock.monotonic() - begun < longest

    def _hand_back_what_waits(self) -> None:
        """What was claimed ahead, and waits behind jobs that take long, is for others."""
        now = clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + IMPATIENT / 2
        with self._lock:
            for held in self._holding.held():
                if not held.has_begun and now - held.since >= IMPATIENT:
                    self._holding.is_slow(held.lane, IMPATIENT)
                    self._give_back(held, "it waited behind jobs that take long")

    def _has_ended(self, held: Held[Kind], job: Job[Any]) -> None:
        """A pool's job has ended; on any thread."""
        try:
            settlement = verdict(held, self._tasks[held.job.task], job)
        except Exception as error:  # a bug of ours: the job must not be held for ever for it
            log.critical("no outcome could be made of %s", job.label, exc_info=True)
            told = failures.describe(error, held.job.task)
            said = Error(told.type, told.message, told.traceback, told.print)
            settlement = Settlement(held.job.seq, held.job.token, Outcome.FAILED, error=said)
        self._holding.ended(held, settlement)
        if self._sleeps:
            self._bell.ring()

    # The store is away

    def _wait_for_store(self, error: Exception) -> None:
        if not self._store_is_down:
            self._store_is_down = True
            self._backoff = Backoff()
            log.warning("%s; outcomes are kept and told when it is back", error)
            self._line.say(**{"is": "waiting", "why": str(error)})
        self._bell.wait(self._backoff.next())

    def _store_is_back(self) -> None:
        if self._store_is_down:
            self._store_is_down = False
            log.warning("the store %s is back", self._app.store.engine.url)
            self._line.say(**{"is": "working"})
            self._compare_at = 0.0


def new_worker() -> int:
    """A name that nobody else has."""
    return random.SystemRandom().randrange(1, 2**63)


def main(told: str) -> int:
    """The process: *told* are its settings."""
    settings = ChildSettings.unpacked(told)
    leave_to_supervisor()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)  # where every thread stands, for whoever asks
    hang_on(settings.lifeline)
    set_up_logs(settings.log_level, as_json=settings.log_json)
    line = Line(socket.socket(fileno=settings.line))
    try:
        return Child(settings, line).run()
    except StoreInvalid as error:
        line.say(**{"is": "failed", "why": str(error)})
        return 3


if __name__ == "__main__":
    code = main(sys.argv[1])
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # threads that hang, and what user code left running, don't hold it up
