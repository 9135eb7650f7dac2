"""The tests of CPython's suite that a `ThreadPool` need not pass, each with its reason.

python -m tests.cpython.left_out > docs/cpython-suite.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One test that the suite has and we do not run, and why."""

    test: str  # Class.test
    reason: str
    since: tuple[int, ...] = (3, 11)  # first Python whose suite has it
    before: tuple[int, ...] = (4,)  # first Python whose suite has it no more

    def is_expected_in(self, python: tuple[int, ...]) -> bool:
        """Whether the suite of this version, such as (3, 13, 0), has the test."""
        return self.since <= python < self.before


LEFT_OUT: Final = (
    LeftOut(
        "FutureTests.test_repr",
        "wants the stdlib's wording; the `repr` of a `Job` tells its id, name and state: `<Job 7 resize running>`.",
    ),
    LeftOut(
        "FutureTests.test_cancel",
        "reads the private `_state` between `cancel()` and the moment the executor hears of it; a `Job` has no such "
        "moment, its pool hears of it in the call. What `cancel()` returns in each state is the stdlib's "
        "(`tests/cpython/test_what_the_left_out_tests_are_about.py`).",
    ),
    LeftOut(
        "FutureTests.test_multiple_set_result",
        "sets results by hand. A job is settled by its pool alone, so that the accounts balance: `set_result` always "
        "raises `InvalidStateError`, not only the second time, with a text of its own.",
    ),
    LeftOut(
        "FutureTests.test_multiple_set_exception",
        "sets exceptions by hand; the same as above.",
    ),
    LeftOut(
        "ThreadPoolFailingInitializerTest.test_initializer",
        "wants the record on the stdlib's logger `concurrent.futures`. When an initializer raises, the pool logs it on "
        "`penstock.pool`, at the same level, CRITICAL; waiting and later jobs fail with a `BrokenExecutor`, as there.",
    ),
    LeftOut(
        "ThreadPoolShutdownTest.test_submit_after_interpreter_shutdown",
        "looks for `RuntimeError: cannot schedule new futures` in a printed traceback. Submitting at the end of the "
        "interpreter raises `PoolClosed`, a `RuntimeError` with that text, and its traceback begins with its own name.",
    ),
    LeftOut(
        "ThreadPoolShutdownTest.test_thread_names_default",
        "wants threads that nobody named to be called `ThreadPoolExecutor-…`; ours are called `ThreadPool-…`, "
        "so that a log tells them apart. A `thread_name_prefix` is used as it is given "
        "(`test_thread_names_assigned` passes).",
    ),
)

PAGE: Final = """\
# CPython's own test suite

CPython ships the tests of its `concurrent.futures`. Penstock's tests run those of `ThreadPoolExecutor` and of `Future`
against `ThreadPool` and `Job`, on every interpreter that ships the suite (many installers leave it out, and then these
tests say so and are skipped). Nothing of the suite is copied: it is read from the interpreter that runs the tests, each
of its tests in a process of its own, so the list follows the Python at hand.

```sh
make test ARGS='tests/cpython'                               # all of it, each test by its own name
.venv/bin/python -m tests.cpython.suite list                 # the names
.venv/bin/python -m tests.cpython.suite run ThreadPoolExecutorTest.test_map
```

What "against `ThreadPool`" means: the suite's `executor_type`, its `futures.ThreadPoolExecutor`, and the import lines
of the scripts that it runs in new interpreters all give `penstock.ThreadPool` with its default settings, and its bare
futures are `Job`s. Where a test of behaviour reads a private name of the stdlib's pool (`_threads`, `_broken`), a
subclass answers it; nothing is left out for that. A test that leaves a thread running fails, as it does in CPython's
own builds.

## Left out

{table}

What these tests are about, apart from words and names, `tests/cpython/test_what_the_left_out_tests_are_about.py` asks.

This page is made from the table that the tests use, and the tests fail when the two differ, when an entry names a test
that the running Python's suite does not have, and when a left-out test would pass.
"""


def page() -> str:
    """The documentation page."""
    rows = [f"| `{entry.test}` | {entry.reason} |" for entry in LEFT_OUT]
    return PAGE.format(table="\n".join(["| test | why |", "|---|---|", *rows]))


if __name__ == "__main__":
    sys.stdout.write(page())
