"""Django: each job gets a working database connection, and leaves none behind.

    pip install django
    python examples/around_django.py

Django keeps one connection per thread, and closes the stale ones when a request begins or ends. A worker thread never
sees a request: its connection stays open, until one day the server has dropped it and every job on that worker fails
with "connection already closed". `around=fresh_connections` does for each job what Django does for each request.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.db import close_old_connections, connection

from penstock import ThreadPool


@contextlib.contextmanager
def fresh_connections() -> Iterator[None]:
    """Close what is broken or older than CONN_MAX_AGE, before the job and after it."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def pack(item: str) -> int:
    """The job. It uses the ORM or, as here, a cursor, and returns how many were packed so far."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO packed VALUES (%s)", [item])
        cursor.execute("SELECT count(*) FROM packed WHERE item = %s", [item])
        return int(cursor.fetchone()[0])


def set_up(database: Path) -> None:
    """Stands for your settings.py, and for the migration."""
    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}})
    django.setup()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE packed (item TEXT)")
    connection.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        set_up(Path(folder, "orders.sqlite"))
        with ThreadPool(2, around=fresh_connections, name="orders") as pool:
            jobs = [pool.submit(pack, "lamp") for _ in range(10)]
        print(f"lamps packed: {max(job.result() for job in jobs)}")


if __name__ == "__main__":
    main()
