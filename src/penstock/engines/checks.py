"""Which requests no engine takes: of a wrong type, not a number, without end, not Unicode. Pure; every engine asks it.

A request is refused in whole for one part of it, before anything of it is done, so that whoever made it can mend it
and ask again. What only the state of the store can tell (an id that is known, a stale claim) is no reason to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from penstock.engines.records import Attempts, Begins, ByIds, Query, Search, States
from penstock.engines.requests import (
    Again,
    Cancel,
    Claim,
    Death,
    Error,
    NewJob,
    Outcome,
    Pause,
    Progress,
    Prune,
    Put,
    Renew,
    Request,
    Settle,
    Settlement,
    Sweep,
)

_PRIORITIES: Final = 2**31  # they fit in 32 bits
_NUMBERS: Final = 2**63  # seqs, tokens and workers fit in 64
_TIMES: Final = 1e10  # seconds, three hundred years: microseconds, too, fit in 64 bits


def why_refused(request: Request) -> TypeError | ValueError | None:
    """What is wrong with *request* itself; None if an engine can do it."""
    check = _CHECKS.get(type(request))
    if check is None:
        return TypeError(f"{request!r} is no request")
    try:
        check(request)
    except (TypeError, ValueError) as error:
        return error
    return None


def findable(query: Query[Any]) -> Query[Any]:
    """*query* in words that a database takes: what no store can have (a NUL, half a pair) becomes what none has."""
    match query:
        case ByIds() | States():
            if not all(map(_is_findable, query.ids)):
                return replace(query, ids=[id if _is_findable(id) else "" for id in query.ids])
        case Attempts():
            if not _is_findable(query.id):
                return Attempts("")
        case Begins():
            if not _is_findable(query.prefix):
                return Begins("", 0)
        case Search():
            if not all(_is_findable(text) for text in (query.queue, query.task, query.print) if text is not None):
                return Search(limit=0)
    return query


def _is_findable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and text == text.encode(errors="ignore").decode()


def _put(put: Put) -> None:
    for job in put.jobs:
        if not _is_plain(job):
            _job(job)


def _is_plain(job: NewJob) -> bool:
    """Whether nothing can be wrong with *job*: as most are, told in half the time."""
    id, task, queue, priority, args, headers, delay, at = job
    return (
        type(id) is type(task) is type(queue) is str
        and (id + task + queue).isascii()
        and (id + task + queue).isprintable()
        and "" not in (id, task, queue)
        and type(args) is bytes
        and (headers is None or type(headers) is bytes)
        and priority == 0
        and delay == 0
        and at is None
    )


def _job(job: NewJob) -> None:
    _name("the id of a job", job.id)
    _name("the task of a job", job.task)
    _name("the queue of a job", job.queue)
    _whole("the priority of a job", job.priority, -_PRIORITIES, _PRIORITIES)
    for what, value in (("arguments", job.args), ("headers", job.headers)):
        if type(value) is not bytes and not (what == "headers" and value is None):
            raise TypeError(f"{what} of a job must be bytes, not {value!r:.50}")
    if job.delay != 0:
        _seconds("the delay of a job", job.delay)
    if job.at is not None:
        _time("the time (at) of a job", job.at)


def _claim(claim: Claim) -> None:
    _whole("a worker", claim.worker)
    for queue in claim.queues or ():
        _name("a queue", queue)
    for want in claim.wants:
        _whole("the limit of a want", want.limit)
        for task in want.tasks:
            _name("a task", task)


def _settle(settle: Settle) -> None:
    for it in settle.settlements:
        if _is_plain_end(it):
            continue
        _whole("a seq", it.seq)
        _whole("a token", it.token)
        if type(it.outcome) is not Outcome:
            raise TypeError(f"an outcome must be an Outcome, not {it.outcome!r}")
        if it.result is not None and type(it.result) is not bytes:
            raise TypeError(f"a result must be bytes or None, not {it.result!r:.50}")
        if it.error is not None:
            _error(it.error)
        if it.delay != 0:
            _seconds("the delay of a settlement", it.delay)
        _seconds("the seconds that an attempt ran", it.ran)
        _text("the reason of a settlement", it.reason)


def _is_plain_end(settlement: Settlement) -> bool:
    """Whether nothing can be wrong with *settlement*, which says that all went well: told in half the time."""
    seq, token, outcome, result, error, delay, reason, ran = settlement
    return (
        outcome is Outcome.DONE
        and type(seq) is type(token) is int
        and 0 <= seq < _NUMBERS
        and 0 <= token < _NUMBERS
        and (type(result) is bytes or result is None)
        and error is None
        and delay == 0
        and reason == ""
        and type(ran) is float
        and 0 <= ran <= _TIMES
    )


def _error(error: Error) -> None:
    for part in ("type", "message", "traceback", "print"):
        _text(f"the {part} of an error", getattr(error, part))


def _renew(renew: Renew) -> None:
    _seconds("a lease", renew.lease)
    for beat in renew.beats:
        _whole("a worker", beat.worker)
        if type(beat.info) is not bytes:
            raise TypeError(f"the info of a worker must be bytes, not {beat.info!r:.50}")


def _cancel(cancel: Cancel) -> None:
    _names("an id", cancel.ids)
    _text("the reason of a cancel", cancel.reason)


def _pause(pause: Pause) -> None:
    _name("a queue", pause.queue)


def _again(again: Again) -> None:
    _names("an id", again.ids or ())
    _whole("the limit of an Again", again.limit)
    if again.print is not None:
        _text("the kind of a failure", again.print)


def _progress(progress: Progress) -> None:
    _whole("a seq", progress.seq)
    _whole("a token", progress.token)
    _finite("progress", progress.done)
    if progress.total is not None:
        _finite("the total of progress", progress.total)
    _text("the note of progress", progress.note)


def _prune(prune: Prune) -> None:
    _seconds("the time to keep jobs that are done", prune.done)
    _seconds("the time to keep failed jobs", prune.failed)
    _whole("the limit of a Prune", prune.limit)


def _sweep(sweep: Sweep) -> None:
    _seconds("a lease", sweep.lease)
    _seconds("the gap of a sweep", sweep.gap)
    _whole("the crashes of a sweep", sweep.crashes, 1)
    for death in sweep.deaths:
        _death(death)


def _death(death: Death) -> None:
    _whole("a worker", death.worker)
    _text("why a worker died", death.why)
    for seqs in (death.began, death.blamed):
        for seq in seqs or ():
            _whole("a seq", seq)


_CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    Put: _put,
    Claim: _claim,
    Settle: _settle,
    Renew: _renew,
    Cancel: _cancel,
    Pause: _pause,
    Again: _again,
    Progress: _progress,
    Prune: _prune,
    Sweep: _sweep,
}


# The parts


def _text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {value!r:.50}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} must be Unicode, which half a pair isn't: {value!r:.50}") from None


def _name(what: str, value: object) -> None:
    _text(what, value)
    if not value or "\0" in value:  # type: ignore[operator]
        raise ValueError(f"{what} must be one character or more, none of them NUL, not {value!r:.50}")


def _names(what: str, values: Iterable[object]) -> None:
    if isinstance(values, str):
        raise TypeError(f"ids must be a list of texts, not the text {values!r:.50}")
    for value in values:
        _name(what, value)


def _whole(what: str, value: object, low: int = 0, high: int = _NUMBERS) -> None:
    if type(value) is not int:
        raise TypeError(f"{what} must be a whole number, not {value!r:.50}")
    if not low <= value < high:
        raise ValueError(f"{what} must be from {low} to {high - 1}, not {value!r:.50}")


def _finite(what: str, value: object) -> None:
    if type(value) is not float and type(value) is not int:
        raise TypeError(f"{what} must be a number, not {value!r:.50}")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, not {value!r}")


def _time(what: str, value: object) -> None:
    _finite(what, value)
    if abs(value) > _TIMES:  # type: ignore[arg-type]
        raise ValueError(f"{what} must be a time in seconds since 1970, not {value!r}")


def _seconds(what: str, value: object) -> None:
    _finite(what, value)
    if not 0 <= value <= _TIMES:  # type: ignore[operator]
        raise ValueError(f"{what} must be zero or more seconds, at most {_TIMES:g}, not {value!r}")
