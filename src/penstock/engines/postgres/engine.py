"""The engine: what is asked becomes one transaction, in one pipeline; what it may mean when the answer never comes."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg import errors

from penstock import clock
from penstock.engines import checks
from penstock.engines.batch import BadRequest, dealt, ids_of
from penstock.engines.bell import Bell
from penstock.engines.engine import Joined
from penstock.engines.postgres import changes, finding, place, puts, schema, workers
from penstock.engines.postgres.claims import claim
from penstock.engines.postgres.joined import JoinedTransaction
from penstock.engines.postgres.link import (
    AGAIN,
    OF_WHAT_IS_ASKED,
    UNKEPT,
    Link,
    TooLate,
    connect,
    is_direct,
    translated,
)
from penstock.engines.postgres.news import TELL, News
from penstock.engines.postgres.pipeline import Answer, Pipeline, Sync
from penstock.engines.postgres.readers import Readers
from penstock.engines.postgres.settling import settle
from penstock.engines.postgres.step import Step
from penstock.engines.records import Query
from penstock.engines.requests import (
    Again,
    Cancel,
    Claim,
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
from penstock.errors import OutcomeUnknown, StoreUnavailable

T = TypeVar("T")
Said = Reply | Exception

_LEAST: Final = 0.05  # seconds that a statement may take, however little time is left
_SHARE: Final = 0.8  # of the time that is left, for the server: so that its "no" comes before nobody knows
_OF_KNOWN_JOBS: Final = (Settle, Cancel, Progress)  # which wait for whoever else is at those jobs
_LIGHT: Final = (Renew, Progress)  # what may be forgotten if the server's machine loses its power
_PLANNED: Final = (Put, Claim, Settle, Renew, Progress)  # what has the same good plan, whatever is asked and is there

_ON_THE_WAY: Final = 5.0  # seconds after which a transaction that has not come to the server is not to begin there

# A plan that is kept may have been made when the tables were empty, and any way through them as good as another: so it
# may only go by indexes in their order. JIT compilation is for statements that take longer than any of these may.
_BEGIN: Final = """
SELECT extract(epoch FROM clock_timestamp())::float8,
    1 / CASE WHEN extract(epoch FROM clock_timestamp()) > %(late)s::float8 THEN 0 ELSE 1 END,
    set_config('statement_timeout', %(milliseconds)s::text, true),
    set_config('idle_in_transaction_session_timeout', %(milliseconds)s::text, true),
    CASE WHEN %(light)s::boolean THEN set_config('synchronous_commit', 'off', true) END,
    CASE WHEN %(planned)s::boolean THEN set_config('plan_cache_mode', 'force_generic_plan', true)
        || set_config('enable_seqscan', 'off', true) || set_config('enable_bitmapscan', 'off', true)
        || set_config('jit', 'off', true) END,
    pg_advisory_xact_lock(%(key)s::bigint)
"""
_IS_LATE: Final = errors.DivisionByZero  # by which `_BEGIN` fails if it is; nothing else of ours divides
_NOBODY: Final = (0, None)  # a connection of a pooler's, which may be anybody's by now
# The connection that was lost, and whoever is in the middle of one of our transactions.
_OTHERS: Final = """
FROM pg_stat_activity WHERE (pid = %(pid)s AND extract(epoch FROM backend_start) = %(since)s OR pid IN (
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid::bigint << 32 | objid::bigint = %(key)s))
"""
# One that waits for a standby has committed: to end it would only show all what may be gone after a fail-over.
_END_OTHERS: Final = f"SELECT pg_terminate_backend(pid) {_OTHERS} AND wait_event IS DISTINCT FROM 'SyncRep'"
_ARE_THERE: Final = f"SELECT {_OTHERS}"
_WHO: Final = """
SELECT pid, extract(epoch FROM backend_start), extract(epoch FROM clock_timestamp())::float8 FROM pg_stat_activity
WHERE pid = pg_backend_pid()
"""
# Should this machine vanish in mid-transaction, the server is to end that before leases do: in it nothing is idle, and
# by the system's defaults hours would pass until it looks whether anybody is still there.
_HEED: Final = """
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '25000', false)
"""


class _Late(Exception):
    """The server says that the transaction came too late, by what was known of its clock."""


class PostgresEngine:
    """Durable jobs in a PostgreSQL database: `postgresql://user@host/database`, `…?schema=penstock`.

    What libpq knows may be in the URL: several hosts, `sslmode`, `connect_timeout`. *now*: a clock in place of the
    server's, for tests.

    Lock: `_writing` guards the connection that writes, and what is known of the one before. A transaction holds an
    advisory lock of this engine's own until it ends: should its outcome be unknown, the next one waits there until the
    server has decided it. And the server lets none begin that is long on its way: what a pooler or a network has kept
    back must not be done when it was decided that it isn't.
    """

    in_caller = True

    def __init__(self, url: str, *, now: Callable[[], float] | None = None) -> None:
        self._place = place.parse(url)
        self.url = self._place.url
        self._given_now = now
        self._set_out()
        _engines.add(self)

    def _set_out(self) -> None:
        self._key = secrets.randbits(63)
        self._writing = threading.Lock()
        self._link: Link | None = None
        self._who: tuple[int, Any] | None = None  # what the server calls the connection that writes
        self._ahead = 0.0  # seconds that its clock is ahead of clock.monotonic(), at least
        self._begins_by = 0.0  # monotonic: when the last transaction that was sent has begun, or never will
        self._left: tuple[int, Any] | None = None  # a connection that was lost, and may not have heard of it
        self._prepares = True  # on connections of its own
        self._is_checked = False  # the schema is there, and none that is newer
        self._readers = Readers(self._place)
        self._news = News(self._place)

    def open(self, within: float = 10.0, *, create: bool = True) -> None:
        """Make or migrate the store if need be; see `Engine.open`."""
        until = clock.monotonic() + within
        with translated(self._place), self._writing:
            self._connected(until, create=create)

    def migrate(self, role: str | None = None, within: float = 600.0) -> tuple[int, int]:
        """Make or migrate the store; see `Migrating.migrate`."""
        until = clock.monotonic() + within
        with translated(self._place), contextlib.closing(connect(self._place, until)) as link:
            before = schema.migrate(link, self._place, until, role)
            return before, max(before, len(schema.MIGRATIONS))

    def script(self, role: str | None = None, within: float = 10.0) -> str:
        """The SQL that does the same; see `Migrating.script`."""
        with translated(self._place), contextlib.closing(connect(self._place, clock.monotonic() + within)) as link:
            return schema.script(self._place, schema.version_of(link, self._place), role)

    def transact(self, requests: Sequence[Request], within: float = 10.0) -> list[Said]:
        """Do all of *requests*; see `Engine.transact`."""
        until = clock.monotonic() + within
        refused: dict[int, Exception] = {
            index: why for index, request in enumerate(requests) if (why := checks.why_refused(request))
        }
        at_once = not refused
        with translated(self._place), self._writing:
            while True:
                link = self._connected(until)
                try:
                    return self._write(link, requests, refused, until, at_once=at_once)
                except BadRequest as bad:
                    if not at_once:
                        if bad.index in refused:
                            raise bad.error from None  # it isn't that one
                        refused[bad.index] = bad.error
                    at_once = False
                except AGAIN:
                    if clock.monotonic() >= until:
                        raise
                except UNKEPT:
                    if not link.prepares:
                        raise
                    self._prepares = False
                    self._end(link)
                except _Late as late:
                    if clock.monotonic() >= until:
                        raise StoreUnavailable(self.url, "it was too busy to begin in time") from late

    def find(self, query: Query[T], within: float = 10.0) -> T:
        """The answer to *query*; see `Engine.find`."""
        until = clock.monotonic() + within
        with translated(self._place):
            if not self._is_checked:
                with self._writing:
                    self._connected(until)
            while True:
                with self._readers.taken(until) as (link, is_fresh):
                    try:
                        return self._look(link, query, until)
                    except psycopg.OperationalError:
                        if is_fresh or not link.closed:
                            raise  # else it was lost while nobody used it

    def join(self, connection: object) -> Joined:
        """The way into the transaction that is open on *connection*; see `Engine.join`."""
        return JoinedTransaction(self._place, self._news.channel, connection)

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news; see `Engine.wait`."""
        self._news.wait(bell, timeout)

    def close(self) -> None:
        """Let go of the server; see `Engine.close`. Waits for a transaction that is under way."""
        self._news.close()
        with self._writing:
            link, self._link = self._link, None
            if link is not None:
                link.drop()
        self._readers.close()

    def start_afresh(self) -> None:
        """In the child of a fork: its parent's connections are not to be used, nor closed, which would end them."""
        _inherited.extend((self._link, *self._readers.inherited()))
        self._set_out()

    def _now(self) -> float | None:
        return None if self._given_now is None else self._given_now()

    def _look(self, link: Link, query: Query[T], until: float) -> T:
        with Pipeline(link) as pipeline:
            pipeline.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", {})
            self._begin(pipeline, until, writes=False)
            answer = finding.answer(Step(pipeline, self._now()), query)
            pipeline.run("COMMIT", {})
            pipeline.sync()
            pipeline.finish()
        return cast(T, answer)

    # Connections

    def _connected(self, until: float, *, create: bool = True) -> Link:
        """The connection that writes, with the store there."""
        link = self._link
        if link is not None and link.is_well():
            link.until = until
            return link
        if link is not None:
            self._lose(link)
        link = connect(self._place, until)
        try:
            if not self._is_checked:
                self._check(link, create=create)
            self._decide(link)
            [[*who, now]] = link.execute(_WHO).fetchall()
            self._heard(now)
            direct = is_direct(link, who[0])
            if direct:
                link.execute(_HEED)
        except BaseException:
            link.drop()
            raise
        self._who = (who[0], who[1]) if direct else _NOBODY
        link.prepares = direct and self._prepares
        self._link, self._is_checked = link, True
        return link

    def _check(self, link: Link, *, create: bool) -> None:
        version = schema.version_of(link, self._place)
        if version >= len(schema.MIGRATIONS):
            return
        if not create and not version:
            raise StoreUnavailable(self.url, f"it has no schema {self._place.schema}")
        schema.migrate(link, self._place, link.until)

    def _end(self, link: Link) -> None:
        """It has nothing left to do, but is of no use any more."""
        self._link = None
        link.drop()

    def _lose(self, link: Link) -> None:
        """The connection is of no use any more; what the server makes of what was sent there is seen to later."""
        self._left = self._who or self._left
        self._link = None
        link.drop()

    def _decide(self, link: Link) -> None:
        """See to it that nothing of the connection before is done from now on: the server may not know it is gone.

        Whatever of it the server has begun holds this engine's lock, so that the next transaction waits for its end.
        A pooler's connections are everybody's: there only one that is at a transaction of ours is ended, and one that
        has not begun by now can't any more once its time is over.
        """
        if self._left is None:
            return
        pid, since = self._left
        others = {"pid": pid, "since": since, "key": self._key}
        if self._left is _NOBODY:
            if self._begins_by > link.until:
                raise TooLate
            time.sleep(max(0.0, self._begins_by - clock.monotonic()))
        link.execute(_END_OTHERS, others)
        while link.execute(_ARE_THERE, others).fetchall():
            link.execute("SELECT pg_sleep(0.005)")
            if clock.monotonic() >= link.until:
                raise TooLate
        self._left = None

    def _heard(self, server_time: float) -> None:
        """What the server's clock showed, a moment ago."""
        self._ahead = server_time - clock.monotonic()

    # Transactions

    def _begin(self, pipeline: Pipeline, until: float, *, writes: bool, light: bool = False) -> Answer:
        """Send what each transaction begins with. One that *writes* takes the lock, and doesn't begin late."""
        left = max(_LEAST, _SHARE * (until - clock.monotonic()))
        late = None
        if writes:
            self._begins_by = min(until, clock.monotonic() + _ON_THE_WAY)
            late = self._begins_by + self._ahead
        key = self._key if writes else None
        values = {
            "milliseconds": str(int(left * 1000)),
            "light": light,
            "key": key,
            "late": late,
            "planned": pipeline.prepares,
        }
        return pipeline.run(_BEGIN, values, prepared=True)

    def _write(
        self,
        link: Link,
        requests: Sequence[Request],
        refused: dict[int, Exception],
        until: float,
        *,
        at_once: bool,
    ) -> list[Said]:
        """Do all of *requests* in one pipeline: all is sent before anything is waited for, if none has to look first.

        What is told to others comes behind the commit, and nothing rests on it.
        """
        light = bool(requests) and all(type(request) in _LIGHT for request in requests)
        pending: list[Callable[[], list[Said]]] = []
        pipeline = Pipeline(link, prepares=link.prepares and all(type(request) in _PLANNED for request in requests))
        step = Step(pipeline, self._now())
        commit: Sync | None = None
        try:
            with pipeline:
                begun = self._begin(pipeline, until, writes=True, light=light)
                self._lock_in_order(step, requests, refused, at_once)
                index = 0
                for group in _groups(requests, at_once):
                    if index in refused:
                        error = refused[index]
                        pending.append(lambda error=error: [error])  # type: ignore[misc]
                    else:
                        pending.append(self._sent(step, group, index, at_once))
                    index += len(group)
                step.finish()
                commit = pipeline.sync()
                # Within the transaction, its commit would hold the one lock of all that notify until the disk has it.
                if step.has_news and self._news.may_tell():
                    step.run_prepared(TELL, channel=self._news.channel)
                    pipeline.sync()
                pipeline.finish()
                self._heard(begun.fetchall()[0][0])
        except BaseException as error:
            if commit is None or not commit.is_done or not isinstance(error, psycopg.Error):
                self._fail(link, requests, error)
                raise
        if step.has_news:
            self._news.ring()
        return [answer for fetch in pending for answer in fetch()]

    def _fail(self, link: Link, requests: Sequence[Request], error: BaseException) -> None:
        """What it means that a transaction has raised *error*; nothing more if it may go on as it is."""
        if isinstance(error, AGAIN + UNKEPT):
            return
        if isinstance(error, _IS_LATE):
            self._end(link)  # the next one asks the server's clock anew
            raise _Late from error
        if isinstance(error, OF_WHAT_IS_ASKED):
            raise BadRequest(0, error) from error
        if not link.closed or isinstance(error, BadRequest):
            return  # the server has said no: nothing was done
        self._lose(link)
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            raise OutcomeUnknown(ids_of(requests)) from error

    @staticmethod
    def _lock_in_order(step: Step, requests: Sequence[Request], refused: dict[int, Exception], at_once: bool) -> None:
        """What several of them wait for, in the order of all who do: a worker before jobs, and these by number."""
        if len(requests) == 1:
            return
        claimers = [it.worker for at, it in enumerate(requests) if at and isinstance(it, Claim) and at not in refused]
        if claimers:
            step.run_prepared(
                "SELECT FROM penstock.worker WHERE id = ANY(%(workers)s::bigint[]) ORDER BY id FOR KEY SHARE",
                workers=claimers,
            )
        if any(isinstance(it, _OF_KNOWN_JOBS) for it in requests):
            asked = [it for at, it in enumerate(requests) if at not in refused]
            groups = [group for group in _groups(asked, at_once) if isinstance(group[0], _OF_KNOWN_JOBS)]
            if len(groups) > 1:
                _lock_jobs(step, [it for group in groups for it in group])

    def _sent(self, step: Step, group: Sequence[Request], index: int, at_once: bool) -> Callable[[], list[Said]]:
        """Send a group of requests of one kind; what gives their answers later. One alone is waited for here."""
        try:
            fetch = _do(step, group)
            if at_once:
                return fetch
            answers = fetch()
            return lambda: answers
        except _IS_LATE:
            raise
        except OF_WHAT_IS_ASKED as error:
            raise BadRequest(index, ValueError(str(error))) from error
        except (psycopg.OperationalError, psycopg.InterfaceError, *AGAIN, *UNKEPT):
            raise
        except Exception as error:
            raise BadRequest(index, error) from error


def _groups(requests: Sequence[Request], at_once: bool) -> Iterator[Sequence[Request]]:
    """Neighbours that can be done by one statement."""
    group: list[Request] = []
    for request in requests:
        if group and not (at_once and type(request) is type(group[0]) and isinstance(request, Put | Settle | Cancel)):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _lock_jobs(step: Step, requests: Sequence[Request]) -> None:
    seqs, ids = list[int](), list[str]()
    for request in requests:
        match request:
            case Settle(settlements):
                seqs += (it.seq for it in settlements)
            case Progress():
                seqs.append(request.seq)
            case Cancel():
                ids += request.ids
    step.run(
        "SELECT FROM penstock.job WHERE seq = ANY(%(seqs)s::bigint[] || ARRAY("
        "SELECT seq FROM penstock.known WHERE id = ANY(%(ids)s::text[]))) ORDER BY seq FOR UPDATE",
        seqs=seqs, ids=ids,
    )  # fmt: skip


def _do(step: Step, group: Sequence[Request]) -> Callable[[], list[Said]]:
    first = group[0]
    if isinstance(first, Put):
        asked = cast(Sequence[Put], group)
        jobs = [job for one in asked for job in one.jobs]
        answer = puts.put(step, jobs)
        return lambda: dealt(answer(), [len(one.jobs) for one in asked])
    if isinstance(first, Settle):
        settles = cast(Sequence[Settle], group)
        answers = settle(step, [it for one in settles for it in one.settlements])
        return lambda: dealt(answers(), [len(one.settlements) for one in settles])
    if isinstance(first, Cancel):
        cancels = cast(Sequence[Cancel], group)
        cuts = dealt(changes.cancel(step, cancels), [len(one.ids) for one in cancels])
        return lambda: cuts
    one = _do_one(step, first)
    return lambda: [one()]


def _do_one(step: Step, request: Request) -> Callable[[], Reply]:
    match request:
        case Claim():
            return claim(step, request)
        case Renew():
            return workers.renew(step, request)
        case Sweep():
            swept = workers.sweep(step, request)
            return lambda: swept
        case Pause():
            return changes.pause(step, request)
        case Again():
            return changes.again(step, request)
        case Progress():
            return changes.progress(step, request)
        case Prune():
            return changes.prune(step, request)
    raise TypeError(f"{request!r} is no request")


_engines: weakref.WeakSet[PostgresEngine] = weakref.WeakSet()
_inherited: list[Any] = []  # connections of the parents of this process: never to be closed by it


def _start_afresh() -> None:
    for engine in list(_engines):
        engine.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
