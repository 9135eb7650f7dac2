"""Running a `Flow` in the main thread: signals, progress, the end."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from penstock import Incomplete, clock, graceful
from penstock.cli.progress import Moment, Progress
from penstock.cli.summary import one_line, summary
from penstock.pool.executor import AnyPool, Pool

if TYPE_CHECKING:
    from penstock.cli.flow import Flow
    from penstock.cli.inputs import Inputs
    from penstock.cli.loop import OnLoop

TICK: Final = 0.1  # seconds between two looks: it draws, and nothing could wake us for that
LAST_WRITES: Final = 0.5  # seconds beyond the grace for a reader that has stopped reading our results
SOME_FAILED: Final = 1


def run(flow: Flow, inputs: Inputs, pool: Pool | OnLoop, progress: Progress, *, grace: float, verbose: bool) -> int:
    """Run *flow* to its end, or to a stop by SIGINT or SIGTERM, tell how it went, and give the exit code."""
    began, most_waiting = clock.monotonic(), 0
    try:
        with _log_through(progress, verbose=verbose), graceful(_stoppable(pool), timeout=grace) as shutdown:
            # A job that a stop cut short has its line and its place in the summary: that is how we tell it.
            with contextlib.suppress(Incomplete), pool:
                flow.start()
                stop_at = None
                while not flow.over.wait(TICK):
                    moment = _moment(flow, inputs, pool)
                    most_waiting = max(most_waiting, moment.waiting)
                    progress.show(moment)
                    if stop_at is None and shutdown.requested.is_set():
                        stop_at = clock.monotonic() + grace + LAST_WRITES
                        progress.say(_stopping(shutdown.signal, pool, grace))
                    if stop_at is not None and (_all_told(flow, pool) or clock.monotonic() > stop_at):
                        break
                pool.shutdown(cancel_futures=flow.writing_error is not None, timeout=grace)
            progress.show(_moment(flow, inputs, pool))
    finally:
        progress.close()
    flow.join(LAST_WRITES if flow.over.is_set() else 0.0)
    for line in summary(flow, pool, seconds=clock.monotonic() - began, most_waiting=most_waiting):
        progress.say(line)
    if shutdown.signal is not None:
        return shutdown.exit_code
    return 0 if flow.went_well() else SOME_FAILED


def _stoppable(pool: Pool | OnLoop) -> AnyPool:
    """What `graceful` takes."""
    return pool if isinstance(pool, Pool) else pool.inner


def _all_told(flow: Flow, pool: Pool | OnLoop) -> bool:
    """True if the pool has stopped and each of its jobs has its line: the feeder may be blocked in a read for ever."""
    report = pool.report
    return report.closed and flow.tally.jobs == report.accepted


def _moment(flow: Flow, inputs: Inputs, pool: Pool | OnLoop) -> Moment:
    stats, tally = pool.stats(), flow.tally
    guessed = not inputs.are_counted  # asked first: what is counted meanwhile may be called a guess
    failed = tally.failed + tally.invalid
    return Moment(tally.lines, failed, inputs.expected(), guessed, stats.running, stats.queued)


def _stopping(number: int | None, pool: Pool | OnLoop, grace: float) -> str:
    name = signal.Signals(number).name if number is not None else "stop"
    stats = pool.stats()
    return (
        f"{name}: no new jobs; {stats.running} running and {stats.queued} waiting have {grace:g} s to end "
        "(once more: cancel them now)"
    )


class _Handler(logging.Handler):
    """Shows log records where the progress is shown, so that they don't tear the bar."""

    def __init__(self, progress: Progress, *, verbose: bool) -> None:
        super().__init__()
        self._progress = progress
        self._verbose = verbose
        self.addFilter(lambda record: record.name != "penstock.stop")  # the summary tells how it stopped

    def emit(self, record: logging.LogRecord) -> None:
        if self._verbose:
            self._progress.say(self.format(record))  # with its traceback
        else:
            self._progress.say(one_line(record.getMessage()))


@contextlib.contextmanager
def _log_through(progress: Progress, *, verbose: bool) -> Iterator[None]:
    """Show what the pool logs, unless the user's code has set up logging of its own."""
    log = logging.getLogger("penstock")
    handler = _Handler(progress, verbose=verbose)
    if log.hasHandlers():
        yield
        return
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
