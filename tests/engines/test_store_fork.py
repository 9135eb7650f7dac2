"""`os.fork` in a process that uses a store: the child begins anew, and the parent notices nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import needed
from tests.pool.script import running

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# 3.12 warns of any fork in a process with threads, which is what these tests are about.
BUSY = """
import warnings

from penstock.engines import connect
from penstock.engines.records import Counts
from penstock.engines.requests import NewJob, Put
from penstock.engines.store import Store
from penstock.errors import StoreUnavailable

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
url = "sqlite:///" + os.path.join(os.path.dirname(__file__), "jobs.db")
store = Store(lambda: connect(url))


def put(*ids):
    (fates,) = store.ask(Put([NewJob(id, "work") for id in ids]), timeout=10)
    return [str(fate) for fate in fates]


def count():
    return sum(count.jobs for count in store.find(Counts()))


def wait_for(child):
    _, status = os.waitpid(child, 0)
    say(f"child ended with {os.waitstatus_to_exitcode(status)}")


say(put("before"))
"""


@pytest.fixture(autouse=True)
def _apsw() -> None:
    needed("apsw")


def test_the_child_can_use_the_store_and_the_parents_goes_on(tmp_path: Path) -> None:
    code = """
        child = os.fork()
        if not child:
            say(put("before", "in the child"))
            store.close()
            sys.exit(7)
        wait_for(child)
        say(put("in the child", "after"))
        say(count())
        store.close()
        """
    with running(tmp_path, BUSY, code) as script:
        script.expect(
            "['accepted']", "['known', 'accepted']", "child ended with 7", "['known', 'accepted']", "3",
        )  # fmt: skip

        assert (script.end(), script.errors) == (0, "")


def test_a_fork_among_many_callers_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """What the parent's threads have asked is done by the parent alone, while children use stores of their own."""
    code = """
        def enqueue(who):
            for n in range(60):
                put(f"{who}-{n}")

        threads = [threading.Thread(target=enqueue, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        parents = store.engine
        for n in range(5):
            child = os.fork()
            if not child:
                assert store.engine is not parents, "its connection is the parent's"
                assert store._thread is None, "it has no thread here"
                assert not store._waiting, "what waited is the parent's"
                fates = put(f"child{n}")
                store.close()
                os._exit(0 if fates == ["accepted"] else 1)
            wait_for(child)
        for thread in threads:
            thread.join()
        say(count())
        store.close()
        """
    with running(tmp_path, BUSY, code) as script:
        script.expect("['accepted']", *["child ended with 0"] * 5, str(1 + 4 * 60 + 5))

        assert (script.end(), script.errors) == (0, "")


def test_a_store_that_was_closed_is_closed_in_the_child_too(tmp_path: Path) -> None:
    code = """
        store.close()
        child = os.fork()
        if not child:
            try:
                put("in the child")
            except StoreUnavailable as error:
                say("closed" if "closed" in str(error) else error)
            sys.exit()
        wait_for(child)
        """
    with running(tmp_path, BUSY, code) as script:
        script.expect("['accepted']", "closed", "child ended with 0")

        assert (script.end(), script.errors) == (0, "")
