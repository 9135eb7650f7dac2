"""The tree of errors answers the caller, and every one of them survives pickling."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import copy
import inspect
import pickle

import pytest

from penstock import Context, Report, errors

REPORT = Report(
    pool="mail", accepted=3, done=1, failed=1, cancelled=1, killed=0, abandoned=0, waiting=0, running=0, retrying=0,
    cut=1, closing=True, closed=True, seconds=2.0, budget=5.0, stuck=(),
)  # fmt: skip

EXAMPLES: list[BaseException] = [
    errors.PenstockError("something"),
    errors.Refused("something"),
    errors.BacklogFull(100),
    errors.BacklogFull(100, 2.5, "use asubmit"),
    errors.PoolClosed("mail"),
    errors.PoolClosed("mail", "the process forked"),
    errors.PoolBroken("mail", "its initializer raised KeyError('x')"),
    errors.NestedWait("job 1 (a)", "job 2 (b)", "they wait for each other"),
    errors.NoResult("something"),
    errors.JobCancelled("job 1 (a)"),
    errors.JobCancelled("job 1 (a)", "the user left", started=True),
    errors.DeadlineExceeded("job 1 (a)"),
    errors.DeadlineExceeded("job 1 (a)", 5.0, started=False),
    errors.JobAbandoned("job 1 (a)", 31.5),
    errors.JobKilled("job 1 (a)", 31.5),
    errors.JobDropped("job 1 (a)"),
    errors.JobFailed("ValueError", "an empty parcel", "Traceback …", "job 0190 (shop.pack)"),
    errors.StoreError("something"),
    errors.StoreUnavailable("sqlite:///jobs.db", "it is locked"),
    errors.OutcomeUnknown(),
    errors.OutcomeUnknown(("0190", "0191")),
    errors.StoreInvalid("sqlite:///jobs.db", "it is no database"),
    errors.JobUnknown("0190"),
    errors.LeaseLost("job 0190 (shop.pack)"),
    errors.NotCommitted(),
    errors.EnqueuedInPart("shop.pack", ("0190", "0191")),
    errors.NotEncodable("shop.pack", "Expected `int`, got `str` - at `$.width`"),
    errors.NotDecodable("shop.pack", "it was enqueued without `width`"),
    errors.Snooze(5.0),
    errors.Discard(),
    errors.Discard("the order was cancelled"),
    errors.NotPicklable("argument 0.lock (lock): TypeError: cannot pickle '_thread.lock' object"),
    errors.Incomplete(REPORT),
    errors.Cancelled("the user left"),
    errors.Cancelled("its deadline passed", by_deadline=True),
]

SENTENCES = {
    "the backlog is full (100 jobs wait)": errors.BacklogFull(100),
    "the backlog is full (100 jobs wait) after 2.5 s of waiting; use asubmit": errors.BacklogFull(
        100, 2.5, "use asubmit"
    ),
    "cannot schedule new futures: pool 'mail' takes no more jobs, it was closed": errors.PoolClosed("mail"),
    "pool 'mail' is broken: no thread": errors.PoolBroken("mail", "no thread"),
    "job 1 can't wait for job 2: why": errors.NestedWait("job 1", "job 2", "why"),
    "job 1 was cancelled: cancelled": errors.JobCancelled("job 1"),
    "job 1 was cancelled while it ran: the user left": errors.JobCancelled("job 1", "the user left", started=True),
    "job 1 exceeded its deadline": errors.DeadlineExceeded("job 1"),
    "job 1 exceeded its limit of 0.5 s": errors.DeadlineExceeded("job 1", 0.5),
    "job 1 never started within its limit of 0.5 s": errors.DeadlineExceeded("job 1", 0.5, started=False),
    "job 1 was still running after 31.5 s when its pool had to stop; it was left behind": errors.JobAbandoned(
        "job 1", 31.5
    ),
    "job 1 was dropped: its executor cancelled it, and nobody had asked for that": errors.JobDropped("job 1"),
    "job 1 was still running after 31.5 s when its pool had to stop; it was killed": errors.JobKilled("job 1", 31.5),
    "job 0190 (shop.pack) failed: ValueError: an empty parcel": errors.JobFailed(
        "ValueError", "an empty parcel", "Traceback …", "job 0190 (shop.pack)"
    ),
    "the job failed: KeyError": errors.JobFailed("KeyError", ""),
    "the store sqlite:///jobs.db can't be used now: it is locked": errors.StoreUnavailable(
        "sqlite:///jobs.db", "it is locked"
    ),
    "sqlite:///jobs.db is no store that can be used: it is no database": errors.StoreInvalid(
        "sqlite:///jobs.db", "it is no database"
    ),
    "the store never answered: what was asked may be done or not; asking again with the same id is safe": (
        errors.OutcomeUnknown()
    ),
    "the store never answered: what was asked may be done or not (a, b, c, …); asking again with the same id is safe": (
        errors.OutcomeUnknown(("a", "b", "c", "d"))
    ),
    "the store has no job 0190: it was never enqueued there, or it ended and was pruned": errors.JobUnknown("0190"),
    "job 0190 (shop.pack) is another worker's now: this one's lease ran out": errors.LeaseLost("job 0190 (shop.pack)"),
    "not all jobs of shop.pack were enqueued: the first 2 were accepted and will run": errors.EnqueuedInPart(
        "shop.pack", ("0190", "0191")
    ),
    "shop.pack: Expected `int`": errors.NotEncodable("shop.pack", "Expected `int`"),
    "shop.pack: it was enqueued without `width`": errors.NotDecodable("shop.pack", "it was enqueued without `width`"),
    "to run again in 90 s": errors.Snooze(90),
    "discarded by its task": errors.Discard(),
    f"not every accepted job ran to its end: {REPORT}": errors.Incomplete(REPORT),
}

PARENTS = {
    errors.Refused: {errors.PenstockError},
    errors.BacklogFull: {errors.Refused},
    errors.PoolClosed: {errors.Refused, RuntimeError},
    errors.PoolBroken: {errors.Refused, concurrent.futures.thread.BrokenThreadPool},
    errors.NestedWait: {errors.PenstockError, RuntimeError},
    errors.NoResult: {errors.PenstockError},
    errors.JobCancelled: {errors.NoResult, concurrent.futures.CancelledError},
    errors.DeadlineExceeded: {errors.NoResult},
    errors.JobAbandoned: {errors.NoResult},
    errors.JobKilled: {errors.NoResult},
    errors.JobDropped: {errors.NoResult, concurrent.futures.CancelledError},
    errors.JobFailed: {errors.NoResult},
    errors.StoreError: {errors.PenstockError},
    errors.StoreUnavailable: {errors.StoreError, errors.Refused},
    errors.OutcomeUnknown: {errors.StoreError},
    errors.StoreInvalid: {errors.StoreError},
    errors.JobUnknown: {errors.StoreError, LookupError},
    errors.LeaseLost: {errors.StoreError},
    errors.NotCommitted: {errors.PenstockError},
    errors.EnqueuedInPart: {errors.PenstockError},
    errors.NotEncodable: {errors.PenstockError, TypeError},
    errors.NotDecodable: {errors.PenstockError},
    errors.Snooze: {errors.PenstockError},
    errors.Discard: {errors.PenstockError},
    errors.NotPicklable: {errors.PenstockError, pickle.PicklingError},
    errors.Incomplete: {errors.PenstockError},
    errors.PenstockError: {Exception},
    errors.Cancelled: {BaseException},
}


def test_the_examples_name_every_error_there_is() -> None:
    defined = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
    }

    assert {type(example) for example in EXAMPLES} == defined
    assert set(PARENTS) == defined


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{len(vars(error))}")
def test_an_error_crosses_a_process_border(error: BaseException) -> None:
    travelled = pickle.loads(pickle.dumps(error))

    assert (type(travelled), travelled.args, str(travelled)) == (type(error), error.args, str(error))
    assert vars(travelled) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{len(vars(error))}")
def test_an_error_can_be_copied(error: BaseException) -> None:
    twin = copy.copy(error)

    assert (type(twin), twin.args, str(twin)) == (type(error), error.args, str(error))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{len(vars(error))}")
def test_the_args_of_an_error_are_its_parts(error: BaseException) -> None:
    """But for what is given by keyword: `started`, `source`, `by_deadline`."""
    given_by_keyword = {"started", "source", "by_deadline"}

    assert [part for name, part in vars(error).items() if name not in given_by_keyword] in ([], list(error.args))


def test_the_context_that_tripped_stays_behind_when_cancelled_is_pickled() -> None:
    error = errors.Cancelled("the user left", source=Context(parent=None), by_deadline=False)

    travelled = pickle.loads(pickle.dumps(error))

    assert (travelled.reason, travelled.source) == ("the user left", None)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{len(vars(error))}")
def test_the_notes_of_an_error_cross_a_process_border(error: BaseException) -> None:
    noted = copy.copy(error)
    noted.add_note("not retried")

    travelled = pickle.loads(pickle.dumps(noted))

    assert travelled.__notes__ == ["not retried"]


@pytest.mark.parametrize(("sentence", "error"), SENTENCES.items(), ids=lambda value: str(value)[:40])
def test_an_error_says_a_sentence(sentence: str, error: BaseException) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize(("kind", "parents"), PARENTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_tree_is_as_documented(kind: type[BaseException], parents: set[type[BaseException]]) -> None:
    assert set(kind.__bases__) == parents


def test_a_deadline_is_no_timeout_and_no_os_error() -> None:
    assert not issubclass(errors.DeadlineExceeded, OSError)  # and TimeoutError is one


def test_cancelled_passes_by_except_exception() -> None:
    assert not issubclass(errors.Cancelled, Exception)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, True, "5"])
def test_a_task_can_not_snooze_for_what_is_no_length_of_time(seconds: object) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        errors.Snooze(seconds)  # type: ignore[arg-type]
