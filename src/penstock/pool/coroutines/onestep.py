"""Jobs that end with their first step have one task in turn, as long as none of them has looked at it.

A task costs more than all else that such a job needs, and few of them ask for it. So where the last jobs ended with
their first step, the next one makes its own in a task that is ready, and for asyncio has not begun:

    ready ──step──> the job ended, and nobody has the task, or anything that hangs on it ──> ready, for the next job
                    else ──> it is this job's for good: it begins for asyncio, and goes on from there, or ends

For the job, and for all that it calls, the task is its own: the current one, among all of the loop's, with the job's
name and variables; what holds it, changes it or refers to it weakly keeps it from being used again.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from sys import getrefcount
from typing import Any, Final
from weakref import getweakrefcount

from penstock.pool.coroutines.firststep import FirstStep, current_tasks

CAN_SHARE: Final = sys.implementation.name == "cpython" and sys.version_info < (3, 14)
"""Later versions keep their tasks in another way, which this knows nothing of."""

_ENDED: Final = object()
_IS_NEW: Final = sys.version_info >= (3, 12)
_set_name: Callable[..., None] = asyncio.Task.set_name  # past what SharedTask makes of it
_set_attribute: Callable[..., None] = asyncio.Task.__setattr__
swap_current_task: Callable[..., Any] = getattr(asyncio.tasks, "_swap_current_task", None)  # type: ignore[assignment]


class Course(Coroutine[Any, Any, None]):
    """What the task drives: the job's coroutine, in the job's context variables, from its second step on."""

    def __init__(self) -> None:
        self.coroutine: Any = None  # None while no job has the task
        self.cv: Context | None = None
        self.is_shared = True  # the task is not yet one job's for good
        self.touched: SharedTask | None = None  # the task, once it was changed: a reference that keeps it from others
        self._waits_for: Any = _ENDED
        self._error: BaseException | None = None

    def take_up(self, waits_for: Any, error: BaseException | None) -> None:
        """The first step was made: it ended, waits for something, or raised what is the loop's to deal with."""
        self.is_shared = False
        self.touched = None
        self._waits_for = waits_for
        self._error = error

    def send(self, value: Any) -> Any:
        """As of a coroutine: for the task's first step, tell what the job's gave; from then on make the job's steps."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._waits_for is _ENDED:
            raise StopIteration
        self._drive()
        return self._waits_for

    def throw(self, error: Any, *_told: Any) -> Any:
        """As of a coroutine: the task was cancelled while the job made its first step. As a task would deal with it."""
        waits_for = self._waits_for
        if self._error is not None or waits_for is _ENDED:
            raise self._error or error
        self._drive()
        if waits_for is None or not waits_for.cancel(msg=error.args[0] if error.args else None):
            self.send = functools.partial(self._throw_late, error)  # type: ignore[method-assign]
        return waits_for

    def close(self) -> None:
        """As of a coroutine."""
        if self.coroutine is not None:
            self.coroutine.close()

    def __await__(self) -> Any:
        raise TypeError("it is its task's alone")

    # Where it stands, for those who look at tasks

    @property
    def cr_frame(self) -> Any:
        """As of a coroutine."""
        return getattr(self.coroutine, "cr_frame", None)

    @property
    def cr_code(self) -> Any:
        """As of a coroutine."""
        return None if self.coroutine is None else self.coroutine.cr_code

    @property
    def cr_running(self) -> bool:
        """As of a coroutine."""
        return self.coroutine is not None and self.coroutine.cr_running

    @property
    def cr_await(self) -> Any:
        """As of a coroutine: the next in the chain is the job's."""
        return self.coroutine

    def _drive(self) -> None:
        """The next steps are the job's: without a function of ours, for there may be many."""
        assert self.cv is not None
        self.send = functools.partial(self.cv.run, self.coroutine.send)  # type: ignore[method-assign]
        self.throw = functools.partial(self.cv.run, self.coroutine.throw)  # type: ignore[method-assign]

    def _throw_late(self, error: BaseException, _value: Any) -> Any:
        self._drive()
        return self.throw(error)


class SharedTask(asyncio.Task[None]):
    """The task that is ready, and later that of the job which it was kept for."""

    course: Course

    def done(self) -> bool:
        """As of every task; and while no job has it, it is none that anybody should wait for."""
        return self.course.coroutine is None or super().done()

    def get_coro(self) -> Any:
        """As of every task."""
        return self.course.coroutine

    def get_context(self) -> Any:
        """As of every task (Python 3.12)."""
        return self.course.cv

    def cancel(self, msg: Any = None) -> bool:
        """As of every task."""
        self._touch()
        return super().cancel(msg)

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """As of every task."""
        self._touch()
        super().add_done_callback(fn, context=context)

    def set_name(self, value: object, /) -> None:
        """As of every task."""
        self._touch()
        super().set_name(value)

    def _touch(self) -> None:
        if self.course.is_shared:
            self.course.touched = self

    def __setattr__(self, name: str, value: Any) -> None:
        self._touch()
        super().__setattr__(name, value)


class OneStep:
    """Makes first steps that are likely to be the last, on one loop. Loop's thread only, and one at a time."""

    __slots__ = ("_course", "_first_step", "_loop", "_name", "_refs", "_step", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, first_step: FirstStep) -> None:
        self._loop = loop
        self._first_step = first_step
        self._task: SharedTask | None = None
        self._name = ""
        # Of the task, set with it:
        self._course: Course
        self._step: Callable[[], object]
        self._refs: int  # how many there are to it while nobody has seen it

    def begin(self, coroutine: Coroutine[Any, Any, None], name: str, cv: Context) -> asyncio.Task[None] | None:
        """Make the first step of *coroutine*. Its task; None if it has ended, and its task was not seen."""
        if self._task is None:
            self._make_ready()
        loop, course = self._loop, self._course
        if name is not self._name:
            _set_name(self._task, name)
            self._name = name
        course.cv = cv
        course.coroutine = coroutine
        waits_for: Any = _ENDED
        error: BaseException | None = None
        if _IS_NEW:
            outer = swap_current_task(loop, self._task)
        else:
            outer = current_tasks[loop]  # there is one: see `asubmit`
            current_tasks[loop] = self._task
        try:
            waits_for = cv.run(next, coroutine.__await__(), _ENDED)  # `next` needs no StopIteration to be made
        except BaseException as raised:
            error = raised
        finally:
            if _IS_NEW:
                swap_current_task(loop, outer)
            else:
                current_tasks[loop] = outer
        if (
            waits_for is _ENDED
            and error is None
            and getrefcount(self._task) == self._refs
            and getweakrefcount(self._task) == 1
        ):
            course.coroutine = course.cv = None
            return None
        return self._give(waits_for, error)

    def _make_ready(self) -> None:
        course = Course()
        self._task, self._step = self._first_step.unbegun(SharedTask, course, Context())
        _set_attribute(self._task, "course", course)
        _set_attribute(self._task, "_log_destroy_pending", False)  # nobody misses it
        _set_name(self._task, self._name)
        self._course = course
        self._refs = getrefcount(self._task)

    def _give(self, waits_for: Any, error: BaseException | None) -> asyncio.Task[None]:
        """The task is the job's for good: have it begin for asyncio, and take up what the first step came to."""
        task, step, loop = self._task, self._step, self._loop
        assert task is not None
        self._task = None
        self._course.take_up(waits_for, error)
        del self._course, self._step, error
        _set_attribute(task, "_log_destroy_pending", True)
        outer = asyncio.current_task(loop)
        if outer is not None:
            asyncio._leave_task(loop, outer)
        try:
            step()
        finally:
            if outer is not None:
                asyncio._enter_task(loop, outer)
        return task
