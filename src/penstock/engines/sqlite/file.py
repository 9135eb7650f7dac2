"""The file as this process knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.engines.sqlite.connection import identity
from penstock.engines.sqlite.names import Names
from penstock.engines.sqlite.place import Place


@dataclass(frozen=True, slots=True)
class File:
    """One file: not the same any more if it was deleted and made anew under its name."""

    place: Place
    identity: tuple[int, int]
    now: Callable[[], float]
    names: Names = field(default_factory=Names)

    def is_there(self) -> bool:
        """Whether it still is what is found at its place."""
        return identity(self.place) == self.identity
