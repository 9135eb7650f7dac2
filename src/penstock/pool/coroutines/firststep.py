"""A task whose first step is made at once. Python 3.12 and later have it built in; this is for 3.11.

While it is made, a task asks its loop for one thing: to make the first step soon. So it is made with a stand-in for the
loop, which keeps that step, is told afterwards which loop is its own, and makes the step here and now. Python 3.11 gets
no changes any more that could overtake this.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_Task: Any = asyncio.Task
_give_loop: Callable[..., None] = _Task.__base__.__init__  # a Future's
current_tasks: dict[Any, Any] = vars(asyncio.tasks)["_current_tasks"] if sys.version_info < (3, 12) else {}
"""By loop. What asyncio._leave_task and asyncio._enter_task do is two of its methods, called directly."""


class FirstStep:
    """Makes tasks that begin at once, on asyncio's own loops. Loop's thread only, and one at a time."""

    __slots__ = ("_loop", "_step")

    get_debug = bool  # False: the real loop is asked as well

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._step: Callable[[], object] | None = None

    def call_soon(self, step: Callable[[], object], *, context: Context) -> None:
        """As of a loop: the task that is being made wants its first step."""
        self._step = step

    def task(self, coroutine: Coroutine[Any, Any, None], name: str, context: Context) -> asyncio.Task[None]:
        """A task for *coroutine*, which has made its first step."""
        loop = self._loop
        task: asyncio.Task[None] = _Task(coroutine, loop=self, name=name, context=context)
        _give_loop(task, loop=loop)
        step: Any = self._step
        self._step = None
        outer = current_tasks.pop(loop, None)
        try:
            context.run(step)
        finally:
            if outer is not None:
                current_tasks[loop] = outer
        return task

    def unbegun(
        self, kind: Callable[..., T], coroutine: Coroutine[Any, Any, None], context: Context
    ) -> tuple[T, Callable[[], object]]:
        """A task of this *kind* for *coroutine*, and its first step, which is the caller's to make."""
        task = kind(coroutine, loop=self, context=context)
        _give_loop(task, loop=self._loop)
        step, self._step = self._step, None
        assert step is not None
        return task, step
