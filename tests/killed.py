"""Tests that are killed, as seen from the tests of what they leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path


def said_by_killed(script: str) -> str:
    """The line that a Python *script* prints before it waits for one, where it is killed. It finds our rooms."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    return said
