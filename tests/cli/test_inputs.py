"""How inputs are read: lazily, by lines or JSON lines, with every bad one named."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from penstock.cli.inputs import Input, Inputs, open_inputs


def values(inputs: Inputs) -> list[object]:
    return [task.value for task in inputs]


def test_lines_lose_their_end_and_blank_ones_are_skipped_but_counted() -> None:
    inputs = Inputs([b"one\n", b"\n", b"  \r\n", b" two \r\n", b"three"])

    assert list(inputs) == [Input(1, "one"), Input(4, " two "), Input(5, "three")]


def test_reading_takes_one_line_at_a_time() -> None:
    taken = itertools.count()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"%d\n" % next(taken)

    tasks = iter(Inputs(endless()))
    assert [next(tasks).value for _ in range(3)] == ["0", "1", "2"]

    assert next(taken) == 3


def test_a_byte_order_mark_is_no_part_of_the_first_input() -> None:
    assert values(Inputs([b"\xef\xbb\xbfone\n"])) == ["one"]
    assert values(Inputs([b"\xef\xbb\xbf[1]\n"], jsonl=True)) == [[1]]


def test_a_name_that_is_not_utf8_survives() -> None:
    (task,) = Inputs([b"caf\xe9\n"])

    assert isinstance(task.value, str)
    assert task.value.encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_each_json_line_is_one_value() -> None:
    assert values(Inputs([b'"a"\n', b"[1, 2]\n", b'{"x": 1}\n', b"null\n"], jsonl=True)) == [
        "a",
        [1, 2],
        {"x": 1},
        None,
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{'x': 1}\n", "invalid JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"1 2\n", "invalid JSON: Extra data at column 3"),
        (b'"\xe9"\n', "invalid JSON: not UTF-8"),
        (b"[NaN]\n", "invalid JSON: NaN is not a JSON value"),
        (b"1" * 5000, "invalid JSON: Exceeds the limit"),
        (b"[" * 200_000, "invalid JSON: "),
    ],
)
def test_invalid_json_is_told_and_the_lines_after_it_are_read(line: bytes, problem: str) -> None:
    bad, good = Inputs([line, b"7\n"], jsonl=True)

    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert good == Input(2, 7, json="7")


def test_a_count_is_expected_exactly_and_a_file_by_the_bytes_read_so_far(tmp_path: Path) -> None:
    path = tmp_path / "inputs"
    path.write_text("12345\n" * 10)

    assert open_inputs(["a", "b"], None, jsonl=False).expected() == 2
    inputs = open_inputs([], str(path), jsonl=False)
    assert inputs.expected() is None
    next(tasks := iter(inputs))
    assert inputs.expected() == 10
    assert len(list(tasks)) == 9
    assert inputs.expected() == 10


def test_what_can_not_be_read_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="No such file"):
        open_inputs([], str(tmp_path / "missing"), jsonl=False)
    with pytest.raises(click.UsageError, match="Is a directory"):
        open_inputs([], str(tmp_path), jsonl=False)


def test_two_sources_are_refused() -> None:
    with pytest.raises(click.UsageError, match="not both"):
        open_inputs(["a"], "file", jsonl=False)
