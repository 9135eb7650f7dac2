"""The life of a worker process, in the worker process.

    main thread      takes a CALL off the jobs lane, runs it, answers; the next one only after that
    control thread   hears at any time what the parent says: trips the running job's context; ends the process at once
                     when the parent is gone

Signals that stop a program (SIGINT, SIGTERM, SIGHUP) are left to the parent, which decides. A job that holds the GIL
can keep the control thread from hearing that the parent is gone; then the kernel ends the process (lifeline.py).
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import faulthandler
import importlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Final

from penstock import clock, raised
from penstock.context import Cause, Context, scope
from penstock.errors import NotPicklable
from penstock.job import Claim, Job, JobState, new_job
from penstock.pool.leaving import stop_all
from penstock.pool.processes import main, server, wire
from penstock.pool.processes.memory import Memory, Part, Told, loads
from penstock.pool.processes.page import Page
from penstock.pool.processes.parcel import NOTHING, Functions, Later, is_plain, pack_error, pack_result
from penstock.pool.processes.wire import ANSWER, CALL, CHUNK, Incoming, Lane, message, messages, send_with_fds
from penstock.pool.stacks import drop_our_frames
from penstock.retry import Retry

DUMP_SIGNAL: Final = getattr(signal, "SIGRTMAX", signal.SIGTERM) - 1 if hasattr(signal, "SIGRTMAX") else None
"""Asks a worker for its stack: faulthandler answers even while a job holds the GIL. None: no such signal here."""

_PR_SET_PDEATHSIG: Final = 1
_STOPPING: Final = (signal.SIGINT, *server.STOPPING)  # signals that stop programs
_SOON_COPIED: Final = 8 << 20  # bytes: the parent's dispatcher copies them itself
_RUNNING: Final = JobState.RUNNING  # looked up once: it costs as much as a step
_SMALL: Final = frozenset({bool, float, int, str})  # results that need no look and have no buffers


@dataclass(frozen=True)
class Setup:
    """What a worker is told once, when it starts."""

    name: str
    main: main.Main  # what to take over as `__main__`
    preload: tuple[str, ...]
    users: Later  # initializer, initargs, around: they may need that `__main__`
    thread_limits: dict[str, str]  # for the environment, before libraries are imported that read it
    log_levels: dict[str, int]
    dies_with_starter: bool  # the process that forks it ends when the parent does


@dataclass(frozen=True)
class Extra:
    """What a job has beyond its call, if it has anything."""

    id: int | str | None
    name: str | None
    deadline: float | None  # monotonic, of its context
    timeout: float | None  # seconds, of this attempt
    values: bytes | None  # a dict, pickled


class _Terms:
    """The terms of a job as far as it can ask for them here."""

    when_full = submit_timeout = context = None
    inherit = plain = True
    retry: Retry | None = None
    claim: Claim | None = None  # an errand of a worker service puts it here

    def __init__(self, worker: _Worker, extra: Extra | None) -> None:
        self.crew = worker
        self.id = None if extra is None else extra.id
        self.name = None if extra is None else extra.name
        self.timeout = None if extra is None else extra.timeout


def live(jobs: socket.socket, control: socket.socket, page: int, stacks: int, setup: Setup) -> None:
    """Run jobs until the jobs lane ends. *page*, *stacks*: file descriptors."""
    for number in _STOPPING:
        if signal.getsignal(number) is signal.SIG_IGN:
            continue  # as under nohup: that is for programs that a job starts, too
        signal.signal(number, _leave_to_parent)  # not SIG_IGN, which programs that a job starts would inherit
        signal.siginterrupt(number, False)
    if setup.dies_with_starter:
        _die_with_parent()
    file = os.fdopen(stacks, "ab", buffering=0)
    faulthandler.enable(file, all_threads=False)
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL, file, all_threads=False)
    os.environ.update(setup.thread_limits)
    worker = _Worker(jobs, control, Page(page), setup, file)
    threading.Thread(target=worker.hear, name="penstock-control", daemon=True).start()
    worker.relay_logs()
    os.register_at_fork(
        before=worker.is_to_be_copied, after_in_parent=worker.has_been_copied, after_in_child=worker.is_a_copy_now
    )
    if worker.make_ready():
        worker.run()
    stop_all()  # the pools that jobs have made here: their processes would keep this one
    logging.shutdown()


def _leave_to_parent(number: int, frame: FrameType | None) -> None:
    """A signal that stops programs: the parent decides what that means here."""


def _die_with_parent() -> None:
    """Have the kernel end this process when the one that forked it ends; Linux has that."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Worker:
    """One worker process. It stands in for the crew of the jobs that run here."""

    def __init__(self, jobs: socket.socket, control: socket.socket, page: Page, setup: Setup, file: IO[bytes]) -> None:
        self.name = setup.name
        self._jobs = jobs
        self._lane = Lane(jobs)
        self._control = control
        self._page = page
        self._setup = setup
        self._around: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
        self._call: Callable[[Job[Any]], Any] = Job._call
        self._file = file  # faulthandler writes to it as long as it lives
        self.is_copy = False
        self._unmasked = threading.local()  # .value: the signal mask of a thread that forks
        # The control lane, from here. Messages go out whole, and in order; what a signal's handler or the collector
        # logs in the midst of that, on the same thread, goes out after it.
        self._sending = threading.RLock()
        self._is_sending = False  # guarded by _sending
        self._unsent: deque[bytes] = deque()
        # The main thread writes `_running` and then looks at `_tripped`; the control thread writes `_tripped` and then
        # looks at `_running`: one of the two sees the other, and the one who takes the entry out trips the job.
        self._running: tuple[int, Job[Any]] | None = None
        self._tripped: dict[int, tuple[str, bool]] = {}
        self._last = 0  # the last one that is over
        self._terms = _Terms(self, None)  # of jobs that have nothing of their own
        self._nothing = contextvars.Context()
        self._functions = Functions()
        self._told = Told()
        self._lent: dict[int, Memory] = {}  # by number: memory with results that the parent may not have copied yet

    def make_ready(self) -> bool:
        """Import and initialize what was asked for, and tell the parent how it went."""
        try:
            self._take_over_main()
            for module in self._setup.preload:
                importlib.import_module(module)
            users = self._setup.users.open()
            self._around = users["around"]
            if self._around is not None:
                self._call = self._call_around
            if users["initializer"] is not None:
                users["initializer"](*users["initargs"])
        except BaseException as error:
            self._answer(wire.BROKEN, 0, 0.0, 0.0, pack_error(error))
            return False
        self._answer(wire.READY, 0, 0.0, 0.0, b"")
        return True

    def _take_over_main(self) -> None:
        try:
            main.take_over(self._setup.main)
        except BaseException as error:
            raised.note(
                error, f"raised while a worker imported the main module, {', '.join(self._setup.main.values())}"
            )
            raise

    def run(self) -> None:
        """Take jobs and answer, until the lane ends."""
        incoming = Incoming(CALL)
        while True:
            try:
                data = self._lane.recv()
            except ConnectionError:
                return
            if not data:
                return
            for header, packed in incoming.feed(data):
                part = self._lane.part_of(header[0], packed, header[4] + header[5])
                if self._page.begin(header[1]) and packed:
                    self._run_one(header, packed, part)
                else:
                    self._is_over(header[1])
                    self._answer(wire.SKIPPED, header[1], 0.0, 0.0, b"")
                    if part is not None:
                        part.was_unpacked()

    def _run_one(self, header: tuple[Any, ...], packed: bytes, part: Part | None) -> None:
        began = clock.monotonic()
        seq = header[1]
        memory: Memory | None = None
        try:
            job = self._unpack(header, packed, part, began)
            self._running = seq, job
            if self._tripped:
                self._trip_if_told(seq, job)
            value = contextvars.copy_context().run(self._call, job)
            if self.is_copy:
                sys.exit()
            if value is None:
                kind, answer = wire.DONE, NOTHING
            else:
                if self._lent:
                    self._take_back_what_was_copied()
                if type(value) in _SMALL:
                    kind, answer = wire.DONE, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
                else:
                    answer, memory = pack_result(value)
                    kind = wire.DONE if _arrives_at_once(value, answer, memory) else wire.MADE
        except BaseException as error:
            if self.is_copy:
                raise  # as from a program of its own
            drop_our_frames(error)
            kind, answer = wire.RAISED, pack_error(error)
        ended = clock.monotonic()
        running, self._running = self._running, None
        self._is_over(seq)
        if running is not None and running[1]._context is not None:
            running[1]._context.close()
        self._answer(kind, seq, began, ended, answer, memory)

    def _is_over(self, seq: int) -> None:
        self._last = seq
        if self._tripped:
            for told in [told for told in list(self._tripped) if told <= seq]:
                self._tripped.pop(told, None)

    def _unpack(self, header: tuple[Any, ...], packed: bytes, part: Part | None, began: float) -> Job[Any]:
        _, _, number, attempt, extra, function, _ = header
        try:
            call = packed[extra + function :]
            if function:
                args = loads(call, part) if call else ()  # before anything may fail: it closes *part*
                fn = self._functions.unpack(packed[extra : extra + function])
            else:
                fn, args = loads(call, part)
            more = Extra(*pickle.loads(packed[:extra])) if extra else None
            values = pickle.loads(more.values) if more is not None and more.values is not None else None
        except Exception as error:
            raise NotPicklable(f"the call can't be unpickled by its worker: {raised.sentence(error)}") from error
        terms = self._terms if more is None else _Terms(self, more)
        job = new_job(terms, number, fn, args, {}, self._nothing, began)
        job._attempt = attempt
        job._worker = self.name
        job._began = began
        job._stage = _RUNNING
        if more is not None:
            left = None if more.deadline is None else max(0.0, more.deadline - clock.monotonic())
            job._context = Context(left, values=values, parent=None)
            if more.timeout is not None:
                job._context.limit(more.timeout)
        return job

    def _call_around(self, job: Job[Any]) -> Any:
        assert self._around is not None
        scope.set(job)
        with self._around():
            return job._call()

    def _answer(
        self, kind: int, seq: int, began: float, ended: float, body: bytes, memory: Memory | None = None
    ) -> None:
        in_memory, fd = (wire.NO_MEMORY, None) if memory is None else self._lend(memory)
        header = ANSWER.pack(kind, in_memory, seq, began, ended, len(body))
        try:
            if fd is not None:
                data = header + body
                self._jobs.sendall(data[send_with_fds(self._jobs, data, [fd]) :])
            elif len(body) < CHUNK:
                self._jobs.sendall(header + body)
            else:
                self._jobs.sendall(header)
                self._jobs.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # nobody is there to hear it

    def _lend(self, memory: Memory) -> tuple[int, int | None]:
        """What the frame says of *memory*, and what goes along. Kept until the parent has copied it, if it will."""
        in_memory = wire.MEMORY
        lent = self._page.lend() if memory.copied else None
        if lent is not None:
            if (before := self._lent.get(lent)) is not None:
                before.use_again()  # the parent has copied it since we looked
            self._lent[lent] = memory
            in_memory = lent + 1
        if memory.part in self._told:
            return in_memory, None
        if memory.part:
            self._told.add(memory.part)
        return in_memory | wire.WITH_FD, memory.fd

    def _take_back_what_was_copied(self) -> None:
        """Memory that the parent has copied can be used again."""
        for number in [number for number in self._lent if not self._page.is_lent(number)]:
            self._lent.pop(number).use_again()

    # When a job forks

    def is_to_be_copied(self) -> None:
        """Signals wait: what stops the copy must not find it with a worker's handlers."""
        self._unmasked.value = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    def has_been_copied(self) -> None:
        """In the worker itself."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unmasked.value)

    def is_a_copy_now(self) -> None:
        """The copy runs on in the job, and is no worker any more: a program of its own."""
        self.is_copy = True
        self._jobs.close()
        self._control.close()
        self._sending = threading.RLock()
        self._is_sending = False
        self._unsent.clear()
        root = logging.getLogger()
        root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, _Relay)]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in server.STOPPING:
            if signal.getsignal(number) is _leave_to_parent:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unmasked.value)

    # The control thread

    def hear(self) -> None:
        """Do what the parent says; when it is gone, go at once."""
        if DUMP_SIGNAL is not None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {DUMP_SIGNAL})  # the main thread's stack is the one asked for
        with contextlib.suppress(OSError):
            for seq, reason, by_deadline in messages(self._control):
                if seq <= self._last:
                    continue  # too late
                self._tripped[seq] = reason, by_deadline
                running = self._running
                if running is not None and running[0] == seq:
                    self._trip_if_told(*running)
        os._exit(1)

    def _trip_if_told(self, seq: int, job: Job[Any]) -> None:
        told = self._tripped.pop(seq, None)
        if told is not None:
            self._trip(job, *told)

    def _trip(self, job: Job[Any], reason: str, by_deadline: bool) -> None:
        context = job.context
        context.trip(Cause(reason, by_deadline, source=context))

    # Logs

    def relay_logs(self) -> None:
        """Send what is logged here to the parent, which has the handlers."""
        for name, level in self._setup.log_levels.items():
            logging.getLogger(name or None).setLevel(level)
        root = logging.getLogger()
        root.handlers[:] = [_Relay(self)]

    def send_record(self, record: logging.LogRecord) -> None:
        """Send one record; blocks while the parent has no room for it."""
        running = self._running
        fields = dict(record.__dict__, worker=self.name)
        if running is not None:
            fields.setdefault("job", running[1].id)
        try:
            said = message(fields)
        except Exception:
            said = message({key: value for key, value in fields.items() if isinstance(value, str | int | float | None)})
        self._unsent.append(said)
        with self._sending:
            while self._unsent and not self._is_sending:
                self._is_sending = True
                try:
                    while self._unsent:
                        self._control.sendall(self._unsent.popleft())
                except OSError:
                    pass  # nobody is there to hear it
                finally:
                    self._is_sending = False

    # As job.Crew, for the jobs that run here

    def cancel(self, job: Job[Any], reason: str) -> bool:
        """The running job cancels itself."""
        job.context.cancel(reason)
        return False

    def forget(self, job: Job[Any]) -> bool:
        """It runs."""
        return False

    def wait(self, job: Job[Any], block: Callable[[], bool]) -> bool:
        """A job that waits for itself would wait for ever; there is no other job here."""
        raise RuntimeError(f"{job.label} can't wait for itself")

    def lending(self, job: Job[Any]) -> contextlib.AbstractContextManager[None]:
        """As `wait`."""
        raise RuntimeError(f"{job.label} can't wait for itself")

    def observed(self, job: Job[Any]) -> None:
        """Nobody counts here."""

    def heed(self, job: Job[Any]) -> None:
        """Its context was made; who trips it does so by `_trip`."""

    def stack(self, job: Job[Any]) -> str:
        """Asked in the job itself, which has better ways."""
        return ""


def _arrives_at_once(value: Any, packed: bytes, memory: Memory | None) -> bool:
    """Whether unpacking it calls nobody's code and takes no time to speak of."""
    if memory is not None:
        return type(value) in (bytes, bytearray) and memory.size <= _SOON_COPIED
    return type(value) is bytes or is_plain(packed)


class _Relay(logging.Handler):
    """Makes records fit for the journey, as logging.handlers.QueueHandler does, and sends them."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send *record* with its message and traceback as text."""
        try:
            record = copy.copy(record)
            text = record.getMessage()
            if record.exc_info:
                record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.msg, record.message, record.args, record.exc_info = text, text, None, None
            self._worker.send_record(record)
        except Exception:
            self.handleError(record)


def levels_to_relay() -> dict[str, int]:
    """The levels that are set on the loggers of this process, by name; the root's under the empty name."""
    return {"": logging.getLogger().level, **dict(_levels())}


def _levels() -> Iterator[tuple[str, int]]:
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            yield name, logger.level
