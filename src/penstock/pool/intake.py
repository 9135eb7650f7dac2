"""`asubmit`: a coroutine that waits for a place in the backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock import clock
from penstock.context import scope
from penstock.errors import BacklogFull
from penstock.job import Job
from penstock.pool.crew import ThreadCrew
from penstock.pool.lines import CoroutineInLine
from penstock.pool.terms import JobTerms, check_function


async def submit_from_loop(
    crew: ThreadCrew, terms: JobTerms, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Job[Any]:
    """As `ThreadCrew.submit`, but a full backlog makes the coroutine wait, not its loop."""
    check_function(fn)
    if crew.closing:
        raise crew.refusal()
    if not crew.places.take():
        if terms.when_full in ("reject", "caller"):
            return crew.submit(terms, fn, args, kwargs)
        await _line_up(crew, terms)
    return crew.accept(terms, fn, args, kwargs)


async def _line_up(crew: ThreadCrew, terms: JobTerms) -> None:
    """Return with a place in hand, or raise as `ThreadCrew.wait_for_place` does."""
    begun = clock.monotonic()
    waiter = CoroutineInLine(asyncio.get_running_loop())
    around = scope.get()
    context = None if around is None else around.context
    deadline = None if terms.submit_timeout is None else begun + terms.submit_timeout
    if context is not None and context.deadline is not None:
        deadline = context.deadline if deadline is None else min(deadline, context.deadline)
    stop_listening = None if context is None else context.listen(lambda cause: waiter.nudge(), on_time=False)
    crew.places.wait(waiter)
    try:
        if not crew.closing and not (context is not None and context.cancelled):
            await waiter.sleep(deadline)
    except BaseException:  # the task was cancelled
        if not crew.places.leave(waiter):
            crew.places.give()
        raise
    finally:
        if stop_listening is not None:
            stop_listening()
    if not crew.places.leave(waiter):
        return
    if crew.closing:
        raise crew.refusal()
    if context is not None:
        context.check()
    raise BacklogFull(crew.settings.backlog, clock.monotonic() - begun)
