"""`penstock map` from end to end, in this process."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock.pool.coroutines
import penstock.pool.inner
import penstock.pool.processes  # noqa: F401 - all before the fixture that forgets what was imported meanwhile
from penstock.cli import main

CODE = """
import sys

seen = []

def double(x):
    print("double was called")
    return 2 * x

def pair(x, y=0):
    return [x, y]

def fussy(x):
    if x.startswith("bad"):
        raise ValueError(f"{x} is bad")
    return x

def moody(x):
    seen.append(x)
    if seen.count(x) < 3:
        raise OSError("not yet")
    return x

def ends(x):
    raise SystemExit(3)

def stamp(order):
    order["stamp"] = {order["n"]}
    if order["n"] == 2:
        raise ValueError("two")
    return order["n"]

async def later(x):
    import asyncio
    await asyncio.sleep(0)
    if x == "bad":
        raise ValueError(x)
    return [x, asyncio.current_task() is not None]

async def for_ever(x):
    import asyncio
    await asyncio.sleep(3600)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    path = tmp_path / "stall.py"
    path.write_text(CODE)
    return str(path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_standard_output_has_a_line_per_result_and_nothing_else(code: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["map", f"{code}:double", "a", "b", "--ordered"]) == 0

    told = capfd.readouterr()
    assert [line["result"] for line in lines_of(told.out)] == ["aa", "bb"]
    assert told.err.count("double was called") == 2
    assert "2 done, 0 failed" in told.err


def test_failures_are_grouped_at_the_end_with_their_inputs_and_the_exit_code_is_1(
    code: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", f"{code}:fussy", "a", "bad1", "b", "bad2", "--output", str(results)]) == 1

    told = capfd.readouterr()
    assert told.out == ""
    assert "2 done, 2 failed" in told.err
    assert "2 × ValueError: bad" in told.err
    assert "stall.py:15 in fussy" in told.err
    assert "line 2: bad1" in told.err
    assert "line 4: bad2" in told.err
    lines = {line["line"]: line for line in lines_of(results.read_text())}
    assert lines[2]["state"] == "failed"
    assert lines[2]["error"] == {"type": "ValueError", "message": "bad1 is bad"}
    assert lines[3]["result"] == "b"


def test_an_invalid_json_line_is_named_by_its_number_and_the_others_run(
    code: str, results: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inputs").write_text('1\n{"x":\n3\n')

    assert (
        main(["map", f"{code}:double", "--from", f"{tmp_path}/inputs", "--jsonl", "-o", str(results), "--ordered"]) == 1
    )

    assert "  line 2: invalid JSON: Expecting value at column 6" in capfd.readouterr().err
    assert [line.get("result") for line in lines_of(results.read_text())] == [2, None, 6]
    assert [line["state"] for line in lines_of(results.read_text())] == ["done", "invalid", "done"]


def test_a_job_may_change_its_input_which_is_written_as_it_was_read(
    code: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = ['{"n": 1}', '{"n": 2}', '{"n": 3}']

    assert main(["map", f"{code}:stamp", "--jsonl", "--ordered", "-o", str(results), *inputs]) == 1

    assert [line["input"] for line in lines_of(results.read_text())] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert 'line 2: {"n": 2}' in capfd.readouterr().err


@pytest.mark.parametrize("hears", ["nobody", "a full disk"])
def test_a_run_goes_on_though_nobody_can_be_told_how_it_goes(
    hears: str, code: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", None if hears == "nobody" else full)

        assert main(["map", f"{code}:double", "a", "b", "-o", str(results), "--ordered"]) == 0

        with contextlib.suppress(OSError):
            full.close()
    assert [line["result"] for line in lines_of(results.read_text())] == ["aa", "bb"]


def test_star_spreads_lists_and_objects(code: str, results: Path) -> None:
    inputs = ["[1, 2]", '{"y": 3, "x": 4}', "5"]

    assert main(["map", f"{code}:pair", "--jsonl", "--star", "--ordered", "-o", str(results), *inputs]) == 0

    assert [line["result"] for line in lines_of(results.read_text())] == [[1, 2], [4, 3], [5, 0]]


def test_retry_counts_the_first_attempt(code: str, results: Path) -> None:
    assert main(["map", f"{code}:moody", "a", "--retry", "3", "-o", str(results)]) == 0
    assert [line["attempt"] for line in lines_of(results.read_text())] == [3]

    assert main(["map", f"{code}:moody", "b", "--retry", "2", "-o", str(results), "--append"]) == 1
    assert [line["state"] for line in lines_of(results.read_text())] == ["done", "failed"]


def test_a_job_that_raises_system_exit_ends_itself_only(code: str, results: Path) -> None:
    assert main(["map", f"{code}:ends", "a", "b", "-o", str(results)]) == 1

    assert [line["error"]["type"] for line in lines_of(results.read_text())] == ["SystemExit", "SystemExit"]


def test_ordered_results_stand_in_the_order_of_the_inputs_however_jobs_end(results: Path) -> None:
    numbers = [str(number) for number in range(3000)]  # more than may be held back

    assert main(["map", "builtins:int", "--ordered", "--workers", "4", "-o", str(results), *numbers]) == 0

    assert [line["result"] for line in lines_of(results.read_text())] == list(range(3000))


def test_a_retried_job_does_not_lose_its_place_in_the_order(code: str, results: Path) -> None:
    assert main(["map", f"{code}:moody", "a", "b", "--retry", "3", "--ordered", "-w", "1", "-o", str(results)]) == 0

    assert [line["result"] for line in lines_of(results.read_text())] == ["a", "b"]


def test_no_inputs_are_no_failure(code: str, results: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("\n\n")

    assert main(["map", f"{code}:double", "--from", f"{tmp_path}/inputs", "-o", str(results)]) == 0

    assert results.read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["zlib:crc23", "a"], "did you mean 'crc32'"),
        (["nowhere.py:f", "a"], "no file 'nowhere.py'"),
        (["builtins:str", "--from", "no-such-file"], "No such file or directory"),
        (["builtins:str", "a", "--workers", "0"], "'--workers'"),
        (["builtins:str", "a", "--backlog", "-3"], "'--backlog'"),
        (["builtins:str", "a", "--timeout", "nan"], "'--timeout'"),
        (["builtins:str", "a", "--timeout", "0"], "'--timeout'"),
        (["builtins:str", "a", "--timeout", "soon"], "'soon' is not a number of seconds"),
        (["builtins:str", "a", "--grace", "-1"], "'--grace'"),
        (["builtins:str", "a", "--grace", "inf"], "finite"),
        (["builtins:str", "a", "--retry", "0"], "'--retry'"),
        (["builtins:str", "a", "--star"], "--star needs --jsonl"),
        (["builtins:str", "a", "--force"], "need --output FILE"),
        (["builtins:str", "a", "--output", "no/such/folder"], "can't write results to 'no/such/folder'"),
        (["builtins:str", "a", "--faster"], "--faster"),
        ([], "FUNCTION"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", *arguments]) == 2

    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("penstock map: ")
    assert told.err.count("\n") == 1
    assert said in told.err


def test_a_mistake_elsewhere_does_not_cost_the_results_that_are_there(code: str, results: Path) -> None:
    results.write_text("dear\n")

    assert main(["map", f"{code}:no_such", "a", "--force", "-o", str(results)]) == 2
    assert main(["map", f"{code}:double", "--from", "no-such-file", "--force", "-o", str(results)]) == 2

    assert results.read_text() == "dear\n"


def test_help_shows_an_example_and_the_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "--help"]) == 0

    told = capfd.readouterr().out
    assert "penstock map digest.py:digest *.py" in told
    assert "Exit code: 0" in told


def test_processes_run_the_function_elsewhere_and_one_that_dies_costs_one_job(
    tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "berth.py"
    file.write_text("import os\ndef where(x):\n    if x == 'dies':\n        os._exit(3)\n    return [os.getpid(), x]\n")
    inputs = ["a", "b", "dies", "c"]

    assert main(["map", f"{file}:where", "--processes", "2", "-o", str(results), *inputs]) == 1

    lines = {line["input"]: line for line in lines_of(results.read_text())}
    assert {lines[name]["result"][1] for name in "abc"} == set("abc")
    assert os.getpid() not in {lines[name]["result"][0] for name in "abc"}
    assert lines["dies"]["error"]["type"] == "WorkerDied"
    assert "exited with code 3" in lines["dies"]["error"]["message"]
    assert "3 done, 1 failed" in capfd.readouterr().err


def test_where_a_worker_stood_when_it_crashed_has_a_line_of_the_summary(
    tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reef.py"
    file.write_text("import ctypes\ndef sink(x):\n    ctypes.string_at(0)\n")

    assert main(["map", f"{file}:sink", "--processes", "1", "-o", str(results), "a"]) == 1

    told = capfd.readouterr().err
    assert "1 × WorkerDied: job 1 (sink): its worker process was ended by SIGSEGV\n" in told
    assert "at reef.py:3 in sink\n" in told


def test_star_spreads_in_other_processes_too(code: str, results: Path) -> None:
    assert main(["map", f"{code}:pair", "--processes", "1", "--jsonl", "--star", "-o", str(results), "[1, 2]"]) == 0
    assert [line["result"] for line in lines_of(results.read_text())] == [[1, 2]]


def test_two_kinds_at_once_are_refused(code: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["map", f"{code}:double", "a", "--threads", "2", "--processes", "2"]) == 2
    assert "give one of --workers, --threads, --processes and --asyncio" in capfd.readouterr().err


def test_asyncio_runs_a_coroutine_function_on_a_loop(
    code: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = ["a", "b", "bad", "c"]
    assert main(["map", f"{code}:later", "--asyncio", "2", "--ordered", "-o", str(results), *inputs]) == 1

    lines = lines_of(results.read_text())
    assert [line.get("result") for line in lines] == [["a", True], ["b", True], None, ["c", True]]
    assert lines[2]["error"] == {"type": "ValueError", "message": "bad"}
    assert "3 done, 1 failed" in capfd.readouterr().err


def test_a_coroutine_that_takes_too_long_fails_at_its_deadline(code: str, results: Path) -> None:
    assert main(["map", f"{code}:for_ever", "a", "--asyncio", "1", "--timeout", "0.1", "-o", str(results)]) == 1
    assert [line["error"]["type"] for line in lines_of(results.read_text())] == ["DeadlineExceeded"]


@pytest.mark.parametrize(
    ("function", "options", "hint"),
    [("double", ["--asyncio", "2"], "use --threads or --processes"), ("later", [], "run it with --asyncio N")],
)
def test_a_function_of_the_other_sort_is_refused_with_what_to_use(
    code: str, function: str, options: list[str], hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", f"{code}:{function}", "a", *options]) == 2
    assert hint in capfd.readouterr().err
