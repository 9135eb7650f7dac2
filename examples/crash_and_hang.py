"""Work that keeps processors busy, over real files, with one job that crashes and one that hangs. All others go well.

python examples/crash_and_hang.py [FOLDER]     default: a part of the Python installation that runs it

Each job counts the kinds of syntax in one file. Two more are planted: one reads memory that isn't there, as a faulty
extension module would, and one never ends. With concurrent.futures.ProcessPoolExecutor the first breaks the executor
and every job with it, and the second keeps the program from ending.
"""

from __future__ import annotations

import ast
import ctypes
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from penstock import DeadlineExceeded, ProcessPool, WorkerDied

CRASHES, HANGS = "planted: crashes", "planted: hangs"


def kinds_of_syntax(path: str) -> Counter[str]:
    """How many nodes of each kind the syntax tree of a file has."""
    if path == CRASHES:
        ctypes.string_at(0)
    while path == HANGS:
        pass
    return Counter(type(node).__name__ for node in ast.walk(ast.parse(Path(path).read_bytes())))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(sysconfig.get_path("stdlib")) / "json"
    paths = [str(path) for path in sorted(folder.rglob("*.py"))]
    paths[len(paths) // 2 : len(paths) // 2] = [CRASHES, HANGS]

    total: Counter[str] = Counter()
    with ProcessPool(timeout=2, kill_after=0.5, name="syntax", unobserved="ignore") as pool:
        jobs = {path: pool.submit(kinds_of_syntax, path) for path in paths}
        for path, job in jobs.items():
            try:
                total += job.result()
            except WorkerDied as died:
                print(f"{path}: its worker died (exit code {died.exitcode}), at")
                print(f"    {died.traceback.strip().splitlines()[-2].strip()}")
            except DeadlineExceeded as late:
                print(f"{path}: {late}; its worker is killed")
            except SyntaxError as error:
                print(f"{path}: {error}")
    print(f"{len(paths)} files, {sum(total.values()):,} nodes; most often {total.most_common(1)[0][0]}")
    print(pool.report)


if __name__ == "__main__":
    main()
