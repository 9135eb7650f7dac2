"""The one thread of a process pool that hears its workers: what they answer, that they died, what they log.

It has processes started, gives busy workers more to do, takes back what waits behind a long job, and ends when the
pool is closed and the last process is gone. Nothing of a user's runs on it: errors, and results that are more than
plain data, are unpacked elsewhere (arrivals.py); so log records are handled, observers told, callbacks called. Other
threads ask it to do something by `do`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import selectors
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from penstock import clock, timers
from penstock.job import Job, JobState, name_of
from penstock.lifecycle import Phase
from penstock.pool.ledger import ALL_OF_FIRST, ONE_IN
from penstock.pool.processes import wire
from penstock.pool.processes.arrivals import Arrival, Arrivals, Sent, not_unpacked, use_again
from penstock.pool.processes.child import Setup, levels_to_relay
from penstock.pool.processes.died import WorkerDied
from penstock.pool.processes.launch import Ends, Starter, process_for
from penstock.pool.processes.parcel import NOTHING, Later, unpack_error
from penstock.pool.processes.processors import cpu_count, thread_limits
from penstock.pool.processes.records import Records
from penstock.pool.processes.wire import CHUNK, Garbled
from penstock.pool.processes.worker import ProcessWorker

if TYPE_CHECKING:
    from penstock.pool.processes import ProcessCrew

log = logging.getLogger("penstock.pool")

_LONG: Final = 5e-3  # seconds that a job may hold up those that were sent after it,
_LONG_IF_ONE_IS_IDLE: Final = 1e-3  # or only so many if another worker has nothing to do
_LEAVING_TAKES: Final = 5.0  # seconds for a worker that was told to leave to end
_FIRST_PAUSE: Final = 0.2  # seconds before another is started in the place of one that could not,
_LONGEST_PAUSE: Final = 5.0  # doubled each time up to so many
_LATE: Final = 0.05  # seconds between two looks whether outcomes get stuck
_A_MOMENT: Final = 1.0  # seconds for the handlers to have the last log records when all workers have left
_DONE: Final = JobState.DONE  # looked up once: it costs as much as a step
_VMSTAT: Final = Path("/proc/vmstat")

Returned = tuple[int, float, float, Any]
"""What a worker says of a job that it has run: its number, when it began and ended, and its result, unpacked."""


class Dispatcher:
    """The thread, and what it watches. Its methods are its own thread's, but for those said to be anybody's."""

    def __init__(self, crew: ProcessCrew) -> None:
        self._crew = crew
        self._records = Records(lambda: self.do(self._hear_again))
        self._oom_kills = _oom_kills()
        self._set_out()

    def start_afresh(self) -> None:
        """In the child of a fork: forget the thread, and close what it watched with."""
        with contextlib.suppress(OSError):  # the parent was closing it just then
            self._close()
        self._set_out()

    def _set_out(self) -> None:
        # Guards `_thread`, `_over` and `_pipe`. One thread may take it twice, if the collector closes a forgotten pool.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._over = False
        self._commands: deque[Callable[[], object]] = deque()
        self._asleep = False
        self._pipe: tuple[int, int] | None = None
        self._selector: selectors.BaseSelector | None = None
        self._arrivals = Arrivals(self._crew.name)
        self._arriving: list[Callable[[], None]] = []  # for these, at the end of the step
        self._starter = Starter(self._crew.name, self._start_process)
        self._records.start_afresh()
        self._is_deaf = False  # too many log records wait: no control lane is read
        self._predecessors: dict[str, ProcessWorker] = {}  # by the name of the one that is started in their place
        self._starting = 0  # processes that are to be started, or are and have not said that they are ready

    # Anybody

    def do(self, what: Callable[[], object]) -> bool:
        """Have *what* done on this thread, soon. It must not block or raise. False if there is no thread (any more)."""
        with self._lock:
            if self._over or self._thread is None:
                return False
            self._commands.append(what)
            self._wake()
            return True

    def _wake(self) -> None:
        """Holds `_lock`, so that the pipe is not closed just now; writing to it never blocks."""
        if self._asleep and self._pipe is not None:
            with contextlib.suppress(BlockingIOError):  # full: it is being woken
                os.write(self._pipe[1], b"\0")

    def _begin(self) -> RuntimeError | None:
        """Start the thread; why not, if it can't be started. Holds `_lock`."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._pipe = reader, writer
        self._selector = selectors.DefaultSelector()
        self._selector.register(reader, selectors.EVENT_READ, self._woken)
        thread = threading.Thread(target=self._run, name=f"penstock-{self._crew.name}", daemon=True)
        try:
            timers.stand_by()
            thread.start()
        except RuntimeError as error:
            self._close()
            return error
        self._thread = thread
        return None

    def start_worker(self) -> None:
        """Start one more, which counts already; the thread, too, if it isn't there yet."""
        with self._lock:
            failed = None if self._over or self._thread is not None else self._begin()
        if not self.do(self._start):
            self._crew.staff.is_not_wanted()
        if failed is not None:
            self._crew.nobody_can_work(failed)

    def look_at_idle(self) -> None:
        """The pool is closed, or an idle worker has to leave: see who may."""
        with self._lock:
            if self._thread is None:
                self._over = self._over or self._crew.lifecycle.phase is Phase.CLOSED
                return
        self.do(self._let_leave)

    def write_rest(self, worker: ProcessWorker) -> None:
        """Its lane was full: write on when it has room."""
        self.do(functools.partial(self._watch, worker, write=True))

    def say_rest(self, worker: ProcessWorker) -> None:
        """Its control lane was full: write on when it has room."""
        self.do(functools.partial(self._listen, worker))

    def retire(self, worker: ProcessWorker) -> None:
        """It has been given as many jobs as it may: another takes its place."""
        self.do(functools.partial(self._retire, worker))

    def join(self, deadline: float | None) -> None:
        """Wait until *deadline* for the end of the thread, which comes after that of the processes."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(clock.remaining(deadline))
            if thread.is_alive():
                self._crew.staff.kill_all()
                thread.join(_LEAVING_TAKES / 10)
            if thread.is_alive():
                for worker in self._crew.staff.workers():
                    worker.ends.leave_behind()
        left = clock.remaining(deadline)
        self._records.wait(_A_MOMENT if left is None else min(left, _A_MOMENT))

    # The loop

    def _run(self) -> None:
        with timers.nothing_may_block():
            try:
                while not self._is_over():
                    self._step()
            except BaseException as error:
                self._give_up(error)
        self._starter.join()
        self._arrivals.end()
        with self._lock:
            self._close()

    def _give_up(self, error: BaseException) -> None:
        """A bug of ours, or no memory: the pool is broken, and every job is told so."""
        staff = self._crew.staff
        broken = RuntimeError("the thread that hears its workers failed; this is a bug in Penstock")
        broken.__cause__ = error
        staff.cannot_work(broken)
        self._crew.lifecycle.advance(Phase.LEAVING)
        self._crew.abandon()
        with self._lock:
            self._over = True
        for worker in staff.workers():
            worker.ends.process.join(_LEAVING_TAKES)
            staff.gone(worker)
            worker.ends.close()

    def _step(self) -> None:
        assert self._selector is not None
        self._asleep = True
        ready = self._selector.select(0 if self._commands else self._patience())
        self._asleep = False
        for key, events in ready:
            key.data(events)
        while self._commands:
            self._commands.popleft()()
        if self._crew.staff.ahead:
            self._look_behind_long_ones()
        if self._arriving:
            arriving, self._arriving = self._arriving, []
            self._arrivals.put(arriving)
        elif self._arrivals.waiting:
            self._arrivals.look()

    def _patience(self) -> float | None:
        staff = self._crew.staff
        if staff.ahead:
            return _LONG_IF_ONE_IS_IDLE if staff.idle else _LONG
        return _LATE if self._arrivals.waiting else None

    def _is_over(self) -> bool:
        if self._crew.lifecycle.phase is not Phase.CLOSED or self._crew.staff.count() or self._starting:
            return False
        with self._lock:
            self._over = not self._commands
            return self._over

    def _close(self) -> None:
        """Give back what the loop needs. Holds `_lock`."""
        if self._selector is not None:
            self._selector.close()
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None

    def _woken(self, events: int) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)

    # Starting

    def _start(self, predecessor: ProcessWorker | None = None) -> None:
        crew = self._crew
        settings, staff = crew.settings, crew.staff
        if crew.lifecycle.phase is Phase.CLOSED or staff.is_breaking or staff.broken is not None:
            staff.is_not_wanted()
            return
        self._starting += 1
        setup = Setup(
            name=staff.next_name(),
            main=crew.main,
            preload=settings.preload,
            users=Later({name: getattr(settings, name) for name in ("initializer", "initargs", "around")}),
            thread_limits=thread_limits(max(1, cpu_count() // settings.max_workers)),
            log_levels=levels_to_relay(),
            dies_with_starter=settings.start_method == "forkserver",
        )
        if predecessor is not None:
            self._predecessors[setup.name] = predecessor
        self._starter.put(setup)

    def _start_process(self, setup: Setup) -> None:
        """On the thread of the starter."""
        settings = self._crew.settings
        try:
            ends = Ends(process_for(settings.start_method, settings.preload), setup)
        except BaseException as error:
            self.do(functools.partial(self._not_started, setup.name, error))
        else:
            self.do(functools.partial(self._started, ends))

    def _not_started(self, name: str, error: BaseException) -> None:
        self._starting -= 1
        self._predecessors.pop(name, None)
        self._crew.staff.could_not_start(error)
        self._start_again()

    def _started(self, ends: Ends) -> None:
        staff = self._crew.staff
        worker = ProcessWorker(self._crew, ends)
        predecessor = self._predecessors.pop(worker.name, None)
        if predecessor is not None and not predecessor.has_made_room:
            worker.predecessor, predecessor.successor = predecessor, worker
        staff.came(worker)
        self._watch(worker)
        assert self._selector is not None
        self._listen(worker)
        self._selector.register(ends.process.sentinel, selectors.EVENT_READ, functools.partial(self._died, worker))
        if staff.none_may_live:
            worker.kill()
        self._let_leave()  # if the pool was closed meanwhile

    def _watch(self, worker: ProcessWorker, *, write: bool = False) -> None:
        if worker.dead or self._selector is None:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        on_jobs = functools.partial(self._on_jobs_lane, worker)
        if worker.watched:
            self._selector.modify(worker.ends.jobs, wanted, on_jobs)
        elif worker.watched is None:
            self._selector.register(worker.ends.jobs, wanted, on_jobs)
            worker.watched = True

    def _on_jobs_lane(self, worker: ProcessWorker, events: int) -> None:
        if events & selectors.EVENT_WRITE and worker.write_rest():
            self._watch(worker)
        if events & selectors.EVENT_READ:
            self._read(worker)

    # Answers

    def _read(self, worker: ProcessWorker) -> bool:
        """Read what there is; False if there is nothing more, now or ever."""
        if worker.watched is False:
            return False
        try:
            data = worker.lane.recv()
            if data:
                self._understand(worker, data)
                return True
        except BlockingIOError:
            return False
        except Garbled:
            worker.kill()
        except ConnectionError:
            pass
        assert self._selector is not None
        self._selector.unregister(worker.ends.jobs)
        worker.watched = False
        if worker.ready and not worker.told_to_leave:
            worker.kill()  # it is ending, or has lost its lane: it can't answer any more
        return False

    def _understand(self, worker: ProcessWorker, data: bytes) -> None:
        spoke_of_jobs = False
        returned: list[Returned] = []  # what came since something else did
        for (kind, memory, seq, began, ended, _), body in worker.incoming.feed(data):
            if kind == wire.DONE and memory == wire.NO_MEMORY:
                try:
                    returned.append((seq, began, ended, None if body == NOTHING else pickle.loads(body)))
                    continue
                except Exception:
                    pass  # it holds no code, but there may be no memory for it: below it is tried again
            if returned:
                spoke_of_jobs = True
                self._have_returned(worker, returned)
                returned = []
            if kind == wire.READY and not worker.ready:
                self._starting -= 1
                self._crew.staff.is_ready(worker)
            elif kind == wire.BROKEN:
                worker.broken = self._crew.staff.is_breaking = True
                self._arriving.append(functools.partial(self._is_broken, body))
            else:
                spoke_of_jobs = True
                if kind == wire.DONE:
                    self._has_returned(worker, seq, began, ended, Sent(worker, body, memory))
                elif kind == wire.SKIPPED:
                    self._skipped(worker, seq)
                else:
                    sent = Sent(worker, body, memory)
                    job = self._answered(worker, seq, began, ended)
                    if kind == wire.MADE:
                        self._arrives(worker, job, ended, began=began, result=sent)
                    else:
                        self._arrives(worker, job, ended, began=began, raised=body)
        if returned:
            self._have_returned(worker, returned)
        if returned or spoke_of_jobs:
            self._give_more(worker)

    def _answered(self, worker: ProcessWorker, seq: int, began: float, ended: float) -> Job[Any]:
        """The job that *worker* speaks of, which begins and ends at these times."""
        job = self._is_spoken_of(worker, seq)
        worker.has_taken(began, ended)
        if job not in self._crew.attempts.running:
            self._crew.staff.has_begun(worker, seq, job, began)
        return job

    def _is_spoken_of(self, worker: ProcessWorker, seq: int) -> Job[Any]:
        """The job with that number, which must be the next."""
        jobs = worker.spoken_of([seq])
        if not jobs:
            raise Garbled
        return jobs[0]

    def _have_returned(self, worker: ProcessWorker, returned: list[Returned]) -> None:
        """*worker* has run these jobs, in this order: each has its result here, which is given to it now.

        All of them together, as each step costs little more for many jobs than for one.
        """
        jobs = worker.spoken_of([seq for seq, *_ in returned])
        are_all = len(jobs) == len(returned)
        for _, began, ended, _ in returned[-8:]:  # the older ones would hardly count
            worker.has_taken(began, ended)
        crew = self._crew
        if crew.ledger.observers:
            for job, (seq, began, _, _) in zip(jobs, returned, strict=False):
                crew.staff.has_begun(worker, seq, job, began)
        gone = crew.staff.take_ended(worker, jobs)
        tally = worker.tally
        count = tally.done
        tally.done += len(jobs) - len(gone)
        for job, (_, began, ended, value) in zip(jobs, returned, strict=False):
            if gone and job in gone:
                crew.attempts.came_back(worker, job)
                continue
            job._began = began
            job._ended = ended
            use_again(job)
            count += 1
            if count < ALL_OF_FIRST or not count & ONE_IN:
                tally.times.extend((job._since, began, ended))
            # From here on as Job._settle, written out: a call costs as much as all of it.
            job._value = value
            job._stage = _DONE
            fn = job._fn
            job._fn = fn.__qualname__ if type(fn) is FunctionType else name_of(fn)
            job._args = job._cv = None
            if job._context is not None:
                job._context.close()
            if job._bell is not None:
                job._ring()
            if job._terms.claim is not None:
                job._tell_claim()
            if crew.ledger.observers:
                crew.attempts.tell_ended(job, None)
        tally.ended += len(jobs) - len(gone)
        if crew.lifecycle.closing:
            crew.check_drained()
        if not are_all:
            raise Garbled

    def _has_returned(self, worker: ProcessWorker, seq: int, began: float, ended: float, sent: Sent) -> None:
        """*worker* has run one job, whose result is plain data that is yet to be unpacked."""
        try:
            value = sent.unpack()
        except Exception as trouble:
            job = self._answered(worker, seq, began, ended)
            self._arrives(worker, job, ended, began=began, error=not_unpacked(trouble))
        else:
            self._have_returned(worker, [(seq, began, ended, value)])

    def _arrives(
        self, worker: ProcessWorker, job: Job[Any], ended: float, began: float | None = None, **outcome: Any
    ) -> None:
        """*job* has ended, and it takes a user's code to say how."""
        arrival = Arrival(self._crew, worker.name, worker.tally, job, ended, **outcome)
        if not self._crew.attempts.hand_on(job, worker, arrival):
            if (result := outcome.get("result")) is not None:
                result.forget()
            self._crew.attempts.came_back(worker, job)
            return
        if began is not None:
            job._began = began
        self._arriving.append(arrival.arrive)

    def _is_broken(self, packed: bytes) -> None:
        self._crew.staff.cannot_work(unpack_error(packed))

    def _skipped(self, worker: ProcessWorker, seq: int) -> None:
        """It did not run a job that was taken back."""
        job = self._is_spoken_of(worker, seq)
        with worker.lock:
            later = any(other is job for _, other in worker.under_way)
        worker.skipped += 1
        attempts = self._crew.attempts
        if later:
            return  # it was sent here again since then
        if self._crew.staff.bring_back(worker, job):
            return  # it was sent in vain, or we took it for running: each side had seen the other
        if worker.overrun is not None and worker.overrun.job is job:
            attempts.came_back(worker, job)

    def _give_more(self, worker: ProcessWorker) -> None:
        """*worker* was busy and has answered: what it does next is still ours to say."""
        staff = self._crew.staff
        if not worker.under_way:
            if worker.retiring:
                self._tell_to_leave(worker)
                return
            staff.hand_over(worker)
        elif staff.ahead:
            seq, job = worker.under_way[0]
            is_last = staff.is_spent(worker) and len(worker.under_way) == 1
            if is_last or worker.ends.page.begun >= seq:
                staff.has_begun(worker, seq, job, clock.monotonic())
            if is_last:
                self._retire(worker)
        if worker.under_way:
            staff.send_ahead(worker)

    def _look_behind_long_ones(self) -> None:
        """What was sent ahead must not wait behind a long job."""
        staff = self._crew.staff
        now = clock.monotonic()
        long = _LONG_IF_ONE_IS_IDLE if staff.idle else _LONG
        for worker in {worker for worker, _, _ in list(staff.ahead.values())}:
            if now - worker.moved_at >= long:
                staff.return_those_behind(worker)
        staff.hand_out()

    # Leaving

    def _retire(self, worker: ProcessWorker) -> None:
        if worker.retiring or worker.dead:
            return
        worker.retiring = True
        self._crew.staff.has_successor()
        self._start(worker)
        if not worker.under_way:
            self._tell_to_leave(worker)

    def _make_room(self, worker: ProcessWorker) -> None:
        """It runs no job any more: the one that was started in its place may."""
        worker.has_made_room = True
        successor, worker.successor = worker.successor, None
        if successor is not None:
            successor.predecessor = None
            if successor.ready and not successor.dead:
                self._crew.staff.hand_over(successor)

    def _let_leave(self) -> None:
        """The pool is closed: every worker leaves; one that is still in a job whose time was over is killed."""
        if self._crew.lifecycle.phase is not Phase.CLOSED:
            return
        for worker in self._crew.staff.workers():
            if not worker.told_to_leave:
                self._tell_to_leave(worker)

    def _tell_to_leave(self, worker: ProcessWorker) -> None:
        """It is killed if it does not leave, because of a thread that it can't end, say."""
        self._crew.staff.lets_leave(worker)
        self._make_room(worker)
        until = clock.monotonic() + _LEAVING_TAKES
        overrun = worker.overrun
        if overrun is not None:
            until = min(until, overrun.stuck_at)
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: a stop kills at its end
            worker.must_leave = timers.call_at(until, worker.kill)

    def _died(self, worker: ProcessWorker, events: int) -> None:
        """Its process has ended. What it had begun dies with it; the rest goes to others."""
        assert self._selector is not None
        while self._read(worker):
            pass
        while self._hear(worker):
            pass
        worker.ends.process.join()
        if worker.must_leave is not None:
            worker.must_leave.cancel()
        with worker.lock:
            worker.dead = True
            left, told = list(worker.under_way), worker.killed
            worker.under_way.clear()
            worker.forget_unsent()
        begun = worker.ends.page.begun
        exitcode = worker.ends.process.exitcode
        died = functools.partial(
            WorkerDied, exitcode=exitcode, oom=exitcode == -9 and self._oom_killed(), traceback=worker.last_words()
        )
        staff, attempts = self._crew.staff, self._crew.attempts
        for seq, job in reversed(left):
            if seq > begun:
                staff.bring_back(worker, job)
        for seq, job in left:
            if seq <= begun:
                staff.has_begun(worker, seq, job, clock.monotonic())
                if told is not None and told[0] is job:
                    if attempts.take(job, worker):
                        job._ended = clock.monotonic()
                        attempts.settle(job, *told[1:])
                elif attempts.running.get(job) is worker:  # else the worker had skipped it, or it overran
                    self._arrives(worker, job, clock.monotonic(), error=died(job.label))
        attempts.has_ended(worker)
        if worker.watched:
            self._selector.unregister(worker.ends.jobs)
        if worker.heard:
            self._selector.unregister(worker.ends.control)
        self._selector.unregister(worker.ends.process.sentinel)
        if not worker.ready:
            self._starting -= 1
        worker.lane.close()
        self._make_room(worker)
        again = staff.gone(worker)
        worker.ends.close()
        if not (worker.ready or worker.broken or worker.told_to_leave or worker.doomed):
            staff.could_not_start(died(f"worker {worker.name}"))
        if again:
            self._start_again()
        self._crew.check_drained()
        staff.hand_out()
        if self._crew.backlog.queue or self._crew.backlog.due:
            staff.call()

    def _start_again(self) -> None:
        """Start one in the place of another, which is counted as alive; after a moment if the last could not start."""
        failed = self._crew.staff.failed_starts
        if failed:
            pause = min(_FIRST_PAUSE * 2 ** (failed - 1), _LONGEST_PAUSE)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: start it now
                timers.call_at(clock.monotonic() + pause, self.start_worker)
                return
        self._start()

    def _oom_killed(self) -> bool:
        before, self._oom_kills = self._oom_kills, _oom_kills()
        return self._oom_kills > before

    # What workers say besides

    def _listen(self, worker: ProcessWorker) -> None:
        """Watch its control lane for what there is to be done, as long as that has not ended."""
        if worker.dead or worker.heard is False or self._selector is None:
            return
        wanted = (0 if self._is_deaf else selectors.EVENT_READ) | (selectors.EVENT_WRITE if worker.has_unsaid else 0)
        lane, told = worker.ends.control, functools.partial(self._on_control_lane, worker)
        if worker.heard and wanted:
            self._selector.modify(lane, wanted, told)
        elif worker.heard:
            self._selector.unregister(lane)
        elif wanted:
            self._selector.register(lane, wanted, told)
        worker.heard = True if wanted else None

    def _on_control_lane(self, worker: ProcessWorker, events: int) -> None:
        if events & selectors.EVENT_WRITE and worker.say_rest():
            self._listen(worker)
        if events & selectors.EVENT_READ:
            self._hear(worker)

    def _hear(self, worker: ProcessWorker) -> bool:
        """Hear what there is; False at the end of the lane, or if there is nothing."""
        try:
            data = worker.ends.control.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if worker.heard:
                assert self._selector is not None
                self._selector.unregister(worker.ends.control)
            worker.heard = False
            return False
        for _, packed in worker.said.feed(data):
            self._records.put(packed)
        if not self._is_deaf and self._records.is_full():
            self._is_deaf = True
            self._listen_to_all()
        return True

    def _hear_again(self) -> None:
        self._is_deaf = False
        self._listen_to_all()

    def _listen_to_all(self) -> None:
        for worker in self._crew.staff.workers():
            self._listen(worker)


def _oom_kills() -> int:
    """How many processes the system has ended for lack of memory since it runs; 0 where that can't be asked."""
    with contextlib.suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
