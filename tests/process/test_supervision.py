"""What a supervisor does besides starting workers must not keep it from them, nor end it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any, Callable, Iterator, List

import pytest

from queuectl.pruning import PRUNE_S, Pruner
from tests.faults.faulty import state_of
from tests.process.scene import Scene

resource = pytest.importorskip("resource", reason="needs POSIX limits")

pytestmark = pytest.mark.posix


@pytest.fixture
def supervisor(scene: Scene) -> Iterator[Callable[..., Any]]:
    """Start ``worker start`` in which *changes*, statements in Python, are in force; not so in its workers."""
    started: List[Any] = []

    def start(changes: str, **env: str) -> Any:
        code = f"{changes}; from queuectl.main import main; main()"
        words = [sys.executable, "-c", code, "worker", "start"]
        started.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **env})
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_signal_is_heard_while_old_jobs_are_deleted(scene: Scene, supervisor: Callable[..., Any]) -> None:
    """Between one step and the next: 3,000 are to go, and it is told to stop in the middle of the first 1,000."""
    ids = scene.queue.enqueue_many(["true"] * 3000)
    scene.queue.set_setting("keep_completed", "0.001")
    scene.queue.cancel(*ids)
    met = scene.folder / "met"
    process = supervisor(
        "import queuectl.pruning as pruning; pruning.PRUNE_S = 0.2",
        QUEUECTL_FAULT=f"worker start/pruning:1:STOP@{met}",
    )
    scene.eventually(lambda: met.exists() and state_of(process.pid) == "T", what="the first step")

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)

    assert 0 == process.wait(60)
    assert 2000 == scene.queue.status().jobs["cancelled"]


def test_all_that_is_old_is_deleted_step_by_step(scene: Scene) -> None:
    """One step after another, and the one that finds nothing says that nothing is left to do for a while."""
    ids = scene.queue.enqueue_many(["true"] * 2500)
    scene.queue.set_setting("keep_completed", "0.001")
    scene.queue.cancel(*ids)
    pruner = Pruner(scene.queue.store)
    at_mono = time.monotonic() + PRUNE_S

    left = []
    while pruner.step(at_mono) <= at_mono:
        left.append(scene.queue.status().jobs["cancelled"])

    assert [1500, 500, 0] == left
    assert 0 == scene.queue.status().jobs["cancelled"]


def test_a_worker_that_cannot_be_started_is_tried_again(scene: Scene) -> None:
    """A supervisor without a free descriptor keeps the workers that it has, says what is the matter, and goes on."""
    group = scene.start("--count", "2")
    first, second = group.workers()
    limits = resource.prlimit(group.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(group.pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # those that it has it keeps

    os.kill(first.pid, signal.SIGKILL)
    scene.eventually(lambda: group.out.count("could not start (Too many open files") >= 2)
    scene.until(scene.queue.enqueue("true").id, "completed")
    assert [second.pid] == group.pids()
    resource.prlimit(group.pid, resource.RLIMIT_NOFILE, limits)

    scene.eventually(lambda: len(group.workers()) == 2, timeout=60, what="a replacement")
    assert second.id == group.workers()[1].id
    done = group.stop()
    assert (0, "") == (done.code, done.err)
    why = "Too many open files (ulimit -n is 3)"
    assert f"[worker 0] could not start ({why}), tries again in 0.4 s" in done.out.splitlines()


def test_a_group_of_which_no_worker_can_be_started_says_so(scene: Scene, supervisor: Callable[..., Any]) -> None:
    """Whoever starts it hears of it at once; nothing of it is left in the store."""
    process = supervisor(
        "import os; from queuectl import launch; vars(os).pop('memfd_create', None); "
        "launch.python_command = lambda: [os.path.abspath('none')]"
    )

    said = process.communicate(timeout=30)[0]

    assert 1 == process.returncode
    assert said.startswith(b"queuectl: cannot start a worker: No such file or directory: ")
    assert [] == scene.queue.store.workers()


def test_a_supervisor_that_cannot_look_goes_on(scene: Scene) -> None:
    """Its entry is gone, and without a descriptor it cannot find out under which name to come back: it says so once."""
    scene.queue.set_setting("lease", "2")
    group = scene.start(env={"QUEUECTL_SYNCHRONOUS": "normal"})  # else it is the store that it cannot use
    (worker,) = group.workers()
    (entry,) = [row for row in scene.queue.store.workers() if row.role == "supervisor"]
    limits = resource.prlimit(group.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(group.pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # those that it has it keeps

    scene.queue.store.unregister(entry.id)
    why = f"Too many open files (ulimit -n is 3): /proc/{group.pid}/stat"
    said = f"queuectl: cannot check on the workers: {why}. Waiting."
    scene.eventually(lambda: group.has_said(said))
    resource.prlimit(group.pid, resource.RLIMIT_NOFILE, limits)
    scene.eventually(group.is_registered)

    assert [worker.pid] == group.pids()
    assert (0, 1) == (group.stop().code, group.out.count(said))


def test_who_leaves_while_the_store_is_away_leaves_no_pids(scene: Scene, supervisor: Callable[..., Any]) -> None:
    """Somebody holds the write lock: entries stay for the next sweep, but ``pids.json`` names nobody who is dead."""
    process = supervisor("import queuectl.db.sqlite_file as it; it.PATIENCE_S = 0.2")
    pids = scene.folder / ".queuectl" / "pids.json"
    scene.eventually(lambda: pids.exists() and json.loads(pids.read_text())["pids"], what="a pid")
    (worker,) = json.loads(pids.read_text())["pids"]
    holder = sqlite3.connect(str(scene.folder / ".queuectl" / "jobs.db"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    process.send_signal(signal.SIGSTOP)  # both that follow reach it at once: it replaces nobody
    os.kill(worker, signal.SIGKILL)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    code = process.wait(30)
    holder.close()

    assert (0, {"pids": []}) == (code, json.loads(pids.read_text()))
    scene.drain()
    assert [] == scene.queue.store.workers()


def test_what_was_lost_before_a_group_started_is_told_by_it(scene: Scene) -> None:
    """Not only what it loses itself."""
    job_id = scene.queue.enqueue('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || exec sleep 60').id
    first = scene.start()
    scene.until(job_id, "processing")
    first.kill_all()

    second = scene.start()

    scene.until(job_id, "completed")
    assert f"[worker 0] job {job_id} lost, runs again" in second.stop().out.splitlines()


def test_what_a_worker_had_when_its_group_ended_is_given_back(scene: Scene) -> None:
    """It dies while the supervisor stops: the job is told and free, and neither has left an entry."""
    job_id = scene.queue.enqueue("exec sleep 60").id
    group = scene.start()
    scene.until(job_id, "processing")
    (worker,) = group.pids()
    group.send(signal.SIGSTOP)  # both that follow reach it at once: it replaces nobody

    os.kill(worker, signal.SIGKILL)
    group.send(signal.SIGTERM)
    group.send(signal.SIGCONT)

    done = group.wait()
    assert (0, "pending") == (done.code, scene.state(job_id))
    assert f"[worker 0] job {job_id} lost, runs again" in done.out.splitlines()
    assert [] == scene.queue.store.workers()
    assert {"pids": []} == json.loads((scene.folder / ".queuectl" / "pids.json").read_text())


def test_a_group_starts_among_many_open_files(scene: Scene, supervisor: Callable[..., Any]) -> None:
    """What starts it may have left it more than a thousand; a job runs, and TERM is a stop like any other."""
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048:
        pytest.skip("so many cannot be opened here")
    job_id = scene.queue.enqueue("true").id
    process = supervisor(
        "import os, resource as r; r.setrlimit(r.RLIMIT_NOFILE, (2048, r.getrlimit(r.RLIMIT_NOFILE)[1])); "
        "[os.dup(1) for _ in range(1100)]"
    )
    scene.until(job_id, "completed")

    process.terminate()

    said = process.communicate(timeout=60)[0].decode()
    assert (0, True) == (process.returncode, said.endswith("[worker 0] exiting\n")), said
