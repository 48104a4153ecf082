"""``worker stop``: all workers of the store on this machine, and nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Tuple

import pytest

from queuectl import Queue
from tests.conftest import Result
from tests.process.scene import HELD, Scene, alive

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]


def test_nobody_to_stop(cli: Cli) -> None:
    """Without workers it says so and is content, whatever the options."""
    for words in ((), ("--now",), ("--timeout", "5")):
        assert Result("No workers are running.\n", "", 0) == cli("worker", "stop", *words)


def test_who_is_left_by_a_stop_is_told_the_next_step(scene: Scene, cli: Cli) -> None:
    """``--now``, and not once more where that has been given: a frozen worker does not react to it."""
    job_id = scene.queue.enqueue("trap '' TERM; " + HELD).id
    group = scene.start()
    scene.until(job_id, "processing")

    gentle = cli("worker", "stop", "--timeout", "0", code=1).err
    now = cli("worker", "stop", "--now", "--timeout", "0", code=1).err

    pid = scene.queue.workers()[0].pid
    assert f"queuectl: still running after 0 s: pid {pid}. 'queuectl worker stop --now' ends their jobs.\n" == gentle
    assert now.startswith(f"queuectl: still running after 0 s: pid {pid}. Their jobs are being ended, ")
    assert "stop --now" not in now
    group.wait()
    assert "pending" == scene.state(job_id)


def test_other_threads_go_on_while_one_stops_the_workers(scene: Scene) -> None:
    """The Queue is free between its looks: here it is another thread that has the last job end."""
    job_id = scene.queue.enqueue(HELD).id
    group = scene.start()
    scene.until(job_id, "processing")
    stopping = threading.Thread(target=scene.queue.stop_workers)
    stopping.start()
    with Queue(scene.queue.store.location) as other:
        scene.eventually(lambda: any(other.store.orders(worker.id).stop for worker in other.store.workers()))

    assert 1 == scene.queue.status().jobs["processing"]
    (scene.folder / "go").touch()
    stopping.join()

    assert "completed" == scene.state(job_id)
    assert not group.running


def test_a_job_stops_its_own_worker(scene: Scene) -> None:
    """It waited for its own end; now for the other workers alone, and its own stops behind it."""
    held = scene.queue.enqueue(HELD).id
    group = scene.start("--count", "2")
    scene.until(held, "processing")
    program = f"{sys.executable} -m queuectl"
    job_id = scene.queue.enqueue(f"touch asked; {program} worker stop; echo code $?").id
    scene.eventually((scene.folder / "asked").exists)
    scene.queue.enqueue("true")
    scene.eventually(lambda: 2 == group.out.count("received stop signal"), what="that both have heard of it")
    assert "processing" == scene.state(job_id)
    (scene.folder / "go").touch()

    assert 0 == group.wait().code

    assert ["completed", "completed", "pending"] == [job.state for job in scene.queue.jobs()]
    told = scene.queue.output(job_id).decode()
    assert "queuectl: this command is part of a job of the worker with pid " in told
    assert "Stopped 1 worker.\n" in told
    assert told.endswith("code 0\n")


def test_two_jobs_that_stop_the_workers_do_not_wait_for_each_other(scene: Scene) -> None:
    """They did, for ever: each for the end of the other's worker, which waited for its job."""
    stop = f"{sys.executable} -m queuectl worker stop; echo code $?"
    ids = [scene.queue.enqueue(f"{HELD}; {stop}").id for _ in range(2)]
    groups = [scene.start(), scene.start()]
    for job_id in ids:
        scene.until(job_id, "processing")
    (scene.folder / "go").touch()

    assert [0, 0] == [group.wait().code for group in groups]

    assert ["completed", "completed"] == [scene.state(job_id) for job_id in ids]
    first = min(ids, key=lambda job_id: scene.queue.runs(job_id)[-1].run_id)
    assert "begun later, which run on: pid " in scene.output(first)
    assert [True, True] == [scene.output(job_id).endswith("code 0\n") for job_id in ids]


def test_a_job_cannot_reset_its_own_store(scene: Scene) -> None:
    """Its worker ended the command before anything was deleted, and put the job back, for the next to do the same."""
    job_id = scene.queue.enqueue(f"{sys.executable} -m queuectl reset --yes; echo code $?").id

    scene.drain()

    assert "completed" == scene.state(job_id)
    refused = f"queuectl: cannot reset from inside {job_id}: its worker would end this command, and run the job again"
    assert scene.output(job_id) == f"{refused} later.\ncode 1\n"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("wait job2 job1", "cannot wait for the job that this command is part of. Leave out its id."),
        ("logs -f job1", "cannot follow job1 from inside it: it would wait for itself. Leave out --follow."),
    ],
)
def test_a_job_cannot_wait_for_its_own_end(scene: Scene, words: str, refused: str) -> None:
    """It would hold its slot for ever. It may wait for others, and read what it has printed."""
    queuectl = f"{sys.executable} -m queuectl"
    job_id = scene.queue.enqueue(f"{queuectl} {words}; echo code $?; {queuectl} wait job2; {queuectl} logs job1").id
    scene.queue.enqueue("true", priority=1)

    scene.drain()

    assert (job_id, "completed") == ("job1", scene.state(job_id))
    assert scene.output(job_id).startswith(f"queuectl: {refused}\ncode 1\njob2 completed\n")


def test_a_job_stops_its_own_worker_now(scene: Scene) -> None:
    """It is ended like the others, and put back like them; no worker is left out."""
    held = scene.queue.enqueue(HELD).id
    group = scene.start("--count", "2")
    scene.until(held, "processing")
    job_id = scene.queue.enqueue(f"{sys.executable} -m queuectl worker stop --now").id

    assert 0 == group.wait().code

    assert [["stopped"], ["stopped"]] == [scene.outcomes(held), scene.outcomes(job_id)]
    assert {"pending"} == {job.state for job in scene.queue.jobs()}


def test_it_reaches_every_group(scene: Scene, cli: Cli) -> None:
    """Two groups in the foreground, one daemon: their running jobs complete, and all are gone when it returns."""
    ids = scene.queue.enqueue_many([scene.journal.command("sleep 0.5")] * 4)
    groups = [scene.start("--count", "2"), scene.start()]
    cli("worker", "start", "--daemon", code=0)
    scene.noted("start", 4)
    everyone = [row.pid for row in scene.queue.store.workers()]
    assert 7 == len(everyone)

    done = cli("worker", "stop")

    assert Result("Stopped 4 workers.\n", "", 0) == done
    assert not any(map(alive, everyone))
    assert [] == scene.queue.store.workers()
    assert ["completed"] * 4 == [scene.state(job_id) for job_id in ids]
    assert [0, 0] == [group.wait().code for group in groups]
    scene.judge(acknowledged=ids)


def test_a_group_that_is_started_meanwhile_goes_on(
    scene: Scene, cli: Cli, background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Who starts workers while another waits for a stop wants them; the stop says that they are there."""
    scene.queue.enqueue(scene.journal.command(HELD))
    group = scene.start("--count", "2")
    scene.noted("start")
    stop = background("worker", "stop")
    eventually(lambda: all(worker.stop for worker in scene.queue.workers()), what="all are asked")

    late = scene.start("--count", "2")
    (scene.folder / "go").touch()
    done = stop.wait()

    assert Result("Stopped 2 workers.\n", "queuectl: 2 workers started in the meantime keep running.\n", 0) == (
        done.out, done.err, done.code,
    )  # fmt: skip
    assert 0 == group.wait().code
    assert 2 == len(late.workers())
    job_id = scene.queue.enqueue("true").id
    scene.until(job_id, "completed")
    late.stop()


def test_a_reset_stops_also_what_is_started_meanwhile(
    scene: Scene, background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """It is about to delete all jobs: nobody may be running one."""
    scene.queue.set_setting("kill_grace", "600")
    scene.queue.enqueue(scene.journal.command(f"trap '' TERM; {HELD}"))
    first = scene.start()
    scene.noted("start")
    reset = background("reset", "--yes")
    eventually(lambda: all(worker.stop for worker in scene.queue.workers()), what="all are asked")

    late = scene.start(wait=False)
    assert 0 == late.wait().code
    (scene.folder / "go").touch()

    assert 0 == first.wait().code
    assert (0, "Queue reset.\n") == (reset.wait().code, reset.out)


def test_now_ends_the_jobs_and_puts_them_back(scene: Scene, cli: Cli) -> None:
    """The trees are ended, the jobs are pending at no cost, and they run again with the next start."""
    ways = ("a child", "a child in a session of its own")
    body = f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {{ {scene.journal.leaving(*ways)}; note left; sleep 60; }}'
    ids = scene.queue.enqueue_many([scene.journal.command(body)] * 3)
    groups = [scene.start(), scene.start("--concurrency", "2")]
    scene.noted("left", 3)
    beats = scene.pids("beats", 6)

    cli("worker", "stop", "--now", timeout=15, code=0)

    scene.gone(beats, timeout=0)
    for job_id in ids:
        job = scene.queue.get(job_id)
        assert ("pending", 1, 0, 0) == (job.state, job.attempts, job.failures, job.losses)
        assert ["stopped"] == scene.outcomes(job_id)
    assert [0, 0] == [group.wait().code for group in groups]
    scene.drain("--concurrency", "3")
    scene.judge(acknowledged=ids)


def test_now_kills_what_ignores_term(scene: Scene, cli: Cli) -> None:
    """After ``kill_grace`` a command that does not go is killed with its tree."""
    scene.queue.set_setting("kill_grace", "0.5")
    child = scene.journal.leaving("a child that ignores TERM")
    job_id = scene.queue.enqueue(scene.journal.command(f"trap '' TERM; {child}; while :; do sleep 1; done")).id
    scene.start()
    beats = scene.pids("beats")

    cli("worker", "stop", "--now", timeout=15, code=0)

    scene.gone(beats, timeout=0)
    assert "pending" == scene.state(job_id)
    scene.judge(ended=False)


def test_timeout_says_who_is_left(scene: Scene, cli: Cli) -> None:
    """Exit code 1 and the pids of those still there; they go on finishing, and can be stopped now."""
    scene.queue.enqueue(scene.journal.command(HELD))
    group = scene.start("--count", "2")
    scene.noted("start")
    busy = scene.queue.get("job1").worker_id
    (pid,) = (worker.pid for worker in group.workers() if worker.id == busy)

    done = cli("worker", "stop", "--timeout", "0.5")

    assert 1 == done.code
    assert f"pid {pid}" in done.err
    assert "still running after 0.5 s" in done.err
    assert [pid] == group.pids()
    cli("worker", "stop", "--now", code=0)
    assert not alive(pid)
    assert ["stopped"] == scene.outcomes("job1")
    assert 0 == group.wait().code


def test_timeout_that_is_long_enough(scene: Scene, cli: Cli) -> None:
    """It returns when they are gone, not when the time is over."""
    group = scene.start()

    cli("worker", "stop", "--timeout", "3600", code=0)

    assert 0 == group.wait().code


def test_two_stops_at_once(scene: Scene, cli: Cli) -> None:
    """Each waits until all are gone."""
    scene.queue.enqueue(scene.journal.command(HELD))
    group = scene.start("--count", "2")
    scene.noted("start")
    words = [sys.executable, "-m", "queuectl", "worker", "stop"]
    stops = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    scene.eventually(lambda: len(group.workers()) == 1, what="the idle one goes")

    assert [None, None] == [stop.poll() for stop in stops]
    (scene.folder / "go").touch()

    assert [b"", b""] == [stop.communicate(timeout=30)[1] for stop in stops]
    assert [0, 0] == [stop.returncode for stop in stops]
    assert 0 == group.wait().code


def test_a_stale_pids_file_harms_nobody(scene: Scene, cli: Cli) -> None:
    """A process of somebody else that ``pids.json`` names is not touched, with workers or without."""
    scene.queue.store.sync()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        pids_file = scene.folder / ".queuectl" / "pids.json"
        pids_file.write_text(json.dumps({"pids": [stranger.pid]}))
        for words in ((), ("--now",)):
            assert "No workers are running.\n" == cli("worker", "stop", *words, code=0).out
        assert stranger.poll() is None

        group = scene.start()
        scene.eventually(lambda: json.loads(pids_file.read_text()) == {"pids": group.pids()})
        pids_file.write_text(json.dumps({"pids": [stranger.pid, *group.pids()]}))
        cli("worker", "stop", "--now", code=0)

        assert stranger.poll() is None
        assert not group.pids()
        group.wait()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pids": "all"}', '{"pids": [-1, 0, 1]}'])
def test_a_broken_pids_file_harms_nobody(scene: Scene, cli: Cli, text: str) -> None:
    """Whatever it holds, ``worker stop`` stops the workers and nobody else."""
    group = scene.start()
    (scene.folder / ".queuectl" / "pids.json").write_text(text)

    assert "Stopped 1 worker.\n" == cli("worker", "stop", code=0).out

    assert 0 == group.wait().code


def test_a_reused_pid_harms_nobody(scene: Scene, cli: Cli) -> None:
    """A worker's entry whose pid is another process's by now: neither signalled nor waited for nor listed."""
    group = scene.start()
    (worker,) = group.workers()
    group.kill_all()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        # As if the kernel had given the dead worker's pid to the stranger.
        scene.queue.store.register(worker._replace(pid=stranger.pid))

        assert "No workers are running.\n" == cli("worker", "stop", "--now", code=0).out
        assert [] == scene.queue.workers()

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_workers_of_another_store_go_on(scene: Scene, cli: Cli) -> None:
    """The machine's other queues are not this one's."""
    other_db = str(scene.folder / "other.db")
    group = scene.start(env={"QUEUECTL_DB": other_db}, wait=False)
    with Queue(other_db) as other:
        scene.eventually(lambda: len(other.workers()) == 1, what="the other store's worker")
        mine = scene.start()

        assert "Stopped 1 worker.\n" == cli("worker", "stop", code=0).out

        assert 1 == len(other.workers())
        assert group.running
    mine.wait()
    assert "Stopped 1 worker.\n" == cli("--db", other_db, "worker", "stop", code=0).out
    group.wait()


def test_a_stopped_group_has_left_the_jobs_that_wait(scene: Scene, background: Callable[..., Any]) -> None:
    """Jobs that were not begun stay pending, with no run counted."""
    ids = scene.queue.enqueue_many([scene.journal.command(HELD)] * 3)
    group = scene.start()
    scene.noted("start")

    stop = background("worker", "stop")
    scene.eventually(lambda: group.has_said("received stop signal"))
    (scene.folder / "go").touch()

    assert Result("Stopped 1 worker.\n", "", 0) == stop.wait()
    assert ["completed", "pending", "pending"] == [scene.state(job_id) for job_id in ids]
    assert [1, 0, 0] == [scene.queue.get(job_id).attempts for job_id in ids]
    assert 0 == group.wait().code


def test_an_interrupted_stop_leaves_them_stopping(scene: Scene) -> None:
    """Ctrl-C at a waiting ``worker stop`` ends the waiting with 130, not what it asked for."""
    scene.queue.enqueue(scene.journal.command(HELD))
    group = scene.start()
    scene.noted("start")
    words = [sys.executable, "-m", "queuectl", "worker", "stop"]
    stop = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    scene.eventually(lambda: "received stop signal" in group.out)

    os.killpg(stop.pid, signal.SIGINT)
    out, err = stop.communicate(timeout=30)

    assert (130, b"") == (stop.returncode, out)
    assert err.startswith(b"queuectl: interrupted, but the workers still stop.")
    (scene.folder / "go").touch()
    assert 0 == group.wait().code
    assert "completed" == scene.state("job1")


@pytest.mark.parametrize("how", [(), ("--now",)], ids=["gracefully", "now"])
def test_a_paused_group_is_woken_up_to_stop(scene: Scene, cli: Cli, how: Tuple[str, ...]) -> None:
    """A group that Ctrl-Z has paused ends like any other."""
    scene.queue.enqueue(scene.journal.command("[ -e go ] || sleep 60"))
    group = scene.start("--count", "2")
    scene.noted("start")
    group.send(signal.SIGSTOP, group=True)
    if not how:
        scene.queue.cancel("job1")

    cli("worker", "stop", "--timeout", "20", *how, code=0)

    assert 0 == group.wait().code
    assert ("pending" if how else "cancelled") == scene.state("job1")
    scene.judge(ended=False)


def test_a_worker_that_is_paused_alone_does_not_keep_its_group(scene: Scene) -> None:
    """A supervisor that is told to stop wakes its workers up for it."""
    group = scene.start("--count", "2")
    os.kill(group.pids()[0], signal.SIGSTOP)

    assert 0 == group.stop().code
