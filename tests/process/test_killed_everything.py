"""``kill -9`` of supervisors and workers alike, at random moments: the next ``worker start`` puts it right."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.process.scene import WAYS, Scene, alive

pytestmark = pytest.mark.posix


def test_the_next_start_takes_the_jobs_back(scene: Scene) -> None:
    """With nobody alive the jobs stay as they are; a new group loses them, ends what they left, and runs them."""
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {scene.journal.leaving(*WAYS)}; note left; sleep 60; fi'
    ids = scene.queue.enqueue_many([scene.journal.command(body)] * 2)
    group = scene.start("--count", "2")
    beats = scene.pids("beats", 2 * len(WAYS))
    scene.noted("left", 2)

    group.kill_all()
    assert any(map(alive, beats))  # nobody is there who could have ended them
    scene.drain("--count", "2")

    scene.gone(beats, timeout=0)
    assert [["lost", "completed"]] * 2 == [scene.outcomes(job_id) for job_id in ids]
    assert 0 == scene.queue.status().jobs["processing"]
    scene.judge(acknowledged=ids)


def test_status_does_not_count_the_dead(scene: Scene) -> None:
    """Right after the kill, before anybody has swept, no dead worker is listed."""
    group = scene.start("--count", "2")
    assert 2 == len(scene.queue.status().workers)

    group.kill_all()

    assert [] == scene.queue.status().workers
    scene.judge(ended=False)


@pytest.mark.slow
@pytest.mark.limit(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rounds_of_killing_everything(scene: Scene, seed: int) -> None:
    """Six rounds: enqueue, start two groups, kill every process of theirs, start again.

    The kill comes after a random while, in every other round then as soon as a command begins.
    """
    dice = random.Random(seed)
    scene.queue.set_setting("max_lost", "100")
    child = scene.journal.leaving(dice.choice(list(WAYS)), pids="$QUEUECTL_RUN_ID.pid")
    body = f"{child}; sleep 0.$((QUEUECTL_RUN_ID % 5 + 1)); kill -9 $(cat $QUEUECTL_RUN_ID.pid)"
    ids = []

    for number in range(6):
        ids += scene.queue.enqueue_many([scene.journal.command(body)] * 6)
        begun = scene.journal.count("start")
        groups = [scene.start("--count", "2"), scene.start("--concurrency", "2")]
        scene.noted("start", begun + 1)
        moment = time.monotonic() + dice.uniform(0.0, 0.4)
        scene.eventually(lambda at=moment: time.monotonic() >= at)
        if number % 2:
            begun = scene.journal.count("start")
            ids += scene.queue.enqueue_many([scene.journal.command(body)] * 6)
            scene.noted("start", begun + 1)
        for group in groups:
            group.kill_all(supervisor_first=dice.random() < 0.5)
    scene.drain("--count", "4")

    assert {"completed"} == {job.state for job in scene.queue.jobs()}
    assert any("lost" in scene.outcomes(job_id) for job_id in ids)
    scene.judge(acknowledged=ids)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_during_their_start(scene: Scene, seed: int) -> None:
    """A group that is killed while it starts, at any moment of it, leaves nothing that stands in the way."""
    dice = random.Random(seed)
    job_id = scene.queue.enqueue(scene.journal.command()).id
    scene.queue.set_setting("max_lost", "100")

    for _ in range(8):
        group = scene.start("--count", "2", wait=False)
        moment = time.monotonic() + dice.uniform(0.0, 0.3)
        scene.eventually(lambda at=moment: time.monotonic() >= at)
        os.kill(group.pid, signal.SIGKILL)
        group.wait()
    scene.drain()

    assert "completed" == scene.state(job_id)
    scene.eventually(lambda: [] == scene.queue.store.workers(), what="no worker left")
    scene.judge()
