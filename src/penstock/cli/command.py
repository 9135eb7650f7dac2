"""`penstock`: the command that the others hang from."""

from __future__ import annotations

import click

from penstock.cli.jobs.again import retry_command
from penstock.cli.jobs.cancel import cancel_command
from penstock.cli.jobs.check import check_command
from penstock.cli.jobs.failures import failures_command
from penstock.cli.jobs.listing import jobs_command
from penstock.cli.jobs.prune import prune_command
from penstock.cli.jobs.queues import pause_command, resume_command
from penstock.cli.jobs.show import show_command
from penstock.cli.jobs.status import status_command
from penstock.cli.map import map_command
from penstock.cli.work import work_command


class InOrder(click.Group):
    """Shows its commands in the order in which they were added: what belongs together stands together."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)


@click.group(
    cls=InOrder,
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


for command in (
    map_command,
    work_command,
    status_command,
    jobs_command,
    show_command,
    failures_command,
    retry_command,
    cancel_command,
    pause_command,
    resume_command,
    prune_command,
    check_command,
):
    penstock.add_command(command)
