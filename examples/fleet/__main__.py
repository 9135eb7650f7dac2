"""A fleet on one machine: a PostgreSQL, a web service, three worker services, of which one is lost in the middle.

python -m examples.fleet                                   starts a PostgreSQL of its own, and removes it
python -m examples.fleet postgresql://localhost/shop       uses that one; its tables stay

Every number is counted in the database at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from penstock import Retry, ThreadPool

ROOT = Path(__file__).parent.parent.parent
JOBS = "examples.fleet.shop:jobs"
ORDERS = int(os.environ.get("SHOP_ORDERS", "300"))
LEASE = 4  # seconds: short, so that nobody has to wait for long here; 30 is the default
PATIENCE = 60.0  # seconds that anything here may take before we call it broken


def main() -> int:
    with contextlib.ExitStack() as stack:
        url = sys.argv[1] if sys.argv[1:] else stack.enter_context(own_postgres())
        os.environ["SHOP_DATABASE"] = url
        from examples.fleet import shop  # reads SHOP_DATABASE

        database = stack.enter_context(psycopg.connect(url, autocommit=True))
        database.execute(shop.TABLES)
        database.execute("TRUNCATE orders, charge, mail, run RESTART IDENTITY")

        machines = {name: stack.enter_context(machine(name)) for name in ("north", "east", "west")}
        wait_until(lambda: database.execute("SELECT to_regclass('penstock.job')").fetchall() != [(None,)])
        web = stack.enter_context(web_service())

        def count(table: str) -> int:
            [[number]] = database.execute(f"SELECT count(*) FROM {table}").fetchall()
            return int(number)

        say(f"{ORDERS} orders come in over HTTP; each is committed together with the job that charges it.")
        with ThreadPool(8, name="clients") as clients:
            orders = clients.options(retry=Retry(10, on=urllib.error.URLError, wait=0.2)).map(
                post, [f"{web}/orders"] * ORDERS, range(100, 100 + ORDERS)
            )
            wait_until(lambda: count("charge") >= ORDERS // 4)
            running = database.execute("SELECT count(DISTINCT job) FROM run WHERE machine = 'east'").fetchall()[0][0]
            say(f"The machine `east` has begun {running} jobs, and is lost: kill -9 for all of it, in mid-charge.")
            kill(machines["east"])
            answered = len(list(orders))
        say(
            f"{answered} orders were answered with 201. After a lease of {LEASE} s the others take over what it had ..."
        )
        wait_until(lambda: count("charge") >= ORDERS and count("mail") >= ORDERS)
        for name in ("north", "west"):
            machines[name].send_signal(signal.SIGTERM)
        for name in ("north", "west"):
            machines[name].wait(PATIENCE)

        say("")
        say(f"orders   {count('orders')}")
        say(f"charges  {count('charge')}, of {count('(SELECT DISTINCT order_id FROM charge) AS one')} orders")
        say(f"mails    {database.execute('SELECT sum(sent) FROM mail').fetchall()[0][0]}, of {count('mail')} orders")
        again = database.execute(
            "SELECT job, string_agg(machine || ' (claim ' || token || ')', ', then ' ORDER BY token)"
            " FROM run GROUP BY job HAVING count(*) > 1 ORDER BY job"
        ).fetchall()
        say(
            f"{len(again)} jobs were begun twice, and no charge was made twice:" if again else "No job was begun twice."
        )
        for job, runs in again:
            say(f"  {job}: {runs}")
        is_whole = (
            count("orders") == count("charge") == count("(SELECT DISTINCT order_id FROM charge) AS one") == ORDERS
        )
        say("Every order was charged exactly once." if is_whole else "THE ACCOUNTS DON'T BALANCE.")
        return 0 if is_whole else 1


def post(url: str, cents: int) -> int:
    """The number of a new order."""
    request = urllib.request.Request(url, data=json.dumps({"cents": cents}).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["order"])


@contextlib.contextmanager
def own_postgres() -> Iterator[str]:
    """A server that is there for as long as this runs."""
    from tests.postgres import Postgres

    with contextlib.closing(Postgres(durable=True)) as server:
        say(f"A PostgreSQL of our own, on port {server.port}.")
        yield f"postgresql://postgres@127.0.0.1:{server.port}/postgres"


@contextlib.contextmanager
def web_service() -> Iterator[str]:
    """The web service, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    say(f"$ uvicorn examples.fleet.web:web --port {port}")
    command = [sys.executable, "-m", "uvicorn", "examples.fleet.web:web", "--port", port, "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        wait_until(lambda: is_open(int(port)))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def machine(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker service that stands for a machine, with a name for the records."""
    os.environ["SHOP_MACHINE"] = name
    process = penstock("work", JOBS, "--threads", "4", "--lease", str(LEASE))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def penstock(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`penstock …`, in a session of its own."""
    machine = f"      # on machine {os.environ['SHOP_MACHINE']}" if command == "work" else ""
    say(f"$ penstock {command} {' '.join(arguments)}{machine}")
    return subprocess.Popen([sys.executable, "-m", "penstock", command, *arguments], cwd=ROOT, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)


def wait_until(fact: Callable[[], bool]) -> None:
    """Look until *fact* is one."""
    end = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {PATIENCE:.0f} s")
        time.sleep(0.05)


def say(line: str) -> None:
    """Print it now."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
