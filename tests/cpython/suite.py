"""CPython's own tests of `concurrent.futures`, read from the interpreter that runs this, pointed at another pool.

    python -m tests.cpython.suite list           the names of the tests, one a line
    python -m tests.cpython.suite run NAME       run one; the exit code is an Ending, the reasons are on stderr

Nothing of the suite lives in this repository. It reaches a pool in four ways, and each is turned to ours:

    self.executor_type(...)                      the mixin's attribute is replaced
    futures.ThreadPoolExecutor(...)              its modules see a stand-in for `concurrent.futures`
    Future()                                     replaced while the suite is imported
    python -c "from concurrent.futures import …" the import line of the script is rewritten
"""

from __future__ import annotations

import argparse
import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread  # both bind `Future` now: what follows replaces it for the suite only
import enum
import faulthandler
import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import _base
from pathlib import Path
from typing import Any

SUITE = "test.test_concurrent_futures"
POOL = "tests.cpython.stand_ins:ThreadPool"
FUTURE = "tests.cpython.stand_ins:Future"
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


def load(pool: str, future: str) -> dict[str, unittest.TestCase]:
    """The suite's tests of thread pools and of futures, by `Class.test`, with *pool* and *future* in their places.

    Both are `module:name`. Raises LookupError where the suite no longer has the shape that the replacing relies on:
    a test that quietly ran against the stdlib's pool would prove nothing.
    """
    executor_type, future_type = _named(pool), _named(future)
    theirs, _base.Future = _base.Future, future_type  # type: ignore[misc]
    try:
        modules = list(_import_suite())
    finally:
        _base.Future = theirs  # type: ignore[misc]

    stand_in = _Futures("concurrent.futures")
    vars(stand_in).update(ThreadPoolExecutor=executor_type, Future=future_type)
    for module in modules:
        if vars(module).get("futures") is concurrent.futures:
            vars(module)["futures"] = stand_in
        if "assert_python_ok" in vars(module):
            vars(module)["assert_python_ok"] = _scripts_import(pool, vars(module)["assert_python_ok"])
        mixin = vars(module).get("ThreadPoolMixin")
        if mixin is not None:
            mixin.executor_type = executor_type

    classes = {name: kind for module in modules for name, kind in vars(module).items() if _is_ours_to_pass(kind)}
    if not any(getattr(kind, "executor_type", None) is executor_type for kind in classes.values()):
        raise LookupError(f"{SUITE} has no class of thread pool tests where this looks for them")
    if not any(isinstance(vars(module).get("PENDING_FUTURE"), future_type) for module in modules):
        raise LookupError(f"{SUITE} does not make its futures where this replaces their type")
    return {
        f"{name}.{test}": kind(test)
        for name, kind in sorted(classes.items())
        for test in unittest.defaultTestLoader.getTestCaseNames(kind)
    }


def run(test: unittest.TestCase) -> Ending:
    """Run *test* as its authors do; threads that it leaves behind are a failure too."""
    from test import support  # here: only where the suite is shipped

    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(unittest.TestSuite([test]))
    if not result.wasSuccessful():
        return Ending.FAILED
    if support.environment_altered:
        print("It passed and left something behind: see the warnings above.", file=sys.stderr)
        return Ending.FAILED
    if result.skipped:
        print(*(reason for _, reason in result.skipped), sep="\n", file=sys.stderr)
        return Ending.SKIPPED
    return Ending.PASSED


class _Futures(types.ModuleType):
    """`concurrent.futures` as the suite sees it: all that is not set here is the real module's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)


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
    """Tests of thread pools, and of futures by themselves; not those of processes or interpreters, nor mere mixins."""
    if not (isinstance(kind, type) and issubclass(kind, unittest.TestCase)):
        return False
    bases = {base.__name__ for base in kind.__mro__}
    return "ThreadPoolMixin" in bases or kind.__name__ == "FutureTests"


def _scripts_import(pool: str, assert_python_ok: Callable[..., Any]) -> Callable[..., Any]:
    """*assert_python_ok* for scripts that import *pool* where they would have imported the stdlib's.

    The line is replaced in its place, because when a module is imported decides the order of what runs at exit.
    The scripts run isolated from the environment: they are told where this interpreter found its modules. One that
    hangs shows its stacks and ends.
    """
    module, _, name = pool.partition(":")
    paths = [str(Path(path).resolve()) for path in sys.path]
    prelude = (
        f"import sys; sys.path += [path for path in {paths!r} if path not in sys.path]\n"
        f"import faulthandler; faulthandler.dump_traceback_later({SCRIPT_LIMIT}, exit=True)\n"
    )

    @functools.wraps(assert_python_ok)
    def assert_ok(*args: str, **env: Any) -> Any:
        *flags, script = args
        script, count = re.subn(r"from concurrent\.futures import (\w+)", rf"from {module} import {name} as \1", script)
        if flags != ["-c"] or count != 1:
            raise LookupError(f"a script that does not import a pool as expected: {args!r}")
        return assert_python_ok("-c", prelude + script, **env)

    return assert_ok


def main() -> int:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpython.suite", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["list", "run"])
    parser.add_argument("name", nargs="?", help="Class.test")
    parser.add_argument("--pool", default=POOL, help="module:name of an Executor (default: %(default)s)")
    parser.add_argument("--future", default=FUTURE, help="module:name of its Future (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=40.0, help="seconds until it shows its stacks and ends")
    asked = parser.parse_args()

    faulthandler.dump_traceback_later(asked.timeout, exit=True)  # counts the interpreter's exit too
    tests = load(asked.pool, asked.future)
    if asked.verb == "list":
        print(*tests, sep="\n")
        return 0
    return run(tests[asked.name])


if __name__ == "__main__":
    sys.exit(main())
