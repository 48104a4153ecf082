"""Signals to a group and to single workers: no new job, the running one is finished, exit 0."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from functools import partial

import pytest

from tests.process.scene import HELD, Scene, alive, collected

pytestmark = pytest.mark.posix

STOPPING = "received stop signal, will exit after current job"


# A process that is told to stop in the very moment in which it begins to hear of that.
EARLY = """
import os, signal, sys

set_handler = signal.signal

def and_send(number, handler):
    before = set_handler(number, handler)
    if number == signal.SIGTERM:
        signal.signal = set_handler
        os.kill(os.getpid(), number)
    return before

signal.signal = and_send
{main}
"""
MAINS = {
    "worker": 'from queuectl import worker_main; sys.exit(worker_main.main(["0", "group", "1", "", ""]))',
    "supervisor": 'from queuectl.main import main; sys.exit(main(["worker", "start"]))',
}


@pytest.mark.parametrize("who", list(MAINS))
def test_a_signal_that_comes_while_the_process_starts(scene: Scene, who: str) -> None:
    """It is heard: nothing sends it again, and a supervisor waits for its workers for ever."""
    waiting = scene.queue.enqueue("true").id
    words = [sys.executable, "-c", EARLY.format(main=MAINS[who])]

    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert 0 == process.wait(30)
        finally:
            process.kill()

    assert "pending" == scene.state(waiting)
    assert [] == scene.queue.store.workers()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_one_signal_lets_the_running_job_finish(scene: Scene, name: str) -> None:
    """TERM, a first Ctrl-C and a hang-up mean the same: the running job completes, the next is not begun."""
    running, waiting = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    group = scene.start()
    scene.noted("start")

    group.send(getattr(signal, name))
    scene.eventually(lambda: f"[worker 0] {STOPPING}\n" in group.out, what="the stop is noticed")
    assert "processing" == scene.state(running)
    (scene.folder / "go").touch()
    done = group.wait()

    assert (0, "") == (done.code, done.err)
    assert ("completed", "pending") == (scene.state(running), scene.state(waiting))
    assert [f"[worker 0] {STOPPING}", f"[worker 0] job {running} completed", "[worker 0] exiting"] == (
        done.out.splitlines()[-3:]
    )
    scene.judge(ended=False)


def test_a_signal_that_comes_twice_is_still_a_graceful_stop(scene: Scene) -> None:
    """Only a second Ctrl-C ends the command; a service manager that repeats TERM does not."""
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    group = scene.start()
    scene.noted("start")

    group.send(signal.SIGTERM)
    scene.eventually(lambda: STOPPING in group.out)
    group.send(signal.SIGTERM)
    group.send(signal.SIGHUP)
    scene.queue.cancel(scene.queue.enqueue("true").id)  # a moment in which the store is used by somebody
    assert group.running
    (scene.folder / "go").touch()

    assert 0 == group.wait().code
    assert "completed" == scene.state(job_id)


def test_term_to_an_idle_group_ends_it(scene: Scene) -> None:
    """Nothing runs, so nothing is waited for."""
    group = scene.start("--count", "3")

    done = group.stop()

    assert (0, 3) == (done.code, done.out.count(" exiting"))
    assert [] == scene.queue.store.workers()


def test_term_to_one_worker_ends_that_worker_after_its_job(scene: Scene) -> None:
    """It is not replaced, the others go on; when the last is gone the group ends with exit code 0."""
    jobs = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    group = scene.start("--count", "2")
    scene.noted("start", 2)
    first, second = group.pids()

    os.kill(first, signal.SIGTERM)
    scene.eventually(lambda: f"[worker 0] {STOPPING}\n" in group.out)
    assert alive(first)
    (scene.folder / "go").touch()
    scene.gone([first])

    later = scene.queue.enqueue(scene.journal.command()).id
    scene.until(later, "completed")
    assert [second] == group.pids()
    os.kill(second, signal.SIGTERM)
    done = group.wait()
    assert (0, 2) == (done.code, done.out.count(" started"))
    assert ["completed"] * 2 == [scene.state(job_id) for job_id in jobs]
    scene.judge()


def test_quit_to_a_group_ends_its_jobs_at_once(scene: Scene) -> None:
    """QUIT is what ``worker stop --now`` sends: the command's tree is ended and the job put back."""
    job_id = scene.queue.enqueue(scene.journal.command("sleep 60")).id
    group = scene.start()
    scene.noted("start")

    done = group.stop(signal.SIGQUIT, timeout=15)

    assert 0 == done.code
    job = scene.queue.get(job_id)
    assert ("pending", 1, 0) == (job.state, job.attempts, job.failures)
    assert ["stopped"] == scene.outcomes(job_id)
    assert f"[worker 0] job {job_id} put back" in done.out.splitlines()
    scene.judge(ended=False)


def test_a_group_that_was_told_to_ignore_hang_ups_does(scene: Scene) -> None:
    """``nohup queuectl worker start`` survives the end of its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it to what it starts
    try:
        group = scene.start()
    finally:
        signal.signal(signal.SIGHUP, before)

    group.send(signal.SIGHUP, group=True)
    job_id = scene.queue.enqueue(scene.journal.command()).id
    scene.until(job_id, "completed")

    assert STOPPING not in group.out
    group.stop()


def test_a_signal_at_any_moment_of_the_start_ends_the_group_in_order(scene: Scene) -> None:
    """TERM that comes while the supervisor starts or its workers come up leaves nobody behind."""
    for moment in range(10):
        group = scene.start("--count", "2", wait=False)
        # Before it has registered TERM ends it as it ends any program; it has started nobody then.
        scene.eventually(group.is_registered)
        scene.eventually(partial(group.has_said, ["", "[worker 0]", "[worker 1]"][moment % 3]))

        assert 0 == group.stop().code

        assert [] == scene.queue.store.workers()


@pytest.mark.slow
@pytest.mark.limit(150)
@pytest.mark.parametrize("lease", ["2", "3600"])
def test_a_worker_told_twice_gives_up_on_a_lock(scene: Scene, lease: str) -> None:
    """Somebody holds the store's lock and never lets go: the end is noted, and the next worker tells it.

    With a short lease, it is the renewal that meets the lock, again and again.
    """
    scene.queue.set_setting("lease", lease)
    job_id = scene.queue.enqueue("echo $$ > pid; " + scene.journal.command(HELD)).id
    group = scene.start()
    scene.noted("start")
    (pid,) = scene.pids("pid")
    with contextlib.closing(sqlite3.connect(scene.queue.store.location, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        (scene.folder / "go").touch()
        scene.noted("end")
        # Else the second signal may be its end. A renewal that waits for the lock gives up after 30 s.
        scene.eventually(lambda: collected(pid), timeout=60, what="the end of its process")

        for told in (1, 2):
            group.send(signal.SIGINT)
            scene.eventually(lambda told=told: group.out.count("stop signal") == told, timeout=20)
        done = group.wait(60)

    assert (130, True) == (done.code, "the result of 1 run is saved here" in done.out), done.out
    assert "processing" == scene.state(job_id)
    scene.drain()
    assert ["completed"] == scene.outcomes(job_id)
    scene.judge(acknowledged=[job_id])
