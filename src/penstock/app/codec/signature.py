"""A task's signature, compiled: binds a call as Python would, and gives each parameter its type.

A call is stored as a JSON object by parameter name. A parameter that the caller left to its default isn't in it, so
that one with a default may be added while jobs wait. `*args` and `**kwargs` are kept under those names, stars included.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.app.codec import hooks

_MISSING: Final = inspect.Parameter.empty
_STARS: Final[dict[Any, str]] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_ABSTRACT: Final = frozenset(
    getattr(collections.abc, name) for name in ("Collection", "MutableSequence", "MutableSet", "Sequence", "Set")
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. *key*: its name in JSON. *field*: where the decoded call has it. *loose*: see `difference`."""

    name: str
    key: str
    field: str
    kind: Any
    hint: Any
    default: Any
    loose: bool

    @property
    def is_required(self) -> bool:
        """Whether a call without it is none."""
        return self.default is _MISSING


class Signature:
    """The parameters of *fn*, and the type that it returns.

    Raises NameError while a hint names something that isn't there (yet), and TypeError for what can't be a task's.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(fn, include_extras=True)
        self.parameters = [
            _parameter(place, parameter, hints.get(parameter.name, Any))
            for place, parameter in enumerate(inspect.signature(fn).parameters.values())
        ]
        returns = hints.get("return", Any)
        self.returns = None if returns in (typing.NoReturn, typing.Never) else returns
        _check("what it returns", self.returns)
        self.bind = _binder(getattr(fn, "__qualname__", "the task"), self.parameters)
        self.unbind = _unbinder(self.parameters)
        self.call = _struct(self.parameters)


def _parameter(place: int, parameter: inspect.Parameter, hint: Any) -> Parameter:
    star = _STARS.get(parameter.kind, "")
    default = parameter.default
    if parameter.kind is parameter.VAR_POSITIONAL:
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Unpack else tuple[hint, ...]
        default = ()
    elif parameter.kind is parameter.VAR_KEYWORD:
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Unpack else dict[str, hint]
        default = {}
    _check(f"parameter {parameter.name!r}", hint)
    return Parameter(
        name=parameter.name,
        key=star + parameter.name,
        field=f"_{place}",
        kind=parameter.kind,
        hint=hint,
        default=default,
        loose=_is_loose(hint, set()),
    )


def _struct(parameters: list[Parameter]) -> type[msgspec.Struct]:
    """A struct of all parameters; those that are not in JSON have their defaults."""

    def field(parameter: Parameter) -> Any:
        if parameter.default is _MISSING:
            return (parameter.field, parameter.hint)
        return (parameter.field, parameter.hint, msgspec.field(default_factory=lambda: parameter.default))

    return msgspec.defstruct(
        "Call",
        [field(parameter) for parameter in parameters],
        rename={parameter.field: parameter.key for parameter in parameters},
        forbid_unknown_fields=True,
        kw_only=True,
    )


# Code is made here, as dataclasses do it: a call is bound by Python itself, with its own errors, in a tenth of the time
# that `inspect.Signature.bind` takes. Nothing but names of parameters goes into it.


def _binder(name: str, parameters: list[Parameter]) -> Callable[..., dict[str, Any]]:
    """A function with these parameters that gives {key: value} of those that were given."""
    given, left_out = _unused("given", parameters), _unused("left_out", parameters)
    heads, lines = [], []
    slash = False
    starred = False
    for parameter in parameters:
        has_default = parameter.default is not _MISSING and parameter.kind not in _STARS
        if slash and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            heads.append("/")
        slash = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            heads.append("*")
        starred = starred or parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        heads.append(parameter.key + (f"={left_out}" if has_default else ""))
        keep = f"{given}[{parameter.key!r}] = {parameter.name}"
        if has_default:
            keep = f"if {parameter.name} is not {left_out}: {keep}"
        elif parameter.kind in _STARS:
            keep = f"if {parameter.name}: {keep}"
        lines.append(keep)
    if slash:
        heads.append("/")
    body = "\n    ".join([f"{given} = {{}}", *lines, f"return {given}"])
    made = _made(f"def bind({', '.join(heads)}):\n    {body}", {left_out: object()})["bind"]
    made.__name__ = name.rpartition(".")[2]
    made.__qualname__ = name
    return typing.cast(Callable[..., dict[str, Any]], made)


def _unbinder(parameters: list[Parameter]) -> Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
    """A function that gives the positional and the keyword arguments of a decoded call."""
    positional, named = [], []
    for parameter in parameters:
        value = f"call.{parameter.field}"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named.append(f"{parameter.name!r}: {value}")
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.append(f"**{value}")
        else:
            star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else ""
            positional.append(f"{star}{value}, ")
    made = _made(f"def unbind(call):\n    return ({''.join(positional)}), {{{', '.join(named)}}}", {})["unbind"]
    return typing.cast(Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]], made)


def _made(source: str, names: dict[str, Any]) -> dict[str, types.FunctionType]:
    exec(source, names)
    return names


def _unused(name: str, parameters: list[Parameter]) -> str:
    while any(parameter.name == name for parameter in parameters):
        name += "_"
    return name


# Types


def _check(what: str, hint: Any) -> None:
    """TypeError if values of *hint* can't travel, for *what* it is the hint of."""
    try:
        unknown = next(_unknown(msgspec.inspect.type_info(hint), set()), None)
    except NameError:
        raise
    except Exception as error:
        raise TypeError(f"{what}: {error}") from error
    if unknown is not None:
        raise TypeError(f"{what}: type `{getattr(unknown, '__qualname__', unknown)}` has no form in JSON")


def _unknown(info: Any, seen: set[int]) -> Iterator[Any]:
    """The classes in *info* that nobody knows how to encode."""
    if isinstance(info, msgspec.inspect.CustomType):
        if not hooks.is_known(info.cls):
            yield info.cls
    elif isinstance(info, tuple | list):
        for part in info:
            yield from _unknown(part, seen)
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field) and id(info) not in seen:
        seen.add(id(info))
        for name in info.__struct_fields__:
            if name not in ("default", "default_factory"):
                yield from _unknown(getattr(info, name), seen)


def _is_loose(hint: Any, seen: set[Any]) -> bool:
    """Whether *hint* leaves open somewhere which kind of sequence it means, as Any and Sequence do."""
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return True
    origin = typing.get_origin(hint)
    if origin in _ABSTRACT or hint in _ABSTRACT or hint in (list, tuple, dict, set, frozenset):
        return True
    if origin is typing.Literal:
        return False
    if origin is not None:
        parts = typing.get_args(hint)
        return any(_is_loose(part, seen) for part in (parts[:1] if origin is typing.Annotated else parts))
    if isinstance(hint, type) and hint not in seen and _has_fields(hint):
        seen.add(hint)
        return any(_is_loose(part, seen) for part in typing.get_type_hints(hint, include_extras=True).values())
    return False


def _has_fields(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or any(hasattr(kind, mark) for mark in ("__struct_fields__", "_fields"))
    )
