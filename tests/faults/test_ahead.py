"""Rows of short commands, whose claims a worker holds ahead and whose ends it keeps back for a moment.

Whatever happens to the worker in that moment, nothing is lost, nothing that ended runs again, and nothing that did not
begin counts as begun.
"""

from __future__ import annotations

import collections
import re
import shlex
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from queuectl.db.rules import PLENTY
from tests import oracle
from tests.faults.faulty import Fault, stopped
from tests.process.scene import Scene
from tests.store.engines import ENGINES

pytestmark = pytest.mark.posix


@pytest.fixture(params=sorted(ENGINES), autouse=True)
def location(request: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each engine's store in turn: what a worker notes is read on its host, whatever the store."""
    with ENGINES[request.param](tmp_path) as where:
        monkeypatch.setenv("QUEUECTL_DB", where)
        yield


#: Long enough that some of it goes quickly on a busy machine too; what is beyond ``PLENTY`` can be held.
ROW = 15 * PLENTY + 400


def enqueue_row(scene: Scene, slow_every: int = 0) -> List[str]:
    """Enqueue a row of commands that each note their job; every so many is slow."""
    note = f'echo "$QUEUECTL_JOB_ID" >> {shlex.quote(str(scene.folder / "begun"))}'
    commands = [
        f"{note}; sleep 0.2" if slow_every and number % slow_every == slow_every - 1 else note for number in range(ROW)
    ]
    return list(scene.queue.enqueue_many(commands))


def begun(scene: Scene) -> Dict[str, int]:
    """Return how often the command of each job began."""
    return collections.Counter((scene.folder / "begun").read_text().split())


def judge_row(scene: Scene, ids: List[str]) -> List[str]:
    """All completed; return the jobs with a lost run. No command began without a run, nor a run without its command."""
    scene.judge(acknowledged=ids)
    count, all_runs = begun(scene), oracle.all_runs(scene.queue.store)
    jobs = {job.id: job for job in scene.queue.jobs()}
    lost = []
    for job_id in ids:
        job, runs = jobs[job_id], all_runs[job_id]
        assert "completed" == job.state
        assert len(runs) == job.attempts == job.run_no
        if ["completed"] != [run.state for run in runs]:
            assert ["lost", "completed"] == [run.state for run in runs]
            lost.append(job_id)
        assert count[job_id] <= len(runs)
    return lost


@pytest.mark.parametrize("step", ["noting", "noted", "giving"])
def test_a_worker_killed_at(scene: Scene, fault: Callable[..., Fault], step: str) -> None:
    """The one run that was under way may be lost; ends that were kept back stand, claims that were held are undone."""
    ids = enqueue_row(scene, slow_every=20 if step == "giving" else 0)
    met = fault(f"worker run/{step}", count=3 if step != "giving" else 1)

    done = scene.start("--drain", wait=False, env=met.env).wait(90)

    assert (0, True) == (done.code, met.met)
    assert len(judge_row(scene, ids)) <= 1
    assert sum(begun(scene).values()) <= ROW + 1


@pytest.mark.parametrize("step", ["finishing", "finished"])
def test_a_worker_killed_before_it_knows_what_it_got(scene: Scene, fault: Callable[..., Fault], step: str) -> None:
    """None of the jobs that it was just given has begun; at most the one that ran while it asked is lost."""
    ids = enqueue_row(scene)
    met = fault(f"worker run/{step}", count=30)

    done = scene.start("--drain", wait=False, env=met.env).wait(90)

    assert (0, True) == (done.code, met.met)
    assert len(judge_row(scene, ids)) <= 1
    assert sum(begun(scene).values()) <= ROW + 1


@pytest.mark.parametrize("step", ["noting", "noted"])
def test_a_worker_paused_beyond_its_lease(scene: Scene, fault: Callable[..., Fault], step: str) -> None:
    """Its supervisor ends it; the same holds."""
    scene.queue.set_setting("lease", "2")
    ids = enqueue_row(scene)
    met = fault(f"worker run/{step}", "STOP", count=3)
    group = scene.start("--drain", wait=False, env=met.env)
    scene.eventually(lambda: len(stopped(group.pids())) == 1, what="the pause")

    done = group.wait(90)

    assert 0 == done.code
    assert len(judge_row(scene, ids)) <= 1


def test_everything_is_killed(scene: Scene, fault: Callable[..., Fault]) -> None:
    """Supervisor and workers at once, in the middle of a row: the next start takes it up."""
    ids = enqueue_row(scene)
    met = fault("worker run/noted", "STOP", count=5)
    group = scene.start("--count", "2", env=met.env)
    scene.eventually(lambda: len(stopped(group.pids())) == 1, what="the pause")
    group.kill_all()

    scene.drain("--count", "2")

    assert len(judge_row(scene, ids)) <= 2


@pytest.mark.parametrize("words", [(), ("--now",)], ids=["in order", "now"])
def test_a_stop_gives_back_what_has_not_begun(
    scene: Scene, cli: Callable[..., Any], fault: Callable[..., Fault], words: List[str]
) -> None:
    """What waits has no attempt behind it and no run; what ran has ended."""
    ids = enqueue_row(scene)
    met = fault("worker run/noted", "CONT", count=20)  # a signal that does nothing: so far it has come
    group = scene.start("--count", "2", env=met.env)
    scene.eventually(lambda: met.met, what="claims ahead")

    cli("worker", "stop", *words, code=0)

    assert 0 == group.wait().code
    all_runs = oracle.all_runs(scene.queue.store)
    for job in scene.queue.jobs():
        runs = all_runs[job.id]
        assert len(runs) == job.attempts
        assert job.state == "completed" or (job.state == "pending" and {"stopped"} >= {run.state for run in runs})
    scene.drain("--count", "2")
    assert {"completed"} == {job.state for job in scene.queue.jobs()}
    scene.judge(acknowledged=ids)


def test_a_slow_command_holds_nobody_up(scene: Scene) -> None:
    """What was claimed with it is given back while it runs, and done by the other worker."""
    note = f'echo "$QUEUECTL_JOB_ID" >> {shlex.quote(str(scene.folder / "begun"))}'
    wait = f"until [ -e {shlex.quote(str(scene.folder / 'go'))} ]; do sleep 0.1; done"
    ids = scene.queue.enqueue_many([f"{note}; {wait}" if number == ROW // 2 else note for number in range(ROW)])
    slow = ids[ROW // 2]
    group = scene.start("--count", "2")

    scene.eventually(lambda: scene.queue.status().jobs["completed"] == ROW - 1, timeout=60, what="all the others")

    assert "processing" == scene.state(slow)
    (scene.folder / "go").touch()
    scene.until(slow, "completed")
    group.stop()
    assert [] == judge_row(scene, list(ids))


def test_a_foreground_worker_tells_it_in_order(scene: Scene) -> None:
    """Picked, the output, the end: one job after the other, as if nothing were kept back."""
    scene.queue.enqueue_many([f"echo said {number}" for number in range(1, ROW + 1)])

    done = scene.start("--drain", wait=False).wait(90)

    lines = [line for line in done.out.splitlines() if re.search("picked|said|completed", line)]
    expected = []
    for number in range(1, ROW + 1):
        expected += [
            f"[worker 0] picked job job{number}: echo said {number}",
            f"said {number}",
            f"[worker 0] job job{number} completed",
        ]
    assert expected == lines


def test_a_command_that_kills_its_worker_costs_its_neighbours_nothing(scene: Scene) -> None:
    """It alone has lost runs, until it is dead; what was claimed with it has never begun."""
    scene.queue.set_setting("max_lost", "2")
    note = f'echo "$QUEUECTL_JOB_ID" >> {shlex.quote(str(scene.folder / "begun"))}'
    ids = scene.queue.enqueue_many([f"{note}; kill -9 $PPID" if number == ROW // 3 else note for number in range(ROW)])
    killer = ids[ROW // 3]

    done = scene.start("--drain", wait=False).wait(90)

    assert 0 == done.code
    assert ("dead", ["lost", "lost"]) == (scene.state(killer), scene.outcomes(killer))
    outcomes = {job_id: [run.state for run in runs] for job_id, runs in oracle.all_runs(scene.queue.store).items()}
    assert {**{job_id: ["completed"] for job_id in ids}, killer: ["lost", "lost"]} == outcomes
    assert {**dict.fromkeys(ids, 1), killer: 2} == dict(begun(scene))
