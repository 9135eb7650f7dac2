"""An app: its URL, its tasks, its store, its end."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from penstock import App, JobUnknown, StoreUnavailable
from penstock.engines import connect, without_password
from penstock.engines.engine import Engine
from tests.gates import GUARD, in_thread


@pytest.mark.parametrize("url", ["", "jobs.db", "sqlit:///jobs.db", "://", "memory:", "redis://localhost"])
def test_a_url_that_names_no_store_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="names no store: it must begin with one of memory://, postgresql://"):
        App(url)


def test_a_url_that_is_no_string_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="the URL of a store must be a string"):
        App(Path("jobs.db"))  # type: ignore[arg-type]


def test_no_password_is_shown_when_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="names no store") as told:
        App("postgrse://me:secret@host/jobs")
    assert "secret" not in str(told.value)
    assert "me:***@host" in str(told.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se@cret@host/jobs", "postgresql://me:***@host/jobs"),
        ("postgresql://me@host/jobs", "postgresql://me@host/jobs"),
        ("postgresql://host:5432/jobs", "postgresql://host:5432/jobs"),
        ("sqlite:///a:b@c.db", "sqlite:///a:***@c.db"),
        ("memory://", "memory://"),
    ],
)
def test_a_password_is_hidden_in_what_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_text_of_an_app_has_no_password() -> None:
    app = App("sqlite://me:secret@host/jobs", name="shop")
    assert "secret" not in repr(app)
    assert app.url == "sqlite://me:secret@host/jobs"


def test_making_an_app_connects_nothing(tmp_path: Path) -> None:
    App(f"sqlite:///{tmp_path}/jobs.db")
    assert not any(tmp_path.iterdir())


def test_making_an_app_loads_no_driver() -> None:
    script = "import sys, penstock; penstock.App('sqlite:///jobs.db'); print('apsw' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "False"


def test_without_msgspec_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['msgspec'] = None; import penstock\n"
        "@penstock.App('memory://').task\ndef f() -> None: ...\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert "ImportError: durable jobs need msgspec, which comes with: pip install 'penstock[sqlite]'" in ran.stderr


def test_settings_of_an_app_are_checked() -> None:
    with pytest.raises(TypeError, match="around must be a callable"):
        App("memory://", around=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name must have 1 to 250 printable characters"):
        App("memory://", name="")
    with pytest.raises(ValueError, match="keep must be more than zero seconds, not 0"):
        App("memory://", keep=0)
    with pytest.raises(TypeError, match="keep_failed must be a number of seconds, not inf"):
        App("memory://", keep_failed=float("inf"))


def test_what_an_app_keeps_may_be_seconds_or_a_timedelta() -> None:
    assert (App("memory://").keep, App("memory://").keep_failed) == (24 * 3600, 7 * 24 * 3600)
    app = App("memory://", keep=60, keep_failed=datetime.timedelta(days=30))
    assert (app.keep, app.keep_failed) == (60, 30 * 24 * 3600)


def test_an_app_knows_its_tasks_by_name(app: App) -> None:
    @app.task(name="shop.pack")
    def pack() -> None: ...

    assert dict(app.tasks) == {"shop.pack": pack}
    assert app.task_named("shop.pack") is pack
    with pytest.raises(TypeError):
        app.tasks["shop.more"] = pack  # type: ignore[index]


def test_an_unknown_task_is_told_with_what_was_meant(app: App) -> None:
    with pytest.raises(LookupError, match=r"<App shop at memory://> has no task 'shop.pack': it has none yet"):
        app.task_named("shop.pack")

    @app.task(name="shop.pack")
    def pack() -> None: ...

    with pytest.raises(LookupError, match=r"has no task 'shop.pakc': did you mean shop.pack\?"):
        app.task_named("shop.pakc")
    with pytest.raises(LookupError, match=r"has no task 'xyz': it has shop.pack"):
        app.task_named("xyz")


def test_two_tasks_of_one_name_are_refused_with_the_places_of_both(app: App) -> None:
    @app.task(name="shop.pack")
    def pack() -> None: ...

    def pack_again() -> None: ...

    with pytest.raises(
        ValueError,
        match=r"there is a task 'shop.pack' already: .*pack \(test_app.py:\d+\); give .*pack_again \(test_app.py:\d+\)",
    ):
        app.task(name="shop.pack")(pack_again)
    assert app.task_named("shop.pack") is pack


def test_at_a_prompt_a_task_may_be_defined_once_more() -> None:
    script = "\n".join(
        [
            "from penstock import App",
            "app = App('memory://')",
            "exec('@app.task\\ndef pack(): return 1')",
            "exec('@app.task\\ndef pack(): return 2')",
            "print(app.task_named('__main__.pack')())",
        ]
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "2"


def test_in_a_script_a_task_of_the_same_name_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        "from penstock import App\napp = App('memory://')\n@app.task\ndef pack(): ...\n@app.task\ndef pack(): ...\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, check=False)
    assert "there is a task 'shop.pack' already: __main__.pack (shop.py:3)" in ran.stderr


def test_threads_that_come_first_at_once_share_one_store(app: App) -> None:
    start = threading.Barrier(8)

    def get() -> object:
        start.wait(GUARD)
        return app.store, app.watch

    found = [in_thread(get) for _ in range(8)]

    assert len({future.result(GUARD) for future in found}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_handler_that_has_interrupted_its_first_use_is_refused_and_hangs_nobody(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[bool] = []
    make = app._connect

    def interrupted() -> Engine:
        with pytest.raises(StoreUnavailable, match="handler"):
            _ = app.store
        refused.append(True)
        return make()

    monkeypatch.setattr(app, "_connect", interrupted)

    assert in_thread(lambda: app.store).result(GUARD) is app.store
    assert refused == [True]


def test_the_child_of_a_fork_is_not_kept_out_by_a_thread_that_it_does_not_have(app: App) -> None:
    with app._lock:
        pid = os.fork()
        if pid == 0:  # pragma: no cover - in the child
            os._exit(0 if app.store.engine.url == "memory://" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_closing_twice_is_safe_and_what_comes_after_is_told(app: App) -> None:
    @app.task
    def pack() -> None: ...

    pack.enqueue()
    app.close()
    app.close()

    with pytest.raises(StoreUnavailable, match="it was closed here"):
        pack.enqueue()


def test_an_app_that_was_never_used_can_be_closed_and_stays_so() -> None:
    app = App("memory://")

    @app.task
    def pack() -> None: ...

    app.close()
    with pytest.raises(StoreUnavailable, match="it was closed here"):
        pack.enqueue()


def test_a_handle_of_an_id_alone_asks_nothing_until_it_is_used(app: App) -> None:
    handle = app.handle("0190")

    assert (handle.id, repr(handle)) == ("0190", "<Handle 0190>")
    with pytest.raises(JobUnknown):
        _ = handle.state
    with pytest.raises(TypeError, match="id must be a string"):
        app.handle(7)  # type: ignore[arg-type]


def test_an_engine_is_found_by_the_scheme_of_its_url() -> None:
    assert type(connect("memory://")).__name__ == "MemoryEngine"
