"""Workers are killed while jobs have hooks: each job that has ended has one, whatever became of its worker."""

from __future__ import annotations

import collections
import shlex
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests.faults.faulty import Fault
from tests.process.scene import Scene
from tests.store.engines import ENGINES

pytestmark = pytest.mark.posix

ROW = 160
HOOK = 'echo "$QUEUECTL_ENDED_ID $QUEUECTL_ENDED_STATE $QUEUECTL_ENDED_REASON" >> '


@pytest.fixture(params=sorted(ENGINES), autouse=True)
def location(request: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each engine's store in turn."""
    with ENGINES[request.param](tmp_path) as where:
        monkeypatch.setenv("QUEUECTL_DB", where)
        yield


def enqueue_row(scene: Scene) -> List[str]:
    """Set both hooks, and enqueue a row of short commands, each fifth of which fails for good."""
    for state in ("completed", "dead"):
        scene.queue.set_setting(f"on_{state}", HOOK + shlex.quote(str(scene.folder / "told")))
    jobs = [{"command": "exit 3" if number % 5 == 4 else "true", "max_retries": 0} for number in range(ROW)]
    return list(scene.queue.enqueue_many(jobs))


def judge(scene: Scene, ids: List[str]) -> None:
    """Each job has ended and has one hook, which has completed and told so, more than once only if its run was lost."""
    scene.judge(acknowledged=ids)
    jobs = {job.id: job for job in scene.queue.jobs()}
    hooks = [job for job in jobs.values() if job.id not in ids]
    expected = collections.Counter((job_id, jobs[job_id].state) for job_id in ids)
    assert {"completed": ROW * 4 // 5, "dead": ROW // 5} == collections.Counter(state for _, state in expected)
    assert expected == collections.Counter(
        (job.env["QUEUECTL_ENDED_ID"], job.env["QUEUECTL_ENDED_STATE"]) for job in hooks
    )
    assert {"completed"} == {job.state for job in hooks}
    told = collections.Counter((scene.folder / "told").read_text().splitlines())
    assert set(told) == {f"{job_id} {state} {'exit 3' * (state == 'dead')}" for job_id, state in expected}
    assert ROW <= sum(told.values()) <= sum(job.attempts for job in hooks)


@pytest.mark.parametrize("step", ["finishing", "finished", "noted"])
def test_a_worker_killed_at(scene: Scene, fault: Callable[..., Fault], step: str) -> None:
    """Amid the transaction that writes ends and hooks, behind it, and with ends that only its journal has."""
    ids = enqueue_row(scene)
    met = fault(f"worker run/{step}", count=20 if step != "noted" else 2)

    done = scene.start("--drain", "--count", "2", wait=False, env=met.env).wait(90)

    assert (0, True) == (done.code, met.met)
    judge(scene, ids)


def test_everything_is_killed(scene: Scene) -> None:
    """Supervisor and workers at once, several times, at whatever they are."""
    ids = enqueue_row(scene)
    for least in (10, 60, 110):
        group = scene.start("--count", "2")
        scene.eventually(lambda: len(list(scene.queue.jobs())) >= ROW + least, what="hooks")  # noqa: B023
        group.kill_all()

    scene.drain("--count", "2")

    judge(scene, ids)


def test_a_command_that_kills_its_worker_has_one(scene: Scene) -> None:
    """Once it is dead: it was lost too often, which no worker writes, but whoever cleans up after the last one."""
    scene.queue.set_setting("on_dead", HOOK + shlex.quote(str(scene.folder / "told")))
    scene.queue.set_setting("max_lost", "1")
    scene.queue.enqueue("kill -9 $PPID; sleep 60")

    done = scene.start("--drain", wait=False).wait(60)

    assert 0 == done.code
    assert "job1 dead lost a run: the worker died while it ran\n" == (scene.folder / "told").read_text()
