"""A disk so small that a test can fill it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """All of *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        """Leave no byte free."""
        free = shutil.disk_usage(self.folder).free
        with self._filling.open("wb", buffering=0) as file:
            while free > 0:
                free -= file.write(bytes(min(free, 1 << 16)))

    def make_room(self) -> None:
        """Free what was filled."""
        self._filling.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A disk of so many *megabytes*, mounted at *folder*; where that may not be done the test is skipped."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"no small disk could be made: {made.stderr}")
        pytest.skip(f"no small disk could be made: {made.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
