"""Names of parametrized cases that are the same in each run, so that one can be asked for again."""

from __future__ import annotations

import re


def told(value: object) -> str:
    """*value* as `repr` has it, but without the address of what it is made of."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
