"""What crosses the border between processes, as bytes; and what to say of what can't.

Both sides use the standard pickle. What it can't take (a lambda, a closure, a function of a `__main__` that the other
side can't import) goes by cloudpickle where that is installed.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib.util
import pickle
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from penstock import raised
from penstock.errors import NotPicklable
from penstock.job import Job
from penstock.pool.mapping import EachOf
from penstock.pool.processes import main
from penstock.pool.processes.culprit import culprit
from penstock.pool.processes.memory import Memory, box, dumps

_PROTOCOL: Final = pickle.HIGHEST_PROTOCOL

NOTHING: Final = pickle.dumps(None, _PROTOCOL)
"""The result of a function that returns none, as most that are called for what they do."""


class RemoteTraceback(Exception):
    """The traceback of an error that was raised in another process: its text, as the `__cause__` of the error here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def tb(self) -> str:
        """The text, by its name in `concurrent.futures`."""
        return self.text

    def __str__(self) -> str:
        return f"\n'''\n{self.text.rstrip()}\n'''"


class Parcel:
    """The call of one job, packed when it was accepted: what the caller changes later does not reach the job."""

    __slots__ = ("_kept", "_values", "call", "function", "memory")

    def __init__(self, job: Job[Any], fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.memory: Memory | None = None
        function = _known.get(fn) if type(fn) is FunctionType or _is_name(fn) else b""
        self.function: bytes = _remember(fn) if function is None else function
        if not self.function:
            self.call, self.memory = pack_call(fn, args)
        elif args:
            self.call, self.memory = pack_args(fn, args)
        else:
            self.call = b""
        context = job._context
        self._values: bytes | None = None
        if context is not None and context.values:
            try:
                self._values = pickle.dumps(dict(context.values), _PROTOCOL)
            except Exception as error:
                what = "the values of its context"
                raise NotPicklable(
                    f"{culprit(dict(context.values), what) or what}: {raised.sentence(error)}"
                ) from error

    def keep(self, args: tuple[Any, ...]) -> None:
        """Keep the arguments for the first attempt, which runs here: iterating gives them."""
        self._kept = args

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)

    def extra(self, job: Job[Any]) -> bytes:
        """What *job* has beyond its call, as `Extra`'s fields; empty if nothing."""
        terms, context = job._terms, job._context
        if context is None and terms.timeout is None and terms.id is None and terms.name is None:
            return b""
        deadline = None if context is None else context.deadline
        return pickle.dumps((terms.id, terms.name, deadline, terms.timeout, self._values), _PROTOCOL)


_known: dict[Callable[..., Any], bytes] = {}  # functions of modules, packed; empty for those that go with their call
_MOST_KNOWN: Final = 256


def _is_name(fn: Any) -> bool:
    """Whether *fn*, which is no plain function, crosses by a name all the same."""
    kind = type(fn)
    if kind is BuiltinFunctionType:
        return type(fn.__self__) is ModuleType  # else it is bound to an object, which goes along
    return kind is EachOf and type(fn.fn) is FunctionType


def _remember(fn: Callable[..., Any]) -> bytes:
    """*fn* packed, if it is one that the other side can import; else nothing."""
    try:
        packed = pickle.dumps(fn, _PROTOCOL)
    except Exception:
        packed = b""
    if b"__main__" in packed and main.is_only_here():
        packed = b""
    if packed:  # a name: whatever else *fn* holds is held by its module
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[fn] = packed
    return packed


def pack_args(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bytes, Memory | None]:
    """The arguments of a call as bytes, and their large buffers; NotPicklable names what can't cross."""
    try:
        packed, memory = dumps(box(args), _PROTOCOL)
    except Exception as error:
        return pickle.dumps(_Whole(_pack_by_value((fn, args), error)), _PROTOCOL), None
    if b"__main__" in packed and main.is_only_here():
        return pickle.dumps(_Whole(_pack_by_value((fn, args), None)), _PROTOCOL), None
    return packed, memory


class _Whole:
    """Arguments that had to go by value: over there they are the arguments again."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        return _args_of, (self._packed,)


def _args_of(packed: bytes) -> tuple[Any, ...]:
    args: tuple[Any, ...] = pickle.loads(packed)[1]
    return args


class Functions:
    """Functions that came once, by what they were packed into."""

    def __init__(self) -> None:
        self._known: dict[bytes, Callable[..., Any]] = {}

    def unpack(self, packed: bytes) -> Callable[..., Any]:
        """The function."""
        fn = self._known.get(packed)
        if fn is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            fn = self._known[packed] = pickle.loads(packed)
        return fn


def pack_call(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bytes, Memory | None]:
    """A call as bytes, and its large buffers; NotPicklable names what can't cross."""
    try:
        packed, memory = dumps((fn, box(args)), _PROTOCOL)
    except Exception as error:
        return _pack_by_value((fn, args), error), None
    if b"__main__" in packed and main.is_only_here():
        return _pack_by_value((fn, args), None), None
    return packed, memory


class Later:
    """What a new worker is given, to be unpickled when that can be done: see `open`.

    It is pickled while the worker is started, so that it may hold what crosses only then: queues, locks, pipes.
    """

    def __init__(self, parts: dict[str, Any], packed: bytes = b"") -> None:
        self._parts = parts
        self._packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        return Later, ({}, _pack_for_start(self._parts))

    def open(self) -> dict[str, Any]:
        """In the worker: the parts."""
        parts: dict[str, Any] = pickle.loads(self._packed)
        return parts


def _pack_for_start(parts: dict[str, Any]) -> bytes:
    why: Exception | None = None
    try:
        packed = bytes(ForkingPickler.dumps(parts, _PROTOCOL))
    except Exception as error:
        why = error
    else:
        if not (b"__main__" in packed and main.is_only_here()):
            return packed
    try:
        return _by_value(parts)
    except Exception as error:
        why = error if why is None or _cloudpickle() is not None else why
    raise _refused(parts, "what a worker starts with", why) from why


def pack_result(value: Any) -> tuple[bytes, Memory | None]:
    """A result as bytes, and its large buffers; NotPicklable names what can't cross."""
    try:
        return dumps(box(value), _PROTOCOL)
    except Exception as error:
        with contextlib.suppress(Exception):
            return _by_value(value), None
        where = culprit(value, "the result") or "the result"
        raise NotPicklable(f"{where}: {raised.sentence(error)}") from error


def is_plain(packed: bytes) -> bool:
    """Whether unpickling *packed*, which the C pickler made, calls nothing: it then holds only built-in types."""
    # The opcode STACK_GLOBAL, by which protocol 4 and later name everything that is called. A false alarm does no harm.
    return b"\x93" not in packed and not copyreg._inverted_registry  # type: ignore[attr-defined]


def pack_error(error: BaseException) -> bytes:
    """An error and the text of its traceback; a stand-in where the error itself can't make the journey."""
    text = _text_of(error)
    try:
        try:
            packed = pickle.dumps((error, text), _PROTOCOL)
        except Exception:
            packed = _by_value((error, text))
        arrived = pickle.loads(packed)[0]
        if type(arrived) is type(error):
            return packed
        why = f"it arrives as {type(arrived).__qualname__}"
    except BaseException as trouble:  # it is the user's code that pickles and unpickles it
        why = raised.sentence(trouble)
    stand_in = NotPicklable(f"{raised.sentence(error)} (the error itself can't cross: {why})")
    return pickle.dumps((stand_in, text), _PROTOCOL)


def unpack_error(packed: bytes) -> BaseException:
    """The error, with the traceback of the other process as its cause."""
    try:
        error, text = pickle.loads(packed)
    except BaseException as trouble:
        return NotPicklable(f"what the job raised can't be unpickled: {raised.sentence(trouble)}")
    if not isinstance(error, BaseException):
        return NotPicklable(f"what the job raised arrives as {raised.shown(error)}")
    raised.set_cause(error, RemoteTraceback(text))
    return error


def _pack_by_value(call: tuple[Any, ...], why: Exception | None) -> bytes:
    try:
        return _by_value(call)
    except Exception as error:
        why = error if why is None or _cloudpickle() is not None else why
    fn, args = call
    while hasattr(fn, "func") and hasattr(fn, "keywords"):  # a partial, as keywords make one
        args = (*fn.args, *fn.keywords.values(), *args)
        fn = fn.func
    parts = {f"argument {number}": arg for number, arg in enumerate(args)}
    raise _refused({f"the function {getattr(fn, '__qualname__', fn)!r}": fn, **parts}, "the call", why) from why


def _by_value(content: Any) -> bytes:
    """By cloudpickle, which sends functions and classes themselves where pickle sends their names."""
    cloudpickle = _cloudpickle()
    if cloudpickle is None:
        raise pickle.PicklingError("it lives in __main__, which another process can't import here")
    packed: bytes = cloudpickle.dumps(content, _PROTOCOL)
    return packed


def _cloudpickle() -> Any:
    if importlib.util.find_spec("cloudpickle") is None:
        return None
    import cloudpickle

    return cloudpickle


def _refused(parts: dict[str, Any], otherwise: str, why: Exception) -> NotPicklable:
    """The error that names the part which can't cross, or *otherwise* if each can, taken alone."""
    found = (culprit(part, name) for name, part in parts.items())
    where = next((place for place in found if place is not None), otherwise)
    hint = ""
    if _cloudpickle() is None:
        hint = "; functions and classes that another process can't import need cloudpickle: pip install cloudpickle"
    reason = str(why) if type(why) is pickle.PicklingError else raised.sentence(why)
    return NotPicklable(f"{where}: {reason}{hint}")


def _text_of(error: BaseException) -> str:
    return raised.printed(error) or raised.sentence(error)
