"""`penstock`: the command that the others hang from."""

from __future__ import annotations

import click

from penstock.cli.map import map_command
from penstock.cli.work import work_command


@click.group(
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


penstock.add_command(map_command)
penstock.add_command(work_command)
