"""The `penstock` command itself."""

import subprocess
import sys

WITHOUT = """
import sys
sys.modules[{name!r}] = None  # as if it were not installed
from penstock.cli import main
sys.exit(main(["map", "builtins:str", "a"]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_without_click_or_rich_it_says_what_to_install() -> None:
    ended = run("-c", WITHOUT.format(name="click"))

    assert ended.returncode == 2
    assert ended.stderr == "penstock: the command line needs click: pip install 'penstock[cli]'\n"


def test_the_package_can_be_run_as_a_module() -> None:
    ended = run("-m", "penstock", "map", "builtins:str.upper", "a")

    assert ended.returncode == 0
    assert '"result": "A"' in ended.stdout


def test_alone_it_shows_its_commands() -> None:
    ended = run("-m", "penstock")

    assert ended.returncode == 2
    assert ended.stderr.startswith("Usage: penstock")
    assert "map" in ended.stderr


def test_it_tells_its_version() -> None:
    assert run("-m", "penstock", "--version").stdout.startswith("penstock ")
