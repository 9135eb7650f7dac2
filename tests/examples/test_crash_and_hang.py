"""crash_and_hang.py as its user sees it: two jobs fail, and say how; all others give their results; it ends in time."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "crash_and_hang.py"
LONGEST = 15.0  # seconds; the hanging job has 2


def test_a_crash_and_a_hang_cost_two_jobs() -> None:
    files = len(list(Path(json.__file__).parent.rglob("*.py")))
    began = time.monotonic()

    told = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    assert time.monotonic() - began < LONGEST
    assert "planted: crashes: its worker died (exit code -11), at" in told.stdout
    assert "string_at" in told.stdout
    assert "planted: hangs: " in told.stdout
    assert "exceeded its limit of 2 s; its worker is killed" in told.stdout
    assert f"{files + 2} files, " in told.stdout
    assert re.search(rf"{files + 2} accepted: {files} done, 2 failed", told.stdout)
