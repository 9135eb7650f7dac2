"""The jobs that `durable.py` measures, and the systems that run them: what the bench and its workers share.

    bench ──put──> store in a folder ──> worker process ──tell──> socket in the same folder ──> bench

A worker tells when it runs the job of a given number, so that every system is timed in the same way. All stores are
SQLite files, and every commit is on the disk when it returns (synchronous=FULL).
"""

import itertools
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket
from typing import Any, Final

from penstock import App, Retry

FOLDER, MARKS, STEP = (
    "PENSTOCK_BENCH_FOLDER",
    "PENSTOCK_BENCH_MARKS",
    "PENSTOCK_BENCH_STEP",
)  # in a worker's environment
URL = "url"  # the file in a folder that says where its store is, if that is not a file


# ---------------------------------------------------------------------------------------------------------------------
# In a worker: what its jobs tell the bench


class Teller:
    """The jobs' way to tell the bench in *folder*, and the count of those that began here."""

    def __init__(self, folder: Path) -> None:
        self._way = socket(AF_UNIX, SOCK_DGRAM)
        self._place = os.fspath(folder / "told")
        self._calls = itertools.count(1)
        self._marks = frozenset(int(mark) for mark in os.environ.get(MARKS, "").split(",") if mark)
        self._step = int(os.environ.get(STEP, 0))

    def tell(self, *words: Any) -> None:
        """Send *words*; to nobody if the bench is gone."""
        self._way.sendto(json.dumps(words).encode(), self._place)

    def count(self) -> None:
        """One more call; at a mark or a step, the time and what this process has used of a processor."""
        number = next(self._calls)
        if number in self._marks or (self._step and number % self._step == 0):
            self.tell(number, time.monotonic(), time.process_time())


# ---------------------------------------------------------------------------------------------------------------------
# The systems


async def nothing_to_close() -> None: ...


@dataclass(frozen=True, slots=True)
class System:
    """A store in one folder, reduced to what the bench does with it. Each call of *put* and *aput* is one commit."""

    put: Callable[[int], Any]  # a job that does nothing
    put_many: Callable[[Iterable[int]], Any]
    close: Callable[[], object]
    ask_when: Callable[[float], Any] | None = None  # a job that tells how long ago its argument was: monotonic
    aput: Callable[[int], Any] | None = None  # a coroutine function
    aclose: Callable[[], Awaitable[object]] = nothing_to_close  # in the loop of *aput*, before `close`


def penstock_app(folder: Path) -> App:
    """Our app, on the store whose URL is in the file `url`, else on a file; its tasks look alike to those of peers."""
    url = folder / URL
    app = App(url.read_text() if url.exists() else f"sqlite:///{folder}/penstock.db")
    teller = Teller(folder)

    @app.task(name="nothing", retry=Retry(5))
    def nothing(value: int) -> None:
        teller.count()

    @app.task(name="anothing", retry=Retry(5))
    async def anothing(value: int) -> None:
        teller.count()

    @app.task(name="when")
    def when(sent: float) -> None:
        teller.tell(time.monotonic() - sent)

    @app.task(name="hang")
    def hang() -> None:
        teller.tell(os.getpid(), time.monotonic())
        time.sleep(60)

    return app


def penstock(folder: Path, task: str = "nothing") -> System:
    app = penstock_app(folder)
    nothing, when = app.tasks[task], app.tasks["when"]

    def put_many(values: Iterable[int]) -> None:
        nothing.enqueue_many((value,) for value in values)

    return System(nothing.enqueue, put_many, app.close, when.enqueue, nothing.aenqueue)


def huey_app(folder: Path, *, fsync: bool = True) -> tuple[Any, Any, Any]:
    """Huey on SQLite and its two tasks. *fsync*: synchronous=FULL; without it synchronous=OFF, to fill a store."""
    from huey import SqliteHuey

    huey: Any = SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=fsync, timeout=60)
    teller = Teller(folder)

    def nothing(value: int) -> None:
        teller.count()

    def when(sent: float) -> None:
        teller.tell(time.monotonic() - sent)

    return huey, huey.task(retries=5)(nothing), huey.task()(when)


def huey(folder: Path) -> System:
    queue, nothing, when = huey_app(folder)

    def put_many(values: Iterable[int]) -> None:
        for value in values:
            nothing(value)

    async def aput(value: int) -> None:
        nothing(value)

    return System(nothing, put_many, queue.storage.close, when, aput)


def fill_huey(folder: Path, jobs: int) -> None:
    queue, nothing, _ = huey_app(folder, fsync=False)
    for number in range(jobs):
        nothing(number)
    queue.storage.close()


def persist_queue_open(folder: Path) -> Any:
    from persistqueue import SQLiteAckQueue

    return SQLiteAckQueue(str(folder / "persist"), multithreading=True)  # SQLite's default is FULL


def persist_queue(folder: Path) -> System:
    queue = persist_queue_open(folder)
    return _of_put(queue.put, queue.close)


def lite_queue_open(folder: Path) -> Any:
    from litequeue import LiteQueue

    queue = LiteQueue(folder / "lite.db")
    queue.conn.execute("PRAGMA synchronous = FULL")  # its own choice is NORMAL
    return queue


def lite_queue(folder: Path) -> System:
    queue = lite_queue_open(folder)

    def put(value: int) -> None:
        queue.put(str(value))

    return _of_put(put, queue.close)


def _of_put(put: Callable[[int], Any], close: Callable[[], object]) -> System:
    def put_many(values: Iterable[int]) -> None:
        for value in values:
            put(value)

    return System(put, put_many, close)


# ---------------------------------------------------------------------------------------------------------------------
# Workers of those that have none


def drain_persist_queue(folder: Path) -> None:
    queue, count = persist_queue_open(folder), Teller(folder).count
    while True:
        item = queue.get()
        count()
        queue.ack(item)


def drain_lite_queue(folder: Path) -> None:
    queue, count = lite_queue_open(folder), Teller(folder).count
    while True:
        message = queue.pop()
        if message is None:
            return
        count()
        queue.done(message.message_id)


_OFF: Final = "PRAGMA synchronous = OFF"


def fill_persist_queue(folder: Path, jobs: int) -> None:
    queue = persist_queue_open(folder)
    queue._putter.execute(_OFF)
    for number in range(jobs):
        queue.put(number)
    queue.close()


def fill_lite_queue(folder: Path, jobs: int) -> None:
    queue = lite_queue_open(folder)
    queue.conn.execute(_OFF)
    for number in range(jobs):
        queue.put(str(number))
    queue.close()


def sqlite_version() -> str:
    """Of the module `sqlite3`, which the peers use."""
    return sqlite3.sqlite_version
