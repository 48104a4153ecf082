"""SIGSTOP at every named step, as a held terminal or a frozen machine does it: beyond the lease, and then back.

Between two transactions a paused process stands in nobody's way: when its lease is over it is ended and its jobs
run again. Within one it holds the store's write lock: others read on, and wait with their writing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List

import pytest

from queuectl import faults
from queuectl.db import sqlite_file
from queuectl.errors import StoreUnavailable
from tests.faults.faulty import Fault, state_of, stopped
from tests.process.scene import HELD, Group, Scene

pytestmark = pytest.mark.posix

#: Steps between transactions, and how the run that a worker was at ends if it does not come back in time. One that
#: hangs without a run keeps nobody waiting, and is left alone.
BETWEEN = {
    "claimed": ["lost", "completed"],
    "spawned": ["lost", "completed"],
    "ended": ["lost", "completed"],
    "finished": ["completed"],
    "synced": ["completed"],
}
SWEEPER = ("condemned", "clearing", "cleared", "released")
#: A step of a supervisor that others may be paused with.
SUPERVISOR = ("judging",)
#: Steps with the write lock held, and what comes to each: a worker with such a job, or a command.
WITHIN: Dict[str, Any] = {
    "adding": ["enqueue", "-q", "--", "true"],
    "promoting": {"delay": 0.05},
    "claiming": {},
    "flushing": {"body": "echo said; " + HELD},
    "finishing": {},
    "renewing": {"body": HELD},
    "releasing": ["worker", "start", "--drain"],
    "cancelling": ["cancel", "waiting"],
    "retrying": ["retry", "waiting"],
    "pruning": ["prune", "--yes"],
    "resetting": ["reset", "--yes"],
    "checked": ["copy", "--to", "copy.db"],
}
#: Steps of a worker with a row of short commands: test_ahead.py pauses it at the first two. "giving" is within a
#: transaction, and its lock is got back like that of "finishing".
ROW = ("noting", "noted", "giving")
#: Steps at which the process holds nothing that anybody could wait for.
ALONE = ("migrating", "making", "made", "added", "stopping", "copying", "checking", "copied")


def test_no_step_is_left_out() -> None:
    """A step that is new in the code needs a test here."""
    assert sorted(faults.STEPS) == sorted([*BETWEEN, *SWEEPER, *SUPERVISOR, *WITHIN, *ROW, *ALONE])


# -- between transactions ---------------------------------------------------------------------


@pytest.mark.slow
def test_workers_paused_beyond_their_lease(scene: Scene, fault: Callable[..., Fault]) -> None:
    """One group for each step, each with a queue of its own: the supervisors end and replace what does not move."""
    scene.queue.set_setting("lease", "2")
    ids: Dict[str, str] = {}
    paused: Dict[str, int] = {}
    groups: List[Group] = []
    for step in BETWEEN:
        met = fault(step, "STOP")
        groups.append(scene.start("--queue", step, env=met.env))
        paused[step] = groups[-1].pids()[0]
        ids[step] = scene.queue.enqueue(scene.journal.command(), queue=step).id
    scene.eventually(lambda: len(stopped(list(paused.values()))) == len(BETWEEN), what="all at their steps")

    for job_id in ids.values():
        scene.until(job_id, "completed", timeout=60)
    idle = [paused["finished"], paused["synced"]]
    scene.gone([pid for pid in paused.values() if pid not in idle], timeout=30)
    assert idle == stopped(idle)
    for pid in idle:
        os.kill(pid, signal.SIGCONT)

    assert BETWEEN == {step: scene.outcomes(job_id) for step, job_id in ids.items()}
    for group in groups:
        assert 0 == group.stop().code
    scene.judge(acknowledged=ids.values())


@pytest.mark.parametrize("step", list(BETWEEN))
def test_a_worker_paused_within_its_lease(scene: Scene, fault: Callable[..., Fault], step: str) -> None:
    """It comes back in time and goes on as if nothing had been."""
    met = fault(step, "STOP")
    job_id = scene.queue.enqueue(scene.journal.command()).id
    group = scene.start(env=met.env)
    pid = group.pids()[0]
    scene.eventually(lambda: stopped([pid]), what="the pause")

    os.kill(pid, signal.SIGCONT)

    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert [pid] == group.pids()
    group.stop()
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize("step", SWEEPER)
def test_a_recovery_that_comes_back_late_touches_nothing(
    scene: Scene, fault: Callable[..., Fault], background: Callable[..., Any], step: str
) -> None:
    """While it is paused another one gives the job away, and its next run begins: that run is not its to end."""
    leaving = scene.journal.leaving("a child in a session of its own")
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {leaving}; note left; sleep 60; fi; note again; sleep 1'
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("left")
    group.kill_all()
    late = background("worker", "start", env=fault(step, "STOP").env)
    scene.eventually(lambda: state_of(late.pid) == "T", what="the pause")
    other = scene.start()
    scene.noted("again")

    late.send(signal.SIGCONT)

    scene.until(job_id, "completed")
    assert ["lost", "completed"] == scene.outcomes(job_id)
    assert [0, 0] == [late.stop().code, other.stop().code]
    scene.judge(acknowledged=[job_id])


@pytest.mark.slow
def test_a_supervisor_holds_no_pause_of_its_own_against_its_worker(scene: Scene, fault: Callable[..., Fault]) -> None:
    """Both are paused beyond the lease, the one just when it had seen that it may judge: it ends nobody for that."""
    scene.queue.set_setting("lease", "2")
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    met = fault("worker start/judging", "STOP", held=True)
    group = scene.start(env=met.env)
    both = [group.pid, *group.pids()]
    met.let()
    scene.eventually(lambda: state_of(group.pid) == "T", what="the pause")

    os.kill(both[1], signal.SIGSTOP)
    since = time.monotonic()
    scene.eventually(lambda: time.monotonic() > since + 4)  # two leases
    os.kill(group.pid, signal.SIGCONT)
    rows = scene.queue.store.workers
    scene.eventually(lambda: any(row.pid == group.pid and row.renewed_mono_s > since + 4 for row in rows()))
    os.kill(both[1], signal.SIGCONT)

    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert both == [group.pid, *group.pids()]
    assert 0 == group.stop().code
    scene.judge(acknowledged=[job_id])


# -- within a transaction ---------------------------------------------------------------------


@pytest.mark.parametrize("step", list(WITHIN))
def test_a_process_paused_with_the_lock_in_its_hands(
    scene: Scene, fault: Callable[..., Fault], cli: Callable[..., Any], background: Callable[..., Any], step: str
) -> None:
    """Looking goes on; an enqueue waits until it comes back, and then both have what they wanted."""
    scene.queue.set_setting("lease", "2")
    what = WITHIN[step]
    met = fault(f"worker run/{step}" if isinstance(what, dict) else step, "STOP")
    scene.queue.enqueue("true", id="waiting", delay=3600)
    if isinstance(what, dict):
        what = dict(what)
        scene.queue.enqueue(scene.journal.command(what.pop("body", "")), **what)
        holder = scene.start(env=met.env)
    else:
        prepare(scene, step)
        holder = background(*what, env=met.env)
    scene.eventually(lambda: met.met and held_by(scene, holder), what="the pause")

    assert 0 == cli("status", timeout=5).code
    enqueue = background("enqueue", "-q", "--id", "mine", "--", "true")
    with pytest.raises(pytest.fail.Exception):
        scene.eventually(lambda: not enqueue.running, timeout=0.5)
    for pid in held_by(scene, holder):
        os.kill(pid, signal.SIGCONT)
    (scene.folder / "go").touch()

    assert (0, "mine\n") == enqueue.wait()[::-2]
    if isinstance(WITHIN[step], dict):
        scene.until("job1", "completed")
        assert ["completed"] == scene.outcomes("job1")
        assert 0 == holder.stop().code
    else:
        assert 0 == holder.wait().code
    assert [] == scene.queue.store.check()


#: Start workers whose supervisor has less patience with a held lock than 30 s.
IMPATIENT = (
    "import sys; from queuectl.db import sqlite_file; sqlite_file.PATIENCE_S = 1.0; "
    "from queuectl.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize("others", ["who live", "who start"])
def test_a_worker_that_never_gives_the_lock_back(scene: Scene, fault: Callable[..., Fault], others: str) -> None:
    """Paused in a transaction beyond its lease it is ended by a supervisor of those who wait for the lock."""
    scene.queue.set_setting("lease", "2")
    words = [sys.executable, "-c", IMPATIENT, "worker", "start", "--queue"]
    met = fault("worker run/claiming", "STOP")
    first = scene.start("--queue", "default", env=met.env)
    pid = first.pids()[0]
    started = [subprocess.Popen([*words, "other"], stdin=subprocess.DEVNULL)] if others == "who live" else []
    try:
        scene.eventually(lambda: len(scene.queue.workers()) == 1 + len(started), what="the workers")
        job_id = scene.queue.enqueue(scene.journal.command()).id
        scene.eventually(lambda: stopped([pid]), what="the pause")
        assert pid == scene.queue.store.lock_holder()
        os.kill(first.pid, signal.SIGSTOP)  # its own supervisor waits for the lock too, and longer
        begun = time.monotonic()
        scene.eventually(lambda: time.monotonic() > begun + 3.2)  # one and a half leases
        if not started:
            started.append(subprocess.Popen([*words, "default"], stdin=subprocess.DEVNULL))
        scene.gone([pid])
    finally:
        os.kill(first.pid, signal.SIGCONT)
        for process in started:
            process.send_signal(signal.SIGTERM)
    assert [0] == [process.wait() for process in started]
    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert 0 == first.stop().code
    scene.judge(acknowledged=[job_id])


def test_who_holds_the_lock_is_named(
    scene: Scene, fault: Callable[..., Fault], background: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited in vain is told for which process."""
    holder = background("enqueue", "-q", "--", "true", env=fault("adding", "STOP").env)
    scene.eventually(lambda: state_of(holder.pid) == "T", what="the pause")
    monkeypatch.setattr(sqlite_file, "PATIENCE_S", 1.0)

    with pytest.raises(StoreUnavailable, match=f"was busy for 1 s: process {holder.pid} has held its lock. Try again."):
        scene.queue.enqueue("true")

    holder.send(signal.SIGCONT)
    assert "job1\n" == holder.wait().out
    assert "job2" == scene.queue.enqueue("true").id


def prepare(scene: Scene, step: str) -> None:
    """Bring about what the command of this step is for."""
    if step in ("retrying", "pruning"):
        scene.queue.cancel("waiting")
    if step == "releasing":
        scene.queue.cancel("waiting")
        scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60'))
        group = scene.start()
        scene.noted("start")
        group.kill_all()


def held_by(scene: Scene, holder: Any) -> List[int]:
    """Return the processes of *holder* that are paused."""
    pids = [holder.pid, *(holder.pids() if isinstance(holder, Group) else [])]
    return stopped(pids)
