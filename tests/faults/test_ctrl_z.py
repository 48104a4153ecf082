"""Ctrl-Z in the terminal of a group, and ``fg``: supervisor and workers stand still, their commands do not."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from typing import Iterator, List

import pytest

from tests.faults.faulty import stopped
from tests.process.scene import HELD, Scene, alive

pty = pytest.importorskip("pty", reason="needs pseudo terminals")

pytestmark = [pytest.mark.posix, pytest.mark.slow]

#: Makes the terminal the session's, as a login does, and becomes a shell with job control.
LOGIN = "import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv('/bin/sh', ['sh', '-i'])"


class Shell:
    """An interactive shell in a terminal."""

    def __init__(self) -> None:
        self._keys, screen = pty.openpty()
        os.set_blocking(self._keys, False)
        words = [sys.executable, "-c", LOGIN]
        self.process = subprocess.Popen(words, stdin=screen, stdout=screen, stderr=screen, start_new_session=True)
        os.close(screen)
        self._shown = b""

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    @property
    def shown(self) -> str:
        """What the screen has shown so far."""
        try:
            while True:
                self._shown += os.read(self._keys, 65536)
        except OSError:
            return self._shown.decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keys)


@pytest.fixture
def shell(scene: Scene) -> Iterator[Shell]:
    started = Shell()
    yield started
    started.close()


@pytest.fixture
def group(scene: Scene, shell: Shell) -> List[int]:
    """A group in the foreground of the shell, with a lease of 2 s and a job that is held; its two pids."""
    scene.queue.set_setting("lease", "2")
    scene.queue.enqueue(scene.journal.command(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {{ {HELD}; }}'))
    shell.type(f"{shlex.quote(sys.executable)} -m queuectl worker start\n")
    scene.noted("start")
    return [worker.pid for worker in scene.queue.store.workers()]


def pass_by(scene: Scene, seconds: float) -> None:
    until = time.monotonic() + seconds
    scene.eventually(lambda: time.monotonic() > until)


def end(scene: Scene, shell: Shell) -> None:
    """Stop the group by Ctrl-C and leave the shell."""
    shell.type("\x03")
    scene.eventually(lambda: scene.queue.store.workers() == [], what="the group's end")
    shell.type("exit\n")


def test_alone_it_goes_on_as_if_nothing_had_been(scene: Scene, shell: Shell, group: List[int]) -> None:
    """Beyond the lease, but nobody else is there: the same processes go on with the same run, which ended meanwhile."""
    shell.type("\x1a")
    scene.eventually(lambda: sorted(stopped(group)) == sorted(group), what="both are stopped")
    (scene.folder / "go").touch()
    scene.noted("end")
    pass_by(scene, 4.5)

    shell.type("fg\n")

    scene.until("job1", "completed")
    pass_by(scene, 1.5)  # the supervisor has looked again
    assert ["completed"] == scene.outcomes("job1")
    assert sorted(group) == sorted(worker.pid for worker in scene.queue.store.workers())
    end(scene, shell)
    scene.judge()


def test_beside_another_group_its_job_runs_elsewhere(scene: Scene, shell: Shell, group: List[int]) -> None:
    """Beyond the lease its worker and its run are ended before the job runs again; ``fg`` starts a new worker."""
    other = scene.start()
    shell.type("\x1a")
    scene.eventually(lambda: sorted(stopped(group)) == sorted(group), what="both are stopped")

    scene.until("job1", "completed")
    assert ["lost", "completed"] == scene.outcomes("job1")
    assert 1 == len([pid for pid in group if alive(pid)])  # the supervisor keeps no job waiting
    shell.type("fg\n")

    scene.eventually(lambda: "died (signal KILL), restarts" in shell.shown, what="the new worker")
    assert 0 == other.stop().code
    late = scene.queue.enqueue(scene.journal.command()).id
    scene.until(late, "completed")
    end(scene, shell)
    scene.judge(acknowledged=["job1", late])
