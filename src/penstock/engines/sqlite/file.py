"""The file as this process knows it, and the folder beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.engines.sqlite.names import Names
from penstock.engines.sqlite.place import Place

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class File:
    """One file: not the same any more if it was deleted and made anew under its name."""

    path: str
    folder: str
    identities: tuple[_Identity, _Identity]
    now: Callable[[], float]
    names: Names = field(default_factory=Names)

    def is_there(self) -> bool:
        """Whether file and folder still are what is found at their place."""
        try:
            return (_identity(self.path), _identity(self.folder)) == self.identities
        except OSError:
            return False


def found(place: Place, now: Callable[[], float]) -> File:
    """The file that is there now."""
    path, folder = place.path, place.folder
    return File(path, folder, (_identity(path), _identity(folder)), now)


def _identity(path: str) -> _Identity:
    stat = os.stat(path)  # noqa: PTH116 - before each transaction: a Path takes twice as long
    return stat.st_dev, stat.st_ino
