"""Where a store is: what its URL says, and whether a file can be shared there at all."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

from penstock.errors import StoreInvalid

_HOW: Final = "sqlite:///jobs.db for a file in the current folder, sqlite:////var/lib/jobs.db for an absolute path"

# Their locks or their shared memory don't reach from one machine to the other, whatever their manuals say.
_REMOTE: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs"}
    | {"prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"}
    | {f"fuse.{kind}" for kind in ("ceph", "davfs", "davfs2", "gcsfuse", "glusterfs", "grpcfuse", "juicefs")}
    | {f"fuse.{kind}" for kind in ("mount-s3", "rclone", "s3fs", "sshfs", "vmhgfs-fuse")}
)


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and how sure its commits are to be: *full* ones outlive a power cut, others the end of any process."""

    url: str  # for people: whatever the current folder was, it says where the file is
    path: str  # absolute, without symbolic links: all who name the same file meet at it
    full: bool = True

    @property
    def folder(self) -> str:
        """The folder beside it."""
        return self.path + "-penstock"


def parse(url: str) -> Place:
    """The place that *url* names. Raises ValueError if it names none."""
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite" or not rest.startswith("/"):
        raise ValueError(f"{url!r} names no file: write {_HOW}")
    name, _, query = rest[1:].partition("?")
    path = unquote(name)
    if not path or path.endswith("/") or ":memory:" in path or "\0" in path:
        raise ValueError(f"{url!r} names no file: write {_HOW}, or memory:// for jobs that needn't last")
    options = dict(parse_qsl(query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "full").lower()
    if options:
        raise ValueError(f"{url!r}: there is no option {next(iter(options))!r}; the only one is synchronous")
    if synchronous not in {"full", "normal"}:
        raise ValueError(f"{url!r}: synchronous is full (survives a power cut) or normal, not {synchronous!r}")
    real = os.path.realpath(path)
    shown = f"sqlite:///{real.replace('%', '%25').replace('?', '%3F')}" + (f"?{query}" if query else "")
    return Place(shown, real, synchronous == "full")


def check_local(place: Place, mounts: str = "/proc/self/mountinfo") -> None:
    """Raise StoreInvalid if the file is on a network file system, as far as the system can tell."""
    try:
        table = Path(mounts).read_text("utf-8", "surrogateescape")
    except OSError:
        return  # not Linux
    kind = _kind_of_mount(place.path, table)
    if kind in _REMOTE:
        raise StoreInvalid(
            place.url,
            f"it is on a network file system ({kind}), where SQLite's locks can't be relied upon;"
            " put it on a local disk",
        )


def _kind_of_mount(path: str, table: str) -> str:
    best, kind = "", ""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):  # of two at one point, the later hides the other
            best, kind = point, after.split()[0]
    return kind
