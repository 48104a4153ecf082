"""What was acknowledged is there: after kills, with a full disk, and as far as tests can tell after a power cut."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading

import pytest

from queuectl.db import open_store, sqlite_file
from queuectl.errors import JobNotFound, NotDurable, StoreUnavailable
from queuectl.job import JobFilter
from tests.store.build import T0, bring_to, completed, spec, specs, worker

ADD_FOR_EVER = """
import sys
from queuectl.db import open_store
from queuectl.jobspec import JobSpec
store = open_store(sys.argv[1])
while True:
    print(*store.add([JobSpec("true", "/")]), flush=True)
"""

HANG_IN_A_TRANSACTION = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE queues SET pending = 99")
db.execute("DELETE FROM jobs")
print("in", flush=True)
sys.stdin.readline()
"""


# -- kills, full disks, read-only -------------------------------------------------------------


def test_a_process_killed_in_a_transaction_leaves_no_trace(path, store, start):
    """Its half-done writing is gone, its lock too."""
    store.add(specs(3), T0)
    process = start(HANG_IN_A_TRANSACTION, path)
    assert "in\n" == process.stdout.readline()

    process.kill()
    process.wait()

    assert ["job4"] == store.add([spec()], T0)
    assert (4, []) == (len(store.jobs(JobFilter())), store.check())


@pytest.mark.parametrize("lines", [1, 20, 77])
def test_what_was_acknowledged_survives_a_kill(path, store, start, lines):
    """Every id that a killed enqueuer printed is a job, and at most one that it could not print any more."""
    process = start(ADD_FOR_EVER, path)
    printed = [process.stdout.readline().strip() for _ in range(lines)]
    process.kill()
    printed += process.stdout.read().split()  # communicate() would pass over what readline() had read ahead

    stored = [job.id for job in store.jobs(JobFilter(), limit=100_000)]

    assert printed == stored[: len(printed)]
    assert len(stored) - len(printed) in (0, 1)
    assert [f"job{len(stored) + 1}"] == store.add([spec()], T0)


def test_a_full_disk_changes_nothing(store):
    """The batch is refused as a whole with a sentence; with room again all goes on, and no number is missing."""
    store.add([spec()], T0)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(StoreUnavailable, match="disk of .* is full; nothing was changed"):
        store.add([spec("x" * 5000) for _ in range(100)], T0)
    store._db.execute(f"PRAGMA max_page_count = {pages + 10_000}")

    assert ["job2"] == store.add([spec()], T0)
    assert [] == store.check()


def test_a_store_that_cannot_be_written_says_so(store):
    """Looking goes on; writing is refused with a sentence."""
    store.add([spec()], T0)
    store._db.execute("PRAGMA query_only = 1")

    with pytest.raises(StoreUnavailable, match="cannot write to .* read-only"):
        store.add([spec()], T0)
    assert "pending" == store.get("job1").state


# -- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """Collect the inode of every file that is synced."""
    inodes = []
    real = sqlite_file._fdatasync

    def record(descriptor):
        inodes.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(sqlite_file, "_fdatasync", record)
    return inodes


WRITES = {
    "add": lambda store: store.add([spec()], T0),
    "cancel": lambda store: store.cancel(["job1"], T0),
    "retry": lambda store: store.retry(["over"], now=T0),
    "edit": lambda store: store.edit("job1", {"priority": 1}, T0),
    "pause": lambda store: store.set_paused("default", True),
    "limit": lambda store: store.set_limit("default", 1),
    "setting": lambda store: store.set_setting("lease", "40"),
    "prune": lambda store: store.prune(JobFilter()),
    "reset": lambda store: store.reset(),
    "release": lambda store: store.release_lost("gone", 3, T0),
}


@pytest.mark.parametrize("verb", sorted(WRITES))
def test_an_answer_means_that_the_disk_has_it(path, store, synced, verb):
    """Whoever reads the acknowledgement may pull the plug: the WAL was synced before the verb returned."""
    bring_to(store, "cancelled", "over")
    store.add([spec()], T0)
    synced.clear()

    WRITES[verb](store)

    assert os.stat(path + "-wal").st_ino in synced


@pytest.fixture
def unsyncable(store):
    """Have each sync of *store* fail: a pipe cannot be synced."""
    ends = os.pipe()
    store.sync()  # opens the log
    os.dup2(ends[1], store._wal)
    yield store
    for end in ends:
        os.close(end)


@pytest.mark.posix
@pytest.mark.parametrize("verb", sorted(set(WRITES) - {"release"}))  # that one finds nothing to change
def test_what_cannot_be_synced_is_not_told_as_refused(path, unsyncable, verb):
    """The change stands and all see it; whoever tried again would have a job twice."""
    with contextlib.closing(open_store(path)) as other:
        bring_to(other, "cancelled", "over")
        other.add([spec()], T0)
        other.changed()

        with pytest.raises(NotDurable, match="The store has .* all the same"):
            WRITES[verb](unsyncable)

        assert other.changed()


@pytest.mark.posix
def test_jobs_that_cannot_be_synced_are_named(path, unsyncable):
    """One, several, and those that came over the caller's own connection."""
    with pytest.raises(NotDurable, match=r"The store has job1 all the same"):
        unsyncable.add([spec()], T0)
    with pytest.raises(NotDurable, match=r"The store has 3 jobs \(job2 \.\. job4\) all the same"):
        unsyncable.add(specs(3), T0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as own:
        with pytest.raises(NotDurable, match=r"The store has job5 all the same"):
            unsyncable.add_within(own, [spec()])

    assert ["job1", "job2", "job3", "job4", "job5"] == [job.id for job in unsyncable.jobs(JobFilter())]


def test_a_refused_write_is_not_worth_a_sync(store, synced):
    """Nothing was written, so nobody waits for the disk."""
    with pytest.raises(JobNotFound):
        store.cancel(["nope"], T0)

    assert [] == synced


def test_a_worker_that_comes_and_idles_and_goes_needs_no_disk(store, synced):
    """After a cut of the power, its row would tell of nobody. Only the first one of a boot leaves a mark of that."""
    store.register(worker("w0", host_id="m:boot:1"))
    synced.clear()

    store.register(worker("w1", host_id="m:boot:1"))
    assert store.renew("w1", 30.0, 1.0)
    store.unregister("w1")

    assert [] == synced


def test_the_ends_of_runs_are_on_the_disk_after_a_sync(path, store, synced):
    """``claim`` and ``finish`` do not wait for the disk; ``sync`` does."""
    store.add([spec()], T0)
    synced.clear()
    store.finish("w1", [completed(store.claim("w1", 1, (), T0)[0])], now=T0)
    before = list(synced)

    store.sync()

    assert ([], [os.stat(path + "-wal").st_ino]) == (before, synced)


@pytest.mark.parametrize(("asked", "waits"), [("NORMAL", False), ("normal", False), ("full", True), ("", True)])
def test_one_switch_trades_power_cuts_for_speed(path, synced, monkeypatch, asked, waits):
    """QUEUECTL_SYNCHRONOUS=normal, and nothing else, leaves the syncing to the operating system."""
    monkeypatch.setenv("QUEUECTL_SYNCHRONOUS", asked)
    with contextlib.closing(open_store(path)) as store:
        store.add([spec()], T0)

    assert waits == bool(synced)


def descriptors():
    """Return those of this process; on Windows, those of its C library, as the log's is one."""
    found = []
    for fd in range(4096):
        try:
            os.fstat(fd)
            found.append(fd)
        except OSError:
            pass
    return found


def test_two_threads_that_sync_first_open_the_log_once(path):
    """A worker's thread and its loop: no descriptor is left when the store is closed."""
    open_store(path).close()
    before = descriptors()
    for _ in range(100):
        store = open_store(path)
        store.settings()  # opens the log
        together = threading.Barrier(2)

        def sync(store=store, together=together):
            together.wait()
            store.sync()

        threads = [threading.Thread(target=sync) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.close()

    assert before == descriptors()
