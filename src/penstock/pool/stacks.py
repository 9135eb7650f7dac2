"""Where a thread stands, and what of a traceback is the user's: penstock's own frames tell him nothing."""

from __future__ import annotations

import concurrent.futures.thread
import gc
import itertools
import operator
import os
import re
import sys
import threading
import traceback
import types
from typing import Any, Final

from penstock import raised

_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_DEEPEST: Final = 30  # frames shown, the innermost ones
_looking = threading.Lock()  # a leaf: two threads that look must not find the collector disabled by one another


def stack_of(thread: threading.Thread | None, *, below: types.CodeType | None = None) -> str:
    """Where *thread* stands, from the user's first frame on, as a traceback prints it; empty if it has ended.

    *below*: from what the innermost call of this code has called.
    """
    if thread is None or thread.ident is None or not thread.is_alive():  # the ident may be another thread's by now
        return ""
    frames = _frames_of(thread.ident)
    if not frames:
        return ""
    first = 0
    while first < len(frames) and _begins_a_thread(frames[first]):
        first += 1
    if below is not None:
        of = [n for n, f in enumerate(frames) if (f.filename, f.name) == (below.co_filename, below.co_name)]
        first = of[-1] + 1 if of else first
    return text_of(frames[first:] or frames[-1:])  # a built-in function has no frame: show who called it


def text_of(frames: list[traceback.FrameSummary]) -> str:
    """*frames* as a traceback prints them, the innermost ones if they are many."""
    return "".join(traceback.format_list(frames[-_DEEPEST:]))


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Whether it is a call inside of Penstock."""
    return frame.filename.startswith(_HERE)


_place = operator.attrgetter("f_code", "f_lineno")


def _frames_of(ident: int) -> traceback.StackSummary:
    """Where thread *ident* is now, outermost call first.

    One call of C code from the look at the thread to the last of its frames, so that no other thread runs meanwhile:
    a frame whose thread goes on must not be asked for its caller, which may be gone (CPython 3.11 crashes). And
    with the collector off: before 3.12 it may run inside of the look, which holds a lock of the interpreter.
    """
    found: list[tuple[types.CodeType, int | None]] = []
    looked: Any = map(operator.itemgetter(ident), itertools.starmap(sys._current_frames, [()]))
    up: Any = itertools.accumulate(itertools.chain(looked, itertools.repeat("f_back")), getattr)
    with _looking:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            found.extend(itertools.islice(map(_place, up), 10_000))
        except (AttributeError, KeyError):
            pass  # None has no frame above it; no such thread
        finally:
            if was_enabled:
                gc.enable()
    del up, looked
    return traceback.StackSummary.from_list(
        [traceback.FrameSummary(code.co_filename, line or 0, code.co_name) for code, line in reversed(found)]
    )


_DUMPED: Final = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def innermost_last(dump: str) -> str:
    """What faulthandler wrote of a thread, in the order and words of a traceback, from the user's first frame on."""
    frames = [traceback.FrameSummary(file, int(line), name) for file, line, name in reversed(_DUMPED.findall(dump))]
    own = [number for number, frame in enumerate(frames) if frame.filename.startswith(_HERE)]
    shown = frames[own[-1] + 1 :] if own else frames
    return "".join(traceback.format_list((shown or frames[-1:])[-_DEEPEST:]))


def where_it_stands(stack: str) -> str:
    """*stack* as the end of a sentence about a job; it may not be known."""
    return f"stands at:\n{stack.rstrip()}" if stack else "can't be seen from here"


def in_the_midst_of_ours(own_file: str) -> bool:
    """Whether the calling code of *own_file* was called by the library's own code, maybe through the stdlib.

    If it is the end of a generator there, the collector has brought it about, and a lock may be held. While a user's
    code runs, none is.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != own_file:
            if file.startswith(_HERE):
                return True
            is_stdlib = file.startswith(_STDLIB) and "site-packages" not in file
            if not (is_stdlib or file.startswith("<")):  # "<string>": what dataclasses make, "<frozen abc>"
                return False
        frame = frame.f_back
    return False


def drop_our_frames(error: BaseException) -> None:
    """Let the traceback of *error* begin in the user's code. Our frames would also keep the job alive: a cycle."""
    tb = raised.traceback_of(error)
    while tb is not None and _leads_to_a_job(tb.tb_frame.f_code.co_filename, tb.tb_frame.f_code.co_name):
        tb = tb.tb_next
    raised.set_traceback(error, tb)


def _begins_a_thread(frame: traceback.FrameSummary) -> bool:
    return _leads_to_a_job(frame.filename, frame.name) or (
        frame.filename == threading.__file__ and frame.name in ("_bootstrap", "_bootstrap_inner", "run")
    )


def _leads_to_a_job(file: str, function: str) -> bool:
    """Whether this frame is ours, or that of a thread of the stdlib's pool around ours."""
    return file.startswith(_HERE) or (file == concurrent.futures.thread.__file__ and function in ("_worker", "run"))


def _start_afresh() -> None:
    """A forked child may find the lock held by a thread that it doesn't have."""
    global _looking
    _looking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
