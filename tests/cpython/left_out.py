"""The tests of CPython's suite that our pools need not pass, each with its reason.

python -m tests.cpython.left_out > docs/cpython-suite.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

METHODS: Final = ("Forkserver", "Spawn")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One test that the suite has and we do not run, and why."""

    test: str  # Class.test; a star in the class stands for each of METHODS
    reason: str
    since: tuple[int, ...] = (3, 11)  # first Python whose suite has it
    before: tuple[int, ...] = (4,)  # first Python whose suite has it no more

    @property
    def names(self) -> list[str]:
        """The suite's names for it."""
        return [self.test.replace("*", method) for method in METHODS] if "*" in self.test else [self.test]

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
    LeftOut(
        "ProcessPool*ProcessPoolExecutorTest.test_killed_child",
        "wants the whole pool broken by the death of one worker. Here a worker that dies fails the job that it ran"
        " with `WorkerDied`, a `BrokenProcessPool`, and no other; another takes its place. Workers leave SIGTERM, "
        "which the test sends, to their parent.",
    ),
    LeftOut(
        "ProcessPool*ExecutorDeadlockTest.test_error_at_task_unpickle",
        "wants the whole pool broken by a call that can't be unpickled; it fails its own job, with `NotPicklable`.",
    ),
    LeftOut(
        "ProcessPool*ExecutorDeadlockTest.test_exit_at_task_unpickle",
        "the same for a call that exits while it is unpickled: its job fails with that `SystemExit`, as it does if the "
        "function exits.",
    ),
    LeftOut(
        "ProcessPool*ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler",
        "the same for a result: its job fails with `NotPicklable`.",
    ),
    LeftOut(
        "ProcessPool*ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler",
        "the same for a result that exits while it is unpickled.",
    ),
    LeftOut(
        "ProcessPool*ProcessPoolExecutorTest.test_saturation",
        "counts the processes that were started for jobs which can't be pickled (a semaphore's method); ours fail "
        "at the call and start none.",
    ),
    LeftOut(
        "ProcessPool*ProcessPoolShutdownTest.test_processes_terminate",
        "the same, with a function that can't be pickled.",
    ),
    LeftOut(
        "ProcessPool*ProcessPoolShutdownTest.test_cancel_futures",
        "wants one of the jobs not cancelled that were submitted just before, when no process can have started. The "
        "stdlib's pool takes some for running by then; here a job runs when a worker has it, and until then it can be "
        "cancelled.",
    ),
    LeftOut(
        "ProcessPool*ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context",
        'wants `max_tasks_per_child` to imply the start method "spawn", because the stdlib\'s default was a plain '
        "fork, which can't replace processes safely. Ours never is; the fork server can.",
    ),
    LeftOut(
        "ProcessPool*ProcessPoolExecutorTest.test_python_finalization_error",
        "refuses the second thread that a pool starts, as an ending interpreter does. Ours needs one; if that is "
        "refused, its jobs fail with a `BrokenProcessPool` (`tests/pool/processes/test_lives_of_workers.py`).",
        since=(3, 12, 1),
    ),
    LeftOut(
        "ProcessPool*FailingInitializerTest.test_initializer",
        "wants the record on the stdlib's logger `concurrent.futures`, in the worker. When an initializer raises, the "
        "pool logs it on `penstock.pool` in the main process, at the same level, CRITICAL.",
    ),
    LeftOut(
        "FailingInitializerResourcesTest.test_forkserver",
        "runs the test above, and wants a queue among the initializer's arguments to be free when it has ended, "
        "without a garbage collection; ours may take one.",
        since=(3, 13),
    ),
    LeftOut(
        "FailingInitializerResourcesTest.test_spawn",
        "the same.",
        since=(3, 13),
    ),
    LeftOut(
        "ProcessPool*ProcessPoolShutdownTest.test_submit_after_interpreter_shutdown",
        "looks for `RuntimeError: cannot schedule new futures` in a printed traceback, as for threads.",
    ),
)

PAGE: Final = """\
# CPython's own test suite

CPython ships the tests of its `concurrent.futures`. Penstock's tests run those of `ThreadPoolExecutor`, of
`ProcessPoolExecutor` and of `Future` against `ThreadPool`, `ProcessPool` and `Job`, on every interpreter that ships the
suite (many installers leave it out, and then these tests say so and are skipped). Nothing of the suite is copied: it is
read from the interpreter that runs the tests, each of its tests in a process of its own, so the list follows the Python
at hand.

```sh
make test ARGS='tests/cpython'                       # all of it, each test by its own name
.venv/bin/python -m tests.cpython list               # the names
.venv/bin/python -m tests.cpython run ThreadPoolExecutorTest.test_map
```

What "against `ThreadPool`" means: the suite's `executor_type`, its `futures.ThreadPoolExecutor`, and the import lines
of the scripts that it runs in new interpreters all give `penstock.ThreadPool` with its default settings, likewise
`penstock.ProcessPool` with the start method that the test asks for, and its bare futures are `Job`s. Where a test of
behaviour reads a private name of the stdlib's pool (`_threads`, `_processes`, `_broken`), a subclass answers it;
nothing is left out for that. A test that leaves a thread or a process running fails, as it does in CPython's own
builds.

## Left out

A star stands for `Forkserver` and `Spawn`. The tests for `Fork` are left out as a whole: a plain fork of a process with
threads can hang the child, and is refused (`start_method="fork"` is a `ValueError`).

{table}

The suite itself skips `test_hang_gh83386` for processes, because the stdlib's pool hangs there: a script that ends
after `shutdown(wait=False)`. Ours is asked (`tests/pool/processes/test_exit_with_processes.py`).

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
