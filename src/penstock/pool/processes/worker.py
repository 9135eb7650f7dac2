"""The parent's side of one worker process: what is under way to it, and how a job is put on its lane."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from penstock import clock, timers
from penstock.context import Cause
from penstock.errors import JobCancelled, JobKilled
from penstock.job import Job, JobState
from penstock.pool.attempts import Overrun
from penstock.pool.processes.child import DUMP_SIGNAL
from penstock.pool.processes.launch import Ends
from penstock.pool.processes.memory import Told
from penstock.pool.processes.parcel import Parcel
from penstock.pool.processes.wire import (
    ANSWER,
    CALL,
    CONTROL,
    KINDS,
    MEMORY,
    NO_MEMORY,
    WITH_FD,
    Incoming,
    Lane,
    message,
    send_with_fds,
)
from penstock.pool.stacks import innermost_last

if TYPE_CHECKING:
    from penstock.pool.processes import ProcessCrew

_RUNNING: Final = JobState.RUNNING  # looked up once: it costs as much as a step
_LARGEST: Final = 1 << 20  # bytes of stacks that are kept of one worker
_STACK: Final = "Stack (most recent call first):"  # how faulthandler begins one
_DUMP_TAKES: Final = 0.1  # seconds that a worker is given to write down where it stands


class ProcessWorker:
    """One worker process, as its parent sees it.

    Who may hand it a job: whoever took it off the stack of idle ones; while it is not there, the dispatcher. So the
    numbers of its jobs rise, and one thread at a time writes to its lane.
    Lock: `lock` guards `dead`, `under_way` and `unsent`; a leaf but for the rooms' own. Other fields are the
    dispatcher's alone, if nothing else is said.
    """

    def __init__(self, crew: ProcessCrew, ends: Ends) -> None:
        self._crew = crew
        self.ends = ends
        self.name = ends.name
        self.tally = crew.ledger.open_tally()
        self.overrun: Overrun | None = None  # guarded by Attempts._lock
        self.thread: threading.Thread | None = None  # none of ours is inside its jobs
        self.lock = threading.Lock()
        self.dead = False
        self.ready = False
        self.broken = False  # its initializer raised, which is about to be told
        self.retiring = False  # it is given no more jobs, and leaves once it has done those it has
        self.has_made_room = False  # it runs no job any more; until then its successor runs none
        self.predecessor: ProcessWorker | None = None
        self.successor: ProcessWorker | None = None
        self.told_to_leave = False
        self.must_leave: timers.Timer | None = None  # kills it if it does not
        self.doomed = False  # it is being killed; any thread
        self.under_way: deque[tuple[int, Job[Any]]] = deque()  # sent and not answered, in order
        self.unsent: deque[tuple[memoryview, list[int]]] = deque()  # what did not fit into the lane yet; descriptors
        self.lane = Lane(ends.jobs)
        self._told = Told()  # guarded by lock
        self._saying = threading.Lock()  # guards the next: messages go out whole, and in order; a leaf
        self._unsaid = bytearray()  # what did not fit into the control lane yet
        self.incoming, self.said = Incoming(ANSWER, KINDS), Incoming(CONTROL)
        self.watched: bool | None = None  # whether its jobs lane is; None: not yet, False: it has ended
        self.heard: bool | None = None  # the same of its control lane; None as well: nothing is to be done
        self.last = 0  # the number of the last job sent; whoever may hand it a job writes it
        self.skipped = 0  # how many of these were taken back
        self.moved_at = 0.0  # monotonic: when its running job began, as far as we know
        self.takes = 0.0  # seconds that its jobs took lately, on average
        self.killed: tuple[Job[Any], JobState, BaseException] | None = None  # what its end is to mean; dispatcher only

    # Handing over

    def send(self, jobs: list[Job[Any]]) -> bool:
        """Put *jobs* on the lane; False if the worker is dead, and nothing was sent."""
        with self.lock:
            if self.dead:
                return False
            frames: list[bytes] = []
            fds: list[int] = []
            for job in jobs:
                self.last += 1
                self.under_way.append((self.last, job))
                self._add_frame(self.last, job, frames, fds)
            self._write(b"".join(frames), fds)
            return True

    def _add_frame(self, seq: int, job: Job[Any], frames: list[bytes], fds: list[int]) -> None:
        """Add the frame of *job*, and the descriptor that has to go along if one has."""
        parcel: Parcel | None = job._args  # type: ignore[assignment]  # what it was packed into at the call
        if parcel is None:  # it has its outcome already
            frames.append(CALL.pack(0, seq, 0, 0, 0, 0, 0))
            return
        call, function, memory = parcel.call, parcel.function, parcel.memory
        in_memory = NO_MEMORY if memory is None else MEMORY
        if memory is not None and memory.part not in self._told:
            try:
                fds.append(os.dup(memory.fd))  # ours may be closed before this one is sent
            except OSError:  # no descriptors are left: let it be skipped, and sent again
                frames.append(CALL.pack(0, seq, 0, 0, 0, 0, 0))
                return
            in_memory |= WITH_FD
            if memory.part:
                self._told.add(memory.part)
        terms = job._terms
        plain = job._context is None and terms.plain and terms.id is None and terms.name is None
        extra = b"" if plain else parcel.extra(job)
        attempt = job._attempt + (job._stage is not _RUNNING)  # it is counted when it is known to run
        of_extra, of_function = len(extra), len(function)
        size = of_extra + of_function + len(call)
        frames += (
            CALL.pack(in_memory, seq, job._number, attempt, of_extra, of_function, size),
            extra, function, call,
        )  # fmt: skip

    def spoken_of(self, seqs: list[int]) -> list[Job[Any]]:
        """On the dispatcher: the jobs with these numbers, which must be the next ones; fewer if they are not."""
        jobs: list[Job[Any]] = []
        with self.lock:
            for seq in seqs:
                if not self.under_way or self.under_way[0][0] != seq:
                    break
                jobs.append(self.under_way.popleft()[1])
        self.ends.page.answered(seqs[0], len(jobs))
        return jobs

    def has_taken(self, began: float, ended: float) -> None:
        """On the dispatcher: a job of its ran from *began* to *ended*."""
        took = ended - began
        self.takes = took if self.takes <= 0 else self.takes + (took - self.takes) / 8
        self.moved_at = ended

    def _write(self, data: bytes, fds: list[int]) -> None:
        """Write as much as the lane takes now; the dispatcher writes the rest. Holds `lock`."""
        sent = 0 if self.unsent else self._send(data, fds)
        if sent is not None and sent < len(data):
            self.unsent.append((memoryview(data)[sent:], [] if sent else fds))
            self._crew.staff.dispatcher.write_rest(self)

    def _send(self, data: bytes | memoryview, fds: list[int]) -> int | None:
        """How much of *data* was sent, with *fds* if it was any; None if it is dead or dying. Holds `lock`."""
        try:
            sent = send_with_fds(self.ends.jobs, data, fds) if fds else self.ends.jobs.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # it has just died, or the system will not take this: then it has to
            self.kill()
            _close_all(fds)
            return None
        _close_all(fds)
        return sent

    def write_rest(self) -> bool:
        """Write on; True if nothing is left."""
        with self.lock:
            while self.unsent:
                data, fds = self.unsent[0]
                sent = self._send(data, fds)
                if sent is None or sent == len(data):
                    self.unsent.popleft()
                elif sent == 0:
                    return False
                else:
                    self.unsent[0] = data[sent:], []
            if self.told_to_leave:
                self._end_lane()
            return True

    def forget_unsent(self) -> None:
        """It is dead. Holds `lock`."""
        while self.unsent:
            _close_all(self.unsent.popleft()[1])

    def leave(self) -> None:
        """Tell it to leave once it has done what it has."""
        with self.lock:
            self.told_to_leave = True
            if not self.unsent:
                self._end_lane()

    def _end_lane(self) -> None:
        with contextlib.suppress(OSError):
            self.ends.jobs.shutdown(socket.SHUT_WR)

    # While a job runs

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """Trip the context of *job* over there, if it is the one that runs."""
        with self.lock:
            # The last one: it may have been sent before, and taken back.
            seq = next((number for number, other in reversed(self.under_way) if other is job), None)
        if seq is not None:
            self._say(message((seq, cause.reason, cause.by_deadline)))
            if not cause.by_deadline:
                with contextlib.suppress(RuntimeError):  # the interpreter is ending; a stop has its own ways
                    timers.call_at(
                        clock.monotonic() + self._crew.settings.margin,
                        functools.partial(self._did_not_stop, job, cause.reason),
                    )

    def _say(self, said: bytes) -> None:
        with self._saying:
            self._unsaid += said
            left = self._say_on()
        if left:
            self._crew.staff.dispatcher.say_rest(self)

    @property
    def has_unsaid(self) -> bool:
        """Whether the lane was full."""
        return bool(self._unsaid)

    def say_rest(self) -> bool:
        """Write on; True if nothing is left."""
        with self._saying:
            return not self._say_on()

    def _say_on(self) -> bool:
        """Write as much as the control lane takes; True if something is left. Holds `_saying`."""
        try:
            while self._unsaid:
                del self._unsaid[: self.ends.control.send(self._unsaid)]
        except BlockingIOError:
            return True
        except OSError:  # it has died
            self._unsaid.clear()
        return False

    def _did_not_stop(self, job: Job[Any], reason: str) -> None:
        if self._crew.attempts.running.get(job) is self:
            self.look_then(functools.partial(self._kill_cancelled, job, reason))

    def _kill_cancelled(self, job: Job[Any], reason: str, stack: str) -> None:
        if not self.is_still_in(job):
            return
        error = JobCancelled(
            job.label, f"{reason}; it did not stop when asked, and its worker was killed", started=True
        )
        if stack:
            error.add_note(f"it stood at:\n{stack.rstrip()}")
        self.killed = self.killed or (job, JobState.CANCELLED, error)
        self.kill()

    def is_still_in(self, job: Job[Any]) -> bool:
        """On the dispatcher: whether it may be killed for *job*, and hits no other.

        What was sent after it is taken back first: only then is it certain that no other has begun.
        """
        self._crew.staff.return_those_behind(self)
        with self.lock:
            return bool(self.under_way) and self.under_way[0][1] is job and self.ends.page.begun <= self.under_way[0][0]

    # As attempts.Runner

    def stack(self) -> str:
        """Where it stands; takes up to a tenth of a second."""
        return self.where_it_said(self.ask_where(), clock.monotonic() + _DUMP_TAKES)

    def where_it_said(self, begun: int | None, until: float) -> str:
        """Where it says that it stands, after `ask_where`; empty if it hasn't by *until*."""
        if begun is None:
            return ""
        text, before = self._read_stack(begun), None
        while text != before or not text:  # it is written line by line
            if clock.monotonic() >= until:
                break
            time.sleep(0.002)  # polls: a signal handler over there writes to a file, and can't tell us
            text, before = self._read_stack(begun), text
        return text

    def look_then(self, then: Any) -> None:
        """Call `then(stack)` on the dispatcher, a moment from now."""
        begun = self.ask_where()

        def seen() -> None:
            then("" if begun is None else self._read_stack(begun))

        def look() -> None:
            self._crew.staff.dispatcher.do(seen)

        timers.call_at(clock.monotonic() + _DUMP_TAKES, look)

    def ask_where(self) -> int | None:
        """Ask it to write down where it stands; where that will begin, None if it can't be asked."""
        if DUMP_SIGNAL is None or self.dead:
            return None
        try:
            file = self.ends.stacks.fileno()
            begun = os.fstat(file).st_size
            if begun > _LARGEST:
                begun = 0
                os.ftruncate(file, 0)
            self.ends.signal(DUMP_SIGNAL)
        except (OSError, ValueError):  # it is gone
            return None
        return begun

    def _read_stack(self, begun: int) -> str:
        """The first stack that was written from there on: another may have been asked for meanwhile."""
        text = self._written_since(begun).partition(_STACK)[2]
        return innermost_last(text.partition(_STACK)[0])

    def _written_since(self, begun: int) -> str:
        with contextlib.suppress(OSError, ValueError):  # it is gone
            return os.pread(self.ends.stacks.fileno(), 2 * _LARGEST, begun).decode(errors="replace")
        return ""

    def last_words(self) -> str:
        """What faulthandler wrote when it died of a fatal signal."""
        text = self._written_since(0)
        at = text.rfind("Fatal Python error")
        return "" if at < 0 else f"{text[at:].splitlines()[0]}\n{innermost_last(text[at:])}"

    def stack_at_deadline(self) -> str:
        """Not known at once."""
        return ""

    def margin_is_over(self, overrun: Overrun) -> None:
        """Look where it stands, then let it be killed."""
        if self.overrun is overrun:
            self.look_then(functools.partial(self._end_overrun, overrun))

    def _end_overrun(self, overrun: Overrun, stack: str) -> None:
        if self.is_still_in(overrun.job):  # else it has answered, or is dead, and that is about to be heard
            self._crew.attempts.still_there(self, overrun, stack)

    def kill(self) -> None:
        """SIGKILL. It gets no other job, which it might still begin."""
        self.doomed = True
        self.ends.kill()

    def replace(self) -> bool:
        """Kill it; the dispatcher starts another as soon as it has ended."""
        self.kill()
        return True

    def came_back_late(self) -> None:
        """It is being killed."""

    def fate(self, replaced: bool) -> str:
        """What becomes of it."""
        return "its process is killed"

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """The time to stop is over: it is killed."""
        stack = self._crew.staff.stacks_at_end.get(self, "")
        self.kill()
        error = JobKilled(job.label, job._ended - job._began)
        if stack:
            error.add_note(f"it stood at:\n{stack.rstrip()}")
        return JobState.KILLED, error


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
