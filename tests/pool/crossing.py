"""Jobs for every kind of pool: functions that other processes can import, and a gate that works across the border."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock import Cancelled, current_context, current_job
from tests.gates import GUARD


class CrossGate:
    """As `tests.gates.Gate`, wherever the job runs: it enters and stays until it is opened, then returns 0.

    The gate is a listening socket in the test's process, and a path: that is what crosses. Call it with anything.
    *patience*: seconds that those inside, and the test, wait before they give up.
    """

    def __init__(self, folder: Path, patience: float = GUARD) -> None:
        self._patience = patience
        self._path = str(folder / f"gate-{id(self):x}")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(100)
        self._moved = threading.Condition()
        self._inside: list[socket.socket] = []  # guarded by _moved
        self._is_open = False  # guarded by _moved
        self._door = threading.Thread(target=self._let_in, name="gate", daemon=True)
        self._door.start()

    def __reduce__(self) -> tuple[Any, ...]:
        return enter, (self._path, self._patience)

    def __call__(self, *args: object) -> int:
        return _stay(self._path, self._patience)

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                with self._moved:
                    self._inside.append(inside)
                    self._moved.notify_all()
                    if self._is_open:
                        inside.sendall(b"!")

    def wait_entered(self, count: int = 1) -> None:
        """Return once *count* have entered; AssertionError when the patience is over."""
        with self._moved:
            came = self._moved.wait_for(lambda: len(self._inside) >= count, self._patience)
            assert came, f"{len(self._inside)} of {count} entered"

    @property
    def entered(self) -> int:
        """How many have entered so far."""
        with self._moved:
            return len(self._inside)

    def open(self) -> None:
        """Let all out, and those who come later."""
        with self._moved:
            self._is_open = True
            for inside in self._inside:
                with contextlib.suppress(OSError):
                    inside.sendall(b"!")

    def close(self) -> None:
        """Nobody comes any more."""
        self.open()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._door.join(GUARD)  # who was just coming in is to be let out, too
        self._listener.close()
        for inside in self._inside:
            inside.close()


class enter:  # noqa: N801 - what a gate is on the other side
    """The gate, in another process."""

    def __init__(self, path: str, patience: float) -> None:
        self._path = path
        self._patience = patience

    def __call__(self, *args: object) -> int:
        return _stay(self._path, self._patience)


def _stay(path: str, patience: float) -> int:
    with socket.socket(socket.AF_UNIX) as gate:
        gate.settimeout(patience)
        gate.connect(path)
        assert gate.recv(1) == b"!", "the gate was closed and not opened"
    return 0


def double(x: int) -> int:
    return 2 * x


def fail(*args: object) -> None:
    raise ValueError("it failed", *args)


def fail_until(path: str, times: int) -> int:
    """Fail so many times; each try leaves a byte in the file."""
    with Path(path).open("ab") as file:
        file.write(b".")
    tries = Path(path).stat().st_size
    if tries <= times:
        raise ConnectionError(f"try {tries}")
    return tries


class Thing:
    """An argument."""


def ignore(*args: object) -> None:
    pass


def capture(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    return args, kwargs


def sleep_until_cancelled(path: str) -> None:
    """Sleep in the context; write down how that ended."""
    context = current_context()
    Path(path + ".begun").touch()
    try:
        context.sleep(GUARD)
    except Cancelled as cancelled:
        Path(path).write_text(f"{cancelled.reason}")
        raise


def ignore_everything(path: str) -> None:
    """Hang, as a job does that looks at no context; until `free` ends it."""
    Path(path).touch()
    while not Path(f"{path}.end").exists():
        time.sleep(0.01)


def free(path: Path) -> None:
    """End `ignore_everything`, for threads that were left behind."""
    Path(f"{path}.end").touch()


def cancel_itself() -> None:
    job = current_job()
    assert job is not None
    assert not job.cancel("it had enough"), "it runs"
    current_context().check()


def wait_for_itself() -> str:
    job = current_job()
    assert job is not None
    try:
        job.result(GUARD)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("it waited for itself")


def seen() -> tuple[object, ...]:
    """What a job can see of itself."""
    job, context = current_job(), current_context()
    assert job is not None
    return job.id, job.name, job.attempt, dict(context.values), context.remaining()


def value_of(key: str) -> object:
    return current_context().value(key)


def pid_of_worker() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


@contextlib.contextmanager
def around_each() -> Iterator[None]:
    os.environ["PENSTOCK_TEST_AROUND"] = "inside"
    try:
        yield
    finally:
        os.environ.pop("PENSTOCK_TEST_AROUND")


def inside_of_around() -> str | None:
    return os.environ.get("PENSTOCK_TEST_AROUND")


INITIALIZED: list[int] = []


def initialize(value: int) -> None:
    INITIALIZED.append(value)


def initialized() -> list[int]:
    return INITIALIZED


def fail_to_initialize() -> None:
    raise ValueError("no licence")


def die_unless(path: str) -> int:
    """End the process, unless the file is there."""
    if not Path(path).exists():
        os._exit(3)
    return 7


def tell_pid_and_stay(path: str, gate: CrossGate) -> int:
    """Write down who runs this, once more, and stay until the gate is opened."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return gate()


class Hangs:
    """Arrives only where it came from: unpickling it anywhere else hangs until `free`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return hang_elsewhere, (os.getpid(), self._path)


def hang_elsewhere(pid: int, path: str) -> Hangs:
    if os.getpid() != pid:
        ignore_everything(path)
    return Hangs(path)


class Explodes:
    """Unpickling it anywhere but where it came from raises *error*."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return explode_elsewhere, (os.getpid(), self._error)


def explode_elsewhere(pid: int, error: BaseException) -> Explodes:
    if os.getpid() != pid:
        raise error
    return Explodes(error)


class Mute(Exception):
    """Its message hangs anywhere but where it was raised, until `free`."""

    def __init__(self, pid: int, path: str) -> None:
        super().__init__(pid, path)

    def __str__(self) -> str:
        if os.getpid() != self.args[0]:
            ignore_everything(self.args[1])
        return "I can't say"


def raise_mute(path: str) -> None:
    raise Mute(os.getpid(), path)


def log_lines(count: int, text: str) -> None:
    logger = logging.getLogger("crossing")
    for number in range(count):
        logger.warning("%s %d", text, number)


def log_at(level: int) -> None:
    logging.getLogger("crossing").log(level, "at a level")


def log_and_raise() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("crossing.deep").exception("it went %s", "wrong", extra={"shelf": 7})


def log_and_die(text: str, count: int, signal_number: int | None) -> None:
    log_lines(count, text)
    if signal_number is None:
        os._exit(3)
    os.kill(os.getpid(), signal_number)


def log_with(extra: object) -> None:
    logging.getLogger("crossing").warning("with something", extra={"it": extra})


class LogsWhenPickled:
    """As a `__del__` does that the collector runs meanwhile."""

    def __reduce__(self) -> tuple[Any, ...]:
        if multiprocessing.parent_process() is not None:
            logging.getLogger("crossing").warning("it is pickled")
        return LogsWhenPickled, ()


def log_in_a_signals_handler(lines: int) -> int:
    """Log so many lines while a timer's handler logs, too; how often it did."""
    came = 0

    def handle(number: int, frame: object) -> None:
        nonlocal came
        came += 1
        logging.getLogger("crossing").warning("in the handler")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    for number in range(lines):
        logging.getLogger("crossing").warning("line %d", number)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return came


def log_in_initializer() -> None:
    logging.getLogger("crossing").warning("ready soon")


class ExitsWhenAsked(Exception):
    """Its sentence ends the program."""

    def __str__(self) -> str:
        raise SystemExit


class RefusesAll(Exception):
    """Nothing can be written to it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class AsksItself(Exception):
    """Asks what it stands for, without end: what `__getattr__` did before anything was there to ask."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.response, name)


ODD_ERRORS = [ExitsWhenAsked, RefusesAll, AsksItself]


def raise_one(kind: type[Exception]) -> None:
    raise kind


class RaisesInTheParent:
    """A result that raises when it is unpickled by the process that made it, *here*."""

    def __init__(self, kind: type[Exception], here: int) -> None:
        self._parts = kind, here

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_if_here, self._parts


def _raise_if_here(kind: type[Exception], here: int) -> None:
    if os.getpid() == here:
        raise kind


class RaisesElsewhere:
    """An argument that raises when it is unpickled by another process than *here*."""

    def __init__(self, kind: type[Exception], here: int) -> None:
        self._parts = kind, here

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_unless_here, self._parts


def _raise_unless_here(kind: type[Exception], here: int) -> None:
    if os.getpid() != here:
        raise kind


def a_lock() -> Any:
    return threading.Lock()
