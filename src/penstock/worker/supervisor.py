"""`penstock work`: a small process that runs no user code, and the children that do.

    signals ──┐                    ┌── line, pidfd ── child 1: claims, pools   (restarted when it dies)
    time ─────┼──> supervisor ─────┼── line, pidfd ── child 2
    keeper ───┘   (main thread)    └── line, pidfd ── child for suspects, while there are any
      │ its own thread: leases, sweeps, the jobs of the dead
      └──> store

A stop: drain (claim nothing, finish what runs) → cancel → kill what is left → hand back what was cut, all within
*grace* seconds of the first signal; a second signal skips to cancel, a third kills. The main thread never waits for the
store, nor for a child: it can always end them, whatever they do.
"""

from __future__ import annotations

import enum
import logging
import select
import signal
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from penstock import clock
from penstock.engines import connect
from penstock.engines.requests import Prune
from penstock.engines.store import Store
from penstock.pool.ladder import cancel_after
from penstock.worker.backoff import Backoff
from penstock.worker.board import Account
from penstock.worker.child import ChildSettings
from penstock.worker.counted import counted
from penstock.worker.health import Health
from penstock.worker.keeper import Keeper
from penstock.worker.process import ChildProcess
from penstock.worker.proof import Proof

log = logging.getLogger("penstock.work")

_LOOK: Final = 0.5  # seconds between two looks at what is overdue
# Seconds past its limit after which a job that nobody in the child ended costs the child its life: two more than its
# own pools take to give it up, so that whoever is only busy isn't taken for one that hangs.
_MARGIN: Final = 7.0
_LONG_LIFE: Final = 10.0  # seconds after which a child that dies is replaced at once
_A_WHILE: Final = 10.0  # seconds without suspects after which their child may go


class Rung(enum.IntEnum):
    """How far a stop is."""

    WORKING = 0
    DRAINING = 1
    CANCELLING = 2
    KILLING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings:
    """How a worker service was asked to be. *processes*: children; the rest: of each child."""

    app: str
    processes: int = 1
    threads: int = 8
    tasks: int = 100
    pool_processes: int = 1
    queues: tuple[str, ...] | None = None
    grace: float = 25.0
    lease: float = 30.0
    health: int | None = None
    log_level: str = "info"
    log_json: bool = False

    def for_child(self, number: int, *, alone: bool) -> ChildSettings:
        """What child *number* is told."""
        return ChildSettings(
            app=self.app,
            threads=1 if alone else self.threads,
            tasks=1 if alone else self.tasks,
            processes=1 if alone else self.pool_processes,
            queues=self.queues,
            lease=self.lease,
            alone=alone,
            log_level=self.log_level,
            log_json=self.log_json,
            number=number,
        )


class Supervisor:
    """One worker service. `run` is its main thread; `ask_to_stop` may be called from a signal handler or any thread."""

    def __init__(self, settings: WorkSettings) -> None:
        self._settings = settings
        self._children: list[ChildProcess] = []
        self._missing: list[tuple[float, int]] = []  # (when to start it, its number)
        self._backoffs = {number: Backoff(0.5, 30.0) for number in range(1, settings.processes + 1)}
        self._keeper: Keeper | None = None
        self._told: deque[dict[str, Any]] = deque()  # by the keeper
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._signals = 0
        self._rung = Rung.WORKING
        self._stop_at: float | None = None  # monotonic: when the stop was asked for
        self._look_at = 0.0
        self._account = Account()  # of children that are gone
        self._untold = 0  # jobs that children took with them, of which the store had not heard how they ended
        self._killed = 0  # jobs that were cut by force in the stop
        self._gone_at = 0.0  # when suspects were last heard of
        self._was_ready = False
        self._why_failed: str | None = None
        self._ticked = clock.monotonic()

    # Anybody

    def ask_to_stop(self) -> None:
        """One rung further: drain, cancel, kill."""
        self._signals += 1
        self._ring()

    def _ring(self) -> None:
        try:
            self._wake.send(b"!")
        except OSError:
            return  # full: it wakes anyhow; or over

    def _tell(self, word: dict[str, Any]) -> None:
        """The keeper has something to say; on its thread."""
        self._told.append(word)
        self._ring()

    # The main thread

    def run(self) -> int:
        """Work until asked to stop; the exit code.

        0 if every job that was begun here has its outcome or went back whole, 1 if one was cut by force or could not
        be handed back, 2 if there was nothing to run.
        """
        health = None
        if self._settings.health is not None:
            try:
                health = Health(self._settings.health, self._live, self._ready)
            except OSError as error:
                log.critical("no health checks on port %d: %s", self._settings.health, error.strerror)
                return 2
            log.info("health: http://127.0.0.1:%d/live and /ready", health.port)
        for number in range(1, self._settings.processes + 1):
            self._start(number, alone=False)
        try:
            while self._children or self._missing:
                self._step()
            return self._end()
        finally:
            for child in self._children:
                child.kill("the supervisor broke", frozenset())
            if health is not None:
                health.close()
            self._wake.close()
            self._woken.close()

    def _step(self) -> None:
        self._ticked = clock.monotonic()
        for child in self._wait():
            for word in child.line.hear():
                self._hear(child, word)
        for child in [child for child in self._children if child.ended()]:
            self._bury(child)
        while self._told:
            self._heed(self._told.popleft())
        self._climb()
        now = clock.monotonic()
        for due, number in list(self._missing):
            if now >= due:
                self._missing.remove((due, number))
                self._start(number, alone=False)
        if now >= self._look_at:
            self._look_at = now + _LOOK
            self._end_overdue()

    def _wait(self) -> list[ChildProcess]:
        """Sleep until something happens; the children that have something to say."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        lines = {child.line.fileno(): child for child in self._children if not child.line.is_over}
        for fd in (*lines, *(child.pidfd for child in self._children if child.pidfd is not None)):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0.0, self._next() - clock.monotonic()) * 1000)]
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        return [lines[fd] for fd in ready if fd in lines]

    def _next(self) -> float:
        """When there is something to do even if nothing happens."""
        times = [self._look_at, *(due for due, _ in self._missing)]
        if self._stop_at is not None:
            times += [at for at in (self._cancel_at, self._kill_at) if at > clock.monotonic()]
        return min(times)

    # Children

    def _start(self, number: int, *, alone: bool) -> None:
        try:
            child = ChildProcess(self._settings.for_child(number, alone=alone))
        except OSError as error:  # no memory, processes or descriptors are left: that may pass, and the others work
            log.error("child %d could not be started: %s; it is tried again", number, error)
            if not alone:  # else the next sweep asks for it again
                self._missing.append((clock.monotonic() + self._backoffs[number].next(), number))
            return
        self._children.append(child)
        log.debug("child %d started as process %d", number, child.pid)

    def _hear(self, child: ChildProcess, word: dict[str, Any]) -> None:
        match word.pop("is"):
            case "ready":
                self._is_ready(child, word)
            case "crashed":
                if self._keeper is not None:
                    self._keeper.sweep_soon()  # what a process died of runs alone from now on
            case "over":
                child.has_left = True
            case "failed":
                child.failed = word["why"]
            case "tired":
                self._relieve(child, word["stuck"])

    def _is_ready(self, child: ChildProcess, word: dict[str, Any]) -> None:
        if self._keeper is None:
            store = Store(lambda: connect(word["url"]))
            prune = Prune(word["keep"], word["keep_failed"])
            self._keeper = Keeper(store, self._settings.lease, prune, self._tell)
        child.worker, child.is_ready = word["worker"], True
        self._keeper.watch(word["worker"])
        is_first, self._was_ready = not self._was_ready, True
        if is_first and self._rung is Rung.WORKING:
            queues = self._settings.queues
            log.info(
                "working on %s: %s%s, in %s", word["shown"], counted(word["tasks"], "task"),
                "" if queues is None else f", of {'queue' if len(queues) == 1 else 'queues'} {', '.join(queues)}",
                counted(self._settings.processes, "process", "processes"),
            )  # fmt: skip
        if self._rung >= Rung.DRAINING:
            self._say_rung(child)

    def _relieve(self, child: ChildProcess, stuck: int) -> None:
        """Jobs are stuck in *child*: it takes no more, and ends when the others have; another is started at once."""
        log.error("child %d (process %d) is replaced: %s stuck there", child.number, child.pid, counted(stuck, "job"))
        child.is_tired = True
        child.line.say(do="drain")
        if self._rung is Rung.WORKING and not child.alone:
            self._missing.append((clock.monotonic(), child.number))

    def _bury(self, child: ChildProcess) -> None:
        """*child* has ended: its last words, its jobs, and its place."""
        for word in child.line.rest():
            self._hear(child, word)
        self._children.remove(child)
        self._account = self._account.plus(child.account())
        death = child.death()
        if death is not None and self._keeper is not None:
            if self._rung >= Rung.DRAINING:
                self._untold += child.untold()
                if child.was_killed and death.began:
                    self._killed += len(death.began)
            self._keeper.died(death, leaves_jobs=bool(death.began) or child.untold() > 0)
        if child.failed is not None and self._why_failed is None:  # the others fail likewise
            log.error("%s", child.failed)
        elif not child.has_left and child.failed is None and not child.was_killed:
            log.error("child %d (process %d) died: %s", child.number, child.pid, child.why())
        self._replace(child)
        child.close()

    def _replace(self, child: ChildProcess) -> None:
        if self._rung > Rung.WORKING or child.alone or child.is_tired:
            return
        if child.failed is not None and not self._was_ready:
            self._why_failed = child.failed
            self.ask_to_stop()
            return
        backoff = self._backoffs[child.number]
        lived = clock.monotonic() - child.started
        if lived >= _LONG_LIFE:
            backoff.reset()
        delay = 0.0 if lived >= _LONG_LIFE or (child.is_ready and backoff.is_fresh) else backoff.next()
        self._missing.append((clock.monotonic() + delay, child.number))

    def _end_overdue(self) -> None:
        """End the children in which a job is long past its time: their own pools have not managed it."""
        for child in self._children:
            late = child.overdue(_MARGIN)
            if late and not child.was_killed:
                log.error(
                    "child %d (process %d) hangs: %s past its time, and nothing there ended it; killed",
                    child.number, child.pid, counted(len(late), "job"),
                )  # fmt: skip
                blamed = frozenset(entry.seq for entry in late)
                child.kill("it ran past its time, in a process that did not answer and was killed", blamed)

    # What the keeper says

    def _heed(self, word: dict[str, Any]) -> None:
        match word:
            case {"lost": worker}:
                for child in self._of(worker):
                    child.line.say(do="lost", worker=worker)
            case {"cancel": worker, "seq": seq, "token": token, "reason": reason}:
                for child in self._of(worker):
                    child.line.say(do="revoke", seq=seq, token=token, cause="cancel", reason=reason)
            case {"suspects": suspects, "failed": failed}:
                self._account = self._account.plus(Account(failed=failed))
                self._see_to_suspects(suspects)

    def _of(self, worker: int) -> list[ChildProcess]:
        return [child for child in self._children if child.worker == worker]

    def _see_to_suspects(self, suspects: int) -> None:
        """A child of their own for jobs that run alone, while there are any."""
        now = clock.monotonic()
        if suspects:
            self._gone_at = now
        keepers = [child for child in self._children if child.alone]
        if suspects and not keepers and self._rung is Rung.WORKING:
            log.warning(
                "since a process died under them, these run alone now, one at a time: %s", counted(suspects, "job")
            )
            self._start(0, alone=True)
        elif not suspects and now - self._gone_at > _A_WHILE:
            for child in keepers:
                child.line.say(do="drain")

    # Stopping

    def _climb(self) -> None:
        now = clock.monotonic()
        if self._signals and self._stop_at is None:
            grace = self._settings.grace
            self._stop_at = now
            self._cancel_at = now + cancel_after(grace)
            self._kill_at = now + grace - min(1.0, grace / 10)  # what is left is for handing back
            self._missing.clear()
            if self._why_failed is None:
                log.info("stopping: no new jobs; what runs has %.3g s", grace)
        if self._stop_at is None:
            return
        wanted = (
            Rung.KILLING
            if now >= self._kill_at or self._signals >= 3
            else (Rung.CANCELLING if now >= self._cancel_at or self._signals >= 2 else Rung.DRAINING)
        )
        if wanted > self._rung:
            self._rung = wanted
            if wanted > Rung.DRAINING:
                running = sum(len(child.running()) for child in self._children)
                untold = sum(child.untold() for child in self._children)
                rest = f"; the store has not heard yet of {counted(untold, 'more', 'more')}" if untold else ""
                log.warning("%s what still runs: %s%s", wanted.name.lower(), counted(running, "job"), rest)
            for child in self._children:
                self._say_rung(child)
        elif wanted is Rung.KILLING:
            for child in self._children:
                child.kill("the service had to stop", frozenset())

    def _say_rung(self, child: ChildProcess) -> None:
        if self._rung is Rung.KILLING:
            child.kill("the service had to stop", frozenset())
        else:
            child.line.say(do="cancel" if self._rung is Rung.CANCELLING else "drain")

    def _end(self) -> int:
        """All children are gone: hand back what they left, and say what became of the jobs."""
        begun = self._stop_at if self._stop_at is not None else clock.monotonic()
        left = 0
        if self._keeper is not None:
            left = self._keeper.close(max(begun + self._settings.grace, clock.monotonic() + 1.0))
            while self._told:
                self._heed(self._told.popleft())
        if self._why_failed is not None:
            return 2
        proof = Proof(
            seconds=clock.monotonic() - begun,
            grace=self._settings.grace,
            account=self._account,
            killed=self._killed,
            untold=self._untold,
            left=left,
        )
        log.log(logging.INFO if proof.ok else logging.ERROR, "%s", proof)
        return proof.exit_code

    # Health; on threads of its own

    def _live(self) -> tuple[bool, dict[str, Any]]:
        since = clock.monotonic() - self._ticked
        return since < 10.0, {"seconds_since_the_last_turn": round(since, 3)}

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        keeper = self._keeper
        silent = None if keeper is None else clock.monotonic() - keeper.last_answer
        ready = sum(child.is_ready for child in list(self._children))
        words = {
            "children_ready": ready,
            "stopping": self._rung > Rung.WORKING,
            "seconds_since_the_store_answered": None if silent is None else round(silent, 3),
        }
        is_so = ready > 0 and self._rung is Rung.WORKING and silent is not None and silent < self._settings.lease
        return is_so, words


def serve(settings: WorkSettings) -> int:
    """Run a worker service until SIGTERM or SIGINT; the exit code. Main thread only."""
    supervisor = Supervisor(settings)
    stopping = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stopping.append(signal.SIGHUP)  # the terminal was closed; nohup says that it doesn't matter
    before = {number: signal.getsignal(number) for number in stopping}

    def stop(number: int, frame: object) -> None:
        supervisor.ask_to_stop()

    for number in before:
        signal.signal(number, stop)
    try:
        return supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
