"""Which failures there were, by kind: exact in number, bounded in memory and in lines of the log."""

from __future__ import annotations

import logging
import pickle
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import _ExceptionWithTraceback
from itertools import pairwise
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import DeadlineExceeded, Failures, Retry, ThreadPool, WorkerDied
from tests.fake_time import FakeTime
from tests.gates import GUARD, in_thread


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


class Lines(logging.Handler):
    """The lines of the log, and for how many failures each of them speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def told(self) -> int:
        return sum(map(said_by, self.texts()))


def said_by(line: str) -> int:
    """For how many failures *line* speaks."""
    if repeated := re.search(r"\((\d+) more like it since the last line", line):
        return 1 + int(repeated[1])
    rest = re.match(r"(\d+) more failures since the last line", line)
    return int(rest[1]) if rest else 1


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log = logging.getLogger("penstock.failures")
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    yield handler
    log.removeHandler(handler)
    log.propagate = before


def raised(error: BaseException) -> BaseException:
    """*error*, as it looks when it has been raised here."""
    try:
        raise error
    except BaseException as caught:
        return caught


def raised_elsewhere(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


# Kinds


def test_failures_of_one_type_from_one_place_are_one_kind() -> None:
    found = Failures("mail")

    for number in range(3):
        found.record(number, "job", raised(ValueError(f"message {number}")))

    (failure,) = found
    assert (failure.type, failure.message, failure.count, failure.job_ids) == ("ValueError", "message 0", 3, (0, 1, 2))
    assert "in raised" in failure.where
    assert "test_failures.py:" in failure.where
    assert "message 0" in failure.traceback


def test_another_type_and_another_place_are_other_kinds() -> None:
    found = Failures("mail")

    found.record(1, "job", raised(ValueError()))
    found.record(2, "job", raised(KeyError()))
    found.record(3, "job", raised_elsewhere(ValueError()))

    assert (len(found), found.total) == (3, 3)


def test_the_place_is_in_the_users_code_though_a_library_raised() -> None:
    found = Failures("mail")

    def parse(text: str) -> Any:
        import json

        return json.loads(text)

    with ThreadPool(1) as pool:
        error = pool.submit(parse, "{").exception(GUARD)
    assert error is not None
    found.record(1, "job", error)

    (failure,) = found
    assert failure.where.endswith("in parse")
    assert "json" in failure.traceback, "the traceback still shows the library"


def test_iterating_gives_the_most_frequent_first(time: FakeTime) -> None:
    found = Failures("mail")
    for kind, times in ((KeyError, 2), (ValueError, 5), (OSError, 2)):
        for _ in range(times):
            found.record(1, "job", raised(kind()))
        time.advance(1)

    assert [(failure.type, failure.count) for failure in found] == [("ValueError", 5), ("KeyError", 2), ("OSError", 2)]


def test_a_kind_knows_when_it_was_seen_first_and_last(time: FakeTime) -> None:
    found = Failures("mail")
    found.record(1, "job", raised(ValueError()))
    time.advance(90)
    found.record(1, "job", raised(ValueError()))

    (failure,) = found

    assert failure.last - failure.first == 90


def test_a_few_jobs_are_named_and_the_message_and_the_traceback_are_cut() -> None:
    found = Failures("mail")

    for number in range(100):
        found.record(number, "job", raised(ValueError("long " * 100_000)))

    (failure,) = found
    assert failure.job_ids == (0, 1, 2, 3, 4)
    assert len(failure.message) <= 1_001
    assert len(failure.traceback) <= 8_001


def test_the_table_is_for_people() -> None:
    found = Failures("mail")
    for _ in range(2):
        found.record(1, "job", raised(ValueError("bad")))
    found.record(1, "job", KeyError("never raised"))

    head, first, second = str(found).splitlines()

    assert head == "3 failed, 2 kinds"
    assert re.fullmatch(r"  2 times: ValueError: bad at .*test_failures.py:\d+ in raised", first)
    assert second == "  once: KeyError: 'never raised'"
    assert str(Failures("mail")) == "0 failed, 0 kinds"


@pytest.mark.parametrize("kinds", [1, 10])
def test_beyond_the_most_kinds_the_rest_is_one_kind_and_the_total_is_exact(kinds: int) -> None:
    found = Failures("mail", kinds=kinds)

    for number in range(300):
        found.record(number, "job", type(f"E{number % 100}", (Exception,), {})())

    by_type = {failure.type: failure.count for failure in found}
    assert len(found) == kinds + 1
    assert by_type["other kinds"] == 300 - kinds
    assert (found.total, sum(by_type.values())) == (300, 300)


def test_a_kind_that_was_quiet_for_an_hour_makes_room_for_a_new_one(time: FakeTime) -> None:
    found = Failures("mail", kinds=2)
    for kind in (KeyError, OSError):
        found.record(1, "job", kind())
    time.advance(3000)
    found.record(1, "job", KeyError())
    time.advance(1000)

    found.record(1, "job", ValueError())

    assert {failure.type for failure in found} == {"KeyError", "ValueError"}
    assert found.total == 4


def test_a_quiet_kind_makes_room_though_not_all_of_it_was_logged(time: FakeTime, lines: Lines) -> None:
    found = Failures("mail", kinds=1)
    found.record(1, "job", KeyError())
    found.record(1, "job", KeyError())
    time.advance(2 * 3600)

    found.record(1, "job", ValueError())
    found.flush()

    assert "ValueError" in {failure.type for failure in found}
    assert lines.told() == found.total == 3


def test_threads_that_bring_new_kinds_at_once_make_no_more_than_there_may_be() -> None:
    found = Failures("mail", kinds=2)
    together = threading.Barrier(8)

    class Slow(Exception):
        """Others come while its message is made."""

        def __str__(self) -> str:
            try:
                together.wait(0.5)
            except threading.BrokenBarrierError:
                pass  # they don't: each may have to wait for the one before
            return "slow"

    kinds = [type(f"Slow{number}", (Slow,), {}) for number in range(8)]
    for thread in [in_thread(found.record, number, "job", kinds[number]()) for number in range(8)]:
        thread.result(GUARD)

    assert found.total == sum(failure.count for failure in found) == 8
    assert len(found) <= 3


# The log


def test_the_first_of_a_kind_is_logged_at_once_with_its_traceback(lines: Lines) -> None:
    error = raised(ValueError("bad"))

    Failures("mail").record(7, "job 7 (send)", error, worker="mail_0")

    (record,) = lines.records
    assert record.getMessage() == "job 7 (send) failed: ValueError: bad"
    assert record.levelno == logging.ERROR
    assert record.exc_info == (ValueError, error, error.__traceback__)
    assert (record.job, record.worker, record.pool) == (7, "mail_0", "mail")  # type: ignore[attr-defined]


def test_the_first_without_a_traceback_is_logged_with_where_its_thread_stood(lines: Lines) -> None:
    Failures("mail").record(7, "job 7", DeadlineExceeded("job 7", 5.0), '  File "a.py", line 3, in f\n    x()\n')

    assert lines.texts() == [
        "job 7 failed: DeadlineExceeded: job 7 exceeded its limit of 5 s\n"
        'It stood at:\n  File "a.py", line 3, in f\n    x()\n'
    ]


def test_a_stack_that_the_message_tells_is_told_once(lines: Lines) -> None:
    error = WorkerDied("job 7", -11, traceback='  File "a.py", line 3, in f\n    x()\n')
    found = Failures("mail")

    found.record(7, "job 7", error)

    (text,) = lines.texts()
    (failure,) = found
    assert text.count("line 3, in f") == 1
    assert failure.traceback.count("line 3, in f") == 1
    assert failure.where == "a.py:3 in f"


def test_an_error_of_the_stdlibs_process_pool_is_told_with_the_place_in_the_other_process() -> None:
    over_there = raised(ValueError("bad"))
    assert over_there.__traceback__ is not None
    error = pickle.loads(pickle.dumps(_ExceptionWithTraceback(over_there, over_there.__traceback__)))
    found = Failures("mail")

    found.record(7, "job 7", error)

    (failure,) = found
    assert "in raised" in failure.where


def test_repeats_are_logged_at_growing_intervals_with_their_count(time: FakeTime, lines: Lines) -> None:
    found, at, began = Failures("mail"), list[float](), time.now
    error = raised(ValueError("bad"))

    for _ in range(1_000):
        found.record(1, "job 1", error)
        if len(lines.records) > len(at):
            at.append(time.now - began)
        time.advance(0.125)

    assert at == [0, 1, 3, 7, 15, 31, 63]
    assert lines.texts()[2] == "job 1 failed: ValueError: bad (15 more like it since the last line, 25 in all)"
    assert [record.exc_info is None for record in lines.records] == [False, *[True] * 6]
    assert lines.told() == 63 * 8 + 1


def test_a_repeat_is_never_told_as_if_it_were_the_first(time: FakeTime, lines: Lines) -> None:
    found, error = Failures("mail"), raised(ValueError("bad"))

    found.record(1, "job 1", error)
    time.advance(3600)
    found.record(2, "job 2", error)

    assert lines.texts()[1] == "job 2 failed: ValueError: bad (0 more like it since the last line, 2 in all)"
    assert lines.records[1].exc_info is None


def test_the_longest_interval_is_an_hour(time: FakeTime, lines: Lines) -> None:
    found, at, error = Failures("mail"), list[int](), raised(ValueError("bad"))

    for minute in range(60 * 24):
        found.record(1, "job 1", error)
        if len(lines.records) > len(at):
            at.append(minute)
        time.advance(60)

    gaps = [after - before for before, after in pairwise(at)]
    assert gaps == sorted(gaps)
    assert max(gaps) == 60


def test_flush_says_what_was_not_said_yet_and_only_once(lines: Lines) -> None:
    found = Failures("mail")
    for _ in range(5):
        found.record(1, "job 1", raised(ValueError("bad")))
    found.record(1, "job 1", KeyError("once"))
    lines.records.clear()

    found.flush()
    found.flush()

    (line,) = lines.texts()
    assert line.startswith("4 more failures since the last line: 5 times: ValueError: bad at ")


def test_the_first_is_logged_with_its_traceback_though_another_comes_at_the_same_time(lines: Lines) -> None:
    found, error = Failures("mail"), raised(ValueError("bad"))

    class Crowded:
        """A lock, in which another thread was waiting when the first one has counted its failure."""

        def __init__(self) -> None:
            self.lock, self.rounds = threading.Lock(), 0

        def __enter__(self) -> Self:
            self.lock.acquire()
            return self

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            self.rounds += 1
            if self.rounds == 2:  # the first one has been counted, and not been logged yet
                found.record(2, "job 2", error)

    found._lock = Crowded()  # type: ignore[assignment]
    found.record(1, "job 1", error)

    assert [record.exc_info is not None for record in lines.records] == [True]


KINDS, MANY = 1_000, 100_000


def test_a_hundred_thousand_failures_of_a_thousand_kinds_stay_bounded(time: FakeTime, lines: Lines) -> None:
    random.seed(7)
    found = Failures("mail", kinds=KINDS)
    errors = [raised(type(f"E{number}", (Exception,), {})(f"bad {number}")) for number in range(KINDS)]
    numbers = Counter(range(KINDS))  # each once, then by chance

    for number in range(MANY):
        kind = number if number < KINDS else random.randrange(KINDS)
        numbers[kind] += number >= KINDS
        found.record(number, "job", errors[kind])
        time.advance(1 / 1024)

    assert (len(found), found.total) == (KINDS, MANY)
    assert {failure.type: failure.count for failure in found} == {f"E{kind}": numbers[kind] for kind in numbers}
    before = len(lines.records)
    assert before <= KINDS * 8, "in 98 seconds a kind says at most: at 0, 1, 3, 7, 15, 31, 63"
    found.flush()
    assert len(lines.records) <= before + KINDS
    assert lines.told() == MANY


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 0.25, 1, 100, 3600, 10_000])), max_size=60))
def test_every_failure_is_counted_and_told_once(happened: list[tuple[int, float]]) -> None:
    kinds = [type(f"E{number}", (Exception,), {}) for number in range(6)]
    handler, log = Lines(), logging.getLogger("penstock.failures")
    log.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            time, found = FakeTime(patch), Failures("mail", kinds=3)
            for number, seconds in happened:
                found.record(1, "job", kinds[number]())
                time.advance(seconds)
            found.flush()
    finally:
        log.removeHandler(handler)

    assert found.total == len(happened) == handler.told()
    assert len(found) <= 4


def test_threads_that_fail_at_once_are_all_counted(lines: Lines) -> None:
    found = Failures("mail", kinds=5)
    errors = [raised(type(f"E{number}", (Exception,), {})()) for number in range(5)]

    def fail() -> None:
        for number in range(500):
            found.record(number, "job", errors[number % 5])

    for thread in [in_thread(fail) for _ in range(4)]:
        thread.result(GUARD)
    found.flush()

    assert found.total == 2_000
    assert [failure.count for failure in found] == [400] * 5
    assert lines.told() == 2_000


# Errors that are broken themselves


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no sentence")


class BrokenRepr(Exception):
    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr")


class BrokenBoth(BrokenStr, BrokenRepr):
    pass


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class BrokenNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ZeroDivisionError("no notes")


def self_caused() -> Exception:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def odd_syntax_error() -> Exception:
    return SyntaxError("odd", ("file", 1, "not a column", "text"))  # type: ignore[arg-type]


BROKEN: list[Callable[[], Exception]] = [
    BrokenStr, BrokenRepr, BrokenBoth, NoText, self_caused, BrokenNotes, odd_syntax_error,
]  # fmt: skip


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_broken_error_is_counted_like_any_other(make: Callable[[], Exception], lines: Lines) -> None:
    found = Failures("mail")

    for _ in range(3):
        found.record(1, "job 1", raised(make()))
    found.flush()

    (failure,) = found
    assert (failure.type, failure.count) == (type(make()).__name__, 3)
    assert lines.told() == 3
    str(found)


class TellsNothing(Exception):
    """It can't even be asked what it is."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


def test_a_job_that_raises_what_can_not_be_asked_ends_like_any_other(lines: Lines) -> None:
    def fail() -> None:
        raise TellsNothing

    with ThreadPool(1, retry=Retry(2, wait=0)) as pool:
        job = pool.submit(fail)
        assert type(job.exception(GUARD)) is TellsNothing
        assert pool.submit(len, "next").result(GUARD) == 4

    assert pool.report.failed == 1


def test_a_job_that_raises_a_broken_error_ends_like_any_other(lines: Lines) -> None:
    def fail() -> None:
        raise BrokenBoth

    with ThreadPool(1) as pool:
        job = pool.submit(fail)
        assert isinstance(job.exception(GUARD), BrokenBoth)
        assert pool.submit(len, "next").result(GUARD) == 4

    assert pool.report.failed == 1


# Failures that have a stack in place of a traceback


def blocked_here(event: threading.Event) -> None:
    event.wait(GUARD)


def blocked_there(event: threading.Event) -> None:
    event.wait(GUARD)


def test_jobs_that_overrun_at_different_places_are_different_kinds(lines: Lines) -> None:
    event = threading.Event()
    with ThreadPool(2) as pool:
        view = pool.options(timeout=0.05)
        jobs = [view.submit(fn, event) for fn in (blocked_here, blocked_there)]
        for job in jobs:
            assert isinstance(job.exception(GUARD), DeadlineExceeded)
        event.set()

    assert sorted(failure.where.rsplit(" in ")[-1] for failure in pool.failures) == ["blocked_here", "blocked_there"]
