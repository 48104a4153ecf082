"""A store, a home or a disk that may not be written: refused with a sentence, and as it was when that is mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from queuectl import Queue
from tests.conftest import Result
from tests.faults.faulty import as_stranger, give_to_stranger
from tests.faults.test_disk_full import Disk, disk
from tests.process.scene import Scene
from tests.process.test_old_stores import STORES

__all__ = ["disk"]

pytestmark = pytest.mark.posix

READ_ONLY = "queuectl: cannot write to {}: it is read-only for this user.\n"
CANNOT_OPEN = "queuectl: cannot open the store {}. Check its directory and permissions.\n"
MAY_NOT_OPEN = "queuectl: cannot open the store {}: Permission denied.\n"
MAY_NOT_MAKE = "queuectl: cannot create the store {}: Permission denied.\n"


@pytest.fixture
def stranger(home: Path) -> Iterator[Callable[..., Result]]:
    """Run ``queuectl WORD ...`` as a user who is not root and owns the home."""
    words = as_stranger()
    give_to_stranger(home.parent)

    def run(*rest: str) -> Result:
        done = subprocess.run(
            [*words, "-m", "queuectl", *rest], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        return Result(done.stdout, done.stderr, done.returncode)

    yield run
    for folder in (home.parent, home):
        if folder.exists():
            os.chmod(folder, 0o700)


@pytest.fixture
def store(home: Path, stranger: Callable[..., Result]) -> Path:
    """A store with one job, made by that user and used by nobody now."""
    assert "job1\n" == stranger("enqueue", "-q", "--", "true").out
    Queue().close()  # takes the log away
    assert ["jobs.db"] == os.listdir(home)
    return home / "jobs.db"


WRITING: List[List[str]] = [["enqueue", "--", "true"], ["worker", "start", "--drain"], ["cancel", "job1"]]


def test_a_file_that_may_only_be_read(store: Path, stranger: Callable[..., Result]) -> None:
    """Writing is refused. Looking makes a log of the same mode, which is named once the store may be written again."""
    os.chmod(store, 0o400)
    for words in WRITING:
        assert ("", READ_ONLY.format(store), 1) == stranger(*words)
    assert "  pending: 1\n" in stranger("status").out
    assert f"bad   access   you may only read {store}, " in stranger("doctor").out

    os.chmod(store, 0o600)
    for _ in ("-wal", "-shm"):
        refused = stranger("cancel", "job9")
        if "read-only" in refused.err:
            named = refused.err.split()[4].rstrip(":")
            assert named in (f"{store}-wal", f"{store}-shm")
            os.chmod(named, 0o600)
    assert 0 == stranger("worker", "start", "--drain").code
    assert "  completed: 1\n" in stranger("status").out


def test_an_old_store_that_may_only_be_read(home: Path, stranger: Callable[..., Result]) -> None:
    """Not even looked at without an upgrade: whoever may not make it hears of it, and who can."""
    home.mkdir()
    shutil.copyfile(STORES[0], home / "jobs.db")
    give_to_stranger(home, home / "jobs.db")
    (home / "jobs.db").chmod(0o400)

    for words in (["list"], ["enqueue", "--", "true"], ["worker", "start"]):
        refused = stranger(*words)
        assert ("", 1) == (refused.out, refused.code)
        assert "jobs.db was written by an older queuectl (schema 1; this one needs" in refused.err
        assert "as the user who owns it.\n" in refused.err
        assert 1 == refused.err.count("\n")
    found = stranger("doctor")
    assert 1 == found.code
    assert "was written by an older queuectl" in found.out

    (home / "jobs.db").chmod(0o600)
    assert stranger("list").err.startswith(f"queuectl: cannot write to {home / 'jobs.db-'}")  # a log of its mode then
    for log in home.glob("jobs.db-*"):
        log.unlink()
    assert 0 == stranger("status").code
    (home / "jobs.db").chmod(0o400)
    assert 0 == stranger("list").code


def test_a_log_that_may_only_be_read_behind_a_link(store: Path, stranger: Callable[..., Result]) -> None:
    """The log lies beside the store itself, and that is where it is named."""
    link = store.parent.parent / "link.db"
    link.symlink_to(store)
    os.chmod(store, 0o400)
    assert 0 == stranger("status").code  # makes a log of the same mode
    os.chmod(store, 0o600)

    refused = stranger("cancel", "job1", "--db", str(link))

    assert refused in [("", READ_ONLY.format(f"{store}{suffix}"), 1) for suffix in ("-wal", "-shm")]


def test_what_root_makes_in_a_users_home_is_the_users(
    home: Path, stranger: Callable[..., Result], scene: Scene, cli: Callable[..., Result]
) -> None:
    """``sudo`` may keep HOME: neither the store nor the files of a daemon may shut the user out of the own queue."""
    cli("worker", "start", "--daemon", code=0)
    scene.until(cli("enqueue", "-q", "--", "true", code=0).out.strip(), "completed")
    mine = [path for path in (home, *home.rglob("*")) if path.stat().st_uid == 0]
    cli("worker", "stop", code=0)

    assert [] == mine
    assert ("job2\n", 0) == stranger("enqueue", "-q", "--", "true")[::2]
    assert 0 == stranger("worker", "start", "--daemon").code
    scene.until("job2", "completed")
    assert 0 == stranger("worker", "stop").code


@pytest.mark.parametrize("name", ["logs/supervisor.log", "pids.known", "pids.json"])
def test_a_link_that_a_user_laid_gives_nothing_of_roots_away(
    home: Path, stranger: Callable[..., Result], scene: Scene, cli: Callable[..., Result], name: str
) -> None:
    """Only what root has just made there itself is given to the user."""
    mine = home.parent / "mine"
    mine.touch()
    assert 0 == stranger("enqueue", "--", "true").code
    (home / "logs").mkdir(exist_ok=True)
    (home / name).symlink_to(mine)

    cli("worker", "start", "--daemon", code=0)
    scene.until("job1", "completed")
    cli("worker", "stop", code=0)

    assert 0 == mine.stat().st_uid


def test_a_file_that_may_not_be_read(store: Path, stranger: Callable[..., Result]) -> None:
    """Another user's store: mode 0600 keeps everybody out."""
    os.chown(store, 0, 0)
    for words in [*WRITING, ["status"], ["list"]]:
        assert ("", CANNOT_OPEN.format(store), 1) == stranger(*words)

    give_to_stranger(store)
    assert 0 == stranger("worker", "start", "--drain").code


def test_a_home_that_may_not_be_written(home: Path, store: Path, stranger: Callable[..., Result]) -> None:
    """SQLite cannot make its log there, and a store is of no use without it."""
    os.chmod(home, 0o500)
    for words in [*WRITING, ["status"], ["list"]]:
        assert ("", READ_ONLY.format(store), 1) == stranger(*words)

    os.chmod(home, 0o700)
    assert 0 == stranger("worker", "start", "--drain").code


def test_a_home_that_may_not_be_entered(home: Path, store: Path, stranger: Callable[..., Result]) -> None:
    """The store may be there or not: nobody can tell."""
    os.chmod(home, 0)
    for words in [*WRITING, ["status"], ["worker", "stop"]]:
        assert ("", MAY_NOT_OPEN.format(store), 1) == stranger(*words)


def test_a_home_that_cannot_be_made(home: Path, stranger: Callable[..., Result]) -> None:
    """The folder above is somebody else's."""
    os.chmod(home.parent, 0o500)
    for words in [["enqueue", "--", "true"], ["status"], ["worker", "start"]]:
        assert ("", MAY_NOT_MAKE.format(home / "jobs.db"), 1) == stranger(*words)


def test_a_home_that_cannot_be_written_under_live_workers(
    scene: Scene, home: Path, stranger: Callable[..., Result]
) -> None:
    """What is open stays open: jobs go on, although neither bells nor notes can be put there any more."""
    scene.queue.close()
    give_to_stranger(home, *home.iterdir())
    stranger("enqueue", "-q", "--", "sleep", "1")
    words = as_stranger()
    group = subprocess.Popen(
        [*words, "-m", "queuectl", "worker", "start", "--drain"], stdout=subprocess.PIPE, text=True
    )
    with Queue() as queue:
        scene.eventually(lambda: queue.get("job1").state == "processing", what="the run")
        os.chmod(home, 0o500)
        os.chmod(home / "jobs.db-run", 0o500)
        assert "job2" == queue.enqueue("echo hello").id
        out = group.communicate(timeout=30)[0]

        assert 0 == group.returncode
        assert "[worker 0] job job2 completed" in out.splitlines()
        assert [] == queue.store.check()


def test_a_run_folder_that_may_not_be_made(home: Path, store: Path, stranger: Callable[..., Result]) -> None:
    """The home takes no new file, but the store's own are there: workers do without bells and notes."""
    stranger("enqueue", "-q", "--", "echo", "hello")  # leaves the log to the next process
    os.chmod(home, 0o500)

    done = stranger("worker", "start", "--drain")

    assert (0, "") == (done.code, done.err)
    assert "[worker 0] job job2 completed" in done.out.splitlines()
    assert not (home / "jobs.db-run").exists()


def test_a_run_folder_of_roots(home: Path, store: Path, stranger: Callable[..., Result]) -> None:
    """Left by a release that did not give it to the store's owner: workers do without, and doctor says so."""
    os.mkdir(home / "jobs.db-run", 0o700)

    done, found = stranger("worker", "start", "--drain"), stranger("doctor", "-q")

    assert (0, "") == (done.code, done.err)
    assert found.code == 1
    assert found.out.startswith(f"bad   access   {home / 'jobs.db-run'} may not be written to by you. It is not used, ")


def test_a_disk_that_is_read_only(disk: Disk, cli: Callable[..., Result]) -> None:
    """Commands say so, and all is well when it can be written again; workers have been there before."""
    cli("worker", "start", "--drain", code=0)
    cli("enqueue", "--", "true", code=0)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    why = "its disk is read-only. The kernel's log (dmesg) tells if an error has made it so."

    for words in [*WRITING, ["config", "set", "lease", "9"]]:
        assert ("", f"queuectl: cannot write to {disk.path}/jobs.db: {why}\n", 1) == cli(*words)
    assert "  pending: 1\n" in cli("status", code=0).out
    findings = json.loads(cli("doctor", "--json", code=1).out)["findings"]
    bad = [each["text"] for each in findings if each["level"] == "bad"]
    lost = "No job can be stored, started or recorded."
    assert [f"nothing can be written in {disk.path}: Read-only file system. {lost}"] == bad

    subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
    assert "job2\n" == cli("enqueue", "-q", "--", "true").out
    cli("worker", "start", "--drain", code=0)
    assert "  completed: 2\n" in cli("status").out


def test_a_store_of_somebody_else(home: Path, cli: Callable[..., Result]) -> None:
    """Whoever may only read it may look, and wait for its jobs."""
    words = as_stranger()
    cli("enqueue", "--", "echo", "hello", code=0)
    cli("worker", "start", "--drain", code=0)
    with Queue():
        for folder in (home.parent, home):
            os.chmod(folder, 0o755)
        for file in home.glob("jobs.db*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)

        said = {}
        for rest in (["list", "-q"], ["logs", "-f", "job1"], ["wait", "job1"], ["enqueue", "--", "true"]):
            done = subprocess.run(
                [*words, "-m", "queuectl", *rest], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
            )
            said[rest[0]] = Result(done.stdout, done.stderr, done.returncode)

    assert ("job1\n", "", 0) == said["list"]
    assert ("hello\n", "", 0) == said["logs"]
    assert ("job1 completed\n", "", 0) == said["wait"]
    assert ("", READ_ONLY.format(home / "jobs.db"), 1) == said["enqueue"]
