"""``kill -9`` of a supervisor: its workers finish their jobs and exit, and can still be stopped until then."""

from __future__ import annotations

import os
import signal
from typing import Any, Callable, Tuple

import pytest

from tests.process.scene import HELD, Scene, alive, bells

pytestmark = pytest.mark.posix

NOTICED_S = 5.0 + 10.0


def test_workers_finish_their_jobs_and_exit(scene: Scene) -> None:
    """The running jobs complete, those that wait are not begun, and no process is left."""
    held = scene.journal.command(HELD)
    running = scene.queue.enqueue_many([held] * 2)
    waiting = scene.queue.enqueue_many([held] * 2)
    group = scene.start("--count", "2")
    scene.noted("start", 2)
    workers = group.pids()

    os.kill(group.pid, signal.SIGKILL)
    group.wait()
    scene.eventually(lambda: 2 == group.out.count("received stop signal"), what="both workers notice")
    assert [True, True] == list(map(alive, workers))
    (scene.folder / "go").touch()

    scene.gone(workers)
    assert ["completed"] * 2 == [scene.state(job_id) for job_id in running]
    assert ["pending"] * 2 == [scene.state(job_id) for job_id in waiting]
    scene.judge(ended=False)
    scene.drain()
    scene.judge()


def test_an_idle_worker_exits_at_once(scene: Scene) -> None:
    """A worker without a job has nothing to finish."""
    group = scene.start("--count", "3")
    workers = group.pids()

    os.kill(group.pid, signal.SIGKILL)
    group.wait()

    scene.gone(workers)


def test_an_idle_worker_does_not_wait_for_its_next_look(scene: Scene, slow_worker: Callable[..., Any]) -> None:
    """The end of its lifeline is what it acts on, not the tick that comes some time later."""
    worker = slow_worker()
    scene.eventually(lambda: len(scene.queue.workers()) == 1 and bells(scene), what="an idle worker")

    worker.stdin.close()

    assert 0 == worker.wait(30)


@pytest.mark.parametrize("how", [(), ("--now",)], ids=["gracefully", "now"])
def test_worker_stop_reaches_workers_without_a_supervisor(
    scene: Scene, cli: Callable[..., Any], how: Tuple[str, ...]
) -> None:
    """``worker stop`` waits for them, ``--now`` ends their jobs and puts them back."""
    job_id = scene.queue.enqueue(scene.journal.command("sleep 0.5" if not how else "sleep 60")).id
    group = scene.start("--count", "2")
    scene.noted("start")
    workers = group.pids()
    os.kill(group.pid, signal.SIGKILL)
    group.wait()

    cli("worker", "stop", *how, code=0)

    assert [False, False] == list(map(alive, workers))
    assert ("pending" if how else "completed") == scene.state(job_id)
    scene.judge(ended=False)


def test_a_lost_supervisor_is_forgotten_by_the_next(scene: Scene) -> None:
    """Its row is swept, and nobody lists it or its workers."""
    first = scene.start()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = scene.start()

    def only_the_second() -> bool:
        return {second.pid, *second.pids()} == {row.pid for row in scene.queue.store.workers()}

    scene.eventually(only_the_second, timeout=NOTICED_S)
    second.stop()


def test_a_worker_that_dies_after_its_supervisor_is_noticed_by_another_group(scene: Scene) -> None:
    """Whoever is alive on the host takes the job back."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60')).id
    first = scene.start()
    scene.noted("start")
    second = scene.start()

    first.kill_all()
    scene.until(job_id, "completed", timeout=NOTICED_S)

    second.stop()
    scene.judge()


def test_a_worker_that_dies_after_its_supervisor_is_noticed_by_its_sister(scene: Scene) -> None:
    """A worker that finishes its long job without a supervisor sees that another one died: the job is not kept."""
    ids = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    group = scene.start("--count", "2")
    scene.noted("start", 2)
    victim, sister = group.workers()
    os.kill(group.pid, signal.SIGKILL)
    group.wait()

    os.kill(victim.pid, signal.SIGKILL)

    owner = {scene.queue.get(job_id).worker_id: job_id for job_id in ids}
    scene.until(owner[victim.id], "pending", timeout=NOTICED_S)
    assert "processing" == scene.state(owner[sister.id])
    (scene.folder / "go").touch()
    scene.gone([sister.pid])
    scene.drain()
    scene.judge()
