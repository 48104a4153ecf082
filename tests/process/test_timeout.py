"""``timeout``: TERM to the whole tree, KILL after ``kill_grace``, and the run has failed."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest

from tests.process.scene import HELD, WAYS, Scene

pytestmark = pytest.mark.posix


@pytest.mark.parametrize("way", list(WAYS))
def test_the_whole_tree_ends(scene: Scene, way: str) -> None:
    """Whatever the command started, and however that tried to get away, is gone when the run has ended."""
    scene.queue.set_setting("kill_grace", "0.5")
    # The command stays until its children have begun, so that each is there to be found.
    body = f"{scene.journal.leaving(way)}; note left; sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(body), timeout=2, max_retries=0).id

    scene.drain()

    scene.gone(scene.pids("beats"), timeout=0)
    assert 1 == scene.journal.count("left")
    assert "timed out after 2 s" == scene.queue.get(job_id).reason
    assert ["timed_out"] == scene.outcomes(job_id)
    scene.judge()


def test_a_timeout_is_a_failed_run(scene: Scene) -> None:
    """It costs a retry, is told with its reason, and the job's runs and state say so."""
    job_id = scene.queue.enqueue("sleep 60", timeout=0.2, max_retries=1, backoff_base=1).id

    done = scene.start("--drain", wait=False).wait()

    job = scene.queue.get(job_id)
    assert ("dead", 2, 2, "timed out after 0.2 s") == (job.state, job.attempts, job.failures, job.reason)
    assert ["timed_out"] * 2 == scene.outcomes(job_id)
    assert f"[worker 0] job {job_id} failed (timed out after 0.2 s), retry 1 of 1 in 1 s" in done.out.splitlines()
    assert f"[worker 0] job {job_id} dead (timed out after 0.2 s) after 2 runs" in done.out.splitlines()


def test_a_command_has_time_to_clean_up(scene: Scene) -> None:
    """TERM comes first, and within the grace nobody kills."""
    body = "trap 'sleep 0.3; echo cleaned; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    job_id = scene.queue.enqueue(body, timeout=0.3, max_retries=0).id

    scene.drain()

    # Its own exit code 0 does not turn a timeout into a success.
    assert "cleaned" == scene.output(job_id).splitlines()[-1]
    assert ("dead", ["timed_out"]) == (scene.state(job_id), scene.outcomes(job_id))
    (run,) = scene.queue.runs(job_id)
    assert (0, None) == (run.exit_code, run.signal)


@pytest.mark.parametrize("way", ["setsid sh -c '{}'", "setsid sh -c '{}' & wait", "({}) & exit 1"])
def test_no_shell_goes_on_to_its_next_command(scene: Scene, way: str) -> None:
    """It gets TERM before what it waits for does: otherwise the end of that would be its cue."""
    command = way.format("sleep 60; echo went on >> proof")
    jobs = scene.queue.enqueue_many([{"command": command, "timeout": 0.5, "max_retries": 0}] * 20)

    scene.drain("--concurrency", "4")

    assert {"dead"} == {scene.state(job_id) for job_id in jobs}
    assert not (scene.folder / "proof").exists()


@pytest.mark.parametrize("way", ["{}", "{} & wait", "setsid {} & wait"])
def test_a_suspended_command_has_time_to_clean_up_too(scene: Scene, way: str) -> None:
    """It is continued, as it would take TERM only then: otherwise KILL would be all that it sees."""
    body = "sh -c 'trap \"echo cleaned; exit 0\" TERM; echo begun; kill -STOP $$; sleep 60'"
    job_id = scene.queue.enqueue(way.format(body), timeout=0.5, max_retries=0).id

    scene.drain()

    assert ["begun", "cleaned"] == scene.output(job_id).splitlines()
    assert ["timed_out"] == scene.outcomes(job_id)


def test_a_command_that_ignores_term_is_killed_after_the_grace(scene: Scene) -> None:
    """Not earlier: it runs on until then."""
    scene.queue.set_setting("kill_grace", "1")
    body = "trap '' TERM; while :; do note beat; sleep 0.05; done"
    job_id = scene.queue.enqueue(scene.journal.command(body), timeout=0.5, max_retries=0).id

    scene.drain()

    (run,) = scene.queue.runs(job_id)
    assert 9 == run.signal
    assert run.ended_at is not None
    assert 1.5 <= run.ended_at - run.started_at <= 1.5 + 10
    scene.judge()


def test_a_child_that_ignores_term_is_killed_after_the_command_has_gone(scene: Scene) -> None:
    """The run ends with the last of its tree, not with its first process."""
    scene.queue.set_setting("kill_grace", "1")
    child = scene.journal.leaving("a child that ignores TERM")
    job_id = scene.queue.enqueue(scene.journal.command(f"{child}; exec sleep 60"), timeout=2, max_retries=0).id

    scene.drain()

    (run,) = scene.queue.runs(job_id)
    assert 15 == run.signal
    assert run.ended_at is not None
    assert run.ended_at - run.started_at >= 3.0
    scene.gone(scene.pids("beats"), timeout=0)
    scene.judge()


def test_a_kill_grace_of_nothing(scene: Scene) -> None:
    """With ``kill_grace`` 0 a command that ignores TERM is killed at once."""
    scene.queue.set_setting("kill_grace", "0")
    job_id = scene.queue.enqueue("trap '' TERM; while :; do sleep 0.05; done", timeout=0.3, max_retries=0).id

    scene.drain(timeout=20)

    assert [9] == [run.signal for run in scene.queue.runs(job_id)]


def test_the_setting_is_for_jobs_that_do_not_say(scene: Scene) -> None:
    """``config set timeout`` bounds a job without a timeout; a job's own goes before it."""
    scene.queue.set_setting("timeout", "0.3")
    short = scene.queue.enqueue("sleep 60", max_retries=0).id
    long = scene.queue.enqueue("sleep 1", max_retries=0, timeout=60).id

    scene.drain("--concurrency", "2")

    assert ("dead", "completed") == (scene.state(short), scene.state(long))
    assert "timed out after 0.3 s" == scene.queue.get(short).reason


def test_many_timeouts_at_once(scene: Scene) -> None:
    """Each run is ended at its own time, and none waits for another's grace."""
    scene.queue.set_setting("kill_grace", "1")
    body = "trap '' TERM; while :; do sleep 0.05; done"
    ids = [scene.queue.enqueue(body, timeout=0.2 + number / 10, max_retries=0).id for number in range(8)]

    scene.drain("--concurrency", "8", timeout=40)

    assert [["timed_out"]] * 8 == [scene.outcomes(job_id) for job_id in ids]
    for job_id in ids:
        (run,) = scene.queue.runs(job_id)
        assert run.ended_at is not None
        assert run.ended_at - run.started_at <= 0.9 + 1 + 10


@pytest.mark.slow
@pytest.mark.limit(120)
def test_a_timeout_does_not_wait_for_the_store(scene: Scene) -> None:
    """Somebody holds the store's lock: TERM and KILL come in time, and what ends by itself has ended when it did.

    More output than a pipe holds is read meanwhile, so that whoever prints it can end.
    """
    scene.queue.set_setting("kill_grace", "0.5")
    scene.queue.set_setting("lease", "3")  # its renewal is what waits for the lock
    in_time = HELD
    stubborn = "echo $$ > pid; trap '' TERM; while :; do sleep 0.05; done"
    obedient = "trap 'note term; exit 1' TERM; while :; do sleep 0.05; done"
    later = "echo $$ > later; until [ -e go2 ]; do sleep 0.1; done; head -c 300000 /dev/zero"
    ids = [
        scene.queue.enqueue(scene.journal.command(body), timeout=timeout_s, max_retries=0).id
        for body, timeout_s in ((in_time, 6), (stubborn, 6), (obedient, 8), (later, None))
    ]
    group = scene.start("--concurrency", "4")
    scene.noted("start", 4)
    with contextlib.closing(sqlite3.connect(scene.queue.store.location, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        (scene.folder / "go").touch()
        scene.gone(scene.pids("pid"))  # so the worker is waiting by now
        (scene.folder / "go2").touch()
        scene.gone(scene.pids("later"))
        scene.noted("term", timeout=15)
        before_release = time.time()
    for job_id, state in zip(ids, ("completed", "dead", "dead", "completed")):
        scene.until(job_id, state)
    group.stop()

    assert [["completed"], ["timed_out"], ["timed_out"], ["completed"]] == [scene.outcomes(job_id) for job_id in ids]
    for job_id in (ids[0], ids[3]):
        (run,) = scene.queue.runs(job_id)
        assert run.ended_at < before_release
    assert 300_000 == len(scene.output(ids[3]))
    scene.judge(acknowledged=ids)
