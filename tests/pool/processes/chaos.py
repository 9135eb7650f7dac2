"""Jobs for pools whose workers are killed: each writes down that it runs. Imports little: each fresh worker does it."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from penstock import Cancelled, current_context, current_job


class Thing:
    """A result that takes code to unpack."""

    def __init__(self, value: Any) -> None:
        self.value = value


def note(path: str) -> None:
    """Write down which attempt of which job runs, in one write to the end of the file."""
    job = current_job()
    assert job is not None
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{job.id} {job.attempt}\n".encode())
    os.close(file)


def returns(path: str, seconds: float, value: Any) -> Any:
    note(path)
    time.sleep(seconds)
    return value


def makes(path: str, seconds: float, value: Any) -> Thing:
    note(path)
    return Thing(value)


def raises(path: str, seconds: float, value: Any) -> None:
    note(path)
    raise ValueError(value)


def heeds(path: str, seconds: float, value: Any) -> Any:
    note(path)
    with contextlib.suppress(Cancelled):
        current_context().sleep(seconds)
    return value


def dies(path: str, seconds: float, value: Any) -> None:
    note(path)
    os._exit(7)
