"""The demo tells its story to the end, without a terminal."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
LONGEST = 60.0  # seconds: 40 where nothing else runs


@pytest.mark.timeout(3 * LONGEST)
def test_the_demo_tells_its_six_acts_in_time_and_the_accounts_balance() -> None:
    began = time.monotonic()
    told = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=2 * LONGEST, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    assert time.monotonic() - began < LONGEST
    assert "\x1b" not in told.stdout + told.stderr
    assert set(re.findall(r"Worker \d started job (\d)", told.stdout)) == set("12345")
    assert "Shutdown complete" in told.stdout
    for failure in ("FileNotFoundError", "IsADirectoryError", "DeadlineExceeded"):
        assert f"1 × {failure}" in told.stdout
    assert re.search(r"never more than (\d\d?|100) seen waiting", told.stdout)
    assert re.search(r"penstock: out after [12]\.\d\d s, exit code 143", told.stdout)
    assert "in hung" in told.stdout
    assert re.search(r"ThreadPoolExecutor.* still hanging", told.stdout)
    assert re.search(r"job 21 \(compute\): its worker process was ended by SIGKILL", told.stdout)
    assert "and 39 gave their result" in told.stdout
    kill, stop = told.stdout.index("Killed the supervisor"), told.stdout.index("Exit code 0. Of the 30")
    assert 1 <= told.stdout.count("then in process") <= 19, "some were running, or had not been told of"
    assert re.search(r"90 of 90 jobs are done\.\n.* that [78]\d ran once", told.stdout[kill:stop])
    assert re.search(
        r"\.py: in process \d+ with token 1( \(cut in the middle\))?, then in process \d+ with token [23]",
        told.stdout[kill:stop],
    )
    assert re.search(r"attempt 1: crashed .*\n +its process ended", told.stdout[kill:stop])
    assert re.search(r"stopped in \d\.\d s of 25: \d+ done(, \d handed back)?, 0 abandoned", told.stdout[kill:stop])
    assert told.stdout.count("balanced") == 5
