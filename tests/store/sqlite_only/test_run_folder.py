"""The run folder: believed only if nobody but who may write to the store can have put something there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queuectl import journal, recovery
from queuectl.config import Config
from queuectl.db import doorbell
from queuectl.db.doorbell import Doorbell
from queuectl.journal import Journal
from tests.store.build import T0, bring_to, spec

pytestmark = pytest.mark.posix

STRANGER = 54321  # nobody has this number
DEAR = b"dear to somebody"


@pytest.fixture
def folder(store):
    """The run folder, as a worker of another process makes it."""
    os.mkdir(store.run_folder, 0o700)
    return Path(store.run_folder)


def give(path, uid, gid=-1):
    """Have *path* belong to *uid*; only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, uid, gid)


@pytest.mark.parametrize(("store_mode", "mode"), [(0o600, 0o700), (0o640, 0o700), (0o606, 0o700), (0o660, 0o2770)])
def test_what_a_worker_makes_is_for_the_store_s_user_or_group(path, store, store_mode, mode):
    """Whatever the umask is; the same folder is found again, and follows the store that is given to its group later."""
    os.chmod(path, store_mode)
    mask = os.umask(0o077)
    try:
        made = store.run_folder.make()
        bell, journal_ = Doorbell(made, "worker-1"), Journal(os.path.join(made, "worker-1" + journal.NAME))
        assert bell.arm() is not None
        assert journal_.begin([1])
        modes = {os.stat(os.path.join(made, name)).st_mode & 0o777 for name in os.listdir(made)}
        bell.disarm()
        journal_.close()
    finally:
        os.umask(mask)

    assert (path + "-run", mode, made) == (made, os.stat(made).st_mode & 0o7777, store.run_folder.find())
    assert {0o660 if mode & 0o070 else 0o600} == modes
    os.chmod(path, 0o660)
    assert (made, 0o2770) == (store.run_folder.make(), os.stat(made).st_mode & 0o7777)


def test_what_root_makes_is_for_the_store_s_owner(path, store):
    """As SQLite's log: their own workers could not use it otherwise, nor know what root's workers left running."""
    give(path, STRANGER, STRANGER)

    made = store.run_folder.make()
    left = Journal(os.path.join(made, "worker-1" + journal.NAME))
    assert left.begin([1])
    assert left.replace([1], [], [], [])

    for name in (made, os.path.join(made, "worker-1" + journal.NAME)):
        assert (STRANGER, STRANGER) == (os.stat(name).st_uid, os.stat(name).st_gid)
    os.chown(made, 0, 0)
    assert (made, 0) == (store.run_folder.make(), os.stat(made).st_uid)  # what was there before is left as it is


def test_the_folder_of_another_member_of_the_store_s_group(path, store, folder):
    """Only a member can have given it to the group, unless anybody may make folders beside the store."""
    give(folder, STRANGER, STRANGER)
    os.chown(path, -1, STRANGER)
    os.chmod(path, 0o660)
    os.chmod(folder, 0o2770)
    assert ("", str(folder)) == (store.run_folder.trouble(), store.run_folder.make())

    above = os.path.dirname(path)
    before = os.stat(above).st_mode & 0o7777
    for mode in (0o777, 0o1777, 0o3777):
        os.chmod(above, mode)
        assert "belongs to another user" == store.run_folder.trouble()
    os.chmod(above, before)
    os.chmod(folder, 0o2750)
    assert "belongs to another user" == store.run_folder.trouble()


@pytest.mark.parametrize(
    ("store_mode", "mode", "trouble"),
    [
        (0o600, 0o700, ""),
        (0o600, 0o755, ""),
        (0o600, 0o770, "may be written to by others (mode 770)"),
        (0o600, 0o1777, "may be written to by others (mode 1777)"),
        (0o660, 0o770, ""),
        (0o660, 0o2770, ""),
        (0o660, 0o777, "may be written to by others (mode 777)"),
        (0o666, 0o777, ""),
    ],
)
def test_who_may_write_to_the_store_may_write_to_the_folder(path, store, folder, store_mode, mode, trouble):
    """But nobody else, not even in a sticky folder: what somebody puts there is believed."""
    os.chmod(path, store_mode)
    os.chmod(folder, mode)

    assert trouble == store.run_folder.trouble()
    assert (None if trouble else str(folder)) == store.run_folder.find()


def test_a_group_may_write_to_the_folder_only_if_it_is_the_store_s(path, store, folder):
    """Another group may have other members."""
    os.chmod(path, 0o660)
    os.chmod(folder, 0o770)
    give(folder, -1, STRANGER)

    assert "may be written to by others (mode 770)" == store.run_folder.trouble()
    os.chown(path, -1, STRANGER)
    assert "" == store.run_folder.trouble()


def test_the_folder_of_another_user_is_not_used(path, store, folder):
    """Made first by somebody in /tmp, say; but the store's owner decides about it anyway."""
    give(folder, STRANGER)

    assert ("belongs to another user", None, None) == (
        store.run_folder.trouble(), store.run_folder.find(), store.run_folder.at_hand(),
    )  # fmt: skip
    assert store.run_folder.make() is None
    os.chown(path, STRANGER, -1)
    assert str(folder) == store.run_folder.find()


@pytest.mark.parametrize("what", ["link", "file"])
def test_something_else_in_its_place_is_not_used(store, tmp_path, what):
    """A link to a folder, or a file; a worker does without."""
    if what == "link":
        os.symlink(tmp_path, store.run_folder)
    else:
        Path(store.run_folder).write_bytes(DEAR)

    assert (None, "is not a directory") == (store.run_folder.make(), store.run_folder.trouble())


def test_a_folder_that_is_fine_is_looked_at_once(store, folder):
    """Each commit asks for it. While there is none, or a wrong one, it is looked for each time."""
    os.rmdir(folder)
    assert store.run_folder.at_hand() is None
    os.mkdir(folder, 0o700)
    assert str(folder) == store.run_folder.at_hand()
    os.rmdir(folder)

    assert (str(folder), None) == (store.run_folder.at_hand(), store.run_folder.find())


# -- what is in it ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["link", "hard link"])
def test_a_bell_that_is_somebody_s_file_is_not_written_to(store, folder, tmp_path, what):
    """An enqueue rings what is there; only what can ring is written to."""
    victim = tmp_path / "victim"
    victim.write_bytes(DEAR)
    if what == "link":
        os.symlink(victim, folder / "x.bell")
    else:
        os.link(victim, folder / "x.bell")

    store.add([spec()], T0)

    assert DEAR == victim.read_bytes()


def test_a_bell_in_the_folder_of_another_user_is_not_rung(store, folder):
    """Neither by a commit nor by whoever rings for others."""
    bell = Doorbell(str(folder), "w1")
    fd = bell.arm()
    give(folder, STRANGER)

    store.add([spec()], T0)
    doorbell.ring(recovery.run_folder(store))

    with pytest.raises(BlockingIOError):
        os.read(fd, 1)
    bell.disarm()


def test_forged_notes_and_journals_are_not_believed(store, folder):
    """In another user's folder: processes that recovery would end, claims that it would give back."""
    bring_to(store, "processing")
    run_id = store.get("job1").run_id
    (folder / "w1.runs").write_text(f"{run_id} 1 17\n\n")
    written = Journal(str(folder / "w1.ahead"))
    written.begin([run_id])
    written.close()
    assert {1: "17"} == recovery.leaders_of(store, "w1", frozenset([run_id]))
    give(folder, STRANGER)

    leaders = recovery.leaders_of(store, "w1", frozenset([run_id]))
    recovery._take_up(store, "w1", Config({}))

    assert ({}, "processing") == (leaders, store.get("job1").state)


def test_a_journal_is_not_read_or_written_through_a_link(folder, tmp_path):
    """Whoever may write here could have another file filled, or another worker's journal believed."""
    victim = tmp_path / "victim"
    made = Journal(str(victim))
    assert made.begin([7])
    made.close()
    before = victim.read_bytes()
    link = folder / "w1.ahead"
    os.symlink(victim, link)

    assert [7] == journal.read(str(victim)).waiting
    assert [] == journal.read(str(link)).waiting
    assert not Journal(str(link)).begin([8])
    assert before == victim.read_bytes()
