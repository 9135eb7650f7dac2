"""The locks in requirements/: each pin is exact and hashed, they agree, and none names a place to download from."""

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
PIN = re.compile(r"^([a-z0-9.-]+)==\S+( ; .+)?( --hash=sha256:[0-9a-f]{64})+$")


def pins(name: str) -> list[str]:
    """The lock's logical lines: a backslash at the end of a line joins it to the next."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("name", ["run", "dev", "node"])
def test_every_line_of_a_lock_is_a_hashed_pin(name: str) -> None:
    lines = pins(name)

    assert lines
    assert [line for line in lines if not PIN.match(line)] == []


def test_what_the_demo_installs_is_part_of_what_the_tests_install() -> None:
    assert set(pins("run")) <= set(pins("dev"))
