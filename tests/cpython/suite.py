"""CPython's own tests of `concurrent.futures`, read from the interpreter that runs this, pointed at other pools.

Nothing of the suite lives in this repository. It reaches a pool in four ways, and each is turned to ours:

    self.executor_type(...)                      the mixins' attributes are replaced
    futures.ThreadPoolExecutor(...)              its modules see a stand-in for `concurrent.futures`
    Future()                                     replaced while the suite is imported
    python -c "from concurrent.futures import …" the import line of the script is rewritten
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread  # both bind `Future` now: what follows replaces it for the suite only
import enum
import functools
import importlib
import importlib.util
import multiprocessing.util
import pkgutil
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import _base
from pathlib import Path
from typing import Any

from penstock import RemoteTraceback, timers

SUITE = "test.test_concurrent_futures"
THREADS = "tests.cpython.stand_ins:ThreadPool"
PROCESSES = "tests.cpython.stand_ins:ProcessPool"
FUTURE = "tests.cpython.stand_ins:Future"
PROCESS_MIXINS = ("ProcessPoolForkserverMixin", "ProcessPoolSpawnMixin")  # a plain fork is refused
WITHOUT_MIXIN = ("FutureTests", "FailingInitializerResourcesTest")
SCRIPT_LIMIT = 15.0  # seconds until a script that hangs, at its exit too, shows its stacks and ends


class Ending(enum.IntEnum):
    """How a test ended, as the exit code of the interpreter that ran it. Any other code is a crash."""

    PASSED = 0
    FAILED = 4  # not 1: that is how an interpreter ends that never came to the test
    SKIPPED = 5


def is_shipped() -> bool:
    """Whether this interpreter was installed with the suite; many are not."""
    try:
        spec = importlib.util.find_spec(SUITE)
    except ModuleNotFoundError:  # not even the `test` package
        return False
    return spec is not None and spec.origin is not None  # an empty folder has no origin


def load(threads: str, processes: str, future: str) -> dict[str, unittest.TestCase]:
    """The suite's tests of pools and futures, by `Class.test`, with *threads*, *processes*, *future* in their places.

    Each is `module:name`. Raises LookupError where the suite no longer has the shape that the replacing relies on:
    a test that quietly ran against the stdlib's pool would prove nothing.
    """
    thread_pool, process_pool, future_type = _named(threads), _named(processes), _named(future)
    theirs, _base.Future = _base.Future, future_type  # type: ignore[misc]
    try:
        modules = list(_import_suite())
    finally:
        _base.Future = theirs  # type: ignore[misc]

    process = _Like(concurrent.futures.process, _RemoteTraceback=RemoteTraceback)
    changed = {"ThreadPoolExecutor": thread_pool, "Future": future_type}
    changed_for_processes = {**changed, "ProcessPoolExecutor": process_pool, "process": process}
    executor_types = {**dict.fromkeys(PROCESS_MIXINS, process_pool), "ThreadPoolMixin": thread_pool}
    imported = {"ThreadPoolExecutor": threads, thread_pool.__name__: threads, process_pool.__name__: processes}
    for module in modules:
        if vars(module).get("futures") is concurrent.futures:
            # Tests of threads fork beside them by the stdlib's own pool of processes.
            has_processes = not vars(module).keys().isdisjoint(PROCESS_MIXINS)
            seen = changed_for_processes if has_processes else changed
            vars(module)["futures"] = _Like(concurrent.futures, **seen)
        if "assert_python_ok" in vars(module):
            vars(module)["assert_python_ok"] = _scripts_import(imported, vars(module)["assert_python_ok"])
        for mixin in executor_types.keys() & vars(module).keys():
            vars(module)[mixin].executor_type = executor_types[mixin]

    classes = {name: kind for module in modules for name, kind in vars(module).items() if _is_ours_to_pass(kind)}
    for pool in (thread_pool, process_pool):
        if not any(getattr(kind, "executor_type", None) is pool for kind in classes.values()):
            raise LookupError(f"{SUITE} has no class of pool tests where this looks for them")
    if not any(isinstance(vars(module).get("PENDING_FUTURE"), future_type) for module in modules):
        raise LookupError(f"{SUITE} does not make its futures where this replaces their type")
    return {
        f"{name}.{test}": kind(test)
        for name, kind in sorted(classes.items())
        for test in unittest.defaultTestLoader.getTestCaseNames(kind)
    }


def run(test: unittest.TestCase) -> Ending:
    """Run *test* as its authors do; threads and processes that it leaves behind are a failure too."""
    from test import support  # here: only where the suite is shipped

    _start_what_lasts()
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(test)
    if not result.wasSuccessful():
        return Ending.FAILED
    multiprocessing.util._cleanup_tests()  # type: ignore[attr-defined] # what its modules do at their end
    if support.environment_altered:
        print("It passed and left something behind: see the warnings above.", file=sys.stderr)
        return Ending.FAILED
    if result.skipped:
        print(*(reason for _, reason in result.skipped), sep="\n", file=sys.stderr)
        return Ending.SKIPPED
    return Ending.PASSED


def _start_what_lasts() -> None:
    """The threads that serve the whole process and outlive any pool: there before the suite counts threads."""
    timers._CALLBACK_THREADS = 1
    timers._timers.stand_by()
    timers._callbacks.stand_by()


class _Like(types.ModuleType):
    """A module as the suite sees it: all that is not set here is the real one's."""

    def __init__(self, real: types.ModuleType, **changed: Any) -> None:
        super().__init__(real.__name__)
        vars(self).update(changed, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)


def _named(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def _import_suite() -> Iterator[types.ModuleType]:
    """Its modules: one up to Python 3.11, a package since 3.12."""
    suite = importlib.import_module(SUITE)
    yield suite
    for found in pkgutil.iter_modules(getattr(suite, "__path__", [])):
        try:
            yield importlib.import_module(f"{SUITE}.{found.name}")
        except unittest.SkipTest:  # not for this platform as a whole
            continue


def _is_ours_to_pass(kind: object) -> bool:
    """Tests of pools, and of futures by themselves; not those of interpreters or of plain forks, nor mere mixins."""
    if not (isinstance(kind, type) and issubclass(kind, unittest.TestCase)):
        return False
    bases = {base.__name__ for base in kind.__mro__}
    return bool(bases & {"ThreadPoolMixin", *PROCESS_MIXINS}) or kind.__name__ in WITHOUT_MIXIN


def _scripts_import(pools: Mapping[str, str], assert_python_ok: Callable[..., Any]) -> Callable[..., Any]:
    """*assert_python_ok* for scripts that import one of *pools*, by the name of what they import from the stdlib.

    The line is replaced in its place, because when a module is imported decides the order of what runs at exit.
    The scripts run isolated from the environment: they are told where this interpreter found its modules. One that
    hangs shows its stacks and ends.
    """
    paths = [str(Path(path).resolve()) for path in sys.path]
    prelude = (
        f"import sys; sys.path += [path for path in {paths!r} if path not in sys.path]\n"
        f"import faulthandler; faulthandler.dump_traceback_later({SCRIPT_LIMIT}, exit=True)\n"
    )

    def ours(line: re.Match[str]) -> str:
        module, _, name = pools[line[1]].partition(":")
        return f"from {module} import {name} as {line[1]}"

    @functools.wraps(assert_python_ok)
    def assert_ok(*args: str, **env: Any) -> Any:
        *flags, script = args
        script, count = re.subn(r"from concurrent\.futures import (\w+)", ours, script)
        if flags != ["-c"] or count != 1:
            raise LookupError(f"a script that does not import a pool as expected: {args!r}")
        return assert_python_ok("-c", prelude + script, **env)

    return assert_ok
