"""``worker start --daemon``: what it prints, its pids, its logs, and that it lives on alone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

import queuectl
from queuectl import Queue
from queuectl.runner import identity
from tests.conftest import Result
from tests.process.scene import HELD, Scene, alive

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]
ROOT = Path(queuectl.__file__).resolve().parents[1]


def listed(scene: Scene) -> List[int]:
    """Return what ``pids.json`` says."""
    pids: List[int] = json.loads((scene.folder / ".queuectl" / "pids.json").read_text())["pids"]
    return pids


def test_it_prints_the_pids_and_saves_them(scene: Scene, cli: Cli) -> None:
    """A line per worker with its pid, then where they are saved; all are live when it returns."""
    done = cli("worker", "start", "--count", "3", "--daemon", code=0)

    lines = done.out.splitlines()
    pids = [int(line.rpartition("=")[2]) for line in lines[:3]]
    assert [f"Started worker pid={pid}" for pid in pids] == lines[:3]
    assert ["Saved PIDs to ~/.queuectl/pids.json"] == lines[3:]
    assert "" == done.err
    assert sorted(pids) == sorted(listed(scene))
    assert all(map(alive, pids))
    assert sorted(pids) == sorted(worker.pid for worker in scene.queue.workers())
    cli("worker", "stop", code=0)
    assert not any(map(alive, pids))
    assert [] == listed(scene)


def test_a_stop_that_comes_while_they_start_is_named(scene: Scene, background: Callable[..., Any]) -> None:
    """Not a disk that might be full: nothing went wrong."""
    starting = background("worker", "start", "--count", "8", "--daemon")
    scene.eventually(scene.queue.store.workers, what="the supervisor")
    os.kill(scene.queue.store.workers()[0].pid, signal.SIGTERM)

    done = starting.wait()

    assert ("queuectl: the workers did not start: they were told to stop.\n", 1) == (done.err, done.code)
    scene.eventually(lambda: scene.queue.store.workers() == [], what="no worker")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing shows a process's children")
def test_a_ctrl_c_while_they_start_ends_them(scene: Scene, background: Callable[..., Any]) -> None:
    """Otherwise workers would run of which nobody was told."""
    with contextlib.closing(sqlite3.connect(scene.queue.store.location, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")  # so that none can register
        starting = background("worker", "start", "--daemon")
        children = Path(f"/proc/{starting.pid}/task/{starting.pid}/children")
        scene.eventually(lambda: children.read_text().split(), what="the supervisor")
        supervisor = int(children.read_text().split()[0])

        result = starting.stop(signal.SIGINT)
        db.execute("ROLLBACK")

    told = "queuectl: interrupted. The workers that were being started are told to stop.\n"
    assert (told, 130) == (result.err, result.code)
    scene.gone([supervisor])
    assert [] == scene.queue.workers()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lets a process say what it is called")
def test_processes_are_called_what_they_are(scene: Scene, cli: Cli) -> None:
    """``top`` and ``pgrep`` show no row of python3s, and a command has its own name."""
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    job_id = scene.queue.enqueue("ps -o comm= -p $$").id
    scene.until(job_id, "completed")

    names = {Path(f"/proc/{pid}/comm").read_text() for pid in listed(scene)}
    above = {Path(f"/proc/{pid}/comm").read_text() for pid in parents(listed(scene))}

    assert ({"queuectl-0\n", "queuectl-1\n"}, {"queuectl\n"}) == (names, above)
    assert "sh\n" == scene.output(job_id)
    cli("worker", "stop", code=0)


def parents(pids: List[int]) -> List[int]:
    """Return the processes that started these."""
    return [int(identity.stat_of(pid)[1]) for pid in pids]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes' directories in /proc")
def test_it_does_not_stay_where_it_was_started(scene: Scene, cli: Cli) -> None:
    """The disk can be unmounted. A worker that takes another's place finds its code, whatever ``PYTHONPATH`` says."""
    cli("worker", "start", "--daemon", code=0, env={"PYTHONPATH": os.pathsep.join([".", str(ROOT)])})
    (pid,) = listed(scene)

    assert {"/"} == {os.readlink(f"/proc/{each}/cwd") for each in [pid, *parents([pid])]}
    os.kill(pid, signal.SIGKILL)
    scene.eventually(lambda: listed(scene) not in ([], [pid]), what="another worker, started by exec")
    job_id = scene.queue.enqueue("pwd", cwd=str(scene.folder)).id
    scene.until(job_id, "completed")
    assert f"{scene.folder}\n" == scene.output(job_id)
    cli("worker", "stop", code=0)


def test_it_works_and_logs(scene: Scene, cli: Cli) -> None:
    """Each worker has a log with the lines of a foreground worker and the time, without the commands' output."""
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    job_id = scene.queue.enqueue(scene.journal.command("echo printed; exit 3"), max_retries=0).id
    scene.until(job_id, "dead")
    assert "printed\n" == scene.output(job_id)

    cli("worker", "stop", code=0)

    logs = scene.folder / ".queuectl" / "logs"
    assert {"worker-0.log", "worker-1.log"} <= {path.name for path in logs.iterdir()}
    text = "".join((logs / f"worker-{number}.log").read_text() for number in (0, 1))
    assert 2 == len(re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[worker \d\] pid=\d+ started$", text, re.M))
    assert re.search(rf"\[worker \d\] picked job {job_id}: ", text)
    assert re.search(rf"\[worker \d\] job {job_id} dead \(exit 3\) after 1 run$", text, re.M)
    assert 2 == len(re.findall(r"\[worker \d\] exiting$", text, re.M))
    assert not re.search("^printed$", text, re.M)
    for path in logs.iterdir():
        assert 0 == stat.S_IMODE(path.stat().st_mode) & 0o077, path


def numbers(scene: Scene) -> List[int]:
    """Return the numbers of the live workers."""
    return sorted(worker.number for worker in scene.queue.workers())


def test_a_second_daemon_has_numbers_and_logs_of_its_own(scene: Scene, cli: Cli) -> None:
    """Numbers go on over those that live, so that each log holds one worker; another store of the home counts too."""
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    cli("--db", "other.db", "worker", "start", "--daemon", code=0)

    assert [0, 1, 2, 3] == numbers(scene)
    with Queue(str(scene.folder / "other.db")) as other:
        assert [4] == [worker.number for worker in other.workers()]
        other.stop_workers()
    cli("worker", "stop", code=0)
    logs = scene.folder / ".queuectl" / "logs"
    for number in range(5):
        lines = (logs / f"worker-{number}.log").read_text().splitlines()
        assert all(f" [worker {number}] " in line for line in lines)
        assert 1 == sum("] pid=" in line for line in lines)

    cli("worker", "start", "--daemon", code=0)
    assert [0] == numbers(scene)  # whoever has gone leaves the numbers to the next
    cli("worker", "stop", code=0)


def test_daemons_that_start_at_once_have_numbers_of_their_own(scene: Scene, background: Callable[..., Any]) -> None:
    """Whoever is first: no number is given twice."""
    starts = [background("worker", "start", "--count", "2", "--daemon") for _ in range(4)]
    assert [0] * 4 == [start.wait(60).code for start in starts]

    assert list(range(8)) == numbers(scene)
    scene.queue.stop_workers()


@pytest.mark.parametrize("other", [[], ["--db", "other.db"]], ids=["the same store", "another store"])
def test_a_worker_that_outlives_its_supervisor_keeps_its_number(scene: Scene, cli: Cli, other: List[str]) -> None:
    """It still writes to its log while it finishes its job."""
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    cli("worker", "start", "--daemon", code=0)
    scene.noted("start")
    (supervisor,) = (row.pid for row in scene.queue.store.workers() if row.role == "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    scene.gone([supervisor])

    said = json.loads(cli(*other, "worker", "start", "--daemon", "--json", code=0).out)

    assert [1] == [started["number"] for started in said["workers"]]
    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    cli(*other, "worker", "stop", code=0)
    cli("worker", "stop", code=0)


def test_a_home_that_holds_no_numbers_has_workers_all_the_same(scene: Scene, cli: Cli) -> None:
    """The numbers are a courtesy to who reads the logs; a damaged file of them is no reason not to work either."""
    file = scene.folder / ".queuectl" / "logs" / "numbers"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0 1\n\xff x y z\n0 1 group now")
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    assert [0, 1] == numbers(scene)
    cli("worker", "stop", code=0)

    file.unlink()
    file.mkdir()
    cli("worker", "start", "--daemon", code=0)
    assert [0] == numbers(scene)
    cli("worker", "stop", code=0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing shows which signals a process has blocked")
def test_it_stops_though_its_starter_had_blocked_all_signals(scene: Scene, cli: Cli) -> None:
    """As a program does that takes its own by sigwait, and what it starts inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        cli("worker", "start", "--daemon", "--count", "2", code=0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    masks = [
        int(re.findall(r"SigBlk:\t(\w+)", Path(f"/proc/{worker.pid}/status").read_text())[0], 16)
        for worker in scene.queue.store.workers()
    ]

    assert 3 == len(masks)
    assert not any(mask & 1 << number - 1 for mask in masks for number in (signal.SIGTERM, signal.SIGQUIT))
    cli("worker", "stop", code=0)
    assert [] == scene.queue.store.workers()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only Python itself says which interpreter this is")
def test_it_starts_where_python_does_not_know_its_own_path(scene: Scene, cli: Cli) -> None:
    """As under another program's name, by ``exec -a``: then ``sys.executable`` is empty."""
    code = "import sys; sys.executable = ''; from queuectl.main import main; main()"
    words = [sys.executable, "-c", code, "worker", "start", "--daemon"]
    started = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (1, "") == (len(listed(scene)), started.stderr)
    job_id = scene.queue.enqueue("true").id
    scene.until(job_id, "completed")
    cli("worker", "stop", code=0)


def test_it_outlives_the_session_that_started_it(scene: Scene) -> None:
    """It has a session of its own, so that the end of the terminal, and everything in it, is not its end."""
    shell = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} -m queuectl worker start --daemon && kill -9 0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    shell.communicate(timeout=30)
    assert -signal.SIGKILL == shell.returncode
    (pid,) = listed(scene)

    job_id = scene.queue.enqueue(scene.journal.command()).id
    scene.until(job_id, "completed")

    assert alive(pid)
    assert shell.pid not in (os.getsid(pid), os.getpgid(pid))
    scene.queue.stop_workers()


def test_it_holds_no_pipe_of_its_starter(scene: Scene) -> None:
    """``queuectl worker start --daemon | cat`` ends: nobody waits for the daemon's output."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m queuectl worker start --daemon 2>&1 | cat"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, text=True,
    )  # fmt: skip

    assert done.stdout.startswith("Started worker pid=")
    scene.queue.stop_workers()


def test_pids_follow_a_replaced_worker(scene: Scene, cli: Cli) -> None:
    """The file names the live workers, also after one died and came again, and for several groups."""
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    first = listed(scene)
    os.kill(first[0], signal.SIGKILL)

    # In one look: between two of them, the dead one goes and the new one has not yet come.
    scene.eventually(lambda: len({*listed(scene)} - {first[0]}) == 2, what="the new pid in pids.json")

    cli("worker", "start", "--daemon", code=0)
    assert 3 == len(listed(scene))
    assert sorted(worker.pid for worker in scene.queue.workers()) == sorted(listed(scene))
    cli("worker", "stop", code=0)
    assert [] == listed(scene)


def test_pids_of_a_group_that_was_killed(scene: Scene, cli: Cli) -> None:
    """Nobody is left to take them out but the next ``worker stop``."""
    cli("worker", "start", "--daemon")
    rows = scene.queue.store.workers()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # or who is killed last may see that the other is gone, and say so
        for row in rows:
            os.kill(row.pid, number)
    scene.eventually(lambda: not scene.queue.workers(), what="their deaths")
    assert len(listed(scene)) == 1

    assert cli("worker", "stop").out.startswith("No workers are running")

    assert [] == listed(scene)


def test_pids_of_workers_that_outlive_their_supervisor(scene: Scene, cli: Cli) -> None:
    """They finish their jobs and exit, and take themselves out: the supervisor can do it no more."""
    jobs = [scene.queue.enqueue(scene.journal.command(HELD)).id for _ in "12"]
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    scene.noted("start", 2)
    pids = listed(scene)
    (supervisor,) = (row.pid for row in scene.queue.store.workers() if row.role == "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    scene.gone([supervisor])

    (scene.folder / "go").touch()

    for job_id in jobs:
        scene.until(job_id, "completed")
    scene.gone(pids)
    assert [] == listed(scene)


def test_pids_of_two_stores_with_one_home(scene: Scene, cli: Cli) -> None:
    """Neither takes the other's out; those of a group that was killed go when the others look again."""
    cli("worker", "start", "--count", "2", "--daemon", code=0)
    cli("--db", "other.db", "worker", "start", "--daemon", code=0)
    mine = {worker.pid for worker in scene.queue.workers()}
    with Queue(str(scene.folder / "other.db")) as other:
        theirs = {worker.pid for worker in other.workers()}
        assert (3, mine | theirs) == (len(listed(scene)), set(listed(scene)))

        cli("worker", "stop", code=0)
        assert theirs == set(listed(scene))

        cli("worker", "start", "--daemon", code=0)
        for row in sorted(other.store.workers(), key=lambda row: row.role):  # the supervisor first
            os.kill(row.pid, signal.SIGKILL)
        scene.gone(list(theirs))
        mine = {worker.pid for worker in scene.queue.workers()}
        scene.eventually(lambda: set(listed(scene)) == mine, what="the file without the killed")
    cli("worker", "stop", code=0)
    assert [] == listed(scene)


def test_the_pid_of_a_process_that_is_no_worker_is_not_kept(scene: Scene, cli: Cli) -> None:
    """A pid that has passed to another process since it was written down, and what no one can read."""
    known = scene.folder / ".queuectl" / "pids.known"
    known.parent.mkdir(exist_ok=True)
    known.write_text(f"0123456789abcdef {os.getpid()} 1\nhalf a line\n\n")
    (known.parent / "pids.json").write_text(f'{{"pids": [{os.getpid()}]}}')

    cli("worker", "start", "--daemon", code=0)

    assert [worker.pid for worker in scene.queue.workers()] == listed(scene)
    cli("worker", "stop", code=0)


@pytest.mark.parametrize("how", ["--quiet", "--json"])
def test_what_a_script_reads(scene: Scene, cli: Cli, how: str) -> None:
    """The pids alone, one a line; or one document."""
    said = cli("worker", "start", "--count", "2", "--daemon", how, code=0).out

    workers = sorted(scene.queue.workers(), key=lambda worker: worker.number)
    if how == "--quiet":
        assert "".join(f"{worker.pid}\n" for worker in workers) == said
    else:
        shown = [{"id": each.id, "number": each.number, "pid": each.pid, "host": each.host} for each in workers]
        path = str(scene.folder / ".queuectl" / "pids.json")
        assert {"workers": shown, "drained": False, "pids_path": path} == json.loads(said)
    scene.queue.stop_workers()


def test_no_password_is_in_a_command_line(scene: Scene, cli: Cli) -> None:
    """Where the store is, which may be a URL with a password, a daemon hears by its environment."""
    cli("--db", str(scene.folder / "other.db"), "worker", "start", "--daemon", code=0)
    with Queue(str(scene.folder / "other.db")) as other:
        lines = [
            subprocess.run(["ps", "-o", "args=", "-p", str(row.pid)], stdout=subprocess.PIPE, check=True).stdout
            for row in other.store.workers()
        ]
        other.stop_workers()

    assert 2 == len(lines)
    assert not any(b"other.db" in line for line in lines)


def test_a_daemon_that_drains_what_is_empty(scene: Scene, cli: Cli) -> None:
    """It says who lived, if they were seen, and that they are gone."""
    said = cli("worker", "start", "--count", "2", "--daemon", "--drain", code=0).out

    scene.eventually(lambda: scene.queue.store.workers() == [], what="all are gone")
    line = "Nothing is left to do, so the workers have exited.\n"
    started = r"(Started worker pid=\d+\n){2}Saved PIDs to ~/\.queuectl/pids\.json\n"
    assert re.fullmatch(f"{started}({line})?", said) or said.endswith(line)


def test_a_daemon_that_drains(scene: Scene, cli: Cli) -> None:
    """With ``--drain`` it works everything off and ends by itself."""
    ids = scene.queue.enqueue_many([scene.journal.command("sleep 0.1")] * 4)

    cli("worker", "start", "--count", "2", "--daemon", "--drain", code=0)

    for job_id in ids:
        scene.until(job_id, "completed")
    scene.eventually(lambda: scene.queue.store.workers() == [], what="all are gone")
    scene.judge()


def test_a_daemon_on_a_store_that_is_not_ours_says_why(scene: Scene, cli: Cli) -> None:
    """A start that fails is no success: exit code 1, one sentence, nobody left."""
    stranger = scene.folder / "stranger.db"
    stranger.write_bytes(b"not a database, but long enough to be taken for one at first sight" * 20)

    done = cli("--db", str(stranger), "worker", "start", "--daemon")

    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("queuectl: ")
    assert 1 == done.err.count("\n")


def test_a_daemons_supervisor_replaces_a_worker(scene: Scene, cli: Cli) -> None:
    """The lost job runs again without anybody at a terminal, and the death is in the log."""
    cli("worker", "start", "--daemon", code=0)
    job_id = scene.queue.enqueue(scene.journal.command('[ "$QUEUECTL_ATTEMPT" -gt 1 ] || sleep 60')).id
    scene.noted("start")

    os.kill(listed(scene)[0], signal.SIGKILL)
    scene.until(job_id, "completed")

    assert ["lost", "completed"] == scene.outcomes(job_id)
    cli("worker", "stop", code=0)
    logs = "".join(path.read_text() for path in (scene.folder / ".queuectl" / "logs").iterdir())
    assert f"job {job_id} lost, runs again" in logs
    assert "died (signal KILL)" in logs
    scene.judge()


@pytest.mark.slow
def test_a_long_log_is_turned_over(scene: Scene, cli: Cli) -> None:
    """After 5 MiB a new file is begun; the old ones are kept, and no line is lost between them."""
    ids = scene.queue.enqueue_many([f": {'x' * 100_000} {number}" for number in range(110)])
    cli("worker", "start", "--daemon", code=0)
    for job_id in ids:
        scene.until(job_id, "completed", timeout=60)
    cli("worker", "stop", code=0)

    logs = scene.folder / ".queuectl" / "logs"
    files = [logs / f"worker-0.log{suffix}" for suffix in (".2", ".1", "")]
    assert [True] * 3 == [path.exists() for path in files]
    assert max(path.stat().st_size for path in files) < 6 << 20
    text = "".join(path.read_text() for path in files)
    assert ids == re.findall(r"picked job (\w+):", text)
    assert ids == re.findall(r"job (\w+) completed", text)
