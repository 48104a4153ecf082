"""The first workers of a group are forked: they share memory, and nothing else of their supervisor's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

from queuectl.runner import identity
from tests.process.scene import Scene

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all workers are started by exec")


def words_of(pid: int) -> List[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def private_kib(pid: int) -> int:
    """Return how much of a process's memory no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def links(pid: int) -> List[str]:
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]


def test_the_first_workers_are_forked_and_their_successors_are_not(scene: Scene) -> None:
    """Both do their work, and both can be told from others while they make a command."""
    group = scene.start("--count", "2")
    first, second = group.workers()
    assert words_of(group.pid) == words_of(first.pid) == words_of(second.pid)
    assert identity.has_mark(first.pid, identity.origin_of(first.id))
    assert not identity.has_mark(first.pid, identity.origin_of(second.id))

    os.kill(first.pid, signal.SIGKILL)
    successor = scene.successor(group, first)

    assert "run" in words_of(successor.pid)
    environment = Path(f"/proc/{successor.pid}/environ").read_text().split("\0")
    assert f"QUEUECTL_WORKER={identity.origin_of(successor.id)}" in environment
    for job_id in [scene.queue.enqueue("true").id for _ in range(4)]:
        scene.until(job_id, "completed")
    assert 0 == group.stop().code


def test_forked_workers_take_less_memory(scene: Scene) -> None:
    """Measured in the same group: four that were forked, and then one that took the place of one of them."""
    group = scene.start("--count", "4")
    forked = max(private_kib(pid) for pid in group.pids())
    first = group.workers()[0]
    os.kill(first.pid, signal.SIGKILL)
    successor = scene.successor(group, first)

    assert "run" in words_of(successor.pid)
    assert forked < 0.8 * private_kib(successor.pid)
    group.stop()


def test_a_worker_has_nothing_of_what_its_supervisor_was_given(scene: Scene) -> None:
    """No descriptor, which a lock may hang on or a pipe's end wait for, and no mark of the run that started it.

    Nor has it what its jobs could speak for a service with.
    """
    reading, writing = os.pipe()
    code = "from queuectl.main import main; main()"
    words = [sys.executable, "-c", code, "worker", "start", "--count", "2"]
    env = {**os.environ, "QUEUECTL_JOB_ID": "outer", "QUEUECTL_RUN_ID": "1", "OUTER": "kept"}
    env.update(NOTIFY_SOCKET=str(scene.folder / "socket"), WATCHDOG_USEC="60000000", WATCHDOG_PID=str(os.getpid()))
    process = subprocess.Popen(words, env=env, pass_fds=[writing], stdout=subprocess.DEVNULL)
    os.close(writing)
    try:
        scene.eventually(lambda: len(scene.queue.workers()) == 2, what="two workers")
        given = f"pipe:[{os.fstat(reading).st_ino}]"
        assert given in links(process.pid)
        assert [] == [worker.pid for worker in scene.queue.workers() if given in links(worker.pid)]
        told = "$NOTIFY_SOCKET $WATCHDOG_USEC $WATCHDOG_PID"
        job = scene.queue.enqueue(f"echo $OUTER $QUEUECTL_JOB_ID {told}; ls /proc/self/fd | wc -l")
        assert "completed" == scene.queue.wait(job.id, timeout=30).state
        assert f"kept {job.id}\n4\n".encode() == scene.queue.output(job.id)
    finally:
        process.terminate()
        process.wait()
        os.close(reading)


def test_only_the_supervisor_holds_its_workers_lifelines(scene: Scene) -> None:
    """A sibling that held one, too, would keep a worker from noticing that the supervisor is gone."""
    group = scene.start("--count", "3")
    lifelines = [os.readlink(f"/proc/{pid}/fd/0") for pid in group.pids()]
    assert 3 == len({*lifelines})

    for pid in group.pids():
        assert 1 == sum(links(pid).count(lifeline) for lifeline in lifelines)
    assert 0 == group.stop().code


# A process that will have two spares, does what a test wants, starts two workers, and tells their pids and its own.
MAKER = """
import os, sys, time
from queuectl import db, launch, spares
db.process_ends_soon = True
print("said before", end=" ")
{before}
start = spares.starter(2)
{after}
begun = [start(None, [str(number), "alone", "1", "", sys.argv[1] + str(number)]) for number in range(2)]
print(os.getpid(), *(process.pid for process in begun), flush=True)
sys.stdin.read()
for process in begun:
    process.stdin.close()
print(*(process.wait() for process in begun), flush=True)
"""


@pytest.fixture
def maker(scene: Scene) -> Any:
    """Run MAKER with statements put in; returns the process, its pid, and those of its workers."""
    made = []

    def run(before: str = "", after: str = "") -> Any:
        code = MAKER.format(before=before, after=after)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(scene.folder / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        made.append(process)
        line = process.stdout.readline().decode().split()  # type: ignore[union-attr]
        assert ["said", "before"] == line[:2]
        scene.eventually(lambda: len(scene.queue.workers()) == 2, what="two workers")
        assert sorted(line[3:]) == sorted(str(worker.pid) for worker in scene.queue.workers())
        return process, [int(pid) for pid in line[2:]]

    yield run
    for process in made:
        process.communicate()


def test_a_spare_becomes_a_worker(maker: Callable[..., Any]) -> None:
    """Text that was not flushed before is not printed once more by it, and its end is its supervisor's to see."""
    process, (own, first, second) = maker()

    assert words_of(own) == words_of(first) == words_of(second)
    assert b"0 0\n" == process.communicate()[0]


def test_a_spare_that_has_died_is_replaced(maker: Callable[..., Any]) -> None:
    """The other one is taken, and then there is exec."""
    die = "import signal; found = start.__closure__[0].cell_contents[0].pid; os.kill(found, signal.SIGKILL); "
    process, (own, first, second) = maker(after=die + "os.waitid(os.P_PID, found, os.WEXITED | os.WNOWAIT)")

    assert words_of(own) == words_of(first)
    assert "run" in words_of(second)
    assert b"0 0\n" == process.communicate()[0]


NO_DESCRIPTORS = """
from resource import RLIMIT_NOFILE, setrlimit
setrlimit(RLIMIT_NOFILE, (3, 4096))
command = launch.python_command
launch.python_command = lambda: [*(setrlimit(RLIMIT_NOFILE, (4096, 4096)) or ()), *command()]
"""


@pytest.mark.parametrize(
    "why",
    [
        "import threading; threading.Thread(target=time.sleep, args=(1,), daemon=True).start()",
        "db.process_ends_soon = False",
        "del os.memfd_create",
        NO_DESCRIPTORS,
    ],
    ids=["another thread", "a program of somebody else's", "no memory files", "no descriptors"],
)
def test_workers_are_started_by_exec_where_a_fork_is_not_safe(maker: Callable[..., Any], why: str) -> None:
    """A lock that another thread holds would never be released; and what cannot be marked might be overlooked."""
    process, (_, first, second) = maker(before=why)

    assert ["run", "run"] == [words_of(pid)[5] for pid in (first, second)]
    assert b"0 0\n" == process.communicate()[0]


def test_spares_end_with_who_made_them(scene: Scene) -> None:
    """Also if nobody was told what to be, and although Ctrl-C and the end of the terminal reach them first."""
    code = (
        "import os, signal, sys; from queuectl import db, spares; db.process_ends_soon = True; "
        "start = spares.starter(3); print(*(each.pid for each in start.__closure__[0].cell_contents), flush=True); "
        "sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [int(word) for word in process.stdout.readline().split()]  # type: ignore[union-attr]
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.1)
    assert [True] * 3 == [identity.process_started(pid) is not None for pid in pids]

    process.kill()
    process.communicate()

    scene.eventually(lambda: [None] * 3 == [identity.process_started(pid) for pid in pids])


@pytest.mark.parametrize(
    ("debug", "said"),
    [
        ("", "TypeError: 'NoneType' object is not callable. Set QUEUECTL_DEBUG=1 to see "),
        ("1", "Traceback (most recent"),
    ],
)
def test_a_spare_that_fails_says_why(home: Path, debug: str, said: str) -> None:
    """A bug in a worker is told in a sentence, and with its place to whoever asks for that."""
    code = (
        "import queuectl.worker_main as it; from queuectl import db, spares; it.open_store = None; "
        "db.process_ends_soon = True; process = spares.starter(1)(None, ['7', 'alone', '1', '', '']); "
        "print(process.wait())"
    )
    env = {**os.environ, "QUEUECTL_DEBUG": debug}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)

    assert (b"1\n", True) == (done.stdout, done.stderr.decode().startswith(f"queuectl: worker 7: {said}"))
