"""The command line of `tests.cpython.suite`; workers of a pool don't import it, as they would a module that is run.

python -m tests.cpython list           the names of the tests, one a line
python -m tests.cpython run NAME       run one; the exit code is an Ending, the reasons are on stderr
"""

from __future__ import annotations

import argparse
import faulthandler
import sys

from tests.cpython import suite


def main() -> int:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpython", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["list", "run"])
    parser.add_argument("name", nargs="?", help="Class.test")
    parser.add_argument("--threads", default=suite.THREADS, help="module:name of an Executor (default: %(default)s)")
    parser.add_argument("--processes", default=suite.PROCESSES, help="the same (default: %(default)s)")
    parser.add_argument("--future", default=suite.FUTURE, help="module:name of their Future (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=40.0, help="seconds until it shows its stacks and ends")
    asked = parser.parse_args()

    faulthandler.dump_traceback_later(asked.timeout, exit=True)  # counts the interpreter's exit too
    tests = suite.load(asked.threads, asked.processes, asked.future)
    if asked.verb == "list":
        print(*tests, sep="\n")
        return 0
    return suite.run(tests[asked.name])


if __name__ == "__main__":
    sys.exit(main())
