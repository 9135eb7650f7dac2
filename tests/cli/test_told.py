"""What a run says on standard error, line by line."""

from __future__ import annotations

import pytest

from penstock.cli.progress import INTERVAL, Lines, Moment
from penstock.cli.summary import one_line
from tests.fake_time import FakeTime

STACK = '  File "/home/ann/a shop/tools.py", line 15, in pack\n    read()\n  File "<frozen os>", line 7, in read\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("it failed", "it failed"),
        ("it failed\nand here is more", "it failed"),
        (f"it is stuck. It stands at:\n{STACK}", "it is stuck. It stands at: tools.py:15 in pack"),
        (f"it died; it stood at:\nFatal Python error\n{STACK}", "it died; it stood at: tools.py:15 in pack"),
        ("it stands at:\nnobody knows", "it stands at:"),
        (f"it failed\n{STACK}", "it failed"),
    ],
)
def test_a_text_of_many_lines_is_told_by_its_first_and_the_place_that_it_points_to(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("expected", "guessed", "said"),
    [(None, True, "3 finished,"), (1500, False, "3 of 1,500 finished,"), (1543, True, "3 of about 1,543 finished,")],
)
def test_a_total_that_is_a_guess_says_so(
    expected: int | None,
    guessed: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    time = FakeTime(monkeypatch)
    lines = Lines()
    time.advance(INTERVAL)
    lines.show(Moment(3, 0, expected, guessed, running=1, waiting=2))
    assert said in capsys.readouterr().err
