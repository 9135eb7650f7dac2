"""`penstock status`."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.cli.jobs import status
from penstock.cli.jobs.page import plain
from penstock.engines.engine import Engine
from penstock.engines.requests import Outcome, Pause
from penstock.errors import StoreUnavailable
from tests.cli.jobs.desk import NOON, WORKER, Desk, error


def test_jobs_are_counted_by_queue_task_and_state(desk: Desk) -> None:
    desk.arrive()
    desk.put("resize", 3)
    desk.put("send", 2, queue="mail", delay=60)
    desk.claim("resize", 1)

    told = desk.run("status", "--json").json

    default, mail = told["queues"]
    assert default["tasks"] == [
        {"task": "resize", "scheduled": 0, "ready": 2, "running": 1, "done": 0, "failed": 0, "cancelled": 0}
    ]
    assert (mail["queue"], mail["tasks"][0]["scheduled"]) == ("mail", 2)
    assert told["time"] == "2023-11-14T22:13:20.000000Z"
    assert told["time_s"] == NOON


def test_it_says_how_long_the_first_of_a_queue_has_waited_and_which_are_paused(desk: Desk) -> None:
    desk.put(queue="mail")
    desk.ask(Pause("mail"))
    desk.now += 90

    assert "mail (paused)  resize      1" in desk.run("status").out
    assert "90 s" in desk.run("status").out
    (queue,) = desk.run("status", "--json").json["queues"]
    assert (queue["paused"], queue["oldest_s"]) == (True, 90)


def test_a_queue_that_is_paused_and_empty_is_shown(desk: Desk) -> None:
    desk.ask(Pause("mail"))

    assert "mail (paused)" in desk.run("status").out


def test_workers_are_shown_with_what_is_left_of_their_leases(desk: Desk) -> None:
    desk.arrive(WORKER, host="web-1", pid=42, queues=["mail"])
    desk.arrive(7, lease=5)
    desk.now += 10

    told = desk.run("status")

    assert "web-1/42" in told.out
    assert "20 s left" in told.out
    assert "0000000000000007" in told.out
    assert "ran out 5.0 s ago" in told.out
    workers = {worker["worker"]: worker for worker in desk.run("status", "--json").json["workers"]}
    first = workers["1234567890abcdef"]  # as text: a float would round it
    assert (first["lease_s"], first["info"]["pid"]) == (20, 42)


def test_failures_of_the_last_hour_are_shown_and_older_ones_are_not(desk: Desk) -> None:
    desk.arrive(lease=10_000)
    desk.end(Outcome.FAILED, error=error("OldError", print="old"))
    desk.now += 3601
    desk.end(Outcome.FAILED, error=error())

    told = desk.run("status").out

    assert "ValueError: a.png is no picture" in told
    assert "OldError" not in told
    assert [kind["print"] for kind in desk.run("status", "--json").json["failures"]] == ["print1"]


def test_an_empty_store_is_no_error(desk: Desk) -> None:
    told = desk.run("status")

    assert told.code == 0
    assert "no jobs yet" in told.out
    assert "no worker is running" in told.out


def test_the_table_fits_eighty_columns_and_loses_the_beginning_of_a_long_task_only(desk: Desk) -> None:
    desk.put("shop.warehouse.pictures.thumbnails.resize", 1_234)
    _, *lines = plain(status.seen(status.look(desk.engine)), 80)  # the first has the store's URL

    assert max(map(len, lines)) <= 80
    assert any("…" in line and "thumbnails.resize" in line for line in lines)


def test_watching_goes_on_while_the_store_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[status.Status | Exception] = iter(
        [StoreUnavailable("sqlite:///jobs.db", "it is gone"), status.look(desk.engine)]
    )
    slept: list[float] = []

    def look(engine: Engine) -> status.Status:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    first = status.look(desk.engine)
    monkeypatch.setattr(status, "look", look)
    seen = status.again_and_again(desk.engine, first, every=3, sleep=slept.append)

    found = list(itertools.islice(seen, 3))
    assert [type(it).__name__ for it in found] == ["Status", "StoreUnavailable", "Status"]
    assert slept == [3, 3]
    assert "it is gone; trying again" in next(plain(status.unseen(found[1])))  # type: ignore[arg-type]


def test_watching_ends_with_ctrl_c_and_exit_code_0(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(engine: Any, first: status.Status, *, every: float) -> Iterator[status.Status]:
        yield first
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "again_and_again", interrupted)

    told = desk.run("status", "--watch", "5", "--json")

    assert told.code == 0
    assert len(told.lines) == 2
    assert desk.run("status", "--watch").out.count("no jobs yet") == 2
