"""A network that fails when a test says so: a TCP proxy on loopback, before a PostgreSQL.

    client ──there──> Proxy ──there──> server
           <──back───       <──back───

What a call does to connections, it has done when it returns; to all of them, or to those alone whose client has *said*
certain bytes: a statement, or a value in it such as a job's id.
"""

from __future__ import annotations

import asyncio
import collections
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast

from tests.gates import GUARD
from tests.postgres import free_port

T = TypeVar("T")

_READY: Final = b"Z\x00\x00\x00\x05"  # begins the last six bytes of an answer of PostgreSQL
_REMEMBERED: Final = 1 << 16  # bytes of what a client has said
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


class Proxy:
    """A proxy before port *server* of loopback, on a `port` of its own, from its making to `close`."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.port = free_port()
        self.links: set[_Link] = set()  # this and what follows: the loop's thread only
        self.fewer = asyncio.Event()
        self.trap: Trap | None = None
        self._listening: asyncio.Server | None = None
        self.hung: bytes | None = None  # new connections hang once they have said this
        self.delays = (0.0, 0.0)
        # select() alone, of those that wait for sockets, can wait for less than a millisecond
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy")
        self._thread.start()
        self.accept()

    def delay(self, there: float, back: float) -> None:
        """From now on what is said takes so many seconds *there*, and what is answered so many *back*."""
        self.delays = there, back

    def cut(self, said: bytes = b"") -> int:
        """Reset connections, at both ends; how many."""

        def cut() -> int:
            found = [link for link in self.links if said in link.said]
            for link in found:
                link.cut()
            return len(found)

        return self._do(cut)

    def cut_before(self, word: bytes) -> Trap:
        """The next connection that says *word* is cut, and the server never hears of it."""
        return self._set(Trap(word, answered=False))

    def cut_after(self, word: bytes) -> Trap:
        """The next connection that says *word* is cut when the server has done it, and nobody hears the answer."""
        return self._set(Trap(word, answered=True))

    def hang(self, said: bytes = b"", *, new: bool = True) -> None:
        """Hold back all that goes through connections and close none, as if packets got lost. *new*: new ones too."""

        def hang() -> None:
            self.hung = said if new else None
            for link in self.links:
                link.hangs = said in link.said

        self._do(hang)

    def go_on(self) -> None:
        """Let through what was held back, and all that comes."""

        def go_on() -> None:
            self.hung = None
            for link in list(self.links):
                link.hangs = False
                link.flush()

        self._do(go_on)

    def held(self) -> list[int]:
        """The ports, as the server sees them, of connections on whose way to it something is held back."""
        return self._do(lambda: [link.server.port for link in self.links if link.hangs and link.server.is_expected])

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""

        def refuse() -> None:
            if self._listening is not None:
                self._listening.close()
                self._listening = None

        self._do(refuse)

    def accept(self) -> None:
        """Accept them again, on the same port."""

        async def accept() -> None:
            if self._listening is None:
                self._listening = await self.loop.create_server(lambda: _Link(self).client, "127.0.0.1", self.port)

        self._run(accept())

    def close(self) -> None:
        """Cut all connections, and end."""
        if not self._thread.is_alive():
            return
        self.refuse()
        self.cut()

        async def all_gone() -> None:
            while self.links:
                self.fewer.clear()
                await self.fewer.wait()

        self._run(all_gone())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _set(self, trap: Trap) -> Trap:
        self._do(lambda: setattr(self, "trap", trap))
        return trap

    def _do(self, act: Callable[[], T]) -> T:
        async def in_loop() -> T:
            return act()

        return self._run(in_loop())

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(what, self.loop)
        return done.result(GUARD)


class Trap:
    """Cuts the connection that says *word*, once: before that, or when it is *answered*."""

    def __init__(self, word: bytes, *, answered: bool) -> None:
        self._forms = word, word.hex().encode()  # text, and bytes as they are written in a list
        self._word = word
        self.answered = answered
        self.sprung = threading.Event()

    def is_in(self, data: bytes) -> bool:
        """Whether its word is there."""
        return any(form in data for form in self._forms)

    def wait(self) -> None:
        """Return when it has cut one."""
        assert self.sprung.wait(GUARD), f"nobody has said {self._word!r}"


class _Link:
    """A client, and the connection to the server that was made for it. The loop's thread only."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.said = bytearray()
        self.hangs = proxy.hung == b""
        self.client, self.server = _End(self), _End(self)
        self._trap: Trap | None = None  # waits for the answer
        self._unheard = b""
        proxy.links.add(self)
        self._connecting = proxy.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self.proxy.loop.create_connection(lambda: self.server, "127.0.0.1", self.proxy.server)
        except OSError:
            self.cut()

    def heard(self, end: _End, data: bytes) -> None:
        """*end* has said it."""
        there, back = self.proxy.delays
        if end is self.server:
            if self._trap is not None:
                self._unheard += data
                if self._unheard[-6:-1] == _READY:
                    self._spring(self._trap)
            else:
                self.client.send(data, back)
            return
        self.said += data[: max(0, _REMEMBERED - len(self.said))]
        if self.proxy.hung is not None and self.proxy.hung in self.said:
            self.hangs = True
        trap = self.proxy.trap
        if trap is not None and trap.is_in(data):
            self.proxy.trap = None
            if not trap.answered:
                self._spring(trap)
                return
            self._trap = trap
        self.server.send(data, there)

    def ended(self, end: _End) -> None:
        """*end* has closed."""
        there, back = self.proxy.delays
        if end is self.server:
            self.client.send(None, back)
        else:
            self.server.send(None, there)
        self._bury()

    def flush(self) -> None:
        self.client.flush()
        self.server.flush()

    def cut(self) -> None:
        self._connecting.cancel()
        self.client.reset()
        self.server.reset()
        self._bury()

    def _bury(self) -> None:
        if self.client.gone and self.server.gone:
            self.proxy.links.discard(self)
            self.proxy.fewer.set()

    def _spring(self, trap: Trap) -> None:
        self.cut()
        trap.sprung.set()


class _End(asyncio.Protocol):
    """What the proxy has of one end, and what is on the way to it."""

    def __init__(self, link: _Link) -> None:
        self.gone = False
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._coming: collections.deque[tuple[float, bytes | None]] = collections.deque()  # when, what; None: the end
        self._timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Of the proxy's own side; 0 if there is none yet."""
        return 0 if self._transport is None else int(self._transport.get_extra_info("sockname")[1])

    @property
    def is_expected(self) -> bool:
        """Whether something is on the way."""
        return bool(self._coming)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._link.heard(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._link.ended(self)

    def send(self, data: bytes | None, delay: float) -> None:
        self._coming.append((self._link.proxy.loop.time() + delay, data))
        self.flush()

    def flush(self) -> None:
        """Hand over what has arrived."""
        if self._transport is None or self._link.hangs:
            return
        loop = self._link.proxy.loop
        now = loop.time()
        while self._coming and self._coming[0][0] <= now:
            _, data = self._coming.popleft()
            if data is None:
                self._transport.close()
            else:
                self._transport.write(data)
        if self._coming and self._timer is None:
            self._timer = loop.call_at(self._coming[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        self.flush()

    def reset(self) -> None:
        """Close it at once, so that who is there gets a reset."""
        self._coming.clear()
        if self._transport is None:
            self.gone = True
        elif not self.gone:
            connected: socket.socket = self._transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
