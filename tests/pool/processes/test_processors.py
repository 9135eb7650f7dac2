"""How many processors a pool believes it may use, and what it tells its workers' libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock import ProcessPool
from penstock.pool.processes import processors
from penstock.pool.processes.processors import THREAD_LIMITS, cpu_count, quota
from tests.gates import GUARD
from tests.pool.script import running


def groups(folder: Path, files: dict[str, str], own: str = "0::/\n") -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("files", "own", "granted"),
    [
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"a/b/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5),
        ({"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 2.0),
        ({"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "400000 100000\n"}, "0::/a/b\n", 2.0),
        ({"other/cpu.max": "50000 100000\n"}, "0::/a/b\n", None),
        ({"cpu.max": "50000 100000\n"}, "0::/../outside\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", None),
        ({"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, "1:cpu,cpuacct:/a\n", 3.0),
        ({"memory/a/cpu.max": "50000 100000\n"}, "4:memory:/a\n0::/\n", None),
        ({"cpu.max": "nonsense\n"}, "nonsense:\n", None),
    ],
)
def test_the_least_quota_of_all_groups_counts(
    tmp_path: Path, files: dict[str, str], own: str, granted: float | None
) -> None:
    assert quota(*groups(tmp_path, files, own)) == granted


@pytest.mark.parametrize(("granted", "count"), [(None, 7), (0.2, 1), (1.0, 1), (1.5, 2), (6.5, 7), (20.0, 7)])
def test_the_count_is_the_least_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, granted: float | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    monkeypatch.setattr(processors, "quota", lambda: granted)

    assert cpu_count() == count


def limits() -> list[str | None]:
    return [os.environ.get(name) for name in THREAD_LIMITS]


@pytest.fixture
def _ours_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_ours_is_empty")
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_workers_share_the_processors_among_the_threads_of_their_libraries(
    monkeypatch: pytest.MonkeyPatch, start_method: str
) -> None:
    monkeypatch.setattr("penstock.pool.processes.dispatcher.cpu_count", lambda: 8)
    with ProcessPool(2, start_method=start_method) as pool:
        assert pool.submit(limits).result(GUARD) == ["4"] * len(THREAD_LIMITS)


@pytest.mark.usefixtures("_ours_is_empty")
def test_a_limit_that_is_set_here_holds_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with ProcessPool(100) as pool:
        assert pool.submit(limits).result(GUARD) == ["3"] + ["1"] * (len(THREAD_LIMITS) - 1)


@pytest.mark.usefixtures("_ours_is_empty")
def test_others_who_fork_from_the_same_server_find_nothing_set(tmp_path: Path) -> None:
    code = """
        import multiprocessing

        def look():
            say([name for name in os.environ if name.endswith("_THREADS")])

        if __name__ == "__main__":
            ProcessPool(1).start().shutdown()
            other = multiprocessing.get_context("forkserver").Process(target=look)
            other.start()
            other.join()
        """
    with running(tmp_path, code) as script:
        script.expect("[]")
        assert script.end() == 0
