"""How many processors this process may use, and what libraries with threads of their own are told of that."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

THREAD_LIMITS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
"""Environment variables that say how many threads OpenMP and the BLAS libraries start. Read when these are imported."""


def cpu_count() -> int:
    """How many processors this process may use: by its affinity, and by the quotas of its control groups."""
    asked = getattr(os, "process_cpu_count", None)  # Python 3.13: as PYTHON_CPU_COUNT says, or by affinity
    if asked is not None:
        count = asked() or 1
    else:
        try:
            count = len(os.sched_getaffinity(0))
        except AttributeError:
            count = os.cpu_count() or 1
    granted = quota()
    return count if granted is None else max(1, min(count, math.ceil(granted)))


def quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors that the control groups of this process grant, the least of them; None for no limit."""
    if sys.platform != "linux":
        return None
    granted = [limit for group in _groups(root, own) if (limit := _limit_of(group)) is not None]
    return min(granted, default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders that may limit this process: its groups, those above them, and the root: a container's only one."""
    yield root
    yield root / "cpu"
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = root / "cpu" if controllers else root
            for group in (here := Path(path.lstrip("/")), *here.parents):
                if ".." not in group.parts:  # outside of what this process sees
                    yield top / group


def _limit_of(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limit = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    return None


def thread_limits(count: int) -> dict[str, str]:
    """What a worker's environment is to say: what ours does, else *count* threads."""
    return {name: os.environ.get(name, str(count)) for name in THREAD_LIMITS}
