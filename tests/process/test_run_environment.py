"""What a command finds: its input, directory, environment, signals, descriptors, and its run's mark."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Callable, Dict, List

import pytest

from queuectl.runner import WORKER
from queuectl.runner.identity import has_mark, origin_of
from tests.conftest import Result
from tests.process.scene import Scene, alive

pytestmark = pytest.mark.posix

PYTHON = shlex.quote(sys.executable)
# glibc leaves its two internal signals, 32 and 33, ignored in what it spawns; no program can use them.
OF_THE_C_LIBRARY = 0b11 << 31
MARK = ("QUEUECTL_JOB_ID", "QUEUECTL_QUEUE", "QUEUECTL_ATTEMPT", "QUEUECTL_RUN_ID", "QUEUECTL_STORE_ID")


def environment(text: str) -> Dict[str, str]:
    """Read what ``env -0`` printed."""
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def test_its_input_is_empty(scene: Scene) -> None:
    """A command that reads gets the end at once, also in the foreground."""
    job_id = scene.queue.enqueue("cat; echo read $?").id

    scene.drain()

    assert "read 0\n" == scene.output(job_id)


def test_its_directory_is_where_it_was_enqueued(scene: Scene, cli: Callable[..., Result]) -> None:
    """Not where the worker was started; a job's ``cwd`` goes before it."""
    for name in ("here", "there", "elsewhere"):
        (scene.folder / name).mkdir()
    cli("enqueue", "--", "pwd", cwd=scene.folder / "here", code=0)
    cli("enqueue", "--cwd", str(scene.folder / "there"), "--", "pwd", code=0)

    scene.drain(cwd=scene.folder / "elsewhere")

    assert [f"{scene.folder}/here\n", f"{scene.folder}/there\n"] == [scene.output("job1"), scene.output("job2")]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the worker's directory in /proc")
@pytest.mark.parametrize("command", ["true", "exit 3", "kill -9 $$"])
def test_a_worker_does_not_stay_in_a_jobs_directory(scene: Scene, tmp_path: Path, command: str) -> None:
    """A backup may unmount the disk that it ran on, at its end or later."""
    (tmp_path / "disk").mkdir()
    group = scene.start()

    job_id = scene.queue.enqueue(f"pwd; {command}", cwd=str(tmp_path / "disk"), max_retries=0).id
    scene.until(job_id, "completed", "dead")

    assert [str(tmp_path / "disk")] == scene.output(job_id).splitlines()
    assert "/" == os.readlink(f"/proc/{group.pids()[0]}/cwd")
    group.stop()


def test_its_environment(scene: Scene) -> None:
    """The worker's, the job's ``env`` over it, and the run's mark over both."""
    extra = {"GREETING": "good\nday = 'ok'", "PATH": f"/extra:{os.environ['PATH']}"}
    job_id = scene.queue.enqueue("env -0", env=extra, queue="special").id

    done = scene.start("--drain", wait=False, env={"FROM_THE_WORKER": "yes"}).wait()

    found = environment(scene.output(job_id))
    assert 0 == done.code
    assert (extra["GREETING"], extra["PATH"], "yes") == (found["GREETING"], found["PATH"], found["FROM_THE_WORKER"])
    (run,) = scene.queue.runs(job_id)
    marks = [job_id, "special", "1", str(run.run_id), scene.queue.store.store_id]
    assert marks == [found[name] for name in MARK]


def test_a_jobs_environment_is_its_own(scene: Scene) -> None:
    """What one job's ``env`` adds, the next one on the same worker does not see."""
    scene.queue.enqueue("true", env={"SECRET": "1", "HOME": "/nowhere"})
    plain = scene.queue.enqueue("env -0").id

    scene.drain()

    found = environment(scene.output(plain))
    assert "SECRET" not in found
    assert os.environ["HOME"] == found["HOME"]
    ours = {name for name in found if name.startswith("QUEUECTL_")}
    assert {*MARK, "QUEUECTL_HOME"} == ours


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
@pytest.mark.parametrize("place", ["home", "path", "~", "url"])
def test_a_job_elsewhere_adds_to_the_same_store(
    scene: Scene, cli: Callable[..., Result], place: str, daemon: bool
) -> None:
    """A home or a store that is named from the worker's directory, or the user's, is the same one from the job's."""
    (scene.folder / "elsewhere").mkdir()
    env = {"home": {"QUEUECTL_HOME": "odd"}, "path": {"QUEUECTL_DB": "odd.db"}, "~": {"QUEUECTL_DB": "~/odd.db"}}.get(
        place, {"QUEUECTL_DB": "sqlite://odd.db"}
    )
    follow = f"unset HOME; {PYTHON} -m queuectl enqueue --id followed -- true"
    cli("enqueue", "--cwd", str(scene.folder / "elsewhere"), "--command", follow, env=env, code=0)

    if daemon:
        cli("worker", "start", "--daemon", env=env, code=0)
        cli("wait", "job1", env=env, code=0)
        cli("worker", "stop", env=env, code=0)
    else:
        cli("worker", "start", "--drain", env=env, code=0)

    assert "completed" in cli("show", "job1", env=env).out
    assert "followed" in cli("list", "-q", env=env, code=0).out
    assert [] == os.listdir(str(scene.folder / "elsewhere"))


def test_run_ids_grow(scene: Scene) -> None:
    """Over all jobs, runs and workers: usable as a fencing token."""
    job = {"command": "echo $QUEUECTL_RUN_ID $QUEUECTL_ATTEMPT; exit 1", "max_retries": 0}
    ids = scene.queue.enqueue_many([job] * 6)
    scene.drain()
    scene.queue.retry_dead(*ids)
    scene.drain("--count", "2")

    runs = [scene.queue.runs(job_id) for job_id in ids]
    first, second = zip(*([run.run_id for run in each] for each in runs))
    assert max(first) < min(second)
    assert 12 == len({*first, *second})
    assert [f"{run_id} 1\n" for run_id in second] == [scene.output(job_id) for job_id in ids]


def test_the_attempt_counts_retries(scene: Scene) -> None:
    """First, second, third run."""
    job_id = scene.queue.enqueue("echo $QUEUECTL_ATTEMPT; exit 1", max_retries=2, backoff_base=1).id

    scene.drain()

    assert [b"1\n", b"2\n", b"3\n"] == [scene.queue.output(job_id, number) for number in (1, 2, 3)]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_signals_are_as_a_program_expects_them(scene: Scene) -> None:
    """Python ignores SIGPIPE, nohup SIGHUP: a command starts with nothing ignored and nothing blocked."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job_id = scene.queue.enqueue("grep -E '^Sig(Ign|Blk)' /proc/self/status").id
        scene.drain()
    finally:
        signal.signal(signal.SIGHUP, before)

    masks = dict(line.split(":\t") for line in scene.output(job_id).splitlines())
    assert {"SigBlk", "SigIgn"} == set(masks)
    assert [] == [name for name, mask in masks.items() if int(mask, 16) & ~OF_THE_C_LIBRARY]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_descriptor_is_passed_on(scene: Scene) -> None:
    """Nothing of the worker's, neither the store nor other commands' pipes: 0, 1, 2 and that of ``ls`` itself."""
    job_ids = scene.queue.enqueue_many(["sleep 0.2; ls /proc/self/fd"] * 4)

    scene.drain("--concurrency", "4")

    assert [["0", "1", "2", "3"]] * 4 == [scene.output(job_id).split() for job_id in job_ids]


def test_a_process_group_and_session_of_its_own(scene: Scene) -> None:
    """A Ctrl-C in the worker's terminal does not reach the command."""
    job_id = scene.queue.enqueue("ps -o pid=,pgid=,sid= -p $$").id

    group = scene.start()
    scene.until(job_id, "completed")

    pid, group_id, session = map(int, scene.output(job_id).split())
    assert pid == group_id == session
    assert os.getsid(group.pid) != session
    group.stop()


def test_a_command_that_closes_its_streams(scene: Scene) -> None:
    """The end of its output is not the end of the command."""
    body = "echo before; exec >&- 2>&- <&-; sleep 0.5; note slept"
    job_id = scene.queue.enqueue(scene.journal.command(body)).id

    scene.drain()

    assert ("completed", "before\n") == (scene.state(job_id), scene.output(job_id))
    assert 1 == scene.journal.count("slept")
    scene.judge()


@pytest.mark.parametrize("sign", ["-", "+", "--", "-c"])
def test_a_command_that_begins_like_an_option(scene: Scene, sign: str) -> None:
    """It is a command, not an option of the shell."""
    program = scene.folder / f"{sign}x"
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o755)
    path = {"PATH": f"{scene.folder}:{os.environ['PATH']}"}
    job_id = scene.queue.enqueue(f"{sign}x here", env=path, max_retries=0).id

    scene.drain()

    assert ("completed", "ran here\n") == (scene.state(job_id), scene.output(job_id))


def test_a_long_command_of_several_lines(scene: Scene) -> None:
    """Newlines, quotes and signs beyond ASCII arrive as they were given."""
    text = "x" * 100_000
    job_id = scene.queue.enqueue(f"cat <<'END'\nä 'ö' \"ü\" $HOME \\n {text}\nEND\n").id

    scene.drain()

    assert f"ä 'ö' \"ü\" $HOME \\n {text}\n" == scene.output(job_id)


def test_workers_started_by_a_job_drop_its_marks(scene: Scene, cli: Callable[..., Result]) -> None:
    """They are not part of the run: ending what it left does not end them, and their jobs have their own marks."""
    outer = scene.queue.enqueue(f"{PYTHON} -m queuectl worker start --daemon --queue inner; echo up; sleep 60").id
    group = scene.start("--queue", "default")
    scene.eventually(lambda: len(scene.queue.workers()) == 2, timeout=30, what="the inner worker")
    inner = next(worker.pid for worker in scene.queue.workers() if worker.queues == ("inner",))
    # Until the command that starts them has ended they descend from the run.
    scene.eventually(lambda: scene.output(outer).endswith("up\n"), what="the end of the start")

    scene.queue.cancel(outer)
    scene.until(outer, "cancelled")

    assert alive(inner)
    with open(f"/proc/{inner}/environ", "rb") as file:
        names = {entry.partition(b"=")[0].decode() for entry in file.read().split(b"\0")}
    assert not names & set(MARK)
    job_id = scene.queue.enqueue("env -0", queue="inner").id
    scene.until(job_id, "completed")
    assert job_id == environment(scene.output(job_id))["QUEUECTL_JOB_ID"]
    cli("worker", "stop", code=0)
    group.wait()


def test_a_command_may_use_the_queue(scene: Scene) -> None:
    """A job that enqueues another finds the same store, whatever its directory."""
    job_id = scene.queue.enqueue(f"{PYTHON} -m queuectl enqueue -- echo inner", cwd="/").id

    scene.drain()

    assert "Enqueued job job2\n" == scene.output(job_id)
    assert "inner\n" == scene.output("job2")


@pytest.mark.skipif(sys.platform != "linux", reason="what a process was started with is read from /proc")
def test_a_worker_bears_what_its_id_begins_with(scene: Scene) -> None:
    """By it a command is found that was being made when the worker was killed; its commands do not have it."""
    group = scene.start("--count", "2")
    first, second = group.workers()
    assert has_mark(first.pid, origin_of(first.id))
    assert not has_mark(first.pid, origin_of(second.id))

    os.kill(first.pid, signal.SIGKILL)
    scene.successor(group, first)
    for job in [scene.queue.enqueue("exec sleep 60") for _ in range(2)]:
        scene.until(job.id, "processing")  # its process comes after that
    for worker in group.workers():
        if worker.pid != second.pid:  # started by exec
            assert origin_of(worker.id) == environment(text_of(worker.pid))[WORKER]
        (pid,) = scene.eventually(lambda worker=worker: children(worker.pid), what="its command's process")
        scene.eventually(lambda pid=pid: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        assert WORKER not in environment(text_of(pid))
        assert not any(has_mark(int(pid), origin_of(other.id)) for other in group.workers())
    group.stop(signal.SIGQUIT)


def children(pid: int) -> List[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def text_of(pid: object) -> str:
    return Path(f"/proc/{pid}/environ").read_text(errors="surrogateescape")
