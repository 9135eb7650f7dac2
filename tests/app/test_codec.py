"""What is enqueued arrives as it was, in value and in type, or is refused there and then."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import http
import json
import pathlib
import threading
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NewType, NoReturn, NotRequired, TypedDict, TypeVar, Unpack

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.app.codec.codec import LIMIT, Codec, decode_headers, decode_untyped, encode_headers
from penstock.errors import NotDecodable, NotEncodable
from tests.ids import told

T = TypeVar("T")


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass(frozen=True)
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class ByIdentity:
    name: str


class Parcel(msgspec.Struct):
    weight: float
    labels: set[str]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Word(enum.StrEnum):
    YES = "yes"


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    quality: int
    lossless: NotRequired[bool]


class Customer(pydantic.BaseModel):
    name: str
    since: datetime.date
    nick: str | None = pydantic.Field(default=None, alias="nickName")


class StrictCustomer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    since: datetime.datetime


UserId = NewType("UserId", int)


def of(hint: Any, default: Any = dataclasses.MISSING) -> Codec[Any]:
    """The codec of a task that takes one argument of type *hint* and gives it back."""

    def task(value: Any) -> Any: ...

    task.__annotations__ = {"value": hint, "return": hint}
    if default is not dataclasses.MISSING:
        task.__defaults__ = (default,)
    return Codec("shop.task", task)


def there_and_back(hint: Any, value: Any) -> Any:
    codec = of(hint)
    (arrived,), kwargs = codec.decode_call(codec.encode_call((value,), {}))
    assert kwargs == {}
    return arrived


def berlin(*when: int, fold: int = 0) -> datetime.datetime:
    return datetime.datetime(*when, fold=fold, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))  # type: ignore[misc, arg-type]


# What travels

VALUES: list[tuple[Any, Any]] = [
    (int, 3),
    (int, 10**30),
    (int, -(2**70)),
    (float, 1.5),
    (float, 1e-320),
    (str, "ünïcode \x00 \U0001f600"),
    (bool, True),
    (type(None), None),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (list, [1, "a", None, {"b": [1.5]}]),
    (dict[str, float], {"a": 1.0}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[datetime.date, int], {datetime.date(2026, 2, 28): 1}),
    (dict[uuid.UUID, bytes], {uuid.UUID(int=7): b"x"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (set[int], {1, 2}),
    (frozenset[int], frozenset({1, 2})),
    (int | str | None, "a"),
    (int | str | None, None),
    (int | float, 2.5),
    (Literal["a", 1], 1),
    (UserId, 5),
    (Annotated[int, msgspec.Meta(ge=0)], 5),
    (datetime.datetime, datetime.datetime(2026, 2, 28, 12, 30, 1, 7)),
    (datetime.datetime, datetime.datetime(2026, 2, 28, tzinfo=datetime.UTC)),
    (datetime.datetime, berlin(2026, 7, 1, 12)),
    (datetime.datetime, berlin(2026, 10, 25, 2, 30, fold=1)),
    (datetime.date, datetime.date(2026, 2, 28)),
    (datetime.time, datetime.time(12, 30, 1, 7)),
    (datetime.time, datetime.time(12, 30, tzinfo=datetime.UTC)),
    (datetime.timedelta, datetime.timedelta(days=-2, microseconds=3)),
    (uuid.UUID, uuid.UUID(int=2**127)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (decimal.Decimal, decimal.Decimal("NaN")),
    (decimal.Decimal, decimal.Decimal("sNaN")),
    (Colour, Colour.RED),
    (Size, Size.LARGE),
    (Word, Word.YES),
    (dict[Colour, int], {Colour.RED: 1}),
    (Point, Point(1, 2.5)),
    (Tree, Tree("root", [Tree("leaf")])),
    (Parcel, Parcel(1.5, {"fragile"})),
    (Pair, Pair(1, "a")),
    (Options, {"quality": 3}),
    (Options, {"quality": 3, "lossless": True}),
    (list[Point | None], [Point(1), None]),
    (pathlib.Path, pathlib.Path("/var/lib")),
    (pathlib.Path | None, pathlib.Path("a")),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("a/b")),
    (list[pathlib.Path], [pathlib.Path("a")]),
    (Customer, Customer(name="ann", since=datetime.date(2026, 2, 28), nickName="a")),
    (list[Customer], [Customer(name="ann", since=datetime.date(2026, 2, 28))]),
    (StrictCustomer, StrictCustomer(since=datetime.datetime(2026, 2, 28, tzinfo=datetime.UTC))),
    (Sequence[int], [1, 2]),
    (Mapping[str, int], {"a": 1}),
    (Any, {"a": [1, 2.5, "b", None, True]}),
    (object, ["a"]),
    (T, [1]),
]


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=lambda value: told(value)[:50])
def test_a_value_of_its_type_arrives_as_it_was(hint: Any, value: Any) -> None:
    arrived = there_and_back(hint, value)

    assert type(arrived) is type(value)
    assert is_same(arrived, value) or arrived.isoformat() == value.isoformat()


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=lambda value: told(value)[:50])
def test_a_result_of_its_type_comes_back_as_it_was(hint: Any, value: Any) -> None:
    codec = of(hint)

    arrived = codec.decode_result(codec.encode_result(value))

    assert type(arrived) is type(value)
    assert is_same(arrived, value) or arrived.isoformat() == value.isoformat()


def test_a_dataclass_that_is_equal_to_nothing_but_itself_travels_by_its_fields() -> None:
    assert there_and_back(ByIdentity, ByIdentity("a")).name == "a"


def test_an_int_will_do_for_a_float_as_type_checkers_have_it() -> None:
    arrived = there_and_back(list[float], [1, 2.5])

    assert arrived == [1.0, 2.5]
    assert type(arrived[0]) is float


class Html(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("hint", "value", "plain"),
    [
        (str, Html("<b>"), "<b>"),
        (str, Word.YES, "yes"),
        (int, http.HTTPStatus.OK, 200),
        (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
        (dict[str, int], collections.Counter("aa"), {"a": 2}),
        (tuple[int, str], Pair(1, "a"), (1, "a")),
        (pathlib.PurePath, pathlib.Path("a"), pathlib.PurePath("a")),
    ],
    ids=lambda value: told(value)[:40],
)
def test_a_value_of_a_subclass_arrives_as_the_built_in_type_that_was_asked_for(
    hint: Any, value: Any, plain: Any
) -> None:
    arrived = there_and_back(hint, value)

    assert (type(arrived), arrived) == (type(plain), plain)


@pytest.mark.parametrize(
    ("hint", "value", "arrives"),
    [
        (Any, (1, 2), [1, 2]),
        (list, (1, 2), [1, 2]),
        (Sequence[int], (1, 2), [1, 2]),
        (Sequence[int] | None, (1, 2), [1, 2]),
        (dict[str, Sequence[int]], {"a": (1, 2)}, {"a": [1, 2]}),
        (Annotated[Sequence[int], "sizes"], (1, 2), [1, 2]),
    ],
    ids=told,
)
def test_where_the_hint_leaves_the_kind_of_sequence_open_any_will_do(hint: Any, value: Any, arrives: Any) -> None:
    assert there_and_back(hint, value) == arrives


# What is refused

REFUSED: list[tuple[Any, Any, str]] = [
    (str, 3, r"Expected `str`, got `int` - at `\$.value`"),
    (int, "3", r"Expected `int`, got `str` - at `\$.value`"),
    (int, 1.5, r"Expected `int`, got `float`"),
    (int, True, r"Expected `int`, got `bool`"),
    (bool, 1, r"Expected `bool`, got `int`"),
    (str, None, r"Expected `str`, got `null`"),
    (bytes, "abcd", r"`str` would arrive as `bytes`: 'abcd' as b'i.*' - at `\$.value`"),
    (bytes, "not base64!", r"Invalid base64"),
    (bytes, bytearray(b"x"), r"`bytearray` would arrive as `bytes`"),
    (float, float("nan"), r"Expected `float`, got `null`"),
    (float | None, float("inf"), r"`float` would arrive as `NoneType`"),
    (float, 2**60 + 1, r"`int` would arrive as `float`"),
    (list[int], [1, "2"], r"Expected `int`, got `str` - at `\$.value\[1\]`"),
    (list[int], (1, 2), r"`tuple` would arrive as `list`"),
    (set[int], [1, 2], r"`list` would arrive as `set`"),
    (set[int], frozenset({1}), r"`frozenset` would arrive as `set`"),
    (tuple[int, int], [1, 2], r"`list` would arrive as `tuple`"),
    (list[list[int]], [(1, 2)], r"`tuple` would arrive as `list`.* - at `\$.value\[0\]`"),
    (dict[str, tuple[int, ...]], {"a": [1]}, r"at `\$.value\['a'\]`"),
    (dict[str, int], {1: 2}, r"`dict` would arrive as `dict`: \{1: 2\} as \{'1': 2\}"),
    (Any, {1: 2}, r"\{1: 2\} as \{'1': 2\}"),
    (Any, datetime.date(2026, 2, 28), r"`date` would arrive as `str`"),
    (Any, float("nan"), r"`float` would arrive as `NoneType`"),
    (Any, object(), r"`object` has no form in JSON - at `\$.value`"),
    (Any, {"a": [threading.Lock()]}, r"`lock` has no form in JSON - at `\$.value`"),
    (datetime.datetime, "2026-02-28T12:00:00", r"`str` would arrive as `datetime`"),
    (datetime.date, datetime.datetime(2026, 2, 28), r"Invalid RFC3339|Expected"),
    (uuid.UUID, str(uuid.UUID(int=7)), r"`str` would arrive as `UUID`"),
    (decimal.Decimal, 1, r"`int` would arrive as `Decimal`"),
    (decimal.Decimal, 0.5, r"`float` would arrive as `Decimal`"),
    (Colour, "red", r"`str` would arrive as `Colour`"),
    (Word, "yes", r"`str` would arrive as `Word`"),
    (Size, 1, r"`int` would arrive as `Size`"),
    (list[Word], ["yes"], r"`str` would arrive as `Word`.* - at `\$.value\[0\]`"),
    (set[Word], {"yes"}, r"`str` would arrive as `Word`"),
    (dict[Word, int], {"yes": 1}, r"`str` would arrive as `Word`.* - at `key of \$.value`"),
    (Point, {"x": 1, "y": 2.0}, r"`dict` would arrive as `Point`"),
    (Point, Point("1"), r"Expected `int`, got `str` - at `\$.value.x`"),  # type: ignore[arg-type]
    (Pair, (1, "a"), r"`tuple` would arrive as `Pair`"),
    (Options, {"quality": "high"}, r"Expected `int`, got `str` - at `\$.value.quality`"),
    (Options, {}, r"missing required field `quality`"),
    (pathlib.Path, "a", r"`str` would arrive as `PosixPath`"),
    (Customer, {"name": "ann", "since": "2026-02-28"}, r"`dict` would arrive as `Customer`"),
    (Literal["a"], "b", r"Invalid enum value 'b'"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, r"Expected `int` >= 0"),
    (str, "\ud800", r"surrogates not allowed - at `\$.value`"),
]


@pytest.mark.parametrize(("hint", "value", "why"), REFUSED, ids=lambda value: told(value)[:50])
def test_a_value_that_would_not_arrive_as_it_is_is_refused_with_its_place(hint: Any, value: Any, why: str) -> None:
    with pytest.raises(NotEncodable, match=why) as told:
        of(hint).encode_call((value,), {})

    assert str(told.value).startswith("shop.task: ")
    assert "$.value" in str(told.value)
    assert isinstance(told.value, TypeError)


def test_what_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(NotEncodable):
        of(Any).encode_call((endless,), {})


# Each example compiles a codec of its own, on machines that may be busy.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIMPLE = st.sampled_from(
    [
        int,
        float,
        str,
        bool,
        bytes,
        type(None),
        datetime.date,
        datetime.timedelta,
        uuid.UUID,
        decimal.Decimal,
        Colour,
        Size,
    ]
)


def hints() -> st.SearchStrategy[Any]:
    keys = st.sampled_from([str, int, datetime.date, Colour])
    return st.recursive(
        SIMPLE,
        lambda inner: st.one_of(
            inner.map(lambda part: list[part]),  # type: ignore[valid-type]
            inner.map(lambda part: tuple[part, ...]),  # type: ignore[valid-type]
            st.tuples(inner, inner).map(lambda parts: tuple[parts[0], parts[1]]),  # type: ignore[valid-type]
            st.tuples(keys, inner).map(lambda parts: dict[parts[0], parts[1]]),  # type: ignore[valid-type]
            SIMPLE.map(lambda part: set[part]),  # type: ignore[valid-type]
            inner.map(lambda part: part | None),
        ),
        max_leaves=5,
    )


@st.composite
def values(draw: st.DrawFn, of_hint: Any = None) -> tuple[Any, Any]:
    """A hint, and a value of it (or of *of_hint*)."""
    hint = draw(hints()) if of_hint is None else of_hint
    return hint, draw(st.from_type(hint))


def is_same(one: Any, other: Any) -> bool:
    """The same value and type all the way down, told by text: a NaN is like a NaN, 1 is unlike 1.0 and True."""
    if isinstance(one, set | frozenset):
        return type(one) is type(other) and sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, dict):
        return (
            type(one) is type(other)
            and [*map(repr, one)] == [*map(repr, other)]
            and all(map(is_same, one.values(), other.values()))
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(is_same, one, other))
    return type(one) is type(other) and (repr(one) == repr(other) or one == other)


@unhurried
@given(values())
def test_any_value_of_any_hint_arrives_as_it_was_or_is_refused(case: tuple[Any, Any]) -> None:
    hint, value = case
    try:
        arrived = there_and_back(hint, value)
    except NotEncodable:
        assert "nan" in repr(value).lower() or "inf" in repr(value)
    else:
        assert is_same(arrived, value)


@unhurried
@given(hints(), values())
def test_a_value_of_another_hint_is_never_changed_in_silence(hint: Any, case: tuple[Any, Any]) -> None:
    _, value = case
    try:
        arrived = there_and_back(hint, value)
    except NotEncodable:
        return
    assert is_same(arrived, value) or arrived == value  # an int that arrives as a float


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@unhurried
@given(JSON_VALUES)
def test_without_a_hint_json_arrives_as_it_was_with_lists_for_tuples(value: Any) -> None:
    try:
        arrived = there_and_back(Any, value)
    except NotEncodable:
        assert "nan" in repr(value).lower() or "inf" in repr(value)
    else:
        assert arrived == json.loads(json.dumps(value))


# Calls


def encoded(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return json.loads(Codec("shop.task", fn).encode_call(args, kwargs))


def called(fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What *fn* gives when it is called in the way of a durable job."""
    codec: Codec[T] = Codec("shop.task", fn)
    travelled, named = codec.decode_call(codec.encode_call(args, kwargs))
    return fn(*travelled, **named)


def everything(
    first: int, /, second: str, third: float = 3.0, *rest: int, named: bool, more: str = "m", **others: int
) -> Any:
    return first, second, third, rest, named, more, others


def test_a_call_is_kept_by_the_names_of_its_parameters() -> None:
    assert encoded(everything, 1, "b", named=True) == {"first": 1, "second": "b", "named": True}
    assert encoded(everything, 1, "b", 2.0, 7, 8, named=True, x=9) == {
        "first": 1, "second": "b", "third": 2.0, "*rest": [7, 8], "named": True, "**others": {"x": 9},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, "b"), {"named": True}),
        ((1,), {"second": "b", "third": 1.5, "named": False, "more": "x"}),
        ((1, "b", 2.0, 7, 8), {"named": True, "x": 9, "y": 10}),
        ((1, "b"), {"named": True, "first": 5, "rest": 6, "others": 7}),
    ],
    ids=told,
)
def test_every_kind_of_parameter_gets_what_a_plain_call_gives_it(args: Any, kwargs: Any) -> None:
    assert called(everything, *args, **kwargs) == everything(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, "b"), {}),
        ((1, "b"), {"named": True, "second": "c"}),
        ((1,), {"named": True}),
    ],
    ids=told,
)
def test_arguments_that_python_would_not_bind_are_refused_in_the_words_of_python(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError) as plainly:
        everything(*args, **kwargs)

    with pytest.raises(TypeError) as told:
        called(everything, *args, **kwargs)

    assert str(told.value) == str(plainly.value)
    assert not isinstance(told.value, NotEncodable)


def awkward(given: int, left_out: int = 2, call: int = 3, self: int = 4, class_: int = 5, _0: int = 6) -> Any:
    return given, left_out, call, self, class_, _0


def test_names_that_the_codec_uses_itself_are_free_for_parameters() -> None:
    assert called(awkward, 1) == awkward(1)
    assert called(awkward, 1, 7, call=8, _0=9) == awkward(1, 7, call=8, _0=9)


def test_a_parameter_called_like_a_star_s_key_does_not_exist_so_no_call_is_mistaken() -> None:
    def task(*args: int, **kwargs: int) -> Any:
        return args, kwargs

    assert called(task, 1, args=2, kwargs=3) == ((1,), {"args": 2, "kwargs": 3})


class Where(TypedDict):
    street: str
    number: NotRequired[int]


def test_unpacked_hints_of_stars_are_understood() -> None:
    def task(*sizes: *tuple[int, str], **where: Unpack[Where]) -> Any:
        return sizes, where

    assert called(task, 1, "a", street="x") == ((1, "a"), {"street": "x"})
    with pytest.raises(NotEncodable, match=r"Expected `str`, got `int` - at `\$.\*sizes\[1\]`"):
        called(task, 1, 2, street="x")


def test_a_default_is_the_function_s_own_and_is_not_kept() -> None:
    sentinel = object()
    codec = of(int | None, default=sentinel)

    data = codec.encode_call((), {})

    assert data == b"{}"
    assert codec.decode_call(data) == ((sentinel,), {})


def test_a_function_without_parameters_can_be_called() -> None:
    def task() -> int:
        return 7

    assert called(task) == 7


# Changes between enqueue and run


def before(path: str, width: int) -> None: ...


def with_a_new_default(path: str, depth: float = 1.5, width: int = 0) -> None: ...


def with_a_new_one(path: str, width: int, depth: float) -> None: ...


def without_width(path: str) -> None: ...


def with_another_type(path: str, width: str) -> None: ...


@pytest.fixture
def stored() -> bytes:
    return Codec("shop.resize", before).encode_call(("a.png", 200), {})


def test_a_parameter_with_a_default_may_be_added_while_jobs_wait(stored: bytes) -> None:
    assert Codec("shop.resize", with_a_new_default).decode_call(stored) == (("a.png", 1.5, 200), {})


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (with_a_new_one, "shop.resize: it was enqueued without `depth`, which the task can't do without"),
        (without_width, "shop.resize: it was enqueued with `width`, which the task doesn't take"),
        (with_another_type, r"don't fit the type hints \(any more\): Expected `str`, got `int` - at `\$.width`"),
    ],
)
def test_a_job_that_does_not_fit_its_task_any_more_says_what_has_changed(
    stored: bytes, now: Callable[..., Any], why: str
) -> None:
    with pytest.raises(NotDecodable, match=why):
        Codec("shop.resize", now).decode_call(stored)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1]", b'"a"', b"{}"])
def test_what_is_no_call_at_all_is_not_decodable(data: bytes) -> None:
    with pytest.raises(NotDecodable, match=r"^shop\.resize: "):
        Codec("shop.resize", before).decode_call(data)


def test_a_result_that_is_not_what_the_task_returns_now_is_not_decodable() -> None:
    with pytest.raises(NotDecodable, match=r"the stored result is not what it returns now: Expected `int`, got `str`"):
        of(int).decode_result(b'"a"')


# Results


@pytest.mark.parametrize(
    ("hint", "value", "why"),
    [
        (int, "3", "not what its annotation promises: Expected `int`, got `str`"),
        (None, 3, "not what its annotation promises: Expected `null`, got `int`"),
        (bytes, "abcd", "not what its annotation promises: `str` would arrive as `bytes`"),
        (Any, object(), "can't be kept: `object` has no form in JSON"),
        (Any, datetime.date(2026, 2, 28), "`date` would arrive as `str`"),
        (list[int], [1, None], r"Expected `int`, got `null` - at `\$\[1\]`"),
    ],
    ids=told,
)
def test_a_result_that_is_not_what_was_promised_is_refused(hint: Any, value: Any, why: str) -> None:
    with pytest.raises(NotEncodable, match=why):
        of(hint).encode_result(value)


@pytest.mark.parametrize(
    ("hint", "value", "arrives"),
    [(list[int], (1, 2), [1, 2]), (tuple[int, int], [1, 2], (1, 2)), (list[str], {"a"}, ["a"]), (Any, (1,), [1])],
    ids=told,
)
def test_a_sequence_of_another_kind_is_no_reason_to_lose_a_result(hint: Any, value: Any, arrives: Any) -> None:
    codec = of(hint)
    assert codec.decode_result(codec.encode_result(value)) == arrives


def test_a_task_that_never_returns_may_say_so() -> None:
    def task() -> NoReturn:
        raise ValueError

    assert Codec("shop.task", task).encode_result(None) == b"null"


# Limits


def test_arguments_above_the_limit_are_refused_with_their_size() -> None:
    codec = of(str)
    room = LIMIT - len(b'{"value":""}')

    assert len(codec.encode_call(("a" * room,), {})) == LIMIT
    with pytest.raises(NotEncodable, match=r"its arguments take 1,048,577 bytes as JSON, more than 1,048,576"):
        codec.encode_call(("a" * (room + 1),), {})


def test_a_result_above_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(NotEncodable, match=r"its result takes 1,048,578 bytes as JSON, more than 1,048,576"):
        of(str).encode_result("a" * LIMIT)


# Types that can't travel


class Image: ...


@dataclasses.dataclass
class Holder:
    image: Image


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Image, "parameter 'value': type `.*Image` has no form in JSON"),
        (list[Image], "type `.*Image`"),
        (Holder, "type `.*Image`"),
        (dict[str, Holder | None], "type `.*Image`"),
        (complex, "type `complex`"),
        (Callable[[int], int], "Callable"),
        (Iterator[int], "Iterator"),
        (Iterable[int], "Iterable"),
        (set[int] | list[int], "not supported"),
        (Point | Tree, "not supported"),
        (threading.Lock, "lock"),
    ],
    ids=told,
)
def test_a_type_that_can_not_travel_is_told_when_the_task_is_made(hint: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        of(hint)


def test_a_result_type_that_can_not_travel_is_told_when_the_task_is_made() -> None:
    def task() -> Image:
        return Image()

    with pytest.raises(TypeError, match=r"what it returns: type `.*Image` has no form in JSON"):
        Codec("shop.task", task)


# Headers


def test_headers_come_back_as_they_were() -> None:
    assert decode_headers(encode_headers({"traceparent": "00-ü"})) == {"traceparent": "00-ü"}
    assert decode_headers(None) == {}


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, ["a"], "a", None], ids=told)
def test_headers_that_are_not_strings_are_refused(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers must be a mapping of strings to strings"):
        encode_headers(headers)


def test_headers_have_a_limit_too() -> None:
    with pytest.raises(ValueError, match="headers take"):
        encode_headers({"a": "a" * LIMIT})


def test_a_result_of_a_task_that_nobody_knows_is_what_json_has() -> None:
    assert decode_untyped(b'{"a": [1, null]}') == {"a": [1, None]}


class Metres(int): ...


class Grams(float): ...


@pytest.mark.parametrize(
    ("hint", "value", "plain"), [(int, Metres(3), 3), (float, Grams(1.5), 1.5), (str, Html("<b>"), "<b>")], ids=told
)
def test_numbers_and_texts_of_a_kind_of_their_own_arrive_as_plain_ones(hint: Any, value: Any, plain: Any) -> None:
    arrived = there_and_back(hint, value)

    assert (type(arrived), arrived) == (type(plain), plain)


def test_positional_only_parameters_may_be_the_only_ones() -> None:
    def task(first: int, second: str = "b", /) -> Any:
        return first, second

    assert called(task, 1) == (1, "b")
    with pytest.raises(TypeError, match="positional-only arguments passed as keyword arguments: 'first'"):
        called(task, first=1)


def test_a_path_is_no_number() -> None:
    with pytest.raises(NotEncodable, match=r"Expected `str`, got `int` - at `\$.value`"):
        of(pathlib.Path).encode_call((3,), {})


def test_what_a_model_itself_refuses_is_refused_where_it_is_read() -> None:
    codec = of(Customer)
    with pytest.raises(NotDecodable, match="validation error"):
        codec.decode_call(b'{"value": {"name": 3}}')
