"""A full disk: a clear sentence, nothing half done, and everything goes on when there is room again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from queuectl import Queue
from queuectl.errors import StoreUnavailable
from queuectl.job import JobFilter
from tests.process.scene import HELD, Scene

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk"),
]


CHECKPOINT = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""


class Disk:
    """A small file system at the place of the home."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(path)], capture_output=True
        )
        if made.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")

    def fill(self) -> None:
        """Take all the room that is left, and that which a store gets by copying its log into its file."""
        log = self.path / "jobs.db-wal"
        deadline = time.monotonic() + 20
        while True:
            self._take_the_rest()
            if not log.exists() or log.stat().st_size == 0:
                return
            assert time.monotonic() < deadline, "the log does not become empty"
            subprocess.run([sys.executable, "-c", CHECKPOINT, str(self.path / "jobs.db")], check=True)

    def _take_the_rest(self) -> None:
        with open(self.path / "ballast", "ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    pass

    def free(self) -> None:
        """Give it back."""
        (self.path / "ballast").unlink()

    def grow(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def close(self) -> None:
        deadline = time.monotonic() + 5
        while subprocess.run(["umount", str(self.path)], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", str(self.path)], check=True)
                return
            time.sleep(0.05)


@pytest.fixture
def disk(home: Path) -> Iterator[Disk]:
    """A disk of 1 MiB that is the test's home."""
    mounted = Disk(home)
    yield mounted
    mounted.close()


FULL = "queuectl: the disk of {}/jobs.db is full; nothing was changed. Free some space and try again.\n"


def test_enqueuing_on_a_full_disk(disk: Disk, scene: Scene, cli: Callable[..., Any]) -> None:
    """The sentence, exit code 1, no id used up; looking goes on; with room again all is as before."""
    assert "job1\n" == cli("enqueue", "-q", "--", "true").out
    disk.fill()

    refused = cli("enqueue", "--", "true")
    assert ("", FULL.format(disk.path), 1) == refused
    many = cli("enqueue", "--file", "-", "--lines", input="echo some words to store\n" * 1000)
    assert ("", FULL.format(disk.path), 1) == many
    assert "  pending: 1\n" in cli("status", code=0).out
    assert 1 == cli("doctor").out.count("bad   disk")
    told = f"The disk of {disk.path}/jobs.db is full: until there is space again, no run starts"
    assert told in cli("explain", "job1", code=0).out

    disk.free()
    assert "is full" not in cli("explain", "job1", code=0).out
    assert "job2\n" == cli("enqueue", "-q", "--", "true").out
    scene.drain()
    scene.judge()


@pytest.mark.parametrize("words", [["status"], ["enqueue", "--", "true"], ["worker", "start"]], ids=" ".join)
def test_opening_a_closed_store_on_a_full_disk(disk: Disk, cli: Callable[..., Any], words: Any) -> None:
    """SQLite needs room even to look at a store that nobody has open; it calls the lack of it an I/O error."""
    Queue().close()
    assert ["jobs.db"] == os.listdir(disk.path)
    disk.fill()

    refused = cli(*words)

    assert ("", FULL.format(disk.path), 1) == refused
    disk.free()
    assert "job1\n" == cli("enqueue", "-q", "--", "true", code=0).out


def test_a_disk_without_an_inode(disk: Disk, cli: Callable[..., Any]) -> None:
    """It has room, but takes no further file, such as a log: said of a store that nobody has open."""
    with Queue() as queue:
        queue.enqueue("true")
    found = os.statvfs(disk.path)
    limit = ["mount", "-o", f"remount,nr_inodes={found.f_files - found.f_ffree}", str(disk.path)]
    subprocess.run(limit, check=True)

    said = cli("enqueue", "--", "true", code=1).err

    why = "its disk has no inode left for another file. Delete some files there and try again."
    assert f"queuectl: cannot open the store {disk.path}/jobs.db: {why}\n" == said
    disk_is_bad = [
        each for each in json.loads(cli("doctor", "--json", code=1).out)["findings"] if each["level"] == "bad"
    ]
    assert [why] == [each["text"].partition(": ")[2] + " " + each["advice"] for each in disk_is_bad]


def test_a_worker_without_an_inode_for_its_folder(disk: Disk, scene: Scene) -> None:
    """It says what is lacking, not where in the program that was met; when there is one, it works by itself."""
    job_id = scene.queue.enqueue("true").id
    found = os.statvfs(disk.path)
    limit = f"remount,nr_inodes={found.f_files - found.f_ffree}"
    subprocess.run(["mount", "-o", limit, str(disk.path)], check=True)
    group = scene.start("--drain", wait=False)
    why = "No space left on device (no inode is left for another file)"
    said = f"queuectl: worker 0: cannot make {disk.path}/jobs.db-run: {why}."
    scene.eventually(lambda: said in group.err.splitlines(), timeout=30)

    subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(disk.path)], check=True)

    assert 0 == group.wait(60).code
    assert "completed" == scene.state(job_id)
    scene.judge()


@pytest.mark.parametrize("room", [0, 16, 48, 96, 128, 160, 192])
def test_making_a_store_on_a_full_disk(disk: Disk, cli: Callable[..., Any], room: int) -> None:
    """There is no store afterwards, nor anything else that was not there; *room* is what is left, in KiB.

    If that is too little for its shared memory, SQLite speaks of an I/O error. If it is enough for the log, but not for
    the file as well, the store must not be put in place without its log, as a damaged one.
    """
    disk.fill()
    os.truncate(disk.path / "ballast", (disk.path / "ballast").stat().st_size - room * 1024)

    refused = cli("enqueue", "--", "true")

    why = "its disk is full. Free some space and try again."
    assert ("", f"queuectl: cannot create the store {disk.path}/jobs.db: {why}\n", 1) == refused
    assert ["ballast"] == os.listdir(disk.path)
    disk.free()
    assert "job1\n" == cli("enqueue", "-q", "--", "true", code=0).out


@pytest.mark.slow
def test_a_disk_that_fills_while_jobs_run(disk: Disk, scene: Scene) -> None:
    """Claims wait, ends and output are kept, nobody is taken for hung; with room again all of it is stored, once."""
    scene.queue.set_setting("lease", "2")
    groups = [scene.start("--concurrency", "2"), scene.start()]
    body = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.1; done; until [ -e go ]; do sleep 0.1; done; echo last"
    running = scene.queue.enqueue_many([scene.journal.command(body)] * 2)
    scene.noted("start", 2)
    waiting = scene.queue.enqueue(scene.journal.command("echo later"), delay=1).id
    pids = [group.pids() for group in groups]

    disk.fill()
    since = time.monotonic()
    (scene.folder / "go").touch()
    scene.noted("end", 2)
    scene.eventually(lambda: time.monotonic() > since + 5)  # two leases and a half
    assert {"processing", "pending"} == {job.state for job in scene.queue.jobs()}
    disk.free()

    for job_id in [*running, waiting]:
        scene.until(job_id, "completed")
        assert ["completed"] == scene.outcomes(job_id)
    assert ["".join(f"{n}\n" for n in [1, 2, 3, 4, 5, 6, 7, 8, "last"])] * 2 == [scene.output(job) for job in running]
    assert pids == [group.pids() for group in groups]
    for group in groups:
        done = group.stop()
        assert (0, "") == (done.code, done.err)
        assert done.out.count("is full; nothing was changed. Free some space and try again. Waiting.") in (1, 2)
    scene.judge(acknowledged=[*running, waiting])


def test_a_worker_on_a_full_disk_can_be_stopped(disk: Disk, scene: Scene, cli: Callable[..., Any]) -> None:
    """An idle group goes at once; what it could not write about that is put right by the next one."""
    group = scene.start()
    disk.fill()

    stopped = cli("worker", "stop", "--timeout", "20")

    assert (0, "Stopped 1 worker.\n") == (stopped.code, stopped.out)
    assert 0 == group.wait().code
    disk.free()
    assert "[]\n" == cli("worker", "list", "--json", code=0).out
    scene.drain()
    assert [] == scene.queue.store.workers()


@pytest.mark.slow
def test_a_worker_on_a_full_disk_that_is_told_twice_gives_up(disk: Disk, scene: Scene) -> None:
    """It has an end to hand in and nowhere to write even that down: the run is lost, and its job runs again."""
    group = scene.start()
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    scene.noted("start", 1)
    disk.fill()
    (scene.folder / "go").touch()
    scene.eventually(lambda: group.has_said("is full"), timeout=30)

    for told in (1, 2):
        os.kill(group.pid, signal.SIGINT)
        scene.eventually(lambda told=told: group.out.count("stop signal") == told)
    done = group.wait()

    assert (130, True) == (done.code, "gave up on the store: the result of 1 run is lost" in done.out), done.out
    disk.free()
    scene.drain()
    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge(acknowledged=[job_id])


def test_a_full_disk_delays_what_a_worker_says(
    disk: Disk, cli: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Its output is there, its store elsewhere: jobs go on, and with room again so do the lines, none missing."""
    where = {"QUEUECTL_HOME": str(disk.path.parent / "elsewhere")}
    cli("enqueue", "--", "true", env=where, code=0)
    said = disk.path / "said"
    with said.open("wb") as output:
        words = [sys.executable, "-m", "queuectl", "worker", "start"]
        worker = subprocess.Popen(words, stdout=output, env={**os.environ, **where})
    try:
        eventually(lambda: b"job job1 completed" in said.read_bytes())
        disk.fill()
        for count in range(2, 60):  # more than the rest of a block holds
            cli("run", "-q", "--id", f"job{count}", "--", "true", "x" * 1000, env=where, code=0)
        assert b"job59" not in said.read_bytes()
        disk.free()
        cli("run", "-q", "--id", "last", "--", "true", env=where, code=0)
        eventually(lambda: b"job last completed" in said.read_bytes())
    finally:
        worker.terminate()
        worker.wait()

    jobs = [*(f"job{count}" for count in range(1, 60)), "last"]
    assert jobs == [line.split()[3] for line in said.read_text().splitlines() if line.endswith(" completed")]


def test_a_checkpoint_for_which_there_is_no_room(disk: Disk, scene: Scene) -> None:
    """A log that does not fit into the file any more: what was acknowledged stays, and is there when there is room."""
    disk.grow("64m")
    ids = []
    with Queue(disk.path / "jobs.db") as queue:  # opened with room for the longest log
        disk.grow("6m")
        with pytest.raises(StoreUnavailable, match="is full; nothing was changed"):
            while True:
                ids += queue.enqueue_many([{"command": ": " + "x" * 10_000}] * 100)
    assert os.stat(disk.path / "jobs.db-wal").st_size > os.stat(disk.path / "jobs.db").st_size > 0

    disk.grow("64m")

    assert [*ids, f"job{len(ids) + 1}"] == [*ids, scene.queue.enqueue("true").id]
    scene.judge(acknowledged=ids, ended=False)


def test_a_log_that_has_taken_the_rest_of_the_disk(disk: Disk, scene: Scene) -> None:
    """It was never copied into the file, as only commits did that: nothing could be written any more."""
    disk.grow("64m")
    with Queue(disk.path / "jobs.db") as queue:  # opened with room for the longest log
        queue.enqueue(scene.journal.command())
        disk.fill()
        with open(disk.path / "ballast", "r+b") as ballast:
            ballast.truncate(os.stat(ballast.name).st_size - 400_000)

        with pytest.raises(StoreUnavailable, match="is full; nothing was changed"):
            for _ in range(1000):
                queue.pause("default")
                queue.resume("default")
        queue.resume("default")
        for _ in range(20):
            queue.pause("default")
            queue.resume("default")

    scene.drain()
    assert 1 == scene.queue.prune(JobFilter())


def test_a_disk_smaller_than_a_log_may_get(disk: Disk, scene: Scene) -> None:
    """The log starts over in time, so that the room is for jobs: before, ten versions of each page took it."""
    ids = []
    with pytest.raises(StoreUnavailable, match="is full; nothing was changed"):
        while True:
            ids.append(scene.queue.enqueue("true").id)
    assert os.stat(disk.path / "jobs.db").st_size > 2**19
    scene.judge(acknowledged=ids, ended=False)
