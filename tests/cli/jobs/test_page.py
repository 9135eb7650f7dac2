"""Tables fitted to a terminal, lines made harmless, lengths and times."""

import math
import os
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from penstock.cli.jobs.page import Column, Line, Table, plain
from penstock.cli.jobs.printable import first_line, lines, one_line, parsed
from penstock.cli.jobs.times import ago, length, moment, time_fields
from penstock.cli.values import duration

COLUMNS = [Column("id"), Column("task", least=6, by_end=True), Column("n", right=True, extra=True), Column("", least=8)]


def fitted(width: int | None) -> list[str]:
    return list(
        plain([Table(COLUMNS, [("id-1", "shop.tasks.resize", "1,234", "an error as long as this one")])], width)
    )


def test_a_table_is_cut_only_as_far_as_the_line_asks() -> None:
    assert (
        fitted(None)
        == fitted(80)
        == [
            "id    task                   n",
            "id-1  shop.tasks.resize  1,234  an error as long as this one",
        ]
    )
    assert fitted(50)[1] == "id-1  shop.tasks.resize  1,234  an error as long …"
    assert fitted(40)[1] == "id-1  shop.tasks.resize  1,234  an erro…"
    assert fitted(35)[1] == "id-1  …asks.resize  1,234  an erro…"


def test_an_extra_column_goes_before_others_are_cut_below_their_least() -> None:
    assert fitted(29)[1] == "id-1  …esize  1,234  an erro…"
    assert fitted(28)[1] == "id-1  …asks.resize  an erro…"


def test_an_extra_column_goes_before_another_has_less_than_enough() -> None:
    table = Table([Column("id"), Column("n", extra=True), Column("", least=2, enough=8)], [("id-1", "1,234", "x" * 20)])

    assert list(plain([table], 21))[1] == "id-1  1,234  xxxxxxx…"
    assert list(plain([table], 20))[1] == "id-1  xxxxxxxxxxxxx…"
    assert list(plain([table], 9))[1] == "id-1  xx…"


@given(st.text(), st.text(), st.integers(20, 60))
def test_no_row_is_longer_than_the_line_whatever_the_cells(task: str, text: str, width: int) -> None:
    rows = plain([Table(COLUMNS, [("id", one_line(task), "1", one_line(text))])], width)

    assert all(cell_len(row) <= width for row in rows)


@given(st.text())
def test_a_line_of_the_store_is_one_line_and_holds_no_command(text: str) -> None:
    line = one_line(text)

    assert len(line.splitlines()) <= 1
    assert all(c.isprintable() or c.isspace() for c in line)
    assert not any(c in line for c in "\x1b\x9b\r\n\t\x0b\x85\u2028\u202e")
    line.encode()
    assert one_line(line) == line
    assert all(one_line(part) == part for part in lines(text))


def test_letters_of_all_languages_stay_as_they_are() -> None:
    text = "Größe 図\u3000面 naïve\xa0"

    assert one_line(text) == text


def test_more_lines_leave_a_mark() -> None:
    assert first_line("one\n") == "one"
    assert first_line("\none\ntwo") == "one …"


def test_a_lone_surrogate_in_json_can_be_written() -> None:
    value, raw = parsed(b'"\\ud800"')

    assert raw is None
    assert one_line(value) == "\\ud800"


def test_json_that_could_be_read_but_not_written_is_shown_as_it_is() -> None:
    for depth in (101, 900, 1_300, 9_900, 500_000):  # Pythons differ in what they write, and in how long they take
        deep = "[" * depth + "]" * depth

        assert parsed(deep.encode()) == (None, deep)
    assert parsed(b'[{"a": []}]') == ([{"a": []}], None)
    assert parsed(b"[" * 100 + b"]" * 100)[1] is None


def test_a_long_line_is_wrapped_between_words_only() -> None:
    assert list(plain([Line("  aa bb-cc " + "d" * 20, hang=4)], 9)) == ["  aa", "    bb-cc", "    " + "d" * 20]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 ms"),
        (0.2504, "250 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (3600, "60 min"),
        (7200, "2 h"),
        (48 * 3600, "2 d"),
        (5_000 * 86400, "5,000 d"),
    ],
)
def test_a_length_is_said_in_one_number_and_unit(seconds: float, said: str) -> None:
    assert length(seconds) == said


def test_times_are_said_before_and_after_now() -> None:
    assert ago(10, 12) == "2.0 s ago"
    assert ago(12, 10) == "in 2.0 s"


def test_times_that_no_calendar_has_are_no_error() -> None:
    for at in (math.inf, math.nan, 1e300, -1e300):
        assert moment(at)
        assert time_fields(due=at)["due"] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("24h", 86400),
        ("7d", 604800),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("90", 90),
        ("1.5h", 5400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "-1s", "1 h", "1h 30", "nan", "inf", "1e9", "9999999999d", "1h30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no length of time"):
        duration(text)


def test_letters_that_the_locale_lacks_are_escaped() -> None:
    code = "from penstock.cli.jobs.page import show, Line; show([Line('Größe × …')])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=30, check=True, text=True
    )

    assert ended.stdout == "Gr\\xf6\\xdfe \\xd7 \\u2026\n"
