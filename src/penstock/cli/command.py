"""`penstock`: the command that the others hang from."""

from __future__ import annotations

import click

from penstock.cli.map import map_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(None, "-V", "--version", package_name="penstock", message="%(prog)s %(version)s")
def penstock() -> None:
    """Worker pools that are bounded, can always be stopped, and lose nothing in silence."""


penstock.add_command(map_command)
