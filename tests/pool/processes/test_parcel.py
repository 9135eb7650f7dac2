"""What can't cross fails one job, and the message names the part to blame; what can comes out as it went in."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import math
import pickle
import threading
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import Context, Job, JobState, NotPicklable, ProcessPool, RemoteTraceback
from penstock.pool.processes import parcel
from penstock.pool.processes.culprit import culprit
from penstock.pool.processes.parcel import pack_error, unpack_error
from tests.gates import GUARD
from tests.pool.crossing import double


class Holds:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class WithSlots:
    __slots__ = ("lock", "number")

    def __init__(self) -> None:
        self.number, self.lock = 1, LOCK


@dataclass
class Data:
    items: dict[str, Any] = field(default_factory=dict)


class LeavesOut:
    """Its lock is no trouble: it does not go along."""

    def __init__(self, other: Any) -> None:
        self.lock, self.other = LOCK, other

    def __getstate__(self) -> dict[str, Any]:
        return {"other": self.other}

    def method(self) -> None: ...


class Reduces:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduces, (self.held,)


class HasState:
    def __getstate__(self) -> list[Any]:
        return [LOCK]


class Refuses:
    def __reduce__(self) -> str:
        raise TypeError("no")


class IsNowhere:
    def __reduce__(self) -> str:
        return "nowhere"


class Many(list[Any]):
    pass


class NoRepr:
    def __repr__(self) -> str:
        raise ValueError("no")

    def __hash__(self) -> int:
        return 1


LOCK = threading.Lock()


def make_closure(held: Any) -> Any:
    def inner() -> Any:
        return held

    return inner


def make_default(held: Any) -> Any:
    def inner(number: int = 1, lock: Any = held) -> Any:
        return number, lock

    return inner


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "it (lock)"),
        ([1, LOCK], "it[1] (lock)"),
        ({"a": {"b": (1, LOCK)}}, "it['a']['b'][1] (lock)"),
        ({LOCK: 1}, "it: the key <unlocked"),
        ({NoRepr(): LOCK}, "it[<NoRepr>] (lock)"),
        ({"k" * 100: LOCK}, "it['" + "k" * 59 + "…] (lock)"),
        (frozenset([LOCK]), "it: the item <unlocked"),
        (Holds(connection=Holds(lock=LOCK)), "it.connection.lock (lock)"),
        (WithSlots(), "it.lock (lock)"),
        (Data({"x": LOCK}), "it.items['x'] (lock)"),
        (LeavesOut(LOCK), "it.other (lock)"),
        (LeavesOut(LOCK).method, "it.__self__.other (lock)"),
        (Reduces(LOCK), "it: number 0 of what __reduce__ gives (lock)"),
        (HasState(), "it: its state[0] (lock)"),
        (Refuses(), "it (Refuses)"),
        (IsNowhere(), "it (IsNowhere)"),
        (Many([1, LOCK]), "it[1] (lock)"),
        (OrderedDict(a=LOCK), "it['a'] (lock)"),
        (OrderedDict({LOCK: 1}), "it: the key <unlocked"),
        (ValueError("no", LOCK), "it.args[1] (lock)"),
        (functools.partial(sorted, [LOCK]), "it.args[0][0] (lock)"),
        (functools.partial(dict, key=[LOCK]), "it.keywords['key'][0] (lock)"),
        (make_closure(LOCK), "it: its variable held (lock)"),
        (make_default(LOCK), "it.__defaults__[1] (lock)"),
        (make_closure(1), "it (function)"),
        (make_closure([make_closure(LOCK)]), "it: its variable held[0]: its variable held (lock)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_path_leads_to_the_part_that_is_to_blame(value: Any, path: str) -> None:
    found = culprit(value, "it")

    assert found is not None
    assert found.startswith(path)


def test_what_can_cross_has_no_culprit() -> None:
    assert culprit(Holds(a=[1, {"b": LeavesOut(2)}]), "it") is None


def test_a_value_that_holds_itself_is_searched_to_an_end() -> None:
    holds = Holds(lock=LOCK)
    holds.__dict__ = {"me": holds, **holds.__dict__}

    assert culprit(holds, "it") is not None


def test_a_large_value_is_not_searched_for_ever() -> None:
    looked = 0

    class Counted:
        def __reduce__(self) -> Any:
            nonlocal looked
            looked += 1
            return int, ()

    assert culprit([*(Counted() for _ in range(10_000)), LOCK], "it") == "it (list)"
    assert looked < 25_000


# Through a pool


def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "cloudpickle" else find_spec(name, *args)
    )


def refused(job: Job[Any]) -> str:
    error = job.exception(GUARD)
    assert isinstance(error, NotPicklable)
    assert isinstance(error, pickle.PicklingError)
    assert job.state is JobState.FAILED
    return str(error)


def give_lock() -> Any:
    return {"answer": [42, threading.Lock()]}


def test_an_argument_that_can_not_cross_fails_its_job_alone_and_is_named() -> None:
    with ProcessPool(1, unobserved="ignore", backlog=1) as pool:
        for _ in range(5):  # none keeps its place
            job = pool.submit(double, Holds(connection=Holds(lock=LOCK)))  # type: ignore[arg-type]
            assert refused(job) == "argument 0.connection.lock (lock): TypeError: cannot pickle '_thread.lock' object"
        assert "argument 1[0] (lock)" in refused(pool.submit(raise_it, KeyError, [LOCK]))
        assert pool.submit(double, 2).result(GUARD) == 4
    assert (pool.report.failed, pool.report.done) == (6, 1)


def test_a_result_that_can_not_cross_fails_its_job_alone_and_is_named() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        assert refused(pool.submit(give_lock)).startswith("the result['answer'][1] (lock): TypeError")
        assert pool.submit(double, 2).result(GUARD) == 4


def test_a_value_of_the_context_that_can_not_cross_is_named() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        job = pool.options(context=Context(values={"session": Holds(lock=LOCK)})).submit(double, 2)
        assert refused(job).startswith("the values of its context['session'].lock (lock): TypeError")


def test_an_input_of_a_map_that_can_not_cross_is_where_its_result_would_be() -> None:
    with ProcessPool(1, unobserved="ignore", backlog=2) as pool:
        results = pool.map(str, [1, 2, 3, LOCK, 5])
        assert [next(results) for _ in range(3)] == ["1", "2", "3"]
        with pytest.raises(NotPicklable, match="argument 0"):
            next(results)


def test_lambdas_and_closures_cross_where_cloudpickle_is_installed() -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(lambda x: x + 1, 1).result(GUARD) == 2
        assert pool.submit(make_closure(7)).result(GUARD) == 7
        assert pool.submit(make_closure, 8).result(GUARD)() == 8  # and come back


def test_a_closure_that_can_not_cross_names_the_variable() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        said = refused(pool.submit(make_closure(LOCK)))
        assert said.startswith("the function 'make_closure.<locals>.inner': its variable held (lock): TypeError")


def test_without_cloudpickle_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    no_cloudpickle(monkeypatch)
    with ProcessPool(1, unobserved="ignore") as pool:
        said = refused(pool.submit(lambda: 1))
        assert "the function" in said
        assert "<lambda>" in said
        assert said.endswith("need cloudpickle: pip install cloudpickle")


# Errors


class NeedsTwo(Exception):
    """As many are: what it is made of is not what it passes on."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class Unspeakable(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise SystemExit("not even that")

    def __reduce__(self) -> Any:
        raise SystemExit("nor that")


def raise_it(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


@pytest.mark.parametrize(
    ("kind", "args", "said"),
    [
        (NeedsTwo, (404, "gone"), "NeedsTwo: 404: gone"),
        (HoldsALock, (), "HoldsALock: locked"),
        (Unspeakable, (), "Unspeakable: <its message could not be made>"),
    ],
)
def test_an_error_that_can_not_cross_arrives_as_what_it_said(kind: Any, args: Any, said: str) -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        job = pool.submit(raise_it, kind, *args)
        assert refused(job).startswith(said)
        assert "the error itself can't cross" in str(job.exception())
        assert "in raise_it" in str(job.exception().__cause__)  # type: ignore[union-attr]
        assert pool.submit(double, 2).result(GUARD) == 4


def test_an_error_comes_with_its_notes_and_the_traceback_of_the_worker() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        error = pool.submit(fail_with_a_note).exception(GUARD)

    assert isinstance(error, KeyError)
    assert error.__notes__ == ["while looking"]
    assert isinstance(error.__cause__, RemoteTraceback)
    text = "".join(traceback.format_exception(error))
    assert 'raise KeyError("shelf") from None' in text
    assert "in fail_with_a_note" in text


def fail_with_a_note() -> None:
    try:
        raise KeyError("shelf") from None
    except KeyError as error:
        error.add_note("while looking")
        raise


def test_an_error_that_arrives_as_something_else_has_a_stand_in() -> None:
    class Sly(Exception):
        def __reduce__(self) -> Any:
            return builtins.str, ("not an error",)

    error = unpack_error(pack_error(Sly("really")))
    assert isinstance(error, NotPicklable)
    assert str(error).startswith("test_an_error_that_arrives_as_something_else_has_a_stand_in.<locals>.Sly: really")


def test_what_is_no_error_at_all_is_one_when_it_is_unpacked() -> None:
    assert isinstance(unpack_error(pickle.dumps(("text", ""))), NotPicklable)
    assert isinstance(unpack_error(b"nonsense"), NotPicklable)


def test_a_built_in_function_of_a_module_is_pickled_once_and_one_of_an_object_with_it() -> None:
    job: Any = SimpleNamespace(_context=None)
    by_name = parcel.Parcel(job, math.factorial, (5,))
    assert by_name.function == pickle.dumps(math.factorial, pickle.HIGHEST_PROTOCOL)
    assert by_name.function is parcel.Parcel(job, math.factorial, ()).function
    held = [1, 2]
    bound = parcel.Parcel(job, held.count, (1,))
    held.append(1)
    assert not bound.function
    assert held.count not in parcel._known
    fn, args = pickle.loads(bound.call)
    assert fn(*args) == 1
    with ProcessPool(1) as pool:
        assert pool.submit(math.factorial, 5).result() == 120
        assert pool.submit(held.count, 1).result() == 2


def test_only_built_in_types_are_plain() -> None:
    for plain in (1, "text", [1, {"a": (2.5, None, b"x")}], {1, 2}):
        assert parcel.is_plain(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL))
    for other in (Holds(), [Holds()], double, ValueError("x"), Many(), 1j, range(3)):
        assert not parcel.is_plain(pickle.dumps(other, pickle.HIGHEST_PROTOCOL))
