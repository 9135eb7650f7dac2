"""A child as its supervisor sees it: a process, the line to it, and the board on which it writes what runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys

from penstock import clock
from penstock.engines.requests import Death
from penstock.pool.lifeline import LIFELINE
from penstock.worker.board import Account, Board, Entry, new_memory
from penstock.worker.child import ChildSettings
from penstock.worker.signals import STOPPING
from penstock.worker.words import Line


class ChildProcess:
    """One life of a child. Main thread of the supervisor only. Raises OSError if no process can be made now."""

    def __init__(self, settings: ChildSettings) -> None:
        self.number = settings.number
        self.alone = settings.alone
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            memory = new_memory(settings.slots)
            try:
                told = dataclasses.replace(settings, line=theirs.fileno(), board=memory, lifeline=LIFELINE.fileno())
                self.started = clock.monotonic()
                self._process = _started(told)
                undo.callback(self._process.wait)
                undo.callback(self._process.kill)
                self._board = Board(memory, told.slots)
                undo.callback(self._board.close)
            finally:
                os.close(memory)
            self.pidfd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None
            undo.pop_all()
        self.line = Line(ours)
        self.worker: int | None = None  # known when it is ready
        self.is_ready = False
        self.failed: str | None = None  # why it could not begin
        self.has_left = False  # it said that it is done
        self.is_tired = False  # another has its place; it ends when its other jobs have
        self._suspected: dict[tuple[int, int], float] = {}  # past their limit when last looked at
        self._blamed: frozenset[int] | None = None
        self._why: str | None = None

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    def ended(self) -> bool:
        """Whether the process has ended; it is reaped then."""
        return self._process.poll() is not None

    def running(self) -> list[Entry]:
        """The jobs that have begun there."""
        return self._board.running()

    def account(self) -> Account:
        """What became of its jobs so far."""
        return self._board.account()

    def untold(self) -> int:
        """Jobs that it holds and that don't run: they wait to begin, or for the store to hear how they ended."""
        return max(0, self.account().held - len(self.running()))

    def overdue(self, margin: float) -> list[Entry]:
        """The jobs that are past their limit by *margin* seconds, now and when this was asked before."""
        now = clock.monotonic()
        late = [entry for entry in self._board.running() if entry.limit and now > entry.limit + margin]
        certain = [entry for entry in late if (entry.seq, entry.token) in self._suspected]
        self._suspected = {(entry.seq, entry.token): entry.limit for entry in late}
        return certain

    def kill(self, why: str, blamed: frozenset[int]) -> None:
        """End it by force; of its jobs, *blamed* are at fault."""
        if self._why is None:
            self._why, self._blamed = why, blamed
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def death(self) -> Death | None:
        """What to tell the store, after its end; None if it never was known there."""
        if self.worker is None:
            return None
        began = frozenset(entry.seq for entry in self._board.running())
        if self.has_left:
            return Death(self.worker, "it has left", began, blamed=frozenset())
        return Death(self.worker, self._why or how_it_ended(self._process.returncode), began, self._blamed)

    @property
    def was_killed(self) -> bool:
        """Whether it was this supervisor that ended it by force."""
        return self._why is not None

    def why(self) -> str:
        """How it ended, in words."""
        return self._why or how_it_ended(self._process.returncode)

    def close(self) -> None:
        """After its end: let everything go."""
        self.line.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
        self._board.close()


def _started(told: ChildSettings) -> subprocess.Popen[bytes]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # until it can leave them to its supervisor
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock.worker.child", told.packed()],
            stdin=subprocess.DEVNULL,
            pass_fds=(told.line, told.board, told.lifeline),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "it has not ended"
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (by hand, or the system was out of memory)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
