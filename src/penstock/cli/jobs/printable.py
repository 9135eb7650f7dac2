"""What comes out of a store, made harmless: a terminal shows it and obeys none of it."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from penstock.engines.requests import Error

Json = Any

SHORT: Final = 76  # characters
DEEPEST: Final = 100  # lists within lists


def one_line(text: str) -> str:
    """*text* on one line; what can't be printed, a line's end too, stands there as an escape."""
    return text if text.isprintable() else "".join(map(_shown, text))


def lines(text: str) -> list[str]:
    """The lines of *text*, each as `one_line`, without blank ones at the end."""
    return [one_line(line) for line in text.replace("\r\n", "\n").expandtabs(4).rstrip("\n").split("\n")]


def first_line(text: str) -> str:
    """The first line of *text*, with a mark if there are more."""
    first, *more = lines(text.strip("\n"))
    return f"{first} …" if more else first


def said_error(error: Error) -> str:
    """The type of *error*, without its module, and its message, on one line."""
    message = first_line(error.message)
    return one_line(error.type).rpartition(".")[2] + (f": {message}" if message else "")


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # spaces of all languages do no harm
        return character
    return character.encode("unicode_escape").decode()


def parsed(stored: bytes | None) -> tuple[Json, str | None]:
    """The JSON value of *stored*; or None, and the text as it is, if it has none that can be passed on."""
    if stored is None:
        return None, None
    try:
        return _not_too_deep(json.loads(stored, parse_constant=_number, parse_float=_number)), None
    except (ValueError, RecursionError):
        return None, stored.decode(errors="backslashreplace")


def _not_too_deep(value: Json) -> Json:
    """*value*, if it can be written again, and in a time and a space that a person can bear."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for outer in level for part in _parts(outer)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _parts(value: Json) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):  # NaN, or too large: neither could be written again
        raise ValueError(f"{text} is no number of JSON")
    return number


def pretty(stored: bytes) -> list[str]:
    """The JSON of *stored* as lines for people, one if it is short; as it is if it is none."""
    value, raw = parsed(stored)
    if raw is not None:
        return lines(raw)
    text = json.dumps(value, ensure_ascii=False)
    return lines(text if len(text) <= SHORT else json.dumps(value, indent=2, ensure_ascii=False))
