"""Flask: each job gets an app context of its own, with its own `g`, and Flask's teardown when it ends.

    pip install flask
    flask --app examples/around_flask run
    curl -X POST http://127.0.0.1:5000/orders/lamp

The whole trick is `around=app.app_context`. A job that is submitted from a view can see the view's context variables,
so `current_app` would seem to work without it. But it would be the context of a request that is over: whatever the
view kept in `g`, such as its database connection, belongs to another thread and is closed by now.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from flask import Flask, current_app, g
from flask.typing import ResponseReturnValue

from penstock import Refused, ThreadPool


def connection() -> sqlite3.Connection:
    """The database of this app context: opened when first asked for, closed by `close_connection`."""
    if "connection" not in g:
        g.connection = sqlite3.connect(current_app.config["DATABASE"])
    opened: sqlite3.Connection = g.connection
    return opened


def close_connection(_: BaseException | None) -> None:
    opened: sqlite3.Connection | None = g.pop("connection", None)
    if opened is not None:
        opened.close()


def pack(item: str) -> int:
    """The job: take one *item* off the shelf, and return how many are left.

    It finds the app and its database as a view does, and is called in a view or in a test as any other function.
    """
    with connection() as database:
        database.execute("UPDATE stock SET pieces = pieces - 1 WHERE item = ?", [item])
    return pieces(item)


def pieces(item: str) -> int:
    row = connection().execute("SELECT pieces FROM stock WHERE item = ?", [item]).fetchone()
    return int(row[0]) if row else 0


def create_app(database: Path | None = None) -> Flask:
    app = Flask(__name__)
    app.config["DATABASE"] = database or Path(tempfile.gettempdir(), "penstock-around-flask.sqlite")
    app.teardown_appcontext(close_connection)
    with app.app_context(), connection() as opened:
        opened.execute("CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, pieces INTEGER)")
        opened.execute("INSERT OR REPLACE INTO stock VALUES ('lamp', 1000)")

    # Nobody has to shut this pool down: when the process ends it takes no more jobs, gives the accepted ones their
    # grace (30 seconds unless you say otherwise), and goes.
    pool = ThreadPool(4, around=app.app_context, name="orders")
    app.extensions["penstock"] = pool

    @app.post("/orders/<item>")
    def order(item: str) -> ResponseReturnValue:
        if pieces(item) < 1:
            return {"error": f"no {item} left"}, 404
        try:
            job = pool.options(when_full="reject").submit(pack, item)
        except Refused as refused:  # the backlog is full, or the process is ending
            return {"error": str(refused)}, 503, {"Retry-After": "1"}
        return {"id": job.id}, 202

    return app
