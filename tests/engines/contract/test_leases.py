"""Jobs are taken back from workers whose lease ran out while the store was up, by a sweep, and never otherwise."""

from __future__ import annotations

from penstock.engines.records import HeldBy, Workers
from penstock.engines.requests import (
    Beat,
    Renew,
)
from tests.engines.kinds import (
    LEASE,
    READY,
    SCHEDULED,
    A,
    B,
    C,
    Clock,
    Desk,
    died,
    new,
)

# Leases


def test_the_end_of_a_lease_alone_takes_nothing(desk: Desk) -> None:
    a, b = desk.put_and_claim(A, "a", "b")
    desk.pass_time(10 * LEASE, B)

    assert desk.claim(B) == []
    assert desk.progress(a, 1)
    assert desk.done(a)
    renewed = desk.renew(A)
    assert list(renewed.lost) == []
    assert list(desk.sweep().lost) == []
    assert desk.done(b)


def test_a_sweep_takes_from_a_worker_whose_lease_is_over(desk: Desk) -> None:
    desk.put_and_claim(A, "a", "b")
    desk.pass_time(LEASE + 1, B)

    swept = desk.sweep()

    assert (swept.returned, swept.failed, list(swept.lost)) == (2, 0, [A])
    assert [desk.state(id) for id in "ab"] == [READY, READY]
    assert list(desk.renew(A, B).lost) == [A]
    assert not desk.take(A).known
    assert desk.find(HeldBy(A)) == []


def test_a_sweep_leaves_a_worker_whose_lease_is_not_over(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.pass_time(LEASE - 1, B)

    assert list(desk.sweep().lost) == []
    assert desk.done(a)


def test_a_renewal_in_time_saves_the_jobs(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.pass_time(LEASE - 1, B)
    desk.renew(A)
    desk.pass_time(LEASE - 1, B)

    assert list(desk.sweep().lost) == []
    assert desk.done(a)


def test_a_renewal_that_comes_late_but_before_the_sweep_saves_the_jobs(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.pass_time(LEASE + 5, B)

    assert list(desk.renew(A).lost) == []
    assert list(desk.sweep().lost) == []
    assert desk.done(a)


def test_a_lease_lasts_as_long_as_its_renewal_said(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")
    desk.put_and_claim(B, "b")
    desk.renew(A, lease=100)
    desk.pass_time(99)

    assert list(desk.sweep().lost) == [B]
    assert desk.done(a)
    desk.pass_time(2)
    assert list(desk.sweep().lost) == [A]


def test_a_worker_that_was_given_up_must_make_itself_known_anew(desk: Desk) -> None:
    [old] = desk.put_and_claim(A, "a")
    desk.sweep(died(A, []))
    assert list(desk.renew(A).lost) == [A]

    assert list(desk.renew(A, first=True).lost) == []

    assert not desk.done(old)
    assert desk.claim_ids(A) == ["a"]


def test_a_first_beat_that_is_repeated_is_one_like_the_others(desk: Desk, now: Clock) -> None:
    [a] = desk.put_and_claim(A, "a")
    now.advance(10)

    assert list(desk.renew(A, first=True).lost) == []

    [worker] = [it for it in desk.find(Workers()) if it.worker == A]
    assert (worker.since, worker.lease) == (now() - 10, LEASE)
    assert desk.done(a)


def test_workers_are_listed_with_what_they_hold_and_have_left(desk: Desk, now: Clock) -> None:
    desk.put("a", "b")
    desk.claim(A)
    desk.ask(Renew([Beat(C, first=True, info=b'{"host":"here"}')], LEASE))
    now.advance(10)
    desk.renew(A, B)

    workers = {it.worker: it for it in desk.find(Workers())}

    assert workers.keys() == {A, B, C}
    assert (workers[A].running, workers[B].running, workers[C].running) == (2, 0, 0)
    assert (workers[C].info, workers[C].since) == (b'{"host":"here"}', now() - 10)
    assert [round(workers[it].lease, 3) for it in (A, B, C)] == [LEASE, LEASE, LEASE - 10]
    desk.pass_time(LEASE + 1, A)
    assert next(it.lease for it in desk.find(Workers()) if it.worker == B) < 0
    desk.sweep()
    assert {it.worker for it in desk.find(Workers())} == {A}


def test_nothing_is_taken_for_one_lease_after_a_gap_in_the_stores_own_pulse(desk: Desk, now: Clock) -> None:
    desk.put_and_claim(A, "a")
    now.advance(LEASE + 1)  # the store was down: nobody could renew

    assert list(desk.sweep().lost) == []
    desk.pass_time(LEASE - 1)
    assert list(desk.sweep().lost) == []
    desk.pass_time(2)
    assert set(desk.sweep().lost) == {A, B}


def test_who_renews_after_a_gap_keeps_its_jobs(desk: Desk, now: Clock) -> None:
    [a] = desk.put_and_claim(A, "a")
    now.advance(10 * LEASE)
    assert list(desk.sweep().lost) == []
    desk.pass_time(LEASE - 1)
    assert list(desk.renew(A).lost) == []
    desk.pass_time(2)

    assert list(desk.sweep().lost) == [B]
    assert desk.done(a)


def test_the_first_renewal_after_a_gap_is_felt_by_the_sweep_behind_it(desk: Desk, now: Clock) -> None:
    [a] = desk.put_and_claim(A, "a")
    now.advance(LEASE + 1)
    desk.renew(B)

    assert list(desk.sweep().lost) == []
    assert list(desk.renew(A).lost) == []
    assert desk.done(a)


def test_a_death_that_was_seen_is_believed_at_once_also_after_a_gap(desk: Desk, now: Clock) -> None:
    desk.put_and_claim(A, "a")
    now.advance(LEASE + 1)

    swept = desk.sweep(died(A, []))

    assert (swept.returned, list(swept.lost)) == (1, [])
    assert desk.claim_ids(B) == ["a"]


def test_a_sweep_can_be_repeated(desk: Desk) -> None:
    a, _ = desk.put_and_claim(A, "a", "b")
    first = desk.sweep(died(A, [a]))
    before = desk.records("a", "b")

    again = desk.sweep(died(A, [a]), died(C))

    assert (first.returned, again.returned, again.failed) == (2, 0, 0)
    assert desk.records("a", "b") == before
    assert [it.crashes for it in before if it] == [1, 0]


def test_a_death_told_twice_in_one_sweep_counts_once(desk: Desk) -> None:
    [a] = desk.put_and_claim(A, "a")

    assert desk.sweep(died(A, [a]), died(A)).returned == 1

    assert desk.record("a").crashes == 1


# Scheduled jobs, and what a sweep says


def test_a_sweep_lets_jobs_be_ready_whose_time_has_come(desk: Desk, now: Clock) -> None:
    desk.put(new("a", delay=5), new("b", delay=10), new("c", delay=60))
    now.advance(11)

    assert desk.sweep().due == 2
    assert [desk.state(id) for id in "abc"] == [READY, READY, SCHEDULED]
    assert desk.sweep().due == 0


def test_a_sweep_of_nothing_has_nothing_to_say(desk: Desk) -> None:
    swept = desk.sweep()

    assert (swept.returned, swept.failed, list(swept.lost), swept.due, swept.suspects) == (0, 0, [], 0, 0)
