"""The supervisor keeps its workers alive: a dead one is replaced, one that keeps dying with growing delay."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.scene import Scene

pytestmark = pytest.mark.posix


def test_a_killed_worker_is_replaced(scene: Scene) -> None:
    """The new one has the old one's number and another pid, and works."""
    group = scene.start("--count", "2")
    first, second = group.workers()

    os.kill(first.pid, signal.SIGKILL)
    third = scene.successor(group, first)

    assert first.pid != third.pid
    workers = group.workers()
    assert [third.id, second.id] == [worker.id for worker in workers]
    assert second == workers[1]._replace(renewed_mono_s=second.renewed_mono_s, lease_expires_at=second.lease_expires_at)
    job_id = scene.queue.enqueue(scene.journal.command()).id
    scene.until(job_id, "completed")
    alive = group.workers()
    out = group.stop().out.splitlines()
    assert "[worker 0] died (signal KILL), restarts in 0.2 s" in out
    # The first may have been killed between its entry in the store and its line.
    assert {f"[worker {worker.number}] pid={worker.pid} started" for worker in alive} <= set(out)
    scene.judge()


def test_a_worker_that_keeps_dying_is_restarted_with_growing_delay(scene: Scene) -> None:
    """Each death of a young worker doubles the wait."""
    scene.queue.set_setting("max_lost", "4")
    job_id = scene.queue.enqueue("kill -9 $PPID; sleep 60").id
    group = scene.start(wait=False)

    scene.until(job_id, "dead", timeout=60)

    out = group.stop().out
    delays = [line.rpartition(" restarts in ")[2] for line in out.splitlines() if " restarts in " in line]
    assert ["0.2 s", "0.4 s", "0.8 s", "1.6 s"] == delays


def test_a_group_whose_worker_waits_for_its_restart_can_be_stopped(scene: Scene) -> None:
    """A stop does not wait for the delay, and starts nobody."""
    scene.queue.set_setting("max_lost", "4")
    job_id = scene.queue.enqueue("kill -9 $PPID; sleep 60").id
    group = scene.start(wait=False)
    scene.until(job_id, "dead", timeout=60)

    done = group.stop()

    assert 0 == done.code
    assert 4 == done.out.count(" started")


def test_a_worker_that_ends_by_itself_when_drained_is_not_replaced(scene: Scene) -> None:
    """``--drain``: exit code 0 of all workers ends the group."""
    scene.queue.enqueue_many(["true"] * 3)

    done = scene.start("--count", "3", "--drain", wait=False).wait()

    assert (0, 3, 3) == (done.code, done.out.count(" started"), done.out.count(" exiting"))
