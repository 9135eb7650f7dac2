"""Writes what the docs hold that is made from the code: the reference, and the picture of a job's life.

python docs/make_reference.py    or `make docs`

The reference comes from the docstrings of the public names. What a docstring says to maintainers (invariants, locks) is
left out, and so are the methods that the pool's own parts need and nobody is promised: `NOT_PROMISED` names them.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import penstock
from penstock import errors, events, testing
from penstock.job import FINAL, MOVES
from penstock.pool.terms import Unobserved, WhenFull

DOCS: Final = Path(__file__).parent

ROOMS: Final[dict[str, tuple[str, ...]]] = {
    "The pools": ("ThreadPool", "ProcessPool", "AsyncPool", "ExecutorPool"),
    "Jobs": ("Job", "JobState", "current_job"),
    "Durable jobs": ("App", "Task", "Handle", "Progress", "AnyJob", "complete", "acomplete"),
    "Contexts": ("Context", "current_context"),
    "Trying again": ("Retry",),
    "The accounts": ("Report", "StuckJob", "Stats"),
    "Failures": ("Failures", "Failure"),
    "Stopping": ("graceful", "Shutdown", "lifespan"),
}
"""Where each public name stands, but for the errors, which have a room of their own."""

NOT_PROMISED: Final[dict[str, frozenset[str]]] = {
    "App": frozenset({"store", "watch", "kept_in", "start_afresh"}),
    "Task": frozenset({"codec"}),
    "Context": frozenset(
        {"context", "cause", "parent", "is_listened_to", "listen", "trip", "listen_for_job", "limit", "close"}
    ),
    "Job": frozenset({"wait_seen", "settled", "complete", "acomplete"}),
    "Failures": frozenset({"flush", "record", "start_afresh"}),
    "Shutdown": frozenset({"start_afresh"}),
}

ALIASES: Final = {
    "Unchanged | ": "",
    " | _Ungiven": "",
    "R_co": "R",
    "T_co": "T",
    "Iterable[Call]": "Iterable[tuple | Mapping]",
    "_Inherit | ": "",
    "WhenFull": " | ".join(repr(word) for word in get_args(WhenFull)),
    "Unobserved": " | ".join(repr(word) for word in get_args(Unobserved)),
    "AroundCoroutine": "Callable[[], AbstractContextManager | AbstractAsyncContextManager]",
    "Around": "Callable[[], AbstractContextManager]",
    "Observer": "Callable[[Event], object]",
}
"""Names in signatures that a reader doesn't know, and what stands for them."""

LONGEST_LINE: Final = 100  # characters of a signature, before each parameter gets a line of its own


def reference() -> str:
    """The text of docs/reference.md."""
    parts = [
        "# Reference",
        "Made from the docstrings by `make docs`: change those, not this page. All times are in seconds. What comes "
        "after a star in a signature is given by keyword.",
        "Contents: " + " · ".join(f"[{room}](#{_slug(room)})" for room in [*ROOMS, "Testing", "Events", "Errors"]),
    ]
    for room, names in ROOMS.items():
        parts.append(f"## {room}")
        for name in names:
            parts += _entry(name, getattr(penstock, name))
    parts += _testing()
    parts += _events()
    parts += _errors()
    return "\n\n".join(parts) + "\n"


def moves() -> str:
    """The picture of `penstock.job.MOVES`, as text for docs/jobs.md."""
    states = list(penstock.JobState)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> ready"]
    for state in states:
        lines += [f"    {state} --> {after}" for after in states if after in MOVES[state]]
    lines += [f"    {state} --> [*]" for state in states if state in FINAL]
    lines += ["```", "", "| from \\ to | " + " | ".join(states) + " |", "|---" * (len(states) + 1) + "|"]
    for state in states:
        if state not in FINAL:
            lines.append(f"| **{state}** | " + " | ".join("●" if to in MOVES[state] else "" for to in states) + " |")
    return "\n".join(lines)


def with_part(page: str, part: str, text: str) -> str:
    """*page* with *text* between its marks `<!-- part -->` and `<!-- /part -->`."""
    begin, end = f"<!-- {part} -->\n", f"\n<!-- /{part} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no marks for {part!r}")
    return f"{head}{begin}{text}{end}{tail}"


def main() -> None:
    """Write the pages."""
    (DOCS / "reference.md").write_text(reference(), encoding="utf-8")
    jobs = DOCS / "jobs.md"
    jobs.write_text(with_part(jobs.read_text(encoding="utf-8"), "moves", moves()), encoding="utf-8")


# What is said about one name


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}"
    if not inspect.isclass(value):
        yield _code(_signature(name, value))
        yield _prose(value)
    elif issubclass(value, enum.Enum):
        yield _prose(value)
        yield ", ".join(f'`{member.name}` ("{member.value}")' for member in value)
        yield "[A job's life](jobs.md) shows how it moves from one to the next."
    else:
        if dataclasses.is_dataclass(value) and name != "Retry":
            yield _code("\n".join(f"{field.name}: {field.type}" for field in dataclasses.fields(value)))
        elif hasattr(value, "_fields"):
            yield _code("\n".join(f"{field}: {kind}" for field, kind in value.__annotations__.items()))
        elif name in (*ROOMS["The pools"], "App", "Context", "Retry"):  # the others are made by a pool, not by hand
            yield _code(_signature(name, value.__init__))
        yield _prose(value)
        yield from _attributes(value)
        yield from _members(name, value)


def _members(owner: str, cls: type) -> Iterator[str]:
    """The methods and properties of *cls*, in the order of its source; for a pool, how to hand in jobs first."""
    for home in reversed([base for base in cls.__mro__ if base.__module__.startswith("penstock.")]):
        for name, value in vars(home).items():
            if name.startswith("_") or name in NOT_PROMISED.get(owner, ()):
                continue
            if isinstance(value, property):
                yield f"#### {owner}.{name}"
                yield f"`{_type(value.fget.__annotations__['return'])}` · {_prose(value)}"
            elif inspect.isfunction(value):
                yield f"#### {owner}.{name}()"
                yield _code(_signature(name, value))
                yield _prose(value)


def _attributes(cls: type) -> Iterator[str]:
    """The attributes that `__init__` sets and a string below explains; `inspect` can't see these."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        if not (isinstance(node, ast.FunctionDef) and node.name == "__init__"):
            continue
        for statement, after in zip(node.body, node.body[1:], strict=False):
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                continue
            target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
            if isinstance(target, ast.Attribute):
                yield f"#### {cls.__name__}.{target.attr}"
                yield inspect.cleandoc(str(after.value.value))


def _testing() -> Iterator[str]:
    yield "## Testing"
    yield "In `penstock.testing`. [How to test](how-to/test.md) shows it in use."
    for name in testing.__all__:
        value = getattr(testing, name)
        yield f"### {name}"
        if inspect.isclass(value):
            if dataclasses.is_dataclass(value):
                yield _code("\n".join(f"{field.name}: {field.type}" for field in dataclasses.fields(value)))
            else:
                yield _code(_signature(name, value.__init__))
            yield _prose(value)
            yield from _members(name, value)
        else:
            yield _code(_signature(name, value))
            yield _prose(value)


def _events() -> Iterator[str]:
    yield "## Events"
    yield "In `penstock.events`. `ThreadPool.observe(fn)` calls `fn` with each."
    for name, value in vars(events).items():
        if inspect.isclass(value) and issubclass(value, events.Event):
            yield f"### {name}"
            yield _code("\n".join(f"{field.name}: {field.type}" for field in dataclasses.fields(value)))
            yield _prose(value)


def _errors() -> Iterator[str]:
    yield "## Errors"
    tree = [block for block in _docstring(errors).split("\n\n") if "├──" in block or block.startswith("Cancelled ")]
    yield "```text\n" + "\n\n".join(tree) + "\n```"
    yield "[Errors](errors.md) says for each what it tells you, and whether to try again."
    for name, value in {
        **vars(errors),
        "WorkerDied": penstock.WorkerDied,
        "RemoteTraceback": penstock.RemoteTraceback,
    }.items():
        if inspect.isclass(value) and value.__module__.startswith("penstock."):
            yield f"### {name}"
            yield _prose(value)


# Text


def _docstring(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def _prose(value: Any) -> str:
    """The docstring without what it says to maintainers; each paragraph on one line, as code where it is indented."""
    paragraphs = []
    for paragraph in _docstring(value).split("\n\n"):
        if paragraph.startswith("    "):
            paragraphs.append(_code(textwrap.dedent(paragraph)))
            continue
        kept = " ".join(re.split(r"(?:^|(?<=\s))(?:Invariants|Lock):", paragraph)[0].split())
        items = re.split(r"(?:^|(?<=[.…] ))(?=\*\w+\*[:,])", kept)[1:]
        if len(items) > 3 and kept.startswith(items[0]):  # a list of parameters
            paragraphs.append("\n".join(f"- {item.strip()}" for item in items))
        elif kept:
            paragraphs.append(kept)
    return "\n\n".join(paragraphs)


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _slug(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _type(annotation: object) -> str:
    text = str(annotation)
    for alias, meaning in ALIASES.items():
        text = text.replace(alias, meaning)
    return text


def _signature(name: str, function: Any) -> str:
    """As in the source, without `self`; on several lines if it is long."""
    signature = inspect.signature(function)
    parameters, marked, slash = [], False, False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if slash and parameter.kind is not parameter.POSITIONAL_ONLY:
            parameters.append("/")
        slash = parameter.kind is parameter.POSITIONAL_ONLY
        if parameter.kind is parameter.KEYWORD_ONLY and not marked:
            parameters.append("*")
        marked = marked or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
        text = stars.get(parameter.kind.name, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_type(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            default = repr(parameter.default)
            text += " = " + ("..." if default.startswith("<") else _plain(parameter.default))
        parameters.append(text)
    returns = signature.return_annotation
    arrow = f" -> {_type(returns)}" if returns not in (signature.empty, "None", None) and name[0].islower() else ""
    start = "await " if inspect.iscoroutinefunction(function) else ""
    line = f"{start}{name}({', '.join(parameters)}){arrow}"
    if len(line) <= LONGEST_LINE:
        return line
    return f"{start}{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){arrow}"


def _plain(default: object) -> str:
    if isinstance(default, tuple):
        inside = ", ".join(_plain(part) for part in default)
        return f"({inside},)" if len(default) == 1 else f"({inside})"
    if isinstance(default, type):
        return default.__name__
    return default.name if isinstance(default, enum.Enum) else repr(default)


if __name__ == "__main__":
    main()
