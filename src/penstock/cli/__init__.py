"""The `penstock` command. Importing this loads neither click nor rich: `main` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE = 2  # the exit code of everything that can be said before the first job runs
INTERRUPTED = 130  # 128 + SIGINT


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line *args* (by default this process's own) and give its exit code.

    0: every job succeeded; 1: some did not; 2: wrong usage, nothing ran; 130, 143: stopped by Ctrl-C or SIGTERM.
    """
    try:
        import click
        import rich  # noqa: F401 - the bar needs it: better said now than in the middle

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
    except (click.Abort, KeyboardInterrupt):  # before the first job: from then on the run takes the signals
        return INTERRUPTED
    return code if isinstance(code, int) else 0
