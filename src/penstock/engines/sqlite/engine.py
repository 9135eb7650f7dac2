"""The engine: requests in transactions, queries beside them, and a file that may go away and come back."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, cast

import apsw

from penstock import clock
from penstock.engines import checks
from penstock.engines.batch import BadRequest, dealt, ids_of
from penstock.engines.bell import Bell
from penstock.engines.engine import Joined
from penstock.engines.records import Query
from penstock.engines.requests import (
    Again,
    Cancel,
    Claim,
    Fate,
    NewJob,
    Pause,
    Progress,
    Prune,
    Put,
    Renew,
    Reply,
    Request,
    Settle,
    Sweep,
)
from penstock.engines.sqlite import beside, changes, connection, log, place, schema, workers
from penstock.engines.sqlite import clock as engine_clock
from penstock.engines.sqlite.claims import claim
from penstock.engines.sqlite.file import File, found
from penstock.engines.sqlite.finding import Finding
from penstock.engines.sqlite.living import Living
from penstock.engines.sqlite.news import News
from penstock.engines.sqlite.puts import put, put_alone
from penstock.engines.sqlite.readers import Readers
from penstock.engines.sqlite.settling import settle
from penstock.engines.sqlite.step import TAIL, Step
from penstock.engines.sqlite.turn import Turn
from penstock.errors import OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

# What may be forgotten in a power cut, for nobody outlives it who knew: the claims and beats of this machine's workers.
_LIGHT: Final = frozenset({Claim, Renew, Progress})

_PATIENCE: Final = 500  # milliseconds that writers wait for readers, so that the log can be begun anew
_STILL: Final = 5.0  # seconds that a fork waits for a transaction, or for a reading, to end

Answer = Reply | Exception


class SQLiteEngine:
    """Durable jobs in a SQLite file: `sqlite:///jobs.db`, `sqlite:////var/lib/jobs.db`, `…?synchronous=normal`.

    *now*: a clock in place of the engine's own, for tests.

    Locks: `_writing` guards the writing connection and all that only writers use (the turn, the living, the mouth of
    the news); `_watching` guards the connection that looks for changes. Each is held around calls into SQLite; they are
    never held together, but for a fork, which takes `_writing` first.
    """

    in_caller = True

    def __init__(self, url: str, *, now: Callable[[], float] | None = None) -> None:
        self._place = place.parse(url)
        self.url = self._place.url
        self._given_now = now
        self._set_out()
        _engines.add(self)

    def _set_out(self) -> None:
        self._writing = threading.Lock()
        self._db: apsw.Connection | None = None
        self._is_full = True  # how the connection commits
        self._turn = Turn(self._place)
        self._living = Living(self._place)
        self._news = News(self._place)
        self._file: File | None = None
        self._counted = 0  # the last job that is counted, or one before it: as we saw it last
        self._counts_later = True  # the next new job may be left for others to count
        self._store: object = None  # what tells it from another that has its name
        self._is_another = False  # than the one that our claims are of
        self._readers = Readers(self._place)
        self._watching = threading.Lock()
        self._watch: apsw.Connection | None = None
        self._version: int | None = None
        self._is_still = True  # during a fork

    def open(self, within: float = 10.0, *, create: bool = True) -> None:
        """Make or migrate the store if need be; see `Engine.open`."""
        with connection.translated(self._place), self._writing:
            place.check_local(self._place)
            self._be_open(clock.monotonic() + within, create=create)

    def transact(self, requests: Sequence[Request], within: float = 10.0) -> list[Answer]:
        """Do all of *requests*; see `Engine.transact`."""
        until = clock.monotonic() + within
        alone = _alone(requests)
        if alone is not None and self._counts_later:
            with connection.translated(self._place), self._writing:
                fate = self._put_alone(alone, until)
            if fate is not None:
                return [[fate]]
        refused: dict[int, Exception] = {
            index: why for index, request in enumerate(requests) if (why := checks.why_refused(request))
        }
        with connection.translated(self._place), self._writing:
            file = self._be_open(until)
            with self._turn.taken(until):
                answers, has_news = self._write(file, requests, refused, until)
                self._counts_later = True
                if self._is_another and any(isinstance(it, Renew) and any(_firsts(it)) for it in requests):
                    self._is_another = False
                if any(type(request) is Sweep for request in requests):
                    self._keep_log_short()
            if has_news:
                self._news.tell()
        return answers

    def _put_alone(self, job: NewJob, until: float) -> Fate | None:
        """Accept *job*, as most come, with as few steps as can be. None, and nothing was done, if it can't be so."""
        file, db = self._file, self._db
        if file is None or db is None or not file.is_there(self._news.folder):
            file = self._be_open(until)
            db = self._db
            assert db is not None
        self._turn.enter(until)
        try:
            try:
                db.set_busy_timeout(int(max(0.0, until - clock.monotonic()) * 1000))
                self._commit_fully(self._place.full)
                answer = put_alone(db, file.names, job, file.now(), clock.wall())
            except apsw.BusyError:
                raise
            except BaseException as error:
                self._let_go()
                if isinstance(error, apsw.IOError) and not connection.is_certain(error):
                    raise OutcomeUnknown((job.id,)) from error
                raise
        finally:
            self._turn.leave()
        if answer is None:
            return None
        fate, seq = answer
        self._counts_later = seq - self._counted < TAIL
        if fate is Fate.ACCEPTED:
            self._news.tell()
        return fate

    def find(self, query: Query[T], within: float = 10.0) -> T:
        """The answer to *query*; see `Engine.find`."""
        until = clock.monotonic() + within
        with connection.translated(self._place):
            file = self._file
            if file is None or not file.is_there():
                with self._writing:
                    file = self._be_open(until)
            with self._readers.reading(until - clock.monotonic()) as db:
                return cast(T, Finding(db, file.names, file.now).answer(query))

    def join(self, connection: object) -> Joined:
        """ValueError: the file belongs to jobs alone, so that no transaction of somebody else's could hold both."""
        raise ValueError(
            f"{self.url} has no part in your transactions, as postgresql:// would have: enqueue after your commit"
        )

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news; see `Engine.wait`."""
        self._news.wait(bell, timeout, self._has_changed)

    def close(self) -> None:
        """Let go of the file; see `Engine.close`. Waits for a transaction that is under way."""
        with self._writing:
            self._let_go()
            self._living.let_all_go()
            self._news.close()
            self._turn.close()

    # The file

    def _be_open(self, until: float, *, create: bool = False) -> File:
        """The file, with a connection for writing to it."""
        file = self._file
        if file is not None and self._db is not None and file.is_there():
            return file
        if self._place.path in _unsafe:
            raise StoreUnavailable(self.url, "it was in use when this process was forked; start processes by spawn")
        self._let_go()
        self._turn.close()
        db = connection.connect(self._place, create=create)
        try:
            is_current = schema.is_current(db, self._place)
            beside.make(self._place)
            with contextlib.ExitStack() as turn:
                if not is_current or not engine_clock.is_set(db):  # else who only looks need not wait for who writes
                    turn.enter_context(self._turn.taken(until))
                if not is_current:
                    schema.migrate(db, self._place)
                now = self._given_now or engine_clock.read(db)
            file = found(self._place, now)
            store = file.identities[0], db.execute("SELECT boot, base FROM store").get
            log.Log(db, self._place)  # the connection keeps it
        except BaseException:
            db.close(True)
            raise
        self._is_another = self._is_another or self._store not in (None, store)
        self._db, self._file, self._store, self._is_full = db, file, store, True
        self._counted = 0
        return file

    def _let_go(self) -> None:
        """Close what is open on the file, whether it is well or not."""
        db, self._db, self._file = self._db, None, None
        with contextlib.suppress(apsw.Error):
            if db is not None:
                db.close(True)
        with contextlib.suppress(apsw.Error):
            self._readers.close()
        with self._watching:
            watch, self._watch, self._version = self._watch, None, None
            with contextlib.suppress(apsw.Error):
                if watch is not None:
                    watch.close(True)

    # A fork

    def be_still(self) -> None:
        """Before a fork: nothing of SQLite may be open in a child that would use it.

        It keeps account, for the whole process, of the locks that it has on each file. A child inherits that account,
        but not the locks: whatever it opened, it would take itself for protected where it isn't, and damage the file.
        """
        self._is_still = False
        if not self._writing.acquire(timeout=_STILL):
            return
        if self._readers.be_still(_STILL):
            self._let_go()
            self._is_still = True
        else:
            self._writing.release()

    def go_on(self) -> None:
        """After a fork, in the parent. Connections are opened when they are needed."""
        if self._is_still:
            self._readers.go_on()
            self._writing.release()

    def start_afresh(self) -> None:
        """After a fork, in the child: what waits, writes and lives is the parent's."""
        if not self._is_still:
            _unsafe.add(self._place.path)
            for inherited in (self._db, self._watch, self._readers):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))  # to close them would harm the parent
        self._turn.close()
        self._living.forget()
        self._news.forget()
        self._set_out()

    # Writing

    def _write(
        self, file: File, requests: Sequence[Request], refused: dict[int, Exception], until: float
    ) -> tuple[list[Answer], bool]:
        """Should one that passed the checks fail all the same, all begin anew without it."""
        assert self._db is not None
        try:
            self._db.set_busy_timeout(int(max(0.0, until - clock.monotonic()) * 1000))
            self._commit_fully(self._place.full and any(type(request) not in _LIGHT for request in requests))
            try:
                return self._step(file, requests, refused, at_once=not refused)
            except BadRequest:
                pass
            while True:
                try:
                    return self._step(file, requests, refused, at_once=False)
                except BadRequest as bad:
                    refused[bad.index] = bad.error
        except apsw.BusyError:
            raise
        except BaseException:
            self._let_go()  # a connection that has seen trouble, or was interrupted, may not get over it
            raise

    def _step(
        self, file: File, requests: Sequence[Request], refused: dict[int, Exception], *, at_once: bool
    ) -> tuple[list[Answer], bool]:
        assert self._db is not None
        self._db.execute("BEGIN IMMEDIATE")
        step = None
        try:
            step = Step(self._db, file.names, self._living, file.now(), clock.wall())
            answers: list[Answer] = []
            for group in _groups(requests, at_once):
                index = len(answers)
                if index in refused:
                    answers.append(refused[index])
                    continue
                if self._is_another and isinstance(group[0], Settle | Progress):
                    answers += map(_stale, group)  # a job here may have the same numbers
                    continue
                try:
                    answers += _do(step, group)
                except connection.OF_THE_STORE:
                    raise
                except Exception as error:
                    raise BadRequest(index, error) from error
            step.finish()
            self._commit(requests)
        except BaseException:
            with contextlib.suppress(apsw.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if step is not None:
                step.undone()
            raise
        step.done()
        self._counted = step.counted
        return answers, step.has_news

    def _commit(self, requests: Sequence[Request]) -> None:
        assert self._db is not None
        try:
            self._db.execute("COMMIT")
        except apsw.Error as error:
            if connection.is_certain(error):
                raise
            raise OutcomeUnknown(ids_of(requests)) from error

    def _keep_log_short(self) -> None:
        assert self._db is not None
        self._db.set_busy_timeout(_PATIENCE)
        log.keep_short(self._db, self._place)

    def _commit_fully(self, full: bool) -> None:
        if full is not self._is_full:
            assert self._db is not None
            self._db.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._is_full = full

    # News

    def _has_changed(self) -> bool:
        """Whether another connection has committed something since the last look."""
        try:
            with self._watching:
                file = self._file
                if file is None or not file.is_there():
                    return file is not None
                if self._watch is None:
                    self._watch = connection.connect(self._place)
                version, self._version = self._version, self._watch.pragma("data_version")
                return version is not None and version != self._version
        except (apsw.Error, OSError, StoreUnavailable):
            return False


def _alone(requests: Sequence[Request]) -> NewJob | None:
    """The job, if one is all that is asked for."""
    if len(requests) != 1:
        return None
    [request] = requests
    if type(request) is not Put or len(request.jobs) != 1 or checks.why_refused(request) is not None:
        return None
    return request.jobs[0]


def _groups(requests: Sequence[Request], at_once: bool) -> Iterator[Sequence[Request]]:
    """Neighbours of one kind, which can be done at once."""
    if not at_once:
        return ((request,) for request in requests)
    return (tuple(group) for _, group in itertools.groupby(requests, type))


def _do(step: Step, group: Sequence[Request]) -> list[Answer]:
    first = group[0]
    if isinstance(first, Put):
        puts = cast(Sequence[Put], group)
        return dealt(put(step, [job for one in puts for job in one.jobs]), [len(one.jobs) for one in puts])
    step.count_all()
    if isinstance(first, Settle):
        settles = cast(Sequence[Settle], group)
        answers = settle(step, [settlement for one in settles for settlement in one.settlements])
        return dealt(answers, [len(one.settlements) for one in settles])
    return [_do_one(step, request) for request in group]


def _do_one(step: Step, request: Request) -> Reply:
    match request:
        case Claim():
            return claim(step, request)
        case Renew():
            return workers.renew(step, request)
        case Sweep():
            return workers.sweep(step, request)
        case Cancel():
            return changes.cancel(step, request)
        case Pause():
            return changes.pause(step, request)
        case Again():
            return changes.again(step, request)
        case Progress():
            return changes.progress(step, request)
        case Prune():
            return changes.prune(step, request)
    raise TypeError(f"{request!r} is no request")


def _firsts(renew: Renew) -> Iterator[bool]:
    return (beat.first for beat in renew.beats)


def _stale(request: Request) -> Answer:
    """What somebody is told whose claims are of another store."""
    return [False] * len(request.settlements) if isinstance(request, Settle) else False


_engines: weakref.WeakSet[SQLiteEngine] = weakref.WeakSet()
_still: list[SQLiteEngine] = []  # during a fork
_unsafe: set[str] = set()  # files that were in use when this process was forked, and wouldn't be let go of


def _before_fork() -> None:
    _still[:] = _engines
    for engine in _still:
        engine.be_still()


def _after_fork_in_parent() -> None:
    while _still:
        _still.pop().go_on()


def _after_fork_in_child() -> None:
    while _still:
        _still.pop().start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
