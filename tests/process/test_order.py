"""Which job comes next: priority, then ``run_at``, then arrival; none before its time, none held up by another."""

from __future__ import annotations

from typing import List

import pytest

from tests.process.scene import HELD, Scene

pytestmark = pytest.mark.posix


def started(scene: Scene) -> List[str]:
    """Return the jobs in the order in which their commands began."""
    return [record.job_id for record in scene.journal.records() if record.what == "start"]


def test_priority_then_arrival(scene: Scene) -> None:
    """The larger priority first, equal ones as they came."""
    priorities = [0, 5, -3, 5, 0, 7]
    ids = [scene.queue.enqueue(scene.journal.command(), priority=priority).id for priority in priorities]

    scene.drain()

    expected = [ids[place] for place in sorted(range(6), key=lambda place: (-priorities[place], place))]
    assert expected == started(scene)
    scene.judge()


def test_run_at_within_a_priority(scene: Scene) -> None:
    """Of due jobs with one priority the one that was due first."""
    times = ["2001-01-03", "2001-01-01", "2001-01-02"]
    ids = [scene.queue.enqueue(scene.journal.command(), run_at=f"{day}T00:00Z").id for day in times]

    scene.drain()

    assert [ids[1], ids[2], ids[0]] == started(scene)


def test_a_delayed_job_runs_when_it_is_due(scene: Scene) -> None:
    """Not before, and without anybody ringing; jobs that come later and are due go first."""
    late = scene.queue.enqueue(scene.journal.command(), delay=2, priority=100).id
    group = scene.start()
    soon = scene.queue.enqueue(scene.journal.command()).id
    scene.until(soon, "completed")

    scene.until(late, "completed", timeout=30)

    job = scene.queue.get(late)
    (run,) = scene.queue.runs(late)
    assert [soon, late] == started(scene)
    assert 2.0 <= run.started_at - job.created_at <= 2.0 + 10
    assert run.started_at >= job.run_at
    group.stop()
    scene.judge()


def test_a_retry_waits_for_its_backoff(scene: Scene) -> None:
    """Delays of 2 and 4 s between failed runs with base 2; nobody else is held up meanwhile."""
    failing = scene.queue.enqueue(scene.journal.command("exit 3"), max_retries=2, priority=9).id
    group = scene.start()
    scene.until(failing, "failed")
    other = scene.queue.enqueue(scene.journal.command()).id
    scene.until(other, "completed")

    scene.until(failing, "dead", timeout=60)

    runs = scene.queue.runs(failing)
    gaps = [later.started_at - (earlier.ended_at or 0) for earlier, later in zip(runs, runs[1:])]
    assert 2.0 <= gaps[0] <= 2.0 + 10
    assert 4.0 <= gaps[1] <= 4.0 + 10
    out = group.stop().out.splitlines()
    assert f"[worker 0] job {failing} failed (exit 3), retry 1 of 2 in 2 s" in out
    assert f"[worker 0] job {failing} failed (exit 3), retry 2 of 2 in 4 s" in out
    assert f"[worker 0] job {failing} dead (exit 3) after 3 runs" in out
    scene.judge()


def test_the_backoff_is_the_one_configured_when_a_run_fails(scene: Scene) -> None:
    """A change reaches a job that is running already, and a job's own base goes before it."""
    plain = scene.queue.enqueue(scene.journal.command(HELD + "; exit 1"), max_retries=1).id
    own = scene.queue.enqueue(scene.journal.command("exit 1"), max_retries=1, backoff_base=50).id
    group = scene.start("--concurrency", "2")
    scene.noted("start", 2)
    scene.queue.set_setting("backoff_base", "100")
    (scene.folder / "go").touch()

    for job_id, delay_s in ((plain, 100), (own, 50)):
        job = scene.until(job_id, "failed")
        (run,) = scene.queue.runs(job_id)
        assert job.run_at == pytest.approx((run.ended_at or 0) + delay_s, abs=0.01)
    group.stop()


def test_one_group_takes_over_the_delayed_jobs_of_another(scene: Scene) -> None:
    """A job that waits for its time belongs to nobody."""
    late = scene.queue.enqueue(scene.journal.command(), delay=1).id
    scene.start().stop()

    other = scene.start()

    scene.until(late, "completed")
    other.stop()
    scene.judge()
