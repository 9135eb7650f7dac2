"""Which failures there were, grouped by what they have in common, in bounded memory and with a bounded log."""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType

from penstock import clock

log = logging.getLogger("penstock.failures")

_FRAMES = 3  # innermost frames of the user's code that tell two failures apart
_SAMPLE_IDS = 5
_LONGEST_MESSAGE = 1_000  # characters
_LONGEST_TRACEBACK = 8_000
_FIRST_INTERVAL = 1.0  # seconds between the first log line of a kind and the next; doubles each time
_LONGEST_INTERVAL = 3600.0
_QUIET = 3600.0  # seconds without a failure after which a kind may make room for a new one

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = tuple(
    {os.path.join(sysconfig.get_paths()[key], "") for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)

_PRINTED_FRAME = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)  # as the traceback module has it

Fingerprint = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """One kind of failure: the same exception type, raised at the same place of the user's code.

    *where*: the innermost place of the user's code, `file:line in function`. *message* and *traceback* are of the first
    failure of the kind, cut to a bounded length. *first* and *last*: wall time, seconds since the epoch. *job_ids*:
    the first few.
    """

    type: str
    message: str
    where: str
    count: int
    first: float
    last: float
    traceback: str
    job_ids: tuple[int | str, ...]

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        where = f" at {self.where}" if self.where else ""
        return f"{times}: {self.type}: {self.message}{where}"


@dataclass(slots=True)
class _Kind:
    failure: Failure
    next_log: float  # monotonic; a failure of this kind is not logged before
    interval: float
    unlogged: int = 0
    last_seen: float = field(default=0.0)  # monotonic


class Failures:
    """The failures of one pool, by kind. Iterating gives a `Failure` for each, most frequent first.

    At most *kinds* kinds are kept, those of the last hour before older ones; what is beyond is counted under one kind
    of the type "other kinds", so that `total` is always exact. The first failure of each kind is logged at once with
    its traceback, repeats after 1, 2, 4, … seconds with their count, and what was not logged yet when the pool stops.

    Safe from any thread. Lock: `_lock` guards every field; a leaf. Nothing is formatted or logged with it held.
    """

    def __init__(self, pool: str, kinds: int = 1_000) -> None:
        self._pool = pool
        self._limit = kinds
        self._lock = threading.Lock()
        self._kinds: OrderedDict[Fingerprint, _Kind] = OrderedDict()  # oldest last_seen first
        self._total = 0

    @property
    def total(self) -> int:
        """How many jobs failed."""
        return self._total

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[Failure]:
        with self._lock:
            found = [kind.failure for kind in self._kinds.values()]
        return iter(sorted(found, key=lambda failure: (-failure.count, failure.first)))

    def __str__(self) -> str:
        lines = [f"{self.total} failed, {len(self)} {'kind' if len(self) == 1 else 'kinds'}"]
        lines += [f"  {failure}" for failure in self]
        return "\n".join(lines)

    def record(self, job_id: int | str, label: str, error: BaseException, stack: str = "", worker: str = "") -> None:
        """Count the failure of job *job_id*. *stack*: where its thread stood, for errors that have no traceback."""
        fingerprint, where = _fingerprint(error, stack)
        now = clock.monotonic()
        with self._lock:
            self._total += 1
            if fingerprint not in self._kinds and not self._make_room(now):
                fingerprint, where = ("other kinds",), ""
            kind = self._kinds.get(fingerprint)
            is_new = kind is None
        sample = self._first_of(fingerprint, where, job_id, error, stack) if is_new else None
        with self._lock:
            kind = self._kinds.get(fingerprint)
            if kind is None:
                # Another thread may have dropped the kind between the two blocks: then there is a new sample to make.
                kind = _Kind(sample or self._first_of(fingerprint, where, job_id, error, stack), 0.0, _FIRST_INTERVAL)
                self._kinds[fingerprint] = kind
            repeats = self._count(fingerprint, kind, job_id, now)
        if repeats is None:
            return
        extra = {"job": job_id, "worker": worker, "pool": self._pool, "failures": kind.failure.count}
        if repeats == kind.failure.count == 1:
            said = _message(error) if stack == "" else f"{_message(error)}\nIts thread stood at:\n{stack}"
            log.error("%s failed: %s: %s", label, type(error).__name__, said, exc_info=_exc_info(error), extra=extra)
        else:
            log.error(
                "%s failed: %s: %s (%d more like it since the last line, %d in all)",
                label, type(error).__name__, _message(error), repeats - 1, kind.failure.count, extra=extra,
            )  # fmt: skip

    def flush(self) -> None:
        """Log how often each kind was repeated since its last line; called when the pool has stopped."""
        with self._lock:
            unlogged = [(kind.failure, kind.unlogged) for kind in self._kinds.values() if kind.unlogged]
            for kind in self._kinds.values():
                kind.unlogged = 0
        for failure, repeats in unlogged:
            log.error("%d more failures since the last line: %s", repeats, failure, extra={"pool": self._pool})

    def _make_room(self, now: float) -> bool:
        """Whether one more kind can be kept, if need be in the place of one that was quiet for long. Holds `_lock`."""
        if len(self._kinds) < self._limit:
            return True
        oldest, kind = next(iter(self._kinds.items()))
        if now - kind.last_seen < _QUIET or kind.unlogged:
            return False
        del self._kinds[oldest]
        return True

    def _count(self, fingerprint: Fingerprint, kind: _Kind, job_id: int | str, now: float) -> int | None:
        """Count one more of *kind*; how many to log now (this one and those held back), or None. Holds `_lock`."""
        failure = kind.failure
        ids = failure.job_ids
        if len(ids) < _SAMPLE_IDS and failure.count:
            ids = (*ids, job_id)
        kind.failure = replace(failure, count=failure.count + 1, last=clock.wall(), job_ids=ids)
        kind.last_seen = now
        self._kinds.move_to_end(fingerprint)
        kind.unlogged += 1
        if now < kind.next_log:
            return None
        kind.next_log = now + kind.interval
        kind.interval = min(kind.interval * 2, _LONGEST_INTERVAL)
        repeats, kind.unlogged = kind.unlogged, 0
        return repeats

    def _first_of(
        self, fingerprint: Fingerprint, where: str, job_id: int | str, error: BaseException, stack: str
    ) -> Failure:
        """A kind's first failure, with count 0: `_count` adds this one."""
        now = clock.wall()
        if len(fingerprint) == 1:
            return Failure("other kinds", f"more than {self._limit} kinds of failures", "", 0, now, now, "", (job_id,))
        text = "".join(traceback.format_exception(error, limit=-20)) + stack
        message = _message(error)
        return Failure(
            type=type(error).__qualname__,
            message=message,
            where=where,
            count=0,
            first=now,
            last=now,
            traceback=text if len(text) <= _LONGEST_TRACEBACK else "…" + text[-_LONGEST_TRACEBACK:],
            job_ids=(job_id,),
        )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a user's __str__ may itself be broken
        text = "<its message could not be made>"
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _exc_info(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    return (type(error), error, error.__traceback__) if error.__traceback__ is not None else None


def _fingerprint(error: BaseException, stack: str) -> tuple[Fingerprint, str]:
    """What tells kinds of failures apart, and the innermost place of the user's code."""
    frames = _frames(error.__traceback__) if error.__traceback__ is not None else _frames_of_stack(stack)
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)] or frames
    innermost = own[-_FRAMES:]
    if not innermost:
        return (type(error), ""), ""
    file, line, function = innermost[-1]
    return (type(error), *innermost), f"{_short(file)}:{line} in {function}"


def _frames(tb: TracebackType | None) -> list[tuple[str, int, str]]:
    found = []
    while tb is not None:
        code = tb.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            found.append((code.co_filename, tb.tb_lineno, code.co_name))
        tb = tb.tb_next
    return found


def _frames_of_stack(stack: str) -> list[tuple[str, int, str]]:
    """The frames of a stack that was printed: its thread has moved on, and there is nothing else to ask."""
    return [(file, int(line), function) for file, line, function in _PRINTED_FRAME.findall(stack)]


def _short(file: str) -> str:
    for folder in sorted((path for path in sys.path if path), key=len, reverse=True):
        if file.startswith(folder.rstrip(os.sep) + os.sep):
            return file[len(folder.rstrip(os.sep)) + 1 :]
    return file
