"""Penstock in six acts, in under 40 seconds. Every number is measured while you watch.

python examples/demo.py
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock import Handle, ProcessPool, Report, ThreadPool, WorkerDied, current_context, current_job

HERE = Path(__file__).parent
FILES = 1500  # of the Python installation, at most
PATIENCE = 20.0  # seconds that anything here may take before we call the demo broken


@dataclass(frozen=True)
class Account:
    """What became of the jobs of one act."""

    act: str
    accepted: int
    done: int
    failed: int
    cancelled: int
    killed: int
    abandoned: int


ENDINGS = ("done", "failed", "cancelled", "killed", "abandoned")


def account(act: str, report: Report) -> Account:
    return Account(act, report.accepted, *(getattr(report, key) for key in ENDINGS))


def main() -> None:
    accounts = [the_blueprint(), *real_files(), the_hung_job(), the_killed_worker(), the_killed_service()]
    the_accounts(accounts)


# --- act 1 ------------------------------------------------------------------------------------------------------------


def the_blueprint() -> Account:
    title("1. A worker pool: 3 workers, 5 jobs of half a second")
    pool = ThreadPool(3, "worker", name="blueprint")
    for number in range(1, 6):
        pool.submit(process, number)
    pool.close()  # no new jobs; the five still run
    say("Closed. Waiting for at most 5 seconds ...")
    report = pool.wait(timeout=5)
    say(f"Shutdown complete: {report}")
    return account("1  blueprint", report)


def process(number: int) -> None:
    job = current_job()
    assert job is not None
    worker = int((job.worker or "").rpartition("_")[2]) + 1  # worker_0 is the first
    say(f"Worker {worker} started job {number}")
    current_context().sleep(0.5)  # as time.sleep, but a stop would wake it
    say(f"Worker {worker} finished job {number}")


# --- act 2 ------------------------------------------------------------------------------------------------------------


def real_files() -> list[Account]:
    """`penstock map` over the files of this Python, and three inputs that can't go well."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [str(path) for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts][:FILES]
    title(f"2. The same pool on real input: {len(files)} files of {library}, and three bad ones")
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        missing, unreadable, endless = (Path(folder) / name for name in ("missing.py", "folder.py", "endless.py"))
        unreadable.mkdir()
        os.mkfifo(endless)  # nobody ever writes to it: whoever reads it waits for ever
        for place, planted in ((100, missing), (200, unreadable), (300, endless)):
            files.insert(place, str(planted))
        inputs, results = Path(folder) / "inputs.txt", Path(folder) / "results.jsonl"
        inputs.write_text("".join(f"{path}\n" for path in files))

        say("$ penstock map digest.py:digest --from inputs.txt --workers 4 --timeout 1 --output results.jsonl")
        command = [sys.executable, "-m", "penstock", "map", f"{HERE / 'digest.py'}:digest"]
        command += ["--from", str(inputs), "--workers", "4", "--timeout", "1", "--output", str(results)]
        code = subprocess.run(command, stderr=None if sys.stderr.isatty() else sys.stdout, timeout=PATIENCE).returncode
        lines = [json.loads(line) for line in results.read_text().splitlines()]
    say(f"Exit code {code}. results.jsonl has a line for each job, for example:")
    say(f"  {json.dumps(next(line for line in lines if line['state'] == 'done'))}")
    say(f"  {json.dumps(next(line for line in lines if line['state'] == 'failed'))}")
    read, kept = (sum(line["result"][key] for line in lines if "result" in line) for key in ("bytes", "compressed"))
    say(f"Read and hashed {read / 1e6:.1f} MB, which compress to {kept / 1e6:.1f} MB.")
    states = Counter(line["state"] for line in lines)
    return [Account("2  real files", len(lines), *(states[key] for key in ENDINGS))]


# --- act 3 ------------------------------------------------------------------------------------------------------------

OURS = """
import dataclasses, json, sys, time
from penstock import ThreadPool, graceful

def hung():
    while True:
        time.sleep(60)

pool = ThreadPool(1, name="ours")
with graceful(pool, timeout=2) as shutdown:
    with pool:
        pool.submit(hung)
        for _ in range(5):
            pool.submit(print, "never printed")
        print("ready", flush=True)
print(json.dumps(dataclasses.asdict(pool.report) | {"line": str(pool.report)}))
sys.exit(shutdown.exit_code)
"""

THEIRS = """
import signal, time
from concurrent.futures import ThreadPoolExecutor

def hung():
    while True:
        time.sleep(60)

with ThreadPoolExecutor(1) as pool:
    signal.signal(signal.SIGTERM, lambda *_: pool.shutdown(wait=False, cancel_futures=True))
    pool.submit(hung)
    for _ in range(5):
        pool.submit(print, "never printed")
    print("ready", flush=True)
"""


def the_hung_job() -> Account:
    title("3. SIGTERM while one job hangs for ever and five wait for it; there are 2 seconds to stop")
    with script("ours.py", OURS) as ours, script("theirs.py", THEIRS) as theirs:
        for child in (ours, theirs):
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        began = time.monotonic()
        ours.send_signal(signal.SIGTERM)
        theirs.send_signal(signal.SIGTERM)
        told, _ = ours.communicate(timeout=PATIENCE)
        say(f"penstock: out after {time.monotonic() - began:.2f} s, exit code {ours.returncode}, and it says:")
        report = json.loads(told)
        say(f"  {report['line']}")
        for stuck in report["stuck"]:
            say(f"  {stuck['outcome']}: {stuck['name']}, for {stuck['ran']:.1f} s on {stuck['worker']}, stands at:")
            say("    " + stuck["stack"].rstrip().replace("\n", "\n    "))
        with contextlib.suppress(subprocess.TimeoutExpired):
            theirs.wait(timeout=4.0 - (time.monotonic() - began))
        waited = time.monotonic() - began
        fate = "still hanging; we kill it now" if theirs.poll() is None else f"out, exit code {theirs.returncode}"
        say(
            f"concurrent.futures.ThreadPoolExecutor, told to shut down by the same signal: after {waited:.2f} s {fate}."
        )
    return Account("3  hung job", *(report[key] for key in ("accepted", *ENDINGS)))


@contextlib.contextmanager
def script(name: str, source: str) -> Iterator[subprocess.Popen[str]]:
    """A child Python that runs *source*, and that does not outlive the block."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        file = Path(folder) / name
        file.write_text(source.lstrip())
        command = [sys.executable, str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            try:
                yield child
            finally:
                child.kill()


# --- act 4 ------------------------------------------------------------------------------------------------------------

JOBS = 40


def the_killed_worker() -> Account:
    title(f"4. Processes: {JOBS} jobs on 2 workers, and in the middle we kill -9 one of the workers")
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        pids = Path(folder) / "pids"
        os.mkfifo(pids)  # whoever reads it waits until the job in the middle has written its process' number
        with ProcessPool(2, name="processes", unobserved="ignore") as pool:
            jobs = [pool.submit(compute, number, str(pids)) for number in range(JOBS)]
            pid = int(pids.read_text())
            os.kill(pid, signal.SIGKILL)
            say(f"Killed process {pid}, which ran a job. What became of all of them:")
            for job in jobs:
                try:
                    job.result()
                except WorkerDied as died:
                    say(f"  {died}")
            went_well = sum(job.exception() is None for job in jobs)
            say(f"  and {went_well} gave their result, on the other worker or on a new one.")
    return account("4  processes", pool.report)


def compute(number: int, pids: str) -> int:
    if number == JOBS // 2:
        Path(pids).write_text(str(os.getpid()))
        time.sleep(PATIENCE)  # and is killed meanwhile
    return sum(n * n for n in range(100_000))


# --- act 5 ------------------------------------------------------------------------------------------------------------

TASKS = """
import lzma, os
from penstock import App, current_job

app = App("sqlite:///jobs.db")

@app.task
def pack(path: str) -> int:
    note("begins", path)
    with open(path, "rb") as file:
        size = len(lzma.compress(file.read()))
    note("ends", path)
    return size

def note(word: str, path: str) -> None:
    with open("journal", "ab", buffering=0) as file:
        file.write(f"{word} {os.getpid()} {current_job().token} {path}\\n".encode())
"""


def the_killed_service() -> Account:
    title("5. Durable jobs: many files to pack, and in the middle we kill -9 the whole worker service")
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    files = [str(path) for path in sources if 20_000 < path.stat().st_size < 120_000][:120]
    before, after = files[:-30], files[-30:]
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, contextlib.chdir(folder):
        Path("tasks.py").write_text(TASKS.lstrip())
        say("tasks.py:\n  | " + TASKS.strip().replace("\n", "\n  | "))
        sys.path.insert(0, folder)
        tasks = importlib.import_module("tasks")
        with tasks.app:
            began = time.monotonic()
            jobs = tasks.pack.enqueue_many([(path,) for path in before])
            took = time.monotonic() - began
            say(f"After {took:.2f} s there are {len(jobs)} jobs in jobs.db, and nobody works on them.")
            with work() as service:
                wait_until_packed(len(before) // 3)
                os.killpg(service.pid, signal.SIGKILL)
                service.wait(PATIENCE)
            say(f"Killed the supervisor and its worker processes: {len(journal('ends'))} files were packed.")
            with work() as service:
                for job in jobs:
                    job.exception(PATIENCE)
                states = Counter(str(job.state) for job in jobs)
                say(f"{states['done']} of {len(jobs)} jobs are done.")
                who_ran_twice(jobs, before)
                say(f"Then {len(after)} more, and SIGTERM among them:")
                late = tasks.pack.enqueue_many([(path,) for path in after])
                wait_until_packed(len(before) + len(after) // 5)
                service.send_signal(signal.SIGTERM)
                service.wait(PATIENCE)
            code, ends = service.returncode, Counter(str(job.state) for job in late)
            say(f"Exit code {code}. Of the {len(after)}, {ends['done']} are done; {ends['ready']} wait in jobs.db.")
    return Account("5  durable", len(jobs), *(states[key] for key in ENDINGS))


def who_ran_twice(jobs: Sequence[Handle[int]], files: Sequence[str]) -> None:
    """What the tasks themselves have written down, and what the store has to say of it."""
    ended = journal("ends")
    runs: dict[str, list[str]] = defaultdict(list)
    for run in journal("begins"):
        pid, token, path = run
        cut = "" if run in ended else " (cut in the middle)"  # else it had no time to tell the store
        runs[path].append(f"in process {pid} with token {token}{cut}")
    twice = [(job, path) for job, path in zip(jobs, files, strict=True) if len(runs[path]) > 1]
    say(f"The journal says that {len(jobs) - len(twice)} ran once. These began again, since their process was killed:")
    for _, path in twice:
        say(f"  {Path(path).name}: {', then '.join(runs[path])}")
    for job, _ in twice[:1]:
        say(f"$ penstock show {job.id}")
        show = [sys.executable, "-m", "penstock", "show", job.id, "--store", "sqlite:///jobs.db"]
        told = subprocess.run(show, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True).stdout
        say("  " + told.strip().replace("\n", "\n  "))


def journal(word: str) -> list[list[str]]:
    """What the tasks have written down: process, token and file of each that has begun, or ended."""
    lines = Path("journal").read_text().splitlines() if Path("journal").exists() else []
    return [line.split(" ", 3)[1:] for line in lines if line.startswith(word)]


def wait_until_packed(count: int) -> None:
    """Until so many files are packed."""
    give_up = time.monotonic() + PATIENCE
    while len(journal("ends")) < count:
        assert time.monotonic() < give_up, "no file is packed any more"
        time.sleep(0.01)  # a file can't wake anybody


@contextlib.contextmanager
def work() -> Iterator[subprocess.Popen[str]]:
    """A worker service for tasks.py, which does not outlive the block. What it logs is shown as it comes."""
    say("$ penstock work tasks:app --processes 2 --threads 2")
    command = [sys.executable, "-m", "penstock", "work", "tasks:app", "--processes", "2", "--threads", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with process, ThreadPool(1, unobserved="raise") as pool:
        assert process.stderr is not None
        pool.submit(tell, process.stderr)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def tell(lines: Iterable[str]) -> None:
    for line in lines:
        say(f"  {line.rstrip()}")


# --- act 6 ------------------------------------------------------------------------------------------------------------


def the_accounts(accounts: list[Account]) -> None:
    title(f"6. The accounts: accepted = {' + '.join(ENDINGS)}")
    for told in accounts:
        ended = told.done + told.failed + told.cancelled + told.killed + told.abandoned
        say(
            f"{told.act:14} {told.accepted:5} = {told.done:4} + {told.failed} + {told.cancelled} + {told.killed}"
            f" + {told.abandoned}   {'balanced' if ended == told.accepted else 'NOT BALANCED'}"
        )
        assert ended == told.accepted


# --- the stage --------------------------------------------------------------------------------------------------------


def title(text: str) -> None:
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")  # in one piece: the workers of act 1 speak at the same time
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("Stopped by Ctrl-C; nothing was left running.")
        sys.exit(130)
