"""A context says how long work may take and whether it is still wanted, to whoever asks and to whoever listens."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest

from penstock import (
    Cancelled,
    Context,
    DeadlineExceeded,
    Job,
    JobCancelled,
    Retry,
    ThreadPool,
    clock,
    current_context,
    current_job,
    timers,
)
from penstock.context import Cause
from tests.fake_time import FakeTime
from tests.gates import GUARD, Gate, in_thread

SOON = 0.02  # seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def root(timeout: float | None = None, **values: Any) -> Context:
    return Context(timeout, values=values, parent=None)


# What it is asked


def test_a_context_without_a_deadline_has_endless_time() -> None:
    context = root()

    assert (context.deadline, context.remaining(), context.cancelled, context.reason) == (None, math.inf, False, None)
    context.check()


def test_a_context_trips_when_its_time_has_come(time: FakeTime) -> None:
    context = root(5)
    assert context.deadline == time.now + 5

    time.advance(4)
    assert (context.remaining(), context.cancelled) == (1, False)
    time.advance(1)
    assert (context.remaining(), context.cancelled, context.reason) == (0, True, "its deadline passed")


def test_check_raises_cancelled_that_says_why_and_whose(time: FakeTime) -> None:
    context = root(5)
    below = Context(parent=context)
    time.advance(5)

    with pytest.raises(Cancelled) as caught:
        below.check()

    assert (caught.value.reason, caught.value.by_deadline) == ("its deadline passed", True)
    assert caught.value.source is context


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_no_limit_has_two_spellings(timeout: float | None) -> None:
    assert root(timeout).deadline is None


def test_a_deadline_is_never_later_than_the_parents(time: FakeTime) -> None:
    parent = root(5)

    deadlines = [Context(timeout, parent=parent).deadline for timeout in (3, 5, 9, None)]

    assert deadlines == [time.now + seconds for seconds in (3, 5, 5, 5)]


def test_values_lie_over_those_of_the_parent() -> None:
    parent = root(user="ann", tenant=1)
    child = Context(values={"tenant": 2}, parent=parent)

    assert dict(child.values) == {"user": "ann", "tenant": 2}
    assert dict(parent.values) == {"user": "ann", "tenant": 1}
    assert (child.value("tenant"), child.value("user"), child.value("none"), child.value("none", 7)) == (
        2, "ann", None, 7,
    )  # fmt: skip


def test_values_are_read_only_and_a_copy() -> None:
    given = {"user": "ann"}
    context = Context(values=given, parent=None)

    given["user"] = "bob"

    assert context.value("user") == "ann"
    with pytest.raises(TypeError):
        context.values["user"] = "bob"  # type: ignore[index]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"timeout": "5"}, "timeout must be a number of seconds or None, not '5'"),
        ({"values": [("user", "ann")]}, r"values must be a mapping, not \[\('user', 'ann'\)\]"),
        ({"parent": "me"}, "parent must be a Context or None, not 'me'"),
    ],
    ids=str,
)
def test_a_part_of_the_wrong_kind_is_named(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}$"):
        Context(**parts)


@pytest.mark.parametrize("timeout", [-1, math.nan])
def test_a_timeout_that_is_no_length_is_named(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be zero or more seconds"):
        Context(timeout)


def test_the_repr_says_what_is_left(time: FakeTime) -> None:
    context = root(5)
    assert repr(root()) == "<Context no deadline>"
    assert repr(context) == "<Context 5 s left>"

    context.cancel("the user left")

    assert repr(context) == "<Context tripped: the user left>"


# Cancelling


def test_cancel_trips_a_context_and_those_below_and_no_other() -> None:
    top = root()
    middle, beside = Context(parent=top), Context(parent=top)
    bottom = Context(parent=middle)

    assert middle.cancel("the user left")

    assert [context.reason for context in (top, middle, bottom, beside)] == [
        None, "the user left", "the user left", None,
    ]  # fmt: skip


def test_a_tripped_context_keeps_its_first_cause(time: FakeTime) -> None:
    top = root(5)
    child = Context(parent=top)

    assert top.cancel("first")
    assert not top.cancel("second")
    assert not child.cancel("third")
    time.advance(10)

    assert (top.reason, child.reason) == ("first", "first")


def test_a_passed_deadline_stays_the_cause_when_an_ancestor_is_cancelled_later(time: FakeTime) -> None:
    top = root()
    child = Context(5, parent=top)
    time.advance(5)
    assert child.reason == "its deadline passed"

    top.cancel("too late")

    assert child.reason == "its deadline passed"


def test_a_passed_deadline_stays_the_cause_though_nobody_watched_it_come(time: FakeTime) -> None:
    top = root()
    child = Context(5, parent=top)
    told: list[str] = []
    child.listen(lambda cause: told.append(cause.reason), on_time=False)  # as one who sleeps: he has his own alarm
    time.advance(6)
    assert child.reason == "its deadline passed"

    top.cancel("too late")

    assert child.reason == "its deadline passed"
    assert told == ["its deadline passed"]


# Being told


def test_a_listener_is_told_once_by_whoever_cancels() -> None:
    context, told = root(), []
    context.on_cancel(lambda: told.append(threading.current_thread()))

    context.cancel()
    context.cancel()

    assert told == [threading.current_thread()]


def test_a_listener_of_a_tripped_context_is_told_at_once() -> None:
    context, told = root(), []
    context.cancel()

    undo = context.on_cancel(lambda: told.append(1))

    assert told == [1]
    undo()


def test_nobody_is_told_after_undo() -> None:
    context, told = root(), []
    undo = context.on_cancel(lambda: told.append("undone"))
    context.on_cancel(lambda: told.append("kept"))

    undo()
    undo()
    context.cancel()
    undo()

    assert told == ["kept"]


def test_the_same_function_can_listen_twice_and_be_undone_once() -> None:
    context, told = root(), []

    def tell() -> None:
        told.append(1)

    undo = context.on_cancel(tell)
    context.on_cancel(tell)
    undo()
    context.cancel()

    assert told == [1]


def test_a_listener_is_told_of_the_trip_of_an_ancestor() -> None:
    top, told = root(), []
    Context(parent=Context(parent=top)).on_cancel(lambda: told.append(1))

    top.cancel()

    assert told == [1]


def test_a_deadline_tells_its_listeners_on_a_thread_where_they_may_block() -> None:
    told = queue.SimpleQueue[str]()
    context = root(SOON)

    context.on_cancel(lambda: told.put(threading.current_thread().name))

    assert told.get(timeout=GUARD).startswith("penstock-callbacks")
    assert context.reason == "its deadline passed"


def test_a_listener_is_told_of_the_deadline_of_an_ancestor(time: FakeTime) -> None:
    told: list[float] = []
    Context(9, parent=Context(parent=root(5))).on_cancel(lambda: told.append(time.now))
    began = time.now

    time.advance(20)

    assert told == [began + 5]


def test_a_listener_that_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    context, told = root(), []
    context.on_cancel(lambda: told.append(1))
    context.on_cancel(lambda: 1 / 0)
    context.on_cancel(lambda: told.append(2))

    assert context.cancel()

    assert sorted(told) == [1, 2]
    assert [(record.name, record.levelno) for record in caplog.records] == [("penstock.context", logging.ERROR)]


# be settled.
def test_a_listener_that_checks_its_context_does_not_keep_the_others_from_being_told() -> None:
    context, told = root(), []
    context.on_cancel(lambda: told.append(1))
    context.on_cancel(context.check)
    context.on_cancel(lambda: told.append(2))

    try:
        context.cancel()
    except Cancelled:
        pass  # whether it comes out here or in the log is another question

    assert sorted(told) == [1, 2]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_whatever_a_callback_raises_the_others_are_told_and_the_canceller_goes_on(error: BaseException) -> None:
    def fail() -> None:
        raise error

    context, told = root(), list[int]()
    context.on_cancel(fail)
    context.on_cancel(lambda: told.append(2))

    assert context.cancel()
    assert told == [2]


def test_the_job_is_told_before_the_users_callbacks() -> None:
    context, told = root(), list[str]()
    context.on_cancel(lambda: told.append("user"))
    context.listen_for_job(lambda cause: told.append("job"))

    context.cancel()

    assert told == ["job", "user"]


def test_a_listener_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"^on_cancel needs a callable, not 'stop'$"):
        root().on_cancel("stop")  # type: ignore[arg-type]


def test_a_listener_may_use_the_context_that_tells_it() -> None:
    context, told = root(), []
    below = Context(parent=context)
    context.on_cancel(lambda: told.append((context.cancel(), below.cancel(), below.reason)))

    context.cancel("first")

    assert told == [(False, False, "first")]


def test_of_many_threads_that_cancel_one_has_done_it_and_tells_once() -> None:
    context, told = root(), []
    context.on_cancel(lambda: told.append(1))
    together = threading.Barrier(8)

    def cancel(number: int) -> bool:
        together.wait(GUARD)
        return context.cancel(str(number))

    threads = [in_thread(cancel, number) for number in range(8)]
    did = [str(number) for number, thread in enumerate(threads) if thread.result(GUARD)]

    assert did == [context.reason]
    assert told == [1]


def test_a_listener_that_comes_as_its_context_trips_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    top = root()
    child, told, cancelling = Context(parent=top), list[int](), list[Future[bool]]()
    add_listener = Context._add_listener

    def crowded(self: Context, key: object, listener: Callable[[Cause], None]) -> None:
        """Another thread cancels while this one is between looking and lining up."""
        cancelling.append(in_thread(top.cancel))
        wait(cancelling, timeout=0.05)  # it can't get far: it waits for the lock
        add_listener(self, key, listener)

    monkeypatch.setattr(Context, "_add_listener", crowded)
    child.on_cancel(lambda: told.append(1))

    assert cancelling[0].result(GUARD)
    assert told == [1]


# Sleeping


def test_sleep_returns_when_the_time_is_over_and_listens_no_more() -> None:
    context = root()

    context.sleep(0)
    context.sleep(0.001)

    assert not context.is_listened_to


def test_cancel_ends_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    context = root()
    parked = threading.Event()
    listen = context.listen

    def watched(told: Callable[[Cause], None], *, on_time: bool = True) -> Callable[[], None]:
        undo = listen(told, on_time=on_time)
        parked.set()
        return undo

    monkeypatch.setattr(Context, "listen", lambda self, told, on_time=True: watched(told, on_time=on_time))
    sleeping = in_thread(context.sleep, 3600)
    assert parked.wait(GUARD)

    context.cancel("the user left")

    with pytest.raises(Cancelled, match="the user left"):
        sleeping.result(GUARD)
    assert not context.is_listened_to


def test_the_deadline_ends_a_sleep() -> None:
    context = root(SOON)

    sleeping = in_thread(Context(parent=context).sleep, 3600)

    with pytest.raises(Cancelled, match="its deadline passed"):
        sleeping.result(GUARD)


def test_a_tripped_context_sleeps_not_at_all() -> None:
    context = root()
    context.cancel()

    with pytest.raises(Cancelled):
        context.sleep(3600)


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_sleep_of_no_length_is_named(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^seconds must be zero or more"):
        root().sleep(seconds)


# As a block


def test_a_block_makes_its_context_the_current_one() -> None:
    with root(5) as outer:
        assert current_context() is outer
        with Context(values={"user": "ann"}) as inner:
            assert current_context() is inner
            assert inner.deadline == outer.deadline
            assert inner.parent is outer
        assert current_context() is outer
    assert current_context() is not outer


def test_a_block_whose_time_runs_out_raises_deadline_exceeded() -> None:
    with pytest.raises(DeadlineExceeded, match=r"^the block exceeded its deadline$") as caught:
        with root(0):
            current_context().check()

    assert isinstance(caught.value.__cause__, Cancelled)


def test_a_block_that_is_cancelled_raises_job_cancelled() -> None:
    with pytest.raises(JobCancelled, match=r"^the block was cancelled: the user left$"):
        with root() as context:
            context.cancel("the user left")
            context.check()


def test_the_trip_of_an_outer_block_passes_the_inner_one() -> None:
    passed = []
    with pytest.raises(JobCancelled):
        with root() as outer:
            try:
                with Context(5):
                    outer.cancel()
                    current_context().check()
            except Cancelled as error:
                passed.append(error.source)
                raise

    assert passed == [outer]


def test_an_inner_deadline_that_is_the_outer_one_belongs_to_the_outer(time: FakeTime) -> None:
    with pytest.raises(DeadlineExceeded):
        with root(5) as outer:
            with pytest.raises(Cancelled) as caught:
                with Context(9):
                    time.advance(5)
                    current_context().check()
            raise caught.value

    assert caught.value.source is outer


def test_other_errors_leave_a_block_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        with root(0):
            _ = 1 / 0


def test_leaving_a_block_cancels_nothing() -> None:
    with root() as context:
        pass

    assert not context.cancelled


def test_a_context_can_be_entered_once_at_a_time() -> None:
    context = root()

    with context, pytest.raises(RuntimeError, match="entered already"):
        with context:
            pass

    with context:
        assert current_context() is context


def test_outside_of_everything_the_current_context_never_trips() -> None:
    nowhere = current_context()

    assert not nowhere.cancel("the user left")
    assert (nowhere.cancelled, nowhere.deadline, nowhere.remaining()) == (False, None, math.inf)
    with pytest.raises(RuntimeError, match="make one"):
        with nowhere:
            pass
    assert not Context(5, parent=nowhere).cancelled


def test_a_thread_begins_outside_of_the_blocks_of_the_one_that_made_it() -> None:
    with root() as context:
        assert in_thread(current_context).result(GUARD) is not context


def test_a_block_in_a_job_is_still_part_of_the_job() -> None:
    def inside() -> tuple[bool, bool]:
        job = current_job()
        assert job is not None
        with Context(5) as block:
            return current_job() is job, block.parent is job.context

    with ThreadPool(1) as pool:
        assert pool.submit(inside).result(GUARD) == (True, True)


# For the pools: a job's context is closed when its job has ended


def test_a_closed_context_cannot_be_cancelled_but_its_ancestors_can() -> None:
    top = root()
    closed = Context(parent=top)
    below = Context(parent=closed)
    closed.close()

    assert not closed.cancel()
    assert (closed.cancelled, below.cancelled) == (False, False)
    top.cancel("the user left")

    assert (closed.reason, below.reason) == ("the user left", "the user left")


def test_a_closed_context_still_has_its_deadline(time: FakeTime) -> None:
    closed = root(5)
    closed.close()
    told: list[float] = []
    below = Context(parent=closed)
    below.on_cancel(lambda: told.append(time.now))
    deadline = closed.deadline

    time.advance(5)

    assert (closed.cancelled, below.cancelled) == (True, True)
    assert told == [deadline]


def test_the_listener_of_a_job_goes_when_its_context_is_closed(time: FakeTime) -> None:
    top, told = root(), list[Cause]()
    context = Context(5, parent=top)
    context.listen_for_job(told.append)

    context.close()
    top.cancel()
    time.advance(9)

    assert not told
    assert not time.to_come


def test_the_listener_of_a_job_is_told_why() -> None:
    context, told = root(), list[Cause]()
    context.listen_for_job(told.append)

    context.cancel("the user left")

    assert told == [Cause("the user left", by_deadline=False, source=context)]


def test_each_attempt_gets_a_time_of_its_own_within_what_was_inherited(time: FakeTime) -> None:
    parent = root(10)
    context = Context(parent=parent)
    began = time.now
    told: list[float] = []
    context.on_cancel(lambda: told.append(time.now))

    context.limit(3)
    assert context.deadline == began + 3
    time.advance(2)
    context.limit(None)
    assert context.deadline == began + 10
    time.advance(2)
    context.limit(4)
    assert context.deadline == began + 8
    context.limit(99)
    assert context.deadline == began + 10
    assert [timer.when for timer in time.to_come] == [began + 10]
    time.advance(20)

    assert told == [began + 10]


def test_the_deadline_of_each_attempt_is_a_cause_of_its_own(time: FakeTime) -> None:
    context = root()
    causes: list[Cause | None] = []
    for timeout in (5, 3):
        context.limit(timeout)
        time.now += 10
        causes += [context.cause, context.cause]

    assert [cause.at - time.began for cause in causes if cause] == [5, 5, 13, 13]
    assert causes[0] is causes[1]


class LetsAnotherFirst:
    """The lock of a tree. When it is taken next, another thread's *step* has come just before."""

    def __init__(self, context: Context, step: Callable[[], object]) -> None:
        self._lock = context._tree
        self._step: Callable[[], object] | None = step
        context._tree = self  # type: ignore[assignment]

    def __enter__(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_deadline_that_the_next_attempt_replaces_at_the_last_moment_trips_nothing(
    time: FakeTime, timeout: float | None
) -> None:
    context, told = root(), list[Cause]()
    context.limit(5)
    context.listen_for_job(told.append)
    LetsAnotherFirst(context, lambda: context.limit(timeout))

    time.advance(5)

    assert (context.cancelled, told) == (False, [])


def test_a_cancel_after_a_deadline_that_the_next_attempt_replaces_at_the_last_moment_is_a_cancel(
    time: FakeTime,
) -> None:
    context = root()
    context.limit(5)
    time.now += 5  # and nobody was told
    LetsAnotherFirst(context, lambda: context.limit(None))

    assert context.cancel("the user left")
    assert context.reason == "the user left"


@pytest.mark.parametrize(
    "ask",
    [Context.check, Context.remaining, repr, Context.cancel, lambda context: context.cancelled, Context._expire],
    ids=["check", "remaining", "repr", "cancel", "cancelled", "the timers"],
)
def test_a_context_may_be_asked_while_the_next_attempt_gets_its_time(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Context], object]
) -> None:
    """Between a look at the deadline and one at the clock another thread may have its turn."""
    context = root()
    context.limit(5)
    time.now += 5
    now = time.now

    def look_at_the_clock() -> float:
        monkeypatch.setattr(clock, "monotonic", lambda: now)
        context.limit(None)
        return now

    monkeypatch.setattr(clock, "monotonic", look_at_the_clock)
    with contextlib.suppress(Cancelled):
        ask(context)

    assert context.deadline is None
    assert context.reason == ("cancelled" if ask is Context.cancel else None)


def test_a_context_below_is_told_of_its_deadline_though_the_next_attempt_has_another(time: FakeTime) -> None:
    attempt = root()
    attempt.limit(5)
    told: list[float] = []
    below = Context(parent=attempt)
    below.on_cancel(lambda: told.append(time.now))
    deadline = below.deadline

    attempt.limit(None)
    time.advance(20)

    assert below.cancelled
    assert told == [deadline]


def test_a_job_ends_at_the_deadline_it_has_from_an_attempt_that_failed() -> None:
    gate, submitted = Gate(), queue.SimpleQueue[Job[None]]()
    with ThreadPool(2) as pool:

        def outer() -> None:
            submitted.put(pool.submit(gate))
            raise ValueError("try again")

        retrying = pool.options(timeout=SOON * 5, retry=Retry(2, on=(ValueError,), wait=30, jitter=0)).submit(outer)
        inner = submitted.get(timeout=GUARD)
        try:
            with pytest.raises(DeadlineExceeded):
                inner.result(GUARD / 4)
        finally:
            retrying.cancel()
            gate.open()


def test_a_job_ends_at_its_deadline_though_somebody_listened_to_its_context_before_it_ran() -> None:
    first, second, told = Gate(), Gate(), threading.Event()
    with ThreadPool(1) as pool:
        pool.submit(first)
        job = pool.options(timeout=SOON).submit(second)
        job.context.on_cancel(told.set)
        first.open()
        try:
            assert told.wait(GUARD)
            with pytest.raises(DeadlineExceeded):
                job.result(GUARD / 4)
        finally:
            second.open()


def test_a_deadline_that_no_thread_can_keep_is_found_by_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(timers, "_timers", timers.Timers())
    told: list[int] = []
    context = root(SOON)
    context.on_cancel(lambda: told.append(1))

    with pytest.raises(Cancelled):
        context.sleep(GUARD)
    assert (context.reason, told) == ("its deadline passed", [])
    context.cancel()
    assert told == [1], "who is told is told by who finds it"


# What nobody needs is not kept


def test_a_context_that_nobody_listens_to_is_held_by_nobody() -> None:
    top = root(3600)
    child = Context(parent=top)
    undo = child.on_cancel(lambda: None)
    undo()
    gone = weakref.ref(child)

    del child, undo

    assert gone() is None
    assert not top.is_listened_to


def test_a_context_that_somebody_listens_to_is_held_by_its_parent() -> None:
    top, told = root(), []
    Context(parent=top).on_cancel(lambda: told.append(1))
    gc.collect()

    top.cancel()

    assert told == [1]


def test_a_context_that_tripped_alone_is_held_by_its_parent_no_longer() -> None:
    top = root(3600)
    child = Context(parent=top)
    child.listen_for_job(lambda cause: None)
    child.cancel()
    child.close()
    gone = weakref.ref(child)

    del child
    gc.collect()

    assert not top.is_listened_to
    assert gone() is None


@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_chain_of_contexts_that_each_make_the_next_does_not_grow(timeout: float | None) -> None:
    chain: list[weakref.ref[Context]] = []
    here = Context(timeout, parent=None)
    for _ in range(200):
        below = Context(parent=here)
        below.listen_for_job(lambda cause: None)  # the next job is accepted,
        here.close()  # and then this one ends
        here = below
        chain.append(weakref.ref(here))

    gc.collect()

    assert sum(ref() is not None for ref in chain) <= 3
    here.close()


def test_a_chain_of_jobs_that_each_submit_the_next_does_not_grow() -> None:
    contexts: list[weakref.ref[Context]] = []
    last = Gate()

    def tick(left: int) -> None:
        contexts.append(weakref.ref(current_context()))
        if left:
            pool.submit(tick, left - 1)
        else:
            last()

    with ThreadPool(2) as pool:
        pool.submit(tick, 100)
        last.wait_entered()
        gc.collect()
        alive = sum(ref() is not None for ref in contexts)
        last.open()

    assert alive <= 4


def test_the_timers_are_told_of_a_deadline_only_while_somebody_listens(time: FakeTime) -> None:
    top = root(5)
    children = [Context(parent=top) for _ in range(10)]
    assert not time.to_come

    undoes = [child.on_cancel(lambda: None) for child in children]
    assert {timer.when for timer in time.to_come} == {top.deadline}
    for undo in undoes:
        undo()

    assert not time.to_come


def test_no_timer_runs_for_those_below_that_have_theirs(time: FakeTime) -> None:
    top = root(5)
    undo = top.on_cancel(lambda: None)
    below = Context(2, parent=top)
    below.on_cancel(lambda: None)

    undo()
    assert {timer.when for timer in time.to_come} == {below.deadline}

    top.limit(4)
    assert {timer.when for timer in time.to_come} == {below.deadline}
