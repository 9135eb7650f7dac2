"""What came back from a worker and takes a user's code to unpack: an error, or a result that is more than plain data.

    dispatcher ── put ──> waiting ──> thread ── unpickles it, tells of it, settles the job or has it tried again
                                        └── hangs there: another thread goes on with those that wait

A job that arrives stays among the running ones, with its `Arrival` in the place of its worker, which is free for the
next job: so its deadline, a cancel and the end of a stop still find it, even if it never gets through.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from penstock import clock, raised, timers
from penstock.context import Cause
from penstock.errors import JobAbandoned, NotPicklable
from penstock.job import Job, JobState
from penstock.pool.attempts import Overrun
from penstock.pool.processes import wire
from penstock.pool.processes.memory import loads
from penstock.pool.processes.parcel import Parcel, unpack_error
from penstock.pool.stacks import stack_of

log = logging.getLogger("penstock.pool")

if TYPE_CHECKING:
    from penstock.pool.ledger import Tally
    from penstock.pool.processes import ProcessCrew
    from penstock.pool.processes.worker import ProcessWorker

_LATE: Final = 0.1  # seconds in one thing after which another thread goes on with the rest
_MOST: Final = 8  # threads: how many may hang before the rest has to wait


class Arrivals:
    """Does one thing after another, in their order; off the thread that hears the workers.

    Lock: `_changed` guards `_is_over`, and who is in `_busy_since`; a leaf. Things are taken without it, by one atomic
    step; a thread looks once more with it held before it sleeps, and whoever adds some notifies after that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all, the threads and the state of the lock, too."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy_since: dict[threading.Thread, float | None] = {}  # monotonic; None: idle
        self._is_over = False

    @property
    def waiting(self) -> int:
        """How many things nobody has begun."""
        return len(self._waiting)

    def put(self, things: list[Callable[[], None]]) -> None:
        """Have all of *things* done soon. None may raise."""
        self._waiting.extend(things)
        with self._changed:
            if self._busy_since:
                self._changed.notify()  # or `look` will see that they hang
                return
        self._start_thread()

    def look(self) -> None:
        """If things wait while all threads hang, start another thread."""
        late = clock.monotonic() - _LATE
        with self._changed:
            since = self._busy_since.values()
            hang = self._waiting and len(since) < _MOST and all(at is not None and at < late for at in since)
        if hang:
            self._start_thread()

    def end(self) -> None:
        """Nothing more comes: let the threads end. One that hangs is left behind."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            threads = list(self._busy_since)
        until = clock.monotonic() + _LATE
        for thread in threads:
            thread.join(clock.remaining(until))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"penstock-{self._name}-arrivals", daemon=True)
        with self._changed:
            self._busy_since[thread] = None
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and gives no more threads
            with self._changed:
                del self._busy_since[thread]
            while self._waiting:
                self._waiting.popleft()()

    def _work(self) -> None:
        here = threading.current_thread()
        with timers.nothing_may_block():
            while self._wait_for_more(here):
                with contextlib.suppress(IndexError):
                    while True:
                        do = self._waiting.popleft()
                        self._busy_since[here] = clock.monotonic()
                        try:
                            do()
                        except BaseException:  # a user's error that can't even be looked at: it takes no thread along
                            log.exception("what a worker sent could not be dealt with")
                        del do

    def _wait_for_more(self, here: threading.Thread) -> bool:
        """True once something waits; False at the end."""
        with self._changed:
            self._busy_since[here] = None
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if self._waiting:
                return True
            del self._busy_since[here]
            return False


class Sent:
    """A result as its worker sent it, perhaps with memory; made on the dispatcher, in the order in which they came.

    It is either unpacked or forgotten, once.
    """

    def __init__(self, worker: ProcessWorker, body: bytes, memory: int) -> None:
        self._page = worker.ends.page
        self._body = body
        self._number = memory & ~wire.WITH_FD
        self._part = worker.lane.part_of(memory, body)

    def unpack(self) -> Any:
        """The value."""
        part, self._part = self._part, None
        try:
            return loads(self._body, part)
        finally:
            self._is_not_needed()

    def forget(self) -> None:
        """Nobody wants it any more."""
        part, self._part = self._part, None
        if part is not None:
            part.was_unpacked()
        self._is_not_needed()

    def _is_not_needed(self) -> None:
        """Its worker may use its memory again."""
        if 0 < self._number < wire.MEMORY:
            with contextlib.suppress(ValueError):  # the worker has died since, and its page is closed
                self._page.copied(self._number - 1)


def use_again(job: Job[Any]) -> None:
    """*job*, which is in our hands, is done: so is the memory of its arguments."""
    parcel = job._args
    if isinstance(parcel, Parcel) and parcel.memory is not None:
        parcel.memory.use_again()  # its worker has copied what it needed


def not_unpacked(trouble: BaseException) -> NotPicklable:
    """What a job fails with whose result can't be unpacked."""
    error = NotPicklable(f"the result can't be unpickled: {raised.sentence(trouble)}")
    error.__cause__ = trouble
    return error


class Arrival:
    """An attempt that has ended in its worker, while its outcome is unpacked here: who runs it, as `attempts.Runner`.

    One of *result*, *raised* (a packed error) and *error* is given.
    """

    def __init__(
        self,
        crew: ProcessCrew,
        worker: str,
        tally: Tally,
        job: Job[Any],
        ended: float,
        *,
        result: Sent | None = None,
        raised: bytes | None = None,
        error: BaseException | None = None,
    ) -> None:
        self._crew = crew
        self.name = worker
        self.tally = tally
        self._job = job
        self._ended = ended
        self._result = result
        self._raised = raised
        self._error = error
        self.overrun: Overrun | None = None  # guarded by Attempts._lock
        self.thread: threading.Thread | None = None  # which unpacks it

    def arrive(self) -> None:
        """Unpack it, and give the job its outcome."""
        self.thread = threading.current_thread()
        attempts, job = self._crew.attempts, self._job
        error = self._error
        if self._raised is not None:
            error = unpack_error(self._raised)
        elif self._result is not None:
            try:
                value = self._result.unpack()
            except BaseException as trouble:
                error = not_unpacked(trouble)
            else:
                if attempts.take(job, self):
                    use_again(job)
                    attempts.ended_well(self, job, value, self._ended)
                else:
                    attempts.came_back(self, job)
                self.thread = None
                return
        assert error is not None
        attempts.failed(self, job, error, self._ended)
        self.thread = None

    # As attempts.Runner

    def ask_to_stop(self, job: Job[Any], cause: Cause) -> None:
        """It has stopped; what unpacks it can't be asked."""

    def stack(self) -> str:
        """Where its unpacking stands."""
        return stack_of(self.thread)

    def stack_at_deadline(self) -> str:
        """The same."""
        return stack_of(self.thread)

    def margin_is_over(self, overrun: Overrun) -> None:
        """It is still being unpacked."""
        self._crew.attempts.still_there(self, overrun, stack_of(self.thread))

    def replace(self) -> bool:
        """A worker's slot it does not take."""
        return False

    def came_back_late(self) -> None:
        """Nothing was given away."""

    def fate(self, replaced: bool) -> str:
        """What becomes of it."""
        return "its outcome can't be unpacked, and the thread that tries is left there"

    def give_up(self, job: Job[Any]) -> tuple[JobState, BaseException]:
        """A thread can't be ended: it is left behind."""
        return JobState.ABANDONED, JobAbandoned(job.label, job._ended - job._began)
