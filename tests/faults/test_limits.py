"""The limits of a user or a machine are reached: descriptors, processes, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

import queuectl
from queuectl import Queue, journal, recovery
from queuectl.config import Config
from queuectl.errors import NotDurable
from queuectl.execution import Execution, Slots, kill_all
from queuectl.job import Outcome
from queuectl.membership import Membership
from queuectl.runner import identity
from tests.faults.faulty import as_stranger, give_to_stranger, no_descriptors
from tests.process.scene import HELD, Scene, bells

resource = pytest.importorskip("resource", reason="needs POSIX limits")
if sys.platform != "win32":
    from queuectl.runner import tree

pytestmark = pytest.mark.posix


# -- descriptors ------------------------------------------------------------------------------


def test_more_commands_than_descriptors(scene: Scene) -> None:
    """As many run as there are descriptors for; the rest is put back and runs later; timeouts are kept meanwhile."""
    hung = scene.queue.enqueue("setsid sleep 300 & sleep 300", timeout=0.5, max_retries=0, priority=9).id
    ids = scene.queue.enqueue_many([scene.journal.command("sleep 2")] * 60)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard))
    try:
        group = scene.start("--drain", "--concurrency", "100", wait=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    dead = scene.until(hung, "dead")
    assert "timed out after 0.5 s" == dead.reason
    (run,) = scene.queue.runs(hung)
    assert run.ended_at is not None
    assert run.ended_at - run.started_at < 2.0  # while all others still slept
    done = group.wait(60)

    assert (0, "") == (done.code, done.err)
    assert "(could not start: Too many open files (ulimit -n is 50))" in done.out
    assert {("completed", 0)} == {(scene.state(job), scene.queue.get(job).failures) for job in ids}
    # Each was put back when all were claimed at once; after that the worker knows how many it can run.
    assert max(scene.outcomes(job_id).count("stopped") for job_id in ids) <= 5
    scene.judge(acknowledged=[hung, *ids])


def test_a_run_that_could_not_be_noted_is_noted_later(scene: Scene) -> None:
    """Otherwise recovery would miss a command that has emptied its environment, and start it a second time."""
    store = scene.queue.store
    scene.queue.enqueue("exec sleep 300")
    member = Membership(store, 0, "group", 1, ())
    member.enter(30.0)
    (claim,) = store.claim(member.id, 1)
    config = Config(store.settings())
    execution = Execution(claim, config)
    execution.begin(dict(os.environ), store.store_id, config.output_limit)
    try:
        due = member.note_by(execution)
        with no_descriptors():
            member.note_in_time([execution], due)
        again = member.note_mono
        if again is not None:
            member.note_in_time([execution], again)
        leaders = recovery.leaders_of(store, member.id, frozenset([claim.run_id]))
        started = identity.process_started(execution.pid)
    finally:
        kill_all([execution], Outcome.STOPPED, 0.0)
        os.waitpid(execution.pid, 0)
        execution.command.close()
        member.leave()

    assert ({execution.pid: started}, None) == (leaders, member.note_mono)


def test_an_enqueue_without_a_descriptor_to_sync_names_the_limit(scene: Scene) -> None:
    """The job is stored, but no power cut may come; and it is not the disk that is at fault."""
    with Queue() as queue:
        queue.jobs()  # whatever a first look reads
        with no_descriptors(), pytest.raises(
            NotDurable, match=r"Too many open files \(ulimit -n is \d+\)\. The store has"
        ):
            queue.enqueue("true")

    scene.drain()
    assert ["completed"] == [job.state for job in scene.queue.jobs()]


def test_without_a_descriptor_nobody_is_taken_for_dead(scene: Scene) -> None:
    """A process that cannot look at others neither condemns a healthy worker nor takes its command for gone."""
    job_id = scene.queue.enqueue(scene.journal.command(HELD)).id
    group = scene.start()
    scene.noted("start")
    recovery.sweep(scene.queue.store)  # has all that it needs imported

    with no_descriptors():
        seen = len(scene.queue.workers())
        lost = recovery.sweep(scene.queue.store)

    assert (1, []) == (seen, lost)
    (scene.folder / "go").touch()
    scene.until(job_id, "completed")
    assert ["completed"] == scene.outcomes(job_id)
    assert 0 == group.stop().code
    scene.judge()


def test_what_cannot_be_read_for_want_of_descriptors_may_be_there(scene: Scene) -> None:
    """Neither a process, its environment and the host's name nor a dead worker's notes: nobody says there is none."""
    pid, store = os.getpid(), scene.queue.store
    started = identity.process_started(pid) or ""
    assert store.run_folder.make()
    notes = [recovery.note_path(store, "w", name) or "" for name in (recovery.NOTES, journal.NAME)]
    for path in notes:
        Path(path).touch()
    asked: List[Callable[[], object]] = [
        lambda: identity.process_started(pid),
        lambda: identity.send_signal(pid, started, 0),
        lambda: tree._environment(pid),
        lambda: tree.members(store.store_id, (1,)),
        lambda: identity._read("/etc/passwd"),
        lambda: recovery.leaders_of(store, "w", frozenset((1,))),
        lambda: journal.read(notes[1]),
    ]

    refused = 0
    with no_descriptors():
        runs, stopped = identity.is_running(pid, started), identity.is_stopped(pid)
        for ask in asked:
            try:
                ask()
            except OSError:
                refused += 1

    assert (True, False, len(asked)) == (runs, stopped, refused)


def test_an_idle_worker_tries_again_when_its_pause_is_over(scene: Scene, slow_worker: Callable[..., Any]) -> None:
    """It could not start its only job for want of descriptors: it does not wait for its next look at the queue."""
    worker = slow_worker()
    scene.until(scene.queue.enqueue("true").id, "completed")
    scene.eventually(lambda: bells(scene), what="an idle worker")
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, before[1]))  # those that it has it keeps
    job_id = scene.queue.enqueue("true").id
    scene.eventually(lambda: "stopped" in scene.outcomes(job_id), what="a try in vain")

    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)

    scene.until(job_id, "completed")
    worker.stdin.close()
    assert 0 == worker.wait(30)


def test_slots_are_found_by_trying() -> None:
    """At a limit one more is tried now and then; when it is gone, the number grows to the concurrency again."""
    slots = Slots(10)
    assert 10 == slots.free(0, 0.0)
    slots.lacking(4, 0.0)
    slots.lacking(4, 0.0)
    assert [0, 0, 1] == [slots.free(4, at) for at in (0.0, 0.9, 1.0)]
    assert 1 == slots.free(3, 0.5)  # one has ended
    slots.lacking(4, 1.0)
    assert [0, 1] == [slots.free(4, at) for at in (2.9, 3.0)]
    for running in range(5, 11):
        slots.started(running)
        assert (1 if running < 10 else 0) == slots.free(running, 3.0)
    assert 10 == slots.free(0, 3.0)


def test_a_machine_that_can_start_nothing_is_asked_ever_more_rarely() -> None:
    """The pause doubles up to half a minute."""
    slots = Slots(10)
    now = 0.0
    pauses = []
    for _ in range(8):
        slots.lacking(0, now)
        pause = next(step for step in range(1, 100) if slots.free(0, now + step))
        pauses.append(pause)
        now += pause
    assert [1, 2, 4, 8, 16, 30, 30, 30] == pauses


# -- processes --------------------------------------------------------------------------------


def test_more_commands_than_processes(scene: Scene, home: Path) -> None:
    """A user who may have few processes: as many commands run as may, the rest later, and no run fails."""
    user = (
        50_000 + os.getpid() % 10_000
    )  # the limit counts all processes of a user: also those of tests beside this one
    stranger = as_stranger(user)
    ids = scene.queue.enqueue_many(["exec sleep 0.3"] * 40)
    scene.queue.close()
    give_to_stranger(home.parent, home, *home.iterdir(), user=user)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (12, 12)); from queuectl.main import main; main()"
    )

    done = subprocess.run(
        [*stranger, "-c", code, "worker", "start", "--drain", "--concurrency", "100"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (0, "") == (done.returncode, done.stderr)
    why = "Resource temporarily unavailable: too many processes of this user (ulimit -u is 12)"
    assert f"(could not start: {why}, in its control group (pids.max) or on the machine)" in done.stdout
    with queuectl.Queue() as queue:
        assert [] == queue.store.check()
        assert {("completed", 0)} == {(queue.get(job).state, queue.get(job).failures) for job in ids}


def test_no_process_for_a_daemon(home: Path, scene: Scene) -> None:
    """Whoever starts it is told that there are too many processes, and of which limit."""
    stranger = as_stranger()
    scene.queue.close()
    give_to_stranger(home.parent, home, *home.iterdir())
    code = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); from queuectl.main import main; main()"

    done = subprocess.run(
        [*stranger, "-c", code, "worker", "start", "--daemon"], capture_output=True, text=True, timeout=60
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert (
        "queuectl: cannot start the workers: Resource temporarily unavailable: too many processes of this user "
        "(ulimit -u is 1), in its control group (pids.max) or on the machine.\n"
    ) == done.stderr


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_files_that_may_not_be_as_large_as_a_store(cli: Callable[..., Any], home: Path, there: bool) -> None:
    """SQLite calls it an I/O error; the sentence names the limit. Nothing is left of a store that was not made."""
    if there:
        cli("enqueue", "--", "true", code=0)
    before = sorted(os.listdir(home)) if home.exists() else []
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
        "from queuectl.main import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "enqueue", "--", "true"],  # -B: Python would leave half a file of its own
        capture_output=True,
        text=True,
        timeout=60,
    )

    why = "here no file may be larger than 16 KiB (ulimit -f). Raise that limit."
    verb = "open" if there else "create"
    assert (1, f"queuectl: cannot {verb} the store {home}/jobs.db: {why}\n") == (done.returncode, done.stderr)
    assert before == sorted(name for name in os.listdir(home) if not name.endswith(("-wal", "-shm")) or name in before)


def test_a_path_that_is_too_long_for_sqlite(cli: Callable[..., Any], tmp_path: Path) -> None:
    """It opens none of more than 504 bytes, and does not say so."""
    folder = tmp_path
    while len(str(folder)) < 380:
        folder /= "x" * 100
    folder /= "y" * (520 - len(str(folder)) - len("//jobs.db"))
    folder.mkdir(parents=True)

    done = cli("--db", str(folder / "jobs.db"), "enqueue", "--", "true", code=1)

    advice = "Choose one of 480 at most, with QUEUECTL_HOME or --db."
    assert done.err.endswith(f"jobs.db: its path has 520 bytes, which is too long for SQLite. {advice}\n")
    assert [] == os.listdir(folder)
    cli("--db", f"{folder.parent}/{'z' * (480 - len(str(folder.parent)) - 1)}", "enqueue", "--", "true", code=0)


# -- memory -----------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose members may use 32 MiB together."""
    group = Path(f"/sys/fs/cgroup/memory/queuectl-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(32 << 20))
    except OSError as error:
        pytest.skip(f"no control group for memory (version 1) can be made here: {error}")
    yield group
    group.rmdir()


def test_a_command_that_runs_out_of_memory(scene: Scene, little_memory: Path) -> None:
    """The kernel kills it: its run failed with that signal; the worker and the next job know nothing of it."""
    glutton = f"exec {sys.executable} -c 'bytearray(200 << 20)'"
    first = scene.queue.enqueue(f"echo $$ > {little_memory}/cgroup.procs; {glutton}", max_retries=0).id
    other = scene.queue.enqueue(scene.journal.command()).id
    group = scene.start()
    pids = group.pids()

    assert "signal KILL" == scene.until(first, "dead").reason
    scene.until(other, "completed")

    assert pids == group.pids()
    assert (None, 9) == (scene.queue.runs(first)[0].exit_code, scene.queue.runs(first)[0].signal)
    group.stop()
    scene.judge(acknowledged=[first, other])
