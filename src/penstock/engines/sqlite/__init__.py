"""Durable jobs in one SQLite file, for all processes of one machine.

    jobs.db                    the store: tables of `schema`
    jobs.db-wal, jobs.db-shm   SQLite's own
    jobs.db-penstock/          what a file can't do (`beside`): whose turn it is to write, which workers live, who waits

    transact ──> turn ──> BEGIN IMMEDIATE ──> puts | claims | settling | workers | changes ──> COMMIT ──> news
    find ─────> a reading connection, beside the writers

All that must be true is kept by SQLite's transactions. The folder beside it makes things fair and fast: if somebody
deletes it, writers starve now and then, a killed worker's jobs wait for its lease, and news come a second late.
"""

from penstock.engines.sqlite.engine import SQLiteEngine

__all__ = ["SQLiteEngine"]
