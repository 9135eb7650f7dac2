"""`penstock migrate`: make a store, or bring it to today's version, before those who use it come."""

from __future__ import annotations

import click

from penstock.cli.jobs.printable import one_line
from penstock.cli.jobs.store import connected, find_app
from penstock.engines.engine import Engine, Migrating


@click.command("migrate", short_help="Make a store, or bring it to today's version.")
@click.argument("store", metavar="APP_OR_URL")
@click.option("--sql", "as_sql", is_flag=True, help="Change nothing; print the SQL that would, for psql.")
@click.option("--role", metavar="NAME", help="Also give this role the rights to enqueue and to work, and no others.")
def migrate_command(store: str, as_sql: bool, role: str | None) -> int:
    """Make the tables of a store, or bring those that are there to the version that this penstock needs.

    APP_OR_URL: module:app, or postgresql://user@host/database. Services do it by themselves when they start, if their
    role may.
    """
    url = store if "://" in store else find_app(store, "APP_OR_URL").url
    with connected(url) as engine:
        if as_sql:
            print(_migrating(engine).script(role) or "-- nothing to do\n", end="")
        elif role is None and not isinstance(engine, Migrating):
            engine.open()
            print(one_line(f"{engine.url} is of today's version"))
        else:
            before, now = _migrating(engine).migrate(role)
            done = f"nothing to do, it is of version {now}" if before == now else f"from version {before} to {now}"
            print(one_line(f"{engine.url}: {done}"))
            if role is not None:
                print(one_line(f"{role} may enqueue and work there"))
    return 0


def _migrating(engine: Engine) -> Migrating:
    if not isinstance(engine, Migrating):
        raise click.UsageError(f"{engine.url} has neither SQL to apply nor roles: whoever may write it may do all")
    return engine
