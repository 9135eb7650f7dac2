"""Connections to the file, and what its errors mean to those who asked."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw

from penstock.engines.sqlite.log import KEPT
from penstock.engines.sqlite.place import Place
from penstock.errors import StoreInvalid, StoreUnavailable

_STATEMENTS: Final = 300  # that stay compiled: of lanes to claim from, above all

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
            raise StoreUnavailable(place.url, f"there is no file {path} (any more)")
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(place.path, flags=flags, statementcachesize=_STATEMENTS)
    try:
        if db.readonly("main"):
            raise apsw.ReadOnlyError
        db.set_busy_timeout(5_000)
        # Plans don't depend on what is bound. Otherwise statements on partial indexes are compiled anew for each call.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        db.execute("PRAGMA trusted_schema = OFF; PRAGMA synchronous = FULL; PRAGMA cache_size = -16000")
        db.pragma("journal_size_limit", KEPT)
    except BaseException:
        db.close()
        raise
    return db


def is_certain(error: apsw.Error) -> bool:
    """Whether a commit that failed with *error* has surely changed nothing.

    Its last page is what makes it count. Once that is written, it may be found after a crash, whatever failed later.
    """
    return isinstance(error, (apsw.BusyError, apsw.FullError)) or (
        isinstance(error, apsw.IOError) and getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_WRITE
    )


class translated:  # noqa: N801 - it reads as the verb that it is, and takes a third of the time of a generator
    """A block whose errors of the store come out as ours."""

    __slots__ = ("_place",)

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, apsw.Error):
            for kinds, ours in ((_PASSING, StoreUnavailable), (_LASTING, StoreInvalid)):
                why = kinds.get(type(error))
                if why is not None:
                    detail = f" ({error})" if str(error) else ""
                    raise ours(self._place.url, why + detail) from error
        elif isinstance(error, OSError):
            why = f"{error.strerror or error}: {error.filename or self._place.folder}"
            raise StoreUnavailable(self._place.url, why) from error
