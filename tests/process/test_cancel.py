"""``cancel`` of a running job: another process asks, the worker ends the tree within seconds."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable

import pytest

from tests.conftest import Result
from tests.process.scene import HELD, Scene

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]


def test_a_running_job(scene: Scene, cli: Cli) -> None:
    """Its tree is gone when it is cancelled, the worker says so and goes on to the next job."""
    ways = ("a child", "a child in a session of its own")
    body = f"{scene.journal.leaving(*ways)}; note left; sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("left")

    assert f"Cancelled {job_id}\n" == cli("cancel", job_id, code=0).out

    job = scene.until(job_id, "cancelled")
    assert ("cancelled while it ran", 0) == (job.reason, job.failures)
    assert ["cancelled"] == scene.outcomes(job_id)
    scene.gone(scene.pids("beats", 2), timeout=0)
    scene.until(scene.queue.enqueue(scene.journal.command()).id, "completed")
    assert f"[worker 0] job {job_id} cancelled" in group.stop().out.splitlines()
    scene.judge()


def test_a_job_that_an_idle_worker_has_just_begun(scene: Scene) -> None:
    """It looks for orders as often as a busy one from then on, although it had just looked and meant to rest."""
    group = scene.start()
    scene.until(scene.queue.enqueue("true").id, "completed")
    rests_mono = time.monotonic() + 1.5  # by then it has looked once more, and would again five seconds later
    scene.eventually(lambda: time.monotonic() > rests_mono, what="rest")
    job_id = scene.queue.enqueue(scene.journal.command("sleep 60")).id
    scene.noted("start")

    scene.queue.cancel(job_id)

    scene.until(job_id, "cancelled", timeout=4.0)
    group.stop()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("cancel job1", "The workers still end job1. 'queuectl retry' undoes a cancel."),
        ("reset --yes", "Workers that were told to stop still do; 'queuectl status' shows what is left."),
    ],
)
def test_a_ctrl_c_while_a_job_is_ended(scene: Scene, background: Callable[..., Any], words: str, told: str) -> None:
    """That does not stop the worker, and nobody is left to believe it does."""
    scene.queue.set_setting("kill_grace", "60")
    scene.queue.enqueue(
        scene.journal.command("trap 'note heard' TERM; note ready; until [ -e go ]; do sleep 0.1; done")
    )
    group = scene.start()
    scene.noted("ready")
    command = background(*words.split())
    scene.noted("heard")

    result = command.stop(signal.SIGINT)

    assert (f"queuectl: interrupted. {told}\n", 130) == (result.err, result.code)
    (scene.folder / "go").touch()
    scene.eventually(lambda: scene.queue.get("job1").state in ("cancelled", "pending"), what="the job's end")
    group.stop()


def test_a_job_that_ignores_term(scene: Scene) -> None:
    """It is killed after ``kill_grace``."""
    scene.queue.set_setting("kill_grace", "0.5")
    job_id = scene.queue.enqueue(scene.journal.command("trap '' TERM; while :; do sleep 0.1; done")).id
    group = scene.start()
    scene.noted("start")

    scene.queue.cancel(job_id)
    scene.until(job_id, "cancelled")

    assert [9] == [run.signal for run in scene.queue.runs(job_id)]
    group.stop()


def test_one_of_several_on_a_worker(scene: Scene) -> None:
    """The others that the same worker runs go on."""
    ids = scene.queue.enqueue_many([scene.journal.command(HELD)] * 3)
    group = scene.start("--concurrency", "3")
    scene.noted("start", 3)

    scene.queue.cancel(ids[1])
    scene.until(ids[1], "cancelled")
    (scene.folder / "go").touch()

    for job_id in (ids[0], ids[2]):
        scene.until(job_id, "completed")
    group.stop()
    scene.judge()


def test_running_and_waiting_jobs_together(scene: Scene, cli: Cli) -> None:
    """All or none, and the waiting ones at once."""
    running, waiting = scene.queue.enqueue_many([scene.journal.command(HELD)] * 2)
    group = scene.start()
    scene.noted("start")

    cli("cancel", running, waiting, code=0)

    assert "cancelled" == scene.state(waiting)
    scene.until(running, "cancelled")
    assert 1 == scene.journal.count("start")
    group.stop()
    scene.judge()


def test_a_job_whose_end_is_faster(scene: Scene) -> None:
    """A cancel that comes too late for the run is refused or leaves a completed job as it is; no job hangs between."""
    ids = scene.queue.enqueue_many([scene.journal.command("sleep 0.05")] * 20)
    group = scene.start("--concurrency", "4")

    for job_id in ids:
        scene.until(job_id, "processing", "completed")
        try:
            scene.queue.cancel(job_id)
        except Exception as error:
            assert "it is completed" in str(error)

    for job_id in ids:
        job = scene.until(job_id, "completed", "cancelled")
        assert not job.cancel_requested
    group.stop()
    scene.judge()


def test_a_cancelled_job_can_be_retried(scene: Scene, cli: Cli) -> None:
    """It starts over, and the next run is not ended by the cancel of the one before."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_RUN_ID" -gt 1 ] || sleep 60')).id
    group = scene.start()
    scene.noted("start")
    scene.queue.cancel(job_id)
    scene.until(job_id, "cancelled")

    cli("retry", job_id, code=0)

    scene.until(job_id, "completed")
    assert ["cancelled", "completed"] == scene.outcomes(job_id)
    group.stop()
    scene.judge()


def test_a_job_of_a_worker_that_is_stopping(scene: Scene) -> None:
    """A worker that finishes its last job still obeys a cancel."""
    job_id = scene.queue.enqueue(scene.journal.command("sleep 60")).id
    group = scene.start()
    scene.noted("start")
    group.send(signal.SIGTERM)
    scene.eventually(lambda: "received stop signal" in group.out)

    scene.queue.cancel(job_id)

    assert 0 == group.wait().code
    assert "cancelled" == scene.state(job_id)
    scene.judge()


def test_a_job_of_a_paused_worker(scene: Scene) -> None:
    """The cancel waits in the store and is obeyed when the worker wakes up."""
    job_id = scene.queue.enqueue(scene.journal.command("sleep 60")).id
    group = scene.start()
    scene.noted("start")
    (pid,) = group.pids()
    os.kill(pid, signal.SIGSTOP)

    scene.queue.cancel(job_id)
    assert ("processing", True) == (scene.state(job_id), bool(scene.queue.get(job_id).cancel_requested))
    os.kill(pid, signal.SIGCONT)

    scene.until(job_id, "cancelled")
    group.stop()
    scene.judge()
