"""Waiting for news, opening and closing, and several engine objects on one store."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.bell import Bell
from penstock.engines.records import Search
from penstock.engines.requests import (
    Fate,
    Outcome,
)
from tests.engines.kinds import (
    A,
    B,
    Clock,
    Connect,
    Desk,
    new,
    oops,
)
from tests.gates import GUARD, in_thread


@pytest.fixture
def bell() -> Any:
    bell = Bell()
    yield bell
    bell.close()


def test_who_waits_hears_of_news_from_another_engine_object(desk: Desk, connect: Connect, bell: Bell) -> None:
    other = connect()
    other.open()
    try:
        waiting = Desk(other, desk.clock)
        for happens in (
            lambda: desk.put("a", "b", new("c", priority=-1)),
            lambda: desk.done(desk.claim_one(A)),
            lambda: desk.settle(desk.claim_one(A), Outcome.RELEASE),
            lambda: desk.cancel("b"),
            lambda: desk.claim(A) and desk.cancel("c"),
        ):
            heard = in_thread(wait_until_changed, waiting, bell, waiting.find(Search()))
            happens()
            heard.result(GUARD)
    finally:
        if other is not desk.engine:
            other.close()


def wait_until_changed(desk: Desk, bell: Bell, before: object) -> None:
    """As users of an engine wait: they look, and if there is nothing for them, they wait for news and look again."""
    while desk.find(Search()) == before:
        desk.engine.wait(bell, 2 * GUARD)


def test_a_bell_wakes_who_waits(desk: Desk, bell: Bell) -> None:
    desk.engine.wait(bell, 0)  # so that no news are left
    heard = in_thread(desk.engine.wait, bell, 2 * GUARD)
    bell.ring()

    heard.result(GUARD)


def test_news_between_two_waits_are_not_missed(desk: Desk, bell: Bell) -> None:
    """One who looks, finds nothing and then waits must not sleep through what came in between."""
    in_thread(desk.engine.wait, bell, 2 * GUARD).result(GUARD)  # the first wait can't know what was seen before
    desk.put("a")

    in_thread(desk.engine.wait, bell, 2 * GUARD).result(GUARD)


def test_who_waits_in_vain_comes_back_when_the_time_is_over(desk: Desk, bell: Bell) -> None:
    in_thread(desk.engine.wait, bell, 0.01).result(GUARD)
    desk.engine.wait(bell, 0)


def test_an_engine_can_be_opened_and_closed_twice(connect: Connect, now: Clock) -> None:
    engine = connect()
    engine.open()
    engine.open()
    assert Desk(engine, now).put("a") == [Fate.ACCEPTED]

    engine.close()
    engine.close()


def test_an_engine_that_was_never_opened_can_be_closed(connect: Connect) -> None:
    connect().close()


def test_what_was_answered_is_there_for_the_next_engine_object(connect: Connect, now: Clock) -> None:
    first = connect()
    first.open()
    desk = Desk(first, now)
    desk.renew(A, first=True)
    [a, b] = desk.put_and_claim(A, "a", "b")
    desk.settle(a, Outcome.FAILED, error=oops())
    desk.pause("x")
    found = desk.find(Search())
    first.close()

    second = connect()
    second.open()
    desk = Desk(second, now)
    assert desk.find(Search()) == found
    assert desk.done(b)
    assert desk.queues()["x"] == (True, None)
    assert [kind.count for kind in desk.kinds_of_failures()] == [1]
    second.close()


def test_two_engine_objects_share_one_store(desk: Desk, connect: Connect) -> None:
    other = connect()
    other.open()
    try:
        desk.put("a", "b")
        theirs = Desk(other, desk.clock)
        a = theirs.claim_one(B)

        assert desk.claim_ids(A) == ["b"]
        assert theirs.put("a") == [Fate.KNOWN]
        assert desk.done(a)
        assert not theirs.done(a)
    finally:
        if other is not desk.engine:
            other.close()


def test_the_url_is_for_people(desk: Desk) -> None:
    assert "://" in desk.engine.url
