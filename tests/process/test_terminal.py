"""A group in the foreground of a terminal: Ctrl-C once and twice, Ctrl-S, and the terminal's end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import Callable, Iterator, List

import pytest

from tests.conftest import Result
from tests.process.scene import HELD, Scene

pty = pytest.importorskip("pty", reason="needs pseudo terminals")

pytestmark = pytest.mark.posix

STOPPING = "received stop signal, will exit after current job"
# A shell would do this: make the terminal the session's, with this process in its foreground.
IN_FRONT = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'queuectl', *sys.argv[1:]])"
)


class Terminal:
    """A pseudo terminal with ``queuectl WORD ...`` in its foreground."""

    def __init__(self, *words: str) -> None:
        self._keys, screen = pty.openpty()
        os.set_blocking(self._keys, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_FRONT, *words], stdin=screen, stdout=screen, stderr=screen, start_new_session=True
        )
        os.close(screen)
        self._shown = ""

    def type(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    @property
    def shown(self) -> str:
        """What the screen has shown so far."""
        try:
            while True:
                self._shown += os.read(self._keys, 65536).decode("utf-8", "replace").replace("\r\n", "\n")
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EBADF):  # the last writer is gone, or the window is closed
                raise
        return self._shown

    def close(self) -> None:
        """Close the window."""
        if self._keys >= 0:
            os.close(self._keys)
            self._keys = -1

    def wait(self, timeout: float = 30.0) -> Result:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {timeout:g} s:\n{self.shown}")
        return Result(self.shown, "", code)


@pytest.fixture
def terminals() -> Iterator[List[Terminal]]:
    """Terminals that are closed when the test is over."""
    opened: List[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()
        if terminal.process.poll() is None:
            terminal.process.kill()
        terminal.process.wait()


@pytest.fixture
def terminal(terminals: List[Terminal], scene: Scene) -> Terminal:
    """A terminal in which two workers run, one of them a job that waits for the file ``go``."""
    scene.queue.enqueue(scene.journal.command(HELD))
    terminals.append(Terminal("worker", "start", "--count", "2"))
    scene.noted("start")
    scene.eventually(lambda: terminals[0].shown.count(" started") == 2, what="two workers")
    return terminals[0]


def test_a_stop_says_what_it_waits_for(scene: Scene, terminals: List[Terminal], terminal: Terminal) -> None:
    """To somebody who sits there: nothing else would show why it does not return."""
    terminals.append(Terminal("worker", "stop"))

    scene.eventually(lambda: "queuectl: waiting for 1 job to finish: job1. 'queuectl worker" in terminals[1].shown)
    (scene.folder / "go").touch()

    scene.eventually(lambda: "Stopped 2 workers." in terminals[1].shown)
    assert 0 == terminals[1].wait().code


@pytest.mark.parametrize("words", [["logs", "-f", "job1"], ["logs", "-f", "--run", "1", "job1"]])
def test_ctrl_c_ends_the_line_that_was_followed(scene: Scene, terminals: List[Terminal], words: List[str]) -> None:
    """What is said of it does not go on behind half a line of output; the job goes on."""
    job_id = scene.queue.enqueue(scene.journal.command(f"printf half; {HELD}")).id
    group = scene.start()
    terminals.append(Terminal(*words))
    scene.eventually(lambda: terminals[0].shown.endswith("half"), what="half a line")

    terminals[0].type(b"\x03")

    done = terminals[0].wait()
    assert (130, "queuectl: interrupted.") == (done.code, done.out.splitlines()[-1])
    assert "processing" == scene.state(job_id)
    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    group.stop()


def test_the_first_ctrl_c_lets_the_job_finish(scene: Scene, terminal: Terminal) -> None:
    """The terminal signals everybody in its foreground; the command is not among them, and the exit code is 0."""
    terminal.type(b"\x03")
    scene.eventually(lambda: terminal.shown.count(STOPPING) == 2, what="both workers notice")
    assert "processing" == scene.state("job1")
    (scene.folder / "go").touch()

    done = terminal.wait()

    assert (0, "completed") == (done.code, scene.state("job1"))
    assert 1 == scene.journal.count("end")
    scene.judge()


def test_the_second_ctrl_c_ends_the_job_and_puts_it_back(scene: Scene, terminal: Terminal) -> None:
    """The command's tree is ended within seconds; the job is pending again and no retry is counted; exit code 130."""
    terminal.type(b"\x03")
    scene.eventually(lambda: terminal.shown.count(STOPPING) == 2, what="both workers notice")

    terminal.type(b"\x03")
    done = terminal.wait(timeout=15)

    assert 130 == done.code
    job = scene.queue.get("job1")
    assert ("pending", 1, 0, 0) == (job.state, job.attempts, job.failures, job.losses)
    assert ["stopped"] == scene.outcomes("job1")
    assert 0 == scene.journal.count("end")
    (scene.folder / "go").touch()
    scene.drain()
    scene.judge()


def test_a_command_that_ignores_every_signal_ends_at_the_second_ctrl_c(scene: Scene, terminals: List[Terminal]) -> None:
    """After ``kill_grace`` TERM is followed by KILL, for the whole tree."""
    scene.queue.set_setting("kill_grace", "0.5")
    ways = ("a child that ignores TERM", "a grandchild in a session of its own whose parent is gone")
    scene.queue.enqueue(scene.journal.command(f"trap '' TERM INT QUIT HUP; {scene.journal.leaving(*ways)}; sleep 60"))
    terminals.append(Terminal("worker", "start"))
    beats = scene.pids("beats", 2)

    terminals[0].type(b"\x03")
    scene.eventually(lambda: STOPPING in terminals[0].shown, what="the worker notices")
    terminals[0].type(b"\x03")

    assert 130 == terminals[0].wait(timeout=15).code
    scene.gone(beats, timeout=0)
    scene.judge(ended=False)


@pytest.mark.parametrize("keys", [b"\x13", b""], ids=["ctrl-s", "nobody reads"])
def test_a_terminal_that_is_held_keeps_nobody_from_working(
    scene: Scene, terminal: Terminal, cli: Callable[..., Result], keys: bytes
) -> None:
    """Jobs still run, a killed worker is still replaced, and the group can still be stopped."""
    terminal.type(keys)
    ids = scene.queue.enqueue_many([scene.journal.command("yes | head -c 300000")] * 2)
    for job_id in ids:
        scene.until(job_id, "completed")
    victims = [worker.pid for worker in scene.queue.workers()]

    os.kill(victims[1], signal.SIGKILL)
    scene.eventually(
        lambda: len({worker.pid for worker in scene.queue.workers()} - {victims[1]}) == 2, what="a replacement"
    )
    (scene.folder / "go").touch()
    cli("worker", "stop", "--timeout", "20", code=0)

    assert 0 == terminal.wait().code
    scene.judge(ended=False)


def test_the_end_of_the_terminal_is_a_graceful_stop(scene: Scene, terminal: Terminal) -> None:
    """Whoever closes the window hangs up: the running job completes although nobody sees its lines any more."""
    workers = [worker.pid for worker in scene.queue.workers()]
    terminal.close()
    scene.eventually(lambda: len(scene.queue.workers()) == 1, what="the idle worker goes")
    (scene.folder / "go").touch()

    assert 0 == terminal.process.wait(30)
    scene.gone(workers)
    assert "completed" == scene.state("job1")
    scene.judge()
