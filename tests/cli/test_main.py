"""The `penstock` command itself."""

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "jobs.db").touch()  # a store without jobs
    return f"sqlite:///{tmp_path}/jobs.db"


def test_what_cannot_be_written_is_told_in_one_line(store: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "penstock", "status", "--store", store],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (1, "penstock: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_command_does_its_work_though_nobody_has_given_it_files_to_talk_to(store: str, closed: str) -> None:
    command = [sys.executable, "-m", "penstock", "pause", "mail", "--store", store]

    assert subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], timeout=30, check=False).returncode == 0

    assert '"mail"' in run("-m", "penstock", "status", "--json", "--store", store).stdout
