"""The `penstock` command. Importing this loads neither click nor rich: `main` does."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE = 2  # the exit code of everything that can be said before the first job runs
UNSEEN = 1  # as click has it for a reader that is gone
INTERRUPTED = 130  # 128 + SIGINT


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line *args* (by default this process's own) and give its exit code.

    0: every job succeeded, or what was asked for is done; 1: some did not, or nothing was found; 2: wrong usage,
    nothing ran; 3: the store of durable jobs can't be reached; 130, 143: stopped by Ctrl-C or SIGTERM.
    """
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
    except click.ClickException as error:  # one line
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "penstock"
        print(f"{command}: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the terminal is gone: what is left to write goes nowhere
        return UNSEEN
    except (click.Abort, KeyboardInterrupt):  # before the first job: from then on the run takes the signals
        return INTERRUPTED
    return code if isinstance(code, int) else 0
