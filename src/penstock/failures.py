"""Which failures there were, grouped by what they have in common, in bounded memory and with a bounded log."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import sysconfig
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType

from penstock import clock, raised, timers

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
_OTHERS: Fingerprint = ("other kinds",)


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
    of: type | None = None  # held, since the fingerprint has its id
    unlogged: int = 0
    last_seen: float = field(default=0.0)  # monotonic


@dataclass(frozen=True, slots=True)
class Description:
    """An error in words, of bounded length. *print*: the same for errors of one kind, in every process."""

    type: str
    message: str
    where: str
    traceback: str
    print: str


def describe(error: BaseException, task: str) -> Description:
    """*error* of a job of *task* in words, for a store; runs the user's code (`__str__`), and never raises.

    What is no Unicode, as in messages with odd file names, is escaped: no store takes it.
    """
    import hashlib  # only durable jobs need it

    stack = _remote_frames(error)
    fingerprint, where = _fingerprint(error, stack, task)
    parts = [str(type(error).__module__), raised.type_name(error)]
    parts += [f"{_short(at[0])}:{at[2]}" if isinstance(at, tuple) else str(at) for at in fingerprint[1:]]
    return Description(
        type=as_unicode(raised.type_name(error)),
        message=as_unicode(_message(error)),
        where=as_unicode(where),
        traceback=as_unicode(_shortened((_traceback(error) or "") + stack)),
        print=hashlib.sha256(as_unicode("\n".join(parts)).encode()).hexdigest()[:12],
    )


def as_unicode(text: str) -> str:
    """*text* with what is no Unicode escaped: half a pair, as of an odd file name."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class Failures:
    """The failures of one pool, by kind. Iterating gives a `Failure` for each, most frequent first.

    At most *kinds* kinds are kept, those of the last hour before older ones; what is beyond is counted under one kind
    of the type "other kinds", so that `total` is always exact. The first failure of each kind is logged at once with
    its traceback, repeats after 1, 2, 4, … seconds with their count, and what was not logged yet when the pool stops.

    Safe from any thread. Lock: `_lock` guards every field; a leaf. Nothing is formatted or logged with it held.
    """

    def __init__(self, pool: str, kinds: int = 1_000, *, quiet: bool = False) -> None:
        self._pool = pool
        self._limit = kinds
        self._quiet = quiet
        self._lock = threading.Lock()
        self._kinds: OrderedDict[Fingerprint, _Kind] = OrderedDict()  # oldest last_seen first
        self._total = 0
        self._lines: timers.InOrder[Callable[[], None]] = timers.InOrder(_log)  # of the whole pool, in their order

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

    def record(
        self, job_id: int | str, label: str, error: BaseException, stack: str = "", worker: str = "", task: str = ""
    ) -> None:
        """Count the failure of job *job_id*. *stack*: where its thread stood, for errors that have no traceback.

        *task*: of a durable job, which tells kinds apart if nothing else does.
        """
        stack = stack or _remote_frames(error)
        fingerprint, where = _fingerprint(error, stack, task)
        with self._lock:
            is_known = fingerprint in self._kinds
        # Made without the lock, since it runs the user's code (`__str__`); and given up if another thread was faster.
        sample = None if is_known else self._sample(where, job_id, error, stack)
        now = clock.monotonic()
        gone: _Kind | None = None
        with self._lock:
            self._total += 1
            kind = self._kinds.get(fingerprint)
            if kind is None:
                has_room, gone = self._make_room(now)
                if not has_room or sample is None:  # without a sample: it was known, and had to go in between
                    fingerprint = _OTHERS
                    kind = self._kinds.get(fingerprint)
            if kind is None:
                if fingerprint is _OTHERS or sample is None:
                    sample = self._sample_of_others(job_id)
                kind = self._kinds[fingerprint] = _Kind(sample, 0.0, _FIRST_INTERVAL, type(error))
            repeats = self._count(fingerprint, kind, job_id, now)
            failure = kind.failure
        if gone is not None:
            self._say_rest(gone.failure, gone.unlogged)
        if repeats is not None:
            self._say(label, error, stack, failure, repeats, {"job": job_id, "worker": worker, "pool": self._pool})

    def flush(self) -> None:
        """Log how often each kind was repeated since its last line; called when the pool has stopped."""
        with self._lock:
            unlogged = [(kind.failure, kind.unlogged) for kind in self._kinds.values()]
            for kind in self._kinds.values():
                kind.unlogged = 0
        for failure, repeats in unlogged:
            self._say_rest(failure, repeats)

    def start_afresh(self) -> None:
        """In the child of a fork: the lock may be in any state."""
        self._lock = threading.Lock()
        self._lines.start_afresh()

    def _make_room(self, now: float) -> tuple[bool, _Kind | None]:
        """Whether one more kind can be kept, and the one that was quiet for long and had to go. Holds `_lock`."""
        if len(self._kinds) - (_OTHERS in self._kinds) < self._limit:
            return True, None
        oldest = next((key for key in self._kinds if key is not _OTHERS), None)
        if oldest is None or now - self._kinds[oldest].last_seen < _QUIET:
            return False, None
        return True, self._kinds.pop(oldest)

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

    def _say(
        self, label: str, error: BaseException, stack: str, failure: Failure, repeats: int, extra: dict[str, object]
    ) -> None:
        if self._quiet:
            return
        kind, message = raised.type_name(error).rpartition(".")[2], _message(error)
        extra = {**extra, "failures": failure.count}
        if failure.count > 1:
            said = "%s failed: %s: %s (%d more like it since the last line, %d in all)"
            line = functools.partial(log.error, said, label, kind, message, repeats - 1, failure.count, extra=extra)
            self._lines.put(line)
            return
        tb = raised.traceback_of(error)
        has_more = tb is not None or raised.cause_of(error) is not None
        is_told = has_more or stack.rstrip() in message  # as a dead worker's last words are
        where = "" if is_told else f"\nIt stood at:\n{stack}"
        exc_info = (type(error), error, tb) if has_more and _can_be_shown(error) else None
        said = "%s failed: %s: %s%s"
        self._lines.put(functools.partial(log.error, said, label, kind, message, where, exc_info=exc_info, extra=extra))

    def _say_rest(self, failure: Failure, repeats: int) -> None:
        if repeats and not self._quiet:
            said = "%d more failures since the last line: %s"
            self._lines.put(functools.partial(log.error, said, repeats, failure, extra={"pool": self._pool}))

    def _sample(self, where: str, job_id: int | str, error: BaseException, stack: str) -> Failure:
        """A kind's first failure, with count 0: `_count` adds this one."""
        now = clock.wall()
        text = _traceback(error) or ""
        if stack.rstrip() not in text:
            text += stack
        return Failure(
            type=raised.type_name(error),
            message=_message(error),
            where=where,
            count=0,
            first=now,
            last=now,
            traceback=_shortened(text),
            job_ids=(job_id,),
        )

    def _sample_of_others(self, job_id: int | str) -> Failure:
        now = clock.wall()
        return Failure("other kinds", f"more than {self._limit} kinds of failures", "", 0, now, now, "", (job_id,))


def _log(line: Callable[[], None]) -> None:
    with contextlib.suppress(BaseException):  # a handler that raises, which none may; there is nowhere to tell of it
        line()


def _traceback(error: BaseException) -> str | None:
    """The traceback of *error* as text; None if the user's error keeps it from being made."""
    return raised.printed(error, limit=-20)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TRACEBACK else "…" + text[-_LONGEST_TRACEBACK:]


def _can_be_shown(error: BaseException) -> bool:
    return _traceback(error) is not None


def _message(error: BaseException) -> str:
    text = raised.message_of(error)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _fingerprint(error: BaseException, stack: str, task: str) -> tuple[Fingerprint, str]:
    """What tells kinds of failures apart, and the innermost place of the user's code.

    Where there is no such place (a result that can't travel, a process that died) it is the *task*.
    """
    tb = raised.traceback_of(error)
    frames = _frames(tb) if tb is not None else _frames_of_stack(stack)
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)] or frames
    innermost = own[-_FRAMES:]
    kind = id(type(error))  # a class may refuse to be a key; `_Kind` holds it, so that no other gets its id
    if not innermost:
        return (kind, task), ""
    file, line, function = innermost[-1]
    return (kind, *innermost), f"{_short(file)}:{line} in {function}"


def _frames(tb: TracebackType | None) -> list[tuple[str, int, str]]:
    found = []
    while tb is not None:
        code = tb.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            found.append((code.co_filename, tb.tb_lineno, code.co_name))
        tb = tb.tb_next
    return found


def _remote_frames(error: BaseException) -> str:
    """What an error from another process tells of the place where it was raised; its own frames stayed there."""
    if raised.traceback_of(error) is not None:
        return ""
    cause = raised.cause_of(error)
    told = raised.attribute_of(error, "traceback") or raised.attribute_of(cause, "text")
    told = told or raised.attribute_of(cause, "tb")  # as the stdlib's process pool, and loky's, have it
    return told if isinstance(told, str) else ""


def _frames_of_stack(stack: str) -> list[tuple[str, int, str]]:
    """The frames of a stack that was printed: its thread has moved on, and there is nothing else to ask."""
    return [(file, int(line), function) for file, line, function in _PRINTED_FRAME.findall(stack)]


def _short(file: str) -> str:
    for folder in sorted((path for path in sys.path if path), key=len, reverse=True):
        if file.startswith(folder.rstrip(os.sep) + os.sep):
            return file[len(folder.rstrip(os.sep)) + 1 :]
    return file
