"""A death is noticed within 5 seconds by whoever is alive on the host, and ``status`` never counts the dead."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, Callable, List

import pytest

from tests.process.scene import HELD, Scene

pytestmark = pytest.mark.posix

#: The contract's bound.
NOTICED_S = 5.0


def by_its_supervisor(scene: Scene) -> List[int]:
    """One worker dies."""
    return scene.start().pids()


def by_another_group(scene: Scene) -> List[int]:
    """A whole group dies, supervisor first; another one has nothing to do with it."""
    first = scene.start()
    scene.start("--queue", "another")
    return [first.pid, *first.pids()]


def by_a_worker_without_a_supervisor(scene: Scene) -> List[int]:
    """A supervisor dies with one of its two workers; the other one is busy with its last job."""
    scene.queue.enqueue(HELD, id="sister", priority=1)
    group = scene.start("--count", "2")
    scene.until("sister", "processing")
    scene.until("job1", "processing")
    row = next(row for row in group.workers() if ("job1" in dict(scene.queue.store.runs_of(row.id))))
    return [group.pid, row.pid]


@pytest.mark.parametrize("noticed", [by_its_supervisor, by_another_group, by_a_worker_without_a_supervisor])
def test_a_death_is_noticed(scene: Scene, cli: Callable[..., Any], noticed: Callable[[Scene], List[int]]) -> None:
    """Its run is lost and its job is on its way again before 5 seconds are over; nobody counts it meanwhile."""
    job_id = scene.queue.enqueue(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {{ {HELD}; }}').id
    victims = noticed(scene)
    scene.until(job_id, "processing")

    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    scene.gone(victims)
    counted = [worker["pid"] for worker in json.loads(cli("status", "--json", code=0).out)["workers"]]
    scene.eventually(lambda: scene.outcomes(job_id)[0] == "lost", timeout=NOTICED_S, what="the lost run")

    assert not set(counted) & set(victims)
    (scene.folder / "go").touch()
    scene.queue.stop_workers()
    scene.drain()
    assert "completed" == scene.state(job_id)
    scene.judge()
