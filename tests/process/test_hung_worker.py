"""A worker that stands still: within its lease nothing happens, beyond it it is ended and its job runs again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.scene import HELD, Scene, alive

pytestmark = [pytest.mark.posix, pytest.mark.slow]

#: The shortest lease that may be set.
LEASE_S = 2.0
#: With a lease of 2 s a silent worker is ended after 3 s by one that has been well for 4 s, and looks every 2 s.
ENDED_S = 30.0


def test_a_worker_paused_beyond_its_lease_is_ended_and_its_job_runs_again(scene: Scene) -> None:
    """Another group ends the paused worker and all of its run, and only then runs the job."""
    scene.queue.set_setting("lease", str(LEASE_S))
    child = scene.journal.leaving("a child in a session of its own")
    job_id = scene.queue.enqueue(scene.journal.command(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {{ {child}; sleep 60; }}')).id
    first = scene.start("--queue", "default")
    scene.noted("beat")
    paused = first.pids()[0]
    other = scene.start()

    os.kill(paused, signal.SIGSTOP)
    job = scene.until(job_id, "completed", timeout=ENDED_S)

    assert not alive(paused)
    assert ["lost", "completed"] == scene.outcomes(job_id)
    assert 0 == job.failures
    assert [0, 0] == [group.stop().code for group in (first, other)]
    scene.judge()


def test_a_worker_paused_between_claim_and_start_never_starts_its_command(scene: Scene) -> None:
    """The stale worker is ended before its job is given away, so its command cannot begin beside the next run."""
    scene.queue.set_setting("lease", str(LEASE_S))
    job_id = scene.queue.enqueue(scene.journal.command()).id
    fault = f"claimed:STOP@{scene.folder / 'met'}"
    first = scene.start(env={"QUEUECTL_FAULT": fault}, wait=False)
    scene.eventually((scene.folder / "met").exists)
    paused = scene.eventually(first.pids)[0]
    other = scene.start()

    scene.until(job_id, "completed", timeout=ENDED_S)

    assert not alive(paused)
    assert ["lost", "completed"] == scene.outcomes(job_id)
    assert 1 == scene.journal.count("start")
    for group in (first, other):
        group.stop()
    scene.judge()


def test_a_worker_paused_within_its_lease_goes_on(scene: Scene) -> None:
    """A pause of a third of the lease, seen by a group that would judge: same worker, same run."""
    lease_s = 4.0
    scene.queue.set_setting("lease", str(lease_s))
    beats = scene.journal.leaving("a child")
    job_id = scene.queue.enqueue(scene.journal.command(f"{beats}; {HELD}; kill $!")).id
    first = scene.start()
    other = scene.start()
    (before,) = first.workers()
    # The other group judges after it has been well for twice the lease. 20 beats are a second at least.
    scene.noted("beat", 20 * (int(2 * lease_s) + 1))

    renewed = first.workers()[0].renewed_mono_s
    scene.eventually(lambda: first.workers()[0].renewed_mono_s > renewed)
    os.kill(before.pid, signal.SIGSTOP)
    count = scene.journal.count("beat")
    scene.noted("beat", count + 20)
    os.kill(before.pid, signal.SIGCONT)
    renewed = first.workers()[0].renewed_mono_s
    scene.eventually(lambda: first.workers()[0].renewed_mono_s > renewed)

    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert before.id == first.workers()[0].id
    for group in (first, other):
        group.stop()
    scene.judge()


def test_a_whole_group_that_was_paused_goes_on(scene: Scene) -> None:
    """Ctrl-Z for longer than the lease, with another group alive: after ``fg`` the group works again.

    The job that it was running may have been given to the other group meanwhile, but no run overlaps.
    """
    scene.queue.set_setting("lease", str(LEASE_S))
    ids = [scene.queue.enqueue(scene.journal.command(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {HELD}')).id]
    first = scene.start("--count", "2", "--queue", "default", "--queue", "own")
    scene.noted("start")
    other = scene.start("--queue", "default")

    first.send(signal.SIGSTOP, group=True)
    scene.until(ids[0], "completed", timeout=ENDED_S)
    assert ["lost", "completed"] == scene.outcomes(ids[0])
    first.send(signal.SIGCONT, group=True)

    ids.append(scene.queue.enqueue(scene.journal.command(), queue="own").id)
    scene.until(ids[1], "completed")
    assert [0, 0] == [group.stop().code for group in (first, other)]
    scene.judge(acknowledged=ids)


def test_a_group_that_was_paused_alone_keeps_its_job(scene: Scene) -> None:
    """Ctrl-Z for longer than the lease with nobody else there: after ``fg`` the run goes on and completes."""
    scene.queue.set_setting("lease", str(LEASE_S))
    beats = scene.journal.leaving("a child")
    job_id = scene.queue.enqueue(scene.journal.command(f"{beats}; {HELD}; kill $!")).id
    group = scene.start()
    scene.noted("start")

    group.send(signal.SIGSTOP, group=True)
    scene.noted("beat", 20 * 7)  # of 50 ms and more each: longer than the lease and its margin
    group.send(signal.SIGCONT, group=True)
    scene.noted("beat", 20 * 12)  # longer than its supervisor needs to judge, had it a reason

    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert 0 == group.stop().code
    scene.judge()


@pytest.mark.long
def test_a_lease_that_is_shortened_harms_nobody(scene: Scene) -> None:
    """Workers that renewed for the long lease have time to hear of the short one, whether they work or not."""
    scene.queue.set_setting("lease", "12")
    scene.queue.enqueue(scene.journal.command(HELD))
    groups = [scene.start("--queue", name) for name in ("default", "idle")]
    before = [group.workers()[0] for group in groups]

    def renewed_after(seconds: float) -> bool:
        return all(
            group.workers()[0].renewed_mono_s > old.renewed_mono_s + seconds for group, old in zip(groups, before)
        )

    # Their supervisors judge others once they have been well for two leases.
    scene.eventually(lambda: renewed_after(24), timeout=60)
    before = [group.workers()[0] for group in groups]
    scene.queue.set_setting("lease", str(LEASE_S))
    scene.eventually(lambda: renewed_after(3 * LEASE_S), timeout=30)

    assert [worker.pid for worker in before] == [group.pids()[0] for group in groups]
    (scene.folder / "go").touch()
    assert [0, 0] == [group.stop().code for group in groups]
    scene.judge()
