"""``--concurrency N``: N commands at once in one process, never more, each with an end of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.process.scene import HELD, Scene, most_at_once
from tests.process.test_other_hosts import APART, why_not

pytestmark = pytest.mark.posix

NOT_APART = why_not()


def test_n_commands_run_at_once_in_one_process(scene: Scene) -> None:
    """Each waits until all have begun, so they can only end together; their parent is the one worker."""
    body = f"echo $PPID; until [ $(grep -c start {scene.folder}/journal) -ge 8 ]; do sleep 0.1; done"
    ids = scene.queue.enqueue_many([scene.journal.command(body)] * 8)
    group = scene.start("--concurrency", "8")
    (pid,) = group.pids()

    for job_id in ids:
        scene.until(job_id, "completed")

    assert [f"{pid}\n"] * 8 == [scene.output(job_id) for job_id in ids]
    group.stop()
    scene.judge(acknowledged=ids)


def test_never_more_than_n(scene: Scene) -> None:
    """Whatever waits: two workers of three make six places."""
    body = f"until [ $(grep -c start {scene.folder}/journal) -ge 6 ]; do sleep 0.1; done"
    scene.queue.enqueue_many([scene.journal.command(body)] * 30)

    scene.drain("--count", "2", "--concurrency", "3")

    assert 6 == most_at_once(scene.journal.records())
    scene.judge()


def test_without_the_option_one_at_a_time(scene: Scene) -> None:
    """A worker runs one command, then the next, in order."""
    ids = scene.queue.enqueue_many([scene.journal.command("sleep 0.05")] * 6)

    scene.drain()

    assert 1 == most_at_once(scene.journal.records())
    assert ids == [record.job_id for record in scene.journal.records() if record.what == "start"]
    scene.judge()


def test_a_slow_command_holds_up_nobody(scene: Scene) -> None:
    """The other places of a worker go on while one is taken for long."""
    slow = scene.queue.enqueue(scene.journal.command(HELD)).id
    quick = scene.queue.enqueue_many([scene.journal.command()] * 20)
    group = scene.start("--concurrency", "2")

    for job_id in quick:
        scene.until(job_id, "completed")

    assert "processing" == scene.state(slow)
    (scene.folder / "go").touch()
    scene.until(slow, "completed")
    group.stop()
    scene.judge()


def test_each_run_has_its_own_output_and_end(scene: Scene) -> None:
    """Outputs that come at the same time are not mixed up, nor are exit codes."""
    jobs = [
        {"command": f"for n in 1 2 3 4 5; do echo {name} $n; sleep 0.02; done; exit {name}", "max_retries": 0}
        for name in range(12)
    ]
    ids = scene.queue.enqueue_many(jobs)

    scene.drain("--concurrency", "12")

    for name, job_id in enumerate(ids):
        assert [f"{name} {number}" for number in range(1, 6)] == scene.output(job_id).splitlines()
        assert [name] == [run.exit_code for run in scene.queue.runs(job_id)]


@pytest.mark.slow
def test_a_hundred_at_once(scene: Scene) -> None:
    """One small process runs a hundred commands at the same time."""
    body = f"until [ $(grep -c start {scene.folder}/journal) -ge 100 ]; do sleep 0.5; done"
    ids = scene.queue.enqueue_many([scene.journal.command(body)] * 100)

    scene.drain("--concurrency", "100")

    assert 100 == most_at_once(scene.journal.records())
    assert {"completed"} == {scene.state(job_id) for job_id in ids}
    scene.judge(acknowledged=ids)


@pytest.mark.skipif(bool(NOT_APART), reason=NOT_APART)
def test_a_pid_that_is_given_out_again_while_a_run_is_being_ended(scene: Scene) -> None:
    """Its first process has gone, a child has not: the next command's first process gets that pid, and both end."""
    scene.queue.set_setting("kill_grace", "3600")
    orphaned = "while kill -0 $PPID; do sleep 0.1; done; echo >> orphaned"  # not before the worker has collected it
    child = f'trap "" TERM; echo >> ready; {orphaned}; read line < go'  # without a process more
    os.mkfifo(scene.folder / "go")
    first = scene.queue.enqueue(f"echo $$ > pid; setsid sh -c '{child}' & wait").id
    command = [*APART, sys.executable, "-m", "queuectl", "worker", "start", "--concurrency", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as group:
        try:
            scene.eventually((scene.folder / "ready").exists, what="the child")
            # After an end the worker starts its one thread, which has a number of its own.
            scene.until(scene.queue.enqueue("true").id, "completed")
            scene.queue.cancel(first)
            scene.eventually((scene.folder / "orphaned").exists, what="the end of the first process")
            # The shell does this by itself, so that the next process of the namespace is the next command's.
            scene.queue.enqueue("echo $(($(cat pid) - 1)) > last")
            scene.eventually((scene.folder / "last").exists, what="the number")
            last = (scene.folder / "last").read_text().strip()
            scene.queue.enqueue(f"echo {last} > /proc/sys/kernel/ns_last_pid")
            second = scene.queue.enqueue("echo $$").id
            scene.until(second, "completed")
            assert (scene.folder / "pid").read_text() == scene.output(second)
            assert "processing" == scene.state(first)

            (scene.folder / "go").write_text("\n")
            scene.until(first, "cancelled")
        finally:
            group.kill()
