"""What was answered survives a loss of power: power is cut under real commands, and their system calls are traced."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Container, Iterator, List

import pytest

from queuectl import Queue
from tests import oracle
from tests.process.scene import Scene

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(sys.platform != "linux", reason="power is cut by a call of ext4, calls are traced by strace"),
]

# -- the power ----------------------------------------------------------------------------------

SHUT_DOWN, WITHOUT_JOURNAL = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH


class Machine:
    """A home on a file system of its own, whose power can be cut: what was not synced is gone."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._image = home.parent / "image"
        with open(self._image, "wb") as file:
            file.truncate(64 * 1024 * 1024)
        self._sh("mkfs.ext4", "-q", "-F", str(self._image))
        home.mkdir(mode=0o700)
        self.on()

    def _sh(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no file system of its own can be mounted here: {' '.join(words)}: {done.stderr.strip()}")

    def on(self) -> None:
        self._sh("mount", "-o", "loop", str(self._image), str(self._home))

    def cut(self) -> None:
        """Cut the power: from this moment nothing reaches the disk."""
        import fcntl

        handle = os.open(self._home, os.O_RDONLY)
        fcntl.ioctl(handle, SHUT_DOWN, struct.pack("I", WITHOUT_JOURNAL))
        os.close(handle)

    def off(self) -> None:
        """Take the dead file system away; whoever used it has to be gone.

        What is on its disk is what a copy has: a mount namespace of another test may still hold the file system itself.
        """
        deadline = time.monotonic() + 10
        while subprocess.run(["umount", str(self._home)], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", str(self._home)])
                pytest.fail("the file system is still in use")
            time.sleep(0.05)
        dead, self._image = self._image, self._image.with_name(self._image.name + "+")
        self._sh("cp", "--sparse=always", str(dead), str(self._image))
        dead.unlink()


@pytest.fixture
def machine(home: Path) -> Iterator[Machine]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4 to make a file system of its own")
    started = Machine(home)
    yield started
    started.off()


ENQUEUE_FOR_EVER = "while :; do python -m queuectl enqueue -q --command 'true' || exit; done"


def stand_still(*groups: int) -> None:
    """Stop all processes of these groups so that none of them is in a call any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        for _ in range(50):
            if all(state in "TZ" for state in _states(groups)):
                return
            time.sleep(0.002)
        for group in groups:  # a process that waits in vfork for a child that was stopped will not stop by itself
            os.killpg(group, signal.SIGCONT)
    pytest.fail("the processes do not stop")


def _states(groups: Container[int]) -> Iterator[str]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended
        if int(group) in groups:
            yield state


def test_acknowledged_jobs_and_reported_ends_survive(machine: Machine, background: Callable[..., Any]) -> None:
    """Every id that an enqueue printed is a job afterwards; every end that a worker or a wait told of is recorded.

    Nobody runs on when the power goes. Here that takes care: to a process that runs on, a file system that was shut
    down may report success for what it drops.
    """
    Queue().close()
    shell = ENQUEUE_FOR_EVER.replace("python", sys.executable)
    group = background("worker", "start", "--count", "2")
    enqueuer = subprocess.Popen(
        ["/bin/sh", "-c", shell],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert enqueuer.stdout is not None
    told = [enqueuer.stdout.readline().strip() for _ in range(12)]
    last = told[-1]
    waited = subprocess.run([sys.executable, "-m", "queuectl", "wait", last], capture_output=True, timeout=60)

    stand_still(group.pid, enqueuer.pid)
    machine.cut()
    for pid in (group.pid, enqueuer.pid):
        os.killpg(pid, signal.SIGKILL)
    told += enqueuer.communicate()[0].split()
    lines = group.wait().out.splitlines()
    machine.off()
    machine.on()

    ended = re.findall(r"job (\S+) completed", "\n".join(lines))
    assert 0 == waited.returncode
    assert len(ended) > 5
    with Queue(create=False) as queue:
        states = {job.id: job.state for job in queue.jobs()}
        assert [] == [job_id for job_id in told if job_id not in states]
        assert [] == [job_id for job_id in [*ended, last] if states[job_id] != "completed"]
    assert 0 == background("worker", "start", "--drain").wait().code
    with Queue(create=False) as queue:
        assert [] == oracle.problems(queue.store)


# -- the calls --------------------------------------------------------------------------------

CALLS = "write,pwrite64,fdatasync,fsync"


@pytest.fixture
def trace(home: Path) -> Callable[..., List[str]]:
    """Return ``trace(WORD ...)``: run ``queuectl WORD ...`` under strace and return its calls, in order."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")

    def run(*words: str, inject: str = "") -> List[str]:
        log = home.parent / "calls"
        options = ["strace", "-f", "-qq", "-y", "-s", "2000", "-o", str(log), "-e", f"trace={CALLS}"]
        done = subprocess.run(
            [*options, *(["-e", f"inject={inject}"] if inject else []), sys.executable, "-m", "queuectl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "Operation not permitted" in done.stderr and not log.read_text():
            pytest.skip("processes may not be traced here")
        return [*_joined(log.read_text().splitlines()), f"exit {done.returncode}: {done.stderr}"]

    return run


def _joined(lines: List[str]) -> List[str]:
    """Put calls that were interrupted by others' together, at their end."""
    begun = {}
    found = []
    for line in lines:
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call[: -len("<unfinished ...>")]
        elif call.startswith("<... "):
            found.append(begun.pop(pid, "") + call.partition("resumed>")[2])
        else:
            found.append(call)
    return found


def kinds(calls: List[str], answer: str) -> List[str]:
    """Reduce calls to what matters: ``commit`` (the log is written), ``sync``, and the ``answer``."""
    found = []
    for call in calls:
        if re.match(r"pwrite64\(\d+<.*jobs\.db-wal>", call):
            found.append("commit")
        elif re.match(r"fdatasync\(\d+<.*jobs\.db-wal>\s*\).* = 0\b", call):
            found.append("sync")
        elif re.match(r"write\(\d+<", call) and answer in call:
            found.append("answer")
    return [kind for position, kind in enumerate(found) if position == 0 or found[position - 1] != kind]


ANSWERS = [
    (["enqueue", "--", "true"], "Enqueued job job1"),
    (["cancel", "waiting"], "Cancelled waiting"),
    (["retry", "over"], "Retried over"),
    (["edit", "waiting", "priority=3"], "waiting"),
    (["config", "set", "lease", "4"], "OK"),
    (["prune", "--yes"], "Deleted 1 job"),
    (["reset", "--yes"], "Queue reset"),
]


@pytest.mark.parametrize(("words", "answer"), ANSWERS, ids=[words[0] for words, _ in ANSWERS])
def test_an_answer_is_printed_after_the_sync(
    scene: Scene, trace: Callable[..., List[str]], words: List[str], answer: str
) -> None:
    """The log is written, then synced, and only then the command says that it is done."""
    scene.queue.enqueue("true", id="over")
    scene.drain()
    scene.queue.enqueue("true", id="waiting", delay=3600)

    calls = trace(*words)

    assert ["commit", "sync", "answer"] == kinds(calls, answer)[-3:]
    assert "exit 0: " == calls[-1]


def test_the_first_enqueue_syncs_the_new_file_too(trace: Callable[..., List[str]]) -> None:
    """A new store: its file, its name in the folder, the folder's name, and the job, all before the answer."""
    calls = trace("enqueue", "--", "true")

    synced = [call for call in calls if re.match(r"(fsync|fdatasync)\(", call)]
    at = next(position for position, call in enumerate(calls) if "Enqueued job job1" in call)
    assert ["commit", "sync", "answer"] == kinds(calls, "Enqueued job job1")[-3:]
    for what in (r"jobs\.db\.new-[^>]*>", r"/\.queuectl>", r"/q[^/>]*>"):
        assert any(re.search(r"<[^>]*" + what, call) and calls.index(call) < at for call in synced), what


def test_an_end_is_told_after_the_sync(scene: Scene, trace: Callable[..., List[str]]) -> None:
    """Also where the disk takes its time: the line of a worker waits for it."""
    scene.queue.enqueue_many(["true", "sleep 0.5"])

    calls = trace("worker", "start", "--drain", inject="fdatasync:delay_enter=50000")

    for job_id in ("job1", "job2"):  # while the next command runs, and before the worker leaves
        order = kinds(calls, f"job {job_id} completed")
        assert ["commit", "sync"] == order[: order.index("answer")][-2:]
    assert calls[-1].startswith("exit 0: ")


def test_an_end_that_no_sync_covers_is_not_told(scene: Scene, trace: Callable[..., List[str]]) -> None:
    """Not even by a worker that leaves: it says that the disk cannot be written."""
    scene.drain()  # the first worker since the machine was started syncs as it comes
    scene.queue.enqueue("true")

    calls = trace("worker", "start", "--drain", inject="fdatasync:error=EIO")

    assert "answer" in kinds(calls, "picked job job1")
    assert "answer" in kinds(calls, f"queuectl: cannot write {scene.folder}/.queuectl/jobs.db to disk: Input/output")
    assert "answer" not in kinds(calls, "job job1 completed")


def test_a_sync_that_fails_is_no_answer(scene: Scene, trace: Callable[..., List[str]]) -> None:
    """A disk that cannot write: exit code 1 and a sentence, not a promise."""
    calls = trace("enqueue", "--", "true", inject="fdatasync:error=EIO")

    assert "answer" not in kinds(calls, "Enqueued")
    path = f"{scene.folder}/.queuectl/jobs.db"
    assert calls[-1] in (
        f"exit 1: queuectl: cannot write {path} to disk: Input/output error.\n",
        f"exit 1: queuectl: the store {path} failed: disk I/O error.\n",  # where SQLite itself synced
    )
