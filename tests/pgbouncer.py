"""A PgBouncer in transaction mode, before a PostgreSQL: two connections to the server, shared by all who come.

    with PgBouncer(postgres.port) as pooler:
        connect(postgres.url(schema, port=pooler.port))

It refuses to be run by root, as PostgreSQL does.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.postgres import PATIENCE, as_nobody, free_port, shared

SIZE: Final = 2  # connections to the server: fewer than one engine has to the pooler, so that nobody has one of his own

_CONFIG: Final = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
admin_users = postgres
"""

# It ends with whoever has started it, and its folder with it, however that ends: this closes the pipe.
_KEEPER: Final = """
exec 3<&0
"$0" "$1/pgbouncer.ini" </dev/null &
read -r _ <&3
kill -TERM $!
wait
cd / && rm -rf "$1"
"""


class NoPgBouncer(Exception):
    """There is no PgBouncer on this machine."""

    def __str__(self) -> str:
        return "PgBouncer is not installed; `make test` as root does that, or: apt-get install pgbouncer"


def program() -> str:
    """The path of `pgbouncer`."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise NoPgBouncer
    return found


class PgBouncer:
    """A pooler before port *server* of loopback, on a `port` of its own, from the making of this object to `close`."""

    def __init__(self, server: int) -> None:
        path = program()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-pgb-"))
        options = as_nobody(self.folder)
        config = _CONFIG.format(server=server, port=self.port, folder=self.folder, size=SIZE)
        (self.folder / "pgbouncer.ini").write_text(config)
        (self.folder / "users").write_text('"postgres" ""\n')
        with (self.folder / "log").open("wb") as log:
            self._keeper = subprocess.Popen(
                ["sh", "-c", _KEEPER, path, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        try:
            self._be_ready()
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def to_server(self) -> list[int]:
        """The local ports of its connections to the server."""
        import psycopg

        console = f"host=127.0.0.1 port={self.port} user=postgres dbname=pgbouncer"
        with psycopg.connect(console, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            cursor = connection.execute("SHOW SERVERS")
            assert cursor.description is not None
            place = [column.name for column in cursor.description].index("local_port")
            return [row[place] for row in cursor.fetchall()]

    def close(self) -> None:
        """End it, and remove all that it has."""
        self._keeper.communicate()  # closes the pipe, and waits for its end
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _be_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if "FATAL" in self.log or time.monotonic() > end:
                raise RuntimeError(f"PgBouncer did not start:\n{self.log[-2000:]}")
            time.sleep(0.005)


@functools.cache
def shared_pooler() -> PgBouncer:
    """The one before the server that tests share. It is started for the first of them."""
    return PgBouncer(shared().port)


def close_shared_pooler() -> None:
    """End it, if there is one."""
    if shared_pooler.cache_info().currsize:
        shared_pooler().close()
        shared_pooler.cache_clear()
