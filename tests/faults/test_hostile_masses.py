"""Very many jobs: ten thousand that all fail, a flood of urgent ones, a million that wait."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Callable

import pytest

from queuectl import Queue
from queuectl.job import JobFilter
from tests.process.scene import Scene

pytestmark = [pytest.mark.posix, pytest.mark.slow]
#: In tens. A look at each of the hundred thousand or million jobs would take several steps for each of them.
MOST_STEPS = 5000


def fill(path: Path, count: int, priority: str = "0", ready: int = 1) -> None:
    """Put many pending jobs into a store at once, as ``add`` would."""
    with contextlib.closing(sqlite3.connect(str(path))) as db, db:
        db.execute(
            f"""
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
            INSERT INTO jobs (id, queue, state, priority, run_at, ready, command, cwd, max_retries, created_at,
                              updated_at)
            SELECT 'job' || n, 'default', 'pending', {priority}, 1e9 + n, ?, 'true', '/', 3, 1e9, 1e9 FROM numbers
            """,
            (count, ready),
        )
        db.execute("UPDATE queues SET pending = pending + ? WHERE name = 'default'", (count,))


def steps(queue: Queue, call: Callable[[], Any]) -> int:
    """Return how many steps of SQLite's machine a call takes, in tens."""
    count = 0

    def one_more() -> None:
        nonlocal count
        count += 1

    call()  # once before, for what is done in the first call alone
    store: Any = queue.store
    store._db.set_progress_handler(one_more, 10)
    try:
        call()
    finally:
        store._db.set_progress_handler(None, 0)
    return count


@pytest.mark.limit(300)
def test_ten_thousand_jobs_that_all_fail(scene: Scene) -> None:
    """Each of them is dead after its one run, with its reason; nothing else suffers."""
    scene.queue.enqueue_many([{"command": "exit 7", "max_retries": 0}] * 10_000)

    done = scene.start("--drain", "--concurrency", "32", wait=False).wait(200)

    assert (0, "") == (done.code, done.err)
    assert 10_000 == scene.queue.status().jobs["dead"]
    assert {("dead", "exit 7", 1)} == {(job.state, job.reason, job.run_no) for job in scene.queue.jobs()}
    assert [] == scene.queue.store.check()
    assert 10_000 == scene.queue.retry_where(JobFilter(states=("dead",)))
    assert 10_000 == scene.queue.status().jobs["pending"]


def test_a_flood_of_urgent_jobs(scene: Scene, home: Path) -> None:
    """A hundred thousand priorities: they run from the highest down, and who serves another queue is not held up."""
    fill(home / "jobs.db", 100_000, priority="abs(random() % 1000000000)")
    patient = scene.queue.enqueue("true", queue="patient").id

    groups = [scene.start("--queue", "patient"), scene.start()]
    scene.until(patient, "completed")
    scene.eventually(lambda: scene.queue.status().jobs["completed"] >= 3, what="some of the flood")
    for group in groups:
        group.stop()

    ended = sorted(job.priority for job in scene.queue.jobs(JobFilter(states=("completed",), queues=("default",))))
    highest = [job.priority for job in scene.queue.jobs(limit=len(ended), sort="priority", descending=True)]
    assert highest == ended[::-1]
    assert steps(scene.queue, scene.queue.status) < MOST_STEPS
    assert [] == scene.queue.store.check()


@pytest.mark.limit(300)
def test_a_million_jobs_that_wait(scene: Scene, home: Path, cli: Callable[..., Any]) -> None:
    """Enqueuing, claiming, counting and looking at a page take what they take with ten."""
    fill(home / "jobs.db", 1_000_000)

    assert "job1000001" == scene.queue.enqueue("true", priority=1).id
    group = scene.start()
    scene.until("job1000001", "completed")
    for call in (
        lambda: scene.queue.enqueue("true", delay=3600), scene.queue.status,
        lambda: list(scene.queue.jobs(limit=50)), scene.queue.store.next_due,
    ):  # fmt: skip
        assert steps(scene.queue, call) < MOST_STEPS
    assert len(cli("list", "--limit", "10").out.splitlines()) == 10
    assert 0 == group.stop().code
    with Queue() as queue:
        before = queue.status().jobs["completed"]
        scene.start().stop()
        assert queue.status().jobs["completed"] >= before
        assert 1_000_001 <= sum(queue.status().jobs.values())
