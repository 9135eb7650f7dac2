"""`penstock retry`, `cancel`, `pause`, `resume` and `prune`."""

import sys
from pathlib import Path

import click
import pytest

from penstock.cli import main
from penstock.cli.jobs import prune
from penstock.engines.requests import NewJob, Outcome, Put, Settle
from tests.cli.jobs.desk import Desk, error


def test_retry_takes_ids_or_what_they_begin_with(desk: Desk) -> None:
    desk.arrive()
    desk.ask(Put([NewJob("0193aa", "resize"), NewJob("0193ab", "resize")]))
    for job in desk.claim(count=2):
        desk.settle(job, Outcome.FAILED, error=error())

    told = desk.run("retry", "0193aa", "0193a", "--json")
    assert told.code == 2
    assert "begins the ids of several jobs" in told.err
    assert desk.state("0193aa") == "failed"  # nothing is done while something is unclear

    told = desk.run("retry", "0193ab", "0193aa")
    assert (told.code, told.out) == (0, "2 jobs will run again\n")
    assert desk.state("0193ab") == "ready"


def test_retry_says_of_each_id_why_it_is_not(desk: Desk) -> None:
    desk.arrive()
    (failed,) = desk.end(Outcome.FAILED, error=error())
    (done,) = desk.end(Outcome.DONE)
    (waits,) = desk.put()

    told = desk.run("retry", failed, done, waits, "nope")

    assert (told.code, told.out) == (1, "1 job will run again\n")
    assert told.err.splitlines() == [
        f"penstock retry: not {done}: it is done; --state done runs it again",
        f"penstock retry: not {waits}: it is ready, and has not ended",
        "penstock retry: not nope: there is no such job (any more)",
    ]
    assert desk.state(done) == "done"
    assert desk.run("retry", done, "--state", "done", "--json").json == {"retried": 1, "refused": []}
    assert desk.state(done) == "ready"


def test_retry_of_a_kind_leaves_others_alone(desk: Desk) -> None:
    desk.arrive()
    kind = desk.end(Outcome.FAILED, count=3, error=error())
    (other,) = desk.end(Outcome.FAILED, error=error("Other", print="p2"))

    assert desk.run("retry", "--error", "ValueError", "--json").json["retried"] == 3
    assert {desk.state(id) for id in kind} == {"ready"}
    assert desk.state(other) == "failed"
    told = desk.run("retry", "--error", "ValueError")
    assert (told.code, told.err) == (1, "penstock retry: no failed jobs like that\n")


def test_retry_of_all_takes_those_of_the_states_alone(desk: Desk) -> None:
    desk.arrive()
    (failed,) = desk.end(Outcome.FAILED, error=error())
    (cancelled,) = desk.end(Outcome.CANCELLED)
    (done,) = desk.end(Outcome.DONE)

    assert desk.run("retry", "--all", "--state", "cancelled", "--state", "done", "--json").json["retried"] == 2
    assert [desk.state(id) for id in (failed, cancelled, done)] == ["failed", "ready", "ready"]


def test_a_job_that_fails_again_at_once_is_not_taken_for_another(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.arrive()
    ids = desk.end(Outcome.FAILED, count=450, error=error())
    ask = desk.engine.transact
    ran: list[str] = []

    def transact(requests: list[object]) -> list[object]:
        replies = ask(requests)  # type: ignore[arg-type]
        if not isinstance(requests[0], Settle):
            for job in desk.claim(count=1_000):
                ran.append(job.id)
                desk.settle(job, Outcome.FAILED, error=error())
        return replies  # type: ignore[return-value]

    monkeypatch.setattr("penstock.cli.jobs.again.do", lambda engine, request: transact([request])[0])

    assert desk.run("retry", "--all", "--json").json["retried"] == 450
    assert sorted(ran) == sorted(ids)


@pytest.mark.parametrize(("answer", "code", "retried"), [("y\n", 0, True), ("n\n", 1, False)])
def test_before_more_than_a_hundred_a_person_is_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, retried: bool
) -> None:
    desk.arrive()
    ids = desk.end(Outcome.FAILED, count=101, error=error())
    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        asked.append(question)
        return answer == "y\n"

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    assert desk.run("retry", "--all").code == code
    assert asked == ["Run 101 jobs again?"]
    assert (desk.state(ids[0]) == "ready") is retried


def test_a_hundred_or_a_script_or_yes_are_not_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.arrive()
    monkeypatch.setattr(click, "confirm", lambda *_, **__: pytest.fail("it asked"))
    desk.end(Outcome.FAILED, count=101, error=error())
    assert desk.run("retry", "--all").code == 0  # nobody sits there

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for job in desk.claim(count=101):
        desk.settle(job, Outcome.FAILED, error=error())
    assert desk.run("retry", "--all", "--yes").code == 0
    desk.end(Outcome.FAILED, "other", count=100, error=error())
    assert desk.run("retry", "--all").code == 0


@pytest.mark.parametrize("arguments", [[], ["a1", "--all"], ["--all", "--error", "x"]])
def test_retry_wants_one_of_ids_an_error_and_all(desk: Desk, arguments: list[str]) -> None:
    told = desk.run("retry", *arguments)

    assert (told.code, told.err) == (2, "penstock retry: give IDs, --error KIND or --all\n")


def test_cancel_says_what_it_did_to_each(desk: Desk) -> None:
    desk.arrive()
    (done,) = desk.end(Outcome.DONE)
    (runs,) = desk.put("runs")
    desk.claim("runs")
    (waits,) = desk.put()

    told = desk.run("cancel", waits, runs, "--reason", "not needed", "--json")
    assert told.code == 0
    assert told.json == {"jobs": [{"id": waits, "outcome": "cancelled"}, {"id": runs, "outcome": "asked"}]}
    assert desk.record(waits).reason == "not needed"
    assert desk.record(runs).cancelling

    told = desk.run("cancel", done, runs, "nope")
    assert told.code == 1
    assert [line.split(maxsplit=1) for line in told.out.splitlines()[1:]] == [
        [done, "too late: it has ended"],
        [runs, "asked to end: it runs, and its worker will hear of it"],
        ["nope", "there is no such job (any more)"],
    ]


@pytest.mark.parametrize("command", [["cancel", "\udcff"], ["cancel", "a", "--reason", "\udcff"], ["pause", "\udcff"]])
def test_what_is_no_text_is_refused(desk: Desk, command: list[str]) -> None:
    """Bytes of a command line that are no UTF-8 come as halves of pairs."""
    told = desk.run(*command)

    assert told.code == 2
    assert "must be Unicode" in told.err.splitlines()[-1]


def test_a_queue_is_paused_and_goes_on(desk: Desk) -> None:
    desk.arrive()
    desk.put(queue="mail")

    assert desk.run("pause", "mail").out == "queue mail is paused\n"
    assert desk.run("pause", "mail").out == "queue mail was paused already\n"
    assert desk.claim() == []
    assert desk.run("resume", "mail", "--json").json == {"queue": "mail", "paused": False, "changed": True}
    assert desk.run("resume", "mail").out == "queue mail was not paused\n"
    assert len(desk.claim()) == 1


def test_a_queue_that_nobody_knows_is_paused_with_a_remark_and_not_resumed(desk: Desk) -> None:
    desk.put(queue="mail")

    told = desk.run("pause", "mial")
    assert (told.code, told.out) == (0, "queue mial is paused\n")
    assert told.err == "penstock pause: there has been no job in queue mial yet; did you mean mail?\n"
    told = desk.run("resume", "maill")
    assert (told.code, told.out) == (1, "")
    assert told.err == "penstock resume: there is no queue maill; did you mean mail?\n"


def test_prune_forgets_what_ended_longer_ago_than_it_is_told(desk: Desk) -> None:
    desk.arrive(lease=10**7)
    (done,) = desk.end(Outcome.DONE)
    (failed,) = desk.end(Outcome.FAILED, error=error())
    desk.now += 25 * 3600

    assert desk.run("prune", "--done", "26h").out == "0 jobs forgotten\n"
    assert desk.run("prune").out == "1 job forgotten\n"
    assert desk.state(failed) == "failed"
    assert desk.run("show", done).code == 1
    assert desk.run("prune", "--failed", "1d", "--json").json == {"pruned": 1}


def test_prune_with_an_app_goes_by_what_it_keeps(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.arrive(lease=10**7)
    desk.end(Outcome.DONE)
    desk.now += 60
    (tmp_path / "app_that_keeps.py").write_text(f"import penstock\napp = penstock.App({desk.url!r}, keep=59)\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert desk.run("prune").out == "0 jobs forgotten\n"
    assert main(["prune", "--app", "app_that_keeps:app", "--done", "2m"]) == 0
    assert main(["prune", "--app", "app_that_keeps:app"]) == 0
    assert capsys.readouterr().out == "0 jobs forgotten\n1 job forgotten\n"


def test_prune_goes_on_in_batches_until_there_is_no_more(desk: Desk) -> None:
    desk.arrive(lease=10**7)
    desk.end(Outcome.DONE, count=25)
    desk.end(Outcome.FAILED, count=8, error=error())
    desk.now += 3600

    assert list(prune.batches(desk.engine, 60, 60, size=10)) == [18, 10, 5]


def test_prune_refuses_what_is_no_length_of_time(desk: Desk) -> None:
    told = desk.run("prune", "--done", "soon")

    assert told.code == 2
    assert "'soon' is no length of time: write 30s, 15m, 24h or 7d" in told.err
