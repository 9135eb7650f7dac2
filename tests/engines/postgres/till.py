"""The app of test_joined.py: an order is paid in one transaction, which breaks once at the place that was told.

Each place is between two statements: 0 is before the first of them, 4 after the commit.
"""

from __future__ import annotations

import os
import signal
import threading

import django
import psycopg
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from penstock import App, Retry, Snooze, acomplete, complete, current_job

DATABASE = os.environ["TILL_DATABASE"]

app = App(os.environ["TILL_JOBS"])

TABLES = "CREATE TABLE paid (job text NOT NULL); CREATE TABLE broke (job text PRIMARY KEY, pid bigint NOT NULL)"


ALCHEMY = DATABASE.replace("postgresql:", "postgresql+psycopg:")
PAID, PID = text("INSERT INTO paid VALUES (:job)"), text("SELECT pg_backend_pid()")


def break_once(at: int, place: int, how: str, pid: int | None) -> None:
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
    if how == "snooze":
        raise Snooze(0)


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


@app.task(name="pay_in_a_session", retry=Retry(5, wait=0))
def pay_in_a_session(place: int, how: str) -> int:
    with Session(create_engine(ALCHEMY, poolclass=NullPool)) as session:
        pid = session.scalar(PID)
        break_once(0, place, how, pid)
        session.execute(PAID, {"job": job_id()})
        break_once(1, place, how, pid)
        thank.options(connection=session).enqueue()
        break_once(2, place, how, pid)
        complete(session, place)
        break_once(3, place, how, pid)
        session.commit()
    break_once(4, place, how, pid)
    return place


@app.task(name="pay_in_an_async_session", retry=Retry(5, wait=0))
async def pay_in_an_async_session(place: int, how: str) -> int:
    async with AsyncSession(create_async_engine(ALCHEMY, poolclass=NullPool)) as session:
        pid = await session.scalar(PID)
        break_once(0, place, how, pid)
        await session.execute(PAID, {"job": job_id()})
        break_once(1, place, how, pid)
        await thank.options(connection=session).aenqueue()
        break_once(2, place, how, pid)
        await acomplete(session, place)
        break_once(3, place, how, pid)
        await session.commit()
    break_once(4, place, how, pid)
    return place


def set_up_django() -> None:
    """Once in a process that works, and in none that only enqueues: Django is configured for all of a process."""
    parts = conninfo_to_dict(DATABASE)
    place = {name.upper(): parts[name] for name in ("host", "port", "user")}
    engine = {"ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"]}
    with _setting_up:
        if not settings.configured:
            settings.configure(DATABASES={"default": {**engine, **place}})
            django.setup()


_setting_up = threading.Lock()


@app.task(name="pay_in_django", retry=Retry(5, wait=0))
def pay_in_django(place: int, how: str) -> int:
    set_up_django()
    from django.db import connection, transaction

    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
            break_once(0, place, how, pid)
            cursor.execute("INSERT INTO paid VALUES (%s)", (job_id(),))
            break_once(1, place, how, pid)
            thank.options(connection=connection).enqueue()
            break_once(2, place, how, pid)
            complete(connection, place)
            break_once(3, place, how, pid)
        break_once(4, place, how, pid)
    finally:
        connection.close()
    return place


@app.task(name="thank", queue="nobody")
def thank() -> None:
    """Nobody works on its queue: what is enqueued can be counted."""


def job_id() -> str:
    job = current_job()
    assert job is not None
    return str(job.id)
