"""One run, from inputs to result lines.

    feeder thread              workers                 writer thread            main thread
    inputs -- submit, blocks --> backlog --> finished --> ordered? --> output     signals, progress, the end
       ^      while it is full                              |
       '------------- room: one place per input ------------'

Two threads of its own rather than `pool.stream`: reading may block for as long as whoever writes the inputs likes, and
so may writing. Neither may hold back a result that is there, or a stop. Only the main thread gets signals and draws.

Memory is bounded whoever is slow: an input is read only once it has a place in `room`, and gives it back when its line
is written.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock import JobState, PoolClosed, raised
from penstock.cli.output import invalid_line, result_line

if TYPE_CHECKING:
    from penstock import Job
    from penstock.cli.inputs import Input
    from penstock.cli.loop import OnLoop
    from penstock.cli.output import Output
    from penstock.pool.executor import Pool

HELD: Final = 1000  # results that may wait for an earlier one (--ordered) or for a slow reader, beside the backlog
KINDS: Final = 200  # of failures of which a few inputs are remembered for the summary
FEW: Final = 5


@dataclass(slots=True)
class Tally:
    """What was written so far. Only the writer thread changes it; a reader may see it between two changes."""

    done: int = 0
    failed: int = 0
    cut: int = 0  # cancelled or abandoned by a stop
    invalid: int = 0

    @property
    def jobs(self) -> int:
        """Outcomes of accepted jobs."""
        return self.done + self.failed + self.cut

    @property
    def lines(self) -> int:
        """All lines written."""
        return self.jobs + self.invalid


@dataclass(frozen=True, slots=True)
class Entry:
    """What the writer gets: an input with its finished job, or without one if it could not become a job."""

    place: int  # counted from 0, in the order of the inputs
    task: Input
    job: Job[object] | None


class Flow:
    """Feeds *inputs* to *pool* and writes a line per outcome to *output*, until `over` is set.

    Invariants:
      1. Every job the pool accepted from us becomes one entry, and every entry one line.
      2. At most `room` inputs are read and not yet written.
    """

    def __init__(
        self,
        pool: Pool | OnLoop,
        call: Callable[[object], object],
        inputs: Iterable[Input],
        output: Output,
        *,
        ordered: bool,
        room: int,
    ) -> None:
        self.tally = Tally()
        self.over = threading.Event()  # nothing more will be written; look at the errors
        self.reading_error: Exception | None = None
        self.writing_error: Exception | None = None
        self.last_line = 0  # of the inputs that were run, or written as invalid
        self.all_offered = False  # True once there are no more inputs
        self.invalid: list[Input] = []  # the first FEW
        self.failed_inputs: dict[int | str, Input] = {}  # by job id: the first FEW of each kind
        self._kinds: dict[object, int] = {}  # how many of each kind are in failed_inputs; writer thread only
        self._pool = pool
        self._call = call
        self._inputs = inputs
        self._output = output
        self._ordered = ordered
        self._accepted = 0  # feeder thread only; others read it once all is fed
        self._room = threading.Semaphore(room)
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()  # None: all inputs were fed
        # Daemons: a read or a write that never returns must not hold up the exit. Otherwise both end by themselves.
        self._threads = [
            threading.Thread(target=self._feed, name="penstock-map-feeder", daemon=True),
            threading.Thread(target=self._write, name="penstock-map-writer", daemon=True),
        ]

    def start(self) -> None:
        """Start reading, running and writing."""
        for thread in self._threads:
            thread.start()

    @property
    def output_name(self) -> str:
        """Where the lines go, for people."""
        return self._output.name

    def went_well(self) -> bool:
        """True if every input was run and every job succeeded. Only once it is over."""
        return self.all_offered and self.tally.lines == self.tally.done and self.writing_error is None

    def join(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for each thread; one that is blocked in a read or a write is left behind."""
        for thread in self._threads:
            thread.join(timeout)

    # --- the feeder thread ------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        try:
            inputs = iter(self._inputs)
            for place in itertools.count():
                self._room.acquire()
                task = next(inputs, None)
                self.all_offered = task is None
                if task is None or not self._offer(place, task):
                    break
                self.last_line = task.line
        except Exception as error:  # kept for the main thread, which tells it
            self.reading_error = error
        finally:
            self._entries.put(None)

    def _offer(self, place: int, task: Input) -> bool:
        """Hand *task* to the pool, or straight to the writer if it can't be run; False if the pool is closed."""
        if task.problem is not None:
            self._entries.put(Entry(place, task, None))
            return True
        try:
            job = self._pool.submit(self._call, task.value)
        except PoolClosed:
            return False
        self._accepted += 1
        entry = Entry(place, task, job)
        job.add_done_callback(lambda _: self._entries.put(entry))
        return True

    # --- the writer thread ------------------------------------------------------------------------------------------

    def _write(self) -> None:
        lines = self._in_order() if self._ordered else self._as_they_come()
        try:
            for entry in lines:
                self._write_entry(entry)
        except Exception as error:  # kept for the main thread, which tells it
            self.writing_error = error
        finally:
            self.over.set()

    def _as_they_come(self) -> Iterator[Entry]:
        fed = False
        while not (fed and self.tally.jobs == self._accepted):
            entry = self._entries.get()
            if entry is None:
                fed = True  # from here on _accepted stands still
            else:
                yield entry

    def _in_order(self) -> Iterator[Entry]:
        held: dict[int, Entry] = {}
        following = 0
        for entry in self._as_they_come():
            held[entry.place] = entry
            while (ready := held.pop(following, None)) is not None:
                yield ready
                following += 1

    def _write_entry(self, entry: Entry) -> None:
        task, job = entry.task, entry.job
        self._output.write(invalid_line(task) if job is None else result_line(task, job))
        if job is None:
            self.tally.invalid += 1
            if len(self.invalid) < FEW:
                self.invalid.append(task)
        elif job.state is JobState.DONE:
            self.tally.done += 1
        elif job.state is JobState.FAILED:
            self.tally.failed += 1
            self._remember(task, job)
        else:
            self.tally.cut += 1
        self._room.release()

    def _remember(self, task: Input, job: Job[object]) -> None:
        error = job.exception(timeout=0)
        assert error is not None
        trace = raised.traceback_of(error)
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        kind = (raised.type_name(error), trace and (trace.tb_frame.f_code, trace.tb_lineno))
        if self._kinds.get(kind, 0) < FEW and (kind in self._kinds or len(self._kinds) < KINDS):
            self._kinds[kind] = self._kinds.get(kind, 0) + 1
            self.failed_inputs[job.id] = task
