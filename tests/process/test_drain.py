"""``--drain``: exit 0 when nothing is left to run, now or later."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.process.scene import HELD, Scene

pytestmark = pytest.mark.posix


def test_an_empty_store(scene: Scene) -> None:
    """Nothing to do is done at once."""
    scene.drain("--count", "2")


def test_it_waits_for_retries(scene: Scene) -> None:
    """A job that waits for its retry is left to run."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ]'), backoff_base=1).id

    scene.drain()

    assert ["failed", "completed"] == scene.outcomes(job_id)
    scene.judge()


def test_it_waits_for_a_time(scene: Scene) -> None:
    """A job that is not yet due is left to run."""
    job_id = scene.queue.enqueue(scene.journal.command(), delay=1.5).id

    scene.drain("--count", "2")

    assert "completed" == scene.state(job_id)
    scene.judge()


def test_dead_and_cancelled_jobs_are_not_left(scene: Scene) -> None:
    """What only a person moves on is not waited for."""
    dead = scene.queue.enqueue("exit 1", max_retries=0).id
    cancelled = scene.queue.enqueue("true", delay=3600).id
    scene.queue.cancel(cancelled)

    scene.drain()

    assert ("dead", "cancelled") == (scene.state(dead), scene.state(cancelled))


def test_jobs_of_paused_queues_are_not_left(scene: Scene) -> None:
    """They stay as they are."""
    paused = scene.queue.enqueue(scene.journal.command(), queue="paused").id
    failed = scene.queue.enqueue(scene.journal.command(), queue="paused", delay=1).id
    other = scene.queue.enqueue(scene.journal.command()).id
    scene.queue.pause("paused")

    scene.drain()

    assert ["pending", "pending", "completed"] == [scene.state(job_id) for job_id in (paused, failed, other)]


def test_jobs_of_other_queues_are_not_left(scene: Scene) -> None:
    """With ``--queue`` only what these workers would run counts."""
    mine = scene.queue.enqueue(scene.journal.command(), queue="mine").id
    other = scene.queue.enqueue(scene.journal.command(), queue="other").id

    scene.drain("--queue", "mine")

    assert ("completed", "pending") == (scene.state(mine), scene.state(other))


def test_jobs_that_jobs_enqueue_are_run(scene: Scene) -> None:
    """What comes in while something runs is left to run."""
    enqueue = f"{sys.executable} -m queuectl enqueue -q --command 'echo the second'"
    scene.queue.enqueue(scene.journal.command(enqueue))

    scene.drain("--count", "2")

    assert ("completed", "the second\n") == (scene.state("job2"), scene.output("job2"))


def test_a_job_that_another_group_runs_is_left(scene: Scene) -> None:
    """It may fail or be lost, so it is waited for; then the draining group ends."""
    job_id = scene.queue.enqueue(scene.journal.command(HELD), max_retries=0).id
    other = scene.start()
    scene.noted("start")
    draining = scene.start("--drain")
    scene.until(scene.queue.enqueue(scene.journal.command()).id, "completed")
    assert draining.running

    (scene.folder / "go").touch()

    assert 0 == draining.wait().code
    assert "completed" == scene.state(job_id)
    other.stop()
    scene.judge()


def test_a_job_that_another_group_loses_is_run(scene: Scene) -> None:
    """The draining group takes the lost job over before it ends."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60')).id
    other = scene.start()
    scene.noted("start")
    draining = scene.start("--drain")

    other.kill_all()

    assert 0 == draining.wait().code
    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge()


def test_it_can_be_stopped(scene: Scene) -> None:
    """TERM to a draining group is a stop like any other: the rest stays."""
    running, waiting = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    group = scene.start("--drain")
    scene.noted("start")

    group.send(signal.SIGTERM)
    scene.eventually(lambda: group.has_said("received stop signal"))
    (scene.folder / "go").touch()

    assert 0 == group.wait().code
    assert ("completed", "pending") == (scene.state(running), scene.state(waiting))


def test_a_worker_that_dies_does_not_end_it(scene: Scene) -> None:
    """The last job kills its worker: a new worker runs it to its end."""
    job_id = scene.queue.enqueue(
        scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || { kill -9 $PPID; sleep 60; }')
    ).id

    scene.drain()

    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge()


def test_a_job_cannot_drain_its_own_queue(scene: Scene) -> None:
    """It waited for its own end for ever; another queue it drains as ever, and in the background its own too."""
    program = f"{sys.executable} -m queuectl worker start --drain"
    other = scene.queue.enqueue("true", queue="other").id
    job_id = scene.queue.enqueue(
        f"{program}; echo code $?; {program} --queue default; echo code $?; {program} --queue other; echo code $?; "
        f"{program} --daemon; echo code $?"
    ).id

    group = scene.start("--queue", "default")
    scene.until(job_id, "completed")
    group.stop()

    told = scene.output(job_id)
    refused = f"queuectl: cannot drain from inside {job_id}: that would wait for {job_id} itself. "
    assert (2, 2, 2) == (told.count(refused), told.count("code 1\n"), told.count("code 0\n")), told
    assert "completed" == scene.state(other)
    scene.eventually(lambda: not scene.queue.store.workers(), what="the end of what drains in the background")


def test_old_jobs_are_deleted_at_its_end(scene: Scene) -> None:
    """Where groups only ever drain, each lives for less than a minute, and none would come to it."""
    scene.queue.set_setting("keep_completed", "0.001")
    scene.queue.cancel(*scene.queue.enqueue_many(["true"] * 500))
    scene.queue.enqueue("true", max_retries=0)

    scene.drain()

    assert [] == [job.id for job in scene.queue.jobs() if job.state == "cancelled"]
