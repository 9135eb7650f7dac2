"""A fork: the child may use the store, the parent notices nothing, and neither harms the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engines.kinds import A, Desk
from tests.engines.sqlite.script import with_engine

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# 3.12 warns of any fork in a process with threads, which is what these tests are about.
BEGIN = """
import warnings

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def of_the_file():
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.lexists(link)]
    return sorted(os.path.basename(name) for name in names if "jobs.db" in name or name.startswith("socket:"))


def forked(in_child):
    child = os.fork()
    if not child:
        try:
            in_child()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


engine.open()
"""


def test_nothing_of_the_file_is_open_in_the_child(tmp_path: Path, url: str) -> None:
    code = """
        bell = Bell()
        ask(Renew([Beat(5, first=True)], 30.0))
        engine.find(Counts())
        engine.wait(bell, 0)
        put("a")
        engine.wait(bell, 1.01)
        engine.wait(bell, 1.01)
        say(len(of_the_file()) > 6)
        forked(lambda: say(of_the_file()))
    """
    with with_engine(tmp_path / "script", url, BEGIN + code.replace("\n        ", "\n")) as script:
        script.expect("True", "[]")
        assert script.end() == 0, script.errors


def test_child_and_parent_both_go_on(tmp_path: Path, url: str, desk: Desk) -> None:
    code = """
        put("before")
        engine.find(Counts())
        forked(lambda: (put("in the child"), say(len(engine.find(Search())))))
        put("after")
        say(len(engine.find(Search())))
    """
    with with_engine(tmp_path / "script", url, BEGIN + code.replace("\n        ", "\n")) as script:
        script.expect("2", "3")
        assert script.end() == 0, script.errors

    assert desk.searched() == ["after", "in the child", "before"]
    assert desk.complaints() == []


def test_a_fork_waits_for_a_transaction_of_another_thread(tmp_path: Path, url: str, desk: Desk) -> None:
    code = """
        is_inside, may_go_on = threading.Event(), threading.Event()
        finish = Step.finish
        Step.finish = lambda step: (finish(step), is_inside.set(), may_go_on.wait())
        thread = threading.Thread(target=put, args=("a",))
        thread.start()
        is_inside.wait()
        threading.Timer(0.05, may_go_on.set).start()  # whichever comes first, it or the fork
        forked(lambda: (put("in the child"), say("child")))
        thread.join()
        say("parent")
    """
    with with_engine(tmp_path / "script", url, BEGIN + code.replace("\n        ", "\n")) as script:
        script.expect("child", "parent")
        assert script.end() == 0, script.errors

    assert desk.searched() == ["in the child", "a"]
    assert desk.complaints() == []


def test_a_fork_in_the_middle_of_a_long_transaction_leaves_the_child_without_the_store(
    tmp_path: Path, url: str, desk: Desk
) -> None:
    code = """
        from penstock.engines.sqlite import engine as module
        from penstock.errors import StoreUnavailable

        module._STILL = 0.01
        is_inside, may_go_on = threading.Event(), threading.Event()
        finish = Step.finish
        Step.finish = lambda step: (finish(step), is_inside.set(), may_go_on.wait())
        thread = threading.Thread(target=put, args=("a",))
        thread.start()
        is_inside.wait()


        def try_it():
            for which in (engine, SQLiteEngine(engine.url)):
                try:
                    which.transact([Put([NewJob("b", "work")])])
                except StoreUnavailable as error:
                    say("in use when this process was forked" in str(error))


        forked(try_it)
        may_go_on.set()
        thread.join()
    """
    with with_engine(tmp_path / "script", url, BEGIN + code.replace("\n        ", "\n")) as script:
        script.expect("True", "True")
        assert script.end() == 0, script.errors

    assert desk.searched() == ["a"]
    assert desk.complaints() == []


def test_a_child_does_not_keep_the_turn_of_a_parent_that_was_killed(tmp_path: Path, url: str, desk: Desk) -> None:
    code = """
        put("before")
        if not os.fork():
            say("forked")
            time.sleep(3600)
        stay_inside()
        put("lost")
    """
    with with_engine(tmp_path / "script", url, BEGIN + code.replace("\n        ", "\n")) as script:
        script.expect_in_any_order("forked", "inside")
        script.process.kill()
        script.end()

        desk.put("a")
        desk.renew(A, first=True)
        assert desk.claim_ids(A) == ["before", "a"]
