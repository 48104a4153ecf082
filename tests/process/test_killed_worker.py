"""``kill -9`` of a worker: its job runs again, alone, and it costs no retry; the worker is replaced."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.process.scene import WAYS, Scene, alive, seconds_of_its_own, sleeping

pytestmark = pytest.mark.posix

#: The contract's bound for noticing a death is 5 s; the machines that run this are shared.
NOTICED_S = 5.0 + 10.0

SLEEP = shutil.which("sleep") or "sleep"

#: A program whose first thread ends while another goes on, as a server's may: the process table shows a zombie then.
HEADLESS = """
import ctypes, os, sys, threading, time

def go_on():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    with open(sys.argv[1], "a") as file:
        print(os.getpid(), file=file, flush=True)
    time.sleep(60)
    os._exit(0)

threading.Thread(target=go_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_the_job_of_a_killed_worker_runs_again(scene: Scene) -> None:
    """The lost run is recorded as lost, the job is pending at once, and the next run is its second."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60')).id
    group = scene.start()
    scene.noted("start")

    os.kill(group.pids()[0], signal.SIGKILL)
    job = scene.until(job_id, "completed", timeout=NOTICED_S)

    assert ["lost", "completed"] == scene.outcomes(job_id)
    assert (2, 0, 0) == (job.attempts, job.failures, job.losses)
    assert f"[worker 0] job {job_id} lost, runs again" in group.stop().out.splitlines()
    scene.judge()


def test_a_lost_run_costs_no_retry(scene: Scene) -> None:
    """With ``max_retries`` 0 a job survives a lost run: retries are counted by failures alone."""
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60'), max_retries=0).id
    group = scene.start()
    scene.noted("start")

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "completed", timeout=NOTICED_S)

    group.stop()
    scene.judge()


def test_a_failure_between_two_losses_starts_their_row_anew(scene: Scene) -> None:
    """``max_lost`` counts lost runs in a row: lost, failed, lost is a row of one."""
    scene.queue.set_setting("max_lost", "2")
    body = 'case "$QUEUECTL_ATTEMPT" in 1|3) sleep 60;; 2) exit 4;; esac'
    job_id = scene.queue.enqueue(scene.journal.command(body), backoff_base=1, max_retries=1).id
    group = scene.start()
    for start in (1, 3):
        scene.noted("start", start)
        os.kill(group.pids()[0], signal.SIGKILL)

    job = scene.until(job_id, "completed", "dead", timeout=2 * NOTICED_S)

    assert ["lost", "failed", "lost", "completed"] == scene.outcomes(job_id)
    assert (4, 1, 0) == (job.attempts, job.failures, job.losses)
    group.stop()
    scene.judge()


def test_a_command_that_kills_its_worker_ends_in_the_dlq(scene: Scene) -> None:
    """After ``max_lost`` lost runs in a row the job is dead, with that as the reason, and others go on."""
    # The worker started the command, so it is the shell's parent.
    job_id = scene.queue.enqueue(scene.journal.command("kill -9 $PPID; sleep 60")).id
    group = scene.start("--count", "2")

    job = scene.until(job_id, "dead", timeout=3 * NOTICED_S)

    assert ["lost"] * 3 == scene.outcomes(job_id)
    assert "lost 3 runs in a row: the worker died while it ran" == job.reason
    other = scene.queue.enqueue(scene.journal.command()).id
    scene.until(other, "completed")
    out = group.stop().out.splitlines()
    assert 2 == sum(line.endswith(f"job {job_id} lost, runs again") for line in out)
    assert 1 == sum(line.endswith(f"job {job_id} lost, dead") for line in out)
    scene.judge()


def test_a_cancelled_job_whose_worker_is_killed_is_cancelled(scene: Scene) -> None:
    """A cancel that its worker could no longer obey is obeyed by whoever gives the job back."""
    job_id = scene.queue.enqueue(scene.journal.command("sleep 60")).id
    group = scene.start()
    scene.noted("start")
    os.kill(group.pids()[0], signal.SIGSTOP)
    assert {job_id: "processing"} == scene.queue.cancel(job_id)

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "cancelled", timeout=NOTICED_S)

    group.stop()
    scene.judge()


@pytest.mark.parametrize("way", list(WAYS))
def test_what_a_lost_run_left_is_gone_before_the_job_runs_again(scene: Scene, way: str) -> None:
    """However a process tried to get away, it notes nothing after the second run has begun."""
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {scene.journal.leaving(way)}; note left; sleep 60; fi'
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    beats = scene.pids("beats")
    scene.noted("left")

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "completed", timeout=NOTICED_S)

    scene.gone(beats, timeout=0)
    group.stop()
    scene.judge()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the state of the first thread as the process's")
@pytest.mark.parametrize("way", ["", "setsid "])
def test_a_program_whose_first_thread_has_ended_is_no_zombie(scene: Scene, tmp_path: Path, way: str) -> None:
    """It is found, by its session or by the mark that its other threads show, and ended before its job runs again."""
    (tmp_path / "headless.py").write_text(HEADLESS)
    program = f"{way}{shlex.quote(sys.executable)} headless.py {shlex.quote(str(scene.folder / 'beats'))}"
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then ({program} &); sleep 60; fi'
    job_id = scene.queue.enqueue(scene.journal.command(body), cwd=str(tmp_path)).id
    group = scene.start()
    pids = scene.pids("beats")
    assert alive(pids[0])

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "completed", timeout=NOTICED_S)

    scene.gone(pids, timeout=0)
    group.stop()
    scene.judge()


def test_all_that_several_runs_of_a_lost_worker_left_is_gone(scene: Scene) -> None:
    """A worker with many runs: none of them, and nothing of them, is alive when their jobs run again."""
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {scene.journal.leaving(*WAYS)}; note left; sleep 60; fi'
    ids = scene.queue.enqueue_many([scene.journal.command(body)] * 3)
    group = scene.start("--concurrency", "3")
    beats = scene.pids("beats", 3 * len(WAYS))
    scene.noted("left", 3)

    os.kill(group.pids()[0], signal.SIGKILL)
    for job_id in ids:
        scene.until(job_id, "completed", timeout=NOTICED_S)

    scene.gone(beats, timeout=0)
    group.stop()
    scene.judge()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")
@pytest.mark.parametrize("round_", range(3))
def test_nothing_escapes_from_a_run_that_goes_on_forking(scene: Scene, round_: int) -> None:
    """A child made while the run is being killed, in a session and an environment of its own, is found too."""
    mark = seconds_of_its_own()
    scene.queue.set_setting("max_lost", "1")
    # It would go on for a while, not for ever: should it get away, the tests beside this one must not suffer.
    body = f"n=0; while [ $n -lt 800 ]; do setsid env -i {SLEEP} {mark} & n=$((n + 1)); done; sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("start", 1)
    scene.eventually(lambda: len(sleeping(mark)) > 20, what="twenty children")

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "dead")

    left = sleeping(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert [] == left
    group.stop()


def test_the_runs_of_other_workers_are_left_alone(scene: Scene) -> None:
    """Ending what one worker left touches neither its neighbours' commands nor their children."""
    scene.queue.enqueue(scene.journal.command(scene.journal.leaving("a child in a session of its own") + "; sleep 60"))
    neighbour = scene.start()
    scene.noted("beat")
    other = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60')).id
    group = scene.start()
    scene.noted("start", job_id=other)

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(other, "completed", timeout=NOTICED_S)

    before = scene.journal.count("beat")
    scene.noted("beat", before + 2)
    assert ["running"] == scene.outcomes("job1")
    for each in (neighbour, group):
        each.stop(signal.SIGQUIT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random(scene: Scene, seed: int) -> None:
    """Two groups whose workers die again and again: every job completes, none overlaps, no retry is lost."""
    dice = random.Random(seed)
    scene.queue.set_setting("max_lost", "100")
    quick = scene.journal.command(f"{scene.journal.leaving('a child')}; sleep 0.1; kill $!; wait $!; true")
    ids = scene.queue.enqueue_many([quick] * 60)
    groups = [scene.start("--count", "2"), scene.start("--concurrency", "2")]

    for _ in range(8):
        count = scene.journal.count("start")
        scene.noted("start", min(count + dice.randint(0, 4), 60))
        victims = [pid for group in groups for pid in group.pids()]
        if victims:
            with contextlib.suppress(ProcessLookupError):  # the last signal to it may have done its work just now
                os.kill(dice.choice(victims), signal.SIGKILL)

    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)
    for group in groups:
        group.stop()
    scene.judge(acknowledged=ids)
