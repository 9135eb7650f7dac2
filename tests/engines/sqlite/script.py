"""Scripts that use an engine in a process of their own; see tests.pool.script."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.pool.script import Script, running

_BEGIN: Final = """
from penstock.engines.bell import Bell
from penstock.engines.requests import *
from penstock.engines.records import *
from penstock.engines.sqlite import SQLiteEngine
from penstock.engines.sqlite.step import Step

WORK = Want(frozenset(["work"]), 100)
engine = SQLiteEngine({url!r})


def ask(*requests, within=10.0):
    return engine.transact(requests, within)


def put(*ids):
    return ask(Put([NewJob(id, "work") for id in ids]))[0]


def stay_inside():
    # From now on a transaction stops just before its commit, and says so.
    finish = Step.finish
    Step.finish = lambda step: (finish(step), say("inside"), until_told())
"""


@contextlib.contextmanager
def with_engine(folder: Path, url: str, code: str) -> Iterator[Script]:
    """*code* in a process of its own which has an `engine` on *url*, not opened yet."""
    folder.mkdir(exist_ok=True)
    with running(folder, _BEGIN.format(url=url), code) as script:
        yield script
