"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """*number* and what there is of it: "1 job", "2 jobs"; *many* if that is not *one* and an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
