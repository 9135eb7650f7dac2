"""`penstock`: the command that the others hang from."""

from __future__ import annotations

import importlib
from typing import Final, cast

import click

COMMANDS: Final = {  # in the order of the help: what belongs together stands together
    "map": "penstock.cli.map:map_command",
    "work": "penstock.cli.work:work_command",
    "enqueue": "penstock.cli.jobs.enqueue:enqueue_command",
    "status": "penstock.cli.jobs.status:status_command",
    "jobs": "penstock.cli.jobs.listing:jobs_command",
    "show": "penstock.cli.jobs.show:show_command",
    "failures": "penstock.cli.jobs.failures:failures_command",
    "retry": "penstock.cli.jobs.again:retry_command",
    "cancel": "penstock.cli.jobs.cancel:cancel_command",
    "pause": "penstock.cli.jobs.queues:pause_command",
    "resume": "penstock.cli.jobs.queues:resume_command",
    "prune": "penstock.cli.jobs.prune:prune_command",
    "check": "penstock.cli.jobs.check:check_command",
    "migrate": "penstock.cli.jobs.migrate:migrate_command",
}


class Commands(click.Group):
    """Loads a command when it is asked for: a worker service has no use for tables."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        return cast(click.Command, getattr(importlib.import_module(module), name))


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="penstock", message="%(prog)s %(version)s")
@click.pass_context
def penstock(context: click.Context) -> None:
    """Worker pools that are bounded, can always be stopped, and lose nothing in silence."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)
