"""Finding the function to run: `module:name`, or `path/to/file.py:name`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click


class Named:
    """The function that *spec* names, as a job for any kind of pool: in another process it is found anew.

    *star*: a list is spread over arguments, an object's items over keywords; all else is the one argument.
    """

    def __init__(self, spec: str, *, star: bool = False, coroutine: bool = False) -> None:
        self._spec = spec
        self._star = star
        self._function = find_function(spec, coroutine=coroutine)
        self.__qualname__ = getattr(self._function, "__qualname__", type(self._function).__qualname__)

    def __reduce__(self) -> tuple[object, ...]:
        return _named_over_there, (self._spec, self._star)

    @property
    def function(self) -> Callable[..., object]:
        """The function itself."""
        return self._function

    def __call__(self, value: object) -> Any:
        """Call it with one input; what a coroutine function gives is its caller's to await."""
        if self._star and isinstance(value, list):
            return self._function(*value)
        if self._star and isinstance(value, dict):
            return self._function(**value)
        return self._function(value)


@functools.cache
def _named_over_there(spec: str, star: bool) -> Named:
    return Named(spec, star=star)


def find_function(spec: str, *, coroutine: bool = False) -> Callable[..., Any]:
    """The function that *spec* names, fit to be run as a job: a plain one, or with *coroutine* a coroutine function.

    Raises `click.UsageError`, in one line, for everything that is wrong with it.
    """
    function: Callable[..., Any] = find_object(spec, "FUNCTION")
    if not callable(function):
        raise click.UsageError(f"{spec} is not a function: it is of type {type(function).__name__}")
    if not coroutine:
        _refuse_unless_plain(function, spec)
    elif not inspect.iscoroutinefunction(function):
        raise click.UsageError(f"{spec} is no coroutine function, which --asyncio runs: use --threads or --processes")
    return function


def find_object(spec: str, metavar: str) -> Any:
    """What *spec* names; *metavar* is what the usage calls it.

    Imports the module or runs the file, with the current folder (or the file's) first on `sys.path`. The name may have
    dots, as in `module:Class.method`. Raises `click.UsageError`, in one line, for everything that is wrong with it.
    """
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        raise click.UsageError(f"{metavar} is module:name or path/to/file.py:name, not {spec!r}")
    return _named(_load(place), name, place)


def refuse_unless_one_argument(function: Callable[..., object], spec: str) -> None:
    """Raise `click.UsageError` if *function* can't be called with one argument, as far as its signature tells."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # many builtins have none
        return
    try:
        signature.bind(object())
    except TypeError:
        raise click.UsageError(
            f"{spec}{signature} can't be called with one argument; --star spreads a JSON list or object over several"
        ) from None


def _load(place: str) -> ModuleType:
    if place.endswith(".py"):
        return _load_file(Path(place))
    if any(not part.isidentifier() for part in place.split(".")):
        raise click.UsageError(f"{place!r} is neither a module's name nor a path that ends in .py")
    with contextlib.suppress(FileNotFoundError):  # somebody has removed the folder that we are in
        _put_first_on_path(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):  # not one that it imports in turn
            raise click.UsageError(f"there is no module {error.name!r} here or on the import path") from None
        raise _import_failed(place, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_failed(place, error) from error


def _load_file(path: Path) -> ModuleType:
    try:
        if not path.is_file():
            raise click.UsageError(f"there is no file {str(path)!r}")
        folder = path.parent.resolve()
    except OSError as error:  # a name too long, a folder that nobody may look into
        raise click.UsageError(f"can't read {str(path)!r}: {error.strerror}") from None
    # As `python path/to/file.py` would: its neighbours can be imported, and it is not its own __main__.
    _put_first_on_path(folder)
    name = path.stem if path.stem not in sys.modules else f"_penstock_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # pragma: no cover - a name in .py always has a loader
        raise click.UsageError(f"{str(path)!r} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failed(str(path), error) from error
    return module


def _put_first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failed(place: str, error: BaseException) -> click.UsageError:
    return click.UsageError(f"importing {place} failed: {type(error).__name__}: {error}")


def _named(module: ModuleType, name: str, place: str) -> object:
    found: object = module
    for part in name.split("."):
        try:
            has_it = hasattr(found, part)
        except Exception as error:  # a module may make its names when they are asked for
            raise _import_failed(f"{place}:{name}", error) from error
        if not has_it:
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"{place} has no {name!r}{hint}")
        found = getattr(found, part)
    return found


def _refuse_unless_plain(function: Callable[..., object], spec: str) -> None:
    # An object with a __call__ is judged by that; a class is called to make an instance, which is plain enough.
    for code in (function,) if inspect.isclass(function) else (function, type(function).__call__):
        if inspect.iscoroutinefunction(code):
            raise click.UsageError(
                f"{spec} is a coroutine function, and threads and processes run plain ones: run it with --asyncio N"
            )
        if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise click.UsageError(
                f"{spec} is a generator function, and a job gives one result: name a function that returns a list"
            )
