"""An engine, shared by all threads and loops of a process: their requests meet in common transactions.

    threads ──ask()──┐                                      ┌─> each thread is woken
    loops ──aask()───┼─> [urgent] [waiting] ──> one thread ─┤
    worker service ──┘     in order     │       transact()  └─> each loop is called once for all of its callers
                                        └ as much as came while the commit before was under way

A commit begins when the one before has returned, so that a lone caller waits for nobody, and many share one write to
the disk (group commit, as databases do it). Of many, those who were told just now are about to ask again, while others
wait already: both would go on in two groups for ever, each with a commit of its own. So the thread gathers them: it
waits while they come, no longer than a few commits take, and seldom if they don't.

A thread that asks while nobody else does leads: it calls the engine itself, if the engine can bear that (`in_caller`),
and spares itself the way to the other thread and back. Not if it has less time than usual: then it wants to be told in
time, whatever the disk or the network is at. Who asks meanwhile waits in the queue, for the thread to go on
as soon as the leader is through.

State: `_urgent`, `_waiting`, `_enough`, `_leader`, `_leads`, `_is_busy`, `_is_hurt`, `_thread` and `_is_closed` are
guarded by `_lock`, a leaf; `_wanted` is its condition. What was asked is in a queue, or taken by the thread, or led, or
answered; whoever takes it out of the queue under the lock makes the next move. The engine's `transact` is called by one
at a time: by who leads, or by the thread, which takes nothing while somebody does; the thread is also the one that
closes it. A leader may be interrupted at any point, by an error that a signal's handler raises; that it led is seen by
`_leader`, and then the thread puts things in order before all else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from penstock import clock
from penstock.engines.batch import ids_of
from penstock.engines.bell import Bell
from penstock.engines.engine import Engine, Joined
from penstock.engines.records import Query
from penstock.engines.requests import Claim, Put, Reply, Request, Settle
from penstock.errors import OutcomeUnknown, StoreError, StoreInvalid, StoreUnavailable

T = TypeVar("T")

_ROWS: Final = 1_000  # jobs in one transaction, about: what comes behind them waits no longer than that takes
_ROW: Final = 8 * 1024  # bytes of arguments or results that are as much as a job more
_WITHIN: Final = 30.0  # seconds that a transaction may wait for the store
_LONGEST: Final = 24 * 3600.0
_SHARE: Final = 0.9  # of its callers' time that an engine has: so that its answer comes before they give up
_MOMENT: Final = 0.001  # seconds in which one of those who were told asks again, if they do so at once
_GATHERED: Final = 4  # transactions like the one before could be done until all have, at most
_LONG: Final = 0.01  # seconds that this may take at most, whatever the disk is like
_SELDOM: Final = 64  # transactions that begin at once after one for which others were awaited in vain, at most
_POSTS: Final = 1_000  # requests that wait; beyond them what nobody waits for is dropped

Answer = Reply | Exception


class _Asked:
    """What one caller wants done in one step, and who is to be told."""

    __slots__ = ("answers", "error", "future", "lock", "loop", "requests", "until")

    def __init__(self, requests: Sequence[Request], until: float | None) -> None:
        self.requests = requests
        self.until = until  # monotonic
        self.answers: Sequence[Answer] | None = None
        self.error: Exception | None = None
        self.lock: threading.Lock | None = None  # a thread sleeps on it
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[Sequence[Answer]] | None = None

    @property
    def rows(self) -> int:
        rows = 0
        for request in self.requests:
            rows += _rows(request)
        return rows


class _Patience:
    """How long the callers of one loop wait: one timer for all of them, where one for each would cost more than asking.

    Loop's thread only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, give_up: Callable[[_Asked], None]) -> None:
        self.loop = loop
        self._give_up = give_up
        self._waiting: set[_Asked] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = math.inf  # monotonic: when the timer is due

    def begin(self, asked: _Asked) -> None:
        """*asked* waits from now on."""
        if asked.until is not None:
            self._waiting.add(asked)
            if asked.until < self._look_at:
                self._look(at=asked.until)

    def end(self, asked: _Asked) -> None:
        """*asked* waits no more. The timer stays: the next one may need it."""
        self._waiting.discard(asked)

    def _look(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = self.loop.call_later(max(0.0, at - clock.monotonic()), self._look_now)

    def _look_now(self) -> None:
        now = clock.monotonic()
        self._timer, self._look_at = None, math.inf
        for asked in list(self._waiting):
            if asked.until is not None and asked.until <= now:
                self._waiting.discard(asked)
                self._give_up(asked)
        if self._waiting:
            self._look(at=min(asked.until for asked in self._waiting if asked.until is not None))


def _rows(request: Request) -> int:
    match request:
        case Put(jobs):
            return len(jobs) + sum(len(job.args) for job in jobs) // _ROW
        case Settle(settlements):
            return len(settlements) + sum(len(it.result) for it in settlements if it.result) // _ROW
        case Claim():
            return sum(want.limit for want in request.wants)
    return 1


class Store:
    """One process's way to an engine. Every method may be called from any thread.

    *connect* makes the engine; again in the child of a fork, which can't use its parent's.
    """

    def __init__(self, connect: Callable[[], Engine]) -> None:
        self._connect = connect
        self.engine = connect()
        self._inherited: list[Engine] = []  # of the parents of this process; to close them here would harm them there
        self._set_out()
        _stores.add(self)

    def _set_out(self) -> None:
        self._lock = threading.RLock()  # which knows whose it is: see `_refuse_handlers`
        self._wanted = threading.Condition(self._lock)
        self._urgent: deque[_Asked] = deque()
        self._waiting: deque[_Asked] = deque()
        self._enough: float = 1  # so many wake the thread
        self._leader: _Asked | None = None  # what is done on the thread of whoever asked
        self._leads = 0  # the ident of that thread
        self._is_busy = False  # the thread has taken something
        self._is_hurt = False  # a leader was interrupted: nobody knows how it left the engine
        self._thread: threading.Thread | None = None
        self._took = 0.0  # seconds, its last transaction; the thread's own
        self._told = 0  # callers whom the thread has told last; the thread's own
        self._in_vain = 0  # how often nobody came whom it waited for, so that it doesn't for a while; the thread's own
        self._at_once = 0  # transactions for which it doesn't; the thread's own
        self._is_open = False
        self._is_closed = False
        self._known: weakref.WeakSet[Bell] = weakref.WeakSet()  # bells that the engine rings
        self._patience: _Patience | None = None  # of the loop that asked last

    def start_afresh(self) -> None:
        """In the child of a fork: what waited is the parent's, and so is its connection. What was closed stays so."""
        was_closed = self._is_closed
        self._set_out()
        self._is_closed = was_closed
        self._inherited.append(self.engine)
        self.engine = self._connect()

    # Asking

    def ask(self, *requests: Request, timeout: float | None = _WITHIN, urgent: bool = False) -> list[Reply]:
        """Do *requests* in one step, together with what others ask; the answers, durable by now.

        *urgent*: before all that isn't. Raises `StoreUnavailable` if nothing was done within *timeout* seconds,
        `OutcomeUnknown` if that can't be told, and what the first refused request was refused for; the others are done
        all the same.
        """
        self._refuse_handlers()
        asked = _Asked(requests, clock.deadline_after(timeout))
        try:
            if (timeout is None or timeout >= _WITHIN) and self._may_lead(asked):
                self._do([asked])
                self._step_down(is_hurt=asked.error is not None and not isinstance(asked.error, StoreError))
                is_told = True
            else:
                asked.lock = threading.Lock()
                asked.lock.acquire()
                self._put(asked, urgent)
                limit = -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
                is_told = asked.lock.acquire(timeout=limit)
        except BaseException:  # a signal's handler has raised here
            if self._leader is asked:
                self._step_down(is_hurt=True)
            else:
                self._withdraw(asked)
                self._rouse()
            raise
        if not is_told:
            self._give_up(asked)
        if asked.error is not None:
            raise asked.error
        assert asked.answers is not None
        return all_good(asked.answers)

    async def aask(self, *requests: Request, timeout: float | None = _WITHIN, urgent: bool = False) -> list[Reply]:
        """As `ask`, for coroutines. A cancelled caller's requests are withdrawn if they haven't been taken yet."""
        asked = _Asked(requests, clock.deadline_after(timeout))
        asked.loop = asyncio.get_running_loop()
        asked.future = asked.loop.create_future()
        patience = self._patience
        if patience is None or patience.loop is not asked.loop:
            patience = self._patience = _Patience(asked.loop, self._give_up_in_loop)
        self._put(asked, urgent)
        patience.begin(asked)
        try:
            return all_good(await asked.future)
        except asyncio.CancelledError:
            self._withdraw(asked)
            raise
        finally:
            patience.end(asked)

    def post(self, *requests: Request) -> None:
        """Ask for *requests* and don't wait: whether they are done, refused, or dropped, nobody is told."""
        self._refuse_handlers()
        if len(self._waiting) < _POSTS:
            self._put(_Asked(requests, clock.deadline_after(_WITHIN)), urgent=False)

    def find(self, query: Query[T], timeout: float = _WITHIN) -> T:
        """The answer to *query*, from the caller's own thread."""
        until = clock.monotonic() + timeout
        self._open(timeout)
        return self.engine.find(query, max(0.0, until - clock.monotonic()))

    async def afind(self, query: Query[T], timeout: float = _WITHIN) -> T:
        """As `find`, for coroutines."""
        return await asyncio.to_thread(self.find, query, timeout)

    def join(self, connection: object) -> Joined:
        """The way into the transaction that is open on *connection*; see `Engine.join`."""
        if self._is_closed:
            raise self._closed()
        return self.engine.join(connection)

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news; see `Engine.wait`.

        The first wait with a bell ends at once: there may have been news before the engine knew whom to ring, after the
        caller's last look.
        """
        self._open(_WITHIN)
        if bell in self._known:
            self.engine.wait(bell, timeout)
        else:
            self._known.add(bell)
            self.engine.wait(bell, 0.0)

    def close(self, timeout: float | None = _WITHIN) -> None:
        """Answer all that was asked, and let go of the engine. Safe to repeat.

        Returns after *timeout* seconds, though the engine is stuck: it is let go of once it comes back.
        """
        with self._lock:
            self._is_closed = True
            if self._leader is not None and self._thread is None:
                self._thread = self._started()  # to close the engine as soon as the leader is through
            self._wanted.notify()
            thread = self._thread
        if thread is None:
            self.engine.close()
        elif thread is not threading.current_thread():
            thread.join(timeout)

    def _open(self, within: float) -> None:
        if self._is_closed:
            raise self._closed()
        self._be_open(within)

    def _be_open(self, within: float) -> None:
        if not self._is_open:
            self.engine.open(within)
            self._is_open = True

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(self.engine.url, "it was closed here")

    def _refuse_handlers(self) -> None:
        """Raise, if this is a signal's handler that would wait for what it has interrupted, on this very thread.

        Looks without the lock: what it looks for is not so, or this thread itself has made it so.
        """
        is_leading = self._leader is not None and self._leads == threading.get_ident()
        if is_leading or self._lock._is_owned():  # type: ignore[attr-defined]  # as `Condition` asks it
            raise StoreUnavailable(
                self.engine.url, "a signal's handler has asked it for something while its own thread was at it"
            )

    # Leading

    def _may_lead(self, asked: _Asked) -> bool:
        """Whether nobody else asks for anything: then the caller is to do what it has *asked*, and to step down."""
        if not self.engine.in_caller:
            return False
        with self._lock:
            if self._leader or self._is_busy or self._urgent or self._waiting or self._is_hurt or self._is_closed:
                return False
            self._leads = threading.get_ident()
            self._leader = asked
            return True

    def _step_down(self, *, is_hurt: bool = False) -> None:
        """Let others go on. *is_hurt*: after an interrupt, so that what it left behind has to be put in order."""
        with self._lock:
            self._leader = None
            self._is_hurt = is_hurt
            if not (is_hurt or self._urgent or self._waiting or self._is_closed):
                return
            if self._thread is None:
                with contextlib.suppress(StoreUnavailable):  # whoever asks next hears of it
                    self._thread = self._started()
            self._wanted.notify()

    def _rouse(self) -> None:
        """Let the thread look whether others wait: who stepped down may have been interrupted before he told it."""
        with self._lock:
            self._wanted.notify()

    def _put(self, asked: _Asked, urgent: bool) -> None:
        with self._lock:
            if self._is_closed:
                raise self._closed()
            if self._thread is None:
                self._thread = self._started()
            (self._urgent if urgent else self._waiting).append(asked)
            if self._leader is None and (urgent or self._asking() >= self._enough):
                self._wanted.notify()

    def _asking(self) -> int:
        return len(self._urgent) + len(self._waiting)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._serve, name="penstock-store", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise StoreUnavailable(self.engine.url, f"no thread could be started for it: {error}") from error
        return thread

    def _give_up(self, asked: _Asked) -> None:
        """The caller's time is over. What is still in the queue will never be done; of the rest nobody knows."""
        if self._withdraw(asked):
            raise StoreUnavailable(self.engine.url, "it was too busy, or couldn't be reached in time")
        if asked.answers is None and asked.error is None:
            raise OutcomeUnknown(ids_of(asked.requests))

    def _give_up_in_loop(self, asked: _Asked) -> None:
        assert asked.future is not None
        if not asked.future.done():
            try:
                self._give_up(asked)
            except (StoreUnavailable, OutcomeUnknown) as error:
                asked.future.set_exception(error)

    def _withdraw(self, asked: _Asked) -> bool:
        with self._lock:
            for queue in (self._urgent, self._waiting):
                with contextlib.suppress(ValueError):
                    queue.remove(asked)
                    return True
        return False

    # The thread

    def _serve(self) -> None:
        while self._serve_some():
            pass
        self.engine.close()

    def _serve_some(self) -> bool:
        """Do what is asked, at least one thing. False once there will be nothing more."""
        batch = self._take()
        if batch is None:
            return False
        began = clock.monotonic()
        self._do(batch)
        self._took = clock.monotonic() - began
        self._told = _tell(batch)
        return True

    def _do(self, batch: Sequence[_Asked]) -> None:
        """Do all that *batch* asks for, and keep what is to be told. An empty one only finds out how the engine is."""
        try:
            within = _within(batch)
            self._be_open(within)
            requests: Sequence[Request]
            if len(batch) == 1:  # a lone caller's time is short: after each wait for the disk all steps are slow
                requests = batch[0].requests
            else:
                requests = [request for asked in batch for request in asked.requests]
            answers = self.engine.transact(requests, within)
            if len(answers) != len(requests):
                raise RuntimeError(f"{self.engine!r} gave {len(answers)} answers to {len(requests)} requests")
        except BaseException as error:  # whatever it is: they wait, and others will come
            if self._leader is not None and not isinstance(error, Exception):
                raise  # it is the caller's own: a signal's handler has raised here
            for asked in batch:
                asked.error = _own(error, asked)
        else:
            first = 0
            for asked in batch:
                asked.answers = answers[first : first + len(asked.requests)]
                first += len(asked.requests)

    def _take(self) -> list[_Asked] | None:
        """What goes into the next transaction; None when there will be nothing more."""
        with self._lock:
            self._gather()
            self._is_busy = False
            self._enough = 1
            while self._leader is not None or not (self._urgent or self._waiting or self._is_hurt):
                if self._is_closed and self._leader is None:
                    return None
                self._wanted.wait()
            self._is_busy = True
            self._enough = math.inf
            if self._is_hurt:
                self._is_hurt = False
                return []
            batch: list[_Asked] = []
            rows = 0
            for queue in (self._urgent, self._waiting):
                while queue:
                    rows += queue[0].rows
                    if batch and rows > _ROWS:
                        return batch  # what comes behind it waits, too: else many small ones could pass it for ever
                    batch.append(queue.popleft())
            return batch

    def _gather(self) -> None:
        """Wait while those come again who were told just now, until they are as many as were here lately."""
        before, enough = self._asking(), self._told + self._asking()
        if not self._told or enough < 2:
            return
        if self._at_once:
            self._at_once -= 1
            return
        until = clock.monotonic() + min(_GATHERED * self._took, _LONG)
        self._enough = enough
        came = True
        while came and self._asking() < enough and not self._urgent:
            so_far = self._asking()
            self._wanted.wait(min(_MOMENT, until - clock.monotonic()))
            came = self._asking() > so_far and clock.monotonic() < until
        if self._asking() > before:
            self._in_vain = 0
        else:
            self._at_once = self._in_vain
            self._in_vain = min(2 * self._in_vain + 1, _SELDOM)


def _within(batch: Sequence[_Asked]) -> float:
    """Seconds that the engine has: as long as anybody would wait, and a little less."""
    now = clock.monotonic()
    if len(batch) == 1:
        [asked] = batch
        longest = _WITHIN if asked.until is None else asked.until - now
    else:
        longest = max((_WITHIN if asked.until is None else asked.until - now for asked in batch), default=_WITHIN)
    return min(max(0.0, _SHARE * longest), _LONGEST)


def _own(error: BaseException, asked: _Asked) -> Exception:
    """The error of a whole batch, for one of its callers: with the ids of its own jobs, and a traceback of its own."""
    mine: Exception
    if isinstance(error, OutcomeUnknown):
        mine = OutcomeUnknown(ids_of(asked.requests))
    elif isinstance(error, (StoreUnavailable, StoreInvalid)):
        mine = type(error)(error.url, error.why)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):  # which no coroutine may raise
        return error
    else:
        mine = RuntimeError(f"the engine raised {error!r}")
    mine.__cause__ = error
    return mine


def _tell(batch: Sequence[_Asked]) -> int:
    """Wake those who wait for the answers; how many those are."""
    told = 0
    loops: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}
    for asked in batch:
        if asked.lock is not None:
            asked.lock.release()
            told += 1
        elif asked.loop is not None:
            loops.setdefault(asked.loop, []).append(asked)
    for loop, of_loop in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell_loop, of_loop)
            told += len(of_loop)
    return told


def _tell_loop(batch: Sequence[_Asked]) -> None:
    for asked in batch:
        future = asked.future
        if future is None or future.done():
            continue
        if asked.error is not None:
            future.set_exception(asked.error)
        else:
            assert asked.answers is not None
            future.set_result(asked.answers)


def all_good(answers: Sequence[Answer]) -> list[Reply]:
    """*answers*, if none is an error; else the first one is raised."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return cast(list[Reply], list(answers))


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _start_afresh() -> None:
    for store in list(_stores):
        store.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
