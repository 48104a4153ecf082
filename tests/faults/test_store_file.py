"""The store's file is deleted, replaced or damaged under live workers: they say so, stop, and write nothing more."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from queuectl import Queue
from queuectl.db.migrate import NEWEST
from tests import oracle
from tests.process.scene import HELD, Group, Scene

pytestmark = pytest.mark.posix


@pytest.fixture
def busy(scene: Scene) -> Group:
    """A group of two workers with short leases: one runs a job and its child, the other has nothing to do."""
    scene.queue.set_setting("lease", "2")
    child = scene.journal.leaving("a child in a session of its own")
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {child}; {HELD}; fi'
    scene.queue.enqueue(scene.journal.command(body))
    scene.queue.enqueue_many([{"command": scene.journal.command(), "delay": 3600, "tags": ["x" * 100]}] * 100)
    group = scene.start("--count", "2")
    scene.noted("beat")
    return group


def checkpointed(path: Path) -> int:
    """Have everything in the file itself, nothing in the log; return its number of pages."""
    with contextlib.closing(sqlite3.connect(str(path))) as db:
        assert (0, 0, 0) == db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        pages: int = db.execute("PRAGMA page_count").fetchone()[0]
        return pages


def paused(group: Group, path: Path) -> int:
    """Pause a group; return the number of pages of what is all in the file then, 0 if it held a lock and goes on.

    What it wrote meanwhile would be checkpointed into a file that a test has damaged.
    """
    group.send(signal.SIGSTOP, group=True)
    try:
        return checkpointed(path)
    except AssertionError:
        group.send(signal.SIGCONT, group=True)
        return 0


def ends_with(scene: Scene, group: Group, *sentences: str) -> None:
    """Hold that the group ends by itself with one of the sentences, and that nothing of its runs is left."""
    beats = scene.pids("beats")
    done = group.wait(timeout=30)
    assert 1 == done.code
    last = done.err.splitlines()[-1]
    assert last.startswith("queuectl: ")
    assert any(sentence in last for sentence in sentences), last
    assert "Traceback" not in done.err
    scene.gone(beats, timeout=2)


def runs_again(scene: Scene) -> None:
    """Hold that the next group puts the stopped run back and runs its job: the scene's own connection is of no use."""
    group = scene.start(wait=False)
    with Queue() as queue:
        states = ["stopped", "completed"]
        scene.eventually(lambda: states == [run.state for run in queue.runs("job1")], what="the second run")
        assert 0 == group.stop().code
        assert [] == oracle.problems(queue.store, ended=False)


def test_a_store_that_is_deleted(scene: Scene, busy: Group, home: Path) -> None:
    """The group ends its commands and goes; put back, the store is complete, and its jobs run."""
    os.rename(home / "jobs.db", home / "saved")

    ends_with(scene, busy, "jobs.db has vanished. Put it back, or start again with a new one.")

    assert not (home / "jobs.db").exists()
    os.rename(home / "saved", home / "jobs.db")
    (scene.folder / "go").touch()
    runs_again(scene)


def test_a_store_that_is_deleted_while_nobody_looks(scene: Scene, busy: Group, cli: Callable[..., Any]) -> None:
    """An enqueue makes a new store at once; the old group leaves it alone, and a new one runs its job."""
    for name in ("jobs.db", "jobs.db-wal"):
        (scene.folder / ".queuectl" / name).unlink()

    assert "job1\n" == cli("enqueue", "-q", "--", "echo", "new").out
    ends_with(scene, busy, "jobs.db was replaced by another file. Run the command again.", "jobs.db has vanished.")

    cli("worker", "start", "--drain", code=0)
    assert "new\n" == cli("logs", "job1").out
    with Queue() as queue:
        assert [] == oracle.problems(queue.store)


def test_a_home_that_is_deleted(scene: Scene, busy: Group, home: Path) -> None:
    """Store, notes and bells are gone: the group ends its commands and goes."""
    # More than once: workers make files meanwhile.
    subprocess.run("until rm -rf .queuectl; do :; done", shell=True, cwd=home.parent, check=True, timeout=30)

    ends_with(scene, busy, "jobs.db has vanished.")


def test_a_store_that_is_replaced(scene: Scene, busy: Group, home: Path, tmp_path: Path) -> None:
    """Nothing is written into the other store, although a job of the same id and run is processing there."""
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"))) as db, contextlib.closing(
        sqlite3.connect(str(other))
    ) as copy:
        db.backup(copy)
    before = other.read_bytes()
    os.replace(other, home / "jobs.db")

    ends_with(scene, busy, "jobs.db was replaced by another file. Run the command again.")

    assert before == (home / "jobs.db").read_bytes()


def overwrite(path: Path, pages: int) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * (pages - 1)))


def halve(path: Path, pages: int) -> None:
    os.truncate(path, 4096 * (pages // 2))


DAMAGES: Dict[str, Callable[[Path, int], None]] = {"overwritten": overwrite, "truncated": halve}


@pytest.mark.parametrize("how", list(DAMAGES))
def test_a_store_that_is_damaged(scene: Scene, busy: Group, cli: Callable[..., Any], home: Path, how: str) -> None:
    """Workers and commands alike say that it is damaged, and leave it as it is; with a backup put back all goes on."""
    path = home / "jobs.db"
    pages = scene.eventually(lambda: paused(busy, path))
    shutil.copy(path, home / "backup")
    DAMAGES[how](path, pages)
    damaged = path.read_bytes()
    busy.send(signal.SIGCONT, group=True)

    ends_with(scene, busy, "jobs.db is damaged or not a SQLite database")
    for words in (["status"], ["enqueue", "--", "true"], ["worker", "start"]):
        refused = cli(*words)
        assert ("", 1) == (refused.out, refused.code)
        assert "is damaged or not a SQLite database" in refused.err
    found = cli("doctor", "-q", code=1)
    assert "jobs.db is damaged or not a SQLite database" in found.out
    assert damaged == path.read_bytes()

    for name in ("jobs.db-wal", "jobs.db-shm"):
        (home / name).unlink(missing_ok=True)
    os.replace(home / "backup", path)
    (scene.folder / "go").touch()
    with Queue() as queue:
        assert 101 == len(list(queue.jobs()))
    runs_again(scene)


def test_a_newer_release_takes_the_store_over(scene: Scene, busy: Group, cli: Callable[..., Any], home: Path) -> None:
    """Whoever opens it now is refused with a sentence; the workers that have it open are stopped as usual."""
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"))) as db:
        db.execute("PRAGMA user_version = 999")
    for words in (["status"], ["enqueue", "--", "true"], ["worker", "start"], ["worker", "stop"]):
        refused = cli(*words)
        assert ("", 1) == (refused.out, refused.code)
        assert f"was written by a newer queuectl (schema 999; this one knows {NEWEST})" in refused.err
    (scene.folder / "go").touch()
    assert 0 == busy.stop().code
    kill(scene.pids("beats"))


def test_what_killed_writers_left_in_the_log(scene: Scene, busy: Group, home: Path) -> None:
    """The write-ahead log of a store whose users were all killed is read by whoever opens it next."""
    job_id = scene.queue.enqueue(scene.journal.command(), delay=3600).id
    busy.kill_all()
    left = home.parent / "left"
    shutil.copytree(
        home, left, ignore=shutil.ignore_patterns("*-run")
    )  # before this process, the last one to have it open, closes it
    assert (left / "jobs.db-wal").stat().st_size > 0

    with Queue(str(left / "jobs.db")) as queue:
        assert "pending" == queue.get(job_id).state
        assert [] == queue.store.check()
    (scene.folder / "go").touch()
    kill(scene.pids("beats"))


def test_the_log_of_a_store_that_is_gone(scene: Scene, busy: Group, cli: Callable[..., Any], home: Path) -> None:
    """A new store does not read the log of the one before: it is set aside."""
    busy.kill_all()
    left = home.parent / "left"
    shutil.copytree(home, left, ignore=shutil.ignore_patterns("*-run"))
    (left / "jobs.db").unlink()
    log = (left / "jobs.db-wal").read_bytes()

    assert "job1\n" == cli("enqueue", "-q", "--", "true", env={"QUEUECTL_HOME": str(left)}).out

    assert log == (left / "jobs.db-wal.left-over").read_bytes()
    with Queue(str(left / "jobs.db")) as queue:
        assert ["job1"] == [job.id for job in queue.jobs()]
        assert [] == oracle.problems(queue.store, ended=False)
    (scene.folder / "go").touch()
    kill(scene.pids("beats"))


def kill(pids: List[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
