"""Limits and pauses of queues bind all groups together."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.conftest import Result
from tests.process.scene import HELD, Scene, most_at_once

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]


def test_a_limit_holds_over_all_groups(scene: Scene, cli: Cli) -> None:
    """Twelve workers' worth of slots, a limit of two: never three at once, and all jobs complete."""
    cli("queue", "limit", "narrow", "2", code=0)
    body = f"until [ $(grep -c start {scene.folder}/journal) -ge 2 ]; do sleep 0.1; done; sleep 0.1"
    ids = [scene.queue.enqueue(scene.journal.command(body), queue="narrow").id for _ in range(16)]
    groups = [scene.start("--count", "2", "--concurrency", "2"), scene.start("--concurrency", "4"), scene.start()]

    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)

    assert 2 == most_at_once(scene.journal.records())
    for group in groups:
        group.stop()
    scene.judge(acknowledged=ids)


def test_a_limited_queue_does_not_hold_up_others(scene: Scene) -> None:
    """Jobs of other queues overtake those that wait for their queue's limit."""
    scene.queue.limit("narrow", 1)
    narrow = [scene.queue.enqueue(scene.journal.command(HELD), queue="narrow", priority=9).id for _ in range(3)]
    group = scene.start("--concurrency", "4")
    scene.noted("start")

    other = scene.queue.enqueue(scene.journal.command()).id
    scene.until(other, "completed")

    assert ["processing", "pending", "pending"] == [scene.state(job_id) for job_id in narrow]
    (scene.folder / "go").touch()
    for job_id in narrow:
        scene.until(job_id, "completed")
    group.stop()
    scene.judge()


def test_a_limit_that_is_lifted_lets_the_waiting_run(scene: Scene, cli: Cli) -> None:
    """Idle workers notice without another job coming in."""
    scene.queue.limit("narrow", 1)
    for _ in range(3):
        scene.queue.enqueue(scene.journal.command(HELD), queue="narrow")
    group = scene.start("--concurrency", "3")
    scene.noted("start")

    cli("queue", "limit", "narrow", "none", code=0)

    scene.noted("start", 3, timeout=5 + 10)
    (scene.folder / "go").touch()
    for job_id in ("job1", "job2", "job3"):
        scene.until(job_id, "completed")
    group.stop()


def test_a_paused_queues_jobs_wait(scene: Scene, cli: Cli) -> None:
    """The running job goes on and completes, the others wait in every group until the queue is resumed."""
    running, waiting = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    groups = [
        scene.start(),
    ]
    scene.noted("start")

    cli("queue", "pause", "default", code=0)
    groups.append(scene.start("--count", "2"))
    (scene.folder / "go").touch()
    scene.until(running, "completed")
    other = scene.queue.enqueue(scene.journal.command(), queue="other").id
    scene.until(other, "completed")
    assert "pending" == scene.state(waiting)

    cli("queue", "resume", "default", code=0)
    scene.until(waiting, "completed", timeout=5 + 10)
    for group in groups:
        group.stop()
    scene.judge()


def test_workers_of_one_queue_leave_others_alone(scene: Scene) -> None:
    """``--queue`` repeats; jobs of queues that nobody serves wait."""
    ids = {name: scene.queue.enqueue(scene.journal.command(), queue=name).id for name in ("a", "b", "c")}

    scene.drain("--queue", "a", "--queue", "c")

    assert ["completed", "pending", "completed"] == [scene.state(ids[name]) for name in ("a", "b", "c")]
    scene.judge(ended=False)


def test_a_lost_run_frees_its_place_under_the_limit(scene: Scene) -> None:
    """A limit of one is not used up by a worker that died."""
    scene.queue.limit("default", 1)
    ids = scene.queue.enqueue_many([scene.journal.command('[ "$QUEUECTL_RUN_ID" -gt 1 ] || sleep 60')] * 2)
    group = scene.start()
    scene.noted("start")

    group.kill_all()
    scene.drain("--count", "2")

    assert ["completed"] * 2 == [scene.state(job_id) for job_id in ids]
    assert 1 == most_at_once([record for record in scene.journal.records() if record.run_id > 1])
    scene.judge()
