"""How long work may take, whether it is still wanted, and values it carries: a tree, as Go's `context` package has it.

    Context(timeout=5)            deadline 5 s from now
      ├─ job A's context          inherits the deadline; job A may be cancelled alone
      │    └─ job B's context     submitted inside job A: inherits what is left of its time
      └─ Context(timeout=1)       never later than its parent's deadline

A context is *tripped* by `cancel`, by its deadline, or when an ancestor is. Asking (`cancelled`, `check`) walks up the
tree and needs nobody to tell it. Being told (`on_cancel`, `sleep`) registers with the parent for as long as somebody
listens, so that a context which nobody listens to is held by nobody and costs nothing when it goes.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self

from penstock import clock, timers
from penstock.errors import Cancelled, DeadlineExceeded, JobCancelled

log = logging.getLogger("penstock.context")

_NO_VALUES: Final[Mapping[Any, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a context is tripped, and which context of the tree it was that tripped.

    *at*: monotonic. A context goes by what came first, its deadline or the trip of an ancestor, whenever it is asked.
    """

    reason: str
    by_deadline: bool
    source: Context
    at: float = field(default_factory=lambda: clock.monotonic(), compare=False)


class Scope(Protocol):
    """What the running code is part of: a `with Context` block or a job. A job makes its context when asked."""

    @property
    def context(self) -> Context:
        """Its context."""
        ...


scope: Final[contextvars.ContextVar[Scope | None]] = contextvars.ContextVar("penstock.scope", default=None)


class _Inherit:
    """The default of `parent`: the context of the code that makes this one."""

    def __repr__(self) -> str:
        return "<current context>"


_INHERIT: Final = _Inherit()
_JOB: Final = object()  # the key of the listener that belongs to the context's own job
Listener = Callable[[Cause], None]


class Context:
    """A deadline, a cancellation and values, for a job or for a `with` block.

    *timeout*: seconds from now, never later than the parent's deadline; None for the parent's. *values*: laid over the
    parent's. *parent*: by default the context of the calling code; None starts a tree of its own.

    Hand it to jobs (`pool.options(context=ctx)`) or use it as a block: jobs submitted inside inherit it. Leaving the
    block cancels nothing. What the block's own trip raised inside as `Cancelled` leaves it as `DeadlineExceeded` or
    `JobCancelled`. All methods are safe from any thread; one context can be entered once at a time.

    Invariants:
      1. A tripped context stays tripped, with its first cause.
      2. `deadline` is never later than the parent's, so the parent's need not be asked for.
      3. A context is among the listeners of its nearest open ancestor if and only if it has listeners of its own.
      4. A closed context (its job has ended) can't be cancelled any more, so that descendants skip it; this keeps a
         chain of jobs that each submit the next from growing.
    Lock: `_tree`, one for a whole tree, guards `_cause`, `_listeners`, `_told_by` and `_timer` of all its contexts.
    It is a leaf but for the timers' lock. No listener runs with it held.
    """

    __slots__ = (
        "__weakref__",
        "_cause",
        "_closed",
        "_deadline",
        "_inherited",
        "_listeners",
        "_outer",
        "_parent",
        "_passed",
        "_timer",
        "_token",
        "_told_by",
        "_tree",
        "_values",
    )

    def __init__(
        self,
        timeout: float | None = None,
        *,
        values: Mapping[Any, Any] | None = None,
        parent: Context | _Inherit | None = _INHERIT,
    ) -> None:
        timeout = clock.checked_seconds("timeout", timeout)
        if isinstance(parent, _Inherit):
            around = scope.get()
            parent = None if around is None else around.context
        elif parent is not None and not isinstance(parent, Context):
            raise TypeError(f"parent must be a Context or None, not {parent!r}")
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping, not {values!r}")
        deadline = clock.deadline_after(None if timeout == math.inf else timeout)
        inherited = None if parent is None else parent.deadline
        self._inherited: float | None = inherited
        self._deadline: float | None = _earlier(deadline, inherited)
        self._parent = parent
        self._tree: threading.Lock = threading.Lock() if parent is None else parent._tree
        below = _NO_VALUES if parent is None else parent.values
        self._values: Mapping[Any, Any] = MappingProxyType({**below, **values}) if values else below
        self._cause: Cause | None = None
        self._passed: Cause | None = None  # found by whoever asked after the deadline; the same for all who ask
        self._closed = False
        self._listeners: dict[object, Listener] | None = None
        self._told_by: Context | None = None  # the ancestor whose listener this is
        self._timer: timers.Timer | None = None
        self._token: contextvars.Token[Scope | None] | None = None  # set while entered
        self._outer: Scope | None = None  # what the block stands in, while entered

    @property
    def context(self) -> Self:
        """Itself: a context is its own scope."""
        return self

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which this context trips; None for never."""
        return self._deadline

    @property
    def values(self) -> Mapping[Any, Any]:
        """The values of this context and its ancestors; read-only."""
        return self._values

    def value(self, key: object, default: Any = None) -> Any:
        """The value for *key*, the nearest one on the way up, or *default*."""
        return self._values.get(key, default)

    @property
    def cancelled(self) -> bool:
        """Whether this context is tripped: cancelled, past its deadline, or below one that is."""
        return self.cause is not None

    @property
    def reason(self) -> str | None:
        """Why it is tripped; None if it isn't."""
        cause = self.cause
        return None if cause is None else cause.reason

    @property
    def cause(self) -> Cause | None:
        """Why and by which context this one is tripped; None if it isn't."""
        if self._cause is not None:
            return self._cause
        found: Cause | None = None
        above = self._open_parent()
        while above is not None:
            if above._cause is not None and (found is None or above._cause.at < found.at):
                found = above._cause
            above = above._open_parent()
        deadline = self._deadline  # read once: another thread may set that of the next attempt
        if deadline is not None and (clock.monotonic() if found is None else found.at) >= deadline:
            return self._deadline_cause(deadline)
        return found

    def remaining(self) -> float:
        """Seconds until the deadline, never below zero; `math.inf` without one."""
        deadline = self._deadline
        return math.inf if deadline is None else max(0.0, deadline - clock.monotonic())

    def check(self) -> None:
        """Return at once, or raise `Cancelled` if this context is tripped. Call it between steps of long work."""
        cause = self.cause
        if cause is not None:
            raise Cancelled(cause.reason, source=cause.source, by_deadline=cause.by_deadline)

    def sleep(self, seconds: float) -> None:
        """Wait *seconds*, or raise `Cancelled` as soon as this context trips."""
        clock.checked_seconds("seconds", seconds)
        end = clock.monotonic() + seconds
        woken = threading.Event()
        stop_listening = self.listen(lambda cause: woken.set(), on_time=False)
        try:
            while True:
                self.check()
                left = end - clock.monotonic()
                if left <= 0:
                    return
                woken.wait(min(left, self.remaining(), threading.TIMEOUT_MAX))
        finally:
            stop_listening()

    def cancel(self, reason: str = "cancelled") -> bool:
        """Trip this context and all below it; False if it was tripped before. Callbacks run before this returns."""
        deadline, cause = self._deadline, self.cause
        if cause is not None and (
            self.trip(cause, if_deadline=deadline if cause.at == deadline else None) or self._cause is not None
        ):
            return False  # it was tripped, or its deadline had passed and nobody had been told
        if self._closed:
            return False
        return self.trip(Cause(reason, by_deadline=False, source=self))

    def on_cancel(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Call *fn* once when this context trips, now if it has. Returns a function that undoes this.

        The end of the job whose context it is undoes it, too: nothing of an ended job is kept.
        *fn* runs on the thread that cancels; on a thread of its own if the deadline or the pool's stop did it.
        What it raises is logged.
        """
        if not callable(fn):
            raise TypeError(f"on_cancel needs a callable, not {fn!r}")
        return self.listen(_UserCallback(fn))

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this Context is entered already; make one for each block")
        self._outer = scope.get()
        self._token = scope.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token, self._outer = self._token, None, None
        if token is not None:
            scope.reset(token)
        if isinstance(error, Cancelled) and error.source is self:
            if error.by_deadline:
                raise DeadlineExceeded("the block") from error
            raise JobCancelled("the block", error.reason) from error

    def __repr__(self) -> str:
        reason = self.reason
        left = "no deadline" if self._deadline is None else f"{self.remaining():.3g} s left"
        return f"<Context {left if reason is None else 'tripped: ' + reason}>"

    # For the pools: not part of the public promise.

    @property
    def parent(self) -> Context | None:
        """The nearest ancestor that can still be cancelled; None at the root."""
        return self._open_parent()

    @property
    def is_listened_to(self) -> bool:
        """Whether somebody is to be told when it trips."""
        return self._listeners is not None

    def listen(self, told: Listener, *, on_time: bool = True) -> Callable[[], None]:
        """Call *told* once with the cause when this context trips, now if it has; returns a function that undoes this.

        *on_time=False*: the caller watches the deadline itself, so that no timer is needed for it.
        """
        key = object()
        with self._tree:
            cause = self.cause
            listens = cause is None and not self._closed
            if listens:
                self._add_listener(key, told)
        if cause is not None:
            told(cause)
        if not listens:
            return _nothing
        if on_time:
            self._watch_deadline()
        return lambda: self._stop_telling(key)

    def trip(self, cause: Cause, *, if_deadline: float | None = None) -> bool:
        """Mark this context and those below as tripped and tell all listeners; False if it was marked before.

        *if_deadline*: only if this is its deadline still, and no other attempt has begun meanwhile.
        """
        told: list[tuple[Listener, Cause]] = []
        with self._tree:
            if self._cause is not None or if_deadline not in (None, self._deadline):
                return False
            waiting = [(self, cause)]
            while waiting:
                here, why = waiting.pop()
                if here._cause is not None:
                    continue
                if here._deadline is not None and here._deadline < why.at:
                    why = here._deadline_cause(here._deadline)  # it came first, though nobody asked or was told
                here._cause = why
                listeners, here._listeners = here._listeners, None
                if listeners is not None:
                    here._detach()
                for listener in (listeners or {}).values():
                    if isinstance(listener, _Child):
                        waiting.append((listener.context, why))
                    else:
                        told.append((listener, why))
        told.sort(key=lambda one: isinstance(one[0], _UserCallback))  # ours first: they never raise
        for listener, why in told:
            if isinstance(listener, _UserCallback):
                timers.run_user_code(functools.partial(listener, why))
            else:
                listener(why)
        return True

    def listen_for_job(self, told: Listener) -> None:
        """As `listen`, for the job whose context this is; `close` undoes it. Once at a time."""
        with self._tree:
            cause = self.cause
            if cause is None:
                self._add_listener(_JOB, told)
        if cause is not None:
            told(cause)
        else:
            self._watch_deadline()

    @property
    def job_listens(self) -> bool:
        """Whether the job of this context is to be told."""
        listeners = self._listeners
        return listeners is not None and _JOB in listeners

    def limit(self, timeout: float | None) -> None:
        """Set the time of the attempt that begins now, at most what was inherited; None: only what was inherited."""
        with self._tree:
            self._deadline = _earlier(clock.deadline_after(timeout), self._inherited)
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
        self._watch_deadline()

    def close(self) -> None:
        """The job of this context has ended: nobody here needs to be told any more, and `cancel` has no effect.

        Those below still follow the ancestors (they are told by the nearest open one from now on) and their deadlines.
        """
        with self._tree:
            self._closed = True
            listeners, self._listeners = self._listeners, None
            self._detach()
            for listener in (listeners or {}).values():
                if isinstance(listener, _Child):
                    below = listener.context
                    below._told_by = below._open_parent()
                    if below._told_by is not None:
                        below._told_by._add_listener(below, listener)

    def _open_parent(self) -> Context | None:
        parent = self._parent
        while parent is not None and parent._closed and parent._cause is None:
            # Racing threads write the same or a higher ancestor: each is right (invariant 4).
            parent = self._parent = parent._parent
        return parent

    def _owner_of(self, deadline: float) -> Context:
        """The highest ancestor with this very deadline: the one that it was set for."""
        owner = self
        while owner._parent is not None and owner._parent._deadline == deadline:
            owner = owner._parent
        return owner

    def _deadline_cause(self, deadline: float) -> Cause:
        passed = self._passed
        if passed is None or passed.at != deadline:
            owner = self._owner_of(deadline)
            passed = self._passed = Cause("its deadline passed", by_deadline=True, source=owner, at=deadline)
        return passed

    def _add_listener(self, key: object, told: Listener) -> None:
        """Keep *told*, and make sure that the ancestors tell this context. Holds `_tree`."""
        here: Context | None = self
        while here is not None:
            if here._listeners is not None:
                here._listeners[key] = told
                return
            here._listeners = {key: told}
            key, told = here, _Child(here)
            here._told_by = here._open_parent()
            here = here._told_by

    def _stop_telling(self, key: object) -> None:
        with self._tree:
            if self._listeners is None or self._listeners.pop(key, None) is None:
                return
            if not self._listeners:
                self._listeners = None
                self._detach()
            elif self._timer is not None and not self._has_own_listener():
                self._timer.cancel()
                self._timer = None

    def _detach(self) -> None:
        """Nobody listens here any more: leave the ancestors that are told for our sake only. Holds `_tree`."""
        here = self
        while True:
            if here._timer is not None:
                here._timer.cancel()
                here._timer = None
            above, here._told_by = here._told_by, None
            if above is None or above._listeners is None:
                return
            above._listeners.pop(here, None)
            if above._listeners:
                return
            above._listeners = None
            here = above

    def _watch_deadline(self) -> None:
        """Have the timers trip this context at its deadline, if somebody listens here."""
        with self._tree:
            if self._timer is None and self._deadline is not None and self._has_own_listener():
                with contextlib.suppress(RuntimeError):  # the interpreter is ending; who asks still finds it passed
                    self._timer = timers.call_at(self._deadline, self._expire)

    def _has_own_listener(self) -> bool:
        """Whether somebody listens here: those below have no later deadlines, and watch their own. Holds `_tree`."""
        return any(not isinstance(listener, _Child) for listener in (self._listeners or {}).values())

    def _expire(self) -> None:
        deadline = self._deadline  # read once: the next attempt of its job may set another
        if deadline is not None and clock.monotonic() >= deadline:
            self.trip(self._deadline_cause(deadline), if_deadline=deadline)


class _UserCallback:
    """A user's `on_cancel` callback: it may block or raise, which our own listeners never do."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self._fn = fn

    def __call__(self, cause: Cause) -> None:
        try:
            self._fn()
        except BaseException:  # a `Cancelled`, as it asked the very context that tells it, or a SystemExit: others wait
            log.exception("an on_cancel callback raised")


class _Child:
    """A context among the listeners of its parent: it is tripped in the same step."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __call__(self, cause: Cause) -> None:
        self.context.trip(cause)


class _Nowhere(Context):
    """The context of code that no job and no block surrounds: it never trips."""

    __slots__ = ()

    def cancel(self, reason: str = "cancelled") -> bool:
        """Nothing to cancel here: False."""
        return False

    def __enter__(self) -> Self:
        raise RuntimeError("there is no Context here to enter; make one: `with Context(timeout=…):`")


def _earlier(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def _nothing() -> None:
    pass


_nowhere = _Nowhere(parent=None)


def current_context() -> Context:
    """The context of the running job or of the innermost `with Context` block; outside of both one that never trips."""
    around = scope.get()
    return _nowhere if around is None else around.context


def _start_afresh() -> None:
    """A forked child may find the lock of `_nowhere` held by a thread that it doesn't have."""
    global _nowhere
    _nowhere = _Nowhere(parent=None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
