"""The codec of one task: its calls and results as JSON, checked on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import msgspec

from penstock.app.codec import hooks
from penstock.app.codec.difference import PLAIN, difference
from penstock.app.codec.signature import Signature
from penstock.errors import NotDecodable, NotEncodable

R_co = TypeVar("R_co", covariant=True)

LIMIT: Final = 1024 * 1024  # bytes, of the arguments of one job as JSON, and of a result

_encode: Final = msgspec.json.Encoder(enc_hook=hooks.to_json).encode


class Codec(Generic[R_co]):
    """The codec of *fn*, which goes by the name *task* in errors. Its methods may be called from any thread.

    Raises NameError while a hint names something that isn't there (yet), and TypeError for what can't travel.
    """

    def __init__(self, task: str, fn: Callable[..., Any]) -> None:
        signature = Signature(fn)
        self._task = task
        self._bind = signature.bind
        self._unbind = signature.unbind
        self._parameters = {parameter.key: parameter for parameter in signature.parameters}
        self._fields = {parameter.key: parameter.field for parameter in signature.parameters}
        self._decode_call = msgspec.json.Decoder(signature.call, dec_hook=hooks.from_json).decode
        self._decode_result = msgspec.json.Decoder(signature.returns, dec_hook=hooks.from_json).decode

    def encode_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The call as JSON. Raises TypeError if it doesn't fit the signature, `NotEncodable` if not its types."""
        given = self._bind(*args, **kwargs)
        try:
            data = _encode(given)
            if len(data) > LIMIT:
                self._refuse(_too_large("its arguments take", data))
            call = self._decode_call(data)
        except (NotEncodable, MemoryError):
            raise
        except Exception as error:
            self._refuse(self._blamed(given, error), error)
        fields = self._fields
        for key, value in given.items():
            arrived = getattr(call, fields[key])
            if value is arrived:
                continue
            kind = type(value)
            if kind in PLAIN and kind is type(arrived) and value == arrived:
                continue
            unlike = difference(value, arrived, loose=self._parameters[key].loose, path=f"$.{key}")
            if unlike is not None:
                self._refuse(unlike)
        return data

    def typed_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call whose arguments are values of JSON, typed at a terminal say, each as its parameter has it.

        Raises TypeError if it doesn't fit the signature, `NotEncodable` if not its types.
        """
        given = self._bind(*args, **kwargs)
        try:
            call = self._decode_call(_encode(given))
        except Exception as error:
            self._refuse(_said(error), error)
        positional, named = self._unbind(call)
        named |= {key: getattr(call, field) for key, field in self._fields.items()}
        return positional[: len(args)], {name: named[name] for name in kwargs}

    def decode_call(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a stored call. Raises `NotDecodable`, which says what was changed."""
        try:
            return self._unbind(self._decode_call(data))
        except Exception as error:
            raise NotDecodable(self._task, self._changed(data, error)) from error

    def encode_result(self, value: Any) -> bytes:
        """What the task returned, as JSON. Raises `NotEncodable` if it isn't what the return annotation promises."""
        if value is None:
            data = b"null"
        else:
            try:
                data = _encode(value)
            except MemoryError:
                raise
            except Exception as error:
                self._refuse(f"its result can't be kept: {_said(error)}", error)
        if len(data) > LIMIT:
            self._refuse(_too_large("its result takes", data))
        try:
            arrived = self._decode_result(data)
        except Exception as error:
            self._refuse(f"its result is not what its annotation promises: {_said(error)}", error)
        kind = type(value)
        if kind not in PLAIN or kind is not type(arrived) or value != arrived:
            unlike = difference(value, arrived, loose=True)
            if unlike is not None:
                self._refuse(f"its result is not what its annotation promises: {unlike}")
        return data

    def decode_result(self, data: bytes) -> R_co:
        """A stored result, of the type that the task returns. Raises `NotDecodable`."""
        try:
            return cast(R_co, self._decode_result(data))
        except Exception as error:
            raise NotDecodable(self._task, f"the stored result is not what it returns now: {_said(error)}") from error

    def defaults(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call as the function will get it: what was left out has its default."""
        return self.decode_call(self.encode_call(args, kwargs))

    def _refuse(self, why: str, cause: BaseException | None = None) -> NoReturn:
        raise NotEncodable(self._task, why) from cause

    def _blamed(self, given: Mapping[str, Any], error: Exception) -> str:
        """What is wrong, and with which parameter: msgspec names it only where it decodes."""
        if isinstance(error, msgspec.ValidationError):
            return _said(error)
        for key, value in given.items():
            try:
                _encode(value)
            except Exception as at_fault:
                return f"{_said(at_fault)} - at `$.{key}`"
        return _said(error)

    def _changed(self, data: bytes, error: Exception) -> str:
        """What has changed since the call was stored."""
        try:
            stored = msgspec.json.decode(data)
        except msgspec.DecodeError:
            return f"its stored arguments are damaged: {_said(error)}"
        if isinstance(stored, dict):
            gone = [key for key in stored if key not in self._parameters]
            if gone:
                return f"it was enqueued with {_named(gone)}, which the task doesn't take (any more)"
            new = [key for key, parameter in self._parameters.items() if key not in stored and parameter.is_required]
            if new:
                return f"it was enqueued without {_named(new)}, which the task can't do without (now)"
        return f"its stored arguments don't fit the type hints (any more): {_said(error)}"


def decode_untyped(data: bytes) -> Any:
    """A stored value as JSON has it, where nobody knows its type."""
    return msgspec.json.decode(data)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers of a job as they are stored. TypeError if they are not strings."""
    if not isinstance(headers, Mapping) or not all(isinstance(part, str) for pair in headers.items() for part in pair):
        raise TypeError(f"headers must be a mapping of strings to strings, not {headers!r}")
    data = _encode(dict(headers))
    if len(data) > LIMIT:
        raise ValueError(_too_large("headers take", data))
    return data


def decode_headers(data: bytes | None) -> dict[str, str]:
    """The headers of a stored job."""
    return {} if data is None else msgspec.json.decode(data, type=dict[str, str])


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _named(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _too_large(what: str, data: bytes) -> str:
    return f"{what} {len(data):,} bytes as JSON, more than {LIMIT:,}: keep it elsewhere, and pass where it is"
