"""Where a coroutine stands: the calls that wait for one another, from the user's first to the innermost."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Any

from penstock.pool.stacks import is_ours, stack_of, text_of


def stack_of_coroutine(coroutine: Any, thread: threading.Thread | None) -> str:
    """Where *coroutine* stands, as a traceback prints it; empty if it has ended. *thread*: that of its loop.

    `Task.get_stack` shows but the outermost of the coroutines that wait for one another, and that one is ours. Safe
    from any thread: each step is one look at one object, which is sound whether it goes on meanwhile or not.
    """
    if coroutine.cr_running:  # it holds the loop up, or makes a step just now
        return stack_of(thread, below=coroutine.cr_code)
    frames = [frame for frame in _chain(coroutine) if not is_ours(frame)]
    return text_of(frames)


def _chain(waiting: Any) -> Iterator[traceback.FrameSummary]:
    """The frames of the coroutines and generators that wait for one another, outermost first."""
    for _ in range(1_000):
        for kind in ("cr", "gi", "ag"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)
                break
        else:
            return
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
