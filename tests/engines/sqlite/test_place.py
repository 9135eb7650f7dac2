"""Which file a URL names, and where a file can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import errors
from penstock.engines import connect
from penstock.engines.sqlite import place
from penstock.engines.sqlite.engine import SQLiteEngine


def test_three_slashes_are_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert place.parse("sqlite:///jobs.db").path == str(tmp_path / "jobs.db")
    assert place.parse("sqlite:///sub/jobs.db").path == str(tmp_path / "sub/jobs.db")


def test_four_slashes_are_an_absolute_path() -> None:
    assert place.parse("sqlite:////var/lib/jobs.db").path == "/var/lib/jobs.db"


def test_the_file_stays_the_same_when_the_current_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = SQLiteEngine("sqlite:///jobs.db")
    monkeypatch.chdir("/")
    engine.open()
    engine.close()

    assert (tmp_path / "jobs.db").exists()


def test_its_name_for_people_says_where_the_file_is_and_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = place.parse("sqlite:///50%25 jobs%3F.db?synchronous=normal")
    monkeypatch.chdir("/")
    assert named.url == f"sqlite:///{tmp_path}/50%25 jobs%3F.db?synchronous=normal"
    assert place.parse(named.url) == named


def test_a_link_names_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")

    assert place.parse(f"sqlite:///{tmp_path}/link.db") == place.parse(f"sqlite:///{tmp_path}/link.db")
    assert place.parse(f"sqlite:///{tmp_path}/link.db").path == str(tmp_path / "jobs.db")


def test_odd_characters_can_be_escaped() -> None:
    assert place.parse("sqlite:////tmp/a%20b%3Fc#d.db").path == "/tmp/a b?c#d.db"


def test_commits_are_full_unless_told_otherwise() -> None:
    assert place.parse("sqlite:////x.db").full
    assert place.parse("sqlite:////x.db?synchronous=FULL").full
    assert not place.parse("sqlite:////x.db?synchronous=normal").full


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite://jobs.db", "sqlite:///jobs.db"),
        ("sqlite:jobs.db", "sqlite:///jobs.db"),
        ("sqlite:///", "memory://"),
        ("sqlite:///folder/", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///jobs.db?mode=ro", "mode"),
        ("sqlite:///jobs.db?synchronous=off", "normal"),
    ],
)
def test_a_url_that_names_no_file_is_refused_with_a_hint(url: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        connect(url)


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:30 / /srv rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
24 23 254:1 / /srv/local\\040disk rw - ext4 /dev/vdb rw
25 22 0:31 / /mnt rw - ext4 /dev/vdc rw
26 25 0:32 / /mnt rw - fuse.sshfs me@there: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/jobs.db", "ext4"),
        ("/srvx/jobs.db", "ext4"),
        ("/srv/jobs.db", "nfs4"),
        ("/srv/local disk/jobs.db", "ext4"),
        ("/mnt/jobs.db", "fuse.sshfs"),  # the later of two mounts at one point hides the other
    ],
)
def test_a_network_file_system_is_refused_by_name(path: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    where = place.Place("sqlite:///", path)

    if kind == "ext4":
        place.check_local(where, str(mounts))
    else:
        with pytest.raises(errors.StoreInvalid, match=kind):
            place.check_local(where, str(mounts))


def test_where_mounts_cannot_be_seen_every_place_will_do(tmp_path: Path) -> None:
    place.check_local(place.Place("sqlite:///", "/x"), str(tmp_path / "missing"))
