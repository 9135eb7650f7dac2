"""One function over many inputs: `map` as the stdlib has it, and `stream` for inputs without end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any, TypeVar

from penstock import clock, timers
from penstock.context import scope
from penstock.errors import PoolClosed
from penstock.job import Job, name_of
from penstock.pool.caller import on_event_loop
from penstock.pool.crew import Crew
from penstock.pool.stacks import in_the_midst_of_ours
from penstock.pool.terms import JobTerms, check_count, check_function

T = TypeVar("T")


def map_jobs(
    crew: Crew,
    terms: JobTerms,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """See `ThreadPool.map`. Checks and submits at the call; the rest happens as the caller iterates."""
    check_count("chunksize", chunksize)
    if buffersize is not None:
        if isinstance(buffersize, bool) or not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
    deadline = clock.deadline_after(clock.checked_seconds("timeout", timeout))
    inputs: Iterator[Any] = zip(*iterables, strict=False)
    if crew.pack is None or chunksize == 1:
        return _map_each(crew, terms, fn, inputs, deadline, buffersize)
    check_function(fn)
    each = EachOf(fn, spread=len(iterables) != 1)
    if not each.spread:
        inputs = iter(iterables[0])  # not as tuples of one, which would take as long as the journey
    chunks = ((chunk,) for chunk in iter(lambda: list(itertools.islice(inputs, chunksize)), []))
    return _one_by_one(_map_each(crew, terms, each, chunks, deadline, buffersize))


def _map_each(
    crew: Crew,
    terms: JobTerms,
    fn: Callable[..., T],
    inputs: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int | None,
) -> Generator[T, None, None]:
    if buffersize is None:
        return _results(deque(crew.intake.accept_all(terms, fn, inputs)), deadline, None)
    first = crew.intake.accept_all(terms, fn, _take(inputs, buffersize))
    return _results(deque(first), deadline, lambda: crew.intake.accept_all(terms, fn, _take(inputs, 1)))


class EachOf:
    """*fn* for each input of a chunk: one job for many inputs, so that the journey costs less.

    *spread*: an input is a tuple of arguments, else the one argument.
    """

    def __init__(self, fn: Callable[..., Any], *, spread: bool) -> None:
        self.fn = fn
        self.spread = spread
        self.__qualname__ = name_of(fn)  # what the job is called

    def __eq__(self, other: object) -> bool:
        return type(other) is EachOf and (self.fn, self.spread) == (other.fn, other.spread)

    def __hash__(self) -> int:
        return hash((self.fn, self.spread))

    def __call__(self, chunk: list[Any]) -> list[Any]:
        """The results, in the order of the inputs."""
        return list(itertools.starmap(self.fn, chunk) if self.spread else map(self.fn, chunk))


def _one_by_one(chunks: Generator[list[T], None, None]) -> Generator[T, None, None]:
    """The items of *chunks*; none is kept once it was given away."""
    with contextlib.closing(chunks):
        for chunk in chunks:
            chunk.reverse()
            pop = chunk.pop
            for _ in range(len(chunk)):
                yield pop()


def _results(
    jobs: deque[Job[T]], deadline: float | None, more: Callable[[], list[Job[T]]] | None
) -> Generator[T, None, None]:
    try:
        while jobs:
            if more is not None:
                jobs.extend(more())
            # Nothing here may keep a job, and so its result, alive while the caller has it.
            yield _result_or_forget(jobs.popleft(), deadline)
    finally:
        _forget_all(jobs)


def _forget_all(jobs: Collection[Job[Any]]) -> None:
    """Cancel those of *jobs* that have not started: the iterator goes away."""
    if not jobs:
        return
    if in_the_midst_of_ours(__file__):  # the collector found it; forgetting takes locks, and one of them may be held
        timers.call_apart(functools.partial(_forget_each, jobs))
    else:
        _forget_each(jobs)


def _forget_each(jobs: Collection[Job[Any]]) -> None:
    for job in jobs:
        job.forget()


def _result_or_forget(job: Job[T], deadline: float | None) -> T:
    try:
        return job.result(clock.remaining(deadline))
    except BaseException:
        job.forget()
        raise
    finally:
        del job  # its traceback must not keep it


def _take(inputs: Iterator[tuple[Any, ...]], count: int) -> Iterator[tuple[Any, ...]]:
    for _ in range(count):
        try:
            yield next(inputs)
        except StopIteration:
            return


def stream_jobs(
    crew: Crew,
    terms: JobTerms,
    fn: Callable[[Any], T],
    inputs: Iterable[Any],
    ordered: bool,
    buffersize: int | None,
) -> Iterator[Job[T]]:
    """See `ThreadPool.stream`. Checks at the call; reads and submits as the caller iterates."""
    limit = crew.settings.backlog
    refuses = terms.when_full == "reject" or (terms.when_full is None and on_event_loop())
    if not refuses:  # else its own jobs could be the ones that are too many
        limit = max(limit, crew.settings.max_workers + 1)
    if buffersize is not None:
        limit = check_count("buffersize", buffersize)
    check_function(fn)
    source = iter(inputs)
    return _in_order(crew, terms, fn, source, limit) if ordered else _as_they_end(crew, terms, fn, source, limit)


def _in_order(
    crew: Crew, terms: JobTerms, fn: Callable[[Any], T], source: Iterator[Any], limit: int
) -> Generator[Job[T], None, None]:
    under_way: deque[Job[T]] = deque()
    refused: PoolClosed | None = None
    more = True
    try:
        while True:
            while more and len(under_way) < limit:
                try:
                    under_way.append(crew.intake.submit(terms, fn, (next(source),), {}))
                except StopIteration:
                    more = False
                except PoolClosed as error:
                    refused, more = error, False
            if not under_way:
                break
            yield _seen(under_way.popleft())  # not kept in a name: nothing here may keep a job that was given away
    finally:
        _forget_all(under_way)
    if refused is not None:
        raise refused


def _as_they_end(
    crew: Crew, terms: JobTerms, fn: Callable[[Any], T], source: Iterator[Any], limit: int
) -> Generator[Job[T], None, None]:
    under_way: set[Job[T]] = set()
    ended: queue.SimpleQueue[Job[T] | None] = queue.SimpleQueue()
    refused: PoolClosed | None = None
    more = True
    try:
        while True:
            while more and len(under_way) < limit:
                try:
                    _follow(crew.intake.submit(terms, fn, (next(source),), {}), under_way, ended)
                except StopIteration:
                    more = False
                except PoolClosed as error:
                    refused, more = error, False
            if not under_way:
                break
            yield _seen(_next_ended(crew, ended, under_way))
    finally:
        _forget_all(under_way)
    if refused is not None:
        raise refused


def _seen(job: Job[T]) -> Job[T]:
    """*job* once it has its outcome, which counts as seen by whoever takes it."""
    job.wait_seen()
    return job


def _follow(job: Job[T], under_way: set[Job[T]], ended: queue.SimpleQueue[Job[T] | None]) -> None:
    under_way.add(job)
    job.add_done_callback(ended.put)  # type: ignore[arg-type]


def _next_ended(crew: Crew, ended: queue.SimpleQueue[Job[T] | None], under_way: set[Job[T]]) -> Job[T]:
    """The next job that ended. Waiting lends the slot of a worker, and ends when the caller's context trips."""
    job: Job[T] | None = None
    while job is None:
        try:
            job = ended.get_nowait()  # None: a wake for a wait that was over before it came
        except queue.Empty:
            found: list[Job[T]] = []
            crew.wait(next(iter(under_way)), functools.partial(_get_within_context, ended, found))
            job = found[0]
    under_way.discard(job)
    return job


def _get_within_context(ended: queue.SimpleQueue[Job[T] | None], found: list[Job[T]]) -> bool:
    around = scope.get()
    if around is None:
        job = ended.get()
        assert job is not None
        found.append(job)
        return True
    context = around.context
    stop_listening = context.listen(lambda cause: ended.put(None), on_time=False)
    try:
        while True:
            try:
                job = ended.get(timeout=clock.remaining(context.deadline))
            except queue.Empty:
                job = None
            if job is not None:
                found.append(job)
                return True
            context.check()
    finally:
        stop_listening()
