"""The fleet's tasks: an order is charged once, though machines are lost in mid-charge, and then confirmed.

The jobs are in the database that has the orders. So that a charge is on record and that its job is done is one commit:
there is no moment at which a crash could leave one without the other.
"""

from __future__ import annotations

import os
import time

import psycopg

from penstock import App, Retry, complete, current_job

DATABASE = os.environ.get("SHOP_DATABASE", "postgresql://localhost/shop")

jobs = App(DATABASE, name="shop")

TABLES = """
CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cents bigint NOT NULL);
CREATE TABLE IF NOT EXISTS charge (order_id bigint NOT NULL, cents bigint NOT NULL);  -- nothing forbids a second one
CREATE TABLE IF NOT EXISTS mail (order_id bigint PRIMARY KEY, sent bigint NOT NULL);
CREATE TABLE IF NOT EXISTS run (job text NOT NULL, token bigint NOT NULL, machine text NOT NULL);
"""


def connect(*, autocommit: bool = False) -> psycopg.Connection:
    """A connection for one job. A program with much to do would keep some in a psycopg_pool.ConnectionPool."""
    return psycopg.connect(DATABASE, connect_timeout=5, autocommit=autocommit)


@jobs.task(name="charge", timeout=30, retry=Retry(8, on=psycopg.OperationalError, wait=0.5))
def charge(order: int) -> int:
    """Exactly once: all that it does is in one transaction, and that it is done, too."""
    note_the_run()
    with connect() as connection:  # commits at the end of the block, rolls back when an error leaves it
        [[cents]] = connection.execute("SELECT cents FROM orders WHERE id = %s", (order,)).fetchall()
        time.sleep(0.02)  # stands for the work
        connection.execute("INSERT INTO charge VALUES (%s, %s)", (order, cents))
        confirm.options(connection=connection).enqueue(order)  # exists if and only if the charge does
        return complete(connection, int(cents))


@jobs.task(name="confirm", timeout=30, retry=Retry(8, wait=0.5), queue="mail")
def confirm(order: int) -> None:
    """At least once: a mail is no row of the database, and may go out twice if a machine is lost just after."""
    note_the_run()
    time.sleep(0.01)  # stands for the mail
    with connect() as connection:
        connection.execute(
            "INSERT INTO mail VALUES (%s, 1) ON CONFLICT (order_id) DO UPDATE SET sent = mail.sent + 1", (order,)
        )


def note_the_run() -> None:
    """On record at once, so that at the end one can see which jobs were run again, and where."""
    job = current_job()
    if job is not None:
        with connect(autocommit=True) as connection:
            machine = os.environ.get("SHOP_MACHINE", "?")
            connection.execute("INSERT INTO run VALUES (%s, %s, %s)", (job.id, job.token, machine))
