"""Types that msgspec has no word for and tasks may use all the same: paths, pydantic models, kinds of str and int."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import msgspec


def is_known(kind: Any) -> bool:
    """Whether values of *kind*, which msgspec doesn't know, travel by the hooks of this module."""
    return kind is object or (isinstance(kind, type) and (issubclass(kind, pathlib.PurePath) or is_model(kind)))


def is_model(kind: type) -> bool:
    """Whether it is a pydantic model. Where nobody has imported pydantic, nothing is."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, getattr(pydantic, "BaseModel", ()))


def to_json(value: Any) -> Any:
    """What msgspec encodes in place of *value*."""
    kind = type(value)
    if issubclass(kind, pathlib.PurePath):
        return str(value)
    if is_model(kind):
        return msgspec.Raw(value.model_dump_json(by_alias=True, round_trip=True).encode())
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    raise TypeError(f"`{kind.__qualname__}` has no form in JSON")


def from_json(kind: type, value: Any) -> Any:
    """A *kind* of what came from JSON."""
    if kind is object:
        return value
    if issubclass(kind, pathlib.PurePath):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return kind(value)
    return kind.model_validate_json(msgspec.json.encode(value))  # type: ignore[attr-defined]
