"""Starting worker processes: from the fork server, or spawned; never by a plain fork of a process that has threads."""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import socket
import sys
import tempfile
import threading
import types
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import IO, Any, Protocol

from penstock.pool.lifeline import LIFELINE, Lifeline, hang_on
from penstock.pool.processes import child
from penstock.pool.processes.page import Page

if os.name == "posix":
    import fcntl

_FIRST, _LAST = "penstock.pool.processes.warm", "penstock.pool.processes.cool"


class Process(Protocol):
    """The part of multiprocessing.Process that is used here."""

    pid: int | None
    sentinel: int
    exitcode: int | None

    def start(self) -> None:
        """Start it."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...

    def close(self) -> None:
        """Give its descriptors back; ValueError if it lives."""
        ...


class Ends:
    """What the parent holds of one worker: its process, its end of both lanes, the page, and the file of stacks.

    Lock: `_lock` is held while a signal is sent, and while everything is given back: a leaf.
    """

    def __init__(self, start: Callable[..., Process], setup: child.Setup) -> None:
        self.name = setup.name
        self._lock = threading.Lock()
        self._is_closed = False  # guarded by _lock
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.jobs, jobs = _pair(ours, theirs)
            self.control, control = _pair(ours, theirs)
            memory = theirs.enter_context(_file_without_a_name("page"))
            memory.truncate(Page.SIZE)
            self.page = Page(memory.fileno())
            ours.callback(self.page.close)
            self.stacks = ours.enter_context(_file_without_a_name("stacks"))
            fds = [_Fd(memory), _Fd(self.stacks), _Fd(LIFELINE)]
            self.process = start(target=_run, name=setup.name, args=(jobs, control, *fds, setup))
            self.process.start()
            self._pidfd = _open_pidfd(self.process.pid)
            if self._pidfd is not None:
                ours.callback(os.close, self._pidfd)
            self._ours = ours.pop_all()
        # Their ends are the child's alone now: that it closes them is how its end shows.

    def kill(self) -> None:
        """SIGKILL it, and nobody else: its number may be another's once it has ended."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives. Any thread."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._is_closed:
                return
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.process.exitcode is None and self.process.pid is not None:
                os.kill(self.process.pid, number)

    def close(self) -> None:
        """Give everything back: its process has ended."""
        with self._lock:
            self._is_closed = True
            self._ours.close()
            with contextlib.suppress(ValueError):  # it lives, where a forked child closes its copies
                self.process.close()

    def leave_behind(self) -> None:
        """It was killed and does not end: it hangs in the kernel, on a dead network share, say. Let nobody wait."""
        multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined] # an exit waits for these

    def start_afresh(self) -> None:
        """In the child of a fork: held by that, too, they would keep the worker from seeing the parent's end."""
        self._lock = threading.Lock()
        self.leave_behind()
        with contextlib.suppress(OSError):
            self.close()


class Starter:
    """Starts processes on a thread that comes and goes: the fork server, and what it imports, may take their time.

    Lock: `_lock` guards both other fields; a leaf.
    """

    def __init__(self, name: str, start: Callable[[child.Setup], None]) -> None:
        self._name = name
        self._start = start
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all, the state of the lock, too."""
        self._lock = threading.Lock()
        self._waiting: deque[child.Setup] = deque()
        self._thread: threading.Thread | None = None

    def put(self, setup: child.Setup) -> None:
        """Start one more, soon."""
        with self._lock:
            self._waiting.append(setup)
            if self._thread is not None:
                return
            thread = self._thread = threading.Thread(target=self._work, name=f"penstock-{self._name}-s", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and gives no more threads
            self._work()

    def join(self) -> None:
        """All have been started: wait until the thread has ended."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                setup = self._waiting.popleft()
            self._start(setup)


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair()
    ours.enter_context(here)
    theirs.enter_context(there)
    here.setblocking(False)
    return here, there


def _file_without_a_name(what: str) -> IO[bytes]:
    """A file that is gone with the last process that has it open; all who have it write at its end."""
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile("a+b", buffering=0)
    fd = os.memfd_create(f"penstock-{what}")
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return os.fdopen(fd, "r+b", buffering=0)


class _Joined(BaseProcess):
    """A process that others than we may wait for: multiprocessing does, at the end of the interpreter."""

    _popen: Any

    def join(self, timeout: float | None = None) -> None:
        try:
            super().join(timeout)
        except Exception:
            if self._popen is not None:
                raise
            # It has ended, and we have given everything back, perhaps just now.


class _FromForkServer(_Joined, ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        return _popen("popen_forkserver")(process)


class _Spawned(_Joined, SpawnProcess):
    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802
        return _popen("popen_spawn_posix")(process)


@functools.cache
def _popen(module: str) -> Any:
    """The `Popen` of one of multiprocessing's modules, with two things changed."""
    popen: Any = importlib.import_module(f"multiprocessing.{module}").Popen

    class Popen(popen):  # type: ignore[misc]
        """Others than we may ask it for the exit code, as whoever starts a process does: it can be read only once."""

        _launch = _without_main(popen._launch)

        def __init__(self, process: Any) -> None:
            self._reading = threading.Lock()
            super().__init__(process)

        def poll(self, flag: int = os.WNOHANG) -> Any:
            if not flag and self.returncode is None:
                multiprocessing.connection.wait([self.sentinel])  # without the lock: others only want a look
            with self._reading:
                return super().poll(flag)

    return Popen


def _without_main(launch: Any) -> Any:
    """The stdlib's own *launch*, which tells a new process all that it always does, but nothing of `__main__`."""
    asked: Any = launch.__globals__["spawn"]

    def get_preparation_data(name: str) -> dict[str, Any]:
        vars(sys.modules["__main__"]).setdefault("__spec__", None)  # it is asked for, and pdb takes it away
        told: dict[str, Any] = asked.get_preparation_data(name)
        return {key: value for key, value in told.items() if not key.startswith("init_main_from_")}

    answering = types.SimpleNamespace(**{**vars(asked), "get_preparation_data": get_preparation_data})
    return types.FunctionType(launch.__code__, {**launch.__globals__, "spawn": answering}, launch.__name__)


class _Fd:
    """A file, on its way to a child as a descriptor."""

    def __init__(self, file: IO[bytes] | Lifeline) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._file.fileno()),)


def _detach(fd: Any) -> int:
    number: int = fd.detach()
    return number


def _run(jobs: socket.socket, control: socket.socket, page: int, stacks: int, life: int, setup: child.Setup) -> None:
    """In the child."""
    from multiprocessing import forkserver

    # The fork server lives as long as anybody holds this descriptor: let it, and its children, end with the parent.
    server: Any = forkserver._forkserver
    alive, server._forkserver_alive_fd = server._forkserver_alive_fd, None
    if alive is not None:
        os.close(alive)
    hang_on(life)
    child.live(jobs, control, page, stacks, setup)


def _open_pidfd(pid: int | None) -> int | None:
    opened = getattr(os, "pidfd_open", None)
    if opened is None or pid is None:
        return None
    try:
        number: int = opened(pid)
    except OSError:
        return None
    return number


def start_method(asked: str | None) -> str:
    """The method that *asked* names, by default "forkserver" where there is one, else "spawn"."""
    there = multiprocessing.get_all_start_methods()
    if asked is None:
        return "forkserver" if "forkserver" in there else "spawn"
    if asked == "fork":
        raise ValueError("start_method 'fork' is refused: a fork of a process with threads can hang; use 'forkserver'")
    if asked not in there:
        raise ValueError(f"start_method must be 'forkserver' or 'spawn', as this system has them, not {asked!r}")
    return asked


def process_for(method: str, preload: Sequence[str]) -> Callable[..., Process]:
    """What makes a process to start; the fork server, if it isn't there yet, will have imported *preload*."""
    made: Any = _Spawned
    if method == "forkserver":
        from multiprocessing import forkserver

        server: Any = forkserver._forkserver
        ours = ("__main__", _FIRST, _LAST)
        others = [name for name in getattr(server, "_preload_modules", []) if name not in ours]
        forkserver.set_forkserver_preload(list(dict.fromkeys([_FIRST, *others, *preload, _LAST])))
        made = _FromForkServer
    start: Callable[..., Process] = made
    return start


def _start_afresh() -> None:
    """The fork server is the parent's: a forked child that starts processes gets its own."""
    forkserver: Any = sys.modules.get("multiprocessing.forkserver")
    if forkserver is not None:
        server = forkserver._forkserver
        alive, preload = server._forkserver_alive_fd, server._preload_modules
        server.__init__()  # its lock may be in any state
        server._preload_modules = preload
        if alive is not None:
            os.close(alive)  # the server ends with the last who holds it
    resource_tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if resource_tracker is not None:
        resource_tracker._resource_tracker._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
