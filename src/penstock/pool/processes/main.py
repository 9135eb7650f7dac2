"""Which `__main__` this process has, and how a worker takes it over.

Functions and classes of a script are pickled by name, as `__main__.work`: a worker has to import the script, too. That
is done here and not by multiprocessing, which asks for the script when it starts a process (at the end of the
interpreter the script has lost its name by then), takes "<stdin>" for a file, and can't tell the parent what went
wrong.
"""

from __future__ import annotations

import os.path
import sys
from multiprocessing import process, spawn
from typing import Any

Main = dict[str, str]
"""As `spawn.prepare` takes it: empty if another process can't import it."""

_script: str | None = None  # the last `__file__` that was seen: it goes away when the script has run to its end


def of_this_process() -> Main:
    """What a worker has to import to have the same `__main__`; empty at a prompt, in a notebook, with `-c`."""
    global _script
    main: Any = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        # The `__main__.py` of a package or a folder runs when it is imported, whatever its `__name__` is.
        return {} if name == "__main__" or name.endswith(".__main__") else {"init_main_from_name": name}
    path = _script = getattr(main, "__file__", _script)
    if path is None or (path.startswith("<") and path.endswith(">")):  # standard input
        return {}
    begun_in: str | None = process.ORIGINAL_DIR  # type: ignore[attr-defined]
    return {"init_main_from_path": os.path.normpath(os.path.join(begun_in or "", path))}


def is_only_here() -> bool:
    """Whether `__main__` is something that another process can't import."""
    return not of_this_process()


def take_over(main: Main) -> None:
    """In a worker: import the *main* of its parent, under the name `__mp_main__`, and make it the `__main__`."""
    global _script
    _script = None
    here: Any = process.current_process()
    here._inheriting = True
    try:
        spawn.prepare(main)
    finally:
        del here._inheriting


def is_being_imported() -> bool:
    """Whether this process is a worker that is importing its parent's `__main__` just now, by ours or the stdlib."""
    return getattr(process.current_process(), "_inheriting", False)


of_this_process()
