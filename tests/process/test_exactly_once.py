"""Each job runs once, whoever takes it; each enqueue is answered with an id of its own, whoever else enqueues."""

from __future__ import annotations

import subprocess
import sys

import pytest

from queuectl import Queue
from tests.process.scene import Scene

pytestmark = [pytest.mark.posix, pytest.mark.slow]


@pytest.mark.limit(300)
def test_500_jobs_over_4_groups_of_4_workers_run_exactly_once(scene: Scene) -> None:
    """Four terminals, four workers each, one store: 500 starts, 500 ends, 500 first runs, all completed."""
    ids = scene.queue.enqueue_many([scene.journal.command()] * 500)
    groups = [scene.start("--count", "4", "--drain", wait=False) for _ in range(4)]

    codes = [group.wait(timeout=240).code for group in groups]

    assert [0] * 4 == codes
    assert 500 == scene.journal.count("start") == scene.journal.count("end")
    assert sorted(ids) == sorted({record.job_id for record in scene.journal.records()})
    assert {("completed", 1)} == {(job.state, job.run_no) for job in scene.queue.jobs()}
    scene.judge(acknowledged=ids)


def test_60_enqueues_at_once_on_a_store_that_does_not_exist() -> None:
    """60 processes that all find no store: 60 answers, job1 to job60, and 60 jobs in the one store."""
    words = [sys.executable, "-m", "queuectl", "enqueue", "--", "true"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(60)]

    answers = [process.communicate(timeout=100) for process in processes]

    assert [(0, "")] * 60 == [(process.returncode, err) for process, (_, err) in zip(processes, answers)]
    assert {f"Enqueued job job{number}\n" for number in range(1, 61)} == {out for out, _ in answers}
    with Queue() as queue:
        assert sorted(f"job{number}" for number in range(1, 61)) == sorted(job.id for job in queue.jobs())


def test_jobs_that_come_while_workers_take_them(scene: Scene) -> None:
    """Enqueuers and workers at the same time: every acknowledged job runs once."""
    groups = [scene.start("--count", "2"), scene.start("--concurrency", "3")]
    words = [sys.executable, "-m", "queuectl", "enqueue", "-q", "--command", scene.journal.command()]
    enqueuers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(30)]

    ids = [process.communicate(timeout=100)[0].strip() for process in enqueuers]

    scene.eventually(lambda: scene.queue.status().jobs["completed"] == 30, timeout=60, what="all completed")
    assert 30 == scene.journal.count("start") == scene.journal.count("end")
    assert [0, 0] == [group.stop().code for group in groups]
    scene.judge(acknowledged=ids)
