"""The app of test_joined.py: an order is paid in one transaction, which breaks once at the place that was told.

Each place is between two statements: 0 is before the first of them, 4 after the commit.
"""

from __future__ import annotations

import os
import signal

import psycopg

from penstock import App, Retry, acomplete, complete, current_job

DATABASE = os.environ["TILL_DATABASE"]

app = App(os.environ["TILL_JOBS"])

TABLES = "CREATE TABLE paid (job text NOT NULL); CREATE TABLE broke (job text PRIMARY KEY, pid bigint NOT NULL)"


def break_once(at: int, place: int, how: str, pid: int) -> None:
    """If this is the *place*, and for the first time."""
    job = current_job()
    assert job is not None
    if at != place:
        return
    with psycopg.connect(DATABASE, autocommit=True) as other:
        noted = "INSERT INTO broke VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING job"
        if not other.execute(noted, (job.id, os.getpid())).fetchall():
            return
        if how == "cut":
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise RuntimeError(f"broken at {place}")


def pay(place: int, how: str) -> int:
    with psycopg.connect(DATABASE) as connection:
        pid = connection.info.backend_pid
        break_once(0, place, how, pid)
        connection.execute("INSERT INTO paid VALUES (%s)", (job_id(),))
        break_once(1, place, how, pid)
        thank.options(connection=connection).enqueue()
        break_once(2, place, how, pid)
        complete(connection, place)
        break_once(3, place, how, pid)
    break_once(4, place, how, pid)
    return place


@app.task(name="pay", retry=Retry(5, wait=0))
def pay_on_a_thread(place: int, how: str) -> int:
    return pay(place, how)


@app.task(name="pay_apart", process=True, retry=Retry(5, wait=0))
def pay_apart(place: int, how: str) -> int:
    return pay(place, how)


@app.task(name="pay_async", retry=Retry(5, wait=0))
async def pay_async(place: int, how: str) -> int:
    async with await psycopg.AsyncConnection.connect(DATABASE) as connection:
        pid = connection.info.backend_pid
        break_once(0, place, how, pid)
        await connection.execute("INSERT INTO paid VALUES (%s)", (job_id(),))
        break_once(1, place, how, pid)
        await thank.options(connection=connection).aenqueue()
        break_once(2, place, how, pid)
        await acomplete(connection, place)
        break_once(3, place, how, pid)
    break_once(4, place, how, pid)
    return place


@app.task(name="thank", queue="nobody")
def thank() -> None:
    """Nobody works on its queue: what is enqueued can be counted."""


def job_id() -> str:
    job = current_job()
    assert job is not None
    return str(job.id)
