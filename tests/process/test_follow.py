"""The output of a running job can be read while it runs, and what a lost run had written stays."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any, Callable, List

import pytest

from tests.conftest import Result
from tests.process.scene import Scene
from tests.store.build import completed, worker

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]
TWO_STEPS = "echo one; until [ -e go ]; do sleep 0.1; done; printf two"


def test_follow_shows_output_as_it_comes_and_ends_with_the_run(scene: Scene, background: Callable[..., Any]) -> None:
    """Begun before the job has a worker: the first line is there while the command runs, the rest when it ends."""
    job_id = scene.queue.enqueue(TWO_STEPS).id
    follower = background("logs", "-f", job_id)
    group = scene.start()

    scene.eventually(lambda: follower.out == "one\n", what="the first line")
    assert "processing" == scene.state(job_id)
    assert follower.running
    (scene.folder / "go").touch()

    assert Result("one\ntwo", "", 0) == follower.wait()
    group.stop()


def test_several_followers_and_a_plain_look(scene: Scene, cli: Cli, background: Callable[..., Any]) -> None:
    """Each sees all of it; ``logs`` without ``-f`` shows what there is and does not wait."""
    job_id = scene.queue.enqueue(TWO_STEPS).id
    group = scene.start("--count", "2")
    followers = [background("logs", "-f", job_id) for _ in range(3)]
    for follower in followers:
        scene.eventually(lambda at=follower: at.out == "one\n", what="the first line")

    assert "one\n" == cli("logs", job_id, code=0).out
    (scene.folder / "go").touch()

    assert [Result("one\ntwo", "", 0)] * 3 == [follower.wait() for follower in followers]
    group.stop()


def test_follow_of_an_output_beyond_the_limit(scene: Scene, background: Callable[..., Any]) -> None:
    """The follower gets the beginning, a mark for what it missed, and the very end."""
    scene.queue.set_setting("output_limit", "2000")
    job_id = scene.queue.enqueue("seq 100000; until [ -e go ]; do sleep 0.1; done; echo the end").id
    group = scene.start()
    follower = background("logs", "-f", job_id)
    scene.eventually(lambda: "\n100000\n" in follower.out, what="the last number")
    (scene.folder / "go").touch()

    out = follower.wait().out

    assert out.startswith("1\n2\n3\n")
    assert "bytes were cut here]\n" in out
    assert out.endswith("\n99999\n100000\nthe end\n")
    group.stop()


@pytest.mark.parametrize("words", [["run", "-q", "--id", "mine", "--"], ["logs", "-f", "mine"]], ids=["run", "logs"])
def test_a_run_that_was_given_back_is_followed_when_it_begins(
    words: List[str], scene: Scene, background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """A worker, played by hand, claims the job ahead and does not get to it: that is nothing to end with an error for.

    No command runs while a claim is held, so its output is there for the test alone: it shows that the run was seen.
    """
    store = scene.queue.store
    store.register(worker("w1"))
    if words[0] == "run":
        follower = background(*words, "true")
        eventually(lambda: [job.id for job in scene.queue.jobs()] == ["mine"], what="the job")
    else:
        scene.queue.enqueue("true", id="mine")
        follower = background(*words)
    ahead = store.claim("w1", 1)[0]
    store.append_output(ahead.run_id, [(0, b"seen\n")])
    eventually(lambda: follower.out == "seen\n", what="the look at the run")

    store.give_back("w1", [ahead.run_id])
    begun = store.claim("w1", 1)[0]
    store.append_output(begun.run_id, [(0, b"hello\n")])
    store.finish("w1", [completed(begun)])

    assert Result("seen\nhello\n", "", 0) == follower.wait()


def test_what_a_lost_run_wrote_is_kept(scene: Scene, cli: Cli, background: Callable[..., Any]) -> None:
    """A follower of the run ends with it, one of the job hears of it and goes on with the next run."""
    body = '[ "$QUEUECTL_ATTEMPT" -gt 1 ] || { echo begun; sleep 60; }; echo again'
    job_id = scene.queue.enqueue(body).id
    group = scene.start()
    follower = background("logs", "-f", job_id)
    scene.eventually(lambda: follower.out == "begun\n", what="the first line")
    of_the_run = background("logs", "-f", job_id, "--run", "1")
    scene.eventually(lambda: of_the_run.out == "begun\n", what="the first line")

    os.kill(group.pids()[0], signal.SIGKILL)
    scene.until(job_id, "completed")

    assert Result("begun\n", "", 0) == of_the_run.wait()
    said = f"queuectl: {job_id} lost its worker, and runs again.\n"
    assert Result("begun\nagain\n", said, 0) == follower.wait()
    assert "begun\n" == cli("logs", job_id, "--run", "1", code=0).out
    assert "again\n" == cli("logs", job_id, code=0).out
    assert ["lost", "completed"] == scene.outcomes(job_id)
    group.stop()


def test_what_was_written_before_everything_was_killed_is_kept(scene: Scene, cli: Cli) -> None:
    """Nobody is left to tell, but the store has it."""
    job_id = scene.queue.enqueue('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || { echo begun; sleep 60; }').id
    group = scene.start()
    scene.eventually(lambda: scene.output(job_id) == "begun\n", what="the first line in the store")

    group.kill_all()

    assert "begun\n" == cli("logs", job_id, code=0).out
    scene.drain()
    assert "begun\n" == cli("logs", job_id, "--run", "1", code=0).out
    scene.judge()


def test_the_output_of_a_run_that_was_ended_is_kept(scene: Scene) -> None:
    """Cancelled, stopped or timed out: what it printed, also while it was being ended, is there."""
    body = "trap 'echo ending; exit 1' TERM; echo begun; while :; do sleep 0.1; done"
    ids = {"timed_out": scene.queue.enqueue(body, timeout=1, max_retries=0).id}
    ids.update((how, scene.queue.enqueue(body).id) for how in ("cancelled", "stopped"))
    group = scene.start("--concurrency", "3")
    for job_id in ids.values():
        scene.eventually(lambda at=job_id: scene.output(at).startswith("begun\n"))
    scene.queue.cancel(ids["cancelled"])
    scene.until(ids["cancelled"], "cancelled")
    scene.until(ids["timed_out"], "dead")
    group.stop(signal.SIGQUIT)

    for how, job_id in ids.items():
        assert [how] == scene.outcomes(job_id)
        # A shell may say "Terminated" for its sleep.
        assert ("begun", "ending") == (scene.output(job_id).splitlines()[0], scene.output(job_id).splitlines()[-1])


@pytest.mark.parametrize("how", ["has vanished", "was replaced by another file"])
def test_a_store_that_is_taken_away_from_those_who_wait(
    scene: Scene, home: Path, background: Callable[..., Any], how: str
) -> None:
    """No news can come any more: they say so, instead of waiting for ever for a job that runs elsewhere, if at all."""
    job_id = scene.queue.enqueue("true").id
    waiting = [background(*words) for words in (("wait", job_id), ("logs", "-f", job_id), ("run", "--", "true"))]
    for one in waiting:
        scene.eventually(lambda at=one: "no live worker" in at.err, what="that it waits")

    if how == "has vanished":
        os.rename(home / "jobs.db", home / "moved")
    else:
        os.link(home / "jobs.db", home / "moved")
        shutil.copyfile(home / "moved", home / "copy")
        os.replace(home / "copy", home / "jobs.db")  # at once: at no moment it is gone

    for one in waiting:
        done = one.wait()
        assert (1, "") == (done.code, done.out)
        assert f"queuectl: the store {home / 'jobs.db'} {how}" in done.err
        assert "Traceback" not in done.err
    (home / "jobs.db").unlink(missing_ok=True)
    os.rename(home / "moved", home / "jobs.db")
