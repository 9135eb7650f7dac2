"""The `penstock` command. Importing this loads neither click nor rich: `main` does."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE = 2  # the exit code of everything that can be said before the first job runs
UNSEEN = 1  # as click has it for a reader that is gone
INTERRUPTED = 130  # 128 + SIGINT


_NOBODY_READS = {errno.EIO, errno.EPIPE}  # the terminal is gone, or who read from the pipe
_UNWRITABLE = {*_NOBODY_READS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line *args* (by default this process's own) and give its exit code.

    0: every job succeeded, or what was asked for is done; 1: some did not, or nothing was found; 2: wrong usage,
    nothing ran; 3: the store of durable jobs can't be reached; 130, 143: stopped by Ctrl-C or SIGTERM.
    """
    _open_what_is_closed()
    try:
        import click
        import rich  # noqa: F401 - bars and tables need it: better said now than in the middle

        from penstock.cli.command import penstock
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        print(f"penstock: the command line needs {error.name}: pip install 'penstock[cli]'", file=sys.stderr)
        return USAGE
    try:
        code = penstock.main(args=args, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:  # one line
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "penstock"
        message = error.format_message()
        if (
            context
            and "unexpected extra argument" in message
            and any(it.name == "app" for it in context.command.params)
        ):
            message += "; the app goes behind --app, as in --app module:app"  # `penstock work` has it without
        print(f"{command}: {message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to write goes nowhere
        if error.errno not in _NOBODY_READS:
            print(f"penstock: standard output: {error.strerror}", file=sys.stderr)
        return UNSEEN
    except (click.Abort, KeyboardInterrupt):  # before the first job: from then on the run takes the signals
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _open_what_is_closed() -> None:
    """Let standard files that this process was started without lead nowhere.

    Else what it opens first has their numbers, which mean something else to each process that it starts.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "r" if number == 0 else "w", closefd=False)))
