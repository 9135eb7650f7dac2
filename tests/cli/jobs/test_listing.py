"""`penstock jobs`."""

import math
from dataclasses import replace

from penstock.cli.jobs.fields import job_fields
from penstock.engines.requests import Cancel, Outcome, Progress
from tests.cli.jobs.desk import Desk, error
from tests.docs.pages import ROOT


def ids_of(desk: Desk, *arguments: str) -> list[str]:
    return [job["id"] for job in desk.run("jobs", "--json", *arguments).lines]


def test_the_newest_comes_first_and_filters_are_all_applied(desk: Desk) -> None:
    desk.put("resize", 2)
    desk.put("resize", 1, queue="mail")
    desk.put("send", 1, queue="mail")
    desk.ask(Cancel(["a1"]))

    assert ids_of(desk) == ["a4", "a3", "a2", "a1"]
    assert ids_of(desk, "--queue", "mail", "--task", "resize") == ["a3"]
    assert ids_of(desk, "--state", "cancelled") == ["a1"]
    assert ids_of(desk, "--state", "cancelled", "--state", "ready", "--task", "resize") == ["a3", "a2", "a1"]


def test_an_error_is_meant_by_its_print_its_type_or_its_type_without_the_module(desk: Desk) -> None:
    desk.arrive()
    (first,) = desk.end(Outcome.FAILED, error=error("shop.Bad", print="p1"))
    (second,) = desk.end(Outcome.FAILED, error=error("shop.Bad", print="p2"))
    (third,) = desk.end(Outcome.FAILED, error=error("Other", print="p3"))

    assert ids_of(desk, "--error", "p1") == [first]
    assert ids_of(desk, "--error", "shop.Bad") == [second, first]
    assert ids_of(desk, "--error", "Bad") == [second, first]
    assert ids_of(desk, "--error", "Other") == [third]


def test_nothing_found_is_exit_code_1_with_a_hint(desk: Desk) -> None:
    desk.arrive()
    desk.end(Outcome.FAILED, error=error())

    told = desk.run("jobs", "--error", "ValuError")

    assert (told.code, told.out) == (1, "")
    assert told.err == "penstock jobs: no such jobs; did you mean 'ValueError'?\n"


def test_the_next_page_is_named_and_found(desk: Desk) -> None:
    desk.put(count=5)

    told = desk.run("jobs", "--limit", "2", "--json")

    assert [job["id"] for job in told.lines] == ["a5", "a4"]
    assert told.err == "penstock jobs: there are older ones: --before 4\n"
    assert ids_of(desk, "--limit", "3", "--before", "4") == ["a3", "a2", "a1"]
    assert desk.run("jobs", "--limit", "3", "--before", "4").err == ""


def test_pages_of_several_kinds_of_one_type_are_put_in_order(desk: Desk) -> None:
    desk.arrive()
    for number in range(9):
        desk.end(Outcome.FAILED, error=error(print=f"p{number % 3}"))

    assert ids_of(desk, "--error", "ValueError", "--limit", "4") == ["a9", "a8", "a7", "a6"]
    assert ids_of(desk, "--error", "ValueError", "--before", "6") == ["a5", "a4", "a3", "a2", "a1"]


def test_more_jobs_than_one_question_may_bring_are_all_found(desk: Desk) -> None:
    desk.put(count=450)

    assert len(ids_of(desk, "--limit", "440")) == 440


def test_a_line_of_json_has_everything_uncut(desk: Desk) -> None:
    desk.arrive()
    desk.put(args=b'{"kwargs":{"path":"' + b"x" * 5_000 + b'"}}', headers=b'{"trace":"7"}', priority=3)
    (job,) = desk.claim()
    desk.now += 2
    desk.ask(Progress(job.seq, job.token, 3, 10, "pages"))

    (line,) = desk.run("jobs", "--json").lines

    assert line == {
        "seq": 1,
        "id": "a1",
        "task": "resize",
        "queue": "default",
        "priority": 3,
        "state": "running",
        "attempt": 1,
        "crashes": 0,
        "suspect": False,
        "cancelling": False,
        "reason": "",
        "worker": "1234567890abcdef",
        "enqueued": "2023-11-14T22:13:20.000000Z",
        "enqueued_s": 1_700_000_000.0,
        "due": "2023-11-14T22:13:20.000000Z",
        "due_s": 1_700_000_000.0,
        "started": "2023-11-14T22:13:20.000000Z",
        "started_s": 1_700_000_000.0,
        "ended": None,
        "ended_s": None,
        "ran_s": None,
        "progress": {"done": 3, "total": 10, "note": "pages"},
        "error": None,
        "args": {"kwargs": {"path": "x" * 5_000}},
        "headers": {"trace": "7"},
        "result": None,
    }


def test_the_page_for_readers_names_every_field(desk: Desk) -> None:
    desk.arrive()
    desk.end(Outcome.RETRY, error=error(), delay=5)
    page = (ROOT / "docs/how-to/look-after-jobs.md").read_text()
    shown, told = desk.run("show", "a1", "--json").json, desk.run("status", "--json").json
    parts = [shown, shown["attempts"][0], shown["error"], told, told["queues"][0], told["workers"][0]]
    parts += [desk.run("failures", "--json").json["failures"][0]]

    names = {name for part in parts for name in part}
    names -= {f"{name}_s" for name in names}  # each time is there twice

    assert {"ran_s", "why", "lease_s"} <= names  # and lengths are not
    assert [name for name in names if f"`{name}`" not in page] == []


def test_numbers_that_json_has_no_words_for_are_null(desk: Desk) -> None:
    desk.put()
    told = job_fields(replace(desk.record("a1"), progress=Progress(1, 1, math.nan, math.inf), ran=math.nan))

    assert told["progress"] == {"done": None, "total": None, "note": ""}
    assert told["ran_s"] is None


def test_the_table_says_what_matters_in_each_state(desk: Desk) -> None:
    desk.arrive(lease=1_000)
    desk.put("later", delay=600)
    desk.put("waits")
    desk.end(Outcome.DONE, "fine", ran=0.25)
    desk.end(Outcome.FAILED, "bad", error=error())
    desk.end(Outcome.CANCELLED, "gone", reason="not needed")
    desk.put("runs")
    (job,) = desk.claim("runs")
    desk.ask(Progress(job.seq, job.token, 3, 10, "pages"))
    desk.now += 30

    rows = {row.split()[1]: row for row in desk.run("jobs").out.splitlines()}

    assert rows["later"].endswith("in 10 min")
    assert rows["waits"].endswith("waits for 30 s")
    assert rows["fine"].endswith("ran 250 ms")
    assert rows["bad"].endswith("ValueError: a.png is no picture")
    assert rows["gone"].endswith("not needed")
    assert rows["runs"].endswith("3 of 10 pages, for 30 s")


def test_in_a_pipe_a_row_is_one_line_however_long(desk: Desk) -> None:
    desk.arrive()
    desk.end(Outcome.FAILED, error=error(message="x" * 500))

    assert "x" * 500 in desk.run("jobs").out
