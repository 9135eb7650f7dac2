"""Errors on their way from a worker: what comes with them, and those that do harm on the way."""

from __future__ import annotations

import os
import sys

import pytest

from penstock import NotPicklable, ProcessPool, RemoteTraceback
from tests.gates import GUARD
from tests.pool import crossing


class Exits(Exception):
    """It exits when it is unpickled in the process *where*, or anywhere."""

    def __init__(self, where: int | None) -> None:
        super().__init__(where)

    def __reduce__(self) -> tuple[object, ...]:
        return exit_if_here, self.args


def exit_if_here(where: int | None) -> Exits:
    if where in (None, os.getpid()):
        sys.exit("no more")
    return Exits(where)


def raise_exits(where: int | None) -> None:
    raise Exits(where)


def divide(number: int) -> float:
    return number / 0  # some comment


def test_the_traceback_of_the_other_process_is_the_cause_under_both_its_names() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        error = pool.submit(divide, 1).exception(GUARD)

    assert error is not None
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "return number / 0  # some comment" in error.__cause__.text
    assert error.__cause__.tb == error.__cause__.text


def test_an_error_that_exits_when_it_is_unpickled_is_named_and_ends_nobody() -> None:
    with ProcessPool(1, unobserved="ignore") as pool:
        for where in (None, os.getpid()):
            error = pool.submit(raise_exits, where).exception(GUARD)

            assert isinstance(error, NotPicklable)
            assert "SystemExit: no more" in str(error)
        assert pool.submit(abs, -5).result(GUARD) == 5


@pytest.mark.parametrize("kind", crossing.ODD_ERRORS)
def test_a_result_that_raises_an_odd_error_when_it_is_unpickled_fails_its_job(kind: type[Exception]) -> None:
    with ProcessPool(1) as pool:
        job = pool.submit(crossing.RaisesInTheParent, kind, os.getpid())
        with pytest.raises(NotPicklable, match=f"the result can't be unpickled: {kind.__name__}"):
            job.result(GUARD)
        assert pool.submit(abs, -5).result(GUARD) == 5


@pytest.mark.parametrize("kind", crossing.ODD_ERRORS)
def test_arguments_that_raise_an_odd_error_when_they_are_unpickled_fail_their_job(kind: type[Exception]) -> None:
    with ProcessPool(1) as pool:
        job = pool.submit(str, crossing.RaisesElsewhere(kind, os.getpid()))
        with pytest.raises(NotPicklable, match=f"can't be unpickled by its worker: {kind.__name__}"):
            job.result(GUARD)
        assert pool.submit(abs, -5).result(GUARD) == 5


def test_results_that_can_not_be_pickled_are_told_apart_by_their_errors_and_not_by_our_own_lines() -> None:
    with ProcessPool(1) as pool:
        pool.submit(crossing.a_lock).exception(GUARD)

    [failure] = pool.failures
    assert (failure.type, failure.where) == ("NotPicklable", "")
