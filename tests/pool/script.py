"""A Python script in a process of its own, for what only a whole process can show: its end, its signals, its children.

Test and script wait for one another by pipes. The script has `say`, `hang` and `until_told`; see PREAMBLE.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.gates import GUARD, slack

SLACK = 1.0  # seconds beyond its grace that a process may take to end, the interpreter's own end included
LIMIT = 2 * GUARD  # seconds after which a script that hangs is killed, so that whoever reads from it goes on

PREAMBLE = r"""
import os
import signal
import sys
import threading
import time

from penstock import *


def say(text):
    # In one write and past all buffers, so that lines of several threads and processes stay whole.
    os.write(1, f"{text}\n".encode())


def hang(*args):
    say("hung")
    threading.Event().wait()


def until_told(*args):
    # Blocks until the test says `go`, once for each call.
    os.read(0, 1)


def rest(seconds=60.0):
    # A job that stops when it is asked to.
    say("resting")
    try:
        current_context().sleep(seconds)
    except BaseException as error:
        say(f"woken by {type(error).__name__}")
        raise


"""


class Script:
    """A script that runs. `line` and `rest` read what it says, `go` lets it go on, `end` waits for its end."""

    def __init__(self, folder: Path, *code: str, flags: Sequence[str] = ()) -> None:
        path = folder / "script.py"
        path.write_text(PREAMBLE + "".join(map(textwrap.dedent, code)))
        self._errors = folder / "errors.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *flags, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # a group of its own, so that its children can be ended with it
            )
        self._limit = threading.Timer(LIMIT, self._kill)
        self._limit.start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def line(self) -> str:
        """The next line that it says."""
        line = self._out.readline()
        assert line, f"it ended without another word; on stderr:\n{self.errors}"
        return line.rstrip("\n")

    def has_said(self, within: float = 0.05) -> bool:
        """Whether there is something to read now, or *within* so many seconds."""
        return bool(select.select([self._out], [], [], within)[0])

    def expect(self, *lines: str) -> None:
        """The next lines are these, in this order."""
        for line in lines:
            assert (said := self.line()) == line, f"it said {said!r} in place of {line!r}; on stderr:\n{self.errors}"

    def expect_in_any_order(self, *lines: str) -> None:
        """The next lines are these."""
        assert sorted(self.line() for _ in lines) == sorted(lines)

    def go(self, times: int = 1) -> None:
        """Let so many `until_told` return."""
        self._in.write("." * times)
        self._in.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, *, within: float = GUARD) -> int:
        """Wait for its end, at most `slack` of *within* seconds from now; its exit code."""
        begun = time.monotonic()
        try:
            code = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; on stderr:\n{self.errors}") from None
        took = time.monotonic() - begun
        assert took < slack(within), f"it took {took:.3g} s to end; on stderr:\n{self.errors}"
        return code

    def rest(self) -> list[str]:
        """What it has said and nobody has read, up to its end."""
        return self._out.read().splitlines()

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self._errors.read_text()

    def close(self) -> None:
        """End it and its children, if they haven't ended."""
        self._limit.cancel()
        self._limit.join()
        self._kill()
        self.process.wait(GUARD)
        self._in.close()
        self._out.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def running(folder: Path, *code: str, flags: Sequence[str] = ()) -> Iterator[Script]:
    """*code* in a process of its own, which does not outlive the block. Each part may have its own indentation."""
    script = Script(folder, *code, flags=flags)
    try:
        yield script
    finally:
        script.close()
