"""The folder beside the file: locks and sockets, each a small file with nothing in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from penstock.engines.sqlite.place import Place

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def make(place: Place) -> None:
    """Make the folder if it isn't there."""
    Path(place.folder).mkdir(exist_ok=True)


def opened(path: str, *, create: bool = True) -> int:
    """A descriptor of the lock file *path*, of its own: what is locked by it is free once it and its copies close."""
    return os.open(path, _FLAGS if create else os.O_RDWR | os.O_CLOEXEC, 0o666)


def locked_now(descriptor: int) -> bool:
    """Whether the lock is ours, by now or before. Never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
