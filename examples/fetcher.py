"""Fetch many pages from a server that misbehaves, in asyncio: bounded, with deadlines and retries, and stoppable.

    python examples/fetcher.py            200 pages, in about two seconds
    python examples/fetcher.py 100000     until Ctrl-C: what is under way ends or is cancelled, and it says which

The server is in this file, too, and does what servers do on bad days: one page in ten is answered with a 500 at first,
one in ten hangs, one in ten is cut off in the middle (and the last kind always). It also counts how many ask at once.
The client needs nothing but the standard library; with aiohttp or httpx the pool would look the same.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial

from penstock import AsyncPool, DeadlineExceeded, Retry, graceful

AT_ONCE = 20  # requests
PATIENCE = 0.5  # seconds for one attempt


class BadAnswer(Exception):
    """The server answered, but not with a page."""


# --- what you came for ------------------------------------------------------------------------------------------------


async def fetch(port: int, number: int) -> int:
    """The length of page *number*. A plain coroutine: it knows nothing of pools, attempts or deadlines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /pages/{number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 200:
            raise BadAnswer(f"status {status}")
        return len(await reader.readexactly(int(head.split(b"Content-Length: ")[1].split()[0])))
    finally:
        writer.close()


async def fetch_all(port: int, numbers: Iterator[int]) -> int:
    again = Retry(3, on=(OSError, EOFError, BadAnswer, DeadlineExceeded), wait=0.05)
    pool = AsyncPool(AT_ONCE, timeout=PATIENCE, retry=again, name="fetcher")
    pages = bytes_in_all = 0

    async with graceful(pool, timeout=3) as shutdown:
        async for job in pool.stream(partial(fetch, port), numbers):  # reads the numbers as places become free
            if job.exception() is None:
                pages += 1
                bytes_in_all += job.result()
                if pages % 50 == 0:
                    print(f"{pages} pages", flush=True)
    print(f"fetched {pages} pages, {bytes_in_all:,} bytes")
    for failure in pool.failures:
        print(f"gave up {failure}")
    print(pool.report)
    return shutdown.exit_code if shutdown.signal else 0


# --- the server that misbehaves ---------------------------------------------------------------------------------------


class Server:
    """Answers on a port of this machine. *most*: how many requests it had at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._asked: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError):
            pass  # the client went away
        finally:
            self._now -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int((await reader.readuntil(b"\r\n\r\n")).split()[1].rsplit(b"/", 1)[1])
        self._asked[number] += 1
        first = self._asked[number] == 1
        body = b"x" * (100 + number % 900)
        await asyncio.sleep(0.01)
        match number % 10:
            case 3 if first:
                writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                return
            case 5 if first:
                await reader.read()  # says nothing until the client hangs up
                return
            case 7 if first:
                writer.transport.abort()  # the client sees a reset
                return
            case 9:
                body = body[:50]
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {100 + number % 900}\r\n\r\n".encode() + body)
        await writer.drain()


async def main(pages: int) -> int:
    async with Server() as server:
        code = await fetch_all(server.port, iter(range(pages)))
    print(f"the server was asked for at most {server.most} pages at once")
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
