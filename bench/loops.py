"""The faster event loop, where there is one."""

import asyncio
import importlib.util
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_fast(coroutine: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in uvloop if it is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(coroutine)
    import uvloop

    result: T = uvloop.run(coroutine)
    return result
