"""Finding an app by what its users call it: `module:app`, or `path/to/file.py:app`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from penstock.app.app import App
from penstock.errors import PenstockError


class AppNotFound(PenstockError):
    """No app is found by that name. The error of its import, if there was one, is the `__cause__`."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"no app is found by the name {self.name!r}: {self.why}"


@functools.cache
def find_app(name: str) -> App:
    """The app of that name, its module imported. Raises `AppNotFound`, which says what is wrong."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise AppNotFound(name, "write module:app or path/to/file.py:app")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except AppNotFound:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AppNotFound(name, f"importing {place} failed: {type(error).__name__}: {error}") from error
    found = module
    for part in attribute.split("."):
        found = getattr(found, part, None)  # type: ignore[assignment]
    if not isinstance(found, App):
        what = "nothing" if found is None else f"{type(found).__name__}, not an App,"
        raise AppNotFound(name, f"{place} has {what} under {attribute!r}")
    return found


def _from_path(place: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(place)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise AppNotFound(str(path), "there is no such file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python has it for a script
    return importlib.import_module(path.stem)
