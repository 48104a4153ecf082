"""How a run ended is recorded as it was: exit codes, signals, commands and directories that are not there."""

from __future__ import annotations

import json
import signal
from typing import Callable

import pytest

from tests.conftest import Result
from tests.process.scene import Scene

pytestmark = pytest.mark.posix


def test_every_exit_code(scene: Scene) -> None:
    """0 completes the job; each of the 255 others fails the run with its number."""
    ids = scene.queue.enqueue_many([{"command": f"exit {code}", "max_retries": 0} for code in range(256)])

    scene.drain("--concurrency", "8")

    runs = [scene.queue.runs(job_id) for job_id in ids]
    assert [[(code, None)] for code in range(256)] == [[(run.exit_code, run.signal) for run in each] for each in runs]
    states = [scene.state(job_id) for job_id in ids]
    assert ["completed"] + ["dead"] * 255 == states
    assert [None] + [f"exit {code}" for code in range(1, 256)] == [scene.queue.get(job_id).reason for job_id in ids]
    scene.judge()


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "KILL", "USR1", "SEGV", "PIPE", "TERM"])
def test_a_signal(scene: Scene, name: str) -> None:
    """A command that a signal ended has failed by that signal; no signal is ignored when a command starts."""
    job_id = scene.queue.enqueue(f"ulimit -c 0; kill -{name} $$; sleep 60", max_retries=0).id

    done = scene.start("--drain", wait=False).wait()

    (run,) = scene.queue.runs(job_id)
    assert (None, getattr(signal, "SIG" + name)) == (run.exit_code, run.signal)
    assert f"signal {name}" == scene.queue.get(job_id).reason
    assert f"[worker 0] job {job_id} dead (signal {name}) after 1 run" in done.out.splitlines()


def test_a_signal_in_json(scene: Scene, cli: Callable[..., Result]) -> None:
    """``show --json`` has exit code and signal of each run, as numbers or null."""
    job_id = scene.queue.enqueue('[ "$QUEUECTL_ATTEMPT" = 1 ] && kill -9 $$; exit 7', max_retries=1, backoff_base=1).id

    scene.drain()

    runs = json.loads(cli("show", job_id, "--json", code=0).out)["runs"]
    assert [(1, None, 9), (2, 7, None)] == [(run["number"], run["exit_code"], run["signal"]) for run in runs]


def test_a_command_that_does_not_exist(scene: Scene) -> None:
    """The shell says so, with exit code 127."""
    job_id = scene.queue.enqueue("no-such-command-here --at all", max_retries=0).id

    scene.drain()

    assert ("dead", "exit 127") == (scene.state(job_id), scene.queue.get(job_id).reason)
    assert "no-such-command-here" in scene.output(job_id)


def test_a_file_that_is_no_program(scene: Scene) -> None:
    """What must not be executed ends with 126."""
    (scene.folder / "text").write_text("no program\n")
    job_id = scene.queue.enqueue("./text", max_retries=0).id

    scene.drain()

    assert "exit 126" == scene.queue.get(job_id).reason


@pytest.mark.parametrize("make", ["missing", "a file"])
def test_a_directory_that_cannot_be_entered(scene: Scene, make: str) -> None:
    """The run fails and says which directory; it costs a retry, and the next may find it."""
    place = scene.folder / "place"
    if make == "a file":
        place.write_text("")
    job_id = scene.queue.enqueue(scene.journal.command(), cwd=str(place), max_retries=3, backoff_base=1).id
    group = scene.start()
    job = scene.until(job_id, "failed")

    assert f"cannot enter the directory {place}: " in (job.reason or "")
    if make == "a file":
        place.unlink()
    place.mkdir()
    job = scene.until(job_id, "completed")
    assert job.failures >= 1
    group.stop()
    scene.judge()


def test_a_command_that_dies_with_its_children_alive(scene: Scene) -> None:
    """The first process decides how the run ended."""
    job_id = scene.queue.enqueue("sleep 0.5 & kill -9 $$", max_retries=0).id

    scene.drain()

    assert "signal KILL" == scene.queue.get(job_id).reason
