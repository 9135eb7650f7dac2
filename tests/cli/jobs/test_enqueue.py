"""`penstock enqueue`."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock.app.app  # noqa: F401 - before the fixture that forgets what was imported meanwhile
from penstock.app.codec.codec import Codec
from penstock.cli import main
from penstock.engines.records import Record, Search
from penstock.engines.sqlite import SQLiteEngine
from penstock.errors import NotEncodable

CODE = """
import datetime
from penstock import App

print("imported")
app = App("sqlite:///{file}")
elsewhere = App("memory://")
number = 5

@app.task(queue="pictures", priority=3)
def resize(path: str, width: int = 200, *more: int, when: datetime.datetime | None = None, **labels: str) -> None: ...
"""

Captured = pytest.CaptureFixture[str]


class Shop:
    """A file with an app and its tasks, and the store in which its jobs land."""

    def __init__(self, folder: Path, capsys: Captured) -> None:
        self.url = f"sqlite:///{folder}/jobs.db"
        self.app = f"{folder}/shopping.py:app"
        Path(folder, "shopping.py").write_text(CODE.replace("{file}", f"{folder}/jobs.db"))
        self._capsys = capsys

    def enqueue(self, *arguments: str, app: str = "", task: str = "shopping.resize") -> tuple[int, str, str]:
        sys.modules.pop("shopping", None)  # each is a process of its own
        code = main(["enqueue", app or self.app, task, *arguments])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def accepted(self, *arguments: str) -> str:
        """What is printed for a call that makes a job."""
        code, out, err = self.enqueue(*arguments)
        assert (code, err) == (0, "imported\n")
        return out

    def refused(self, *arguments: str, **names: str) -> str:
        """What is said of a call that makes no job."""
        code, out, err = self.enqueue(*arguments, **names)
        assert (code, out) == (2, "")
        *_, line = err.splitlines()
        assert line.startswith("penstock enqueue: ")
        return line.removeprefix("penstock enqueue: ")

    def jobs(self) -> list[Record]:
        engine = SQLiteEngine(self.url)
        engine.open()
        try:
            return engine.find(Search())
        finally:
            engine.close()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Shop:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return Shop(tmp_path, capsys)


def test_the_id_is_all_that_is_on_standard_output(shop: Shop) -> None:
    told = shop.accepted('["a.png", 100]')

    (job,) = shop.jobs()
    assert told == f"{job.id}\n"
    assert (job.task, job.queue, job.priority) == ("shopping.resize", "pictures", 3)
    assert json.loads(job.args) == {"path": "a.png", "width": 100}


def test_an_object_has_keyword_arguments_and_what_is_left_out_stays_so(shop: Shop) -> None:
    shop.accepted('{"path": "a.png", "when": "2030-01-01T00:00:00Z", "colour": "red"}')

    (job,) = shop.jobs()
    assert json.loads(job.args) == {"path": "a.png", "when": "2030-01-01T00:00:00Z", "**labels": {"colour": "red"}}


def test_terms_replace_those_of_the_task(shop: Shop) -> None:
    shop.accepted('["a.png"]', "--queue", "other", "--priority", "-1", "--delay", "15m", "--id", "mine")
    shop.accepted('["b.png"]', "--at", "2100-01-01T00:00:00Z")

    at, delayed = shop.jobs()
    assert (delayed.id, delayed.queue, delayed.priority) == ("mine", "other", -1)
    assert delayed.due - delayed.enqueued == pytest.approx(900, abs=1)
    assert at.due == pytest.approx(4_102_444_800, abs=1)


def test_the_same_id_makes_no_second_job(shop: Shop) -> None:
    for _ in range(2):
        told = shop.accepted('["a.png"]', "--id", "mine", "--json")
        assert told == '{"id": "mine", "task": "shopping.resize"}\n'

    assert len(shop.jobs()) == 1


def test_arguments_may_come_from_standard_input(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('["a.png"]'))

    shop.accepted("-")

    assert len(shop.jobs()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["[1]"], "shopping.resize: Expected `str`, got `int` - at `$.path`"),
        (["[]"], "resize() missing 1 required positional argument: 'path'"),
        (['["a", 1, "x"]'], "shopping.resize: Expected `int`, got `str` - at `$.*more[0]`"),
        (["5"], "ARGUMENTS are a JSON list, or a JSON object of keyword arguments: for one argument, [1]"),
        (["[1"], "ARGUMENTS are no JSON: Expecting ',' delimiter: line 1 column 3 (char 2)"),
        (['["a"]', "--delay", "1m", "--at", "2030-01-01"], "give a delay or a time (at=), not both"),
        (['["a"]', "--queue", "\x1b[2J"], "queue must have 1 to 250 printable characters, not '\\x1b[2J'"),
        (['["a"]', "--at", "soon"], "Invalid value for '--at': 'soon' is no time: write 2030-01-31T08:00 or …"),
    ],
)
def test_what_the_app_refuses_is_said_in_a_line(shop: Shop, arguments: list[str], said: str) -> None:
    line = shop.refused(*arguments)

    assert line == said or (said.endswith("…") and line.startswith(said[:-1]))


def test_an_unknown_task_or_app_is_said_with_what_was_meant(shop: Shop) -> None:
    assert shop.refused("[]", task="shopping.rezise").endswith("did you mean shopping.resize?")
    assert "did you mean 'app'?" in shop.refused("[]", app=shop.app.replace(":app", ":apps"))
    assert shop.refused("[]", app=shop.app.replace(":app", ":number")).endswith("is no App: it is of type int")


def test_a_job_in_the_memory_of_this_process_would_be_lost(shop: Shop) -> None:
    assert shop.refused("[]", app=shop.app.replace(":app", ":elsewhere")).startswith("memory:// is within one process")


def test_an_app_names_the_store_for_the_other_commands(shop: Shop, capsys: Captured) -> None:
    shop.accepted('["a.png"]', "--id", "mine")

    assert main(["jobs", "--app", shop.app, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "mine"  # and nothing that the import printed


def test_values_of_json_become_what_the_parameters_are() -> None:
    def fn(a: set[int], /, b: bytes, *c: float, d: int = 7, **e: bytes) -> None: ...

    codec: Codec[Any] = Codec("fn", fn)

    assert codec.typed_call([[1, 2]], {"b": "aGk="}) == (({1, 2},), {"b": b"hi"})
    assert codec.typed_call([[1], "aGk=", 3, 4], {"f": "aGk="}) == (({1}, b"hi", 3.0, 4.0), {"f": b"hi"})
    assert codec.typed_call([[1], ""], {"d": 8}) == (({1}, b""), {"d": 8})
    with pytest.raises(NotEncodable, match="Expected `int`"):
        codec.typed_call([["x"], ""], {})
    with pytest.raises(TypeError, match="missing"):
        codec.typed_call([], {})
