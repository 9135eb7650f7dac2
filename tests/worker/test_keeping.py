"""What a supervisor asks of the store, and when: rules without a thread or a clock."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.requests import Death, Prune, Renew, Renewed, Sweep, Swept
from penstock.worker.keeping import BETWEEN_PRUNES, BETWEEN_SWEEPS, Keeping

LEASE = 30.0


class Desk:
    """A keeping, and a store that does what it is asked at once; time is the test's."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.keeping = Keeping(LEASE, Prune(1.0, 2.0))
        self.lost: tuple[int, ...] = ()

    def asks(self) -> list[Any]:
        """All that is asked now."""
        asked: list[Any] = []
        while (request := self.keeping.next(self.now)) is not None:
            asked.append(request)
            self.keeping.answered(
                Renewed(self.lost, ()) if isinstance(request, Renew) else Swept() if isinstance(request, Sweep) else 0
            )
        return asked


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    assert desk.asks() == [Sweep([], LEASE), Prune(1.0, 2.0)]  # the dead of before, and what is old
    return desk


def workers(renew: Renew) -> list[int]:
    return [beat.worker for beat in renew.beats]


def test_a_lease_is_renewed_each_third_of_it_and_what_nobody_waits_for_now_and_then(desk: Desk) -> None:
    desk.keeping.watch(2)
    desk.keeping.watch(1)
    end = desk.now + 120
    asked = []
    while desk.keeping.due <= end:
        desk.now = desk.keeping.due
        asked += desk.asks()
    renewals = [request for request in asked if isinstance(request, Renew)]
    assert [workers(renew) for renew in renewals] == [[1, 2]] * 12
    assert len([request for request in asked if isinstance(request, Sweep)]) == 120 / BETWEEN_SWEEPS
    assert len([request for request in asked if isinstance(request, Prune)]) == 120 / BETWEEN_PRUNES


def test_what_was_not_answered_is_asked_again(desk: Desk) -> None:
    desk.keeping.watch(1)
    desk.now += LEASE / 3
    first = desk.keeping.next(desk.now)
    assert desk.keeping.next(desk.now + 1) == first == desk.asks()[0]


def test_a_lost_worker_is_kept_no_more(desk: Desk) -> None:
    desk.keeping.watch(1)
    desk.keeping.watch(2)
    desk.lost = (1,)
    renewals = []
    for _ in range(2):
        desk.now += LEASE / 3
        renewals.append(workers(desk.asks()[0]))
    assert renewals == [[1, 2], [2]]


def test_a_death_is_told_at_once_and_until_it_is_answered_and_so_is_one_that_comes_meanwhile(desk: Desk) -> None:
    desk.keeping.watch(1)
    first, second = Death(1, "killed", frozenset({7})), Death(2, "killed", frozenset())
    desk.keeping.died(first, leaves_jobs=True)
    assert desk.keeping.next(desk.now) == Sweep([first], LEASE)
    desk.keeping.died(second, leaves_jobs=True)
    desk.keeping.answered(Swept())  # of the first
    assert desk.keeping.leaving == 1
    assert desk.asks() == [Sweep([second], LEASE)]
    assert desk.keeping.leaving == 0
    desk.now += LEASE / 3
    assert not any(isinstance(request, Renew) for request in desk.asks())


def test_deaths_of_many_are_told_a_few_at_a_time(desk: Desk) -> None:
    deaths = [Death(number, "killed") for number in range(25)]
    for death in deaths:
        desk.keeping.died(death, leaves_jobs=True)
    sweeps = desk.asks()
    assert [len(sweep.deaths) for sweep in sweeps] == [10, 10, 5]
    assert [death for sweep in sweeps for death in sweep.deaths] == deaths
    assert desk.keeping.leaving == 0


def test_while_more_is_lost_than_one_sweep_takes_back_the_next_comes_soon(desk: Desk) -> None:
    desk.now += BETWEEN_SWEEPS
    for lost, pause in (((1,), 1.0), ((), BETWEEN_SWEEPS)):
        assert isinstance(desk.keeping.next(desk.now), Sweep)
        desk.keeping.answered(Swept(lost=lost))
        before, desk.now = desk.now, desk.keeping.due
        assert desk.now <= before + pause


def test_while_more_is_old_than_one_prune_takes_the_next_comes_soon(desk: Desk) -> None:
    desk.now += BETWEEN_PRUNES
    assert isinstance(desk.keeping.next(desk.now), Sweep)
    desk.keeping.answered(Swept())
    assert isinstance(desk.keeping.next(desk.now), Prune)
    desk.keeping.answered(1_000)
    assert desk.keeping.due < desk.now + 1


def test_it_is_over_when_all_is_told_and_waits_for_a_store_only_for_the_sake_of_jobs(desk: Desk) -> None:
    desk.keeping.died(Death(1, "it has left", frozenset()), leaves_jobs=False)
    assert not desk.keeping.is_over(store_is_away=True)
    desk.keeping.close()
    assert desk.keeping.is_over(store_is_away=True)
    assert not desk.keeping.is_over(store_is_away=False)
    desk.keeping.died(Death(2, "killed", frozenset({7})), leaves_jobs=True)
    assert not desk.keeping.is_over(store_is_away=True)
    desk.asks()
    assert desk.keeping.is_over(store_is_away=False)
