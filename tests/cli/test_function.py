"""What FUNCTION may be, and what is said when it can't be run."""

import sys
from pathlib import Path

import click
import pytest

from penstock.cli.function import find_function, refuse_unless_one_argument

CODE = """
import functools
from dataclasses import dataclass

from neighbour import double

NUMBER = 4

def plain(x): return x
def two(x, y): return x, y
def lists(x): yield x
async def fetch(x): return x
async def fetch_all(x): yield x

@dataclass
class Shop:
    name: str
    @staticmethod
    def sell(x): return x

class Client:
    async def __call__(self, x): return x

client = Client()
partial_fetch = functools.partial(fetch)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "neighbour.py").write_text("def double(x): return 2 * x\n")
    path = tmp_path / "wharf.py"
    path.write_text(CODE)
    return path


def complaint(spec: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        find_function(spec)
    message = caught.value.format_message()
    assert "\n" not in message
    return message


def test_a_function_of_a_module_is_found() -> None:
    assert find_function("zlib:crc32")(b"") == 0


def test_a_dotted_name_goes_into_a_class() -> None:
    assert find_function("pathlib:Path.exists") is Path.exists


def test_a_module_in_the_current_folder_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)

    assert find_function("neighbour:double")(2) == 4


def test_a_file_may_import_its_neighbours_and_hold_dataclasses(file: Path) -> None:
    assert find_function(f"{file}:double")(2) == 4
    assert find_function(f"{file}:Shop.sell")(3) == 3


def test_a_file_does_not_take_the_name_of_a_module_that_is_loaded(file: Path) -> None:
    twin = file.with_name("json.py")
    twin.write_text("def here(x): return 'the file'\n")

    assert find_function(f"{twin}:here")(0) == "the file"
    assert sys.modules["json"].__file__ != str(twin)


@pytest.mark.parametrize("spec", ["zlib", "zlib:", ":crc32", ""])
def test_a_spec_without_two_parts_is_refused(spec: str) -> None:
    assert "module:name or path/to/file.py:name" in complaint(spec)


def test_an_unknown_module_is_named() -> None:
    assert "no module 'no_such_module'" in complaint("no_such_module:f")
    assert "no module 'json.nothing'" in complaint("json.nothing:f")
    assert "neither a module's name nor a path" in complaint("some/folder:f")


def test_an_unknown_file_is_named(tmp_path: Path) -> None:
    assert "no file" in complaint(f"{tmp_path / 'nowhere.py'}:f")


def test_an_unknown_name_gets_the_closest_one_as_a_hint() -> None:
    assert complaint("zlib:crc23") == "zlib has no 'crc23'; did you mean 'crc32'?"


def test_what_is_not_callable_is_refused(file: Path) -> None:
    assert "is not a function: it is of type int" in complaint(f"{file}:NUMBER")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fetch", "fetch is a coroutine function, and threads and processes run plain ones: run it with --asyncio N"),
        ("client", "run it with --asyncio N"),
        ("partial_fetch", "run it with --asyncio N"),
        ("lists", "returns a list"),
        ("fetch_all", "returns a list"),
    ],
)
def test_a_function_that_threads_cannot_run_is_refused_with_what_to_do(file: Path, name: str, hint: str) -> None:
    assert hint in complaint(f"{file}:{name}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Odd(BaseException): ...\nraise Odd(3)", "Odd: 3"),
    ],
)
def test_a_file_that_fails_to_import_is_named_with_its_error(file: Path, code: str, said: str) -> None:
    file.write_text(code)

    message = complaint(f"{file}:f")
    assert str(file) in message
    assert said in message


def test_a_module_that_lacks_a_module_of_its_own_is_not_called_missing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    (file.parent / "harbour.py").write_text("import no_such_thing")

    assert complaint("harbour:f") == "importing harbour failed: ModuleNotFoundError: No module named 'no_such_thing'"


def test_a_name_that_fails_when_it_is_asked_for_is_named_with_its_error(file: Path) -> None:
    file.write_text("def __getattr__(name): raise ImportError(f'{name} is not built in')")

    assert complaint(f"{file}:f") == f"importing {file}:f failed: ImportError: f is not built in"


def test_a_path_that_can_not_be_looked_at_is_refused() -> None:
    assert complaint(f"{'long' * 100}.py:f").endswith(": File name too long")


def test_a_folder_that_is_gone_has_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert "no module 'no_such_module'" in complaint("no_such_module:f")


def test_a_function_that_needs_two_arguments_is_refused_and_star_named(file: Path) -> None:
    with pytest.raises(click.UsageError, match="--star"):
        refuse_unless_one_argument(find_function(f"{file}:two"), "wharf.py:two")
    refuse_unless_one_argument(find_function(f"{file}:plain"), "wharf.py:plain")
    refuse_unless_one_argument(find_function("builtins:int"), "builtins:int")
