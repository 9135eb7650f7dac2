"""Finding an app by what its users call it: `module:app`, or `path/to/file.py:app`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from penstock.app.app import App
from penstock.errors import PenstockError


class AppNotFound(PenstockError):
    """No app is found by that name, or none that can be served. The `__cause__`: what its module raised."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"{self.name!r} can't be served: {self.why}"

    @property
    def where(self) -> str:
        """Where its module failed, from the first line of it on; empty if it didn't."""
        error = self.__cause__
        if error is None:
            return ""
        lines = traceback.StackSummary.extract(
            (frame, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename != __file__ and "importlib" not in frame.f_code.co_filename
        )
        return "".join([*lines.format(), *traceback.format_exception_only(error)]).rstrip()


@functools.cache
def find_app(name: str) -> App:
    """The app of that name, its module imported. Raises `AppNotFound`, which says what is wrong."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise AppNotFound(name, "write module:app or path/to/file.py:app")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except AppNotFound as error:
        raise AppNotFound(name, error.why) from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AppNotFound(name, f"importing {place} failed: {type(error).__name__}: {error}") from error
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        what = f"no {attribute!r}" if found is None else f"no App in {attribute!r}, but {type(found).__name__}"
        apps = [other for other, value in vars(module).items() if isinstance(value, App)]
        meant = f"; did you mean {place}:{apps[0]}?" if apps else ""
        raise AppNotFound(name, f"there is {what} in {place}{meant}")
    return found


def find_app_to_serve(name: str) -> App:
    """As `find_app`; raises `AppNotFound` also of one that a worker service can do nothing for."""
    app = find_app(name)
    if app.url.startswith("memory:"):
        raise AppNotFound(
            name, "its jobs are in memory://, where no other process sees them; sqlite:///jobs.db is a file"
        )
    try:
        _ = app.store  # makes an engine, and opens nothing
    except (ValueError, ImportError) as error:
        raise AppNotFound(name, str(error)) from None
    if not app.tasks:
        raise AppNotFound(name, "it has no tasks; name the module that makes them, or import it there")
    for task in app.tasks.values():
        try:
            task.check()
        except (TypeError, NameError) as error:
            raise AppNotFound(name, str(error)) from None
    return app


def _from_path(place: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):  # not one that it imports in turn
            raise AppNotFound(place, f"there is no module {error.name!r} in {here} or on the import path") from None
        raise


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise AppNotFound(str(path), f"there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python has it for a script
    return importlib.import_module(path.stem)
