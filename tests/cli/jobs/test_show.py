"""`penstock show`."""

from typing import Any

from penstock.cli.jobs import show
from penstock.cli.jobs.page import plain
from penstock.engines.requests import Cancel, Death, NewJob, Outcome, Pause, Put, Sweep
from tests.cli.jobs.desk import WORKER, Desk, error


def why(desk: Desk, id: str) -> list[str]:
    found: list[str] = desk.run("show", id, "--json").json["why"]
    return found


def test_the_beginning_of_an_id_is_enough_if_it_is_that_of_one_job(desk: Desk) -> None:
    desk.ask(Put([NewJob("0193aa", "resize"), NewJob("0193ab", "resize"), NewJob("0194", "resize")]))

    assert desk.run("show", "0194", "--json").json["id"] == "0194"
    assert desk.run("show", "0193ab", "--json").json["id"] == "0193ab"
    told = desk.run("show", "0193")
    assert (told.code, told.out) == (2, "")
    assert told.err == "penstock show: '0193' begins the ids of several jobs: 0193aa, 0193ab\n"


def test_a_whole_id_that_also_begins_another_is_itself(desk: Desk) -> None:
    desk.ask(Put([NewJob("a", "resize"), NewJob("ab", "resize")]))

    assert desk.run("show", "a", "--json").json["id"] == "a"


def test_the_beginning_of_an_id_may_be_any_text(desk: Desk) -> None:
    desk.ask(Put([NewJob("100%", "resize"), NewJob("1000", "resize"), NewJob("é\U0001f6b0", "resize")]))

    assert desk.run("show", "100%", "--json").json["id"] == "100%"
    assert desk.run("show", "é", "--json").json["id"] == "é\U0001f6b0"
    assert desk.run("show", "_").code == desk.run("show", "%").code == 1


def test_an_unknown_job_is_exit_code_1(desk: Desk) -> None:
    desk.put()

    for id in ("b", ""):
        told = desk.run("show", id)
        assert (told.code, told.out) == (1, "")
        assert told.err == f"penstock show: there is no job '{id}' (any more)\n"


def test_attempts_are_told_with_their_tracebacks_a_repeated_one_once(desk: Desk) -> None:
    desk.arrive()
    desk.put()
    for outcome in (Outcome.RETRY, Outcome.RETRY, Outcome.FAILED):
        (job,) = desk.claim()
        desk.now += 2
        desk.settle(job, outcome, error=error())

    told = desk.run("show", "a1").out

    assert told.count('File "/srv/shop/images.py", line 15, in resize') == 1
    assert "attempt 1: retry after 2.0 s" in told
    assert "attempt 2: retry after 2.0 s" in told
    assert told.count("ValueError: a.png is no picture, as the attempt before") == 2
    attempts = desk.run("show", "a1", "--json").json["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["retry", "retry", "failed"]
    assert all(attempt["error"]["traceback"].startswith("Traceback") for attempt in attempts)
    assert attempts[0]["worker"] == "1234567890abcdef"


def test_deaths_are_told_with_their_reason_once_though_they_used_no_attempt(desk: Desk) -> None:
    desk.arrive()
    desk.put()
    desk.claim()
    desk.ask(Sweep([Death(WORKER, "it was ended by SIGKILL")]))

    told = desk.run("show", "a1").out

    assert "crashes     1, of 3 that end it: deaths of a process that are laid to it" in told
    assert told.count("it was ended by SIGKILL") == 1


def test_arguments_headers_and_the_result_are_shown_as_json(desk: Desk) -> None:
    desk.arrive()
    desk.put(args=b'{"args":["a.png",200]}', headers=b'{"trace":"7"}')
    (job,) = desk.claim()
    desk.settle(job, Outcome.DONE, result=b'{"width":200}', ran=0.5)

    told = desk.run("show", "a1").out

    assert 'arguments\n  {"args": ["a.png", 200]}\n' in told
    assert 'headers\n  {"trace": "7"}\n' in told
    assert 'result\n  {"width": 200}\n' in told
    assert "ran 500 ms" in told


def test_stored_bytes_that_are_no_json_are_shown_as_they_are(desk: Desk) -> None:
    for number, args in enumerate([b"\xff{", b"NaN", b"1e999", b"[" * 10**5, b"9" * 5_000], start=1):
        desk.put(args=args)

        assert desk.run("show", f"a{number}").code == 0
        told = desk.run("show", f"a{number}", "--json").json
        assert told["args"] is None
        assert told["args_raw"] == args.decode(errors="backslashreplace")


def test_however_deeply_arguments_are_nested_they_are_shown(desk: Desk) -> None:
    for number, depth in enumerate((90, 950, 1_200, 9_950, 100_000), start=1):
        desk.put(args=b"[" * depth + b"]" * depth)

        assert desk.run("show", f"a{number}", "--json").code == 0
        assert desk.run("show", f"a{number}").code == 0


def test_a_terminal_is_given_the_first_lines_of_long_arguments(desk: Desk) -> None:
    desk.put(args=b"[" + b",".join([b"1"] * 1_000) + b"]")

    lines = list(plain(show.seen(show.told(desk.engine, "a1"), most=100)))

    assert len(lines) < 120
    assert "and 902 more lines" in lines[-1]


def test_it_says_why_a_job_waits(desk: Desk) -> None:
    desk.put("resize", queue="mail")
    desk.put("resize", delay=600)

    assert why(desk, "a1") == ["no worker is running"]
    desk.arrive(queues=["other"])
    assert why(desk, "a1") == ["no running worker serves queue mail and knows task resize"]
    desk.arrive(7, queues=["mail"], tasks=["send"])
    assert why(desk, "a1") == ["no running worker serves queue mail and knows task resize"]
    desk.arrive(8, queues=["mail"], tasks=["resize"])
    assert why(desk, "a1") == ["it waits for its turn: the first of its queue has waited for 0 ms"]
    desk.ask(Pause("mail"))
    assert why(desk, "a1") == ["its queue is paused: penstock resume mail"]
    assert why(desk, "a2")[0].startswith("it is scheduled at 2023-11-14 22:23:20 UTC, in 10 min")


def test_a_worker_whose_lease_ran_out_is_none(desk: Desk) -> None:
    desk.put()
    desk.arrive()
    desk.now += 31

    assert why(desk, "a1") == ["no worker is running"]


def test_a_job_that_is_to_be_tried_again_says_so(desk: Desk) -> None:
    desk.arrive()
    desk.put()
    (job,) = desk.claim()
    desk.settle(job, Outcome.RETRY, error=error(), delay=5)

    assert why(desk, "a1")[0].startswith("it is to be tried again at")
    desk.now += 6
    assert why(desk, "a1")[0] == "its time has come, but no worker has looked yet"


def test_a_suspect_says_that_it_runs_alone(desk: Desk) -> None:
    desk.arrive()
    desk.put(count=2)
    desk.claim(count=2)
    desk.ask(Sweep([Death(WORKER, "killed by signal 9")]))

    assert "it was there when a process died, and runs only when nothing else does" in why(desk, "a1")


def test_a_running_job_says_when_it_was_asked_to_end_or_its_worker_is_late(desk: Desk) -> None:
    desk.arrive()
    desk.put()
    desk.claim()
    assert why(desk, "a1") == []
    desk.ask(Cancel(["a1"], "not needed"))
    desk.now += 31

    assert why(desk, "a1") == [
        "it was asked to end (not needed), and has not ended yet",
        "its worker's lease ran out 1.0 s ago: another worker will take it back",
    ]


def test_nothing_from_the_store_reaches_the_terminal_as_a_command(desk: Desk) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold]\r"
    desk.arrive(host=evil, pid=evil, queues=[evil])
    desk.ask(Put([NewJob(f"a{evil}", evil, evil, args=f'["{evil}"]'.encode(), headers=f'"{evil}"'.encode())]))
    (job,) = desk.claim(evil)
    bad: Any = error(evil, f"{evil}\n{evil}", evil)._replace(traceback=evil)
    desk.settle(job, Outcome.RETRY, error=bad, delay=9)
    desk.ask(Cancel([job.id], evil))

    commands = [["show", "a"], ["jobs"], ["status"], ["failures", "-v"], ["retry", "a"], ["cancel", "a"]]
    commands += [["pause", evil], ["resume", evil], ["resume", f"{evil}x"]]
    for command in commands:
        told = desk.run(*command)
        text = (told.out + told.err).replace("\n", "")
        assert text.isprintable(), (command, told)
        assert "[bold]" in text  # and isn't taken for markup
