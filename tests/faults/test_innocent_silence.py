"""Workers that could not renew their lease through no fault of their own are left alone."""

from __future__ import annotations

import signal
import time
from typing import Any, Callable

import pytest

from tests.faults.faulty import Fault, state_of
from tests.process.scene import Scene

pytestmark = [pytest.mark.posix, pytest.mark.slow]


def test_a_lock_that_is_held_beyond_the_lease_ends_nobody(
    scene: Scene, fault: Callable[..., Fault], background: Callable[..., Any]
) -> None:
    """While an enqueue is paused in its transaction nobody can renew: afterwards nobody is taken for hung."""
    scene.queue.set_setting("lease", "2")
    groups = [scene.start("--count", "2"), scene.start()]
    job_id = scene.queue.enqueue(scene.journal.command("sleep 9")).id
    scene.noted("start")
    since = time.monotonic()
    scene.eventually(lambda: time.monotonic() > since + 4.5)  # for twice the lease a supervisor judges nobody
    before = [group.pids() for group in groups]
    holder = background("enqueue", "-q", "--", "true", env=fault("adding", "STOP").env)
    scene.eventually(lambda: state_of(holder.pid) == "T", what="the pause")
    since = time.monotonic()
    scene.eventually(lambda: time.monotonic() > since + 3.6)

    holder.send(signal.SIGCONT)

    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert before == [group.pids() for group in groups]
    assert (0, "job2\n") == holder.wait()[::-2]
    scene.until("job2", "completed")
    assert [0, 0] == [group.stop().code for group in groups]
    scene.judge(acknowledged=[job_id, "job2"])


def test_a_lease_that_is_made_shorter_ends_nobody(scene: Scene) -> None:
    """Also by a group that knows nothing but the new one: those who started with the old one keep to it by then."""
    scene.queue.set_setting("lease", "60")
    groups = [scene.start("--count", "2"), scene.start()]
    job_id = scene.queue.enqueue(scene.journal.command("sleep 11")).id
    scene.noted("start")
    before = [group.pids() for group in groups]
    scene.eventually(lambda: all(worker.renewed_mono_s < time.monotonic() - 3.5 for worker in groups[0].workers()))

    scene.queue.set_setting("lease", "2")
    groups.append(scene.start())
    before.append(groups[-1].pids())

    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert before == [group.pids() for group in groups]
    assert [0, 0, 0] == [group.stop().code for group in groups]
    scene.judge(acknowledged=[job_id])
