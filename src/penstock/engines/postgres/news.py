"""News between processes: who commits something says so with NOTIFY, and each process that waits has one LISTEN.

    commit ──NOTIFY──> server ──> the listener's connection ──> every bell of this process

A hint, and no more: a connection may be dead without anybody knowing. So the listener says something to itself every
few seconds. While it doesn't hear that, whoever waits looks for himself at least once a second; else at least once in
ten.

Behind a pooler nobody listens: the LISTEN would stay with a connection that is everybody's. Whoever is given that one
would be told the news of all others, and the listener what it says to itself there, and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import random
import secrets
import threading
import weakref
from typing import Final

from psycopg import sql

from penstock import clock
from penstock.engines.bell import Bell
from penstock.engines.postgres.link import Link, connect, is_direct
from penstock.engines.postgres.place import Place

TELL: Final = "SELECT pg_notify(%(channel)s, '')"
"""Says to all who listen, once the transaction is committed, that there may be something to do."""

_LOOK: Final = 0.8  # seconds between two looks while nothing can be heard, at most
_SELDOM: Final = 10.0  # the same, while it can
_TEST: Final = 5.0  # seconds between two words of the listener to itself
_PATIENCE: Final = 3.0  # seconds that it waits for one
_AGAIN: Final = (0.2, 5.0)  # seconds before it connects anew, the first time and at most
_APART: Final = 0.02  # seconds between two words of this process to all
_CALM: Final = 1.0  # seconds between two looks of the listener at the time, while it is not called


class News:
    """One engine's ear, and what it says to others.

    A bell is rung for as long as it exists, also between two waits; that is why the first wait with one returns at
    once. Lock: `_lock` guards `_bells`, `_thread`, `_call`, `_is_closed`, `_told_at` and `_owes`; a leaf. `_hears` is
    the listening thread's to write, and read by anybody: it only says how soon to look.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._bells: weakref.WeakSet[Bell] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._call: Bell | None = None  # for the thread: it owes something, or is to end
        self._hears = False
        self._is_closed = False
        self._stop = threading.Event()
        self._told_at = -math.inf  # monotonic: when this process last told something
        self._owes = False  # it has something to tell, as soon as it may again

    def wait(self, bell: Bell, timeout: float) -> None:
        """Sleep until there may be news, *bell* is rung, or *timeout* seconds have passed."""
        with self._lock:
            is_first = bell not in self._bells
            self._bells.add(bell)
            self._be_listening()
        if is_first:  # what came since the caller looked has rung no bell yet
            bell.hear()
            return
        longest = (_SELDOM if self._hears else _LOOK) * random.uniform(0.7, 1.0)
        bell.wait(max(0.0, min(timeout, longest)))

    def may_tell(self) -> bool:
        """Whether a transaction with news is to say so; else it will be said soon."""
        now = clock.monotonic()
        with self._lock:
            if now - self._told_at >= _APART:
                self._told_at = now
                return True
            self._owes = True
            self._be_listening()
            call = self._call
        if call is not None:
            call.ring()
        return False

    def ring(self) -> None:
        """Wake whoever waits in this process."""
        with self._lock:
            bells = list(self._bells)
        for bell in bells:
            bell.ring()

    def close(self) -> None:
        """Listen no more."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
            call = self._call
        self._stop.set()
        if call is not None:
            call.ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    @property
    def channel(self) -> str:
        """What all who share the store listen to."""
        return f"penstock_{self._place.schema}"

    def _be_listening(self) -> None:
        if self._thread is None and not self._is_closed:
            self._call = Bell()
            self._thread = threading.Thread(target=self._listen, args=[self._call], name="penstock-news", daemon=True)
            with contextlib.suppress(RuntimeError):
                self._thread.start()

    # The thread

    def _listen(self, call: Bell) -> None:
        with contextlib.closing(call):
            self._listen_until_closed(call)

    def _listen_until_closed(self, call: Bell) -> None:
        pause, longest = _AGAIN
        while not self._stop.is_set():
            try:
                link = connect(self._place, clock.monotonic() + 10.0)
            except Exception:
                self._stop.wait(pause * random.uniform(0.7, 1.3))
                pause = min(2 * pause, longest)
                continue
            try:
                self._hear(link, call)
                pause = _AGAIN[0]
            except Exception:  # it will connect anew; until then those who wait look for themselves
                self._stop.wait(pause * random.uniform(0.7, 1.3))
                pause = min(2 * pause, longest)
            finally:
                self._hears = False
                link.drop()
            self.ring()  # whoever knows what was said meanwhile

    def _hear(self, link: Link, call: Bell) -> None:
        heard: list[str] = []
        link.add_notify_handler(lambda notify: heard.append(notify.payload))  # what comes while it says something
        link.until = clock.monotonic() + _PATIENCE
        [[pid]] = link.execute("SELECT pg_backend_pid()").fetchall()
        mine, said_at, next_at = "", 0.0, math.inf
        if is_direct(link, pid):
            link.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel)))
            next_at = 0.0
        while not self._stop.is_set():
            now = clock.monotonic()
            if mine and now - said_at > _PATIENCE:
                self._hears = False  # the network swallows what is said, perhaps
                mine = ""
            if not mine and now >= next_at:
                mine, said_at, next_at = secrets.token_hex(8), now, now + _TEST
                self._say(link, mine)
            if self._is_owing(now):
                self._say(link, "")
            if not heard and call.wait(_APART if self._owes else _CALM, link.pgconn.socket):
                link.pgconn.consume_input()
            while (notify := link.pgconn.notifies()) is not None:
                heard.append(notify.extra.decode())
            if mine and mine in heard:
                mine, self._hears = "", True
            if "" in heard:
                self.ring()
            heard.clear()

    def _say(self, link: Link, word: str) -> None:
        link.until = clock.monotonic() + _PATIENCE
        link.execute("SELECT pg_notify(%s, %s)", (self.channel, word))

    def _is_owing(self, now: float) -> bool:
        with self._lock:
            if not self._owes or now - self._told_at < _APART:
                return False
            self._owes, self._told_at = False, now
            return True
