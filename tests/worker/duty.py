"""The app that the tests' worker services run. What its tasks do is written to a file of marks, which outlives them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

from penstock import App, Discard, Retry, Snooze, current_context, current_job

app = App(os.environ["DUTY_STORE"], keep=float(os.environ.get("DUTY_KEEP", "3600")))
marks = Path(os.environ["DUTY_MARKS"])


def mark(*words: object) -> None:
    """One line, whole however many write at once."""
    with marks.open("ab", buffering=0) as file:
        file.write((" ".join(str(word) for word in words) + "\n").encode())


def wait_for(gate: str) -> None:
    """Until somebody makes the file *gate*; asks its context now and then."""
    while not (marks.parent / gate).exists():
        current_context().sleep(0.01)


@app.task(name="double")
def double(n: int) -> int:
    mark("double", n)
    return 2 * n


@app.task(name="double_async")
async def double_async(n: int) -> int:
    await asyncio.sleep(0)
    mark("double_async", n)
    return 2 * n


@app.task(name="double_apart", process=True)
def double_apart(n: int) -> int:
    mark("double_apart", n, os.getpid())
    return 2 * n


@app.task(name="held")
def held(gate: str) -> str:
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    try:
        wait_for(gate)
    except BaseException as error:
        mark("ends", job.id, job.token, type(error).__name__)
        raise
    mark("ends", job.id, job.token, "well")
    return gate


@app.task(name="held_apart", process=True)
def held_apart(gate: str) -> str:
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    wait_for(gate)
    return gate


@app.task(name="deaf")
def deaf(gate: str) -> None:
    """As `held`, but it never looks at its context."""
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    while not (marks.parent / gate).exists():
        time.sleep(0.01)
    mark("ends", job.id, job.token, "well")


@app.task(name="limited", timeout=1)
def limited(gate: str) -> None:
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    wait_for(gate)


@app.task(name="stuck", timeout=0.5)
def stuck(gate: str) -> None:
    """Past its time, and deaf."""
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    while not (marks.parent / gate).exists():
        time.sleep(0.01)


@app.task(name="blocks", timeout=0.5)
async def blocks(gate: str) -> None:
    """Past its time, and no other coroutine has a turn."""
    while not (marks.parent / gate).exists():
        time.sleep(0.01)  # noqa: ASYNC251


@app.task(name="hold_gil")
def hold_gil(seconds: int) -> None:
    """One call of C code that keeps the GIL, so that no other thread of its process runs meanwhile."""
    job = current_job()
    assert job is not None
    mark("begins", job.id, job.token, os.getpid())
    ctypes.PyDLL(None).sleep(seconds)
    mark("ends", job.id, job.token, "well")


@app.task(name="fails", retry=Retry(3, wait=0))
def fails(times: int) -> int:
    job = current_job()
    assert job is not None
    mark("fails", job.attempt)
    if job.attempt <= times:
        raise ValueError(f"attempt {job.attempt}")
    return job.attempt


@app.task(name="ends_the_loop")
async def ends_the_loop(how: str) -> None:
    loop = asyncio.get_running_loop()
    match how:
        case "at once":
            raise KeyboardInterrupt
        case "later":
            await asyncio.sleep(0)
            raise KeyboardInterrupt
        case "in a task of its own":
            await asyncio.gather(leave())
        case "in a callback":
            loop.call_soon(sys.exit, 3)
        case "by its own word":
            loop.stop()


async def leave() -> None:
    sys.exit(3)


@app.task(name="says")
def says(word: str) -> None:
    logging.getLogger("duty").warning(word)


@app.task(name="says_async")
async def says_async(word: str) -> None:
    logging.getLogger("duty").warning(word)


@app.task(name="says_apart", process=True)
def says_apart(word: str) -> None:
    logging.getLogger("duty").warning(word)


@app.task(name="lies")
def lies() -> int:
    return "no number"  # type: ignore[return-value]


@app.task(name="lies_too")
def lies_too() -> bytes:
    return "no bytes"  # type: ignore[return-value]


@app.task(name="dies")
def dies() -> None:
    job = current_job()
    assert job is not None
    mark("dies", job.id, job.token)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="dies_apart", process=True)
def dies_apart() -> None:
    mark("dies_apart", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="snoozes")
def snoozes() -> str:
    mark("snoozes")
    if len([line for line in marks.read_text().splitlines() if line == "snoozes"]) == 1:
        raise Snooze(0.05)
    return "awake"


@app.task(name="discards")
def discards() -> None:
    raise Discard("nobody needs it")


@app.task(name="tells")
def tells(gate: str) -> None:
    job = current_job()
    assert job is not None
    job.progress(1, 3, "a third")
    mark("begins", job.id, job.token, os.getpid())
    with contextlib.suppress(OSError):
        wait_for(gate)


@app.task(name="tick")
def tick(n: int) -> int:
    """Gives the token of the run whose result was taken. Each so many-th one is slow, if there are such."""
    job = current_job()
    assert job is not None
    assert job.token is not None
    mark("runs", job.id, job.token, os.getpid())
    each, seconds = map(float, os.environ.get("DUTY_SLOW", "0 0").split())
    is_slow = each and n % each == each - 1
    time.sleep(seconds if is_slow else n % 5 * float(os.environ.get("DUTY_PACE", "0.001")))
    return job.token
