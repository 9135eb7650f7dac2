"""A PostgreSQL of one's own: on a free port of loopback, its data in a temporary folder, nothing of it left afterwards.

    with Postgres() as server:
        connect(server.fresh_url())

PostgreSQL refuses to be run by root; root runs it as `nobody`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 60.0  # seconds that the server may take to come up or go down: it may have a log to read first

_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Ends the server and removes the folder, should this process die without doing it: its end closes the pipe.
_UNDERTAKER: Final = """
read -r _
kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")"
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && break; sleep 1; done
"""


class NoPostgres(Exception):
    """There is no PostgreSQL on this machine."""

    def __str__(self) -> str:
        return "PostgreSQL is not installed; `make test` as root does that, or: apt-get install postgresql"


def programs() -> Path:
    """The folder of `initdb` and `postgres`, of the newest version there is."""
    found = shutil.which("initdb")  # Debian keeps them off the PATH
    folders = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    )
    folders = [folder for folder in folders if (folder / "initdb").exists()]
    if not folders:
        raise NoPostgres
    return folders[-1]


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


class Postgres:
    """A server that runs from the making of this object to `close`; not while it is stopped, or was killed.

    *durable*: what was committed survives a power cut, as by the server's defaults; else it is several times faster,
    and what was committed last may be gone after `kill`.
    """

    def __init__(self, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._programs = programs()
        self._settings = {**({} if durable else _FAST), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = itertools.count(1)
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-pg-"))
        self.port = free_port()
        self._undertaker = subprocess.Popen(
            ["sh", "-c", _UNDERTAKER, "sh", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests; they stop what they have started
        )
        try:
            self._make()
            self.start()
        except BaseException:
            self.close()
            raise

    def url(
        self, schema: str = "penstock", *, port: int | None = None, database: str = "postgres", user: str = "postgres"
    ) -> str:
        """Its URL for `App`. *port*: of a proxy before it."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}?schema={schema}"

    def fresh_schema(self) -> str:
        """The name of a schema that nobody has used: a test's own place, for nothing."""
        return f"penstock_{next(self._schemas)}"

    def fresh_url(self) -> str:
        """The URL of a fresh schema."""
        return self.url(self.fresh_schema())

    def connect(self, **options: Any) -> Any:
        """A psycopg connection to it, each statement of which is committed."""
        import psycopg

        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres", autocommit=True, **options)

    def ask(self, statement: str, *values: Any, database: str = "postgres") -> list[Any]:
        """The rows that a *statement* gives."""
        with self.connect(dbname=database) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def waiting(self, schema: str) -> int:
        """How many wait for a lock, in the middle of a statement that names *schema*."""
        [[count]] = self.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s", f"%{schema}%"
        )
        return int(count)

    def give(self, folder: Path) -> None:
        """Let it write to *folder*."""
        owner = self.folder.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)

    def processes(self) -> list[int]:
        """Its processes, one for each connection among them."""
        return [] if self._process is None else [self._process.pid, *_children(self._process.pid)]

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Run it, on the port that it had; return when it takes connections."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_nobody(self.folder),
            )
        end = time.monotonic() + PATIENCE
        while not self._is_ready(self._process):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in good order: connections are closed, transactions rolled back. `start` goes on with the data."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """`stop`, and `start`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End all of its processes at once and by force. `start` goes on with what was committed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # so that it makes no more of them
        family = self.processes()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None
        end = time.monotonic() + PATIENCE
        while any(map(_is_alive, family)):  # while one lives, no other server takes its data
            assert time.monotonic() < end, "processes of a killed server live on"
            time.sleep(0.002)

    def close(self) -> None:
        """End it and remove all that it has."""
        self._end(signal.SIGQUIT)  # nobody needs its data any more
        shutil.rmtree(self.folder, ignore_errors=True)
        self._undertaker.kill()
        self._undertaker.communicate()

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self) -> None:
        """A database cluster, in the folder, of the user `postgres`."""
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def _run(self, program: str, *how: str) -> None:
        made = subprocess.run(
            [self._programs / program, "-D", "data", *how],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            **as_nobody(self.folder),
        )
        if made.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{made.stderr.decode(errors='replace')[-2000:]}")

    def _options(self) -> Iterator[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        for name, value in settings.items():
            yield from ("-c", f"{name}={value}")

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """True if it takes connections; it writes that down for `pg_ctl`."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() in ("ready", "standby")

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None


class Standby(Postgres):
    """A server that repeats all that *primary* does, until it is promoted; one that is synchronous.

    What *primary* acknowledges, it has; *primary* acknowledges nothing while it is away.
    """

    NAME: Final = "standby"

    def __init__(self, primary: Postgres, *, settings: Mapping[str, str] | None = None) -> None:
        self._primary = primary
        super().__init__(settings=settings)
        primary.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{self.NAME}'")
        primary.ask("SELECT pg_reload_conf()")
        end = time.monotonic() + PATIENCE
        while not primary.ask("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
            assert time.monotonic() < end, f"it is not synchronous\n{self.log[-2000:]}"
            time.sleep(0.01)

    def promote(self) -> None:
        """From now on it is a server like any other."""
        [[done]] = self.ask("SELECT pg_promote()")
        assert done, "it stays a standby"

    def _make(self) -> None:
        primary = f"host=127.0.0.1 port={self._primary.port} user=postgres application_name={self.NAME}"
        self._run("pg_basebackup", "-d", primary, "-R", "-X", "stream", "-c", "fast", "--no-sync")


def as_nobody(folder: Path) -> dict[str, Any]:
    """How `subprocess` starts what refuses to be run by root: in a *folder* of its own."""
    options: dict[str, Any] = {
        "cwd": folder,
        "env": {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder), "LC_ALL": "C"},
    }
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        shutil.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return options


def free_port() -> int:
    """A port of loopback that nobody has: below those that the kernel gives away, so that a restart finds it free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


def _is_alive(pid: int) -> bool:
    """False of a zombie, too: it is as dead as can be, and its parent may be slow to bury it."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")


# ---------------------------------------------------------------------------------------------------------------------
# The one for a whole run of tests


@functools.cache
def shared() -> Postgres:
    """The server that tests share, not durable: each takes a schema of its own. It is started for the first of them."""
    return Postgres()


def close_shared() -> None:
    """End that server, if there is one."""
    if shared.cache_info().currsize:
        shared().close()
        shared.cache_clear()
