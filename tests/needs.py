"""Packages that some tests need and the development lock has: without one they are skipped, but fail where CI runs."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def needed(module: str) -> Any:
    """The *module*, for a test file that can't do without it."""
    if os.environ.get("CI"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed; `make venv` does that")
