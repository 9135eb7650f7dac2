"""Errors on their way from a worker: what comes with them, and those that do harm on the way."""

from __future__ import annotations

import os
import sys

from penstock import NotPicklable, ProcessPool, RemoteTraceback
from tests.gates import GUARD


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
