"""Who is calling: a plain thread, or one that runs an event loop and must not be blocked."""

from __future__ import annotations

import sys
import threading


def on_event_loop() -> bool:
    """Whether waiting here would stop an event loop.

    The loop of a notebook's kernel doesn't count: each cell runs in it, and is meant to wait.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not _in_notebook()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    if ipython is None or threading.current_thread() is not threading.main_thread():
        return False
    get_shell = getattr(ipython, "get_ipython", None)  # not there while IPython is being imported
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None
