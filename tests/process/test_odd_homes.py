"""Containers and other odd places, each by name, with the real thing; ``docs/how-to/odd-places.md`` has the table."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List, Sequence

import pytest

from tests.conftest import Result
from tests.faults.faulty import STRANGER, as_stranger, give_to_stranger, state_of
from tests.process.network_mount import NetworkMount
from tests.process.scene import HELD, Scene

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and namespaces"
    ),
]

QUEUECTL = [sys.executable, "-m", "queuectl"]


def run(words: List[str], **how: object) -> Result:
    """Run *words* to their end, within a minute."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **how)  # type: ignore[call-overload]
    return Result(done.stdout, done.stderr, done.returncode)


def children(pid: int) -> List[int]:
    """Return the pids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Container:
    """``queuectl WORD ...``, started by *program*, as process 1 of a pid namespace."""

    def __init__(self, scene: Scene, *words: str, program: Sequence[str] = QUEUECTL) -> None:
        self.log = scene.folder / "log"
        with open(str(self.log), "wb") as log:
            self.outer = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *program, *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.first = scene.eventually(lambda: children(self.outer.pid), what="process 1")[0]

    @property
    def shown(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_process_1_obeys_signals(scene: Scene, name: str) -> None:
    """The kernel drops what process 1 has no handler for; here the running job may finish, and all end with code 0."""
    scene.queue.enqueue("touch begun; until [ -e go ]; do sleep 0.1; done")
    box = Container(scene, "worker", "start", "--count", "2")
    scene.eventually((scene.folder / "begun").exists, what="the run")

    os.kill(box.first, getattr(signal, name))
    scene.eventually(lambda: "received stop signal" in box.shown, what="the worker hears")
    (scene.folder / "go").touch()

    assert 0 == box.outer.wait(30), box.shown
    assert "completed" == scene.state("job1")


def test_process_1_reaps_orphans(scene: Scene) -> None:
    """What a job left behind becomes a child of process 1, and its end is taken there: no zombie stays."""
    for _ in range(3):
        scene.queue.enqueue("for i in 1 2 3; do (sleep 0.3; echo $i >> ended) & done")
    box = Container(scene, "worker", "start", "--count", "1")
    ended = scene.folder / "ended"
    scene.eventually(lambda: ended.exists() and len(ended.read_text().split()) == 9, what="nine orphans")

    def none_left() -> bool:
        return all(state_of(pid) != "Z" for pid in children(box.first))

    scene.eventually(none_left, what="no zombies")
    os.kill(box.first, signal.SIGTERM)
    assert 0 == box.outer.wait(30)
    assert ["completed"] * 3 == [scene.state(f"job{number}") for number in (1, 2, 3)]


def test_process_1_replaces_a_worker(scene: Scene) -> None:
    """Reaping strangers takes nothing from the supervisor: a killed worker is noticed with its signal."""
    box = Container(scene, "worker", "start")
    scene.eventually(lambda: "started" in box.shown, what="a worker")
    os.kill(children(box.first)[0], signal.SIGKILL)

    scene.eventually(lambda: box.shown.count("] pid=") == 2, what="a new worker")
    os.kill(box.first, signal.SIGTERM)
    assert 0 == box.outer.wait(30)
    assert "signal KILL" in box.shown


@pytest.mark.parametrize("words", [["run", "--", "sleep", "60"], ["wait", "job1"]], ids=["run", "wait"])
def test_a_waiting_command_as_process_1_ends_at_term(scene: Scene, words: List[str]) -> None:
    """``docker stop`` need not kill it."""
    scene.queue.enqueue("sleep 60", delay=3600)
    box = Container(scene, *words)
    scene.eventually(lambda: handles_term(box.first), what="a handler")

    os.kill(box.first, signal.SIGTERM)

    assert 130 == box.outer.wait(20)


#: Gives itself a TERM in what Python calls when a module is imported, whose errors it only prints.
TERM_AT_AN_IMPORT = """
import os, signal, sys
from queuectl.main import main

def look(frame, event, _):
    if frame.f_code.co_name == "cb" and event == "call" and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        sys.setprofile(None)
        os.kill(1, signal.SIGTERM)

sys.setprofile(look)
sys.exit(main(sys.argv[1:]))
"""


def test_a_term_amid_an_import_is_not_lost(scene: Scene) -> None:
    """There, what a handler raises goes no further."""
    scene.queue.enqueue("sleep 60", delay=3600)

    box = Container(scene, "wait", "job1", program=[sys.executable, "-c", TERM_AT_AN_IMPORT])

    assert 130 == box.outer.wait(20), box.shown
    assert "Exception ignored" not in box.shown


def handles_term(pid: int) -> bool:
    """Say whether a process has a handler for TERM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_read_only_root(scene: Scene) -> None:
    """Everything but QUEUECTL_HOME is read-only: jobs run, in foreground and daemon, and the tidying commands too."""
    home = scene.folder / ".queuectl"
    script = f"""
        set -e
        mount --bind {home} {home}
        mount -o remount,bind,ro /
        mountpoint -q /tmp && mount -o remount,bind,ro /tmp
        if touch {scene.folder}/probe 2>/dev/null; then echo 'not read-only'; exit 9; fi
        q() {{ {sys.executable} -m queuectl "$@"; }}
        q enqueue --cwd / -- echo hello
        q worker start --drain
        q worker start --daemon
        q enqueue --cwd / -- echo again
        q wait job2 --timeout 30
        q worker stop
        q logs job2
        q doctor
    """

    done = run(["unshare", "--mount", "sh", "-c", script])

    assert (0, "") == (done.code, done.err), done
    assert "hello\n" in done.out
    assert "again\n" in done.out


def test_a_host_whose_name_changes(scene: Scene) -> None:
    """Where there is no machine-id, as on macOS: it stays the same host, whose workers are found, living or dead."""
    job_id = scene.queue.enqueue(scene.journal.command(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] || {{ {HELD}; }}')).id
    script = f"""
        for file in /etc/machine-id /var/lib/dbus/machine-id; do
            [ ! -e $file ] || mount --bind /dev/null $file || exit 9
        done
        q() {{ {sys.executable} -m queuectl "$@"; }}
        hostname home.example
        q worker start --daemon
        until [ -s {scene.journal.path} ]; do sleep 0.1; done
        hostname office.example
        q worker stop --timeout 0 && exit 8
        worker=$(q worker list -q)
        kill -9 $(ps -o ppid= -p $worker) $worker
        hostname train.example
        q worker start --drain
    """

    done = run(["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])

    assert 0 == done.code, done
    assert "queuectl: still running after 0 s: pid " in done.err
    assert f"job {job_id} lost, runs again" in done.out
    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize(("hidepid", "paused"), [(1, False), (2, False), (2, True)])
def test_two_users_who_do_not_see_each_other(scene: Scene, hidepid: int, paused: bool) -> None:
    """One's workers are not dead to the other's; a worker that is paused beyond its lease is for its own supervisor."""
    scene.queue.set_setting("lease", "4")
    meets = "kill -0 $(cat pid) 2>&1 | grep -q permitted && touch met; echo $$ > pid"  # a run before it that lives
    job_id = scene.queue.enqueue(scene.journal.command(f"{meets}; {HELD}")).id
    scene.journal.path.touch()
    (scene.folder / "pid").write_text("none")
    for path in [scene.folder, *scene.folder.rglob("*")]:
        path.chmod(0o777)
    one, two = (
        shlex.join(["env", f"QUEUECTL_HOME={scene.folder}/{user}", *as_stranger(user), "-m", "queuectl"])
        for user in (STRANGER, STRANGER + 1)
    )
    script = f"""
        mount -t proc -o hidepid={hidepid} proc /proc || exit 77
        umask 0
        export QUEUECTL_DB={scene.folder}/.queuectl/jobs.db
        {one} worker start --daemon || exit 9
        until [ -s {scene.journal.path} ]; do sleep 0.1; done
        {f"kill -STOP $({one} worker list -q); sleep 5.7" if paused else ""}
        {two} worker start --daemon || exit 8
        sleep 2.5
        {two} worker list -q
        touch {scene.folder}/go
        {two} wait {job_id} --timeout 20
        {one} worker stop --timeout 20
    """

    done = run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])

    if done.code == 77:
        pytest.skip(f"/proc cannot be mounted: {done.err}")
    assert (0, "") == (done.code, done.err), done
    assert [*(["lost"] if paused else []), "completed"] == scene.outcomes(job_id)
    assert not (scene.folder / "met").exists()
    scene.judge(acknowledged=[job_id])


def condemned(scene: Scene, worker_id: str) -> bool:
    """Say whether a worker that is dead was found to be."""
    return any(each.id == worker_id and each.state == "lost" for each in scene.queue.store.workers())


@pytest.mark.parametrize("who", ["a member of the store's group", "root"])
def test_a_command_of_another_users_dead_worker(scene: Scene, who: str) -> None:
    """Its environment may not be read and it may not be killed, but it is known: its job waits until it has ended."""
    two = as_stranger(STRANGER)
    one = [word.replace(str(STRANGER), str(STRANGER + 1)) if word == str(STRANGER) else word for word in two]
    one[one.index("--regid") + 1] = str(STRANGER)  # the same group
    leaving = "setsid true; echo $$ > pid.new; mv pid.new pid"
    job_id = scene.queue.enqueue(scene.journal.command(f"{leaving}; {HELD}")).id
    scene.journal.path.touch()
    home = scene.folder / ".queuectl"
    for path in [scene.folder, *scene.folder.rglob("*")]:
        path.chmod(0o777)
        give_to_stranger(path)
    for path in [home, *home.iterdir()]:
        path.chmod(0o2770 if path.is_dir() else 0o660)
    folders = {name: {**os.environ, "QUEUECTL_HOME": str(scene.folder / name)} for name in ("one", "two")}
    for env in folders.values():
        env["QUEUECTL_DB"] = str(home / "jobs.db")
    first = QUEUECTL if who == "root" else [*one, "-m", "queuectl"]

    begun = run([*first, "worker", "start", "--daemon"], env=folders["one"])
    assert 0 == begun.code, begun
    scene.eventually((scene.folder / "pid").exists, what="the run")
    dead = scene.queue.workers()[0]
    scene.eventually(lambda: list((home / "jobs.db-run").glob("*.runs")), what="the note of the run")
    with open(f"/proc/{dead.pid}/stat", "rb") as file:
        supervisor = int(file.read().rpartition(b")")[2].split()[1])
    for pid in (supervisor, dead.pid):
        os.kill(pid, signal.SIGKILL)
    group = subprocess.Popen(
        [*two, "-m", "queuectl", "worker", "start", "--drain"], stdout=subprocess.PIPE, text=True, env=folders["two"]
    )
    try:
        scene.eventually(lambda: condemned(scene, dead.id), what="the look at the first")
        scene.until(scene.queue.enqueue("true", delay=1).id, "completed")  # the job would have been given away before
        assert (["running"], ["start"]) == (scene.outcomes(job_id), [each.what for each in scene.journal.records()])
    finally:
        (scene.folder / "go").touch()
        out = group.communicate(timeout=60)[0]
        print(out)  # for the report of what has failed before

    assert (0, 1) == (group.returncode, out.count("lost, runs again"))
    assert ["lost", "completed"] == scene.outcomes(job_id)
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize("name", ["elsewhere", "a place \\ too"])
def test_a_store_that_was_mounted_alone(scene: Scene, name: str) -> None:
    """As ``docker run -v jobs.db:...`` does: the log would be another one, so it is refused, with what to mount."""
    scene.queue.enqueue("echo hello")
    place = scene.folder / name
    place.mkdir()
    (place / "jobs.db").touch()
    script = f"""
        mount --bind '{scene.folder}/.queuectl/jobs.db' '{place}/jobs.db' || exit 9
        export QUEUECTL_HOME='{place}'
        for words in 'enqueue --command two' list 'worker start --drain' 'doctor -q'; do
            {sys.executable} -m queuectl $words 2>&1 && exit 8
        done
        echo end
    """

    done = run(["unshare", "--mount", "sh", "-c", script])

    *said, end = done.out.splitlines()
    assert (0, "", "end") == (done.code, done.err, end), done
    assert 4 == done.out.count(f"{place}/jobs.db was mounted as a single file, without its log.")
    assert said[0].endswith(" Mount the directory that holds both.")
    assert ["jobs.db"] == os.listdir(place)
    assert ["job1"] == [job.id for job in scene.queue.jobs()]


@pytest.mark.parametrize(
    ("mount", "lack"),
    [
        ("mount --bind /etc/passwd $(readlink -f /bin/sh)", "Permission denied: /bin/sh"),
        ("mount -t tmpfs none /dev", "No such file or directory: /dev/null"),
    ],
)
def test_a_machine_that_lacks_what_every_command_needs(scene: Scene, mount: str, lack: str) -> None:
    """The job is not to blame: it is put back, with the reason, and runs where the machine is whole."""
    job_id = scene.queue.enqueue(scene.journal.command(), max_retries=0).id
    log = scene.folder / "log"
    script = f"{mount} && exec {sys.executable} -m queuectl worker start"
    with open(str(log), "wb") as file:
        broken = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        why = f"could not start: {lack}, which every command needs"
        scene.eventually(lambda: f"[worker 0] job {job_id} put back ({why})" in log.read_text(), what="the worker")
        told = "\n".join(scene.queue.explain(job_id))
        assert f" has put it back: {why}. That costs no retry." in told

        group = scene.start()
        scene.until(job_id, "completed")
        assert 0 == group.stop().code
    finally:
        broken.terminate()
        broken.wait(30)
    assert 0 == scene.queue.get(job_id).failures
    scene.judge(acknowledged=[job_id])


def test_no_process_table(scene: Scene) -> None:
    """As in a chroot without /proc: no worker starts, as each would be taken for dead; those elsewhere go on."""
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    group = scene.start()
    scene.noted("start")
    script = f"""
        mount -t tmpfs none /proc || exit 9
        q() {{ {sys.executable} -m queuectl "$@"; }}
        q worker start --drain && exit 8
        q worker start --daemon && exit 7
        q worker list -q
        q enqueue -- true
    """

    done = run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])

    why = "The process table cannot be read: ps shows nothing, and there is no /proc."
    assert 0 == done.code, done
    assert f"queuectl: {why}\nqueuectl: the workers did not start: {why}\n" == done.err
    (scene.folder / "go").touch()
    scene.until("job2", "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert 0 == group.stop().code
    scene.judge(acknowledged=[job_id, "job2"])


def test_the_process_table_of_another_pid_namespace(scene: Scene) -> None:
    """Its numbers are of other processes, so no worker starts; the job is as it was, and a worker outside runs it."""
    job_id = scene.queue.enqueue(scene.journal.command()).id
    script = f"""
        q() {{ timeout -s KILL 20 {sys.executable} -m queuectl "$@"; }}
        q worker start --drain && exit 9
        q worker start --daemon && exit 8
        q worker stop
    """

    done = run(["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script])

    why = "The process table cannot be read: /proc is that of another pid namespace."
    assert (0, "No workers are running.\n") == (done.code, done.out), done
    assert f"queuectl: {why}\nqueuectl: the workers did not start: {why}\n" == done.err
    assert [] == scene.outcomes(job_id)
    scene.drain()
    scene.judge(acknowledged=[job_id])


@pytest.mark.parametrize("mounts", ["mount -t tmpfs none /dev/pts", "mount -t devpts -o newinstance none /dev/pts"])
def test_a_terminal_from_outside(scene: Scene, mounts: str) -> None:
    """As ``nsenter``, ``chroot`` or a container that is attached to has it: no name leads to it, and it shows all."""
    scene.queue.enqueue("echo hello")
    keys, screen = os.openpty()
    script = f'{mounts} && ! tty && exec "$@"'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", *QUEUECTL, "worker", "start", "--drain"],
        stdin=screen, stdout=screen, stderr=screen,
    ) as group:  # fmt: skip
        os.close(screen)
        shown = b"".join(iter(lambda: _read(keys), b"")).decode()
    os.close(keys)

    assert 0 == group.returncode, shown
    lines = [line for line in shown.splitlines() if line != "not a tty"]
    assert "picked job job1: echo hello|hello|[worker 0] job job1 completed|[worker 0] exiting" in "|".join(lines)


def _read(keys: int) -> bytes:
    """Read what a terminal shows; nothing when its last writer is gone."""
    try:
        return os.read(keys, 65536)
    except OSError:
        return b""


def as_nobody_known() -> List[str]:
    """Return the words for a process whose uid is in no passwd file."""
    return [*as_stranger(), "-m", "queuectl"]


def without(*names: str) -> Dict[str, str]:
    """Return the environment without some variables."""
    return {name: text for name, text in os.environ.items() if name not in names}


def test_no_passwd_entry_and_no_home(home: Path) -> None:
    """QUEUECTL_HOME is all that it takes."""
    words = as_nobody_known()
    give_to_stranger(home.parent)

    def q(*rest: str) -> Result:
        return run([*words, *rest], env=without("HOME", "USER", "LOGNAME"))

    assert "Enqueued job job1\n" == q("enqueue", "--", "echo", "hello").out
    assert 0 == q("worker", "start", "--drain").code
    started = q("worker", "start", "--daemon")
    assert (0, "") == (started.code, started.err)
    assert 0 == q("worker", "stop").code
    assert "hello\n" == q("logs", "job1").out
    assert (0, "") == (q("doctor").code, q("doctor").err)


def test_no_home_at_all(home: Path) -> None:
    """Neither HOME nor passwd entry nor QUEUECTL_HOME: a sentence says what to set."""
    words = as_nobody_known()

    done = run([*words, "status"], env=without("HOME", "QUEUECTL_HOME"))

    assert (1, "") == (done.code, done.out)
    assert "queuectl: this user has no home directory. Set QUEUECTL_HOME to a directory of your own.\n" == done.err


def test_no_terminal_and_no_streams(scene: Scene) -> None:
    """As some supervisors start programs: a session of its own, standard streams closed."""
    scene.queue.enqueue("echo hello")

    done = run(
        ["setsid", "--wait", "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *QUEUECTL, "worker", "start", "--drain"]
    )

    assert (0, "completed", "hello\n") == (done.code, scene.state("job1"), scene.output("job1"))
    log = (scene.folder / ".queuectl" / "logs" / "worker-0.log").read_text()
    assert ["completed", "exiting"] == [line.split()[-1] for line in log.splitlines()[-2:]]


SEVEN_BITS = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PLACES = {
    "LC_ALL=C": {"LC_ALL": "C", "LANG": "C"},
    "7-bit stdout": {"PYTHONIOENCODING": "ascii"},
}


@pytest.mark.parametrize("name", list(PLACES))
def test_no_locale(scene: Scene, cli: Callable[..., Result], name: str) -> None:
    """Text beyond ASCII comes in, runs and goes out as it was; a 7-bit table shows it escaped and crashes nowhere."""
    env = PLACES[name]
    words = ["enqueue", "-q", "--cwd", str(scene.folder), "--", "echo", "größer ☃".encode()]
    cli(*words, env=env, code=0)
    cli("enqueue", "-q", '{"command":"echo größer ☃"}'.encode(), env=env, code=0)

    done = cli("worker", "start", "--drain", env=env, code=0)
    table = cli("list", "--table", env=env, code=0)

    assert "" == done.err + table.err
    assert ["größer ☃\n"] * 2 == [scene.output("job1"), scene.output("job2")]
    assert "größer ☃" in scene.queue.get("job2").command
    assert "größer ☃\n" == cli("logs", "job1", env=env).out
    assert "completed" in table.out


def test_seven_bits_by_order(scene: Scene, cli: Callable[..., Result]) -> None:
    """PYTHONUTF8=0 takes UTF-8 away: a word that cannot be told then is refused; a job that has it runs as it is."""
    (scene.folder / "☃").mkdir()
    scene.queue.enqueue("echo größer ☃ $WHO; pwd", env={"WHO": "Jörg"}, cwd=str(scene.folder / "☃"))
    word = "☃".encode()

    refused = cli("enqueue", "--", "echo", word, env=SEVEN_BITS)
    cli("enqueue", "--", "echo", "plain", env=SEVEN_BITS, code=0)
    cli("worker", "start", "--drain", env=SEVEN_BITS, code=0)
    table = cli("list", "--table", env=SEVEN_BITS, code=0)

    assert (1, "") == (refused.code, refused.out)
    assert refused.err.startswith("queuectl: job field 'command' must be valid Unicode text")
    assert [f"größer ☃ Jörg\n{scene.folder}/☃\n", "plain\n"] == [scene.output("job1"), scene.output("job2")]
    assert "gr\\xf6\\xdfer" in table.out


def test_umask_0(scene: Scene) -> None:
    """What is ours stays ours: no file or folder of the home may be entered, read or written by others."""
    home = scene.folder / "own" / ".queuectl"
    env = {**os.environ, "QUEUECTL_HOME": str(home)}
    script = 'umask 0; q() { "$0" -m queuectl "$@"; }; q enqueue -- true; q worker start --daemon; q wait job1'

    assert 0 == run(["sh", "-c", script, sys.executable], env=env).code
    modes = {path.name: path.stat().st_mode & 0o077 for path in [home, *home.rglob("*")]}
    assert 0 == run([*QUEUECTL, "worker", "stop"], env=env).code

    assert {} == {name: oct(mode) for name, mode in modes.items() if mode}
    assert 0 == (scene.folder / "own").stat().st_mode & 0o022  # who may write there could put another home there


@pytest.mark.parametrize("umask", ["0", "022"])
def test_a_home_that_is_not_the_stores_folder(scene: Scene, umask: str) -> None:
    """The logs and pids of workers on a store elsewhere are in a home that is made for its owner alone."""
    home, store = scene.folder / "own" / ".queuectl", scene.folder / "far" / "away" / "jobs.db"
    env = {**os.environ, "QUEUECTL_HOME": str(home), "QUEUECTL_DB": str(store)}
    script = f'umask {umask}; q() {{ "$0" -m queuectl "$@"; }}; q worker start --daemon; q worker stop'

    done = run(["sh", "-c", script, sys.executable], env=env)

    assert 0 == done.code, done
    assert (home / "logs" / "worker-0.log").exists()
    assert [0o700, 0o700, 0o700] == [path.stat().st_mode & 0o777 for path in (home, home / "logs", store.parent)]
    assert [0, 0] == [path.parent.stat().st_mode & 0o022 for path in (home, store.parent)]


def test_a_home_on_a_network_file_system(tmp_path: Path, cli: Callable[..., Result]) -> None:
    """The kernel has a mount of that kind: refused with its name and what to do, and nothing is made there."""
    with NetworkMount(tmp_path / "share") as share:
        refused = cli("enqueue", "--", "true", env={"QUEUECTL_HOME": str(share.path)})
        asked = [what for what in share.asked if what in ("create", "mkdir", "mknod")]

    assert (1, "", []) == (refused.code, refused.out, asked)
    assert (
        f"queuectl: {share.path} is on a network file system (fuse.sshfs), where SQLite's locks cannot be trusted. "
        "Set QUEUECTL_HOME to a local directory, or share a queue through PostgreSQL.\n"
    ) == refused.err


def test_a_store_that_was_moved_to_a_network_file_system(tmp_path: Path, cli: Callable[..., Result]) -> None:
    """It is not opened there either."""
    cli("enqueue", "--", "true", code=0)
    with NetworkMount(tmp_path / "share", file="jobs.db") as share:
        refused = cli("status", env={"QUEUECTL_DB": str(share.path / "jobs.db")})

    assert 1 == refused.code
    assert "is on a network file system (fuse.sshfs)" in refused.err
