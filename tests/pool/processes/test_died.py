"""What is said of a worker that died."""

from __future__ import annotations

import pickle

import pytest

from penstock import WorkerDied
from penstock.pool.processes.died import how_it_ended


@pytest.mark.parametrize(
    ("exitcode", "oom", "said"),
    [
        (None, False, "was lost"),
        (0, False, "exited with code 0"),
        (3, False, "exited with code 3"),
        (-11, False, "was ended by SIGSEGV"),
        (-9, True, "was ended by SIGKILL, likely for lack of memory"),
        (-99, False, "was ended by signal 99"),
    ],
)
def test_an_exit_code_is_told_in_words(exitcode: int | None, oom: bool, said: str) -> None:
    assert how_it_ended(exitcode, oom=oom) == said


def test_the_error_says_what_is_known_and_can_cross_itself() -> None:
    died = WorkerDied("job 7 (resize)", -9, oom=True, traceback="in resize\n")

    copy = pickle.loads(pickle.dumps(died))

    assert (copy.job, copy.exitcode, copy.oom, copy.traceback) == ("job 7 (resize)", -9, True, "in resize\n")
    said = "job 7 (resize): its worker process was ended by SIGKILL, likely for lack of memory; it stood at:\nin resize"
    assert str(copy) == str(died) == said
