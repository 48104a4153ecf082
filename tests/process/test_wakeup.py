"""An idle worker notices new work at once, and also when its bell is lost; idling costs next to nothing."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from pathlib import Path
from typing import List

import pytest

from tests.process.scene import HELD, Scene, bells

pytestmark = pytest.mark.posix


def latency_s(scene: Scene) -> float:
    """Enqueue a job on the idle store and return how long it waited for its claim."""
    job_id = scene.queue.enqueue("true").id
    scene.until(job_id, "completed")
    (run,) = scene.queue.runs(job_id)
    return run.started_at - scene.queue.get(job_id).created_at


def test_a_new_job_wakes_an_idle_worker(scene: Scene) -> None:
    """The bell rings: half of the jobs wait less than a quarter of a second; a look each second takes half of one."""
    group = scene.start()
    waits = []
    for _ in range(15):
        scene.eventually(lambda: len(bells(scene)) == 1, what="a bell")
        waits.append(latency_s(scene))

    assert statistics.median(waits) < 0.25, waits
    group.stop()
    assert [] == bells(scene)


def test_a_lost_bell_costs_a_moment(scene: Scene) -> None:
    """With its bell taken away the worker still finds the job by itself."""
    group = scene.start()
    for _ in range(3):
        scene.eventually(lambda: len(bells(scene)) == 1, what="a bell")
        bells(scene)[0].unlink()

        scene.until(scene.queue.enqueue("true").id, "completed")
    group.stop()


def test_workers_do_without_a_run_folder_that_is_not_to_be_trusted(scene: Scene) -> None:
    """Others may write to it: nothing is put there, and jobs are found all the same, also one behind a long row."""
    folder = scene.folder / ".queuectl" / "jobs.db-run"
    folder.mkdir()
    folder.chmod(0o777)
    group = scene.start()

    scene.until(scene.queue.enqueue("true").id, "completed")
    for job_id in scene.queue.enqueue_many(["true"] * 60 + ["sleep 0.3"]):
        scene.until(job_id, "completed")

    assert [] == list(folder.iterdir())
    group.stop()
    assert [] == scene.queue.store.check()


def test_a_commit_that_rings_no_bell_is_noticed(scene: Scene) -> None:
    """A program enqueues over its own connection: only its commit makes the job visible, and nothing rings then."""
    group = scene.start()
    line = sqlite3.connect(str(scene.folder / ".queuectl" / "jobs.db"))
    for _ in range(3):
        scene.eventually(lambda: len(bells(scene)) == 1, what="a bell")
        job_id = scene.queue.enqueue("true", connection=line).id
        line.commit()

        scene.until(job_id, "completed")
    line.close()
    group.stop()


def test_a_dead_workers_bell_is_no_obstacle(scene: Scene) -> None:
    """A bell that nobody listens to any more holds up no enqueue and is taken away."""
    group = scene.start()
    scene.eventually(lambda: len(bells(scene)) == 1, what="a bell")
    group.kill_all()

    scene.queue.enqueue("true")

    assert [] == bells(scene)
    scene.drain()


def test_all_idle_workers_wake_for_many_jobs(scene: Scene) -> None:
    """Jobs that come together run together, over the workers that were idle."""
    group = scene.start("--count", "4")
    scene.eventually(lambda: len(bells(scene)) == 4, what="four bells")

    scene.queue.enqueue_many([scene.journal.command(HELD)] * 4)

    scene.noted("start", 4)
    (scene.folder / "go").touch()
    for job_id in ("job1", "job2", "job3", "job4"):
        scene.until(job_id, "completed")
    group.stop()
    scene.judge()


def used_s(pids: List[int]) -> float:
    """Return the processor time of these processes so far."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def share_used(scene: Scene, pids: List[int], for_s: float) -> float:
    """Return what share of a core these processes use from now on."""
    before_s, begin = used_s(pids), time.monotonic()
    scene.eventually(lambda: time.monotonic() >= begin + for_s, every=for_s / 10)
    return (used_s(pids) - before_s) / (time.monotonic() - begin)


needs_schedstat = pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs /proc/PID/schedstat")


@needs_schedstat
def test_a_full_worker_rests_although_a_job_is_due(scene: Scene) -> None:
    """A job whose time comes while all slots are taken waits for one; the worker does not go round and round."""
    group = scene.start()
    scene.eventually(lambda: len(bells(scene)) == 1, what="a bell")
    late = scene.queue.enqueue("true", delay="2s")
    scene.eventually(lambda: time.time() >= late.created_at + 0.5)  # the idle worker hears of it first
    scene.queue.enqueue(scene.journal.command(HELD))
    scene.noted("start", 1)
    scene.eventually(lambda: time.time() >= late.run_at + 0.1)

    share = share_used(scene, group.pids(), 1.5)

    (scene.folder / "go").touch()
    scene.until(late.id, "completed")
    assert share < 0.25  # one that went round would take all that it is given
    group.stop()


@pytest.mark.slow
@needs_schedstat
def test_idle_workers_cost_next_to_nothing(scene: Scene) -> None:
    """Four workers and their supervisor together use less than 4 % of a core while nothing is to be done.

    (Measured without other load it is below 1 %: see bench.)
    """
    group = scene.start("--count", "4")
    everybody = [group.pid, *group.pids()]

    scene.eventually(lambda: len(bells(scene)) == 4, what="four bells")

    assert share_used(scene, everybody, 5.0) < 0.04
    group.stop()


@pytest.mark.slow
@needs_schedstat
def test_so_do_workers_that_drain_and_wait_for_a_time(scene: Scene) -> None:
    """A job that is due in an hour does not have them ask fifty times a second until then."""
    scene.queue.enqueue("true", delay=3600)
    group = scene.start("--count", "4", "--drain")
    everybody = [group.pid, *group.pids()]

    scene.eventually(lambda: len(bells(scene)) == 4, what="four bells")
    share_used(scene, everybody, 2.0)  # at first they ask more often

    assert share_used(scene, everybody, 5.0) < 0.04
    group.stop()
