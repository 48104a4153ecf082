"""Commands that mean harm, or do it without meaning it: what they did is over when their run is, and others go on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Iterator

import pytest

from tests.process.scene import Scene

pytestmark = pytest.mark.posix


# -- forking without end ------------------------------------------------------------------------


@pytest.fixture
def pen() -> Iterator[Path]:
    """A control group that keeps a fork bomb from taking the machine with it; nothing in it survives the test."""
    group = Path(f"/sys/fs/cgroup/pids/queuectl-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "pids.max").write_text("1000")
    except OSError as error:
        pytest.skip(f"no control group for processes (version 1) can be made here: {error}")
    yield group
    deadline = time.monotonic() + 20
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise


STORMS = {
    "a bomb": "f() { f | f & f & }; f &",
    "a comet: each forks the next and ends": "sh comet;",
    "a comet in sessions of its own": "sh comet setsid;",
}


@pytest.mark.parametrize("storm", list(STORMS))
def test_a_command_that_forks_without_end(scene: Scene, pen: Path, storm: str) -> None:
    """After its timeout nothing of it is left, and the next job finds the machine as it was."""
    (scene.folder / "comet").write_text("[ -e stop ] || $1 sh comet $1 &\n")
    scene.queue.set_setting("kill_grace", "0.3")
    body = f"echo $$ > {pen}/cgroup.procs; {STORMS[storm]} exec sleep 60"
    job_id = scene.queue.enqueue(body, timeout=0.7, max_retries=0).id
    other = scene.queue.enqueue(scene.journal.command()).id

    scene.drain()

    left = (pen / "cgroup.procs").read_text()
    (scene.folder / "stop").touch()
    assert "" == left
    assert ["timed_out"] == scene.outcomes(job_id)
    assert "completed" == scene.state(other)
    scene.judge(acknowledged=[job_id, other])


def test_a_storm_that_lost_its_worker(scene: Scene, pen: Path) -> None:
    """A bomb whose worker was killed is gone before its job runs again."""
    bomb = f"echo $$ > {pen}/cgroup.procs; f() {{ f | f & f & }}; note bomb; f & exec sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {bomb}; fi')).id
    group = scene.start()
    scene.noted("bomb")
    scene.eventually(lambda: int((pen / "pids.current").read_text()) > 100, what="a hundred processes")

    os.kill(group.pids()[0], signal.SIGKILL)

    scene.until(job_id, "completed")
    assert "" == (pen / "cgroup.procs").read_text()
    assert 0 == group.stop().code
    scene.judge(acknowledged=[job_id])


# -- printing without end -----------------------------------------------------------------------


def test_a_command_that_prints_without_end(scene: Scene, home: Path) -> None:
    """Hundreds of megabytes in half a second fill neither the memory of the worker nor the store."""
    job_id = scene.queue.enqueue("exec yes 'a line that is printed again and again'", timeout=0.5, max_retries=0).id
    group = scene.start("--queue", "default", env={})
    pid = group.pids()[0]

    scene.until(job_id, "dead")

    with open(f"/proc/{pid}/status") as file:
        peak_kib = int(next(line for line in file if line.startswith("VmHWM")).split()[1])
    assert peak_kib < 80 * 1024
    output = scene.queue.output(job_id)
    assert len(output) < 1.1 * 1024 * 1024
    assert b" bytes were cut here]\n" in output
    assert sum(path.stat().st_size for path in home.glob("jobs.db*") if path.is_file()) < 64 * 1024 * 1024
    group.stop()
    scene.judge(acknowledged=[job_id])


# -- everything else ----------------------------------------------------------------------------

#: What a command may do, how its run ends, and what becomes of its job.
DEEDS = {
    "ignores TERM": ("trap '' TERM; sleep 60 & wait; sleep 60", "timed_out", "dead"),
    "leaves its session twice": ("setsid setsid sleep 60 & sleep 60", "timed_out", "dead"),
    "closes its streams": ("exec <&- >&- 2>&-; sleep 0.1", "completed", "completed"),
    "closes its streams and stays": ("exec <&- >&- 2>&-; sleep 60", "timed_out", "dead"),
    "empties its environment": ("exec env -i /bin/sleep 60", "timed_out", "dead"),
    "changes its mark": ("export QUEUECTL_RUN_ID=999 QUEUECTL_STORE_ID=x; sh -c 'sleep 60'", "timed_out", "dead"),
    "stops itself": ("kill -STOP $$", "timed_out", "dead"),
    "kills its group": ("kill -9 0", "failed", "dead"),
    "removes its directory": ('mkdir d && cd d && rmdir "$PWD" && sleep 0.1', "completed", "completed"),
    "removes notes and bells": ("rm -rf .queuectl/jobs.db-run; sleep 0.1", "completed", "completed"),
    "reads its input": ("cat; read line", "failed", "dead"),
    "exits like a signal": ("exit 137", "failed", "dead"),
    "hides its exit": ("(exit 3) & exit 0", "completed", "completed"),
    "takes all descriptors": (
        'n=3; while [ $n -lt 10 ]; do eval "exec $n</dev/null"; n=$((n + 1)); done; ls /proc/self/fd >/dev/null',
        "completed",
        "completed",
    ),
}


@pytest.mark.parametrize("deed", list(DEEDS))
def test_a_command_that(scene: Scene, deed: str) -> None:
    """Its run ends as it should, nothing of it is left, and its worker runs the next job."""
    command, outcome, state = DEEDS[deed]
    scene.queue.set_setting("kill_grace", "0.2")
    job_id = scene.queue.enqueue(command, timeout=1, max_retries=0).id
    group = scene.start()
    (pid,) = group.pids()

    scene.until(job_id, "completed", "dead")

    assert ([outcome], state) == (scene.outcomes(job_id), scene.state(job_id))
    other = scene.queue.enqueue(scene.journal.command()).id
    scene.until(other, "completed")
    assert [pid] == group.pids()
    group.stop()
    scene.judge(acknowledged=[job_id, other])


def test_commands_that_stop_or_kill_their_worker(scene: Scene) -> None:
    """Ended and replaced each time; after ``max_lost`` lost runs in a row the job is dead, and the others ran."""
    scene.queue.set_setting("lease", "2")
    scene.queue.set_setting("max_lost", "1")
    stopping = scene.queue.enqueue(scene.journal.command("kill -STOP $PPID; sleep 60"), queue="a").id
    killing = scene.queue.enqueue(scene.journal.command("kill -9 $PPID; sleep 60"), queue="b").id
    groups = [scene.start("--queue", queue) for queue in ("a", "b")]

    for job_id in (stopping, killing):
        assert "lost a run: the worker died while it ran" == scene.until(job_id, "dead", timeout=60).reason
    others = [scene.queue.enqueue(scene.journal.command(), queue=queue).id for queue in ("a", "b")]
    for job_id in others:
        scene.until(job_id, "completed")

    done = [group.stop() for group in groups]
    assert [0, 0] == [each.code for each in done]
    # Whoever looks for the job that kills the worker finds it in the last line.
    for each, job_id in zip(done, (stopping, killing)):
        assert 1 == each.out.count(f"picked job {job_id}: "), each.out
    scene.judge(acknowledged=[stopping, killing, *others])


@pytest.mark.slow
def test_a_command_that_runs_longer_than_the_lease(scene: Scene) -> None:
    """The worker renews its lease meanwhile: the run is neither lost nor doubled, whoever looks."""
    scene.queue.set_setting("lease", "2")
    job_id = scene.queue.enqueue(scene.journal.command("sleep 7")).id
    groups = [scene.start(), scene.start()]

    scene.until(job_id, "completed")

    assert ["completed"] == scene.outcomes(job_id)
    assert [0, 0] == [group.stop().code for group in groups]
    scene.judge(acknowledged=[job_id])
