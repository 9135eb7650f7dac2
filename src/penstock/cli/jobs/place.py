"""Where in the user's code an error came from, told from its printed traceback: its frames were in another process."""

from __future__ import annotations

import re
from typing import Final

FRAME: Final = re.compile(r'^[ |]*File "(.*)", line (\d+), in (.*)$', re.MULTILINE)  # as the traceback module has it
OF_OTHERS: Final = re.compile(r"[\\/](?:site-packages|dist-packages|lib[\\/]python3\.\d+)[\\/]|[\\/]penstock[\\/]|^<")


def place(traceback: str) -> str:
    """Where in the user's code a printed *traceback* ends, as `file:line in function`; empty if it has no frames."""
    frames: list[tuple[str, str, str]] = FRAME.findall(traceback)
    own = [frame for frame in frames if not OF_OTHERS.search(frame[0])] or frames
    return "{}:{} in {}".format(*own[-1]) if own else ""
