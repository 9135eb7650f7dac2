"""Whether what arrives is what was sent: the same value of the same type, all the way down."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import reprlib
from collections.abc import Iterable
from typing import Any, Final

PLAIN: Final = frozenset({str, int, bool, bytes, type(None)})
"""Types whose values are equal only to their like, so that `==` says everything."""

_SEQUENCES: Final = (list, tuple, set, frozenset)
_BUILT_IN: Final = (str, int, float, bytes, list, tuple, dict, set, frozenset)
_WIDENED: Final = (*_BUILT_IN, datetime.datetime, datetime.date, datetime.time, datetime.timedelta)


def difference(sent: Any, arrived: Any, *, loose: bool = False, path: str = "$") -> str | None:
    """Where, and how, *arrived* is not what was sent, in words; None if nothing differs.

    An int may arrive as a float, and a value of a subclass of a built-in type as the built-in. *loose*: the type hints
    don't say which kind of sequence it is: a tuple or a set may arrive as a list.
    """
    kind, other = type(sent), type(arrived)
    if kind is other:
        if kind in PLAIN:
            return None if sent == arrived else _unlike(sent, arrived, path)
    elif loose and isinstance(sent, _SEQUENCES) and isinstance(arrived, _SEQUENCES):
        return _of_items(list(sent), list(arrived), loose, path)
    elif not _may_widen(sent, arrived):
        return _unlike(sent, arrived, path)
    if isinstance(arrived, list | tuple):
        return _of_items(sent, arrived, loose, path)
    if isinstance(arrived, dict):
        return _of_dicts(sent, arrived, loose, path)
    if isinstance(arrived, set | frozenset):
        return _of_sets(sent, arrived, loose, path)
    if kind is other and (names := _fields(arrived)) is not None:
        return _first(
            difference(getattr(sent, name, None), getattr(arrived, name, None), loose=loose, path=f"{path}.{name}")
            for name in names
        )
    return None if _is_equal(sent, arrived) else _unlike(sent, arrived, path)


def _may_widen(sent: Any, arrived: Any) -> bool:
    other = type(arrived)
    if other is float and type(sent) is int:
        return True
    return isinstance(sent, other) and (other in _WIDENED or _is_path(other))


def _is_path(kind: type) -> bool:
    return kind.__module__.startswith("pathlib")


def _of_items(sent: Any, arrived: Any, loose: bool, path: str) -> str | None:
    if len(sent) != len(arrived):
        return _unlike(sent, arrived, path)
    if _is_plain(sent, arrived):
        return None if list(sent) == list(arrived) else _unlike(sent, arrived, path)
    pairs = enumerate(zip(sent, arrived, strict=True))
    return _first(difference(a, b, loose=loose, path=f"{path}[{at}]") for at, (a, b) in pairs)


def _of_dicts(sent: Any, arrived: Any, loose: bool, path: str) -> str | None:
    keys = {key: key for key in arrived}
    if len(sent) != len(arrived) or not all(key in keys for key in sent):
        return _unlike(sent, arrived, path)
    if _is_plain(sent, arrived) and _is_plain(sent.values(), arrived.values()):
        return None if sent == arrived else _unlike(sent, arrived, path)
    return _first(
        difference(key, keys[key], path=f"key of {path}")
        or difference(value, arrived[key], loose=loose, path=f"{path}[{key!r}]")
        for key, value in sent.items()
    )


def _of_sets(sent: Any, arrived: Any, loose: bool, path: str) -> str | None:
    if sent != arrived:
        return _unlike(sent, arrived, path)
    twins = {item: item for item in arrived}
    return _first(difference(item, twins[item], loose=loose, path=f"an item of {path}") for item in sent)


def _is_plain(sent: Iterable[Any], arrived: Iterable[Any]) -> bool:
    """Whether nothing is in them but plain values: then one comparison tells all."""
    kinds = set(map(type, sent))
    return kinds <= PLAIN and kinds == set(map(type, arrived))


def _is_equal(sent: Any, arrived: Any) -> bool:
    if isinstance(sent, datetime.datetime | datetime.time):  # in a fold, times of two zones are never equal
        same_time = sent.replace(tzinfo=None, fold=0) == arrived.replace(tzinfo=None, fold=0)
        return bool(same_time and sent.utcoffset() == arrived.utcoffset())
    if isinstance(sent, decimal.Decimal):  # one that is no number is equal to nothing, or won't be compared at all
        return str(sent) == str(arrived)
    return bool(sent == arrived)


def _fields(value: Any) -> Iterable[str] | None:
    kind = type(value)
    if isinstance(value, enum.Enum):
        return None
    if hasattr(kind, "__struct_fields__"):
        return tuple(kind.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.compare]
    if hasattr(kind, "model_fields"):
        return [*kind.model_fields, *(getattr(value, "model_extra", None) or ())]
    return None


def _first(found: Iterable[str | None]) -> str | None:
    return next((text for text in found if text is not None), None)


def _unlike(sent: Any, arrived: Any, path: str) -> str:
    return (
        f"`{type(sent).__qualname__}` would arrive as `{type(arrived).__qualname__}`: "
        f"{reprlib.repr(sent)} as {reprlib.repr(arrived)} - at `{path}`"
    )
