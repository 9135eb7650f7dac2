"""`penstock failures`."""

from penstock.cli.jobs.failures import seen
from penstock.cli.jobs.page import plain
from penstock.cli.jobs.place import place
from penstock.engines.records import FailureRecord
from penstock.engines.requests import Outcome
from tests.cli.jobs.desk import TRACEBACK, Desk, error


def test_failures_are_grouped_by_kind_the_latest_first(desk: Desk) -> None:
    desk.arrive(lease=1_000)
    desk.end(Outcome.FAILED, count=7, error=error())
    desk.now += 60
    desk.end(Outcome.FAILED, "send", error=error("shop.Refused", "no", print="print2"))
    desk.now += 60

    told = desk.run("failures")

    assert told.code == 0
    assert told.out.index("1 × Refused: no") < told.out.index("7 × ValueError: a.png is no picture")
    assert "task resize, at /srv/shop/images.py:15 in resize" in told.out
    assert "first 2023-11-14 22:13:20 UTC, last 2 min ago" in told.out
    assert "jobs a1, a2, a3, a4, a5, …" in told.out
    assert "penstock retry --error print1" in told.out


def test_programs_get_one_document(desk: Desk) -> None:
    desk.arrive()
    desk.end(Outcome.FAILED, error=error())

    assert desk.run("failures", "--json").json == {
        "failures": [
            {
                "print": "print1",
                "type": "ValueError",
                "message": "a.png is no picture",
                "where": "/srv/shop/images.py:15 in resize",
                "task": "resize",
                "count": 1,
                "first": "2023-11-14T22:13:20.000000Z",
                "first_s": 1_700_000_000.0,
                "last": "2023-11-14T22:13:20.000000Z",
                "last_s": 1_700_000_000.0,
                "ids": ["a1"],
                "traceback": TRACEBACK,
            }
        ]
    }


def test_no_failures_are_exit_code_1(desk: Desk) -> None:
    told = desk.run("failures")
    assert (told.code, told.out, told.err) == (1, "", "penstock failures: nothing has failed\n")

    told = desk.run("failures", "--json")
    assert (told.code, told.json) == (1, {"failures": []})


def test_verbose_shows_the_first_traceback_of_each_kind(desk: Desk) -> None:
    desk.arrive()
    desk.end(Outcome.FAILED, count=2, error=error())

    assert "raise ValueError(path)" not in desk.run("failures").out
    assert desk.run("failures", "-v").out.count("raise ValueError(path)") == 1


def test_the_place_is_the_innermost_of_the_users_code() -> None:
    assert place(TRACEBACK) == "/srv/shop/images.py:15 in resize"
    assert place("") == ""
    assert place('  |   File "/usr/lib/python3.11/json/decoder.py", line 3, in decode') == (
        "/usr/lib/python3.11/json/decoder.py:3 in decode"  # there is no other
    )


def test_ids_are_wrapped_between_and_not_within(desk: Desk) -> None:
    ids = [f"0193aa00-0000-7000-8000-00000000000{number}" for number in range(5)]
    kind = FailureRecord(error(), "resize", 5, 1.0, 2.0, ids)

    lines = list(plain(seen([kind], 3.0, verbose=False), 60))

    assert max(map(len, lines)) <= 60
    assert all(any(id in line for line in lines) for id in ids)
