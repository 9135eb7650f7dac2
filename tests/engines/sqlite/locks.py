"""Locks of other processes, seen from outside."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from penstock.engines.sqlite import beside
from tests.gates import GUARD


def wait_until_locked(path: Path) -> None:
    """Return once somebody has locked the file *path*."""
    descriptor = os.open(path, os.O_RDWR)
    patience = threading.Event()
    try:
        for _ in range(int(GUARD * 1_000)):
            if not beside.locked_now(descriptor):
                return
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            patience.wait(0.001)  # nothing tells when somebody else locks a file
        pytest.fail(f"nobody has locked {path}")
    finally:
        os.close(descriptor)
