"""Functions that live in `__main__`: in a script, at a prompt, behind `-c`; and scripts that nobody guarded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.gates import GUARD

CODE: Final = """
import sys
from penstock import ProcessPool
class Mine(Exception): pass
class Doubled:
    def __init__(self, number): self.number = number
def prepare(word): sys.word = word  # not a global of ours: what goes by value has globals of its own each time
def double(number): return Doubled(2 * number), getattr(sys, "word", None)
def fail(): raise Mine("mine")
def work(method):
    with ProcessPool(1, start_method=method, initializer=prepare, initargs=("prepared",), unobserved="ignore") as pool:
        doubled, word = pool.submit(double, 4).result(10)
        print(type(doubled) is Doubled, doubled.number, word)
        print(type(pool.submit(fail).exception(10)) is Mine)
"""
CALL: Final = "for method in ('forkserver', 'spawn'): work(method)"
SAID: Final = ["True 8 prepared", "True"] * 2

GUARDED: Final = CODE + 'if __name__ == "__main__":\n    ' + CALL + "\n"
BARE: Final = CODE + CALL + "\n"  # where nobody imports it


def script(folder: Path, code: str) -> tuple[list[str], str]:
    (folder / "work.py").write_text(code)
    return ["work.py"], ""


def module(folder: Path, code: str) -> tuple[list[str], str]:
    (folder / "work.py").write_text(code)
    return ["-m", "work"], ""


def package(folder: Path, code: str) -> tuple[list[str], str]:
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").touch()
    (folder / "pack" / "__main__.py").write_text(code)
    return ["-m", "pack"], ""


def a_folder(folder: Path, code: str) -> tuple[list[str], str]:
    (folder / "app").mkdir()
    (folder / "app" / "__main__.py").write_text(code)
    return ["app"], ""


def option(folder: Path, code: str) -> tuple[list[str], str]:
    return ["-c", code], ""


def standard_input(folder: Path, code: str) -> tuple[list[str], str]:
    return ["-"], code


def prompt(folder: Path, code: str) -> tuple[list[str], str]:
    blocks = code.replace("\nclass", "\n\nclass").replace("\ndef", "\n\ndef")
    return ["-i", "-q"], blocks.replace("\nfor", "\n\nfor") + "\n\n"


Main = Callable[[Path, str], tuple[list[str], str]]
IMPORTABLE: Final[list[Main]] = [script, module]
ONLY_HERE: Final[list[Main]] = [package, a_folder, option, standard_input, prompt]


def run(folder: Path, main: Main, code: str) -> subprocess.CompletedProcess[str]:
    arguments, given = main(folder, code)
    return subprocess.run(
        [sys.executable, *arguments], input=given, capture_output=True, text=True, timeout=GUARD, cwd=folder
    )


@pytest.mark.parametrize("main", [*IMPORTABLE, *ONLY_HERE])
def test_functions_classes_and_errors_of_the_main_module_cross(main: Main, tmp_path: Path) -> None:
    ran = run(tmp_path, main, GUARDED if main in IMPORTABLE else BARE)

    assert ran.stdout.splitlines() == SAID, ran.stderr


WITHOUT_CLOUDPICKLE: Final = "import sys; sys.modules['cloudpickle'] = None\n"
EXPLAINED: Final = """
def explain(call):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
def work(method):
    with ProcessPool(1, start_method=method, unobserved="ignore") as pool:
        explain(pool.submit(double, 4).result)
        print(pool.submit(abs, -5).result(10))
    pool = ProcessPool(1, start_method=method, unobserved="ignore", initializer=prepare)
    explain(pool.submit(abs, -5).result)
"""


@pytest.mark.parametrize("main", [package, option, standard_input])
def test_without_cloudpickle_what_lives_only_here_is_named_and_the_rest_works(main: Main, tmp_path: Path) -> None:
    ran = run(tmp_path, main, WITHOUT_CLOUDPICKLE + CODE + EXPLAINED + CALL + "\n")

    why = "it lives in __main__, which another process can't import here"
    hint = "functions and classes that another process can't import need cloudpickle: pip install cloudpickle"
    said = ran.stdout.splitlines()
    assert [line.split()[0] for line in said] == ["NotPicklable", "5", "ProcessPoolBroken"] * 2, ran.stderr
    assert said[0] == f"NotPicklable the function 'double' (function): {why}; {hint}"
    assert f"initializer (function): {why}; {hint}" in said[2]


@pytest.mark.parametrize("main", IMPORTABLE)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_script_that_nobody_guarded_fails_with_an_error_that_names_the_guard(
    main: Main, method: str, tmp_path: Path
) -> None:
    code = f"""
import os
from penstock import ProcessPool
os.write(1, b"from the top\\n")
def double(number): return 2 * number
with ProcessPool(2, start_method={method!r}) as pool:
    print(list(pool.map(double, range(5))))
"""

    ran = run(tmp_path, main, code)

    assert ran.returncode == 1
    assert set(ran.stdout.splitlines()) == {"from the top"}
    # The script, its two workers, and those that were on their way when the first one said what it had met.
    assert len(ran.stdout.splitlines()) <= 5, "each worker imports the script, and goes no further than the pool"
    last_error = ran.stderr[ran.stderr.rindex("Traceback") :]
    assert "penstock.pool.processes.died.ProcessPoolBroken: " in last_error
    assert 'belongs under `if __name__ == "__main__":`' in last_error


def test_a_pool_that_a_guarded_script_makes_at_its_top_is_used_in_the_main_process_alone(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        """
from penstock import ProcessPool
pool = ProcessPool(1)
def double(number): return 2 * number
if __name__ == "__main__":
    print(pool.submit(double, 4).result())
    pool.shutdown()
"""
    )

    ran = subprocess.run(
        [sys.executable, tmp_path / "work.py"], capture_output=True, text=True, timeout=GUARD, check=True
    )

    assert (ran.stdout, ran.stderr) == ("8\n", "")


def test_a_script_works_under_the_debugger(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(GUARDED)
    debugger = [sys.executable, "-m", "pdb", "-c", "continue", "work.py"]
    ended = subprocess.run(debugger, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    assert [line for line in ended.stdout.splitlines() if line.startswith("True")] == SAID, ended.stderr


def test_a_script_that_can_not_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        """
import sys
from penstock import ProcessPool
if __name__ != "__main__":
    sys.exit("not like this")
pool = ProcessPool(1, unobserved="ignore")
print(pool.submit(abs, -4).exception())
"""
    )

    ran = subprocess.run([sys.executable, tmp_path / "work.py"], capture_output=True, text=True, timeout=GUARD)

    assert "its workers can't be made ready: SystemExit: not like this" in ran.stdout
    assert f"raised while a worker imported the main module, {tmp_path / 'work.py'}" in ran.stderr
