"""Result lines and where they go."""

import json
import os
from pathlib import Path
from typing import Any, cast

import click
import pytest

from penstock import Job, JobState
from penstock.cli.inputs import Input, Inputs
from penstock.cli.output import Output, described, invalid_line, open_output, result_line
from tests.gates import GUARD, in_thread


class Finished:
    """The part of a finished job that a line is made of."""

    id, state, waited, ran, attempt = 7, JobState.DONE, 0.12345678, 2.0, 1

    def __init__(self, result: object) -> None:
        self._result = result

    def result(self, timeout: float) -> object:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def line_for(result: object) -> dict[str, Any]:
    line = result_line(Input(3, "in"), cast("Job[object]", Finished(result)))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert isinstance(fields, dict)
    return fields


def test_a_line_says_which_input_came_to_what_and_how_long_it_took() -> None:
    assert line_for({"sum": 5}) == {
        "id": 7, "line": 3, "input": "in", "state": "done", "result": {"sum": 5},
        "waited": 0.123457, "ran": 2.0, "attempt": 1,
    }  # fmt: skip


def changed(value: dict[str, object]) -> dict[str, object]:
    value |= {"when": object(), "itself": value}
    return value


def test_a_line_has_the_input_as_it_was_read_whatever_its_job_made_of_it() -> None:
    [task] = Inputs(['{"q": ["é\u2028😀", 1e999], \r "n": 1}\n'.encode()], jsonl=True)
    changed(cast("dict[str, object]", task.value))

    line = result_line(task, cast("Job[object]", Finished(None))).decode()

    assert line.isascii()
    assert line.splitlines() == [line.removesuffix("\n")]
    assert '"input": {"q": ["\\u00e9\\u2028\\ud83d\\ude00", 1e999],   "n": 1}, "state"' in line


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def looped() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({1, }, "{1}"),
        (Path("a"), "PosixPath('a')"),
        (float("nan"), "nan"),
        (looped(), "[[...]]"),
        ([Unspeakable], "[<class 'tests.cli.test_output.Unspeakable'>]"),
    ],
)  # fmt: skip
def test_what_json_has_no_words_for_is_written_as_its_repr(result: object, said: str) -> None:
    fields = line_for(result)

    assert "result" not in fields
    assert fields["repr"].endswith(said[-20:])


def test_any_exception_is_only_news_for_a_line() -> None:
    assert line_for(ValueError("no"))["error"] == {"type": "ValueError", "message": "no"}
    assert line_for(SystemExit(3))["error"] == {"type": "SystemExit", "message": "3"}
    assert line_for(Unspeakable())["error"]["message"] == "<its message could not be made>"
    assert described(json.JSONDecodeError("m", "d", 0))["type"] == "JSONDecodeError"


def test_an_invalid_input_has_a_line_without_an_id() -> None:
    fields = json.loads(invalid_line(Input(4, "{", "invalid JSON: what")))

    assert fields == {
        "id": None, "line": 4, "input": "{", "state": "invalid",
        "error": {"type": "InvalidInput", "message": "line 4: invalid JSON: what"},
    }  # fmt: skip


def test_results_that_are_there_are_not_overwritten_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("old\n")

    with pytest.raises(click.UsageError, match="--append adds to them, --force replaces them"):
        open_output(str(path), append=False, force=False)
    assert path.read_text() == "old\n"

    with open_output(str(path), append=True, force=False) as output:
        output.write(b"new\n")
    assert path.read_text() == "old\nnew\n"

    with open_output(str(path), append=False, force=True) as output:
        output.write(b"newer\n")
    assert path.read_text() == "newer\n"


def test_an_empty_file_and_a_device_hold_no_results(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    for path in (str(tmp_path / "empty"), "/dev/null"):
        with open_output(path, append=False, force=False) as output:
            output.write(b"new\n")


def test_a_line_cut_by_a_kill_does_not_spoil_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "in')

    with open_output(str(path), append=True, force=False) as output:
        output.write(b'{"id": 1}\n')

    assert path.read_text() == '{"id": 1}\n{"id": 2, "in\n{"id": 1}\n'


def test_a_line_is_in_the_file_as_soon_as_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"

    with open_output(str(path), append=False, force=False) as output:
        output.write(b"one\n")
        assert path.read_text() == "one\n"


def test_a_line_is_written_whole_to_a_pipe_that_takes_it_in_pieces() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    line = b"x" * 300_000 + b"\n"  # more than a pipe holds

    with Output(writer, "a pipe") as output, os.fdopen(reader, "rb") as pipe:
        reading = in_thread(pipe.read, len(line))
        output.write(line)
        assert reading.result(GUARD) == line


def test_a_place_that_can_not_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="No such file or directory"):
        open_output(str(tmp_path / "no" / "results.jsonl"), append=False, force=False)
    with pytest.raises(click.UsageError, match="give one"):
        open_output(str(tmp_path / "x"), append=True, force=True)
