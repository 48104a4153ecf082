"""``kill -9`` at every named step of a run's life and of every command: the next one puts it right.

What a process was doing when it died decides what is left; the oracle's verdict never does.
"""

from __future__ import annotations

import signal
from typing import Any, Callable, List

import pytest

from queuectl import Queue, faults
from tests import oracle
from tests.process.scene import HELD, Scene

pytestmark = pytest.mark.posix

#: What a worker is killed at, and how the run that it was at ends.
WORKER = {
    "promoting": [],
    "claiming": [],
    "claimed": ["lost"],
    "spawned": ["lost"],
    "flushing": ["lost"],
    "ended": ["lost"],
    "finishing": ["lost"],
    "finished": None,
    "synced": None,
    "renewing": ["lost"],
}
#: What a worker with a row of short commands is killed at; test_ahead.py does it.
ROW = ("noting", "noted", "giving")
#: What whoever recovers lost runs is killed at.
SWEEPER = ("condemned", "clearing", "cleared", "releasing", "released")
#: What a supervisor of busy workers is killed at; "renewing" is another such step.
SUPERVISOR = ("judging",)
#: What an enqueuer is killed at, and the id that the next enqueue gets.
ENQUEUER = {"migrating": "job1", "making": "job1", "made": "job1", "adding": "job1", "added": "job2"}
#: Commands that move or delete jobs, and the step that each is killed at.
DESK = {
    "cancelling": ("cancel", "waiting"),
    "retrying": ("retry", "over"),
    "pruning": ("prune", "--yes"),
    "resetting": ("reset", "--yes"),
    "stopping": ("worker", "stop"),
}
#: What a copy is killed at; tests/process/test_copy.py does it, between all kinds of stores.
COPY = ("copying", "checking", "checked", "copied")
AFTER = {
    "cancelling": {"over": "completed", "dead": "dead", "waiting": "cancelled"},
    "retrying": {"over": "pending", "dead": "dead", "waiting": "pending"},
    "pruning": {"waiting": "pending"},
    "resetting": {},
}


def test_no_step_is_left_out() -> None:
    """A step that is new in the code needs a test here."""
    assert sorted(faults.STEPS) == sorted([*WORKER, *ROW, *SWEEPER, *SUPERVISOR, *ENQUEUER, *DESK, *COPY])


#: Commands that go on until their worker has come to the step: a slow one may be late.
BODIES = {"flushing": "echo said; " + HELD, "renewing": HELD}


@pytest.mark.parametrize("step", list(WORKER))
def test_a_worker_killed_at(scene: Scene, fault: Callable[..., Any], step: str) -> None:
    """Its supervisor replaces it, the jobs it had run again or stand as they ended, nothing is lost or doubled."""
    scene.queue.set_setting("lease", "2")
    first = scene.queue.enqueue(scene.journal.command(BODIES.get(step, "")), delay=0.05 * (step == "promoting")).id
    others = scene.queue.enqueue_many([scene.journal.command()] * 3)
    met = fault(f"worker run/{step}", held=step == "renewing")  # one that was late renews before it claims

    group = scene.start("--drain", wait=False, env=met.env)
    if step == "renewing":
        scene.noted("start")
        met.let()
    scene.eventually(lambda: met.met, what="the fault")
    (scene.folder / "go").touch()

    done = group.wait(60)
    assert 0 == done.code
    assert "[worker 0] died (signal KILL), restarts in" in done.out
    if WORKER[step] is not None:
        assert [*WORKER[step], "completed"] == scene.outcomes(first)
    scene.judge(acknowledged=[first, *others])


def test_a_worker_killed_with_many_ends_in_its_hands(scene: Scene, fault: Callable[..., Any]) -> None:
    """Ends that were not handed in are lost with it; their jobs run again, one for one."""
    ids = scene.queue.enqueue_many([scene.journal.command()] * 40)
    met = fault("finishing", count=3)

    done = scene.start("--drain", "--concurrency", "8", wait=False, env=met.env).wait(60)

    assert (0, True) == (done.code, met.met)
    assert {"completed"} == {scene.state(job_id) for job_id in ids}
    assert any(["lost", "completed"] == scene.outcomes(job_id) for job_id in ids)
    scene.judge(acknowledged=ids)


def a_lost_run(scene: Scene) -> str:
    """Have a job's worker and supervisor killed while it runs, with children; return its id."""
    leaving = scene.journal.leaving(
        "a child in a session of its own", "a child with an emptied environment in a session of its own"
    )
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {leaving}; note left; sleep 60; fi'
    job_id: str = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("left")
    group.kill_all()
    return job_id


@pytest.mark.parametrize("words", [("worker", "start"), ("worker", "stop")], ids=" ".join)
@pytest.mark.parametrize("step", SWEEPER)
def test_a_recovery_killed_at(
    scene: Scene, fault: Callable[..., Any], cli: Callable[..., Any], step: str, words: List[str]
) -> None:
    """Whoever takes a dead worker's jobs back dies on the way: the next one goes on, and the job runs alone."""
    job_id = a_lost_run(scene)
    beats = scene.pids("beats", 2)
    met = fault(step)

    killed = cli(*words, env=met.env)

    assert (-signal.SIGKILL, True) == (killed.code, met.met)
    assert [] == scene.queue.status().workers
    scene.drain()
    scene.gone(beats, timeout=0)
    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize("step", ["renewing", *SUPERVISOR])
def test_a_supervisor_killed_at(scene: Scene, fault: Callable[..., Any], step: str) -> None:
    """Its worker ends its job and goes; a lock that the supervisor held is free."""
    scene.queue.set_setting("lease", "2")
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    met = fault(f"worker start/{step}", held=True)
    group = scene.start(env=met.env)
    pids = group.pids()
    scene.noted("start")
    met.let()

    assert -signal.SIGKILL == group.wait().code
    (scene.folder / "go").touch()

    assert "completed" == scene.until(job_id, "completed").state
    assert ["completed"] == scene.outcomes(job_id)
    scene.gone(pids)
    scene.drain()
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize("words", [("enqueue", "--", "true"), ("enqueue", "--file", "-")], ids=" ".join)
@pytest.mark.parametrize("step", list(ENQUEUER))
def test_an_enqueuer_killed_at(fault: Callable[..., Any], cli: Callable[..., Any], step: str, words: List[str]) -> None:
    """It has not answered; its job is there whole or not at all, and no number is missing."""
    met = fault(step)

    killed = cli(*words, input='{"command": "true"}\n', env=met.env)

    assert (-signal.SIGKILL, "", True) == (killed.code, killed.out, met.met)
    assert ENQUEUER[step] == cli("enqueue", "-q", "--", "true", code=0).out.strip()
    cli("worker", "start", "--drain", code=0)
    with Queue(create=False) as queue:
        assert [] == oracle.problems(queue.store)


# -- commands of people -----------------------------------------------------------------------


@pytest.fixture
def moved(scene: Scene, cli: Callable[..., Any]) -> Scene:
    """A store with a job that waits, one that completed and one that is dead."""
    scene.queue.enqueue(scene.journal.command(), id="over")
    scene.queue.enqueue(scene.journal.command("exit 3"), id="dead", max_retries=0)
    scene.drain()
    scene.queue.enqueue(scene.journal.command(), id="waiting", delay=3600)
    return scene


@pytest.mark.parametrize("step", [step for step in DESK if step != "stopping"])
def test_a_command_killed_at(moved: Scene, fault: Callable[..., Any], cli: Callable[..., Any], step: str) -> None:
    """Killed in its transaction it has changed nothing; typed again it does all of it."""
    before = [(job.id, job.state, job.updated_at) for job in moved.queue.jobs()]
    met = fault(step)

    killed = cli(*DESK[step], env=met.env)

    assert (-signal.SIGKILL, "", True) == (killed.code, killed.out, met.met)
    assert before == [(job.id, job.state, job.updated_at) for job in moved.queue.jobs()]
    moved.judge(ended=False)
    cli(*DESK[step], code=0)
    assert AFTER[step] == {job.id: job.state for job in moved.queue.jobs()}
    assert [] == moved.queue.store.check()
    assert "job1" == moved.queue.enqueue("true").id


@pytest.mark.parametrize("words", [("worker", "stop"), ("worker", "stop", "--now"), ("reset", "--yes")], ids=" ".join)
def test_a_stop_killed_after_its_signals(
    scene: Scene, fault: Callable[..., Any], cli: Callable[..., Any], words: List[str]
) -> None:
    """The workers end as they were asked to; jobs are as they were, and stopping again finds nobody."""
    is_gentle = words == ("worker", "stop")
    body = "sleep 0.5" if is_gentle else "[ $QUEUECTL_ATTEMPT != 1 ] || sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("start")
    met = fault("stopping")

    killed = cli(*words, env=met.env)

    assert (-signal.SIGKILL, True) == (killed.code, met.met)
    assert 0 == group.wait().code
    assert ("completed" if is_gentle else "pending") == scene.state(job_id)
    assert "No workers are running.\n" == cli("worker", "stop", code=0).out
    scene.drain()
    scene.judge(acknowledged=[job_id])
