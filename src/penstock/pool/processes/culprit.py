"""Which part of a value can't be pickled: the path to it, as one would write it down."""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock.pool.processes import main

_PROTOCOL: Final = pickle.HIGHEST_PROTOCOL
_DEEPEST: Final = 12  # steps into a value that the search goes
_MOST: Final = 2_000  # parts that it looks at
_LONGEST: Final = 60  # characters of a key


def culprit(value: Any, name: str) -> str | None:
    """The path to the innermost part of *value*, called *name*, that can't cross; None if all can, taken alone."""
    if can_cross(value):
        return None
    looked = 0
    for _ in range(_DEEPEST):
        for place, part in _parts(value, name):
            looked += 1
            if looked > _MOST:
                return f"{name} ({type(value).__qualname__})"
            if not can_cross(part):
                value, name = part, place
                break
        else:
            break
    return f"{name} ({type(value).__qualname__})"


def can_cross(value: Any) -> bool:
    """Whether *value* can be pickled by name and by what it holds."""
    packed = io.BytesIO()
    try:
        pickle.Pickler(packed, _PROTOCOL).dump(value)
    except Exception:
        return False
    return not (main.is_only_here() and b"__main__" in packed.getvalue())


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What pickle would look at next inside of *value*."""
    kind = type(value)
    if kind is dict:
        for key, part in list(value.items()):
            yield f"{name}: the key {_shown(key)}", key
            yield f"{name}[{_shown(key)}]", part
    elif kind in (list, tuple):
        for number, part in enumerate(value):
            yield f"{name}[{number}]", part
    elif kind in (set, frozenset):
        for part in value:
            yield f"{name}: the item {_shown(part)}", part
    elif kind is functools.partial:
        yield f"{name}.func", value.func
        yield from _parts(value.args, f"{name}.args")
        yield from _parts(value.keywords, f"{name}.keywords")
    elif kind is types.MethodType:
        yield f"{name}.__self__", value.__self__
    elif kind is types.FunctionType:
        yield from _closure(value, name)
    else:
        yield from _reduced(value, name)


def _closure(fn: types.FunctionType, name: str) -> Iterator[tuple[str, Any]]:
    """What a function holds that goes by value: it is asked about only if it can't go by name."""
    for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            held = cell.cell_contents
        except ValueError:  # it has nothing yet
            continue
        yield f"{name}: its variable {variable}", held
    for number, default in enumerate(fn.__defaults__ or ()):
        yield f"{name}.__defaults__[{number}]", default


def _reduced(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The parts of an object, as it gives them to pickle itself: what it leaves out is not to blame."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        reduced: Any = value.__reduce_ex__(_PROTOCOL) if reduce is None else reduce(value)
    except Exception:
        return  # it is itself what can't be pickled
    if not isinstance(reduced, tuple):
        return
    _, args, state, items, pairs = (*reduced, None, None, None, None)[:5]
    if isinstance(value, BaseException):
        yield from _parts(value.args, f"{name}.args")
    elif reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        for number, part in enumerate(args or ()):
            yield f"{name}: number {number} of what __reduce__ gives", part
    slots: Any = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    for held in (state, slots):
        if isinstance(held, Mapping):
            yield from ((f"{name}.{attribute}", part) for attribute, part in list(held.items()))
        elif held is not None:
            yield f"{name}: its state", held
    for number, part in enumerate(items or ()):
        yield f"{name}[{number}]", part
    for key, part in pairs or ():
        yield f"{name}: the key {_shown(key)}", key
        yield f"{name}[{_shown(key)}]", part


def _shown(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__qualname__}>"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
