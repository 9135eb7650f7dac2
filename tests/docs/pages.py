"""The pages that a reader sees, and what is in them: fenced blocks, links, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

PAGES: Final = sorted(
    path.relative_to(ROOT)
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
)

_FENCE: Final = re.compile(r"^```(\w*)\s*$")
_MARK: Final = re.compile(r"^<!-- (no-run|output) -->$")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block. *line*: of its opening fence, from 1. *mark*: what the line before the fence says of it."""

    language: str
    line: int
    code: str
    mark: str | None


def read(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of *page*, in order."""
    found: list[Block] = []
    opened: tuple[str, int, str | None] | None = None
    inside: list[str] = []
    before = ""
    for number, line in enumerate(read(page).splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            mark = _MARK.match(before.strip())
            opened, inside = (fence[1], number, mark[1] if mark else None), []
        elif opened is not None and line == "```":
            found.append(Block(opened[0], opened[1], "\n".join(inside) + "\n", opened[2]))
            opened = None
        elif opened is not None:
            inside.append(line)
        before = line
    assert opened is None, f"{page}: the block of line {opened and opened[1]} is never closed"
    return found


def _without_code(page: Path) -> list[str]:
    lines, inside = [], False
    for line in read(page).splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def links(page: Path) -> list[str]:
    """The targets of the links of *page*; the words of a link may stand on two lines."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", "\n".join(_without_code(page))))


def anchors(page: Path) -> set[str]:
    """What can stand after # in a link to *page*: its headings, as the usual renderers spell them."""
    found: set[str] = set()
    for line in _without_code(page):
        heading = _HEADING.match(line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            same = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
            found.add(f"{slug}-{same}" if same else slug)
    return found
