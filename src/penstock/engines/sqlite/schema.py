"""The tables, and how a file gets them: the numbered steps from nothing, or an older version, to today's.

One table holds jobs of all states. The indexes are partial, so that each costs only the jobs in its state: a claim
never touches those that ended, and an end never moves a row. Names of queues and tasks are numbers, `name` has them.
"""

from __future__ import annotations

from typing import Final

import apsw

from penstock.engines.sqlite.place import Place
from penstock.errors import StoreInvalid
from penstock.job import JobState

APPLICATION: Final = 0x50454E53  # "PENS": whose files these are, as `file` and SQLite itself can tell

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

_FIRST: Final = """
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,           -- never used again: see `Step.next_seq`
    id TEXT NOT NULL,
    state INTEGER NOT NULL,            -- 0 scheduled, 1 ready, 2 running, 3 done, 4 failed, 5 cancelled
    queue INTEGER NOT NULL,            -- of name
    task INTEGER NOT NULL,             -- of name
    priority INTEGER NOT NULL,
    suspect INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    enqueued REAL NOT NULL,
    due REAL NOT NULL,
    at REAL,                           -- wall time, of a scheduled job that was put for one
    worker INTEGER,
    started REAL,
    ended REAL,
    ran REAL,
    progress TEXT,                     -- JSON: [done, total, note]
    error_type TEXT,
    error_message TEXT,
    error_traceback TEXT,
    print TEXT,
    result BLOB,
    headers BLOB,
    args BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX job_id ON job (id);
CREATE INDEX job_ready ON job (queue, task, suspect, priority DESC, due, seq) WHERE state = 1;
CREATE INDEX job_due ON job (due) WHERE state = 0;
CREATE INDEX job_running ON job (worker, cancelling) WHERE state = 2;
CREATE INDEX job_ended ON job (state, ended) WHERE state >= 3;
CREATE INDEX job_print ON job (print, seq) WHERE print IS NOT NULL;

CREATE TABLE attempt (                 -- of those that did not end their job well
    seq INTEGER NOT NULL,
    token INTEGER NOT NULL,
    number INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    started REAL NOT NULL,
    ended REAL NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    error_type TEXT,
    error_message TEXT,
    error_traceback TEXT,
    print TEXT
) STRICT;
CREATE UNIQUE INDEX attempt_claim ON attempt (seq, token);

CREATE TABLE failure (                 -- by kind
    print TEXT PRIMARY KEY,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    error_traceback TEXT NOT NULL,
    task INTEGER NOT NULL,
    count INTEGER NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    ids TEXT NOT NULL                  -- JSON: a few jobs
) STRICT;
CREATE INDEX failure_last ON failure (last);

CREATE TABLE worker (
    id INTEGER PRIMARY KEY,
    info BLOB NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL,               -- the end of its lease
    gone INTEGER NOT NULL DEFAULT 0    -- it was of a boot before this one: dead for certain
) STRICT;

CREATE TABLE counter (
    state INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    task INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (state, queue, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE name (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE paused (queue INTEGER PRIMARY KEY) STRICT;

CREATE TABLE store (                   -- one row
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next_seq INTEGER NOT NULL,         -- at least
    boot TEXT NOT NULL,                -- of the machine, that `base` is for
    base REAL NOT NULL,                -- what to add to its clock
    latest REAL NOT NULL,              -- about the last time that the engine's clock showed
    pulse REAL,                        -- the last sweep or renewal
    hold_until REAL NOT NULL,          -- nothing is taken from anybody before
    ahead REAL NOT NULL                -- wall clock minus engine's, when `at` was last turned into `due`
) STRICT;
INSERT INTO store VALUES (1, 1, '', 0, 0, NULL, 0, 0);
"""

_COUNTED_LATER: Final = """
ALTER TABLE store ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;  -- the last job that `counter` knows of
UPDATE store SET counted = next_seq - 1;
CREATE VIEW tally AS SELECT state, queue, task, sum(jobs) AS jobs FROM (
    SELECT state, queue, task, jobs FROM counter
    UNION ALL SELECT state, queue, task, count(*) FROM job
    WHERE seq > (SELECT counted FROM store) GROUP BY state, queue, task)
GROUP BY state, queue, task;
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _COUNTED_LATER)
"""What leads from version n to n + 1. Forward only; one that was ever released is never changed."""

# In one statement: between two of them another process may make the store.
_LOOK: Final = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version
"""


def is_current(db: apsw.Connection, place: Place, newest: int | None = None) -> bool:
    """Whether *db* is a store of today's version; False if it is new or of an older one. Else raises StoreInvalid."""
    newest = len(MIGRATIONS) if newest is None else newest
    application, version, tables = db.execute(_LOOK).get
    if application == APPLICATION:
        if version > newest:
            raise StoreInvalid(
                place.url, f"it was made by a newer penstock (its schema is {version}, this one knows {newest})"
            )
        return bool(version == newest)
    if application or version or tables:
        raise StoreInvalid(place.url, "it is another program's database; durable jobs need a file of their own")
    return False


def migrate(db: apsw.Connection, place: Place) -> None:
    """Make *db* a store of today's version, or leave it as it was. Nobody else may write meanwhile: hold the turn."""
    if db.pragma("journal_mode") != "wal":  # both settings stay with the file; this one only if it still is empty
        db.pragma("auto_vacuum", "INCREMENTAL")
        db.pragma("journal_mode", "wal")
    db.execute("BEGIN IMMEDIATE")
    try:
        is_current(db, place)  # another process was faster, perhaps: then there is nothing left to do
        for step in MIGRATIONS[db.pragma("user_version") :]:
            db.execute(step)
        db.execute(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {len(MIGRATIONS)}; COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
