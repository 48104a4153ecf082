"""The wall clock jumps, the machine sleeps for hours, it is started anew: no run is lost or doubled by it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from queuectl.runner.identity import host_id, process_started
from tests import oracle
from tests.process.scene import HELD, Scene

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(sys.platform != "linux", reason="preloads a library, rewrites what /proc tells"),
]

HOUR_S = 3600


# -- the wall clock ---------------------------------------------------------------------------


class Clock:
    """A wall clock that the test sets, for processes started with ``env``."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        library = folder / "clock_shim.so"
        source = Path(__file__).with_name("clock_shim.c")
        if compiler is None:
            pytest.skip("no C compiler: the library that moves a process's clock cannot be made")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self._file = folder / "offset"
        self.env: Dict[str, Optional[str]] = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}
        self.set(0)

    def set(self, hours: int) -> None:
        """Put the clock so many hours ahead (or back, below 0)."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(hours * HOUR_S))
        os.replace(fresh, self._file)


@pytest.fixture
def clock(scene: Scene) -> Clock:
    return Clock(scene.folder)


def judge(scene: Scene, ids: List[str]) -> None:
    """Let the oracle judge by the order of notes alone: by this clock nothing can be said of before and after."""
    records = [record._replace(at=None) for record in scene.journal.records()]
    found = oracle.problems(scene.queue.store, records, acknowledged=ids)
    assert [] == [problem for problem in found if not problem.startswith("by the store, ")]


@pytest.mark.slow
def test_the_wall_clock_jumps_while_jobs_run(scene: Scene, clock: Clock, cli: Callable[..., Any]) -> None:
    """Four hours ahead, four hours back: nobody is taken for dead, what runs runs on, what is new is run at once."""
    scene.queue.set_setting("lease", "2")
    long = scene.queue.enqueue(scene.journal.command(HELD)).id
    groups = [scene.start("--count", "2", env=clock.env), scene.start(env=clock.env)]
    pids = [group.pids() for group in groups]
    scene.noted("start")
    ids = [long]

    for hours in (0, 4, -4, 0):
        clock.set(hours)
        since = time.monotonic()
        ids.append(cli("enqueue", "-q", "--command", scene.journal.command(), env=clock.env).out.strip())
        scene.until(ids[-1], "completed")
        scene.eventually(lambda at=since: time.monotonic() > at + 2.2)  # every group has looked at all others
        assert "Workers: 3 alive\n" in cli("status", env=clock.env).out
        assert "processing" == scene.state(long)
    (scene.folder / "go").touch()

    scene.until(long, "completed")
    assert {("completed",)} == {tuple(scene.outcomes(job_id)) for job_id in ids}
    assert pids == [group.pids() for group in groups]
    assert [0, 0] == [group.stop().code for group in groups]
    judge(scene, ids)


def test_what_was_ready_stays_ready_when_the_clock_goes_back(
    scene: Scene, clock: Clock, cli: Callable[..., Any]
) -> None:
    """A job of the future's past: enqueued while the clock was ahead, it does not wait until it is that late again."""
    clock.set(4)
    job_id = cli("enqueue", "-q", "--command", scene.journal.command(), env=clock.env).out.strip()
    clock.set(0)

    told = cli("explain", job_id, env=clock.env).out
    assert told.startswith(f"{job_id} is pending, and has been due since before the clock was set back.\n"), told
    assert "  due   " in cli("list", "--table", env=clock.env).out
    cli("worker", "start", "--drain", env=clock.env, code=0)

    assert ["completed"] == scene.outcomes(job_id)
    judge(scene, [job_id])


def test_a_retry_waits_by_the_wall_clock(scene: Scene, clock: Clock, cli: Callable[..., Any]) -> None:
    """What waits for a time waits for that time: when the clock goes back, longer; ``retry`` runs it at once."""
    clock.set(4)
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_RUN_ID" -gt 1 ]'), backoff_base=60).id
    group = scene.start(env=clock.env)
    scene.until(job_id, "failed")
    clock.set(0)
    assert f"Make it due now: queuectl retry {job_id}\n" in cli("explain", job_id, env=clock.env).out

    scene.queue.retry(job_id)

    scene.until(job_id, "completed")
    group.stop()
    judge(scene, [job_id])


# -- sleep and start of the machine -----------------------------------------------------------


def change(home: Path, sql: str, *values: Any) -> None:
    """Change rows of the store as no verb does."""
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"), timeout=10)) as db, db:
        assert db.execute(sql, values).rowcount > 0


@pytest.mark.slow
def test_a_machine_that_slept_for_hours(scene: Scene, home: Path) -> None:
    """Every lease ended hours ago by the wall clock; by the monotonic clock, which stood still, it has just begun."""
    scene.queue.set_setting("lease", "2")
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    groups = [scene.start("--count", "2"), scene.start()]
    pids = [group.pids() for group in groups]
    scene.noted("start")

    until = time.monotonic() + 6  # supervisors judge after they have been well for two leases
    while time.monotonic() < until:
        change(home, "UPDATE workers SET lease_expires_at = lease_expires_at - ?", 8 * HOUR_S)
        time.sleep(0.02)
    (scene.folder / "go").touch()

    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert pids == [group.pids() for group in groups]
    assert [0, 0] == [group.stop().code for group in groups]
    scene.judge(acknowledged=[job_id])


@pytest.fixture
def innocent() -> Any:
    """A process that has nothing to do with any of this."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def of_an_earlier_boot() -> str:
    machine, _, pids = host_id().split(":")
    return f"{machine}:00000000-0000-0000-0000-000000000000:{pids}"


@pytest.mark.parametrize("ends", ["soon", "in hours"])
def test_a_machine_that_was_started_anew(
    scene: Scene, home: Path, cli: Callable[..., Any], innocent: Any, ends: str
) -> None:
    """Its workers are dead whatever their leases say; who has their pids now is left alone, by every command."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 300')).id
    group = scene.start()
    scene.noted("start")
    (run,) = scene.queue.store.runs_of(group.workers()[0].id)
    group.kill_all()
    looks = 2  # in which nothing is left: the shell may be making its child, which may be in the middle of an exec
    while looks:  # the machine went down with everything on it
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if marked(pid, scene, run[1])]
        for pid in left:
            os.kill(pid, 9)
        scene.gone(left)
        looks = 2 if left else looks - 1
    change(
        home,
        "UPDATE workers SET host_id = ?, pid = ?, pid_started = ?, lease_expires_at = ?, renewed_mono_s = 1e9",
        of_an_earlier_boot(),
        innocent.pid,
        process_started(innocent.pid),
        time.time() + (HOUR_S if ends == "in hours" else 0),
    )

    assert [] == scene.queue.status().workers
    assert "No workers are running.\n" == cli("worker", "stop", "--now", code=0).out
    scene.drain()

    assert ["lost", "completed"] == scene.outcomes(job_id)
    assert innocent.poll() is None
    scene.judge(acknowledged=[job_id])


def marked(pid: int, scene: Scene, run_id: int) -> bool:
    """Say whether a process belongs to a run."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    marks = {f"QUEUECTL_RUN_ID={run_id}".encode(), f"QUEUECTL_STORE_ID={scene.queue.store.store_id}".encode()}
    return marks <= set(environment)
