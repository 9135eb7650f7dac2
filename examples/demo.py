"""Penstock in five acts, in under half a minute. Every number is measured while you watch.

python examples/demo.py
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock import ProcessPool, Report, ThreadPool, WorkerDied, current_context, current_job

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
    accounts = [the_blueprint(), *real_files(), the_hung_job(), the_killed_worker()]
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


def the_accounts(accounts: list[Account]) -> None:
    title(f"5. The accounts: accepted = {' + '.join(ENDINGS)}")
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
