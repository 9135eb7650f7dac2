"""Connections to the file, and what its errors mean to those who asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from penstock.engines.sqlite.place import Place
from penstock.errors import StoreInvalid, StoreUnavailable

_PASSING: Final = {  # nothing was changed, and the cause may go away
    apsw.BusyError: "another program keeps it locked",
    apsw.LockedError: "another program keeps it locked",
    apsw.ProtocolError: "another program keeps it locked",
    apsw.FullError: "the disk is full",
    apsw.ReadOnlyError: "it is read-only",
    apsw.CantOpenError: "it can't be opened",
    apsw.PermissionsError: "it may not be opened",
    apsw.AuthError: "it may not be opened",
    apsw.IOError: "disk I/O error",
    apsw.NoMemError: "there is no memory left",
    apsw.NoLFSError: "it is too large for this system",
}
_LASTING: Final = {
    apsw.CorruptError: "it is damaged",
    apsw.NotADBError: "it is no SQLite database, or is damaged",
    apsw.SQLError: "its tables are not what they should be",
    apsw.FormatError: "it is damaged",
}
OF_THE_STORE: Final[tuple[type[Exception], ...]] = (*_PASSING, *_LASTING, OSError, StoreUnavailable, StoreInvalid)
"""Errors that are not about what was asked."""


def connect(place: Place, *, create: bool = False) -> apsw.Connection:
    """A connection for writing. Raises what `translated` turns into our errors."""
    path = Path(place.path)
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise StoreUnavailable(place.url, f"there is no folder {folder}")
        if not create:
            raise StoreUnavailable(place.url, "the file is gone: it was moved or deleted")
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(place.path, flags=flags)
    try:
        if db.readonly("main"):
            raise apsw.ReadOnlyError
        db.set_busy_timeout(5_000)
        db.execute("PRAGMA trusted_schema = OFF; PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def identity(place: Place) -> tuple[int, int] | None:
    """Which file is there now; None for none."""
    try:
        stat = Path(place.path).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """A block whose errors of the store come out as ours."""
    try:
        yield
    except apsw.Error as error:
        for kinds, ours in ((_PASSING, StoreUnavailable), (_LASTING, StoreInvalid)):
            why = kinds.get(type(error))
            if why is not None:
                detail = f" ({error})" if str(error) else ""
                raise ours(place.url, why + detail) from error
        raise
    except OSError as error:
        raise StoreUnavailable(place.url, f"{error.strerror or error}: {error.filename or place.folder}") from error
