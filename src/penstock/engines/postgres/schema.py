"""The tables, and how a database gets them: numbered steps from nothing, or an older version, to today's.

Steps are additive. Services of the version before work on beside those of today, so a step takes nothing away that the
version before uses, and adds nothing that it would have to fill; what is not used any more goes a version later. So
code takes a store of a later version as it is, and a service that was not replaced yet may start again. A step with
which the code before can't live gets the number of the next hundred: that code refuses it.
"""

from __future__ import annotations

import random
import time
from typing import Any, Final

from psycopg import errors, sql

from penstock import clock
from penstock.engines.postgres.place import Place
from penstock.errors import StoreInvalid
from penstock.job import JobState

SCHEDULED, READY, RUNNING, DONE, FAILED, CANCELLED = range(6)
STATES: Final = (
    JobState.SCHEDULED,
    JobState.READY,
    JobState.RUNNING,
    JobState.DONE,
    JobState.FAILED,
    JobState.CANCELLED,
)
CODES: Final = {state: code for code, state in enumerate(STATES)}

COLUMNS: Final = (
    "seq, id, state, queue, task, priority, suspect, attempt, crashes, token, cancelling, reason, enqueued, due,"
    " worker, started, ended, ran, progress, error_type, error_message, error_traceback, print, result, headers, args"
)

_FIRST: Final = """
CREATE SEQUENCE penstock.job_seq;

CREATE TABLE penstock.known (              -- every job there is, waiting, running or ended
    id text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL DEFAULT nextval('penstock.job_seq')
);

CREATE TABLE penstock.job (                -- those that have not ended
    seq bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    state smallint NOT NULL,               -- 0 scheduled, 1 ready, 2 running, 3 done, 4 failed, 5 cancelled
    queue text COLLATE "C" NOT NULL,
    task text COLLATE "C" NOT NULL,
    priority integer NOT NULL,
    suspect boolean NOT NULL DEFAULT false,
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    token bigint NOT NULL DEFAULT 0,
    cancelling boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT '',
    enqueued double precision NOT NULL,    -- times: seconds since the epoch, of the server's clock
    due double precision NOT NULL,
    worker bigint,
    started double precision,
    ended double precision,
    ran double precision,
    progress text,                         -- JSON: [done, total, note]
    error_type text,
    error_message text,
    error_traceback text,
    print text COLLATE "C",
    result bytea,
    headers bytea,
    args bytea NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000);
CREATE INDEX job_ready ON penstock.job (queue, task, suspect, priority DESC, due, seq) WHERE state = 1;
CREATE INDEX job_due ON penstock.job (due) WHERE state = 0;
CREATE INDEX job_running ON penstock.job (worker) WHERE state = 2;
CREATE INDEX job_cancelling ON penstock.job (worker) WHERE cancelling;
CREATE INDEX job_suspect ON penstock.job (seq) WHERE state = 1 AND suspect;
CREATE INDEX job_print ON penstock.job (print, seq) WHERE print IS NOT NULL;

CREATE TABLE penstock.past (LIKE penstock.job INCLUDING DEFAULTS, PRIMARY KEY (seq))
    WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE INDEX past_ended ON penstock.past (state, ended);
CREATE INDEX past_print ON penstock.past (print, seq) WHERE print IS NOT NULL;

CREATE VIEW penstock.jobs AS SELECT * FROM penstock.job UNION ALL SELECT * FROM penstock.past;

CREATE TABLE penstock.attempt (            -- of those that did not end their job well
    seq bigint NOT NULL,
    token bigint NOT NULL,
    number integer NOT NULL,
    worker bigint NOT NULL,
    started double precision NOT NULL,
    ended double precision NOT NULL,
    outcome text NOT NULL,
    reason text NOT NULL,
    error_type text,
    error_message text,
    error_traceback text,
    print text,
    PRIMARY KEY (seq, token)
);

CREATE TABLE penstock.failure (            -- by kind
    print text COLLATE "C" PRIMARY KEY,
    error_type text NOT NULL,
    error_message text NOT NULL,
    error_traceback text NOT NULL,
    task text NOT NULL,
    count bigint NOT NULL,
    first double precision NOT NULL,
    last double precision NOT NULL,
    ids text[] NOT NULL                    -- a few jobs
);
CREATE INDEX failure_last ON penstock.failure (last);

CREATE TABLE penstock.worker (
    id bigint PRIMARY KEY,
    info bytea NOT NULL,
    since double precision NOT NULL,
    until double precision NOT NULL        -- the end of its lease
) WITH (fillfactor = 50);

CREATE TABLE penstock.tally (
    state smallint NOT NULL,
    queue text COLLATE "C" NOT NULL,
    task text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (state, queue, task)
);
CREATE TABLE penstock.change (             -- what `tally` doesn't know of yet
    state smallint NOT NULL,
    queue text COLLATE "C" NOT NULL,
    task text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
CREATE VIEW penstock.counts AS SELECT state, queue, task, sum(jobs)::bigint AS jobs FROM (
    SELECT * FROM penstock.tally UNION ALL SELECT * FROM penstock.change) AS both_of_them
GROUP BY state, queue, task HAVING sum(jobs) <> 0;

CREATE TABLE penstock.paused (queue text COLLATE "C" PRIMARY KEY);

CREATE TABLE penstock.store (              -- one row
    one integer PRIMARY KEY CHECK (one = 1),
    version integer NOT NULL,
    pulse double precision,                -- the last sweep or renewal
    hold_until double precision NOT NULL   -- nothing is taken from anybody before
) WITH (fillfactor = 50);
INSERT INTO penstock.store VALUES (1, 0, NULL, 0);
"""

# IF NOT EXISTS alone asks for the right to create schemas, also where somebody who has it has made this one.
_SCHEMA: Final = """\
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{schema}') THEN
        CREATE SCHEMA IF NOT EXISTS {name};
    END IF;
END $$;
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST,)
"""What leads from version n to n + 1. Forward only; one that was ever released is never changed."""

_AGE: Final = 100  # versions, of which all work side by side
_LOCKED: Final = 1.0  # seconds that it waits for a table which somebody uses: all who come then wait behind it
_LOCK: Final = 0x50454E53  # "PENS": of who migrates


def script(place: Place, version: int = 0, role: str | None = None) -> str:
    """All that leads from *version* to today's, and gives *role* its rights: for psql, in one transaction."""
    steps = "".join([*_steps(place, version), *_rights(place, role)])
    return f"BEGIN;\n{steps}COMMIT;\n" if steps else ""


def _steps(place: Place, version: int) -> list[str]:
    steps = [_SCHEMA.format(schema=place.schema, name=place.name)] if version == 0 else []
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        steps.append(place.sql(f"{step.strip()}\nUPDATE penstock.store SET version = {number};\n"))
    return steps


def _rights(place: Place, role: str | None) -> list[str]:
    if role is None:
        return []
    return [RIGHTS.format(schema=place.name, role=sql.Identifier(role).as_string())]


def version_of(connection: Any, place: Place) -> int:
    """The version of the store; 0 if there is none yet. Raises StoreInvalid if it is too new, or none of ours."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s",
        (place.schema,),
    ).fetchall()
    if not rows:
        return 0
    if ("store",) not in rows or ("known",) not in rows:
        raise StoreInvalid(place.url, f"its schema {place.schema} is another program's; ?schema= names another one")
    [[version]] = connection.execute(place.sql("SELECT version FROM penstock.store")).fetchall()
    if version // _AGE > len(MIGRATIONS) // _AGE:
        raise StoreInvalid(
            place.url, f"it was made by a newer penstock (its schema is {version}, this one knows {len(MIGRATIONS)})"
        )
    return int(version)


def migrate(connection: Any, place: Place, until: float, role: str | None = None) -> int:
    """Make it a store of today's version by *until*, or leave it as it was; the version that it had.

    Any number may try at once: one does it. *role* gets the rights to use it.
    """
    while True:
        try:
            return _migrate(connection, place, until, role)
        except errors.LockNotAvailable:
            if clock.monotonic() >= until:
                raise
            time.sleep(random.uniform(1.0, 2.0) * _LOCKED)  # those whom it held up go first


def _migrate(connection: Any, place: Place, until: float, role: str | None) -> int:
    milliseconds = max(1, int((until - clock.monotonic()) * 1000))
    connection.execute("BEGIN")
    try:
        # What a role may take for its queries is no measure for this.
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(milliseconds),))
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, place.schema))
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (str(int(_LOCKED * 1000)),))
        version = version_of(connection, place)
        for step in [*_steps(place, version), *_rights(place, role)]:
            connection.execute(step)
        connection.execute("COMMIT")
    except BaseException:
        if not connection.closed:
            connection.execute("ROLLBACK")
        raise
    return version


RIGHTS: Final = """\
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
"""
"""All that a role needs which enqueues and works. To migrate, the owner of the schema is needed."""
