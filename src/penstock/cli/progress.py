"""Showing how far a run is, on standard error: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from penstock import clock

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

INTERVAL: Final = 5.0  # seconds between two plain lines
RATE_OVER: Final = 10.0  # seconds that the rate is an average of

_nobody_there: Final = contextlib.suppress(OSError, ValueError)
"""The reader has gone, the disk is full, the terminal or the file is closed: that must not end a run that goes well."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run is: *finished* of *expected* inputs, and what the pool holds now.

    *expected* is None if nobody knows, and may be *guessed*.
    """

    finished: int
    failed: int
    expected: int | None
    guessed: bool
    running: int
    waiting: int


class Progress(Protocol):
    """Where a run says how it goes. One thread only."""

    def show(self, moment: Moment) -> None:
        """Take note of *moment*; whether it is shown now is up to the display."""
        ...

    def say(self, text: str) -> None:
        """Show a line at once."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def make_progress(*, bar: bool) -> Progress:
    """A bar if *bar* and standard error is a terminal, else plain lines."""
    return Bar() if bar and sys.stderr.isatty() else Lines()


class Rate:
    """How many per second, over the last RATE_OVER seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])

    def of(self, finished: int) -> float:
        """The rate now that *finished* are finished."""
        now = clock.monotonic()
        self._seen.append((now, finished))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER:
            self._seen.popleft()
        since, before = self._seen[0]
        return (finished - before) / (now - since) if now > since else 0.0


class Lines:
    """Plain lines, for logs and pipes: no control codes, and none while nothing moves."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._next = clock.monotonic() + INTERVAL
        self._told: Moment | None = None

    def show(self, moment: Moment) -> None:  # noqa: D102 - as in Progress
        rate = self._rate.of(moment.finished)
        if clock.monotonic() < self._next or moment == self._told:
            return
        self._next = clock.monotonic() + INTERVAL
        self._told = moment
        of = "" if moment.expected is None else f" of {'about ' if moment.guessed else ''}{moment.expected:,}"
        self.say(
            f"{moment.finished:,}{of} finished, {moment.failed:,} failed, {said_rate(rate)}; "
            f"{moment.running} running, {moment.waiting} waiting"
        )

    def say(self, text: str) -> None:  # noqa: D102
        with _nobody_there:
            sys.stderr.write(f"penstock: {text}\n")  # one write, so that what jobs print can't come between
            sys.stderr.flush()

    def close(self) -> None:  # noqa: D102
        pass


class Bar:
    """A bar on the terminal, below whatever else is printed. Only the calling thread draws."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._rate = Rate()
        self._console = Console(stderr=True)
        self._bar: RichProgress = RichProgress(
            BarColumn(bar_width=24),  # room to spare on the line, where a terminal echoes ^C
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[failed]}"),
            TextColumn("{task.fields[waiting]} waiting"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("map", total=None, rate="", failed="", waiting=0)
        self._bar.start()

    def show(self, moment: Moment) -> None:  # noqa: D102 - as in Progress
        with _nobody_there:
            self._bar.update(
                self._task,
                completed=moment.finished,
                total=moment.expected,
                rate=said_rate(self._rate.of(moment.finished)),
                failed=f"[red]{moment.failed:,} failed[/]" if moment.failed else "0 failed",
                waiting=moment.waiting,
                refresh=True,
            )

    def say(self, text: str) -> None:  # noqa: D102
        with _nobody_there:
            self._console.print(f"penstock: {text}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:  # noqa: D102
        with _nobody_there:
            self._bar.stop()


def said_rate(rate: float) -> str:
    """*rate* per second, in as many digits as a person reads."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
