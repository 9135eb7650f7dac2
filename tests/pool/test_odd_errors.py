"""Errors whose classes do as they like when they are asked or written to: each is one job's failure, and no more."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from penstock import Cancelled, ExecutorPool, Incomplete, Retry, ThreadPool
from penstock.pool.executor import Pool
from tests.gates import GUARD, Gate


@dataclass(frozen=True)
class Frozen(Exception):
    """Nothing may be written to it: not its traceback, and no note."""

    code: int = 1


class Unsettable(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class Unreadable(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Cancelling(Exception):
    """Its text asks a context that is tripped."""

    def __str__(self) -> str:
        raise Cancelled("asked for its text")

    __repr__ = __str__


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Pretending(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("what am I?")


class Noted(Exception):
    __notes__ = ()  # type: ignore[assignment]


class Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class OfUnhashableType(Exception, metaclass=Unhashable):
    pass


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OfNamelessType(Exception, metaclass=Nameless):
    pass


ODD: list[Callable[[], BaseException]] = [
    Frozen, Unsettable, Unreadable, Cancelling, Leaving, Pretending, Noted, OfUnhashableType, OfNamelessType,
]  # fmt: skip
Make = Callable[..., Pool]


def threads(**options: Any) -> Pool:
    return ThreadPool(1, **options)


def around_threads(**options: Any) -> Pool:
    return ExecutorPool(concurrent.futures.ThreadPoolExecutor(1), shutdown_executor=True, **options)


each_kind = pytest.mark.parametrize("make", [threads, around_threads])
each_error = pytest.mark.parametrize("make_error", ODD, ids=range(len(ODD)))


def raise_it(error: BaseException) -> NoReturn:
    raise error


@each_kind
@each_error
def test_whatever_a_job_raises_it_fails_with_that_and_its_worker_goes_on(
    make: Make, make_error: Callable[[], BaseException]
) -> None:
    error = make_error()
    with make() as pool:
        job = pool.submit(raise_it, error)

        assert job.exception(GUARD) is error
        assert pool.submit(int, "7").result(GUARD) == 7

    assert (pool.report.done, pool.report.failed, pool.failures.total) == (1, 1, 1)


@each_error
def test_an_odd_error_is_told_in_the_log_and_in_the_failures(
    make_error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPool(1) as pool:
        pool.submit(raise_it, make_error())

    [failure] = pool.failures
    assert failure.type == type.__dict__["__qualname__"].__get__(type(make_error()))
    assert failure.where.endswith("in raise_it")
    assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["penstock.failures"]


@each_error
def test_an_odd_error_is_tried_again_as_others_are(make_error: Callable[[], BaseException]) -> None:
    error = make_error()
    with ThreadPool(1) as pool:
        job = pool.options(retry=Retry(3, wait=0)).submit(raise_it, error)

        assert job.exception(GUARD) is error

    assert job.attempt == 3


@each_error
def test_a_stop_cuts_a_job_that_waits_for_another_attempt_after_an_odd_error(
    make_error: Callable[[], BaseException],
) -> None:
    gate, error = Gate(), make_error()
    pool = ThreadPool(1)
    job = pool.options(retry=Retry(2, wait=GUARD, max_wait=GUARD, jitter=0)).submit(raise_it, error)
    held = pool.submit(gate)
    gate.wait_entered()

    pool.shutdown(wait=False, timeout=0)

    assert job.exception(GUARD) is error
    gate.open()
    held.exception(GUARD)
    assert pool.shutdown().balanced


@each_error
def test_odd_errors_that_nobody_looked_at_leave_the_block_in_a_group(make_error: Callable[[], BaseException]) -> None:
    error = make_error()

    with pytest.raises(ExceptionGroup) as caught, ThreadPool(1, unobserved="raise") as pool:
        pool.submit(raise_it, error)

    assert caught.value.exceptions[0] is error


@each_error
def test_an_odd_error_that_leaves_the_block_is_raised_though_it_takes_no_note(
    make_error: Callable[[], BaseException],
) -> None:
    gate, error, pool = Gate(), make_error(), ThreadPool(1, grace=0)

    with pytest.raises(type(error)), pool:
        pool.submit(gate)
        gate.wait_entered()
        raise error

    gate.open()
    assert pool.report.abandoned == 1


def test_two_types_that_refuse_to_be_keys_are_two_kinds() -> None:
    class Other(Exception, metaclass=Unhashable):
        pass

    with ThreadPool(1) as pool:
        for error in (OfUnhashableType(), Other(), Other()):
            pool.submit(raise_it, error)

    assert sorted((failure.count, failure.type.rpartition(".")[2]) for failure in pool.failures) == [
        (1, "OfUnhashableType"),
        (2, "Other"),
    ]


def test_the_cause_of_incomplete_can_be_made_of_odd_errors() -> None:
    gate, error = Gate(), Frozen()
    pool = ThreadPool(1, unobserved="raise")

    with pytest.raises(Incomplete) as caught, pool:
        pool.submit(raise_it, error)
        pool.submit(gate)
        gate.wait_entered()
        pool.shutdown(wait=False, timeout=0)

    gate.open()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert caught.value.__cause__.exceptions[0] is error
