"""The file as this process knows it, and the folder beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.engines.sqlite.names import Names
from penstock.engines.sqlite.place import Place

Identity = tuple[int, int]
"""What tells a file from another that has its name."""


@dataclass(frozen=True, slots=True)
class File:
    """One file: not the same any more if it was deleted and made anew under its name."""

    path: str
    folder: str
    identities: tuple[Identity, Identity]
    now: Callable[[], float]
    names: Names = field(default_factory=Names)

    def is_there(self, folder: Identity | None = None) -> bool:
        """Whether file and folder still are what is found at their place. *folder*: what was found there just now."""
        try:
            return (_identity(self.path), folder or _identity(self.folder)) == self.identities
        except OSError:
            return False


def found(place: Place, now: Callable[[], float]) -> File:
    """The file that is there now."""
    path, folder = place.path, place.folder
    return File(path, folder, (_identity(path), _identity(folder)), now)


def _identity(path: str) -> Identity:
    stat = os.stat(path)  # noqa: PTH116 - before each transaction: a Path takes twice as long
    return stat.st_dev, stat.st_ino
