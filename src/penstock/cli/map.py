"""`penstock map`: a function over many inputs, on a pool of any kind."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from penstock import ProcessPool, Retry, ThreadPool
from penstock.cli.flow import HELD, Flow
from penstock.cli.function import Named, refuse_unless_one_argument
from penstock.cli.inputs import open_inputs
from penstock.cli.output import STDOUT, open_output, standard_output
from penstock.cli.progress import make_progress
from penstock.cli.run import run
from penstock.cli.values import count, seconds, seconds_or_zero
from penstock.pool.executor import Pool

if TYPE_CHECKING:
    from penstock.cli.loop import OnLoop

EXAMPLE = """\b
Examples:
  penstock map digest.py:digest *.py
  find . -name '*.log' | penstock map shop.tools:compress --workers 8 --output results.jsonl
  penstock map api.py:send --from orders.jsonl --jsonl --timeout 10 --retry 3 --output sent.jsonl

\b
Exit code: 0 all succeeded; 1 some did not; 2 wrong usage, nothing ran;
130 or 143 stopped by Ctrl-C or SIGTERM, with every result so far written.
"""


@click.command("map", epilog=EXAMPLE, short_help="Call a function with each of many inputs.")
@click.argument("function", metavar="FUNCTION")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--from", "source", metavar="FILE", help="Read the inputs from FILE, one a line (-: standard input).")
@click.option("--jsonl", is_flag=True, help="Each input is a JSON value: the one argument of its call.")
@click.option("--star", is_flag=True, help="With --jsonl: spread a list over arguments, an object over keywords.")
@click.option(
    "-w",
    "--workers",
    type=count,
    metavar="N",
    help="How many run at once, on threads. [default: CPUs + 4, at most 32]",
)
@click.option("--threads", type=count, metavar="N", help="The same as --workers.")
@click.option("--processes", type=count, metavar="N", help="Run on N processes: for work that keeps a processor busy.")
@click.option("--asyncio", "tasks_at_once", type=count, metavar="N", help="Run a coroutine function, N at once.")
@click.option(
    "--backlog",
    type=count,
    default=100,
    show_default=True,
    metavar="N",
    help="How many wait for a worker.",
)
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Fail a job whose attempt takes longer.")
@click.option("--retry", type=count, metavar="N", help="Run a failing job up to N times in all.")
@click.option(
    "--grace",
    type=seconds_or_zero,
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="After Ctrl-C or SIGTERM: all the time there is to end.",
)
@click.option("--ordered", is_flag=True, help="Write results in the order of the inputs, not as jobs end.")
@click.option("-o", "--output", default=STDOUT, metavar="FILE", help="Where results go. [default: standard output]")
@click.option("--append", is_flag=True, help="Add to the results that FILE has.")
@click.option("--force", is_flag=True, help="Replace the results that FILE has.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of the first failure of each kind.")
def map_command(
    function: str,
    inputs: tuple[str, ...],
    source: str | None,
    jsonl: bool,
    star: bool,
    workers: int | None,
    threads: int | None,
    processes: int | None,
    tasks_at_once: int | None,
    backlog: int,
    timeout: float | None,
    retry: int | None,
    grace: float,
    ordered: bool,
    output: str,
    append: bool,
    force: bool,
    verbose: bool,
) -> int:
    """Call FUNCTION with each INPUT, many at a time, and write one JSON line per result.

    FUNCTION is module:name or path/to/file.py:name. The INPUTs are the arguments given, or lines of --from FILE,
    or of standard input; they are read as they are needed, so there may be any number of them.

    Ctrl-C (or SIGTERM) takes no new inputs and lets accepted jobs end within --grace; a second one cancels them.
    """
    if star and not jsonl:
        raise click.UsageError("--star needs --jsonl")
    if sum(number is not None for number in (workers, threads, processes, tasks_at_once)) > 1:
        raise click.UsageError("give one of --workers, --threads, --processes and --asyncio")
    if (append or force) and output == STDOUT:
        raise click.UsageError("--append and --force need --output FILE")
    with contextlib.ExitStack() as stack:
        # First: what an import prints must not stand among the results.
        lines = stack.enter_context(standard_output()) if output == STDOUT else None
        named = Named(function, star=star, coroutine=tasks_at_once is not None)
        call = named if tasks_at_once is None else awaiting(named)
        if not star:
            refuse_unless_one_argument(named.function, function)
        tasks = open_inputs(inputs, source, jsonl=jsonl)
        stack.callback(tasks.close)
        # Last: a mistake in anything else must not cost the results that FILE has.
        lines = lines or stack.enter_context(open_output(output, append=append, force=force))
        options: dict[str, Any] = {
            "backlog": backlog,
            "timeout": timeout,
            "retry": None if retry is None else Retry(retry),
            "grace": grace,
            "name": "map",
        }
        pool: Pool | OnLoop
        if processes is not None:
            pool = ProcessPool(processes, **options)
        elif tasks_at_once is not None:
            pool = on_loop(tasks_at_once, **options)
        else:
            pool = ThreadPool(workers or threads, "penstock-map", **options)
        flow = Flow(pool, call, tasks, lines, ordered=ordered, room=backlog + pool.max_workers + HELD)
        progress = make_progress(bar=not lines.is_terminal())
        return run(flow, tasks, pool, progress, grace=grace, verbose=verbose)


def awaiting(named: Named) -> Callable[[object], Coroutine[Any, Any, Any]]:
    """*named*, a coroutine function, as what AsyncPool takes for one."""
    import asyncio  # not for everybody

    @functools.wraps(named.function, updated=())  # jobs and failures show its name, not ours
    async def awaited(value: object) -> Any:
        await asyncio.sleep(0)  # it may begin at once: whoever submits it has its job before it can block the loop
        return await named(value)

    return awaited


def on_loop(tasks: int, **options: Any) -> OnLoop:
    """A pool of coroutines, on a loop of its own."""
    from penstock import AsyncPool  # likewise
    from penstock.cli.loop import OnLoop

    return OnLoop(AsyncPool(tasks, **options))
