"""A store's file, copied while its workers run, has their entries: whoever works on the copy leaves them alone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from queuectl import Queue, recovery
from queuectl.runner.identity import host_id, process_started
from tests.process.scene import Group, Scene, alive
from tests.store.build import worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process has open is read from /proc")

Cli = Callable[..., Any]


@pytest.fixture
def group(scene: Scene) -> Iterator[Group]:
    """A group with one running job, and a short lease, so that a silent worker counts as hung soon."""
    scene.queue.set_setting("lease", "2")
    scene.queue.enqueue("[ -e copied ] || { touch begun; exec sleep 60; }")
    group = scene.start()
    scene.eventually(lambda: Path("begun").exists(), what="the command")  # which has looked for the other file
    yield group
    scene.queue.stop_workers(now=True)
    assert 0 == group.wait().code


@pytest.fixture
def copy(scene: Scene, group: Group) -> str:
    """A copy of the store, made as a backup is."""
    path = str(scene.folder / "copy.db")
    with closing(sqlite3.connect(scene.queue.store.location)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def untouched(scene: Scene, group: Group) -> None:
    """The original's worker and its one run are as they were."""
    assert [1] == [run.number for run in scene.queue.runs("job1")]
    assert "processing" == scene.state("job1")
    assert all(map(alive, [group.pid, *group.pids()]))


def test_a_worker_of_the_copy_leaves_the_originals_alone(scene: Scene, group: Group, copy: str, cli: Cli) -> None:
    """It takes the job for lost and runs it again in its own store, which has an id of its own from then on."""
    (before,) = group.workers()
    Path("copied").touch()

    cli("--db", copy, "worker", "start", "--drain", code=0)

    with Queue(copy, create=False) as other:
        assert ["lost", "completed"] == [run.state for run in other.runs("job1")]
        assert scene.queue.store.store_id != other.store.store_id
        assert [] == other.store.workers()
        assert [] == other.check()
    untouched(scene, group)
    assert [before.id] == [worker.id for worker in group.workers()]


def test_a_daemon_of_the_copy_outlives_leases_beside_it(scene: Scene, group: Group, copy: str, cli: Cli) -> None:
    """The time after which it would end a hung worker passes; each group stops alone."""
    Path("copied").touch()
    store_id = scene.queue.store.store_id
    cli("--db", copy, "worker", "start", "--daemon", code=0)
    with Queue(copy, create=False) as other:
        other.wait("job1", timeout=30)
        (worker,) = other.workers()
        begun = worker.renewed_mono_s
        scene.eventually(lambda: other.store.workers()[0].renewed_mono_s > begun + 6, timeout=30, what="three leases")

        untouched(scene, group)
        cli("--db", copy, "worker", "stop", code=0)
        assert [] == other.workers()
    untouched(scene, group)
    with Queue(create=False) as again:
        assert store_id == again.store.store_id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("worker stop", "No workers are running.\n"),
        ("worker stop --now", "No workers are running.\n"),
        ("worker stop --all-hosts", "No workers are running.\n"),
        ("reset --yes", "Queue reset.\n"),
    ],
)
def test_a_stop_in_the_copy_is_not_for_the_originals(
    scene: Scene, group: Group, copy: str, cli: Cli, words: str, said: str
) -> None:
    """Nobody works there; the same for what stops workers on its way."""
    assert said == cli("--db", copy, *words.split(), code=0).out

    untouched(scene, group)


def test_who_looks_into_the_copy_sees_no_workers(scene: Scene, group: Group, copy: str, cli: Cli) -> None:
    """And changes nothing; ``doctor`` says what it is."""
    before = Path(copy).read_bytes()

    assert [] == json.loads(cli("--db", copy, "status", "--json", code=0).out)["workers"]
    assert "" == cli("--db", copy, "worker", "list", code=0).out
    told = cli("--db", copy, "doctor", code=1).out

    pids = f"(pid {group.pid}, {group.pids()[0]})"
    assert 1 == told.count(f"this is a copy of another store, whose workers and supervisors are running {pids}.")
    assert before == Path(copy).read_bytes()
    untouched(scene, group)


def test_a_store_that_was_not_copied_keeps_its_id(scene: Scene, group: Group, cli: Cli) -> None:
    """However many groups come and go beside one that runs."""
    store_id = scene.queue.store.store_id

    cli("worker", "start", "--daemon", code=0)
    second = scene.start()
    assert 3 == len(scene.queue.workers())
    assert 0 == second.stop().code

    with Queue(create=False) as again:
        assert store_id == again.store.store_id
    untouched(scene, group)


def test_a_worker_that_is_just_killed_is_no_strangers(scene: Scene) -> None:
    """Its files go one by one for who looks at them, and some of the looks fall in between."""
    store = scene.queue.store
    for _ in range(100):
        words = ["sh", "-c", 'exec 3<"$0"; echo; exec cat', store.location]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found = {store.is_open_in(process.pid)}
            killer = threading.Thread(target=process.kill)
            killer.start()
            while process.poll() is None:
                found.add(store.is_open_in(process.pid))
            killer.join()
        assert False not in found


def test_a_worker_that_is_just_leaving_is_no_strangers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has closed the store, and its entry is still there, as it could not be removed."""
    monkeypatch.setattr(recovery, "ENDING_S", 2.0)
    store, store_id = scene.queue.store, scene.queue.store.store_id
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        started = process_started(process.pid)
        store.register(worker("left", host_id=host_id(), pid=process.pid, pid_started=started))
        assert recovery.is_stranger(store.workers()[0], store)
        end = threading.Timer(0.2, process.kill)
        end.start()

        recovery.disown_strangers(store)

        end.join()
    assert store_id == store.store_id
    assert ["left"] == [row.id for row in store.workers()]
    recovery.sweep(store)
