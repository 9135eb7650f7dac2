"""The same function on threads, on processes and on a Dask cluster. One line is different: the one that makes the pool.

    python examples/one_line.py threads|processes|dask [FOLDER]     default: Python's own asyncio

It looks for the longest functions in the Python files of a folder, and says which processes did that. The cluster is
two processes of this machine (`pip install distributed`); with one on other machines, give `Client` its address.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from pathlib import Path

from penstock import ExecutorPool, ProcessPool, ThreadPool


def longest_function(path: str) -> tuple[int, str, int]:
    """Lines and place of the longest function in the file *path*, and which process looked."""
    tree = ast.parse(Path(path).read_bytes(), path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or 0) - node.lineno + 1, f"{path}:{node.lineno} {node.name}") for node in functions]
    return *max(lengths, default=(0, path)), os.getpid()


def look(pool: ThreadPool | ProcessPool | ExecutorPool, paths: list[str]) -> None:
    """Print the three longest, and what became of the jobs: the same for every kind of pool."""
    found: list[tuple[int, str]] = []
    processes: set[int] = set()
    with pool:
        for job in pool.options(timeout=30).stream(longest_function, paths):
            if job.exception() is None:  # else the pool has counted it
                lines, place, process = job.result()
                found.append((lines, place))
                processes.add(process)
    for lines, place in sorted(found, reverse=True)[:3]:
        print(f"{lines} lines: {place}")
    for failure in pool.failures:
        print(f"failed {failure}")
    print(f"ran in {sorted(processes)}; this process is {os.getpid()}")
    print(pool.report)


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "none"
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(sysconfig.get_path("stdlib"), "asyncio")
    paths = [str(path) for path in sorted(folder.rglob("*.py"))]
    match kind:
        case "threads":
            look(ThreadPool(2), paths)
        case "processes":
            look(ProcessPool(2), paths)
        case "dask":
            from distributed import Client

            with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
                look(ExecutorPool(client.get_executor(pure=False)), paths)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":  # worker processes import this file
    main()
