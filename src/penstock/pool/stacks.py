"""Where a thread stands, and what of a traceback is the user's: penstock's own frames tell him nothing."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
import types
from typing import Final

_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DEEPEST: Final = 30  # frames shown, the innermost ones
_COLLECTOR_MAY_RUN_ANYWHERE: Final = sys.version_info < (3, 12)
_looking = threading.Lock()  # a leaf: two threads that look must not find the collector disabled by one another


def stack_of(thread: threading.Thread | None) -> str:
    """Where *thread* stands, from the user's first frame on, as a traceback prints it; empty if it has ended."""
    if thread is None or thread.ident is None or not thread.is_alive():  # the ident may be another thread's by now
        return ""
    frame = _current_frame_of(thread.ident)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    first = 0
    while first < len(frames) and _begins_a_thread(frames[first]):
        first += 1
    shown = frames[first:] or frames[-1:]  # a built-in function has no frame: show who called it
    return "".join(traceback.format_list(shown[-_DEEPEST:]))


def _current_frame_of(ident: int) -> types.FrameType | None:
    """The frame in which thread *ident* is now.

    Before 3.12, `sys._current_frames` holds a lock of the interpreter while the collector may run; what that calls
    may hand the interpreter on to a thread that needs this lock, to begin or to end. So the collector has to wait.
    """
    if not _COLLECTOR_MAY_RUN_ANYWHERE:
        return sys._current_frames().get(ident)
    with _looking:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(ident)
        finally:
            if was_enabled:
                gc.enable()


def drop_our_frames(error: BaseException) -> None:
    """Let the traceback of *error* begin in the user's code. Our frames would also keep the job alive: a cycle."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE):
        tb = tb.tb_next
    error.__traceback__ = tb


def _begins_a_thread(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_HERE) or (
        frame.filename == threading.__file__ and frame.name in ("_bootstrap", "_bootstrap_inner", "run")
    )


def _start_afresh() -> None:
    """A forked child may find the lock held by a thread that it doesn't have."""
    global _looking
    _looking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
