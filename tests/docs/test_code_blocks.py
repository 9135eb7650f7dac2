"""The code on the pages runs, and prints what the page says that it prints.

The ```python blocks of a page run in order as one script, as a reader would type them. A block with `<!-- no-run -->`
on the line before it is only compiled (it needs a web server, a signal, a module of the reader's). A ```text block with
`<!-- output -->` before it is what the block above it prints; `…` stands for any text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, read

ONLY_COMPILED = {Path("docs/map.md")}  # about a command: its code is a fragment of the reader's file
SEPARATOR = "\x1e"
PATIENCE = 40  # seconds for a page: a guard

CODE_BLOCKS = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]


def runs(page: Path, block: Block) -> bool:
    return block.language == "python" and block.mark != "no-run" and page not in ONLY_COMPILED


PAGES_THAT_RUN = [page for page in PAGES if any(runs(page, block) for block in blocks(page))]


def script_of(page: Path) -> str:
    """The blocks of *page* that run, each line where the page has it, and a separator before each block."""
    lines = [""] * len(read(page).splitlines())
    for block in blocks(page):
        if runs(page, block):
            lines[block.line - 1] = f"print({SEPARATOR!r}, end='', flush=True)"
            for offset, line in enumerate(block.code.splitlines()):
                lines[block.line + offset] = line
    return "\n".join(lines) + "\n"


def outputs_of(page: Path, tmp_path: Path) -> dict[int, str]:
    """Run *page*: what each block printed, by the line of its fence."""
    script = tmp_path / "app.py"
    script.write_text(script_of(page), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, f"{page} (line numbers are the page's):\n{ran.stdout}\n{ran.stderr}"
    printed = ran.stdout.split(SEPARATOR)[1:]
    return dict(zip((block.line for block in blocks(page) if runs(page, block)), printed, strict=True))


def promises_of(page: Path) -> list[tuple[Block, Block]]:
    """Each block that runs with the output that the page promises of it."""
    found, last = [], None
    for block in blocks(page):
        if runs(page, block):
            last = block
        elif block.mark == "output":
            assert last is not None, f"{page}:{block.line}: output of no block"
            found.append((last, block))
    return found


def matches(promised: str, printed: str) -> bool:
    pattern = ".*?".join(re.escape(part) for part in promised.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.parametrize(("page", "block"), CODE_BLOCKS, ids=[f"{page}:{block.line}" for page, block in CODE_BLOCKS])
def test_a_code_block_compiles(page: Path, block: Block) -> None:
    compile(block.code, f"{page}:{block.line}", "exec")


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=str)
def test_the_blocks_of_a_page_run_in_order_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    printed = outputs_of(page, tmp_path)
    for block, promised in promises_of(page):
        told = f"{page}:{promised.line} promises\n{promised.code}\nand the block printed\n{printed[block.line]}"
        assert matches(promised.code, printed[block.line]), told
