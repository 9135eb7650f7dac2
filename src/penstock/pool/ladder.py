"""Stopping: one budget, a ladder of rungs, each harder than the one before.

    close     no new jobs                                       at once
    drain     accepted jobs run on                              until a third of the budget (at most 5 s) is left
    cancel    waiting jobs end cancelled, running ones are asked to stop
    leave     what still runs is abandoned: its handle ends, its thread stays behind as a daemon
    return    with the report

Several threads may stop one pool at once, each with its own budget: every rung is done once, by whoever comes first
to it, and the earliest deadline wins.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar

from penstock import clock, timers
from penstock.lifecycle import Phase
from penstock.pool.crew import Crew
from penstock.pool.stacks import where_it_stands
from penstock.report import Report

log = logging.getLogger("penstock.stop")

R = TypeVar("R")

_LONGEST_CANCEL: Final = 5.0  # seconds that cancelled jobs get at most, to clean up
_BETWEEN_WORDS: Final = 10.0  # seconds between two log lines of a wait that takes long; doubles up to a minute
_IDLE_LOOKS: Final = 3  # in turn that found no job anywhere: nobody has one in hand for so long (70 s)
_A_MOMENT: Final = 0.1  # seconds for workers that are done to leave, after the budget


def cancel_after(seconds: float) -> float:
    """After how much of a budget of *seconds* a stop cancels what still runs."""
    return seconds - min(seconds / 3, _LONGEST_CANCEL)


class Stop:
    """The stop of some pools under one budget of *seconds*, counted from now. Pools drain in the order given.

    `climb` does it, on the calling thread; `hurry`, from any thread, moves it to its next rung at once.
    """

    def __init__(self, crews: Sequence[Crew], seconds: float) -> None:
        self._crews = crews
        begun = clock.monotonic()
        self._cancel_at = begun + cancel_after(seconds)
        self._leave_at = begun + seconds
        for crew in crews:
            crew.budget(seconds, begun)

    def climb(self, why: str = "it is being stopped") -> list[Report]:
        """Stop the pools. A KeyboardInterrupt moves to the next rung, and is raised again at the end."""
        interrupt: KeyboardInterrupt | None = None
        for crew in self._crews:
            try:
                _close(crew, why)
                crew.lifecycle.wait_for(Phase.CLOSED, clock.remaining(self._cancel_at))
            except KeyboardInterrupt as error:
                interrupt = error
                self.hurry()
        for rung in (self._cancel, self._leave):
            try:
                rung()
            except KeyboardInterrupt as error:
                interrupt = error
        reports = [finished(crew, self._leave_at + _A_MOMENT) for crew in self._crews]
        if interrupt is not None:
            raise interrupt
        return reports

    def climb_apart(self, name: str) -> None:
        """Stop the closed pools without waiting for it: on a thread of that *name*, or without one if there is none.

        As at the end of the interpreter, or in a process that has as many as it may: then the timers take each rung
        at its time. If nobody can keep the time, what runs is asked to stop now, and left at the interpreter's end.
        """
        try:
            threading.Thread(target=self.climb, name=name, daemon=True).start()
        except RuntimeError:
            for crew in self._crews:
                try:
                    timers.call_at(self._cancel_at, functools.partial(cancel, crew))
                    timers.call_at(self._leave_at, functools.partial(_leave_and_report, crew))
                except RuntimeError:
                    cancel(crew)

    def hurry(self) -> None:
        """Cancel now, whatever time is left to drain."""
        self._cancel_at = clock.monotonic()
        for crew in self._crews:
            _close(crew, "it is being stopped")
            cancel(crew)

    def _cancel(self) -> None:
        if all(crew.lifecycle.phase is Phase.CLOSED for crew in self._crews):
            return
        self.hurry()
        for crew in self._crews:
            crew.lifecycle.wait_for(Phase.CLOSED, clock.remaining(self._leave_at))

    def _leave(self) -> None:
        for crew in self._crews:
            leave(crew)
        for crew in self._crews:  # a job between two rooms gets its outcome from the thread that moves it
            _see_closed(crew)


def stop_apart(crews: Sequence[Crew], why: str) -> None:
    """Stop pools that have nothing to do with each other, each within its own grace, all counted from now."""
    begun = clock.monotonic()
    rungs: list[tuple[float, int, Crew, Callable[[Crew], None]]] = []
    for number, crew in enumerate(crews):
        grace = crew.settings.grace
        crew.budget(grace, begun)
        _close(crew, why)
        rungs.append((begun + cancel_after(grace), number, crew, cancel))
        rungs.append((begun + grace, number, crew, leave))
    for when, _, crew, rung in sorted(rungs, key=lambda rung: rung[:2]):
        try:
            closed = crew.lifecycle.wait_for(Phase.CLOSED, clock.remaining(when))
        except KeyboardInterrupt:
            closed = False  # on to the next rung at once
        if not closed:
            rung(crew)
    for crew in crews:
        _see_closed(crew)
        finished(crew, max(begun + crew.settings.grace, clock.monotonic()) + _A_MOMENT)


def _close(crew: Crew, why: str) -> None:
    with timers.nothing_may_block():
        crew.close(why)


def cancel(crew: Crew) -> None:
    """The rung: cancel what waits, ask what runs to stop; once."""
    if crew.lifecycle.advance(Phase.CANCELLING):
        crew.cancel_everything()


def leave(crew: Crew) -> None:
    """The rung: every job gets its outcome, threads that are still inside one stay behind; once."""
    if crew.lifecycle.advance(Phase.LEAVING):
        crew.abandon()


def _see_closed(crew: Crew) -> None:
    """All was given its outcome; what isn't there a moment later never will be."""
    if not crew.lifecycle.wait_for(Phase.CLOSED, _A_MOMENT) and crew.lifecycle.phase is Phase.LEAVING:
        _give_up_missing(crew)


def _give_up_missing(crew: Crew) -> None:
    missing = crew.give_up_missing()
    if missing:
        log.error(
            "%d jobs of pool %r are in nobody's hands and count as abandoned: an exception that a signal's handler "
            "raised has cut off whoever was about to end them", missing, crew.name, extra={"pool": crew.name},
        )  # fmt: skip


def _leave_and_report(crew: Crew) -> None:
    """The last rung, on the timers' thread, which waits for nobody."""
    leave(crew)
    timers.run_user_code(functools.partial(_report, crew))


def _report(crew: Crew) -> None:
    finished(crew, clock.monotonic() + _A_MOMENT)


def wait_for_all(crew: Crew) -> Report:
    """Wait for the accepted jobs of a closed pool, as long as they take; now and then the log says for which."""
    pause, idle = _BETWEEN_WORDS, 0
    while not crew.lifecycle.wait_for(Phase.CLOSED, min(pause, threading.TIMEOUT_MAX)):
        report = crew.report()
        log.warning("still waiting: %s; %s", report, crew.attempts.longest(), extra={"pool": crew.name})
        idle = 0 if report.waiting or report.running or report.retrying else idle + 1
        if idle == _IDLE_LOOKS:
            _give_up_missing(crew)
        pause = min(pause * 2, 60.0)
    return finished(crew, None)


async def apart(work: Callable[[], R], steps: Sequence[Callable[[], None]] = ()) -> tuple[R, BaseException | None]:
    """Do *work*, which blocks, on a thread of its own while the loop of the calling coroutine goes on.

    Each time that the calling task is cancelled, the next of *steps* is taken, and the wait goes on; the last such
    CancelledError is given at the end. Without steps it leaves at once.
    """
    import asyncio  # only for those who use it

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Callable[[], R]] = loop.create_future()

    def run() -> None:
        outcome: Callable[[], R]
        try:
            outcome = functools.partial(_same, work())
        except BaseException as error:
            outcome = functools.partial(_throw, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set_result, outcome)

    threading.Thread(target=run, name="penstock-stop", daemon=True).start()
    to_take, cancelled = list(steps), None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            if not steps:
                raise
            cancelled = error
            if to_take:
                to_take.pop(0)()
    return ended.result()(), cancelled


def _same(value: R) -> R:
    return value


def _throw(error: BaseException) -> NoReturn:
    raise error


def finished(crew: Crew, deadline: float | None) -> Report:
    """The last report of a pool that has stopped, logged once; its workers have left, but for stuck ones."""
    crew.staff.join(deadline)
    crew.ledger.wait_told(_A_MOMENT)
    report = crew.report()
    if crew.first_to_report():
        level = logging.INFO if report.ok else logging.WARNING
        stacks = "".join(
            f"\n{stuck.outcome}: job {stuck.id} ({stuck.name}) on {stuck.worker}, for {stuck.ran:.3g} s, "
            f"{where_it_stands(stuck.stack)}"
            for stuck in report.stuck
        )
        log.log(level, "%s%s", report, stacks, extra={"pool": crew.name})
    return report
