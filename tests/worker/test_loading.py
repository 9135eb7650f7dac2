"""What a worker process loads before it can work: its start is what a job waits for whose process has died."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.gates import GUARD


def test_a_child_loads_no_pool_of_processes_before_a_task_asks_for_one() -> None:
    script = (
        "import sys, penstock.worker.child, penstock.pool.threads\n"
        "print([name for name in sys.modules if name.startswith(('penstock.pool.processes', 'multiprocessing'))])"
    )
    # One that is measured imports multiprocessing for that.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=6 * GUARD, check=True, env=unmeasured
    )
    assert ran.stdout == "[]\n"
