"""The write-ahead log: begun anew before it gets long, and with room at its end before it is needed.

A commit that makes the log longer waits for the disk twice: for what it writes, and for the file's new length. So zeros
are appended ahead, and commits overwrite them. SQLite takes them for what an older log has left there, and for its end.
Appending never meets what somebody else writes: it begins where the file ends by then, whoever made it longer.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import apsw

from penstock.engines.sqlite.place import Place

KEPT: Final = 64 * 2**20
"""Bytes of the log that stay when it is begun anew."""

_PAGES: Final = 1_000  # in the log when it is written back to the file
_FIRST: Final = 16  # pages, from which on there is room ahead: who writes little needs none
_SPARE: Final = 16  # pages that there is room for, at least
_MOST: Final = 2**20  # bytes of room made at once
_HEAD, _FRAME_HEAD = 32, 24  # bytes


class Log:
    """The log of one writing connection: told of each commit, it does what is due. Used by one thread at a time."""

    def __init__(self, db: apsw.Connection, place: Place) -> None:
        self._path = place.path + "-wal"
        self._frame = _FRAME_HEAD + int(db.pragma("page_size"))
        self._pages = 0
        self._size = 0  # at least, of the file: bytes
        db.set_wal_hook(self._committed)

    def _committed(self, db: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._pages:
            self._size = 0  # begun anew; it may have been cut
        self._pages = pages
        if pages >= _PAGES:
            with contextlib.suppress(apsw.Error):  # somebody reads: the next commit may do it
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        elif pages >= _FIRST and _HEAD + (pages + _SPARE) * self._frame > self._size:
            self._make_room()
        return apsw.SQLITE_OK

    def _make_room(self) -> None:
        with contextlib.suppress(OSError):  # a commit that needs it will say so
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                self._size = os.fstat(descriptor).st_size
                if _HEAD + (self._pages + _SPARE) * self._frame > self._size:
                    self._size += os.write(descriptor, bytes(min(self._size, _MOST)))
            finally:
                os.close(descriptor)


def keep_short(db: apsw.Connection, place: Place) -> None:
    """Begin the log anew if it has grown.

    SQLite does so by itself as soon as nobody reads from it for a moment. Where somebody always does, that moment never
    comes: then it is made, by letting readers wait for the end of those before them.
    """
    with contextlib.suppress(apsw.Error, OSError):  # somebody reads for longer, say: the next sweep may do it
        if Path(place.path + "-wal").stat().st_size > 2 * KEPT:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
