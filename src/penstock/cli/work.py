"""`penstock work`: a worker service that runs durable jobs until it is told to stop."""

from __future__ import annotations

import click

from penstock.cli.values import count, seconds, seconds_or_zero

EXAMPLE = """\b
Examples:
  penstock work shop.tasks:app
  penstock work shop/tasks.py:app --processes 2 --threads 16 --queues mail,default --health 8080

\b
SIGTERM or Ctrl-C: no new jobs; what runs may end within --grace, the rest is handed back. A second
signal cancels what runs, a third kills it.
Exit code: 0 nothing was cut; 1 something had to be killed, or could not be handed back; 2 it could not begin.
"""


@click.command("work", epilog=EXAMPLE, short_help="Run the jobs of an app, until it is told to stop.")
@click.argument("app", metavar="APP")
@click.option("--processes", type=count, default=1, show_default=True, metavar="N", help="Worker processes.")
@click.option(
    "--threads", type=count, default=8, show_default=True, metavar="N", help="Threads of each, for plain tasks."
)
@click.option(
    "--asyncio",
    "tasks",
    type=count,
    default=100,
    show_default=True,
    metavar="N",
    help="Coroutines at once of each, for async tasks.",
)
@click.option(
    "--pool-processes",
    type=count,
    default=1,
    show_default=True,
    metavar="N",
    help="Processes of each, for tasks with process=True.",
)
@click.option("--queues", metavar="A,B", help="Take jobs of these queues alone. [default: all]")
@click.option(
    "--grace",
    type=seconds_or_zero,
    default=25,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C: all the time there is to end.",
)
@click.option(
    "--lease",
    type=seconds,
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long others wait for a sign of life before they take the jobs of this service.",
)
@click.option("--health", type=click.IntRange(0, 65535), metavar="PORT", help="Answer /live and /ready on loopback.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--log-json", is_flag=True, help="Log JSON, an object a line.")
def work_command(
    app: str,
    processes: int,
    threads: int,
    tasks: int,
    pool_processes: int,
    queues: str | None,
    grace: float,
    lease: float,
    health: int | None,
    log_level: str,
    log_json: bool,
) -> int:
    """Run the durable jobs of APP (module:app or path/to/file.py:app) until SIGTERM or Ctrl-C."""
    try:
        from penstock.worker.logs import set_up_logs
        from penstock.worker.supervisor import WorkSettings, serve
    except ImportError as error:  # an extra is not installed, and the error says which
        raise click.UsageError(str(error)) from error

    names = None if queues is None else tuple(name.strip() for name in queues.split(",") if name.strip())
    if names == ():
        raise click.UsageError("--queues names no queue")
    set_up_logs(log_level, as_json=log_json)
    return serve(
        WorkSettings(
            app=app,
            processes=processes,
            threads=threads,
            tasks=tasks,
            pool_processes=pool_processes,
            queues=names,
            grace=grace,
            lease=lease,
            health=health,
            log_level=log_level,
            log_json=log_json,
        )
    )
