"""Which store a command is about, and what is said when it can't be reached."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from penstock.cli.function import find_object
from penstock.cli.jobs.printable import one_line
from penstock.engines import connect
from penstock.engines.engine import Engine
from penstock.engines.requests import Reply, Request
from penstock.errors import StoreError

if TYPE_CHECKING:
    from penstock.app.app import App

NOTHING: Final = 1  # the exit code when nothing was found
UNREACHABLE: Final = 3


class _Said(click.ClickException):
    """An end in one line, which names the command."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.ctx = click.get_current_context(silent=True)


class NothingFound(_Said):
    """There is nothing of what was asked for."""

    exit_code = NOTHING


class StoreProblem(_Said):
    """The store can't be used."""

    exit_code = UNREACHABLE


def with_store(command: Callable[..., int]) -> Callable[..., int]:
    """*command* with the options that name a store; it gets the opened engine as its first argument."""

    @click.option("--app", envvar="PENSTOCK_APP", show_envvar=True, metavar="MODULE:APP", help="The store of this App.")
    @click.option(
        "--store", envvar="PENSTOCK_STORE", show_envvar=True, metavar="URL", help="The store, as in sqlite:///jobs.db."
    )
    @functools.wraps(command)
    def on_store(store: str | None, app: str | None, **options: Any) -> int:
        with opened(_url(store, app)) as engine:
            return command(engine, **options)

    return on_store


@contextlib.contextmanager
def opened(url: str) -> Iterator[Engine]:
    """The engine for *url*, as `connected`, and a store that is there."""
    with connected(url) as engine:
        engine.open(create=False)  # a name mistyped is no new store
        yield engine


@contextlib.contextmanager
def connected(url: str) -> Iterator[Engine]:
    """The engine for *url*, until the block ends; what goes wrong with the store in it becomes a `StoreProblem`."""
    refuse_memory(url)
    try:
        engine = connect(url)
    except (ValueError, ImportError) as error:
        raise click.UsageError(one_line(str(error))) from None
    with problems_told():
        try:
            yield engine
        finally:
            engine.close()


@contextlib.contextmanager
def problems_told() -> Iterator[None]:
    """A block in which what goes wrong with a store becomes a `StoreProblem`."""
    try:
        yield
    except StoreError as error:
        raise StoreProblem(one_line(str(error))) from error


def refuse_memory(url: str) -> None:
    """Raise `click.UsageError` if the store at *url* is one that no other process can see."""
    if url.startswith("memory:"):
        raise click.UsageError("memory:// is within one process: it holds nothing of others, and nothing for them")


def do(engine: Engine, request: Request) -> Reply:
    """The answer to *request* alone. Raises `click.UsageError` for one that no store does: its name is no text."""
    (answer,) = engine.transact([request])
    if isinstance(answer, ValueError):
        raise click.UsageError(one_line(str(answer)))
    if isinstance(answer, Exception):
        raise answer
    return answer


def find_app(spec: str, metavar: str) -> App:
    """The app that *spec* names. What its module prints goes to standard error. Raises `click.UsageError`."""
    with contextlib.redirect_stdout(sys.stderr):  # what an import prints must not stand among the results
        app = find_object(spec, metavar)
    from penstock.app.app import App  # it needs msgspec, which a store alone doesn't

    if not isinstance(app, App):
        raise click.UsageError(f"{spec} is no App: it is of type {type(app).__name__}")
    return app


def _url(store: str | None, app: str | None) -> str:
    if store and app:
        # What was typed goes before what is in the environment.
        typed = [name for name in ("store", "app") if _is_typed(name)]
        if len(typed) == 2:
            raise click.UsageError("give one of --store and --app")
        store, app = (None, app) if typed == ["app"] else (store, None)
    if store:
        return store
    if app:
        found = find_app(app, "--app")
        click.get_current_context().obj = found
        return found.url
    raise click.UsageError(
        "which store? Give --store URL (or set PENSTOCK_STORE), or --app module:app (or set PENSTOCK_APP)"
    )


def _is_typed(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
