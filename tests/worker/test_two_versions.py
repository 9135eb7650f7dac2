"""A fleet is never updated all at once: the code of the commit before and this one work on one database.

The older code comes out of git. Where there is no history (a clone of one commit, an unpacked archive), there is
nothing to test with.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.engines.records import Complaints, Counts, States
from penstock.job import JobState
from tests.gates import GUARD
from tests.postgres import Postgres
from tests.worker.chaos import ENQUEUER
from tests.worker.service import House, house, of_version, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(__file__).parents[2]
JOBS = 200


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A checkout of the commit before: of us, and of the tasks that it knows."""
    packed, folder = tmp_path / "older.tar", tmp_path / "older"
    packing: list[str | Path] = [
        "git",
        "-C",
        ROOT,
        "archive",
        "--output",
        packed,
        "HEAD~1",
        "src/penstock",
        "tests/worker",
    ]
    try:
        subprocess.run(packing, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no commit before this one in this checkout")
    folder.mkdir()
    subprocess.run(["tar", "-xf", packed, "-C", folder], check=True, timeout=60)
    if not (folder / "src/penstock/engines/postgres").exists():
        pytest.skip("the commit before has no engine for PostgreSQL")
    asked = [sys.executable, "-c", "import penstock; print(penstock.__file__)"]
    where = subprocess.run(asked, cwd=tmp_path, env=of_version(folder), capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(folder)), "it would test this version alone"
    return folder


@pytest.fixture
def home(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("DUTY_PACE", "0.01")
    with house(tmp_path, monkeypatch, postgres.fresh_url()) as made:
        yield made


@pytest.mark.parametrize("first", ["older", "newer"])
def test_the_version_before_and_this_one_share_a_database(home: House, older: Path, first: str) -> None:
    versions = {"older": older, "newer": None}
    order = [first, *(versions.keys() - {first})]
    works = {name: home.work("--processes", "1", "--threads", "2", other=versions[name]) for name in order}
    told = {name: service.children() for name, service in works.items()}
    enqueuers = []
    for name in order:
        enqueuer = older / "tests/worker/enqueuer.py" if name == "older" else ENQUEUER
        command = [sys.executable, str(enqueuer), name, str(JOBS)]
        enqueuers.append(subprocess.Popen(command, cwd=home.folder, env=of_version(versions[name])))
    for process in enqueuers:
        assert process.wait(6 * GUARD) == 0
    acked = [id for file in home.folder.glob("acked-*") for id in file.read_text().split()]
    store = home.app.store
    until(lambda: set(store.find(States(acked))) == {JobState.DONE}, 6 * GUARD)

    runs = home.marks("runs")
    assert len(runs) == len(acked) == 2 * JOBS, "each ran once"
    by = {name: sum(int(pid) in told[name] for *_, pid in runs) for name in order}
    assert all(by.values()), f"both work: {by}"
    assert store.find(Complaints()) == []
    assert sum(count.jobs for count in store.find(Counts())) == 2 * JOBS
    assert [service.stop() for service in works.values()] == [0, 0]
