"""What can be a task, what it is called, and when a mistake is told."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock import App, Handle, ProcessPool, Retry, Task
from penstock.app.task import AsyncTask, Kind
from tests.ids import told

if TYPE_CHECKING:
    from elsewhere import Image  # type: ignore[import-not-found]

module_app = App("memory://")


@module_app.task
def double(number: int) -> int:
    """Twice *number*."""
    return 2 * number


@module_app.task
async def adouble(number: int) -> int:
    return 2 * number


def test_a_task_called_is_its_function() -> None:
    assert double(4) == 8
    assert asyncio.run(adouble(4)) == 8


def test_a_task_looks_like_its_function() -> None:
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice *number*."
    assert inspect.signature(double) == inspect.signature(double.fn)
    assert inspect.unwrap(double) is double.fn


def test_a_task_is_named_by_its_module_and_function() -> None:
    assert double.name == f"{__name__}.double"
    assert repr(double) == f"<Task {__name__}.double>"


def test_a_name_that_is_given_is_taken(app: App) -> None:
    def local() -> None: ...

    assert app.task(name="shop.local")(local).name == "shop.local"


def test_a_task_of_a_script_is_named_by_its_file_so_that_others_find_it(tmp_path: Path) -> None:
    told = run_script(
        tmp_path,
        """
        from penstock import App
        app = App("memory://")
        @app.task
        def pack(): ...
        print(pack.name)
        """,
    )
    assert told == "shop.pack"


def test_a_task_of_a_module_that_is_run_is_named_as_it_is_imported(tmp_path: Path) -> None:
    told = run_script(
        tmp_path,
        """
        from penstock import App
        app = App("memory://")
        @app.task
        def pack(): ...
        print(pack.name)
        """,
        "-m",
        "shop",
    )
    assert told == "shop.pack"


def run_script(tmp_path: Path, text: str, *how: str) -> str:
    script = tmp_path / "shop.py"
    script.write_text(textwrap.dedent(text))
    ran = subprocess.run(
        [sys.executable, *(how or [script])], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    return ran.stdout.strip()


def test_settings_are_kept(app: App) -> None:
    retry = Retry(5)

    @app.task(timeout=30, retry=retry, queue="images", priority=3)
    def resize() -> None: ...

    assert (resize.timeout, resize.retry, resize.queue, resize.priority) == (30.0, retry, "images", 3)


def test_a_task_has_the_usual_settings_unless_it_is_told_otherwise() -> None:
    assert (double.timeout, double.retry, double.queue, double.priority) == (None, None, "default", 0)


def test_the_kind_of_a_task_follows_from_its_function(app: App) -> None:
    @app.task(process=True)
    def crunch() -> None: ...

    assert (double.kind, adouble.kind, crunch.kind) == (Kind.THREAD, Kind.ASYNC, Kind.PROCESS)
    assert isinstance(adouble, AsyncTask)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"timeout": 0}, "timeout must be more than zero seconds"),
        ({"timeout": "5"}, "timeout must be a number of seconds"),
        ({"retry": 3}, r"retry must be a Retry or None, not 3; write retry=Retry\(3\)"),
        ({"queue": ""}, "queue must have 1 to 250 printable characters"),
        ({"queue": 3}, "queue must be a string"),
        ({"queue": "a\nb"}, "queue must have 1 to 250 printable characters"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"priority": True}, "priority must be a whole number"),
        ({"priority": 2**31}, "priority must fit into 32 bits"),
        ({"name": ""}, "name must have 1 to 250"),
        ({"name": "x" * 251}, "name must have 1 to 250"),
        ({"process": 1}, "process must be True or False"),
        ({"timout": 3}, "unexpected keyword argument 'timout'"),
    ],
    ids=told,
)
def test_a_setting_that_makes_no_sense_is_refused_before_there_is_a_function(
    app: App, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        app.task(**settings)


def generator() -> Iterator[int]:
    yield 1


async def agenerator() -> AsyncIterator[int]:
    yield 1


class Shop:
    def pack(self, order: int) -> None: ...

    def __call__(self) -> None: ...

    @staticmethod
    def weigh(order: int) -> int:
        return order


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (generator, "generator can't be a task: it yields"),
        (agenerator, "agenerator can't be a task: it yields"),
        (Shop.pack, "Shop.pack can't be a task: it is a method"),
        (Shop().pack, "a task is made of a function"),
        (Shop(), "a task is made of a function"),
        (Shop, "a task is made of a function"),
        (functools.partial(generator), "a task is made of a function"),
        (print, "print can't be a task: a task is made of a function"),
        (double, "double can't be a task: it is one already"),
        (lambda: None, "a lambda has no name of its own: give it one, with name="),
        (3, "3 can't be a task"),
    ],
    ids=told,
)
def test_what_can_not_be_a_task_is_refused_with_a_reason(app: App, fn: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        app.task(fn)
    assert not app.tasks


def test_a_coroutine_function_can_not_go_to_a_process(app: App) -> None:
    async def fetch() -> None: ...

    with pytest.raises(TypeError, match="process=True is for plain functions"):
        app.task(process=True)(fetch)


def test_a_static_method_and_a_named_lambda_may_be_tasks(app: App) -> None:
    assert app.task(Shop.weigh)(3) == 3
    assert app.task(name="three")(lambda: 3)() == 3


def test_a_decorated_function_is_a_task_with_the_signature_of_what_it_wraps(app: App) -> None:
    def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return inner

    task = app.task(logged(double.fn))

    assert task.codec.decode_call(task.codec.encode_call((4,), {})) == ((4,), {})
    with pytest.raises(TypeError, match=r"Expected `int`, got `str` - at `\$.number`"):
        task.codec.encode_call(("4",), {})


# Hints that can't be looked up


def test_a_hint_may_name_what_is_defined_further_down(app: App) -> None:
    module = types.ModuleType("further_down")
    exec(
        textwrap.dedent(
            """
            from __future__ import annotations
            from typing import NewType
            def pack(order: Order) -> Order:
                return order
            """
        ),
        vars(module),
    )
    task = app.task(module.pack)
    with pytest.raises(NameError, match=r"further_down.pack: a type hint names something that isn't there: .*'Order'"):
        task.enqueue(1)

    exec("Order = NewType('Order', int)", vars(module))
    task.check()

    assert task.codec.decode_call(task.codec.encode_call((3,), {})) == ((3,), {})


def test_a_hint_for_type_checkers_alone_is_told_at_the_first_use(app: App) -> None:
    @app.task
    def show(image: Image) -> None: ...

    with pytest.raises(
        NameError, match="must be defined or imported when the module runs, not for type checkers alone"
    ):
        show.check()


class Opaque: ...


def test_a_type_that_can_not_travel_is_told_by_the_decorator(app: App) -> None:
    def show(image: Opaque) -> None: ...

    with pytest.raises(TypeError, match=r"show can't be a task: parameter 'image': type `Opaque` has no form in JSON"):
        app.task(show)
    assert not app.tasks


# Crossing to other processes


def test_a_task_is_pickled_by_name_as_a_function_is() -> None:
    assert pickle.loads(pickle.dumps(double)) is double


def test_a_task_can_be_run_by_a_pool_of_processes() -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(double, 4).result() == 8


def test_a_view_shows_what_it_is_a_view_of() -> None:
    assert repr(double.options(delay=5)).startswith(f"<<Task {__name__}.double> as Order(")


def test_task_and_handle_can_be_subscripted_in_hints() -> None:
    assert typing.get_origin(Task[[int], str]) is Task
    assert typing.get_origin(Handle[str]) is Handle
