"""Which store a command is about."""

import pytest

from penstock.cli import main
from penstock.engines.memory import MemoryEngine
from penstock.engines.records import Query
from penstock.errors import StoreInvalid, StoreUnavailable
from tests.cli.jobs.desk import Desk

Captured = pytest.CaptureFixture[str]


def test_without_a_store_both_ways_are_said(in_memory: Desk, capsys: Captured) -> None:
    for command in (["status"], ["jobs"], ["show", "a"], ["retry", "--all"], ["pause", "q"], ["prune"], ["check"]):
        assert main(command) == 2
        assert capsys.readouterr().err == (
            f"penstock {command[0]}: which store? Give --store URL (or set PENSTOCK_STORE), "
            "or --app module:app (or set PENSTOCK_APP)\n"
        )


def test_the_environment_names_a_store_and_what_is_typed_goes_before_it(
    in_memory: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_STORE", "sqlite:///of-the-environment.db")
    monkeypatch.setenv("PENSTOCK_APP", "nowhere:app")

    main(["status"])
    main(["status", "--store", "sqlite:///typed.db"])
    assert in_memory.connected == ["sqlite:///of-the-environment.db", "sqlite:///typed.db"]
    assert main(["status", "--app", "missing:app"]) == 2


def test_a_store_and_an_app_are_too_much(in_memory: Desk, capsys: Captured) -> None:
    assert main(["status", "--store", "sqlite:///a.db", "--app", "shop:app"]) == 2
    assert capsys.readouterr().err == "penstock status: give one of --store and --app\n"


def test_an_app_that_is_given_as_to_penstock_work_is_told_its_place(in_memory: Desk, capsys: Captured) -> None:
    for command in ("status", "jobs", "failures", "check"):
        assert main([command, "shop:app"]) == 2
        assert capsys.readouterr().err == (
            f"penstock {command}: Got unexpected extra argument (shop:app); "
            "the app goes behind --app, as in --app module:app\n"
        )


def test_an_unreachable_store_is_exit_code_3_and_one_sentence(
    in_memory: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for error in (
        StoreUnavailable("sqlite:///a.db", "it is \x1blocked"),
        StoreInvalid("sqlite:///a.db", "it is a picture"),
    ):

        def find(query: Query[object], within: float = 10.0, error: Exception = error) -> object:
            raise error

        monkeypatch.setattr(in_memory.engine, "find", find)
        assert main(["jobs", "--store", "sqlite:///a.db"]) == 3
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        assert line.isprintable()
        assert line.startswith("penstock jobs: ")


def test_the_engine_is_closed_whatever_happens(in_memory: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(MemoryEngine, "close", lambda self: closed.append(True))

    in_memory.run("status")
    in_memory.run("show", "nope")

    assert closed == [True, True]


def test_a_url_of_no_engine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert main(["status", "--store", "ftp://host/db"]) == 2
    assert "names no store" in capsys.readouterr().err


def test_check_tells_complaints_with_exit_code_1(in_memory: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory.run("check").out == "all is well\n"
    assert in_memory.run("check", "--json").json == {"complaints": []}
    monkeypatch.setattr(in_memory.engine, "find", lambda query, within: ["job a1 is \x1bgone"])

    told = in_memory.run("check")

    assert (told.code, told.out) == (1, "job a1 is \\x1bgone\n")
    assert in_memory.run("check", "--json").json == {"complaints": ["job a1 is \x1bgone"]}


def test_a_store_in_the_memory_of_this_process_is_refused(capsys: Captured) -> None:
    assert main(["status", "--store", "memory://"]) == 2
    assert capsys.readouterr().err.startswith("penstock status: memory:// is within one process")
