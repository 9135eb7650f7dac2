"""The promise: these names, and a standard-library-only import."""

import json
import subprocess
import sys
from types import ModuleType

import pytest

import penstock

PUBLIC = {
    "AnyJob",
    "App",
    "AsyncPool",
    "BacklogFull",
    "Cancelled",
    "Context",
    "DeadlineExceeded",
    "Discard",
    "EnqueuedInPart",
    "ExecutorPool",
    "Failure",
    "Failures",
    "Handle",
    "Incomplete",
    "Job",
    "JobAbandoned",
    "JobCancelled",
    "JobDropped",
    "JobFailed",
    "JobKilled",
    "JobState",
    "JobUnknown",
    "LeaseLost",
    "NestedWait",
    "NoResult",
    "NotCommitted",
    "NotDecodable",
    "NotEncodable",
    "NotPicklable",
    "OutcomeUnknown",
    "PenstockError",
    "PoolBroken",
    "PoolClosed",
    "ProcessPool",
    "Progress",
    "Refused",
    "RemoteTraceback",
    "Report",
    "Retry",
    "Shutdown",
    "Snooze",
    "Stats",
    "StoreError",
    "StoreInvalid",
    "StoreUnavailable",
    "StuckJob",
    "Task",
    "ThreadPool",
    "WorkerDied",
    "acomplete",
    "complete",
    "current_context",
    "current_job",
    "graceful",
    "lifespan",
}

# What an import must not cost anybody who does not use it.
HEAVY = {"msgspec", "apsw", "asyncio", "sqlite3", "multiprocessing", "ssl", "http.client", "email", "click", "rich"}

LOADED = """
import json, sys
before = set(sys.modules)
import penstock
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by_importing_penstock() -> set[str]:
    # -I: neither the environment nor the current folder decides what is found.
    told = subprocess.run([sys.executable, "-I", "-c", LOADED], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(told.stdout))


def test_all_is_exactly_the_public_names() -> None:
    assert set(penstock.__all__) == PUBLIC
    assert len(penstock.__all__) == len(PUBLIC), "a name stands twice"


def test_the_package_shows_nothing_but_its_public_names() -> None:
    shown = {
        name
        for name in dir(penstock)
        if not name.startswith("_") and not isinstance(getattr(penstock, name), ModuleType) and name != "annotations"
    }
    assert shown == PUBLIC


def test_a_name_that_is_not_there_is_missing_in_the_words_of_python() -> None:
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'ThreadPol'"):
        penstock.ThreadPol  # noqa: B018


def test_every_public_class_and_function_says_where_it_is_at_home_and_what_it_gives() -> None:
    for name in PUBLIC:
        value = getattr(penstock, name)
        assert value.__module__.partition(".")[0] == "penstock", name
        assert value.__doc__, f"{name} has no docstring"


def test_importing_penstock_loads_the_standard_library_only() -> None:
    roots = {name.partition(".")[0] for name in loaded_by_importing_penstock()}
    # The interpreter's own build data, as sysconfig loads it, has a name made for each platform.
    foreign = {name for name in roots - sys.stdlib_module_names if not name.startswith("_sysconfigdata")}

    assert foreign == {"penstock"}


def test_importing_penstock_loads_nothing_heavy() -> None:
    assert not loaded_by_importing_penstock() & HEAVY


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
from penstock import *
def work() -> None: ...
try:
    App("memory://").task(work)
except ImportError as error:
    print(error)
"""


def test_all_names_can_be_imported_without_the_extras_and_what_needs_one_says_which() -> None:
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_MSGSPEC], capture_output=True, text=True, timeout=30, check=True
    )
    assert told.stdout == "durable jobs need msgspec, which comes with: pip install 'penstock[sqlite]'\n"
