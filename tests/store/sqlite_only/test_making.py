"""A SQLite store is made once, complete, for its owner alone, wherever it may be."""

from __future__ import annotations

import contextlib
import io
import os

import pytest

from queuectl.db import open_store, sqlite_make
from queuectl.errors import StoreError, StoreRefused
from queuectl.job import JobFilter
from tests.store.build import T0, spec
from tests.store.sqlite_only.files import ADD_ONE, write_bytes


@pytest.mark.posix
def test_nobody_else_may_read_a_new_store(path):
    """Folder 0700, file 0600, and the WAL beside it too, whatever the umask."""
    before = os.umask(0)
    try:
        with contextlib.closing(open_store(path)) as store:
            store.add([spec()], T0)
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(os.path.dirname(path))}
    finally:
        os.umask(before)

    assert {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600} == modes
    assert 0o700 == os.stat(os.path.dirname(path)).st_mode & 0o777


@pytest.mark.posix
def test_a_folder_that_exists_keeps_its_mode(tmp_path):
    """A store in somebody's own folder does not lock others out of it."""
    os.chmod(str(tmp_path), 0o755)

    open_store(str(tmp_path / "jobs.db")).close()

    assert 0o755 == os.stat(str(tmp_path)).st_mode & 0o777


def test_a_new_store_is_alone_in_its_folder(path):
    """Nothing of the making is left; after the last connection closed the file is all there is."""
    open_store(path).close()

    assert ["jobs.db"] == os.listdir(os.path.dirname(path))


def test_a_missing_store_is_not_made_unasked(path):
    """Who only looks makes nothing, not even the folder."""
    with pytest.raises(StoreRefused, match="there is no store at"):
        open_store(path, create=False)

    assert not os.path.exists(os.path.dirname(path))


def test_an_empty_file_becomes_a_store(path):
    """SQLite itself takes an empty file for an empty database, and so do people who made one."""
    write_bytes(path, b"")

    with contextlib.closing(open_store(path)) as store:
        assert ["job1"] == store.add([spec()], T0)


NAMES = ["with space.db", "é漢😀.db", "a#c%20d.db"]
if os.name != "nt":  # there these cannot be names
    NAMES += ["a?b.db", "line\nbreak.db", os.fsdecode(b"\xff\xfe.db")]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_will_do(tmp_path, name):
    """Blanks, signs of URLs and bytes that are no UTF-8 are parts of names like others."""
    with contextlib.closing(open_store(str(tmp_path / name))) as store:
        store.add([spec()], T0)

    assert [os.fsencode(name)] == os.listdir(os.fsencode(str(tmp_path)))


@pytest.mark.posix
def test_a_store_behind_a_link_is_one_store(path, tmp_path):
    """A symbolic link to a store opens it."""
    open_store(path).close()
    link = str(tmp_path / "link.db")
    os.symlink(path, link)

    with contextlib.closing(open_store(link)) as store:
        assert ["job1"] == store.add([spec()], T0)


@pytest.mark.posix
def test_a_link_to_nowhere_is_refused(tmp_path):
    """It is neither followed nor replaced, and the message names it."""
    link = str(tmp_path / "link.db")
    os.symlink(str(tmp_path / "nowhere"), link)

    with pytest.raises(StoreError, match="link.db"):
        open_store(link)

    assert (["link.db"], True) == (os.listdir(str(tmp_path)), os.path.islink(link))


@pytest.mark.parametrize("how", ["file", "directory"])
def test_a_path_that_cannot_be_a_store_is_refused(tmp_path, how):
    """A directory, or a file where the folder should be: the message names the path."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "directory").mkdir()
    path = str(tmp_path / "file" / "jobs.db") if how == "file" else str(tmp_path / "directory")

    with pytest.raises(StoreError, match="(cannot (open|create) the store .*|is a )" + how):
        open_store(path)

    assert (b"x", []) == ((tmp_path / "file").read_bytes(), os.listdir(str(tmp_path / "directory")))


def test_a_network_file_system_is_refused(path, monkeypatch):
    """SQLite's locks cannot be trusted there, so no store is made."""
    monkeypatch.setattr(sqlite_make, "network_file_system", lambda folder: "nfs4")

    with pytest.raises(StoreRefused, match="network file system .nfs4."):
        open_store(path)

    assert not os.path.exists(path)


def test_a_share_of_a_virtual_machine_is_refused(path, monkeypatch):
    """It is no network, and is called what it is."""
    monkeypatch.setattr(sqlite_make, "network_file_system", lambda folder: "vboxsf")

    with pytest.raises(
        StoreRefused, match="a virtual machine's share of its host's files .vboxsf., where SQLite's locks"
    ):
        open_store(path)

    assert not os.path.exists(path)


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw
23 22 8:2 / /home/local rw - xfs /dev/sdb1 rw
24 21 0:41 / /mnt/two\\040words rw - fuse.sshfs host: rw
25 21 0:42 / /mnt/a\\011tab rw - vboxsf share rw
26 21 0:43 / /mnt/a\\012line rw - vboxsf share rw
27 21 0:44 / /mnt/back\\134slash rw - gpfs share rw
28 21 0:45 / /mnt/no\\134040space rw - fuse.s3fs share rw
29 21 0:46 / /mnt/form\x0cfeed rw - fuse.rclone share rw
30 21 0:47 / /mnt/other rw - fuse.encfs encfs rw
"""


@pytest.mark.posix
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/home/me/.queuectl", "nfs4"),
        ("/home", "nfs4"),
        ("/home/local/me", None),
        ("/homes/me", None),
        ("/mnt/two words/q", "fuse.sshfs"),
        ("/mnt/a\ttab/q", "vboxsf"),
        ("/mnt/a\nline", "vboxsf"),
        ("/mnt/back\\slash/q", "gpfs"),
        ("/mnt/no\\040space/q", "fuse.s3fs"),
        ("/mnt/form\x0cfeed/q", "fuse.rclone"),
        ("/mnt/other", None),
        ("/tmp", None),
    ],
)
def test_the_file_system_of_a_folder_is_told(monkeypatch, folder, expected):
    """The mount that is nearest above a folder decides."""
    monkeypatch.setattr(sqlite_make, "open", lambda *words, **more: io.BytesIO(MOUNTS.encode()), raising=False)

    assert expected == sqlite_make.network_file_system(folder)


@pytest.mark.parametrize("found", ["nothing", "an empty file"])
def test_sixty_processes_make_one_store(path, start, found):
    """All enqueue at the same moment where there is no store yet: 60 jobs, no number twice, none left out."""
    if found == "an empty file":
        write_bytes(path, b"")
    processes = [start(ADD_ONE, path) for _ in range(60)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]

    with contextlib.closing(open_store(path, create=False)) as store:
        stored = [job.id for job in store.jobs(JobFilter())]

    expected = sorted(f"job{number}" for number in range(1, 61))
    assert {""} == {err for _, err in answers}
    assert expected == sorted(out.strip() for out, _ in answers) == sorted(stored)
    assert ["jobs.db"] == os.listdir(os.path.dirname(path))
