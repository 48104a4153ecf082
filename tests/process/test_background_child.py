"""A process that a command leaves behind: it delays nothing, survives a success, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

from tests.process.scene import WAYS, Group, Scene, alive
from tests.process.test_run_output import memory_kib

pytestmark = pytest.mark.posix


@pytest.mark.parametrize("way", ["a child", "a grandchild in a session of its own whose parent is gone"])
def test_it_does_not_delay_the_end_and_survives_a_success(scene: Scene, way: str) -> None:
    """The run is completed while the child holds its output open, and the child goes on, also after the worker."""
    job_id = scene.queue.enqueue(scene.journal.command(scene.journal.leaving(way))).id
    group = scene.start()

    scene.until(job_id, "completed")
    (pid,) = scene.pids("beats")
    assert alive(pid)
    group.stop()

    count = scene.journal.count("beat")
    scene.noted("beat", count + 2)
    assert ["completed"] == scene.outcomes(job_id)
    scene.judge()
    scene.close()
    scene.gone([pid])


def test_what_it_prints_later_harms_neither_it_nor_the_next_job(scene: Scene) -> None:
    """Its output is taken as long as the worker lives, so that it does not die of a closed pipe, and is not kept."""
    child = "(until [ -e go ]; do sleep 0.1; done; echo late && echo went on > proof) &"
    first = scene.queue.enqueue(f"echo early; {child}").id
    group = scene.start()
    scene.until(first, "completed")
    second = scene.queue.enqueue("echo second; sleep 0.3").id
    (scene.folder / "go").touch()

    scene.until(second, "completed")
    scene.eventually((scene.folder / "proof").exists)

    assert "early\n" == scene.output(first)
    assert "second\n" == scene.output(second)
    group.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="who has a pipe open is read from /proc")
@pytest.mark.parametrize("how", ["drained", "stopped", "stopped now"])
def test_what_it_prints_after_its_worker_has_left_does_not_end_it(scene: Scene, how: str) -> None:
    """Somebody reads on as long as it lives, and no longer, with nothing of the worker's but the pipe."""
    body = 'readlink "/proc/$$/fd/2" > pipe; echo $$ > holder; until [ -e go ]; do sleep 0.1; done'
    job_id = scene.queue.enqueue(f"sh -c '{body}; yes | head -c 300000; echo late && echo on > proof' & echo early").id
    if how == "drained":
        assert 0 == scene.start("--drain", wait=False).wait().code
    else:
        group = scene.start()
        scene.until(job_id, "completed")
        scene.pids("holder")
        assert 0 == group.stop(signal.SIGQUIT if how == "stopped now" else signal.SIGTERM).code
    (child,) = scene.pids("holder")
    pipe = (scene.folder / "pipe").read_text().strip()
    (reader,) = scene.eventually(lambda: [pid for pid in holders(pipe) if opened(pid, 0) == pipe], what="a reader")

    assert {0: pipe, 1: os.devnull, 2: os.devnull} == {number: opened(reader, number) for number in descriptors(reader)}
    assert reader == os.getsid(reader)
    assert b"QUEUECTL" not in Path(f"/proc/{reader}/environ").read_bytes()
    (scene.folder / "go").touch()
    scene.gone([child])
    assert "on\n" == (scene.folder / "proof").read_text()
    scene.eventually(lambda: not holders(pipe), what="the end of the reader")
    assert "early\n" == scene.output(job_id)


def holders(pipe: str) -> List[int]:
    """Return the processes that have a pipe open."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pipe in [opened(pid, number) for number in descriptors(pid)]]


def descriptors(pid: int) -> List[int]:
    """Return the numbers of a process's descriptors; none where that cannot be seen."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return []


def opened(pid: int, number: int) -> str:
    """Return what a process has open there, as Linux calls it."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""


def test_a_child_that_prints_for_ever_does_not_hold_up_the_end(scene: Scene) -> None:
    """The run ends with its command, whatever the child goes on printing, and the worker goes on to other jobs."""
    job_id = scene.queue.enqueue("(echo $$ > /dev/null; exec sh -c 'echo $$ > noisy; exec yes') & sleep 0.2").id
    other = scene.queue.enqueue("true").id
    done = scene.start("--drain", wait=False).wait()

    noisy = scene.pids("noisy")
    assert all(map(alive, noisy))  # and it goes on without them
    assert 0 == done.code
    assert ("completed", "completed") == (scene.state(job_id), scene.state(other))
    scene.close()
    scene.gone(noisy)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("how", ["cancelled", "stopped"])
def test_it_is_gone_after_a_cancel_or_a_stop(scene: Scene, way: str, how: str) -> None:
    """Only a success leaves children alone."""
    scene.queue.set_setting("kill_grace", "0.2")
    body = f"{scene.journal.leaving(way)}; note left; sleep 60"
    job_id = scene.queue.enqueue(scene.journal.command(body)).id
    group = scene.start()
    scene.noted("left")

    if how == "cancelled":
        scene.queue.cancel(job_id)
        scene.until(job_id, "cancelled")
        group.stop()
    else:
        group.stop(signal.SIGQUIT)

    scene.gone(scene.pids("beats"), timeout=0)
    assert [how] == scene.outcomes(job_id)
    scene.judge(ended=False)


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way != "a child with an emptied environment in a session of its own"]
)
@pytest.mark.parametrize("how", ["exit 3", "kill -9 $$"])
def test_it_is_gone_after_a_failure(scene: Scene, way: str, how: str) -> None:
    """So that the retry does not meet it; one that hides in every way is not found once its parent has ended."""
    scene.queue.set_setting("kill_grace", "0.2")
    scene.queue.set_setting("backoff_base", "1")
    body = f"{scene.journal.leaving(way)}; {how}"
    job_id = scene.queue.enqueue(scene.journal.command(body), max_retries=1).id

    assert 0 == scene.start("--drain", wait=False).wait().code

    scene.gone(scene.pids("beats"), timeout=0)
    assert ["failed", "failed"] == scene.outcomes(job_id)
    assert "dead" == scene.state(job_id)
    scene.judge()


def test_what_ends_by_itself_soon_after_a_failure_may_print_on(scene: Scene) -> None:
    """As the ``tee`` does that a script prints to: the last lines say why it failed."""
    job_id = scene.queue.enqueue("(sleep 0.1; echo the reason) & exit 3", max_retries=0).id

    assert 0 == scene.start("--drain", wait=False).wait().code

    assert ("dead", "the reason\n") == (scene.state(job_id), scene.output(job_id))


def test_a_daemon_survives_a_failure(scene: Scene) -> None:
    """It has left the session, and prints nowhere: nobody started it for one run."""
    body = "sh -c 'echo $$ > daemon; exec sleep 600' > /dev/null 2>&1"
    job_id = scene.queue.enqueue(f"setsid {body} & until [ -s daemon ]; do sleep 0.1; done; exit 3", max_retries=0).id

    assert 0 == scene.start("--drain", wait=False).wait().code

    (pid,) = scene.pids("daemon")
    assert "dead" == scene.state(job_id)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_hundreds_of_children_that_hold_their_pipes(scene: Scene) -> None:
    """Jobs that each leave a child behind are no burden for the jobs after them."""
    ids = scene.queue.enqueue_many(["(until [ -e go ]; do sleep 0.5; done) &"] * 200)

    group = scene.start("--concurrency", "4")
    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)

    (scene.folder / "go").touch()
    assert 0 == group.stop().code


def beyond_its_descriptors(scene: Scene, commands: List[str]) -> Tuple[Group, List[str]]:
    """Have a worker that may open few files complete commands that leave children; return its group, and the jobs."""
    import resource

    group = scene.start()
    (pid,) = group.pids()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    ids = scene.queue.enqueue_many(commands)
    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)
    return group, ids


@pytest.mark.skipif(sys.platform != "linux", reason="others' limits can be set")
def test_children_that_hold_their_pipes_take_no_job_its_descriptors(scene: Scene) -> None:
    """Beyond a part of the worker's descriptors, somebody else reads on, so that no child is ended by a closed pipe."""
    child = "(until [ -e go ]; do sleep 0.5; done; yes | head -c 200000 && echo on >> proof) &"
    group, ids = beyond_its_descriptors(scene, [child] * 60)

    (scene.folder / "proof").touch()
    (scene.folder / "go").touch()
    scene.eventually(lambda: (scene.folder / "proof").read_text() == "on\n" * 60, timeout=60)

    assert "could not start" not in group.out
    assert [1] * 60 == [scene.queue.get(job_id).attempts for job_id in ids]
    assert 0 == group.stop().code


@pytest.mark.skipif(sys.platform != "linux", reason="others' limits can be set")
def test_who_reads_on_for_a_child_may_end_while_a_command_runs(scene: Scene) -> None:
    """Such a process is a child of the worker, as the command is, whose end is noticed all the same."""
    group, _ = beyond_its_descriptors(scene, ["(until [ -e go ]; do sleep 0.1; done) &"] * 40)
    (pid,) = group.pids()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    readers = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "cat\n"]
    assert readers

    # The command runs until they have all ended and their worker has reaped them.
    gone = " || ".join(f"[ -e /proc/{reader} ]" for reader in readers)
    job_id = scene.queue.enqueue(f"touch go; while {gone}; do sleep 0.1; done", timeout=30, max_retries=0).id

    scene.until(job_id, "completed", "dead", timeout=60)
    assert ["completed"] == scene.outcomes(job_id)
    assert 0 == group.stop().code


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_worker_is_not_woken_by_what_another_process_reads(scene: Scene) -> None:
    """All that it waits for is open in it: it would wake up at whatever such a child prints, for as long as it does."""
    group, _ = beyond_its_descriptors(scene, ["(until [ -e go ]; do sleep 0.1; done) &"] * 40)
    (pid,) = group.pids()

    folder = Path(f"/proc/{pid}/fd")
    (poll,) = (path.name for path in folder.iterdir() if os.readlink(path) == "anon_inode:[eventpoll]")
    text = Path(f"/proc/{pid}/fdinfo/{poll}").read_text()
    waits_for = {int(number, 16) for number in re.findall(r"^tfd:.* ino:([0-9a-f]+)", text, re.MULTILINE)}
    assert waits_for
    assert waits_for <= {path.stat().st_ino for path in folder.iterdir()}

    (scene.folder / "go").touch()
    assert 0 == group.stop().code


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_children_print_later_takes_no_memory(scene: Scene) -> None:
    """It is read and dropped."""
    child = "(until [ -e go ]; do sleep 0.5; done; head -c 3000000 /dev/zero; echo on >> proof; {}) &"
    ids = scene.queue.enqueue_many([child.format("until [ -e end ]; do sleep 0.5; done")] * 40)
    group = scene.start()
    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)
    (pid,) = group.pids()
    before = memory_kib(pid)

    (scene.folder / "proof").touch()
    (scene.folder / "go").touch()
    scene.eventually(lambda: (scene.folder / "proof").read_text() == "on\n" * 40, timeout=60)

    assert memory_kib(pid) - before < 10 << 10
    (scene.folder / "end").touch()
    assert 0 == group.stop().code
