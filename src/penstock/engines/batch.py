"""The requests of one `transact`, as engines handle them: their ids, their answers, and one that can't be done."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from penstock.engines.requests import Put, Request


class BadRequest(Exception):
    """One request of a transaction can't be done, for what it is: all begin anew without it."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


def ids_of(requests: Sequence[Request]) -> tuple[str, ...]:
    """The ids of the jobs that *requests* put: what whoever asked can ask for again."""
    return tuple(job.id for request in requests if isinstance(request, Put) for job in request.jobs)


def dealt(answers: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """The answers of each request, out of those of all."""
    rest = iter(answers)
    return [list(itertools.islice(rest, size)) for size in sizes]
