"""What a claim costs, by how much there is: straight from the engine, so that nothing else is in it."""

import time
from collections.abc import Callable
from typing import Final

from bench.goals import middle_and_tail
from bench.rounds import Sample
from penstock.engines import connect
from penstock.engines.engine import Engine
from penstock.engines.requests import (
    Beat,
    Claim,
    Claimed,
    NewJob,
    Outcome,
    Put,
    Renew,
    Request,
    Settle,
    Settlement,
    Want,
)

_ME: Final = 1
BATCH: Final = 100


class Depth:
    """A store with so many jobs that wait, and so many that have ended. Made at the first claim, or by `open`.

    *busy* gives the seconds of a processor that the store's own server has used, if it has one.
    """

    def __init__(self, url: str, *, waiting: int, finished: int, busy: Callable[[], float] | None = None) -> None:
        self._url = url
        self._waiting = waiting
        self._finished = finished
        self._engine: Engine | None = None
        self._ended: list[Settlement] = []
        self._made = 0
        self._busy = busy

    def claims(self, jobs: int) -> Sample:
        """Claims of a hundred jobs that settle the hundred before, as a worker does it."""
        self.open()
        count = max(2, jobs // BATCH)
        before = self._busy() if self._busy else 0.0
        claims = [self._claim(BATCH, again=True) for _ in range(count)]
        server = (self._busy() - before) / count * 1e6 if self._busy else 0.0
        (middle, tail), (used, _) = (middle_and_tail(list(times)) for times in zip(*claims, strict=True))
        sample = {"p50 us": middle, "p99 us": tail, "CPU p50 us": used}
        return {**sample, "server CPU us": server} if self._busy else sample

    def open(self) -> None:
        """Make it, unless it is there."""
        if self._engine is None:
            self._engine = connect(self._url)
            self._engine.open()
            self._engine.transact([Renew([Beat(_ME, first=True)], 36_000.0)])
            for number in range(0, self._finished, 1_000):
                self._put(min(1_000, self._finished - number))
                self._claim(1_000, again=False)
            for number in range(0, self._waiting, 1_000):
                self._put(min(1_000, self._waiting - number))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _put(self, count: int) -> None:
        assert self._engine is not None
        first, self._made = self._made, self._made + count
        self._engine.transact([Put([NewJob(f"{number:012}", "nothing") for number in range(first, self._made)])])

    def _claim(self, limit: int, *, again: bool) -> tuple[float, float]:
        """Microseconds that it took, and those of a processor. *again*: as many are put in place of what it took."""
        assert self._engine is not None
        requests: list[Request] = [Settle(self._ended), Claim(_ME, None, [Want(frozenset(["nothing"]), limit)])]
        began, used = time.perf_counter(), time.thread_time()
        _, claimed = self._engine.transact(requests)
        took = (time.perf_counter() - began) * 1e6, (time.thread_time() - used) * 1e6
        assert isinstance(claimed, Claimed)
        if len(claimed.jobs[0]) != limit:
            raise RuntimeError(f"{len(claimed.jobs[0])} jobs of {limit} that wait were given")
        self._ended = [Settlement(job.seq, job.token, Outcome.DONE, b"null") for job in claimed.jobs[0]]
        if again:
            self._put(len(self._ended))
        return took
